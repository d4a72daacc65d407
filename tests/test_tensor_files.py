"""Raw reading of safetensors: bits judged and rounded as torch does, blocks that miss nothing."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_bielik.errors import CheckpointError
from nemo_bielik.tensor_files import FORMATS, NewTensor, header_bytes, read_header


def torch_dtype(name):
    return getattr(torch, FORMATS[name].torch_name)


def of_bits(bits, name):
    return torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(torch_dtype(name))


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_bit_pattern_is_judged_as_torch_judges_it(name):
    bits = np.arange(2**16, dtype="<u2")
    wanted = torch.isfinite(of_bits(bits, name)).tolist()
    assert [FORMATS[name].all_finite(bits[n : n + 1]) for n in range(2**16)] == wanted
    finite = bits[np.array(wanted)]
    assert FORMATS[name].all_finite(finite)
    for odd in bits[~np.array(wanted)][::97]:
        assert not FORMATS[name].all_finite(np.append(finite, odd))


@pytest.mark.parametrize("name", ["F32", "F64"])
def test_limits_of_wide_types(name):
    limits = torch.finfo(torch_dtype(name))
    numbers = [0.0, -0.0, limits.max, limits.min, limits.tiny, -1.0]
    for odd in (float("inf"), float("-inf"), float("nan"), -float("nan")):
        for values, wanted in ((numbers, True), ([*numbers, odd], False), ([odd], False)):
            tensor = torch.tensor(values, dtype=torch_dtype(name))
            assert FORMATS[name].all_finite(tensor.numpy().view(FORMATS[name].raw)) is wanted


@pytest.mark.parametrize("factor", [1.0, (4096 / 3072) ** 0.5, 0.1])
@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_narrow_number_rounds_as_in_torch(name, factor):
    form, bits = FORMATS[name], np.arange(2**16, dtype="<u2")
    bits = bits[torch.isfinite(of_bits(bits, name)).numpy()]
    with np.errstate(over="ignore"):
        made = form.from_float64(form.to_float64(bits) * factor)
    wanted = (of_bits(bits, name).double() * factor).to(torch_dtype(name))
    assert torch.equal(of_bits(made, name), wanted)


@pytest.mark.parametrize("name", ["F32", "F64"])
def test_wide_numbers_round_as_in_torch(name):
    form, values = FORMATS[name], torch.randn(1000, dtype=torch_dtype(name))
    raw = values.numpy().view(form.raw)
    made = form.from_float64(form.to_float64(raw) * 1.1)
    assert torch.equal(of_bits(made, name), (values.double() * 1.1).to(values.dtype))


@pytest.mark.parametrize("block_bytes", [1, 28, 29, 70, None])
@pytest.mark.parametrize("shape", [(5, 7), (35,)])
def test_blocks_cover_a_tensor_in_order(tmp_path, shape, block_bytes):
    tensors = {"before": torch.randn(3), "wanted": torch.randn(shape), "after": torch.randn(3)}
    save_file(tensors, tmp_path / "a.safetensors")
    stored = read_header(tmp_path / "a.safetensors")["wanted"]
    blocks = [block.copy() for block in stored.row_blocks(block_bytes)]
    assert all(block.nbytes <= max(block_bytes or 10**6, 4 * block.shape[1]) for block in blocks)
    raw = np.concatenate(blocks)
    assert torch.equal(torch.from_numpy(raw.view("<f4")).reshape(shape), tensors["wanted"])


def test_a_header_of_ours_reads_in_the_library(tmp_path):
    tensors = [NewTensor("ąę", "F32", (2, 3)), NewTensor("b", "BF16", (5,))]
    values = [torch.randn(2, 3), torch.randn(5).bfloat16()]
    data = b"".join(value.view(torch.uint8).numpy().tobytes() for value in values)
    header = header_bytes(tensors)
    assert len(header) % 8 == 0
    (tmp_path / "a.safetensors").write_bytes(header + data)
    read = load_file(tmp_path / "a.safetensors")
    assert list(read) == ["ąę", "b"]
    assert torch.equal(read["ąę"], values[0])
    assert torch.equal(read["b"], values[1])


def test_a_file_cut_short_after_it_was_opened_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.randn(8)}, path)
    stored = read_header(path)["a"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="truncated; copy it again"):
        list(stored.row_blocks())
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        list(stored.row_blocks())


def test_an_unsupported_type_is_named(tmp_path):
    save_file({"a": torch.ones(8, dtype=torch.int8)}, tmp_path / "a.safetensors")
    stored = read_header(tmp_path / "a.safetensors")["a"]
    for use in (lambda: list(stored.row_blocks()), lambda: stored.to_write("a", (4,))):
        with pytest.raises(CheckpointError, match="a is stored as I8; supported are F64, F32"):
            use()


def test_offsets_that_contradict_the_shape_are_refused(tmp_path):
    entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}
    text = json.dumps({"a": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match="damaged safetensors header"):
        read_header(path)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_nothing_is_finite(name):
    assert FORMATS[name].all_finite(np.empty((0, 3), FORMATS[name].raw))
