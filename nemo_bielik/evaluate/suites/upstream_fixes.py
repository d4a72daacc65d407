"""Defects of lm-evaluation-harness mended while suites run. Each says when it can be removed."""

import contextlib
import functools
from collections.abc import Iterator

from lm_eval import utils


@contextlib.contextmanager
def templates_compiled_once() -> Iterator[None]:
    """Keep compiled templates: lm-eval compiles a task's anew for every text of every shot.

    lm-eval 0.4.13, ``utils.apply_template``: a 5-shot choice costs 14 compilations, some 20 ms.
    Remove when it keeps them, or gives its ``Environment`` a loader, which would.
    """
    compile_template = utils.env.from_string
    utils.env.from_string = functools.lru_cache(maxsize=4096)(compile_template)
    try:
        yield
    finally:
        utils.env.from_string = compile_template
