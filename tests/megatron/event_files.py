"""What lies in the files of TensorBoard and Weights & Biases, read with their own readers."""

import json
from pathlib import Path
from typing import Any


def tensorboard_scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of every event, by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def wandb_history(file: Path) -> list[dict[str, Any]]:
    """Return the steps that an offline run holds, without what the service adds."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    store = DataStore()
    store.open_for_scan(str(file))
    steps = []
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        items = record.history.item if record.WhichOneof("record_type") == "history" else []
        values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
        if values:
            values.pop("_timestamp"), values.pop("_runtime")
            steps.append(values)
    return steps
