"""Defects of upstream mended everywhere, on GPUs too. Each says when it can be removed.

`install()` is called by `nemo_bielik.megatron` before anything else of Megatron is imported.
"""

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import queue
import re
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from nemo_bielik.errors import ConfigError

#: Megatron-Bridge 0.3.1 modules that import Transformer Engine unconditionally although the
#: project declares it optional. Remove when they guard the import.
_NEED_TRANSFORMER_ENGINE = (
    "megatron.bridge.peft.lora_layers",
    "megatron.bridge.peft.lora",
    "megatron.bridge.models.gpt_full_te_layer_autocast_spec",
)


def install() -> None:
    """Apply every fix; calling it again changes nothing."""
    if importlib.util.find_spec("transformer_engine") is None and not any(
        isinstance(finder, _PlaceholderFinder) for finder in sys.meta_path
    ):
        sys.meta_path.insert(0, _PlaceholderFinder())


def install_pipeline_shapes(shapes_of: Callable[[Any], Any]) -> None:
    """Let a model change the shapes that pipeline stages exchange, in training and evaluation.

    Megatron-Bridge 0.3.1 asks only ModelOpt for the shape hook, and only in ``train.py``: its
    ``eval.py`` does not pass the hook at all, so distillation dies at the first evaluation with
    more than one pipeline stage, on GPUs too. Remove when ``evaluate`` takes the hook and both
    take it from the model.

    Args:
        shapes_of: given the list of model chunks, the hook
            ``(receive_shapes, send_shapes) -> (receive_shapes, send_shapes)`` or None.
    """
    train: Any = importlib.import_module("megatron.bridge.training.train")
    evaluation: Any = importlib.import_module("megatron.bridge.training.eval")
    if getattr(train, "_bielik_pipeline_shapes", False):
        return
    of_modelopt = train.get_tensor_shapes_adjust_fn_for_distillation
    schedules_for = evaluation.get_forward_backward_func

    def adjust(model: Any, **kwargs: Any) -> Any:
        return shapes_of(model) or of_modelopt(model, **kwargs)

    def schedule_with_shapes(*args: Any, **kwargs: Any) -> Any:
        schedule = schedules_for(*args, **kwargs)

        @functools.wraps(schedule)
        def run(**call: Any) -> Any:
            hook = adjust(
                call["model"],
                seq_length=call["seq_length"],
                micro_batch_size=call["micro_batch_size"],
                decoder_seq_length=call["seq_length"],
            )
            return schedule(**call, adjust_tensor_shapes_fn=hook) if hook else schedule(**call)

        return run

    train.get_tensor_shapes_adjust_fn_for_distillation = adjust
    evaluation.get_forward_backward_func = schedule_with_shapes
    train._bielik_pipeline_shapes = True


def install_step_hook(hook_of: Callable[[Any], Callable[[Any, int], Any] | None]) -> None:
    """Let a model see all micro-batches of a step before its pipeline schedule begins.

    Megatron-Bridge 0.3.1 hands its data iterators to the schedule alone; callbacks at the start of
    a step do not get them. Remove when they do.

    Args:
        hook_of: given the list of model chunks, the hook
            ``(data_iterator, micro_batches) -> data_iterator`` or None.
    """
    for name in ("train", "eval"):
        module: Any = importlib.import_module(f"megatron.bridge.training.{name}")
        if getattr(module, "_bielik_step_hook", False):
            continue
        module.get_forward_backward_func = _hooked(module.get_forward_backward_func, hook_of)
        module._bielik_step_hook = True


def _hooked(
    schedules_for: Callable[..., Any], hook_of: Callable[[Any], Callable[[Any, int], Any] | None]
) -> Callable[..., Any]:
    @functools.wraps(schedules_for)
    def schedule_with_hook(*args: Any, **kwargs: Any) -> Any:
        schedule = schedules_for(*args, **kwargs)

        @functools.wraps(schedule)
        def run(**call: Any) -> Any:
            hook = hook_of(call["model"])
            if hook is not None:
                call["data_iterator"] = hook(call["data_iterator"], call["num_microbatches"])
            return schedule(**call)

        return run

    return schedule_with_hook


class SecondLayout:
    """Process groups of a model that is split otherwise than the one in training.

    Megatron-Core 0.16 and Megatron-Bridge 0.3.1 take groups as arguments in many places; others
    (above all Bridge's conversion of weights) ask ``parallel_state``, which knows one layout a
    process. Within ``with layout:`` it answers for this one; one does not contain another. Remove
    when Bridge fills a model by the model's own groups.

    Args:
        sizes: arguments of ``initialize_model_parallel``.
    """

    def __init__(self, **sizes: int) -> None:
        state: Any = importlib.import_module("megatron.core.parallel_state")
        self._module = state
        self._other: dict[str, Any] = {
            name: {} if isinstance(value, dict) else None for name, value in self._values().items()
        }
        with self:
            state.initialize_model_parallel(create_gloo_process_groups=False, **sizes)

    def _values(self) -> dict[str, Any]:
        """Return the module's state: the variables that ``initialize_model_parallel`` sets."""
        return {
            name: value
            for name, value in vars(self._module).items()
            if re.fullmatch("_[A-Z_]+|_global_process_group_list", name)
        }

    def _swap(self) -> None:
        current = self._values()
        vars(self._module).update(self._other)
        self._other = current

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *exception: object) -> None:
        self._swap()


def install_checkpoint_queue() -> None:
    """Keep what checkpoint writers report within this process.

    Megatron-Core 0.16 starts a manager process for it at the first save. It costs seconds and half
    a gigabyte, and outlives a run that is killed; the writers of `saves.py` report by other means.
    Remove when saving starts no process that lasts.
    """
    writer: Any = importlib.import_module(
        "megatron.core.dist_checkpointing.strategies.filesystem_async"
    )
    if writer._results_queue is None:
        writer._results_queue = queue.Queue()


def install_exit_signal() -> None:
    """Have SIGTERM answered: save a checkpoint after the step at hand and exit with status 0.

    Megatron-Bridge 0.3.1 makes the handler that ``exit_signal_handler`` asks for and looks at it
    after every step, but never installs it, so the signal kills. Remove when `GlobalState` enters
    its handler.
    """
    state: Any = importlib.import_module("megatron.bridge.training.state").GlobalState
    if getattr(state, "_bielik_exit_signal", False):
        return
    make_handler = state._set_signal_handler

    @functools.wraps(make_handler)
    def install_handler(self: Any) -> None:
        make_handler(self)
        if self._signal_handler and self.cfg.train.exit_signal_handler:
            self._signal_handler.__enter__()

    state._set_signal_handler = install_handler
    state._bielik_exit_signal = True


def install_sharded_adam() -> None:
    """Let the distributed optimizer resume where Adam is torch's own.

    Without Transformer Engine and Apex, Megatron-Core 0.16's distributed optimizer asks torch's
    Adam for its step count before there is any when it loads a checkpoint, and fails; it looks for
    one count a parameter in the format that any layout can load, and fails; and it gives all
    parameters one and the same count, which every step then raises once a parameter. Remove
    when `DistributedOptimizer` loads what it saves with ``HAVE_APEX_OR_TE`` False.
    """
    module: Any = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    optimizer = module.DistributedOptimizer
    if module.HAVE_APEX_OR_TE or getattr(optimizer, "_bielik_sharded_adam", False):
        return
    sharded_state_dict, load_state_dict = optimizer.sharded_state_dict, optimizer.load_state_dict
    set_states = optimizer._set_main_param_and_optimizer_states

    @functools.wraps(sharded_state_dict)
    def sharded(self: Any, model: Any, is_loading: bool = False, *args: Any, **kw: Any) -> Any:
        if is_loading and not self.optimizer.state:
            self._init_optimizer_states_with_dummy_values()
        return sharded_state_dict(self, model, is_loading, *args, **kw)

    @functools.wraps(load_state_dict)
    def load(self: Any, state_dict: Any) -> None:
        step = state_dict["optimizer"]["param_groups"][0]["step"]
        load_state_dict(self, state_dict)
        for state in self.optimizer.state.values():
            state["step"] = state["step"].new_tensor(step)

    @functools.wraps(set_states)
    def set_all(self: Any, model_param: Any, tensors: dict[str, Any]) -> None:
        group, order = self.model_param_group_index_map[model_param]
        held = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        set_states(self, model_param, {"step": held["step"]} | tensors)

    optimizer.sharded_state_dict, optimizer.load_state_dict = sharded, load
    optimizer._set_main_param_and_optimizer_states = set_all
    optimizer._bielik_sharded_adam = True


def install_peft_layers() -> None:
    """Let adapters wrap plain layers where Transformer Engine is absent.

    Megatron-Core 0.16 has names, some of them None, for the layers of an absent Transformer
    Engine; Megatron-Bridge 0.3.1 takes them for the layers and fails at ``isinstance(…, None)``.
    Remove when it asks whether the package is there.
    """
    present = importlib.util.find_spec("transformer_engine") is not None
    utils: Any = importlib.import_module("megatron.bridge.peft.utils")
    utils.HAVE_TE = present


def install_nemo_optimizer() -> None:
    """Have Megatron-Core make the optimizers that NeMo 2 asks it for.

    NeMo 2.7.3 (`nemo/lightning/_strategy_lib.py`, `setup_megatron_optimizer`) passes three
    arguments that Megatron-Core 0.16 no longer has, so no training of NeMo's starts, on GPUs
    either. They say nothing unless a recipe sets them. Remove when NeMo passes
    ``config_overrides`` instead.
    """
    optimizer: Any = importlib.import_module("megatron.core.optimizer")
    make = optimizer.get_megatron_optimizer
    unknown = {"no_weight_decay_cond": None, "scale_lr_cond": None, "lr_mult": 1.0}
    known = set(inspect.signature(make).parameters)
    if set(unknown) <= known or getattr(optimizer, "_bielik_nemo_optimizer", False):
        return

    @functools.wraps(make)
    def make_from_nemo(*arguments: Any, **settings: Any) -> Any:
        for name, silent in unknown.items():
            if settings.pop(name, silent) != silent:
                raise ConfigError(f"optim.{name}: Megatron-Core 0.16 cannot do it; leave it out")
        return make(*arguments, **settings)

    optimizer.get_megatron_optimizer = make_from_nemo
    optimizer._bielik_nemo_optimizer = True


def install_modelopt_norm() -> None:
    """Tell ModelOpt of `torch.nn.RMSNorm`, which Megatron-Core uses without Transformer Engine.

    ModelOpt 0.43 makes only Transformer Engine's and Apex' norms dynamic, and refuses to collect
    scores of a model with any other. Remove when its registry knows this one.
    """
    import torch

    registry: Any = importlib.import_module("modelopt.torch.nas.registry").DMRegistry
    norms: Any = importlib.import_module("modelopt.torch.nas.modules.norm")
    if torch.nn.RMSNorm in registry:
        return

    class DynamicRMSNorm(norms._DynamicLayerNorm):
        def _setup(self, *, num_features: Any) -> None:
            self._register_hparam("num_features", num_features)
            self._register_dynamic_attribute("weight", self._cut_to_active_features)
            self._register_dynamic_attribute("normalized_shape", self._get_normalized_shape)

    registry.register({torch.nn.RMSNorm: "nn.RMSNorm"})(DynamicRMSNorm)


class _Absent(type):
    """A class that can be named and subclassed, but not used: Transformer Engine is not here."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{cls.__name__}.{name}", (), {})

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise ImportError(f"{cls.__name__} needs transformer-engine, which is not installed")


class _PlaceholderModule(types.ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{self.__name__}.{name}", (), {})


class _PlaceholderLoader(importlib.abc.Loader):
    """Show a placeholder Transformer Engine while one module's body runs, and never else."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        # whatever probes for Transformer Engine must find it missing before the placeholder shows
        importlib.import_module("megatron.core.extensions.transformer_engine")
        package = _PlaceholderModule("transformer_engine")
        package.pytorch = _PlaceholderModule("transformer_engine.pytorch")  # type: ignore[attr-defined]
        names = {package.__name__: package, package.pytorch.__name__: package.pytorch}
        sys.modules.update(names)
        try:
            self.loader.exec_module(module)
        finally:
            for name in names:
                sys.modules.pop(name, None)


class _PlaceholderFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _NEED_TRANSFORMER_ENGINE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and spec.loader:
            spec.loader = _PlaceholderLoader(spec.loader)
        return spec
