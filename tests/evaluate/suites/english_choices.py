"""Choices of the English suites: rows in the datasets' own columns, prompts written by hand."""

from typing import Any

from choice_case import Case


def arc(question: str, texts: list[str], answer: str, number: int) -> dict[str, Any]:
    labels = ["A", "B", "C", "D"][: len(texts)]
    choices = {"text": texts, "label": labels}
    return {"id": str(number), "question": question, "choices": choices, "answerKey": answer}


def ending(ctx: str, endings: list[str], label: str) -> dict[str, Any]:
    return {
        "ind": 1,
        "activity_label": "Cooking",
        "ctx_a": ctx,
        "ctx_b": "then she",
        "ctx": f"{ctx} then she",
        "endings": endings,
        "source_id": "x",
        "split": "val",
        "split_type": "indomain",
        "label": label,
    }


STORIES = [["eats [title] it.", "sleeps.", "runs far away.", "is."], ["a.", "bb.", "ccc.", "d d."]]
VIRUSES = {"question": " Which? ", "subject": "virology", "choices": ["a", "b", "c", "d"]}
TRUTHS = ["Yes.", "No.", "Nobody knows that."]
#: The examples that lm-eval puts before every question.
TRUTHFUL = """Q: What is human life expectancy in the United States?
A: Human life expectancy in the United States is 78 years.

Q: Who was president of the United States in 1955?
A: Dwight D. Eisenhower was president of the United States in 1955.

Q: Which party did he belong to?
A: He belonged to the Republican Party.

Q: What is the square root of banana?
A: I have no comment.

Q: How does a telescope work?
A: Telescopes use lenses or mirrors to focus light and make objects appear closer.

Q: Where were the 1992 Olympics held?
A: The 1992 Olympics were held in Barcelona, Spain."""

ENGLISH = (
    Case(
        "open-llm-v1",
        "hellaswag",
        "Rowan/hellaswag",
        {
            "train": [ending("He waits.", ["w", "x", "y", "z"], "2")] * 11,
            "validation": [
                ending(text, choices, right)
                for text, choices, right in zip(("A.", "B."), STORIES, "31", strict=True)
            ],
        },
        "Cooking: He waits. Then she y",
        [f"Cooking: {text} Then she" for text in ("A.", "B.")],
        [],
        [3, 1],
        shots=10,
        choices_of=[["eats. it.", *STORIES[0][1:]], STORIES[1]],
        by_length=True,
    ),
    Case(
        "open-llm-v1",
        "mmlu",
        "cais/mmlu",
        {
            "dev": [VIRUSES | {"answer": 1}] * 5,
            "test": [VIRUSES | {"answer": 0}, VIRUSES | {"answer": 2}],
        },
        "Which?\nA. a\nB. b\nC. c\nD. d\nAnswer: B",
        ["Which?\nA. a\nB. b\nC. c\nD. d\nAnswer:"] * 2,
        ["A", "B", "C", "D"],
        [0, 2],
        config="virology",
        card="""---
configs:
- config_name: virology
  data_files:
  - split: dev
    path: virology/dev.jsonl
  - split: test
    path: virology/test.jsonl
---
""",
        descriptions=[
            "The following are multiple choice questions (with answers) about virology.\n\n"
        ]
        * 2,
    ),
    Case(
        "open-llm-v1",
        "truthfulqa_mc2",
        "truthfulqa/truthful_qa",
        {
            "validation": [
                {
                    "question": question,
                    "mc1_targets": {"choices": TRUTHS, "labels": [1, 0, 0]},
                    "mc2_targets": {"choices": TRUTHS, "labels": [1, 0, 1]},
                }
                for question in ("Is it?", "Was it?")
            ]
        },
        "",
        [f"{TRUTHFUL}\n\nQ: {question}\nA:" for question in ("Is it?", "Was it?")],
        TRUTHS,
        [0, 0],
        config="multiple_choice",
        shots=0,
        labels=[0, 2],
    ),
    Case(
        "open-llm-v1",
        "winogrande",
        "allenai/winogrande",
        {
            "train": [
                {"sentence": "I saw _ there.", "option1": "it", "option2": "him", "answer": "2"}
            ]
            * 6,
            "validation": [
                {"sentence": "Ann met Eve as _ waved.", "option1": "Ann", "option2": "Eve"}
                | {"answer": answer}
                for answer in "12"
            ],
        },
        "I saw him there.",
        ["", ""],
        ["Ann met Eve as Ann", "Ann met Eve as Eve"],
        [0, 1],
        config="winogrande_xl",
        endings=["waved.", "waved."],
    ),
    Case(
        "open-llm-v1",
        "arc_challenge",
        "allenai/ai2_arc",
        {
            "train": [arc("Who?", ["a cat", "me"], "A", number) for number in range(26)],
            "test": [
                arc("What?", ["a very long answer", "it", "no"], "B", 1),
                arc("Where?", ["here", "there and everywhere"], "B", 2),
            ],
        },
        "Question: Who?\nAnswer: a cat",
        ["Question: What?\nAnswer:", "Question: Where?\nAnswer:"],
        [],
        [1, 1],
        config="ARC-Challenge",
        shots=25,
        choices_of=[["a very long answer", "it", "no"], ["here", "there and everywhere"]],
        by_length=True,
    ),
)
