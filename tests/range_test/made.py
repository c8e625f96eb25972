"""What the tests of the range test and of all finders fit: schedules, modules with a known loss, and short fits."""

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from pl_onecycle import LossCurve, LRRangeTest, OneCycleScheduler
from tests.fits import Fixed, LRs, Momentum, SmallNet, data, line, trainer


# Of `Momentum` over 2 epochs of 8 batches: 16 steps, of which pct_start = 0.5 is a whole number.
def torch_one_cycle(module: SmallNet, optimizer: Any) -> Any:
    rates = [group["lr"] for group in optimizer.param_groups]
    return schedulers.OneCycleLR(optimizer, max_lr=rates, total_steps=16, pct_start=0.5)


def torch_cyclic(module: SmallNet, optimizer: Any) -> Any:
    rates = [group["lr"] for group in optimizer.param_groups]
    lowest = [rate / 4 for rate in rates]
    return schedulers.CyclicLR(optimizer, lowest, rates, step_size_up=4, cycle_momentum=False)


SCHEDULES: dict[str, Any] = {
    "OneCycleLR": torch_one_cycle,
    "OneCycleScheduler": lambda module, optimizer: OneCycleScheduler(optimizer, None, 16),
    "no scheduler": None,
    "LambdaLR": lambda module, optimizer: schedulers.LambdaLR(optimizer, lambda k: min((k + 1) / 5, 1.0)),
    "CosineAnnealingLR": lambda module, optimizer: schedulers.CosineAnnealingLR(optimizer, 16),
    "CyclicLR": torch_cyclic,
    "warm-up, then cosine": lambda module, optimizer: schedulers.SequentialLR(
        optimizer,
        [schedulers.LinearLR(optimizer, 0.1, total_iters=4), schedulers.CosineAnnealingLR(optimizer, 12)],
        milestones=[4],
    ),
}


class Results(pl.Callback):
    """Keeps the result of a test at the start of each epoch, after the test has run; to be listed behind it."""

    def __init__(self, test: LRRangeTest) -> None:
        self.test = test
        self.curves: list[LossCurve] = []
        self.lr: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.test.curve is not None
        assert self.test.suggestion is not None
        self.curves.append(self.test.curve)
        self.lr.append(self.test.suggestion.lr)


class Valley(Momentum):
    """Has the loss 1 + log10(lr / best)^2 after a step with ``lr``, with a best lr for each two epochs."""

    def __init__(self, *best: float, schedule: Any = None) -> None:
        super().__init__(schedule)
        self.best, self.last = best, 1e-4

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        before, self.last = self.last, self.trainer.optimizers[0].param_groups[0]["lr"]
        return 1 + math.log10(before / self.best[self.current_epoch // 2]) ** 2 + 0 * self.loss(batch)


def with_milestones(*epochs: int, **arguments: Any) -> LRRangeTest:
    return LRRangeTest(1e-4, num_steps=40, milestones=epochs, **{"report": False, "method": "smith", **arguments})


def in_valleys(test: LRRangeTest, schedule: Any) -> tuple[list[float], LRs, Valley]:
    """Fit six epochs of eight batches; return the result that stands in each epoch, and what each step used."""
    results, lrs, module = Results(test), LRs(), Valley(1.0, 0.5, 0.2, schedule=schedule)
    trainer([test, results, lrs], max_epochs=6).fit(module, data())
    # The best lr by "smith", to one step of the sweep: five decades in 39.
    assert results.lr == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.02, 0.02], rel=10 ** (5 / 39) - 1)
    return results.lr, lrs, module


def fit_unchanged(loss: float, caplog: pytest.LogCaptureFixture, **arguments: Any) -> tuple[LRRangeTest, str]:
    """Fit a constant loss, which gives no suggestion: the lr must stay the user's. Return the test and its line."""
    test, lrs = LRRangeTest(num_steps=30), LRs()
    with caplog.at_level("INFO"):
        trainer([test, lrs], **arguments).fit(Fixed(loss), data())
    assert test.suggestion is None
    assert {rate for rates in lrs.lr for rate in rates} <= {0.1}
    return test, line(caplog)


class Watched(Momentum):
    """Keeps, in lists that no trial puts back, what each step has seen; logs loss and accuracy of both kinds of step.

    Class attributes, as those of the module are put back; `watched` makes a class with lists of its own.
    """

    lrs: list[float]
    batches: list[float]
    val_losses: list[float]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.lrs.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.batches.append(float(batch[0].sum()))
        loss = self.observed(batch)
        self.log("train_acc", self.accuracy(batch), on_step=True, on_epoch=False)
        return loss

    def observed(self, batch: Any) -> Any:
        return self.loss(batch)

    def accuracy(self, batch: Any) -> Any:
        return (self.net(batch[0]).argmax(1) == batch[1]).float().mean()


class WatchedToo(Watched):
    """And the same of validation steps."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.loss(batch)
        self.val_losses.append(float(loss))
        self.log_dict({"val_loss": loss, "val_acc": self.accuracy(batch)})


class Constant(Watched):
    def observed(self, batch: Any) -> Any:
        return 1.5 + 0 * self.loss(batch)


def watched(kind: type[Watched] = Watched) -> Watched:
    torch.manual_seed(0)
    module: Watched = type(kind.__name__, (kind,), {"lrs": [], "batches": [], "val_losses": []})()
    return module


def one_step(test: LRRangeTest, module: Watched, *loaders: Any, **options: Any) -> list[float]:
    """Fit one real step, behind the test, and return the lrs of the steps of the test."""
    torch.manual_seed(0)
    arguments = {"max_steps": 1, "max_epochs": 1, "limit_val_batches": 1.0, "num_sanity_val_steps": 0} | options
    trainer([test], **arguments).fit(module, *(loaders or [data(shuffle=True)]))
    assert module.lrs[-1] == 0.01 or test.apply
    return module.lrs[:-1]
