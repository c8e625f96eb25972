"""Fits of small nets on scikit-learn's digits, as the performance benchmarks time them."""

import tempfile
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from measuring import clock
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from pl_onecycle import RangeTestPolicy
from pl_onecycle.finder import Finder
from pl_onecycle.report import Saved
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.trial import run_trial
from pl_onecycle.trial.isolation import isolated

Kind = Literal["MLP", "conv"]
KINDS: tuple[Kind, ...] = ("MLP", "conv")


def mlp() -> nn.Module:
    """Return a net whose step takes about a millisecond, of which Lightning takes most."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def conv() -> nn.Module:
    """Return a net with two convolutions and BatchNorm, whose step takes a few milliseconds."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


class Net(pl.LightningModule):
    """A small classifier of digits."""

    steps: ClassVar[int] = 0  # training steps, also those of trials; a class attribute, as a trial restores others

    def __init__(self, kind: Kind = "MLP", lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        self.net = mlp() if kind == "MLP" else conv()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        Net.steps += 1
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=1e-4)


@cache
def digits() -> TensorDataset:
    """1,797 images of 8 x 8 pixels: 57 batches of 32."""
    images, labels = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))


def loader() -> DataLoader[Any]:
    """Return shuffled batches of 32."""
    return DataLoader(digits(), 32, shuffle=True)


def fit(net: pl.LightningModule, max_steps: int, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """Fit a net and return the Trainer."""
    pl.seed_everything(0, verbose=False)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    given: dict[str, Any] = {"accelerator": "cpu", "default_root_dir": tempfile.gettempdir(), **quiet, **options}
    trainer = pl.Trainer(max_steps=max_steps, max_epochs=-1, callbacks=list(callbacks), **given)
    trainer.fit(net, loader())
    return trainer


class Stopwatch(pl.Callback):
    """Measure the time of the loop of a fit, from the hook in which a finder would run."""

    start: float | None = None
    seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = clock() if self.start is None else self.start

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.start is not None
        self.seconds = clock() - self.start


class Least(pl.Callback):
    """Write the lr before each step and fetch the loss after it: the least that any test of this kind can do."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.01

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        outputs["loss"].item()


class Isolation(pl.Callback):
    """Isolate a trial without steps, and measure the time of entering and of leaving.

    Attributes:
        enter: Seconds.
        leave: Seconds.
    """

    enter = leave = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        isolation = isolated(trainer, pl.Callback(), 0, lambda: False)
        with self.observed():
            start = clock()
            isolation.__enter__()
            enter = clock() - start
        start = clock()
        isolation.__exit__(None, None, None)
        self.enter, self.leave = enter, clock() - start

    def observed(self) -> AbstractContextManager[Any]:
        """Return what surrounds the entering."""
        return nullcontext()


class Timed(Finder[Any]):
    """Mixed into a finder: measure its search.

    Attributes:
        seconds: Time that the fit waits for it before its first batch.
        saving: How much of it the files of its report take.
        drawing: Time that it takes at the end of batches, when pictures are drawn.
        steps_taken: How many steps it has trained.
    """

    seconds = saving = drawing = 0.0
    steps_taken = 0

    def find(self, trainer: pl.Trainer, saves: bool = True) -> None:
        Net.steps, start = 0, clock()
        super().find(trainer, saves)
        self.seconds, self.steps_taken = clock() - start, Net.steps

    def _save(self, run: RunOptimizer, changed: list[str]) -> Saved:
        start = clock()
        saved = super()._save(run, changed)
        self.saving = clock() - start
        return saved

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        start = clock()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.drawing += clock() - start


class TimedFinder(LearningRateFinder):
    """Measure the time of Lightning's search, with its saving, restoring and progress bar."""

    seconds = 0.0

    def lr_find(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        start = clock()
        super().lr_find(trainer, pl_module)
        self.seconds = clock() - start


def lightnings_finder(steps: int) -> TimedFinder:
    """Return Lightning's finder, which sweeps up to an lr at which no net here diverges and does not end early."""
    return TimedFinder(1e-6, 0.1, steps, early_stop_threshold=None)


def loop_seconds(net: pl.LightningModule, steps: int, *callbacks: pl.Callback, **options: Any) -> float:
    """Return the time of the loop of a fit."""
    watch = Stopwatch()
    fit(net, steps, watch, *callbacks, **options)
    return watch.seconds


class Trial(pl.Callback):
    """Measure the time of a trial that does not end early.

    Args:
        steps: Of its policy; it trains one more, as the loss of step k + 1 shows the effect of step k.
    """

    seconds = 0.0

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        policy = RangeTestPolicy(1e-6, 0.1, self.steps)
        start = clock()
        curve = run_trial(RunOptimizer(trainer, 0), policy, early_stop_threshold=None)
        self.seconds = clock() - start
        assert len(curve) == self.steps


def trial_seconds(net: pl.LightningModule, steps: int) -> float:
    """Return the time of a trial, in a fit of one step."""
    trial = Trial(steps)
    fit(net, 1, trial)
    return trial.seconds
