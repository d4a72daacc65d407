"""llama.cpp's quantiser: it makes every format of the table, and says what stops it."""

import resource

import numpy as np
import pytest

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import CheckpointError, StorageError
from nemo_bielik.quantize.formats import FORMATS
from nemo_bielik.quantize.gguf_file import write_gguf
from nemo_bielik.quantize.gguf_plan import plan_files, read_file
from nemo_bielik.quantize.llama_cpp import quantize_file

gguf = pytest.importorskip("gguf", reason="GGUF needs nemo-bielik[gguf]")
pytest.importorskip("cyllama", reason="GGUF needs nemo-bielik[gguf]")


@pytest.fixture(scope="module")
def by_hand(make_quantizable, tmp_path_factory):
    """A checkpoint, its exact GGUF file, and an importance matrix of ones."""
    source = Checkpoint.open(make_quantizable())
    path = tmp_path_factory.mktemp("by-hand") / "exact.gguf"
    write_gguf(source, "F32", path)
    shapes = read_file(path, FORMATS["F32"]).shapes
    layers = {name: shape for name, shape in shapes.items() if name.startswith("blk.")}
    return source, path, {name: np.ones(shape[-1]) for name, shape in layers.items()}


#: Of the formats that need an importance matrix one: building their tables takes seconds each.
MADE = [
    row.name
    for row in FORMATS.values()
    if row.maker != "gguf" and (not row.needs_importance or row.name == "IQ2_XXS")
]


@pytest.mark.parametrize("name", MADE)
def test_llama_cpp_makes_the_formats_of_the_table(by_hand, tmp_path, name):
    source, path, importance = by_hand
    wanted = FORMATS[name]
    (plan,) = plan_files(source, [wanted], has_importance=True)
    quantize_file(path, tmp_path / "q.gguf", wanted, importance, 1)
    made = read_file(tmp_path / "q.gguf", wanted)
    assert made.types == plan.types
    assert made.num_bytes == plan.num_bytes
    assert made.shares[wanted.block_type] > 0.2
    values = gguf.GGUFReader(tmp_path / "q.gguf").fields["general.file_type"].contents()
    assert values == wanted.file_type
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[wanted.block_type]]
    assert wanted.bits == 8 * size / block


@pytest.mark.parametrize("name", [row.name for row in FORMATS.values() if row.needs_importance])
def test_formats_that_need_an_importance_matrix_are_refused_without(by_hand, tmp_path, name):
    _, path, _ = by_hand
    with pytest.raises(CheckpointError, match=f"cannot make {name}"):
        quantize_file(path, tmp_path / "q.gguf", FORMATS[name], None, 1)


def test_a_disk_that_fills_while_llama_cpp_writes_is_told_as_such(by_hand, tmp_path):
    _, path, _ = by_hand
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write Q8_0 \(.*\); free some space"):
            quantize_file(path, tmp_path / "q.gguf", FORMATS["Q8_0"], None, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
