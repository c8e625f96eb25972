"""Trials that the tests of the trial share: modules with given losses, and the curve of a trial in a real fit."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from pl_onecycle.curves import LossCurve
from pl_onecycle.policy import Policy, RangeTestPolicy
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.trial import run_trial
from tests.fits import data, trainer

SWEEP = RangeTestPolicy(1e-3, 1.0, 7)  # half a decade a step


def half_decades(steps: int) -> list[float]:
    """The learning rates of `SWEEP`, held after its end."""
    return [1e-3 * 10 ** (min(step, 6) / 2) for step in range(steps)]


def lr_of(optimizer: Any) -> float:
    return float(optimizer.param_groups[0]["lr"])


class _AtEpoch(pl.Callback):
    def __init__(self, act: Callable[[pl.Trainer], Any], epoch: int) -> None:
        self.act, self.epoch, self.returned = act, epoch, None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            self.returned = self.act(trainer)


def in_fit(
    act: Callable[[pl.Trainer], Any], module: pl.LightningModule, *loaders: Any, epoch: int = 0, **arguments: Any
) -> Any:
    """Fit, call ``act`` with the Trainer at the start of ``epoch``, and return what it returned."""
    callback = _AtEpoch(act, epoch)
    trainer([callback], **arguments).fit(module, *(loaders or [data()]))
    return callback.returned


def curve_of(module: pl.LightningModule, policy: Policy, *loaders: Any, **arguments: Any) -> LossCurve:
    """Fit with a trial at the start and return its curve; trial arguments go to the trial, others to the Trainer."""
    index = arguments.pop("optimizer", 0)
    of_trial = {key: arguments.pop(key) for key in ("early_stop_threshold", "on_step", "checkups") if key in arguments}
    curve = in_fit(
        lambda trainer: run_trial(RunOptimizer(trainer, index), policy, **of_trial), module, *loaders, **arguments
    )
    assert isinstance(curve, LossCurve)
    return curve


class GivenLoss(pl.LightningModule):
    """Has the given losses, one for each micro-batch, and one parameter that does not matter."""

    def __init__(self, loss: Callable[[int], float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.given, self.calls = loss, 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.calls += 1
        return self.given(self.calls - 1) + 0 * self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


Used = list[tuple[int, list[float]]]


class ByHand(pl.LightningModule):
    """Two optimizers with learning rates 0.1 and 0.2, or as many as asked, stepped by hand.

    ``plan`` says which optimizers step in a batch, one after the other. The k-th backward pass for optimizer i has the
    loss 100 * i + k, and each step is preceded by ``passes`` of them. ``used`` gets the index of each step's optimizer
    and the learning rates of all, in a list that no trial restores.
    """

    def __init__(
        self,
        plan: Callable[[int], list[int]] = lambda batch: [],
        used: Used | None = None,
        passes: int = 1,
        count: int = 2,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weights = nn.ParameterList([torch.zeros(1) for _ in range(count)])
        self.plan, self.passes = plan, passes
        self.passed = [0] * count
        self.used = None if used is None else used.append

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        found: Any = self.optimizers()
        optimizers = found if isinstance(found, list) else [found]
        for index in self.plan(batch_idx):
            optimizers[index].zero_grad()
            for _ in range(self.passes):
                self.manual_backward(self.next_loss(index))
            if self.used is not None:
                self.used((index, [lr_of(optimizer) for optimizer in optimizers]))
            optimizers[index].step()

    def next_loss(self, index: int) -> Tensor:
        self.passed[index] += 1
        loss: Tensor = 100.0 * index + self.passed[index] - 1 + 0 * self.weights[index].sum()
        return loss

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([weight], lr=0.1 * (i + 1)) for i, weight in enumerate(self.weights)]
