"""`LRRangeTest` and Lightning's own `LearningRateFinder` under the same conditions, side by side.

Every scenario is a real fit of a small net on scikit-learn's handwritten digits, on the CPU, once with each of the
two, with the same range, number of steps and seed. It passes or says in a few words what went wrong. Three groups:

- used: the lr at the peak of the real run is the suggestion, and the parameter groups keep their ratio to it. The peak
  is the step with the largest lr in the same fit without a finder.
- invisible: a fit with the finder whose suggestion is not applied ends bit-identical to the same fit without it:
  weights, buffers, optimizer state, random streams and generators, metrics, logged rows, counters, plain attributes.
- robust: something is out of the ordinary during the test.

The scenarios were chosen by the authors of `LRRangeTest`, as conditions in which a test at the start of a fit is easy
to get wrong: they tell where the two differ, not how often a user will notice.

    python benchmarks/peers.py

Result (torch 2.15.0, lightning 2.6.6, 2 cores of a shared x86 server, 24 scenarios in 45 s, n = 2 runs with the same
table): `LRRangeTest` passes 24 of 24, `LearningRateFinder` 3 of the 22 that can be asked of it: two of five "used" (no
scheduler, cosine by epoch), none of ten "invisible", one of seven "robust" (NaN). Of its ten "invisible" fits, four
differ in nothing but the global random streams and four train other weights (dropout and the three shuffled loaders).
"""

import argparse
import io
import itertools
import logging
import os
import random
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import SGD, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from pl_onecycle import LRRangeTest, OneCycleScheduler, configure_one_cycle

MIN_LR, MAX_LR, TEST_STEPS = 1e-5, 10.0, 60
LR = 0.01  # what the user typed
BATCHES, EPOCHS = 20, 3
STEPS = BATCHES * EPOCHS
PASS = "pass"


# ------------------------------------------------------------------------------------------- the two
@dataclass(frozen=True)
class Finder:
    """How to ask one of the two callbacks for the same things."""

    build: Callable[[bool, float | None], pl.Callback]  # (apply, early_stop_threshold)
    suggestion: Callable[[Any], float | None]
    swept: Callable[[Any], list[float]]  # learning rates of the recorded points


FINDERS = {
    "LRRangeTest": Finder(
        lambda apply, stop: LRRangeTest(MIN_LR, MAX_LR, TEST_STEPS, apply=apply, early_stop_threshold=stop),
        lambda callback: None if callback.suggestion is None else callback.suggestion.lr,
        lambda callback: list(callback.curve.lr),
    ),
    # With `update_attr=False` it leaves the user's lr in the optimizer, so there is nothing to put back.
    "LearningRateFinder": Finder(
        lambda apply, stop: LearningRateFinder(
            MIN_LR, MAX_LR, TEST_STEPS, update_attr=apply, early_stop_threshold=stop
        ),
        lambda callback: callback.optimal_lr.suggestion(),
        lambda callback: list(callback.optimal_lr.results["lr"]),
    ),
}


# ------------------------------------------------------------------------------------------- one fit
class Net(pl.LightningModule):
    """A small classifier of digits.

    Args:
        optimizers: What ``configure_optimizers`` returns.
        layer: Stands between the two linear layers.
        twist: What else a training step does; takes the net, the batch and the loss, returns the loss.
    """

    def __init__(
        self,
        optimizers: Callable[["Net"], Any],
        layer: Callable[[], nn.Module],
        twist: Callable[["Net", list[Tensor], Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.lr, self.optimizers_of, self.twist = LR, optimizers, twist
        self.net = nn.Sequential(nn.Linear(64, 32), layer(), nn.ReLU(), nn.Linear(32, 10))
        self.center: Tensor
        self.register_buffer("center", torch.zeros(64), persistent=False)
        self.accuracy = MulticlassAccuracy(num_classes=10)
        self.samples_seen = 0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.twist(self, batch, nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return self.optimizers_of(self)


class LRs(pl.Callback):
    """Records the lr of every group at every optimizer step of the real run."""

    def __init__(self) -> None:
        self.lrs: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.lrs.append([float(group["lr"]) for group in optimizer.param_groups])


@cache
def digits() -> TensorDataset:
    """The first 640 images of 8 x 8 pixels: 20 batches of 32."""
    images, labels = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(images[:640] / 16, dtype=torch.float32), torch.tensor(labels[:640]))


class Fit:
    """A net, its data and a Trainer, from one seed, with a finder or without."""

    def __init__(
        self, case: "Case", finder: Finder | None = None, *, apply: bool = True, stop: float | None = 4.0
    ) -> None:
        pl.seed_everything(0, verbose=False)
        self.net = Net(case.optimizers, case.layer, case.twist)
        self.loader: DataLoader[Any] = case.loader()
        self.root = Path(tempfile.mkdtemp())
        self.recorder = LRs()
        callbacks: list[Any] = [finder.build(apply, stop)] if finder else []
        self.callback = callbacks[0] if callbacks else None
        quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        self.trainer = pl.Trainer(
            callbacks=[*callbacks, self.recorder],
            default_root_dir=self.root,
            accelerator="cpu",
            devices=1,
            log_every_n_steps=1,
            **{"max_epochs": EPOCHS, "logger": CSVLogger(self.root, name="", version=""), **quiet, **case.trainer},
        )

    def run(self) -> "Fit":
        """Train."""
        self.trainer.fit(self.net, self.loader)
        return self

    def result(self) -> dict[str, Any]:
        """All that a fit leaves behind, by name."""
        rows = self.root / "metrics.csv"
        generator = self.loader.generator
        return {
            "weights": self.net.state_dict(),
            "hidden buffers": dict(self.net.named_buffers()),
            "optimizer": self.trainer.optimizers[0].state_dict(),
            "random streams": [torch.get_rng_state(), np.random.get_state(), random.getstate()],
            "loader's generator": None if generator is None else generator.get_state(),
            "logged rows": rows.read_text() if rows.exists() else "",
            "metrics": self.trainer.callback_metrics,
            "counters": [self.trainer.global_step, self.trainer.fit_loop.state_dict()],
            "attributes": self.net.samples_seen,
        }

    def settings(self) -> dict[str, Any]:
        """What a test has to give back whichever way it ends."""
        names = ("callbacks", "loggers", "max_steps", "max_epochs", "limit_train_batches", "limit_val_batches")
        weights = {key: value.clone() for key, value in self.net.state_dict().items()}
        return {name: _shallow(getattr(self.trainer, name)) for name in names} | {"weights": weights}


def _shallow(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the parts that are not the same."""
    return [name for name in one if not same(one[name], other[name])]


# ---------------------------------------------------------------------------------------- scenarios
@dataclass(frozen=True)
class Case:
    """One scenario: a check, and what is special about the fit.

    Attributes:
        check: Takes the case and a finder and returns `PASS` or what went wrong.
        ours: Built on a schedule of this package, so nothing to ask Lightning's finder about.
    """

    name: str
    check: Callable[["Case", Finder], str]
    optimizers: Callable[[Net], Any] = lambda net: SGD(net.parameters(), net.lr, momentum=0.9)
    layer: Callable[[], nn.Module] = nn.Identity
    loader: Callable[[], DataLoader[Any]] = lambda: DataLoader(digits(), 32)
    twist: Callable[[Net, list[Tensor], Tensor], Tensor] = lambda net, batch, loss: loss
    trainer: dict[str, Any] = field(default_factory=dict)
    ours: bool = False

    def verdict(self, finder: Finder) -> str:
        """Run the check; an exception is a failure too."""
        try:
            return self.check(self, finder)
        except Exception as error:
            words = str(error).split()
            return f"{type(error).__name__}: {' '.join(word for word in words[:12] if '/' not in word)}"


# ---- checks
def used(case: Case, finder: Finder) -> str:
    """The lr at the peak is the suggestion, in every group in proportion."""
    plan = Fit(case).run().recorder.lrs
    fit = Fit(case, finder).run()
    suggestion = finder.suggestion(fit.callback)
    if suggestion is None:
        return "no suggestion"
    peak = max(range(len(plan)), key=lambda step: max(plan[step]))
    wanted = [suggestion * lr / max(plan[peak]) for lr in plan[peak]]
    found = fit.recorder.lrs[peak]
    return PASS if np.allclose(found, wanted, rtol=1e-6) else f"peak lr {_lrs(found)} instead of {_lrs(wanted)}"


def _lrs(lrs: list[float]) -> str:
    return " and ".join(f"{lr:.2g}" for lr in lrs)


def invisible(
    case: Case, finder: Finder, surroundings: Callable[[Path], AbstractContextManager[Any]] = nullcontext
) -> str:
    """The test runs, and the fit ends as the same fit without it."""
    expected = Fit(case).run().result()
    fit = Fit(case, finder, apply=False)
    with surroundings(fit.root):
        fit.run()
    if not finder.swept(fit.callback):
        return "the test did not run"
    changed = differing(expected, fit.result())
    return f"differ: {', '.join(changed)}" if changed else PASS


def gives_back(case: Case, finder: Finder) -> str:
    """A test that is broken off leaves Trainer and weights as they were."""
    fit = Fit(case, finder)
    before = fit.settings()
    ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        fit.run()
    except (ArithmeticError, SystemExit):  # what `fails` raises, and what Lightning makes of Ctrl-C
        changed = differing(before, fit.settings())
        return f"left changed: {', '.join(changed)}" if changed else PASS
    finally:
        signal.signal(signal.SIGINT, ctrl_c)  # Lightning has it ignored
    return "swallowed"


def refuses(case: Case, finder: Finder) -> str:
    """There is no suggestion, and training goes on with the user's lr."""
    fit = Fit(case, finder).run()
    suggestion = finder.suggestion(fit.callback)
    if suggestion is not None:
        return f"suggests {suggestion:.2g}"
    trained = {lr for lrs in fit.recorder.lrs for lr in lrs}
    return PASS if trained == {LR} else f"trains with {_lrs(sorted(trained))} instead of {LR}"


def sweeps_on(case: Case, finder: Finder) -> str:
    """The sweep goes up to the largest lr."""
    swept = finder.swept(Fit(case, finder, stop=None).run().callback)
    return PASS if swept[-1] > 0.99 * MAX_LR else f"{len(swept)} of {TEST_STEPS} steps, up to lr {swept[-1]:.2g}"


def goes_past_the_start(case: Case, finder: Finder) -> str:
    """The sweep is not cut off before it could show anything."""
    points = len(finder.swept(Fit(case, finder).run().callback))
    return PASS if points > TEST_STEPS / 2 else f"cut off after {points} of {TEST_STEPS} steps"


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only; for the superuser, who may write anyway, by being nobody for a while."""
    superuser = os.geteuid() == 0
    folder.parent.chmod(0o755)
    folder.chmod(0o555)
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)
        folder.chmod(0o755)


# ---- optimizers, loaders and twists
def scheduled(build: Callable[[SGD, float], Any], interval: str, net: Net) -> dict[str, Any]:
    """SGD with the scheduler that ``build`` makes of it and the net's lr."""
    optimizer = SGD(net.parameters(), net.lr, momentum=0.9)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": build(optimizer, net.lr), "interval": interval}}


def two_groups(net: Net) -> SGD:
    """A slow first layer and a fast second one."""
    groups: list[dict[str, Any]] = [{"params": layer.parameters()} for layer in (net.net[0], net.net[3])]
    groups[0]["lr"] = net.lr / 10
    return SGD(groups, net.lr, momentum=0.9)


def shuffled(**arguments: Any) -> DataLoader[Any]:
    """Digits in random order."""
    return DataLoader(digits(), 32, shuffle=True, **arguments)


def follow_center(net: Net, batch: list[Tensor], loss: Tensor) -> Tensor:
    """Keep a running mean of the images in a buffer."""
    net.center.lerp_(batch[0].mean(0), 0.1)
    return loss


def log_accuracy(net: Net, batch: list[Tensor], loss: Tensor) -> Tensor:
    """Log a torchmetrics attribute, by step and by epoch."""
    net.accuracy(net.net(batch[0]), batch[1])
    net.log("accuracy", net.accuracy, on_step=True, on_epoch=True)
    return loss


def count_samples(net: Net, batch: list[Tensor], loss: Tensor) -> Tensor:
    """Count samples in a plain attribute."""
    net.samples_seen += len(batch[0])
    return loss


def fails(error: type[BaseException]) -> Callable[[Net, list[Tensor], Tensor], Tensor]:
    """Raise ``error`` in every tenth training step, the first of which is within the test."""
    calls = itertools.count(1)

    def twist(net: Net, batch: list[Tensor], loss: Tensor) -> Tensor:
        if next(calls) % 10 == 0:
            raise error
        return loss

    return twist


CASES = {
    "used": [
        Case("no scheduler", used),
        Case(
            "torch OneCycleLR built from self.lr",
            used,
            partial(scheduled, lambda optimizer, lr: lr_scheduler.OneCycleLR(optimizer, lr, STEPS), "step"),
        ),
        Case(
            "LambdaLR, linear warm-up",
            used,
            partial(
                scheduled, lambda optimizer, lr: lr_scheduler.LambdaLR(optimizer, lambda k: (k + 1) / STEPS), "step"
            ),
        ),
        Case(
            "CosineAnnealingLR by epoch",
            used,
            partial(scheduled, lambda optimizer, lr: lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS), "epoch"),
        ),
        Case("two groups, lr 1 : 10", used, two_groups),
        Case(
            "our OneCycleScheduler",
            used,
            partial(scheduled, lambda optimizer, lr: OneCycleScheduler(optimizer, lr, STEPS), "step"),
            ours=True,
        ),
        Case(
            "our configure_one_cycle, two groups",
            used,
            lambda net: configure_one_cycle(net, two_groups(net)),
            ours=True,
        ),
    ],
    "invisible": [
        Case("plain SGD", invisible),
        Case("Dropout", invisible, layer=partial(nn.Dropout, 0.2)),
        Case("BatchNorm", invisible, layer=partial(nn.BatchNorm1d, 32)),
        Case("shuffle=True", invisible, loader=shuffled),
        Case(
            "shuffle=True with a torch.Generator",
            invisible,
            loader=lambda: shuffled(generator=torch.Generator().manual_seed(1)),
        ),
        Case("shuffle=True with 2 workers", invisible, loader=partial(shuffled, num_workers=2)),
        Case("accumulate_grad_batches=4", invisible, trainer={"accumulate_grad_batches": 4}),
        Case("non-persistent buffer", invisible, twist=follow_center),
        Case("torchmetrics attribute", invisible, twist=log_accuracy),
        Case("counter in a plain attribute", invisible, twist=count_samples),
    ],
    "robust": [
        Case("exception during the test", gives_back, twist=fails(ArithmeticError)),
        Case("Ctrl-C during the test", gives_back, twist=fails(KeyboardInterrupt)),
        Case("loss is NaN from the first step on", refuses, twist=lambda net, batch, loss: loss * float("nan")),
        Case("loss is constant", refuses, twist=lambda net, batch, loss: loss * 0 + 1),
        Case("run shorter than the test", sweeps_on, trainer={"max_epochs": 1}),
        Case("loss is negative", goes_past_the_start, twist=lambda net, batch, loss: loss - 10),
        Case("read-only default_root_dir", partial(invisible, surroundings=read_only), trainer={"logger": False}),
    ],
}


# --------------------------------------------------------------------------------------------- table
@contextmanager
def silence() -> Iterator[None]:
    """Keep Lightning's chatter and the finder's progress bar, which is always shown, off the screen."""
    logging.getLogger("lightning.pytorch").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with redirect_stderr(io.StringIO()):
        yield


def main(quick: bool) -> None:
    """Print one row for each scenario as it is done, and the count."""
    torch.set_num_threads(1)
    print(f"torch {version('torch')}, lightning {version('lightning')}\n")
    print(f"| scenario | {' | '.join(FINDERS)} |\n|---|{'---|' * len(FINDERS)}")
    passed, asked = dict.fromkeys(FINDERS, 0), dict.fromkeys(FINDERS, 0)
    for group, case in ((group, case) for group, cases in CASES.items() for case in cases[: 1 if quick else None]):
        cells = []
        for name, finder in FINDERS.items():
            skip = case.ours and name != "LRRangeTest"
            cells.append("-" if skip else case.verdict(finder))
            asked[name] += not skip
            passed[name] += cells[-1] == PASS
        print(f"| {group}: {case.name} | {' | '.join(cells)} |", flush=True)
    print(f"| passed | {' | '.join(f'{passed[name]} of {asked[name]}' for name in FINDERS)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the first scenario of each group")
    arguments = parser.parse_args()
    folder = tempfile.TemporaryDirectory()
    tempfile.tempdir = folder.name
    with folder, silence():
        main(**vars(arguments))
