"""Measure the cost of `OneCycleScheduler` and of an isolated trial, as ratios to comparable code.

Each repetition times both sides of a ratio one after the other, in alternating order, on one thread; the table gives
the median, smallest and largest ratio over the repetitions.

- step: one ``scheduler.step()`` of `OneCycleScheduler` against torch's ``OneCycleLR``, with momentum cycling, for one
  group, 100 groups with one lr, and 100 groups with 100 lrs. The optimizer step is not included.
- trial: `run_trial` of 100 steps in a real fit of a small net on scikit-learn's digits, batches of 32, from the first
  ``on_train_epoch_start``, against (a) the loop of a fit of 100 steps from the same hook to ``on_train_end``, (b) a
  whole ``Trainer.fit`` of 100 steps, with its setup and teardown, (c) the search of Lightning's `LearningRateFinder`
  with 100 steps, including its saving and restoring and its progress bar. No early stop. The trial runs one step more
  than the others, because the loss of step k + 1 shows the effect of step k.
- length: the loop of a fit of 400 steps whose one-cycle schedule follows the run, without and with a ``max_time``,
  against that of one whose ``total_steps`` is given.

    python benchmarks/cost.py

Result (torch 2.15.0, lightning 2.6.6, Python 3.11, 2 cores of a shared x86 server, n = 41, 45 s): a step of
`OneCycleScheduler` takes 2.28 (1.84 to 3.24) times as long as one of ``OneCycleLR`` with one group (11.6 against 5.2
microseconds), 0.48 (0.29 to 0.66) times with 100 groups of one lr and 1.62 (1.09 to 2.15) times with 100 groups of 100
lrs. A trial of 100 steps takes 1.28 (0.68 to 2.13) times as long as the loop of a fit, 1.26 (0.68 to 2.12) times as
long as a whole fit and 1.13 (0.65 to 1.83) times as long as Lightning's search: no difference that these cores can
resolve. In another run on one of the cores, shared with other work, with n = 31 (quartiles in brackets), a fit that
follows its run takes 1.04 (0.99 to 1.06) times as long as one of a given length, at 0.95 milliseconds a step, and 1.00
(0.98 to 1.05) times with ``max_time``: no difference either.
"""

import argparse
import io
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from pl_onecycle import OneCycleScheduler, RangeTestPolicy, configure_one_cycle
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.trial import run_trial

TRIAL_STEPS = 100
FIT_STEPS = 400
MIN_LR, MAX_LR = 1e-6, 0.1  # this sweep does not diverge
SCHEDULE_STEPS = 100
Measure = Callable[[], float]  # seconds


# --------------------------------------------------------------------------------------------- step
def step_seconds(scheduler_class: type[OneCycleScheduler] | type[OneCycleLR], lrs: list[float]) -> float:
    """Return the mean seconds per scheduler step, over a whole schedule with one group for each of ``lrs``."""
    optimizer = SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs], lrs[0], momentum=0.9)
    scheduler = scheduler_class(optimizer, lrs, SCHEDULE_STEPS)
    optimizer.step()
    start = time.perf_counter()
    for _ in range(SCHEDULE_STEPS - 1):
        scheduler.step()
    return (time.perf_counter() - start) / (SCHEDULE_STEPS - 1)


# -------------------------------------------------------------------------------------------- trial
class Net(pl.LightningModule):
    """A small classifier of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.lr = 0.01
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), self.lr, momentum=0.9)


class Scheduled(Net):
    """The same with a one-cycle schedule; with ``total_steps`` it does not follow its run."""

    def __init__(self, total_steps: int | None) -> None:
        super().__init__()
        self.total_steps = total_steps

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, super().configure_optimizers(), total_steps=self.total_steps)


@cache
def digits() -> TensorDataset:
    """1,797 images of 8 x 8 pixels: 57 batches of 32."""
    images, labels = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))


class Stopwatch(pl.Callback):
    """Measure the time of the loop of a fit."""

    def __init__(self) -> None:
        self.start: float | None = None
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = self.start or time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.start is not None
        self.seconds = time.perf_counter() - self.start


class Trial(pl.Callback):
    """Measure the time of a trial."""

    seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        start = time.perf_counter()
        policy = RangeTestPolicy(MIN_LR, MAX_LR, TRIAL_STEPS)
        curve = run_trial(RunOptimizer(trainer, 0), policy, early_stop_threshold=None)
        self.seconds = time.perf_counter() - start
        assert len(curve) == TRIAL_STEPS


class TimedFinder(LearningRateFinder):
    """Measure the time of Lightning's search."""

    seconds = 0.0

    def lr_find(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        start = time.perf_counter()
        super().lr_find(trainer, pl_module)
        self.seconds = time.perf_counter() - start
        assert self.optimal_lr is not None
        assert len(self.optimal_lr.results["lr"]) == TRIAL_STEPS


def fit(
    callbacks: list[pl.Callback], max_steps: int, net: pl.LightningModule | None = None, max_time: Any = None
) -> float:
    """Fit a net and return the seconds of the whole call."""
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_steps=max_steps,
        max_time=max_time,
        callbacks=callbacks,
        default_root_dir=tempfile.gettempdir(),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(digits(), 32, shuffle=True)
    start = time.perf_counter()
    trainer.fit(net or Net(), loader)
    return time.perf_counter() - start


def trial() -> float:
    """Return the seconds of our trial, in a fit of one step."""
    callback = Trial()
    fit([callback], max_steps=1)
    return callback.seconds


def loop() -> float:
    """Return the seconds of the loop of a plain fit."""
    callback = Stopwatch()
    fit([callback], max_steps=TRIAL_STEPS)
    return callback.seconds


def scheduled(total_steps: int | None, max_time: Any = None) -> float:
    """Return the seconds of the loop of a fit with a one-cycle schedule."""
    callback = Stopwatch()
    fit([callback], FIT_STEPS, Scheduled(total_steps), max_time)
    return callback.seconds


def whole_fit() -> float:
    """Return the seconds of a whole plain fit."""
    return fit([], max_steps=TRIAL_STEPS)


def lightnings() -> float:
    """Return the seconds of Lightning's search, in a fit of one step."""
    finder = TimedFinder(MIN_LR, MAX_LR, TRIAL_STEPS, early_stop_threshold=None, update_attr=False)
    fit([finder], max_steps=1)
    return finder.seconds


# --------------------------------------------------------------------------------------------- table
def interleaved(measures: list[Measure], n: int) -> list[list[float]]:
    """Return the seconds of each measure in n repetitions after a warm-up; every other one reverses the order."""
    seconds: list[list[float]] = [[] for _ in measures]
    order = list(range(len(measures)))
    for repetition in range(-1, n):
        for i in order if repetition % 2 else reversed(order):
            taken = measures[i]()
            if repetition >= 0:
                seconds[i].append(taken)
    return seconds


def row(name: str, one: list[float], other: list[float], unit: str) -> str:
    """Return one row of the table."""
    scale = {"µs": 1e6, "ms": 1e3}[unit]
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    medians = " against ".join(f"{statistics.median(seconds) * scale:.1f}" for seconds in (one, other))
    return f"| {name} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {medians} {unit} |"


def cpu() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@contextmanager
def silence() -> Iterator[None]:
    """Hide Lightning's messages and the progress bar of its finder."""
    logging.getLogger("lightning.pytorch").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with redirect_stderr(io.StringIO()):
        yield


def main(quick: bool) -> None:
    """Run the measurements and print the table."""
    torch.set_num_threads(1)
    n = 3 if quick else 41
    print(f"torch {version('torch')}, lightning {version('lightning')}, {cpu()}, n = {n}\n")
    print("| what | median ratio (min to max) | medians |\n|---|---|---|")
    groups = {"1 group": [0.1], "100 groups": [0.1] * 100, "100 groups, 100 lrs": [0.1 * 0.95**i for i in range(100)]}
    for name, lrs in groups.items():
        one, other = interleaved([partial(step_seconds, kind, lrs) for kind in (OneCycleScheduler, OneCycleLR)], n)
        print(row(f"step, {name}: OneCycleScheduler against OneCycleLR", one, other, "µs"), flush=True)
    names = ("the loop of a fit", "a whole Trainer.fit", "LearningRateFinder")
    one, *others = interleaved([trial, loop, whole_fit, lightnings], n)
    for name, other in zip(names, others, strict=True):
        print(row(f"trial of {TRIAL_STEPS} steps against {name}", one, other, "ms"))
    for name, max_time in {"": None, " with max_time": {"hours": 1}}.items():
        measures: list[Measure] = [partial(scheduled, total_steps, max_time) for total_steps in (None, FIT_STEPS)]
        one, other = interleaved(measures, n)
        print(row(f"fit of {FIT_STEPS} steps{name}: length of the run against a given one", one, other, "ms"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 repetitions instead of 41")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as tempfile.tempdir, silence():
        main(**vars(arguments))
