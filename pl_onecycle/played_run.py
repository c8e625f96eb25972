"""`PlayedRun`: records what one optimizer of a fit does, step by step, and never waits for the device.

The life of a step, seen from here: each backward pass adds a loss; when the optimizer is about to step, its lr and
momentum and the loss become one point. Losses stay on the device until the fit ends, and of a long run every second,
fourth, ... step is kept, so that no run has more than `MOST_POINTS` of them.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pl_onecycle._lightning import pl
from pl_onecycle.optimizer_groups import momentum_of
from pl_onecycle.page import Plan, Played
from pl_onecycle.trial import LossCollector, validation_loss_in

MOST_POINTS = 2000


class PlayedRun:
    """Records one optimizer of a Trainer's fit.

    Args:
        trainer: A Trainer within ``fit``.
        index: Index of the optimizer.
        plan: The schedule that is planned, if that is known.

    Attributes:
        index: See above.
        plan: See above; another one from a later search replaces it.
        stride: Every how many steps are kept.
    """

    def __init__(self, trainer: pl.Trainer, index: int, plan: Plan | None) -> None:
        self.index, self.plan = index, plan
        self.stride = 1
        self._trainer = trainer
        self._losses = LossCollector(trainer)
        self._offset = trainer.global_step if len(trainer.optimizers) == 1 else 0  # of a resumed run
        self._count = 0  # steps of this optimizer in this fit
        self._last: int | None = None  # the Trainer's step at the last one
        self._points: list[tuple[int, Any, Any, Tensor | None]] = []  # step, lr, momentum, loss
        self._validated: list[tuple[int, Tensor]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a finder is of no run: its copy is None, as that of a pickled one."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()

    @property
    def done(self) -> int:
        """How many steps the optimizer has taken, those before a resumed fit included."""
        return self._offset + self._count

    def add_backward(self, loss: Tensor) -> None:
        """Take the loss of a backward pass."""
        if self._count % self.stride == 0:
            self._losses.add_backward(loss)

    def begin_step(self, optimizer: Optimizer) -> None:
        """Take lr, momentum and loss of a step that is about to happen."""
        if optimizer is not self._trainer.optimizers[self.index]:
            self._losses.share_backward()
            return
        now = self._trainer.global_step
        if now == self._last:  # LBFGS evaluates a step several times
            self._losses.take_attempt()
            return
        if self._count % self.stride == 0:
            first, *others = optimizer.param_groups
            group = max(optimizer.param_groups, key=_lr_of) if others else first
            self._points.append((self.done, _kept(group["lr"]), _momentum(group), self._losses.take_attempt()))
            if len(self._points) >= MOST_POINTS:
                self._points = self._points[::2]
                self.stride *= 2
        self._count, self._last = self._count + 1, now

    def add_validation(self) -> None:
        """Take the validation loss that the module has just logged."""
        metrics: Mapping[str, Tensor] = self._trainer.callback_metrics
        name = validation_loss_in(metrics)
        if name is not None:
            self._validated.append((self.done, metrics[name].detach()))
            if len(self._validated) >= MOST_POINTS:
                self._validated = self._validated[::2]

    def played(self, ended: str = "") -> Played:
        """Return what was recorded, fetched from the device; ``ended`` says how the fit ended, if it has."""
        steps, lrs, momenta, losses = zip(*self._points, strict=True) if self._points else ((), (), (), ())
        has_momentum = all(momentum is not None for momentum in momenta)
        optimizer = type(self._trainer.optimizers[self.index]).__name__ if self._trainer.optimizers else "optimizer"
        return Played(
            f"{optimizer} {self.index}" if self.index else optimizer,
            [*steps],
            _fetched(lrs),
            _fetched(losses),
            _fetched(momenta) if has_momentum else [],
            [step for step, _ in self._validated],
            _fetched([value for _, value in self._validated]),
            self.done,
            ended,
            self.plan,
        )


def _nothing() -> None:
    return None


def _kept(value: Any) -> Any:
    """Return a number of a group; one in a tensor changes later, and reading it would wait for the device."""
    return value.detach().clone() if isinstance(value, Tensor) else float(value)


def _lr_of(group: dict[str, Any]) -> float:
    lr = group["lr"]
    return -math.inf if isinstance(lr, Tensor) and lr.device.type != "cpu" else float(lr)


def _momentum(group: dict[str, Any]) -> float | None:
    betas = group.get("betas")
    number = group.get("momentum") if betas is None else betas[0]
    return None if isinstance(number, Tensor) and number.device.type != "cpu" else momentum_of(group)


def _fetched(values: Any) -> list[float]:
    """Return numbers; those on a device come in one piece."""
    tensors = [value.float() for value in values if isinstance(value, Tensor)]
    fetched = iter(torch.stack([it.reshape(()) for it in tensors]).tolist() if tensors else ())
    return [next(fetched) if isinstance(value, Tensor) else math.nan if value is None else value for value in values]
