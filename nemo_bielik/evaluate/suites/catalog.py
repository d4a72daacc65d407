"""The one table of benchmark suites.

Prompts of ours are marked by their file; scores from them are not the leaderboards' own, but
teacher and student answer the same prompts. Few-shot counts are the report's where it names them
(5 for the Open PL LLM Leaderboard) and our choice elsewhere.
"""

from collections.abc import Sequence

from nemo_bielik.errors import ConfigError, nearest
from nemo_bielik.evaluate.suites.languages import EUROPEAN, INCLUDE, TRANSLATED
from nemo_bielik.evaluate.suites.open_pl import OPEN_PL_TASKS
from nemo_bielik.evaluate.suites.suite import (
    BELEBELE,
    BELEBELE_QUESTION,
    LM_EVAL,
    MADE_HERE,
    Suite,
    Task,
)

_LM_EVAL_TASK = "lm-evaluation-harness 0.4.13, "
_FORK = "speakleash/lm-evaluation-harness, "

_BELEBELE = tuple(
    Task(
        name=f"belebele_{flores}",
        definition=f"{LM_EVAL}belebele",
        harness=f"belebele_{flores}",
        dataset=BELEBELE,
        question=BELEBELE_QUESTION,
        config=flores,
        split="test",
        metric="acc",
        kind="choice",
        language=code,
        category="reading",
        few_shot=5,
        baseline=0.25,
        schema=f"{_LM_EVAL_TASK}tasks/belebele/_default_template_yaml",
    )
    for code, (flores, _) in EUROPEAN.items()
)

_INCLUDE = tuple(
    Task(
        name=f"include_{code}",
        definition=f"{LM_EVAL}include/few_shot_og/{language}",
        harness=f"include_base_44_{language.lower().replace(' ', '_')}_few_shot_og",
        is_group=True,
        dataset="CohereForAI/include-base-44",
        config=language,
        split="test",
        metric="acc",
        kind="choice",
        language=code,
        category="regional knowledge",
        few_shot=5,
        baseline=0.25,
        schema=f"{_LM_EVAL_TASK}tasks/include/few_shot_og",
    )
    for code, language in INCLUDE.items()
)


def _translation(source: str, target: str, other: str) -> Task:
    (source_column, source_name), (target_column, target_name) = (
        EUROPEAN[source],
        EUROPEAN[target],
    )
    return Task(
        name=f"flores_{source}_{target}",
        definition="flores_pair.yaml",
        harness="bielik_flores_pair",
        dataset="facebook/flores",
        config="all",
        split="devtest",
        metric="bleu",
        score_from="bleu",
        kind="text",
        language=other,
        category=f"{'to' if target == 'pl' else 'from'} Polish",
        few_shot=5,
        schema=f"{_LM_EVAL_TASK}tasks/portuguese_bench/flores_pt/_flores_common_yaml",
        changes={
            "doc_to_text": f"{source_name}: {{{{sentence_{source_column}}}}}\n{target_name}:",
            "doc_to_target": f"{{{{sentence_{target_column}}}}}",
        },
    )


_FLORES = tuple(
    _translation(*pair, other=other)
    for other in TRANSLATED
    for pair in ((other, "pl"), ("pl", other))
)


def _open_llm(
    name: str,
    definition: str,
    dataset: str,
    split: str,
    few_shot: int,
    *,
    category: str,
    config: str | None = None,
    score_from: str = "acc",
    score_filter: str = "none",
    baseline: float = 0.25,
    is_group: bool = False,
) -> Task:
    return Task(
        name=name,
        definition=f"{LM_EVAL}{definition}",
        harness=name,
        dataset=dataset,
        config=config,
        split=split,
        metric=score_from,
        score_from=score_from,
        score_filter=score_filter,
        kind="text" if score_from == "exact_match" else "choice",
        language="en",
        category=category,
        few_shot=few_shot,
        baseline=baseline,
        is_group=is_group,
        schema=f"{_LM_EVAL_TASK}tasks/{definition}",
    )


_OPEN_LLM = (
    _open_llm(
        "arc_challenge",
        "arc",
        "allenai/ai2_arc",
        "test",
        25,
        config="ARC-Challenge",
        score_from="acc_norm",
        category="science",
    ),
    _open_llm(
        "hellaswag",
        "hellaswag",
        "Rowan/hellaswag",
        "validation",
        10,
        score_from="acc_norm",
        category="common sense",
    ),
    _open_llm("mmlu", "mmlu/default", "cais/mmlu", "test", 5, category="knowledge", is_group=True),
    _open_llm(
        "truthfulqa_mc2",
        "truthfulqa",
        "truthfulqa/truthful_qa",
        "validation",
        0,
        config="multiple_choice",
        baseline=0.0,  # a share of probability, over as many choices as the question has
        category="truthfulness",
    ),
    _open_llm(
        "winogrande",
        "winogrande",
        "allenai/winogrande",
        "validation",
        5,
        config="winogrande_xl",
        baseline=0.5,
        category="common sense",
    ),
    _open_llm(
        "gsm8k",
        "gsm8k",
        "openai/gsm8k",
        "test",
        5,
        config="main",
        score_from="exact_match",
        score_filter="strict-match",
        baseline=0.0,
        category="mathematics",
    ),
)

_LONG_CONTEXT = tuple(
    Task(
        name=f"long_context_{characters // 1000}k",
        definition="long_context.yaml",
        harness="bielik_long_context",
        dataset=MADE_HERE,
        split="test",
        metric="exact_match",
        score_from="exact_match",
        score_filter="first-number",
        kind="text",
        language="pl",
        category=f"{characters // 1000}k characters",
        few_shot=0,
        schema="ours",
        changes={"metadata": {"characters": characters}},
    )
    for characters in (4_000, 16_000, 64_000)
)

SUITES: tuple[Suite, ...] = (
    Suite(
        name="open-pl",
        help="the tasks of the Open PL LLM Leaderboard, 5-shot, with prompts of ours",
        tasks=OPEN_PL_TASKS,
    ),
    Suite(
        name="belebele",
        help="reading comprehension in 28 European languages, 5-shot",
        tasks=_BELEBELE,
    ),
    Suite(
        name="include-base-44",
        help="regional knowledge in 20 European languages, 5-shot, by subject",
        tasks=_INCLUDE,
    ),
    Suite(
        name="flores",
        help="translation to and from Polish, 20 languages, 5-shot",
        tasks=_FLORES,
    ),
    Suite(
        name="medical",
        help="Polish specialist medical exams (PES 2018–2022), 5-shot",
        tasks=(
            Task(
                name="medical_exams",
                definition="pl_medical_exams.yaml",
                harness="bielik_medical_exams",
                dataset="amu-cai/PES-2018-2022",
                split="test",
                metric="acc",
                kind="choice",
                language="pl",
                category="medicine",
                few_shot=5,
                baseline=0.2,
                schema=f"{_FORK}lm_eval/tasks/polish_pes/pes.yaml",
            ),
        ),
    ),
    Suite(
        name="eq-bench-pl",
        help="Polish EQ-Bench: rating emotions in a dialogue, the first ratings",
        tasks=(
            Task(
                name="eq_bench_pl",
                definition="pl_eq_bench.yaml",
                harness="bielik_eq_bench",
                dataset="speakleash/EQ-Bench-PL",
                split="validation",
                metric="eq_bench",
                score_from="eq_bench",
                kind="text",
                language="pl",
                category="emotions",
                few_shot=0,
                schema=f"{_FORK}lm_eval/tasks/polish_eq_bench/default.yaml",
            ),
        ),
    ),
    Suite(
        name="cptub",
        help="Complex Polish Text Understanding Benchmark: ratings from 0 to 5 in the report",
        instead="its questions are not public; --scores reads the scores that its authors return: "
        "docs/suites.md",
    ),
    Suite(
        name="bfcl",
        help="Berkeley Function-Calling Leaderboard, by its own package: its questions and "
        "prompts, no examples, accuracy of the calls' syntax trees",
        instead="its package asks an endpoint; --bfcl reads its results: docs/suites.md",
    ),
    Suite(
        name="euroeval",
        help="EuroEval, by its own package: its datasets, test splits, examples and prompts, and "
        "the metrics of the report's Table 12",
        instead="its package asks an endpoint; --euroeval reads its results: docs/suites.md",
    ),
    Suite(
        name="open-llm-v1",
        help="the first Open LLM Leaderboard (English), its own few-shot counts",
        tasks=_OPEN_LLM,
    ),
    Suite(
        name="long-context",
        help="finding a password in a long Polish text made for it; needs no data",
        tasks=_LONG_CONTEXT,
    ),
    Suite(
        name="minimal-pairs",
        help="pairs of a right and a wrong sentence, such as `bielik world` writes",
        tasks=(
            Task(
                name="minimal_pairs",
                definition="minimal_pairs.yaml",
                harness="bielik_minimal_pairs",
                dataset="nemo-bielik/minimal-pairs",
                split="test",
                metric="acc",
                kind="choice",
                language="pl",
                category="grammar",
                few_shot=0,
                baseline=0.5,
                schema="ours: docs/suites.md",
            ),
        ),
    ),
)


def find_suites(names: Sequence[str]) -> list[Suite]:
    """Return the suites called `names`, all of them for ``all``; raise `ConfigError` for others."""
    known = {suite.name: suite for suite in SUITES}
    if list(names) == ["all"]:
        return list(SUITES)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"suites: {name!r} is not a suite{nearest(name, known)}; suites: all, "
                f"{', '.join(known)}"
            )
    return [known[name] for name in dict.fromkeys(names)]
