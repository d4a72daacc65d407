"""The masks of Sheared LLaMA, their multipliers and one optimizer for both; no engine in sight.

Descent on log α, ascent on λ and φ (the report's equation 7). Everything lies in float64 on the
CPU and follows from the seed and the gradients alone, so that every rank holds the same.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nemo_bielik.arch import ModelArch
from nemo_bielik.pruning import hard_concrete
from nemo_bielik.pruning.shearing import (
    ShearingConfig,
    lagrangian,
    mask_shapes,
    open_counts,
    tolerance,
    warmed_up,
)

#: Where every log α starts: 99 in 100 masks are open, and one in five has a slope.
INITIAL_LOG_ALPHA = 3.0
#: log α stays within ± this: beyond it no draw has a slope, and a unit would never come back.
BOUND = 6.0
#: Where every φ starts. The paper starts at 0 and takes thousands of steps; in hundreds, λ alone
#: swings the sizes far below the target and back, which closes units for good that matter.
INITIAL_QUADRATIC = 300.0


class MaskLearner:
    """log α of every unit that may go, and λ and φ of every constraint.

    Attributes:
        counts: (units, units to stay open) of each kind of mask; see `shearing.open_counts`.
        log_alpha: by kind: layers [layers], hidden [hidden], ffn [layers, ffn],
            groups [layers, groups], heads [layers, groups, heads of a group]. The last dimension
            is what a constraint counts.
        step: steps taken.
    """

    def __init__(self, config: ShearingConfig, source: ModelArch, target: ModelArch) -> None:
        self.counts = open_counts(source, target)
        self.warmup = round(config.warmup_share * config.iters)
        self.step = 0
        shapes = mask_shapes(source)
        self.log_alpha = {
            name: torch.full(shapes[name], INITIAL_LOG_ALPHA, dtype=torch.float64).requires_grad_()
            for name in self.counts
        }
        self.linear, self.quadratic = (
            {
                name: torch.full(shapes[name][:-1], start, dtype=torch.float64).requires_grad_()
                for name in self.counts
            }
            for start in (0.0, INITIAL_QUADRATIC)
        )
        multipliers = [*self.linear.values(), *self.quadratic.values()]
        self.optimizer = torch.optim.Adam(
            [
                {"params": list(self.log_alpha.values()), "lr": config.mask_lr},
                {"params": multipliers, "lr": config.multiplier_lr, "maximize": True},
            ]
        )

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Return the masks of this step, full size; the noise depends on seed and step alone."""
        words = np.random.SeedSequence((seed, self.step)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
        return {
            name: hard_concrete.sample(
                log_alpha, torch.rand(log_alpha.shape, generator=generator, dtype=torch.float64)
            )
            for name, log_alpha in self.log_alpha.items()
        }

    def learn(self, masks: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Take one step, given the gradients of the loss by the `masks` that were drawn."""
        targets = {
            name: warmed_up(kept / units, self.step, self.warmup)
            for name, (units, kept) in self.counts.items()
        }
        total = lagrangian(self.shares(), targets, self.linear, self.quadratic)
        for name, mask in masks.items():
            total = total + (mask * gradients[name]).sum()
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            for log_alpha in self.log_alpha.values():
                log_alpha.clamp_(-BOUND, BOUND)
        self.step += 1

    def shares(self) -> dict[str, Tensor]:
        """Return the expected share ŝ of open units under every constraint."""
        return {
            name: hard_concrete.open_probability(log_alpha).mean(dim=-1)
            for name, log_alpha in self.log_alpha.items()
        }

    def worst_excess(self) -> float:
        """Return the largest |ŝ − t| over all constraints, t the final target."""
        return max(
            float((share.detach() - kept / units).abs().max())
            for (units, kept), share in zip(
                self.counts.values(), self.shares().values(), strict=True
            )
        )

    def settled(self) -> bool:
        """Return whether every expected size is within `shearing.tolerance` of its target."""
        shares = self.shares()
        return all(
            bool(((shares[name] * units - kept).abs() <= tolerance(units)).all())
            for name, (units, kept) in self.counts.items()
        )

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Return all that a continued run needs, by name."""
        arrays = {f"parameter.{i}": p.detach().numpy() for i, p in enumerate(self._parameters())}
        for index, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                arrays[f"adam.{index}.{name}"] = np.asarray(value, dtype=np.float64)
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[np.float64]], step: int) -> None:
        """Go on from what `state` returned after `step` steps."""
        self.step = step
        moments: dict[int, dict[str, Tensor]] = {}
        for key, array in arrays.items():
            if key.startswith("adam."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = torch.tensor(array)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        with torch.no_grad():
            for place, parameter in enumerate(self._parameters()):
                parameter.copy_(torch.tensor(arrays[f"parameter.{place}"]))

    def _parameters(self) -> list[Tensor]:
        return [*self.log_alpha.values(), *self.linear.values(), *self.quadratic.values()]
