"""A function for the lanes: a reference that another process is at work on."""

from typing import Any

from nemo_bielik.errors import StorageError


def refused(config: Any) -> str:
    """Return what `bielik reference` says while its work is held elsewhere."""
    from nemo_bielik import stages
    from nemo_bielik.align.reference import prepare, reference

    patience = stages._PATIENCE_SECONDS
    stages._PATIENCE_SECONDS = 0.1
    try:
        with stages.hold_work(config.output, prepare(config)):
            reference(config)
    except StorageError as error:
        return str(error)
    finally:
        stages._PATIENCE_SECONDS = patience
    return ""
