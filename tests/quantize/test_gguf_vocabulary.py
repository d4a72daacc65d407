"""llama.cpp tokenises a file's text as Hugging Face tokenises the model's."""

import json
import shutil

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

from nemo_bielik.align.preflight import Preflight
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.chat import ChatTokenizer
from nemo_bielik.data.tokenizer import load_tokenizer
from nemo_bielik.errors import CheckpointError
from nemo_bielik.quantize.gguf_file import write_gguf
from nemo_bielik.quantize.gguf_vocabulary import read_vocabulary
from nemo_bielik.quantize.llama_cpp import LlamaModel

for package in ("gguf", "cyllama"):
    pytest.importorskip(package, reason="GGUF needs nemo-bielik[gguf]")

ODD = [
    "",
    "  dwa  odstępy  ",
    "wiersz\n\n\tdrugi\r\n",
    "Zażółć gęślą jaźń — „1234567” …",
    "漢字 🦊 e\u0301",
    "it's 3.14!?",
]


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def both(request, make_quantizable, tmp_path_factory):
    """A model's Hugging Face tokenizer and llama.cpp's of its file."""
    directory = make_quantizable(request.param)
    path = tmp_path_factory.mktemp("vocabulary") / "m.gguf"
    write_gguf(Checkpoint.open(directory), "F16", path)
    return load_tokenizer(directory), LlamaModel(path, 64, 1)


def test_a_thousand_lines_of_polish_have_the_same_tokens(both, documents):
    tokenizer, llama = both
    assert len(documents) == 1000
    for text in documents:
        assert llama.tokenize(text, add_special=True) == tokenizer(text)["input_ids"], text


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_texts_have_the_same_tokens(both, text):
    tokenizer, llama = both
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert llama.tokenize(text) == expected


def test_conversations_have_the_same_tokens(both):
    tokenizer, llama = both
    talk = [
        {"role": "user", "content": "Gdzie jest Kraków?"},
        {"role": "assistant", "content": "Nad Wisłą."},
    ]
    text = tokenizer.apply_chat_template(talk, tokenize=False)
    expected = tokenizer.apply_chat_template(talk, tokenize=True)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in expected
    assert llama.tokenize(text) == expected
    assert llama.metadata("tokenizer.chat_template") == tokenizer.chat_template


#: As `conftest.CHAT`, with the assistant's part marked and its turn opened on request.
MARKED = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ message['content'] }}<|im_end|>{% endif %}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_an_assistant_as_fine_tuning_leaves_it_stops_where_its_turn_ends(
    make_quantizable, tokenizers, tmp_path, kind
):
    """Its chat template and both its ends, in transformers and in llama.cpp."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = tmp_path / "tokenizer"
    shutil.copytree(tokenizers[kind], source)
    (source / "chat_template.jinja").write_text(MARKED, encoding="utf-8")
    chat = ChatTokenizer.open(source)
    turn = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    directory = make_quantizable(kind)
    Preflight({}, chat, turn).complete(directory)

    tokenizer = AutoTokenizer.from_pretrained(directory)
    talk = [{"role": "user", "content": "Gdzie jest Kraków?"}]
    asked = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert asked.endswith("?<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer(asked, add_special_tokens=False, return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.generation_config.eos_token_id == sorted([tokenizer.eos_token_id, turn])

    write_gguf(Checkpoint.open(directory), "F16", tmp_path / "m.gguf")
    llama = LlamaModel(tmp_path / "m.gguf", 64, 1)
    assert llama.metadata("tokenizer.chat_template") == MARKED
    assert llama.tokenize(asked) == ids[0].tolist()
    assert llama.metadata("tokenizer.ggml.eos_token_id") == str(tokenizer.eos_token_id)
    assert llama.metadata("tokenizer.ggml.eot_token_id") == str(turn)
    ends = {token for token in range(llama.vocab_size) if llama._vocab.is_eog(token)}
    assert ends == {tokenizer.eos_token_id, turn}


def test_text_comes_back(both, documents):
    _, llama = both
    assert llama.detokenize(llama.tokenize(documents[0])).strip() == documents[0].strip()


def spoil(directory, edit):
    path = directory / "tokenizer.json"
    found = json.loads(path.read_text("utf-8"))
    edit(found)
    path.write_text(json.dumps(found), encoding="utf-8")
    return Checkpoint.open(directory)


def test_a_byte_that_is_missing_is_named(make_quantizable):
    def drop(found):
        del found["model"]["vocab"]["<0xC5>"]

    with pytest.raises(CheckpointError, match=r"lacks 1 of the 256 bytes \('<0xC5>' first\)"):
        read_vocabulary(spoil(make_quantizable("sentencepiece"), drop))


def test_a_split_without_a_name_is_refused(make_quantizable):
    def split(found):
        found["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": "x+"},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        }

    with pytest.raises(CheckpointError, match=r"no name in llama\.cpp"):
        read_vocabulary(spoil(make_quantizable(), split))


def rebuild(directory, **steps):
    """Give the `tokenizers` library's own tokenizer of a directory other steps, and save it."""
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    for name, step in steps.items():
        setattr(tokenizer, name, step)
    tokenizer.save(path)
    return Checkpoint.open(directory)


@pytest.mark.parametrize(
    "step",
    [
        normalizers.NFC(),
        normalizers.Lowercase(),
        normalizers.Sequence([normalizers.Prepend("XX")]),
    ],
    ids=["NFC", "Lowercase", "Prepend"],
)
def test_a_byte_level_tokenizer_that_changes_text_first_is_refused(make_quantizable, step):
    with pytest.raises(CheckpointError, match=r"changes text before it is split.*llama\.cpp would"):
        read_vocabulary(rebuild(make_quantizable(), normalizer=step))


@pytest.mark.parametrize(
    "more",
    [
        [normalizers.Replace(".", ",")],
        [normalizers.Prepend("▁"), normalizers.Replace(".", " "), normalizers.Replace(" ", "▁")],
        [normalizers.Prepend("XX"), normalizers.Replace(" ", "▁")],
        [normalizers.Replace(" ", "▁"), normalizers.Prepend("▁"), normalizers.NFKC()],
    ],
    ids=["another", "one more", "another prefix", "NFKC"],
)
def test_a_sentencepiece_tokenizer_that_changes_more_than_spaces_is_refused(make_quantizable, more):
    source = make_quantizable("sentencepiece")
    with pytest.raises(CheckpointError, match=r"expected are spaces written as '▁' alone"):
        read_vocabulary(rebuild(source, normalizer=normalizers.Sequence(more)))


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_space_that_llama_cpp_would_put_elsewhere_is_refused(make_quantizable, scheme):
    spaces = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = {"normalizer": None, "pre_tokenizer": spaces}
    with pytest.raises(CheckpointError, match=f"prepend_scheme='{scheme}', which llama"):
        read_vocabulary(rebuild(make_quantizable("sentencepiece"), **steps))


def test_spaces_by_metaspace_alone_have_the_same_tokens(make_quantizable, documents, tmp_path):
    spaces = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    directory = make_quantizable("sentencepiece")
    write_gguf(
        rebuild(directory, normalizer=None, pre_tokenizer=spaces), "F16", tmp_path / "m.gguf"
    )
    tokenizer, llama = load_tokenizer(directory), LlamaModel(tmp_path / "m.gguf", 64, 1)
    for text in [*documents[:100], *ODD, " jeden", "<|im_start|>user\nGdzie"]:
        assert llama.tokenize(text, add_special=True) == tokenizer(text)["input_ids"], text


def template(single):
    special = [("<s>", 1), ("</s>", 2), ("<|im_start|>", 550)]
    return processors.TemplateProcessing(single=single, special_tokens=special)


@pytest.mark.parametrize(
    "step",
    [
        template("<s> <s> $A"),
        template("<|im_start|> $A </s>"),
        template("</s> $A"),
        processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),
        processors.Sequence([template("<s> $A"), template("$A </s>")]),
    ],
    ids=["two", "another", "wrong side", "Roberta", "Sequence"],
)
def test_another_frame_around_a_text_is_refused(make_quantizable, step):
    with pytest.raises(CheckpointError, match=r"post_processor.* does something else than putting"):
        read_vocabulary(rebuild(make_quantizable(), post_processor=step))


@pytest.mark.parametrize("single", ["$A", "<s> $A", "$A </s>", "<s> $A </s>"])
def test_a_known_frame_gives_the_same_tokens(make_quantizable, tmp_path, single):
    source = rebuild(make_quantizable(), post_processor=template(single))
    write_gguf(source, "F16", tmp_path / "m.gguf")
    expected = load_tokenizer(source.directory)("Gdzie?")["input_ids"]
    assert LlamaModel(tmp_path / "m.gguf", 64, 1).tokenize("Gdzie?", add_special=True) == expected


def test_merges_that_llama_cpp_would_add_are_refused(make_quantizable):
    def drop(found):
        merges = found["model"]["merges"]
        made = ["".join(merge) for merge in merges]
        twice = next(piece for piece in made if made.count(piece) > 1)
        merges.pop(made.index(twice))

    with pytest.raises(CheckpointError, match=r"llama\.cpp would"):
        read_vocabulary(spoil(make_quantizable("sentencepiece"), drop))


def test_a_word_tokenizer_is_refused(make_quantizable, tokenizer_directory):
    directory = make_quantizable()
    (directory / "tokenizer.json").write_bytes(
        (tokenizer_directory / "tokenizer.json").read_bytes()
    )
    with pytest.raises(CheckpointError, match="is a WordLevel model"):
        read_vocabulary(Checkpoint.open(directory))
