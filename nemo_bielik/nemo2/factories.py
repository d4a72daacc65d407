"""`recipes/nemo2.py` as NeMo's own recipes, under their names for the ``nemo llm`` command.

They expect checkpoints and tokens where docs/nemo2.md puts them; NeMo refuses to start where there
are none. (Its own recipes, left alone, would train on random tokens.)
"""

from collections.abc import Callable
from functools import partial

import lightning.pytorch as pl
import nemo_run as run
from nemo.collections import llm
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.collections.llm.modelopt.recipes import distillation_recipe, prune_recipe
from nemo.collections.llm.modelopt.recipes.distillation_recipe import trainer
from nemo.collections.llm.recipes.optim.adam import distributed_fused_adam_with_cosine_annealing

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B
from nemo_bielik.nemo2.config import BielikConfig, BielikConfig11B, BielikMinitronConfig7B
from nemo_bielik.nemo2.model import BielikModel
from nemo_bielik.nemo2.settings import Nemo2Prune
from nemo_bielik.recipes import nemo2 as recipes
from nemo_bielik.training import TrainSettings


def _experiment(name: str) -> Nemo2Prune:
    return recipes.prune_experiments()[name]


GPUS_PER_NODE = 8
#: As `bielik tokenize --output data/tokens` leaves them: what stands before .bin and .idx.
TOKENS = "data/tokens/tokens"
CHECKPOINTS = "checkpoints"
PRUNE: dict[str, Callable[[], Nemo2Prune]] = {
    "bielik_minitron_7b": recipes.prune_minitron_7b,
    **{
        f"bielik_{name.replace('-', '_')}": partial(_experiment, name)
        for name in recipes.prune_experiments()
    },
}
DISTILL: dict[str, Callable[[], TrainSettings]] = {
    "bielik_minitron_7b": recipes.distill_minitron_7b,
    "bielik_minitron_7b_one_node": recipes.distill_minitron_7b_one_node,
}
MODELS: dict[str, type[BielikConfig]] = {
    "bielik_11b_v3": BielikConfig11B,
    "bielik_minitron_7b": BielikMinitronConfig7B,
}


def prune(settings: Nemo2Prune) -> run.Partial:
    """Return NeMo's `llm.prune` with these settings."""
    recipe = prune_recipe(
        nemo_checkpoint=f"{CHECKPOINTS}/{settings.source}",
        save_path=f"{CHECKPOINTS}/{settings.target}",
    )
    for name, size in settings.sizes().items():
        setattr(recipe.pruning_config, f"target_{name}", size)
    recipe.num_train_samples = settings.samples
    recipe.data = _text(
        settings.source,
        seq_length=settings.sequence_length,
        micro_batch_size=1,
        global_batch_size=1,
    )
    return recipe


def distill(settings: TrainSettings, name: str) -> run.Partial:
    """Return NeMo's `llm.distill` of Bielik-11B-v3 into Bielik-Minitron-7B with these settings.

    Steps, batches, rates, layout and seed are taken over; the rest of `TrainSettings` has no
    counterpart in NeMo 2, which distils at temperature 1 and in bf16.
    """
    recipe = distillation_recipe(
        student_model_path=f"{CHECKPOINTS}/{BIELIK_MINITRON_7B.name}",
        teacher_model_path=f"{CHECKPOINTS}/{BIELIK_11B_V3.name}",
        name=name,
    )
    recipe.trainer = _trainer(settings)
    recipe.data = _text(
        BIELIK_11B_V3.name,
        seq_length=settings.sequence_length,
        micro_batch_size=settings.micro_batch_size,
        global_batch_size=settings.global_batch_size,
        seed=settings.seed,
    )
    recipe.optim = _optimizer(settings)
    return recipe


def _text(model: str, **settings: int) -> run.Config:
    """Return the tokens with the tokenizer of `model`; without one NeMo downloads GPT-2's."""
    tokenizer = run.Config(AutoTokenizer, f"{CHECKPOINTS}/{model}/context/tokenizer")
    return run.Config(llm.PreTrainingDataModule, paths=TOKENS, tokenizer=tokenizer, **settings)


def _trainer(settings: TrainSettings) -> run.Config:
    processes = settings.parallel.processes
    config = trainer(
        tensor_parallelism=settings.parallel.tensor,
        pipeline_parallelism=settings.parallel.pipeline,
        sequence_parallelism=settings.parallel.sequence,
        num_nodes=max(1, processes // GPUS_PER_NODE),
        num_gpus_per_node=min(processes, GPUS_PER_NODE),
        max_steps=settings.iters,
    )
    config.val_check_interval = settings.eval_interval or settings.iters
    config.limit_val_batches = settings.eval_iters
    # NeMo 2.7.3 cannot save asynchronously with Megatron-Core 0.16 (`nemo2.model._trainer`)
    config.strategy.ckpt_async_save = False
    return config


def _optimizer(settings: TrainSettings) -> run.Config:
    optim = settings.optim
    config = distributed_fused_adam_with_cosine_annealing(
        max_lr=optim.max_lr,
        min_lr=optim.min_lr,
        warmup_steps=optim.warmup_iters,
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        clip_grad=optim.clip_grad,
    )
    config.config.weight_decay = optim.weight_decay
    return config


def register() -> None:
    """Make every recipe and model of this module known to NeMo-Run, under its name."""
    for name in PRUNE:
        run.cli.factory(target=llm.prune, name=name)(_prune_factory(name))
    for name in DISTILL:
        run.cli.factory(target=llm.distill, name=name)(_distill_factory(name))
    for name in MODELS:
        run.cli.factory(target=pl.LightningModule, name=name)(_model_factory(name))


def _prune_factory(name: str) -> Callable[[], run.Partial]:
    def factory() -> run.Partial:
        return prune(PRUNE[name]())

    return factory


def _distill_factory(name: str) -> Callable[[], run.Partial]:
    def factory() -> run.Partial:
        return distill(DISTILL[name](), name)

    return factory


def _model_factory(name: str) -> Callable[[], run.Config]:
    def factory() -> run.Config[pl.LightningModule]:
        return run.Config(BielikModel, config=run.Config(MODELS[name]))

    return factory
