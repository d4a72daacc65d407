"""The tasks of the Open PL LLM Leaderboard (Bielik 7B v0.1 report, section on evaluation).

Its list is SpeakLeash's ``lm_eval/tasks/benchmarks/polish.yaml``: nine classifications, each as a
choice by log-likelihood and as a written answer, PolQA three ways and PoQuAD. The prompts are ours.
"""

from nemo_bielik.evaluate.suites.suite import BELEBELE, BELEBELE_QUESTION, Task

_FORK = "speakleash/lm-evaluation-harness, lm_eval/tasks/"

#: name, dataset, category, metric, number of choices, where the columns are documented
_CLASSIFICATIONS = (
    (
        "polemo2_in",
        "allegro/klej-polemo2-in",
        "sentiment",
        "acc",
        4,
        "lm-evaluation-harness 0.4.13, tasks/polemo2/polemo2_in.yaml",
    ),
    (
        "polemo2_out",
        "allegro/klej-polemo2-out",
        "sentiment",
        "acc",
        4,
        "lm-evaluation-harness 0.4.13, tasks/polemo2/polemo2_out.yaml",
    ),
    ("8tags", "sdadas/8tags", "topic", "acc", 8, "schema unverified"),
    (
        "belebele_pl",
        BELEBELE,
        "reading",
        "acc",
        4,
        f"{_FORK}polish_belebele/belebele_mc.yaml",
    ),
    (
        "dyk",
        "allegro/klej-dyk",
        "question answering",
        "macro_f1",
        2,
        "the card of allegro/klej-dyk",
    ),
    ("ppc", "sdadas/ppc", "paraphrase", "acc", 3, "schema unverified"),
    (
        "psc",
        "allegro/klej-psc",
        "summaries",
        "macro_f1",
        2,
        f"{_FORK}polish_psc/psc_regex.yaml",
    ),
    ("cbd", "allegro/klej-cbd", "harmful speech", "macro_f1", 2, "schema unverified"),
    ("klej_ner", "allegro/klej-nkjp-ner", "named entities", "acc", 6, "schema unverified"),
)


def _classification(
    name: str, dataset: str, category: str, metric: str, choices: int, schema: str, written: bool
) -> Task:
    ending = "_written" if written else ""
    if written and metric == "acc":
        metric = "exact_match"
    return Task(
        name=name + ending,
        definition=f"pl_{name.removesuffix('_pl')}{ending}.yaml",
        harness=f"bielik_{name}{ending}",
        dataset=dataset,
        config="pol_Latn" if dataset == BELEBELE else None,
        question=BELEBELE_QUESTION if dataset == BELEBELE else (),
        split="test",
        metric=metric,
        score_from="exact_match" if written else "acc",
        score_filter="first-word" if written else "none",
        kind="text" if written else "choice",
        language="pl",
        category=category,
        few_shot=5,
        # a written answer can be none of the choices, and F1 depends on how often a class is right
        baseline=1 / choices if metric == "acc" else 0.0,
        schema=schema,
    )


def _answers(name: str, dataset: str, split: str, schema: str) -> Task:
    return Task(
        name=name,
        definition=f"pl_{name}.yaml",
        harness=f"bielik_{name}",
        dataset=dataset,
        split=split,
        metric="accepted",
        score_from="accepted",
        kind="text",
        language="pl",
        category="question answering",
        few_shot=5,
        schema=schema,
    )


_POLQA = f"{_FORK}polish_polqa/polqa_open_book.yaml"

OPEN_PL_TASKS: tuple[Task, ...] = (
    *(
        _classification(*row, written=written)
        for row in _CLASSIFICATIONS
        for written in (False, True)
    ),
    Task(
        name="polqa_relevance",
        definition="pl_polqa_relevance.yaml",
        harness="bielik_polqa_relevance",
        dataset="ipipan/polqa",
        split="test",
        metric="acc",
        kind="choice",
        language="pl",
        category="question answering",
        few_shot=5,
        baseline=0.5,
        schema=_POLQA,
    ),
    _answers("polqa_open_book", "ipipan/polqa", "test", _POLQA),
    _answers("polqa_closed_book", "ipipan/polqa", "test", _POLQA),
    _answers(
        "poquad_open_book",
        "enelpol/poquad",
        "validation",
        f"{_FORK}polish_poquad/poquad_reranking.yaml",
    ),
)
