"""Prompts have the length that was asked for, and beginnings of their own."""

import pytest

from nemo_bielik.bench.prompts import make_prompts
from nemo_bielik.data.tiny_polish.lexicon import load_lexicon
from nemo_bielik.data.tokenizer import TextTokenizer, TokenizerConfig, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    place = tmp_path_factory.mktemp("tokenizer")
    nouns = [" ".join(forms) for forms in _forms()]
    (place / "text.txt").write_text("\n\n".join(nouns), encoding="utf-8")
    config = TokenizerConfig(
        inputs=[place / "text.txt"], output=place / "tokenizer", vocab_size=400
    )
    train_tokenizer(config)
    return TextTokenizer.open(place / "tokenizer")


def _forms() -> list[list[str]]:
    return [[str(value) for value in vars(noun).values()] for noun in load_lexicon().nouns]


@pytest.mark.parametrize("tokens", [1, 17, 300])
def test_prompts_have_exactly_so_many_tokens(tokenizer: TextTokenizer, tokens: int) -> None:
    prompts = make_prompts(20, tokens, tokenizer, "seed")
    assert [len(ids) for ids in tokenizer.encode_batch(prompts)] == [tokens] * 20


def test_no_two_begin_alike_and_a_seed_gives_the_same_again(tokenizer: TextTokenizer) -> None:
    prompts = make_prompts(50, 40, tokenizer, "a")
    assert len({prompt[:40] for prompt in prompts}) == 50
    assert make_prompts(50, 40, tokenizer, "a") == prompts
    assert not set(make_prompts(50, 40, tokenizer, "b")) & set(prompts)


def test_without_a_tokenizer_a_token_is_reckoned_as_four_characters() -> None:
    assert [len(prompt) for prompt in make_prompts(3, 25, None, "a")] == [100] * 3
