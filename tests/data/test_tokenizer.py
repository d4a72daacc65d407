"""A trained tokenizer is exact, the same every time, and readable by transformers."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_bielik.data.tokenizer import (
    TextTokenizer,
    TokenizerConfig,
    load_tokenizer,
    same_tokenizer,
    train_tokenizer,
)
from nemo_bielik.errors import CheckpointError, ConfigError, DataError, StorageError
from nemo_bielik.manifest import Manifest

PANGRAM = "Pchnąć w tę łódź jeża lub ośm skrzyń fig. PÓJDŹŻE, KIŃ TĘ CHMURNOŚĆ W GŁĄB FLASZY!"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of random Polish-looking words, enough for some hundreds of merges."""
    rng = random.Random(0)
    letters = "aąbcćdeęfghijklłmnńoóprsśtuwyzźż"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(200)]
    sentences = [" ".join(rng.choices(words, k=8)) + "." for _ in range(400)]
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in sentences]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 400 tokens."""
    output = tmp_path_factory.mktemp("trained") / "tokenizer"
    train_tokenizer(TokenizerConfig(inputs=[corpus], output=output, vocab_size=400))
    return output


def copied(trained: Path, directory: Path) -> Path:
    shutil.copytree(trained, directory)
    return directory


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))


def test_the_vocabulary_is_exact_and_starts_with_the_special_tokens(trained):
    tokenizer = TextTokenizer.open(trained)
    assert tokenizer.vocab_size == tokenizer.backend.get_vocab_size() == 400
    assert [tokenizer.backend.id_to_token(i) for i in range(3)] == ["<unk>", "<s>", "</s>"]
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert Manifest.load(trained).results["vocab_size"] == 400


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_round_trips_without_special_tokens(trained, text):
    tokenizer = TextTokenizer.open(trained)
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.decode(ids) == text
    assert not {0, 1, 2} & set(ids)


@pytest.mark.parametrize("text", [PANGRAM, "koniec</s> albo <s>nie", "", " ", "\x00\n\t  x"])
def test_awkward_text_round_trips(trained, text):
    tokenizer = TextTokenizer.open(trained)
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.decode(ids) == text
    assert not {0, 1, 2} & set(ids)


def test_transformers_reads_the_same_tokenizer(trained):
    theirs, ours = load_tokenizer(trained), TextTokenizer.open(trained)
    (ids,) = ours.encode_batch([PANGRAM])
    encoded = theirs(PANGRAM)
    assert encoded["input_ids"] == [1, *ids]
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert theirs.decode(ids) == PANGRAM
    assert len(theirs) == 400 and theirs.pad_token is None
    assert (theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2)


def test_another_process_writes_the_same_bytes(corpus, trained, tmp_path):
    command = [sys.executable, "-m", "nemo_bielik", "tokenizer", "--inputs", str(corpus)]
    output = tmp_path / "again"
    subprocess.run([*command, "--output", str(output), "--vocab-size", "400"], check=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (output / name).read_bytes() == (trained / name).read_bytes()


def test_a_second_run_is_skipped_and_another_one_refused(corpus, trained):
    before = (trained / "tokenizer.json").stat().st_mtime_ns
    train_tokenizer(TokenizerConfig(inputs=[corpus], output=trained, vocab_size=400))
    assert (trained / "tokenizer.json").stat().st_mtime_ns == before
    with pytest.raises(StorageError, match="another setting vocab_size"):
        train_tokenizer(TokenizerConfig(inputs=[corpus], output=trained, vocab_size=300))


def test_a_text_too_small_says_what_can_be_reached(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("ala ma kota, ala ma psa", encoding="utf-8")
    output = tmp_path / "tokenizer"
    with pytest.raises(DataError) as caught:
        train_tokenizer(TokenizerConfig(inputs=[text], output=output, vocab_size=400))
    assert list(tmp_path.iterdir()) == [text]
    reachable = int(str(caught.value).rpartition(" ")[2])
    train_tokenizer(TokenizerConfig(inputs=[text], output=output, vocab_size=reachable))
    assert TextTokenizer.open(output).vocab_size == reachable


def test_bad_settings_are_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match="at least 259"):
        TokenizerConfig(inputs=[corpus], output=tmp_path, vocab_size=258)
    with pytest.raises(ConfigError, match="inputs is empty"):
        TokenizerConfig(inputs=[], output=tmp_path)


def test_unusable_directories_are_named(trained, tmp_path):
    with pytest.raises(CheckpointError, match="no such tokenizer directory"):
        TextTokenizer.open(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)
    damaged = copied(trained, tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(CheckpointError, match="damaged tokenizer"):
        TextTokenizer.open(damaged)
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        load_tokenizer(damaged)
    (damaged / "tokenizer_config.json").write_text("{")
    shutil.copy(trained / "tokenizer.json", damaged)
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        TextTokenizer.open(damaged)


def test_unknown_special_tokens_are_named(trained, tmp_path):
    directory = copied(trained, tmp_path / "a")
    edit(directory / "tokenizer_config.json", eos_token="<koniec>")
    with pytest.raises(CheckpointError, match="eos_token is '<koniec>', which"):
        TextTokenizer.open(directory)
    edit(directory / "tokenizer_config.json", eos_token={"content": "</s>"})
    assert TextTokenizer.open(directory).eos_id == 2


def test_equal_tokenizers_are_the_same(trained, tmp_path):
    same_tokenizer(trained, copied(trained, tmp_path / "a"))
    same_tokenizer(tmp_path, tmp_path)  # neither has one


def test_the_first_difference_is_named(corpus, trained, tmp_path):
    smaller = tmp_path / "smaller"
    train_tokenizer(TokenizerConfig(inputs=[corpus], output=smaller, vocab_size=300))
    with pytest.raises(CheckpointError, match="400 tokens in the first and 300 in the second"):
        same_tokenizer(trained, smaller)
    other = copied(trained, tmp_path / "other")
    edit(other / "tokenizer_config.json", eos_token="<unk>")
    with pytest.raises(CheckpointError, match="eos_id is 2 in the first and 0 in the second"):
        same_tokenizer(trained, other)
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        same_tokenizer(trained, tmp_path)


def test_a_token_with_another_id_is_named(trained, tmp_path):
    other = copied(trained, tmp_path / "other")
    value = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = value["model"]["vocab"]
    first, second = (token for token, number in vocabulary.items() if number in (5, 9))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="is 5 in the first and is 9 in the second"):
        same_tokenizer(trained, other)


def test_the_chat_template_marks_what_the_assistant_says(trained):
    """A conversation with tools and calls, its learned part marked by hand in brackets."""
    from nemo_bielik.data.chat import ChatTokenizer

    messages = [
        {"role": "system", "content": "Mów krótko."},
        {"role": "user", "content": "Jaka jest pogoda?"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "pogoda"}]},
        {"role": "tool", "content": "deszcz"},
        {"role": "assistant", "content": "Pada deszcz."},
    ]
    marked = (
        '<s>tools\n[{"name": "pogoda"}]</s><s>system\nMów krótko.</s>'
        "<s>user\nJaka jest pogoda?</s>"
        '<s>assistant\n⟦\n{"name": "pogoda"}</s>⟧<s>tool\ndeszcz</s>'
        "<s>assistant\n⟦Pada deszcz.</s>⟧"
    )
    line = json.dumps({"messages": messages, "tools": [{"name": "pogoda"}]})
    tokenizer = ChatTokenizer.open(trained)
    [(ids, loss)], _ = tokenizer.encode(line, "line 1")
    decode = tokenizer.tokenizer.decode
    assert decode(ids) == marked.replace("⟦", "").replace("⟧", "")
    learned = decode([i for i, counts in zip(ids, loss, strict=True) if counts])
    assert learned == "".join(part.partition("⟧")[0] for part in marked.split("⟦")[1:])
