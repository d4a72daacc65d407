"""Prompts of a chosen length in tokens, no two with the same beginning.

A server that keeps the keys and values of beginnings it has seen would answer a repeated prompt
faster than its first reader, so every request has a text of its own: Polish sentences of the
built-in grammar, drawn by a seed.
"""

from nemo_bielik.data.tiny_polish.grammar import Composer
from nemo_bielik.data.tiny_polish.lexicon import load_lexicon
from nemo_bielik.data.tiny_polish.narration import narration
from nemo_bielik.data.tokenizer import TextTokenizer

_CHARACTERS_PER_TOKEN = 4
_TRIES = 8


def make_prompts(number: int, tokens: int, tokenizer: TextTokenizer | None, seed: str) -> list[str]:
    """Return `number` texts of `tokens` tokens; without a tokenizer, of about as many."""
    composer = Composer(load_lexicon(), f"bench {seed}")
    return [_prompt(composer, tokens, tokenizer) for _ in range(number)]


def _prompt(composer: Composer, tokens: int, tokenizer: TextTokenizer | None) -> str:
    if tokenizer is None:
        return _text(composer, tokens * _CHARACTERS_PER_TOKEN)[: tokens * _CHARACTERS_PER_TOKEN]
    ids: list[int] = []
    characters = tokens * _CHARACTERS_PER_TOKEN
    text = ""
    while len(ids) < tokens + _TRIES:
        text += _text(composer, characters)
        ids = tokenizer.encode_batch([text])[0]
    # Cut between tokens, a text may be read as fewer: then a later cut is tried.
    for end in range(tokens, tokens + _TRIES):
        cut = tokenizer.decode(ids[:end])
        if len(tokenizer.encode_batch([cut])[0]) == tokens:
            return cut
    return tokenizer.decode(ids[:tokens])


def _text(composer: Composer, characters: int) -> str:
    sentences: list[str] = []
    while sum(map(len, sentences)) < characters:
        sentences.append(narration(composer) + " ")
        composer.forget()
    return "".join(sentences)
