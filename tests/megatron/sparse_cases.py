"""Functions that tests of statistics and kept zeros run in the lanes."""

import shutil
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor

from nemo_bielik.errors import DataError
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pruning.score import ScoreConfig, score
from nemo_bielik.training import TrainConfig, train


def score_on_a_full_disk(config: ScoreConfig) -> None:
    usage = namedtuple("usage", "total used free")(10, 10, 0)
    with mock.patch.object(shutil, "disk_usage", lambda _: usage):
        score(config)


def sums_of_a_split_sequence(model: Path, activations: dict[str, Tensor]) -> Any:
    """Return (squares, Hessian files' matrices) of layer 0, fed as sequence-parallel ranks are.

    `activations`: [s, b, in] of every input. Two tensor ranks; each gets half of the sequence, or
    of the channels where a projection splits those.
    """
    import torch.distributed as dist
    from safetensors.torch import load_file

    from nemo_bielik.checkpoint import Checkpoint
    from nemo_bielik.megatron.model import inference_model
    from nemo_bielik.pruning.input_statistics import hessian_file
    from nemo_bielik.pruning.inputs_mcore import HessianSums, NormSums

    arch = Checkpoint.open(model).arch.replace(num_layers=1)
    with inference_model(model, ParallelConfig(tensor=2), 32):
        norms, hessians = NormSums(arch, True), HessianSums(arch, True)
        for name, whole in activations.items():
            dim = 2 if name in ("o_proj", "down_proj") else 0
            part = whole.chunk(2, dim=dim)[dist.get_rank()]
            for half in part.chunk(2, dim=1):  # two micro-batches
                norms.add(0, name, half)
                hessians.add(0, name, half)
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory)
            hashes = hessians.save(folder)
            matrices = load_file(folder / hessian_file(0)) if dist.get_rank() == 0 else {}
        return norms.total(), matrices, hashes


def train_for_three_steps(config: TrainConfig) -> None:
    """Train and fall over."""
    from nemo_bielik.megatron.callbacks import Metrics

    def fall_over(_: Any, context: Any) -> None:
        if context.state.train_state.step + 1 == 3:
            raise DataError("fell over")

    with mock.patch.object(Metrics, "on_train_step_end", fall_over):
        train(config)


def train_without_masks(config: TrainConfig) -> None:
    """Train while gradients pass unmasked, as they would by an upstream change."""
    from nemo_bielik.megatron.sparse import _SparseWeight

    with mock.patch.object(_SparseWeight, "mask_gradient", lambda _, gradient: gradient):
        train(config)


def move_a_zero(model: Path, parallel: ParallelConfig, rank: int) -> list[str]:
    """Return what the check says before and after a zero of `rank` moves."""
    import torch.distributed as dist

    from nemo_bielik.megatron.model import inference_model
    from nemo_bielik.megatron.sparse import KeptZeros

    said = []
    with inference_model(model, parallel, 32) as (_, chunks):
        kept = KeptZeros()
        kept.attach(chunks)
        for weight in kept.weights[:1]:
            kept.check()
            if dist.get_rank() == rank:
                place = tuple(weight.zeros.nonzero()[0])
                weight.parameter.data[place] = 1.0
            try:
                kept.check()
            except DataError as error:
                said.append(str(error))
    return said
