"""The streaming writer: bytes known before, hashes taken on the way, nothing half done."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nemo_bielik.errors import CheckpointError
from nemo_bielik.files import atomic_directory, file_sha256
from nemo_bielik.pruning import stream
from nemo_bielik.pruning.stream import lay_out, write_model
from nemo_bielik.tensor_files import NewTensor

TENSORS = [
    NewTensor("a", "BF16", (3, 5)),  # 30 bytes: what follows it would not be aligned
    NewTensor("b", "F32", (7,)),
    NewTensor("c", "BF16", (2, 2)),
    NewTensor("d", "F64", (3,)),
]
SMALL = {"config.json": b"{}\n", "notes.txt": "żółw".encode()}


def values(tensor):
    """Return the elements of a tensor as bytes that depend on its name."""
    generator = np.random.default_rng(ord(tensor.name))
    return np.frombuffer(generator.bytes(tensor.num_bytes), np.uint8)


def blocks(tensor):
    data = values(tensor)
    yield data[:6]
    yield data[6:].reshape(-1, 2)


@pytest.mark.parametrize("write_back_bytes", [20, 2**25])
@pytest.mark.parametrize(("shard_bytes", "count"), [(10**9, 1), (60, 2), (1, 4)])
def test_files_are_as_laid_out_and_hashed(
    tmp_path, monkeypatch, shard_bytes, count, write_back_bytes
):
    monkeypatch.setattr(stream, "WRITE_BACK_BYTES", write_back_bytes)
    layout = lay_out(TENSORS, SMALL, shard_bytes)
    hashes = write_model(layout, blocks, tmp_path)
    files = {path.name: path for path in tmp_path.iterdir()}
    assert hashes == {name: file_sha256(path) for name, path in files.items()}
    assert layout.num_bytes == sum(path.stat().st_size for path in files.values())
    assert len(layout.shards) == count == len(list(tmp_path.glob("*.safetensors")))
    for shard in layout.shards:
        assert files[shard.name].stat().st_size == shard.num_bytes
        read = load_file(files[shard.name])
        for tensor in shard.tensors:
            assert tuple(read[tensor.name].shape) == tensor.shape
            raw = read[tensor.name].contiguous().view(torch.uint8).numpy()
            assert raw.tobytes() == values(tensor).tobytes()


def test_hashing_alone_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout = lay_out(TENSORS, SMALL, 60)
    hashes = write_model(layout, blocks, None)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "output").mkdir()
    assert write_model(layout, blocks, tmp_path / "output") == hashes


def test_one_worker_keeps_the_order(tmp_path):
    tensors, seen = [NewTensor(f"t{number}", "F32", (2,)) for number in range(12)], []

    def noted(tensor):
        seen.append(tensor.name)
        return [np.zeros(2, "<u4")]

    write_model(lay_out(tensors, {}, 24), noted, tmp_path, workers=1)
    assert seen == [tensor.name for tensor in tensors]


def test_the_first_error_stops_the_other_shards(tmp_path):
    endless = NewTensor("endless", "F32", (10**12,))
    layout = lay_out([endless, NewTensor("bad", "F32", (1,)), endless], {}, 1)

    def broken(tensor):
        if tensor.name == "bad":
            raise CheckpointError("bad holds NaN")
        while True:
            yield np.zeros(1, "<u4")

    with pytest.raises(CheckpointError, match="bad holds NaN"):
        write_model(layout, broken, None)


INTERRUPTED = """
import sys, time
from pathlib import Path
import numpy as np
from nemo_bielik.files import atomic_directory
from nemo_bielik.pruning import stream
from nemo_bielik.pruning.stream import lay_out, write_model
from nemo_bielik.tensor_files import NewTensor

def endless(tensor):
    while True:
        print("writing", flush=True)
        yield np.zeros(1, "<u4")
        time.sleep(0.01)

with atomic_directory(Path(sys.argv[1])) as scratch:
    write_model(lay_out([NewTensor(name, "F32", (10**12,)) for name in "ab"], {}), endless, scratch)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_output_never_appears_and_can_be_made_again(tmp_path, number):
    output = tmp_path / "output"
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with child:
        assert child.stdout.readline().startswith(b"writing")
        os.kill(child.pid, number)
        child.stdout.read()
    assert child.returncode != 0
    assert not output.exists()
    if number == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
    with atomic_directory(output) as scratch:
        write_model(lay_out(TENSORS, SMALL), blocks, scratch)
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    assert {path.name for path in output.iterdir()} == {"model.safetensors", *SMALL}
