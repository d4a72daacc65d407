"""A Hugging Face directory to an unquantised GGUF file, streamed.

The `gguf` library knows the format: keys, their types, names of tensors, alignment. What flows
through it is a few megabytes at a time, whatever the model's size.
"""

import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import yaml
from numpy.typing import NDArray

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import CheckpointError
from nemo_bielik.quantize.formats import FORMATS
from nemo_bielik.quantize.gguf_positions import context_length, rotary_factors, rotary_scaling
from nemo_bielik.quantize.gguf_tensors import GgufTensor, gguf_tensors, graph
from nemo_bielik.quantize.gguf_vocabulary import read_vocabulary
from nemo_bielik.tensors import tensor_rows

#: Called with the number of bytes written since the last call.
Progress = Callable[[int], object]
#: Written before the disk is first asked to keep it.
_SYNC_BYTES = 2**27
_ROPE_FACTORS = "rope_freqs.weight"


def write_gguf(
    source: Checkpoint, base: str, path: Path, progress: Progress | None = None, name: str = ""
) -> None:
    """Write `source` as a GGUF file whose matrices are stored as `base` (F32, F16 or BF16).

    Raises `CheckpointError` for what llama.cpp does not know, and for damaged weights.
    """
    tensors = gguf_tensors(source, base)
    writer = _writer(source, base, tensors, path, name)
    try:
        stream = _write_header(writer)
        for data in _extra_tensors(source).values():
            stream.write(data.tobytes())
            writer.write_padding(stream, data.nbytes)
        with ThreadPoolExecutor(1) as pool:
            disk = _EarlySync(stream, pool)
            for tensor in tensors:
                for block in tensor.blocks():
                    stream.write(block.data)
                    disk.wrote(block.nbytes)
                    if progress:
                        progress(block.nbytes)
                writer.write_padding(stream, tensor.num_bytes)
            disk.finish()
    finally:
        writer.close()


class _EarlySync:
    """Keep the disk busy while more is read; otherwise all of it waits for the last fsync."""

    def __init__(self, stream: Any, pool: Executor) -> None:
        self._stream, self._pool = stream, pool
        self._unsynced, self._running = 0, pool.submit(int)

    def wrote(self, count: int) -> None:
        """Take note of bytes written; raise the `OSError` that an earlier part ran into."""
        self._unsynced += count
        if self._unsynced >= _SYNC_BYTES and self._running.done():
            self._running.result()
            self._stream.flush()
            self._unsynced = 0
            self._running = self._pool.submit(_sync, self._stream.fileno())

    def finish(self) -> None:
        """Wait for the part under way."""
        self._running.result()


def _sync(number: int) -> int:
    os.fdatasync(number)
    return 0


def write_outline(source: Checkpoint, base: str, path: Path) -> None:
    """Write the file of `write_gguf` with its header and a hole for the weights, which costs none.

    llama.cpp can say from it which type each tensor would get.
    """
    writer = _writer(source, base, gguf_tensors(source, base), path, "")
    try:
        stream = _write_header(writer)
        stream.truncate(stream.tell() + _data_bytes(source, base, writer.data_alignment))
    finally:
        writer.close()


def _writer(
    source: Checkpoint, base: str, tensors: list[GgufTensor], path: Path, name: str
) -> gguf.GGUFWriter:
    """Return a writer that knows metadata, vocabulary and every tensor's shape."""
    arch = source.arch
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[graph(arch)])
    writer.add_type("model")
    writer.add_name(name or source.directory.resolve().name)
    writer.add_file_type(FORMATS[base].file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_description(writer, source)
    _add_shape(writer, source)
    read_vocabulary(source).write(writer)
    for extra, data in _extra_tensors(source).items():
        writer.add_tensor_info(extra, data.shape, data.dtype, data.nbytes)
    for tensor in tensors:
        shape, kind = tensor.source.shape, tensor.kind
        writer.add_tensor_info(tensor.name, shape, np.dtype("<f4"), tensor.num_bytes, kind)
    return writer


def _write_header(writer: gguf.GGUFWriter) -> Any:
    """Write everything before the weights; return the stream."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    (stream,) = writer.fout
    writer.write_padding(stream, stream.tell())
    return stream


def _add_description(writer: gguf.GGUFWriter, source: Checkpoint) -> None:
    """Add the model's size, and its licence and languages if its README's metadata has them."""
    weights = sum(row.numel for row in tensor_rows(source.arch))
    writer.add_size_label(gguf.size_label(weights, weights, 0, 0))
    try:
        card = gguf.Metadata.load_model_card(source.directory)
    except (yaml.YAMLError, UnicodeError):
        raise CheckpointError(
            f"{source.directory / 'README.md'}: its metadata is not valid YAML; mend or remove it"
        ) from None
    if isinstance(licence := card.get("license"), str):
        writer.add_license(licence)
    languages = card.get("language")
    named = [languages] if isinstance(languages, str) else languages
    if isinstance(named, list) and named and all(isinstance(one, str) for one in named):
        writer.add_languages(named)


def _add_shape(writer: gguf.GGUFWriter, source: Checkpoint) -> None:
    arch: ModelArch = source.arch
    writer.add_context_length(context_length(source))
    writer.add_vocab_size(arch.vocab_size)
    writer.add_block_count(arch.num_layers)
    writer.add_embedding_length(arch.hidden_size)
    writer.add_feed_forward_length(arch.ffn_hidden_size)
    writer.add_head_count(arch.num_attention_heads)
    writer.add_head_count_kv(arch.num_query_groups)
    writer.add_key_length(arch.head_dim)
    writer.add_value_length(arch.head_dim)
    writer.add_rope_dimension_count(arch.head_dim)
    writer.add_rope_freq_base(arch.rope_theta)
    writer.add_layer_norm_rms_eps(arch.rms_norm_eps)
    kind, scaling = rotary_scaling(source)
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])


def _extra_tensors(source: Checkpoint) -> dict[str, NDArray[np.float32]]:
    """Return tensors that a GGUF file has and a checkpoint computes: Llama 3's rotary factors."""
    factors = rotary_factors(source)
    return {} if factors is None else {_ROPE_FACTORS: factors}


def _data_bytes(source: Checkpoint, base: str, alignment: int) -> int:
    sizes = [tensor.num_bytes for tensor in gguf_tensors(source, base)]
    sizes += [data.nbytes for data in _extra_tensors(source).values()]
    return sum(-(-size // alignment) * alignment for size in sizes)
