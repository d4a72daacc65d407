"""The beginning of some texts as windows of tokens, for calibrating and measuring."""

from collections.abc import Sequence
from pathlib import Path

from nemo_bielik.data.text import read_documents
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import DataError


def text_windows(
    model: Path, texts: Sequence[Path], sequence_length: int, tokens: int
) -> list[list[int]]:
    """Return windows of `sequence_length` token ids, `tokens` in all, from the texts' beginning.

    Documents follow each other, each with its ``<s>`` and ``</s>``. Raises `DataError` if there
    are fewer.
    """
    tokenizer = TextTokenizer.open(model)
    ids: list[int] = []
    for path in texts:
        for document in read_documents(path):
            ids += [tokenizer.bos_id, *tokenizer.encode_batch([document])[0], tokenizer.eos_id]
            if len(ids) >= tokens:
                count = tokens // sequence_length * sequence_length
                starts = range(0, count, sequence_length)
                return [ids[start : start + sequence_length] for start in starts]
    raise DataError(
        f"{', '.join(map(str, texts))}: holds {len(ids):,} tokens, {tokens:,} are asked for; give "
        "more text or ask for fewer"
    )
