"""A chat template, a tokenizer of whole words and a conversation marked by hand."""

import json
from pathlib import Path
from typing import Any

#: As most models write a turn; tools come first, calls are written as JSON.
TEMPLATE = """\
{{- bos_token }}
{%- if tools %}{{ '<|im_start|>system\\nTools : ' + tools[0]['name'] + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}BEGIN{{ message['content'] or '' }}
{%- for call in message.get('tool_calls', []) %}{{ ' <call> ' + call['function'] }}{% endfor %}
{{- '<|im_end|>' }}END
{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
PLAIN = TEMPLATE.replace("BEGIN", "").replace("END", "")
MARKED = TEMPLATE.replace("BEGIN", "{% generation %}").replace("END", "{% endgeneration %}")
#: The span ends with a line break, which no token holds.
MARKED_TO_THE_LINE_END = TEMPLATE.replace("BEGIN", "{% generation %}").replace(
    "{{- '<|im_end|>' }}END", "{{- '<|im_end|>\\n' }}{% endgeneration %}"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
WORDS = "system user assistant tool Tools weather What is it Look <call> rain It rains . ? : Thanks"

CONVERSATION: dict[str, Any] = {
    "tools": [{"name": "weather"}],
    "messages": [
        {"role": "user", "content": "What is it ?"},
        {"role": "assistant", "content": "Look .", "tool_calls": [{"function": "weather"}]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains ."},
        {"role": "user", "content": "Thanks"},
    ],
}
#: Marked by hand: what stands in [brackets] is learned.
MARKS = """
<s> <|im_start|> system Tools : weather <|im_end|>
<|im_start|> user What is it ? <|im_end|>
<|im_start|> assistant [ Look . <call> weather <|im_end|> ]
<|im_start|> tool rain <|im_end|>
<|im_start|> assistant [ It rains . <|im_end|> ]
<|im_start|> user Thanks <|im_end|>
"""


def read_marks(text: str) -> list[tuple[str, int]]:
    """Return (token, whether it is learned)."""
    found, learned = [], 0
    for word in text.split():
        if word in "[]":
            learned = int(word == "[")
        else:
            found.append((word, learned))
    return found


def write_tokenizer(directory: Path, template: str | None) -> Path:
    """A tokenizer of whole words that knows five special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = dict.fromkeys([*SPECIAL, *WORDS.split()])
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "additional_special_tokens": SPECIAL[3:],
    }
    settings |= {"chat_template": template} if template else {}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def write_lines(path: Path, *records: Any) -> Path:
    """Write JSON lines; texts as they are, half surrogate pairs (``\udcbf``) as that one byte."""
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    return path


def messages(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}
