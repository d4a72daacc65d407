"""`BielikModel` and its way from a Hugging Face directory into NeMo 2 and back.

``nemo llm import model=bielik_11b_v3 source=hf:///path/to/directory`` and ``nemo llm export
target=hf`` find the two connectors. Nothing is downloaded and no code of a checkpoint is run.
"""

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.collections.common.tokenizers.tokenizer_spec import TokenizerSpec
from nemo.collections.llm.gpt.model.mistral import MistralModel
from nemo.collections.llm.utils import Config
from nemo.lightning import MegatronStrategy, OptimizerModule, Trainer, io, teardown

from nemo_bielik.checkpoint import Checkpoint, CheckpointWriter, copy_tokenizer, tokenizer_files
from nemo_bielik.errors import CheckpointError
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.cpu import cpu_runtime
from nemo_bielik.megatron.upstream_fixes import install_checkpoint_queue, install_nemo_optimizer
from nemo_bielik.nemo2.config import BielikConfig, BielikConfig11B, config_of
from nemo_bielik.nemo2.conversion import parameter_names, to_hugging_face, to_megatron
from nemo_bielik.stages import stage_output


class BielikModel(MistralModel):
    """A Bielik in NeMo 2: a `MistralModel` with conversions that lose nothing."""

    # NeMo saves a model as the arguments that it was made with, so each has a name
    def __init__(
        self,
        config: Annotated[BielikConfig | None, Config[BielikConfig]] = None,
        optim: OptimizerModule | None = None,
        tokenizer: TokenizerSpec | None = None,
        model_transform: Callable[[torch.nn.Module], torch.nn.Module] | None = None,
    ) -> None:
        install_nemo_optimizer()  # every training begins with a model, if only to be distilled
        super().__init__(config or BielikConfig11B(), optim, tokenizer, model_transform)


def fill(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Give a Megatron-Core GPT model the weights of a Hugging Face directory.

    Raises `CheckpointError` for names that no conversion row matches, on either side.
    """
    names = set(checkpoint.tensors)
    if checkpoint.arch.tie_word_embeddings:  # some writers store the tied matrix twice
        names.discard("lm_head.weight")
    weights = to_megatron(checkpoint.arch, names, checkpoint.read, parameter_names(model))
    for name, parameter in model.named_parameters():
        if parameter.shape != weights[name].shape:
            raise CheckpointError(
                f"{checkpoint.directory}: {name} becomes {list(weights[name].shape)}, but the NeMo "
                f"model has {list(parameter.shape)}; import on one process, without parallel sizes"
            )
    model.load_state_dict(weights, strict=False, assign=True)


@io.model_importer(BielikModel, "hf")
class HFBielikImporter(io.ModelConnector):
    """A Hugging Face directory to a NeMo 2 checkpoint."""

    def init(self) -> BielikModel:
        """Return the model, without weights yet."""
        return BielikModel(self.config, tokenizer=self.tokenizer)

    def apply(self, output_path: Path) -> Path:
        """Convert into `output_path`, which appears whole or not at all."""
        checkpoint = self._checkpoint
        inputs = {"model": checkpoint.fingerprint()}
        install_checkpoint_queue()
        manifest = Manifest(stage="nemo2-import", config={"source": str(self)}, inputs=inputs)
        with cpu_runtime(), stage_output(Path(output_path), manifest, {}) as scratch:
            target = self.init()
            trainer = self.nemo_setup(target, _trainer(ckpt_save_optimizer=False))
            try:
                fill(target.module, checkpoint)
                self.nemo_save(scratch, trainer)
            finally:
                teardown(trainer, target)
        return output_path

    @property
    def config(self) -> BielikConfig:
        """The configuration that ``config.json`` and the weights call for."""
        return config_of(self._checkpoint)

    @functools.cached_property
    def tokenizer(self) -> AutoTokenizer | None:
        """The directory's tokenizer, if it has one."""
        source = Path(str(self))
        if not any(path.name.startswith("tokenizer") for path in tokenizer_files(source)):
            return None
        # NeMo copies the directory that a tokenizer came from into every checkpoint
        files = Path(tempfile.mkdtemp(prefix="nemo-bielik-")) / "tokenizer"
        atexit.register(shutil.rmtree, files.parent, ignore_errors=True)
        files.mkdir()
        copy_tokenizer(source, files)
        return AutoTokenizer(str(files), trust_remote_code=False)

    @functools.cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint.open(Path(str(self)))


@io.model_exporter(BielikModel, "hf")
class HFBielikExporter(io.ModelConnector):
    """A NeMo 2 checkpoint to a Hugging Face directory."""

    def apply(self, output_path: Path) -> Path:
        """Convert into `output_path`, which appears whole or not at all."""
        manifest = Manifest(stage="nemo2-export", config={"checkpoint": str(self)})
        with cpu_runtime(), stage_output(Path(output_path), manifest, {}) as scratch:
            source, trainer = self.nemo_load(Path(str(self)))
            try:
                self._write(source, scratch)
            finally:
                teardown(trainer, source)
        return output_path

    def nemo_load(
        self, path: Path, trainer: Trainer | None = None, cpu: bool = True
    ) -> tuple[BielikModel, Trainer]:
        """Load a checkpoint as `io.ModelConnector` does, without CUDA too."""
        with cpu_runtime():
            trainer = trainer or _trainer(ddp="pytorch", setup_optimizers=False)
            model, trainer = super().nemo_load(path, trainer, cpu)
        return model, trainer

    def _write(self, source: BielikModel, output: Path) -> None:
        module = source.module
        weights = {name: module.state_dict()[name] for name in parameter_names(module)}
        config, arch = source.config, source.config.arch
        # transformers 4.57 calls it dtype, older ones torch_dtype
        name = "dtype" if "dtype" in config.hf_config else "torch_dtype"
        dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
        writer = CheckpointWriter(output, arch.to_hf_config({**config.hf_config, name: dtype}))
        for name, tensor in to_hugging_face(arch, weights):
            writer.add(name, tensor.cpu())
        writer.finish()
        if source.tokenizer is not None:
            copy_tokenizer(Path(source.tokenizer.__io__.pretrained_model_name), output)
        Checkpoint.open(output)


def _trainer(**strategy: Any) -> Trainer:
    """Return a trainer of one CPU process that saves in this process.

    NeMo 2.7.3's asynchronous saving imports a module that Megatron-Core 0.16 no longer has.
    """
    return Trainer(
        devices=1,
        accelerator="cpu",
        strategy=MegatronStrategy(ckpt_async_save=False, always_save_context=True, **strategy),
    )
