"""More ranks than there are lanes: children of one that has imported the engine and never used it.

A process whose autograd has run has threads that its children lack.
"""

import multiprocessing
import os
from typing import Any

from nemo_bielik.launch.local import free_port, rank_variables


def run_on_forks(config: Any) -> None:
    """Run the training that `config` is of on as many forks as its layout has ranks."""
    count, port = config.parallel.processes, free_port()
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_run, args=(config, rank, port)) for rank in range(count)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * count


def _run(config: Any, rank: int, port: int) -> None:
    from nemo_bielik.distill.stage import DistillConfig, distill
    from nemo_bielik.training import train

    os.environ.update(rank_variables(rank, config.parallel.processes, port))
    distill(config) if isinstance(config, DistillConfig) else train(config)
