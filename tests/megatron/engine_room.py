"""What tests of the engine share: two warm lanes, tiny models, tokens, and calls into the lanes.

Importing Megatron takes longer than any of these tests, so no test process does it: everything
that needs it runs in the lanes, which the whole session shares.
"""

import functools
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_bielik.data.indexed import TokenWriter, token_dtype
from nemo_bielik.launch.lanes import Lanes
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig

ENGINE = "nemo_bielik.megatron.engine"
END_OF_DOCUMENT = 2
#: As tests/conftest.py's, with sizes that two tensor-parallel ranks can share.
STUDENT = {"num_attention_heads": 4, "num_key_value_heads": 2}
TEACHER = {**STUDENT, "hidden_size": 32, "intermediate_size": 36, "num_hidden_layers": 6}
UNEVEN = {**STUDENT, "num_hidden_layers": 5}
VOCAB_SIZE = 48

if str(Path(__file__).parent) not in sys.path:  # handed on to the lanes, which import the cases
    sys.path.insert(0, str(Path(__file__).parent))


@functools.cache
def shared_lanes() -> Lanes:
    """The lanes of this session; they import the engine while tests without it run."""
    lanes = Lanes(2)
    lanes.warm(ENGINE)
    return lanes


@pytest.fixture(scope="session")
def lanes() -> Iterator[Lanes]:
    yield shared_lanes()
    shared_lanes().__exit__(SystemExit)  # a lane that hangs is ended, not waited for


@dataclass
class Call:
    """A function to run in the lanes, on every rank of `parallel`, and where results go."""

    function: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: Path
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


@pytest.fixture(scope="session")
def call(lanes: Lanes, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """Return a function that runs ``module:function`` in the lanes and returns every rank's value.

    With more ranks than one the function joins the process group itself (`distributed_session`).
    """
    numbers = itertools.count()
    folder = tmp_path_factory.mktemp("calls")

    def run(
        function: str, *arguments: Any, parallel: ParallelConfig | None = None, **keywords: Any
    ) -> list[Any]:
        import torch

        parallel = parallel or ParallelConfig()
        results = folder / str(next(numbers))
        results.mkdir()
        lanes.run("engine_cases:answer", Call(function, arguments, keywords, results, parallel))
        return [
            torch.load(results / f"{rank}.pt", weights_only=False)
            for rank in range(parallel.processes)
        ]

    return run


def write_tokens(
    directory: Path,
    documents: list[list[int]],
    learned: list[list[int]] | None = None,
    weights: list[float] | None = None,
    pairs: bool = False,
) -> Path:
    """Write documents as ``bielik tokenize`` does; `learned` says which tokens of each are.

    As `pairs` they are preference pairs, the chosen answer's document and then the rejected one's.
    """
    directory.mkdir(parents=True)
    with TokenWriter(directory, token_dtype(VOCAB_SIZE), learned is not None) as writer:
        for number, document in enumerate(documents):
            loss = None if learned is None else np.array(learned[number], dtype=np.uint8)
            weight = None if weights is None else np.array([weights[number]], dtype=np.float32)
            length = np.array([len(document)], dtype=np.int32)
            writer.add(np.array(document), length, loss, weight)
        writer.finish()
    content = {str(number): str(document) for number, document in enumerate(documents)}
    results = {"end_of_document": END_OF_DOCUMENT, "tokens": sum(map(len, documents))}
    results |= {"pairs": len(documents) // 2} if pairs else {}
    Manifest(stage="tokenize", config={}, inputs=content, results=results).save(directory)
    return directory


def random_documents(seed: int, count: int = 60) -> list[list[int]]:
    """Documents of 5 to 40 tokens, opened by 1 and closed by 2."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 39, count)
    return [[1, *generator.integers(3, VOCAB_SIZE, n).tolist(), END_OF_DOCUMENT] for n in lengths]


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("train") / "tokens", random_documents(1))


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("held-out") / "tokens", random_documents(2))


@pytest.fixture(scope="session")
def student(make_model: Callable[..., Path]) -> Path:
    return make_model(**STUDENT)


@pytest.fixture(scope="session")
def teacher(make_model: Callable[..., Path]) -> Path:
    """Other width and depth than the student, same vocabulary."""
    return make_model(seed=1, **TEACHER)


@pytest.fixture(scope="session")
def assistant(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the student, with a tokenizer that has a chat template."""
    from chat_cases import MARKED, write_tokenizer

    directory = make_model(seed=5, **STUDENT)
    tokenizer = write_tokenizer(tmp_path_factory.mktemp("template") / "tokenizer", MARKED)
    shutil.copytree(tokenizer, directory, dirs_exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def uneven_student(make_model: Callable[..., Path]) -> Path:
    """Five layers: no even split over two pipeline stages."""
    return make_model(seed=2, **UNEVEN)
