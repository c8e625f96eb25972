"""`LRRangeTest` and Lightning's own `LearningRateFinder` under the same conditions.

Every scenario is a real fit of a small net on scikit-learn's handwritten digits, on the CPU, once with each of the
two, with the same range, number of steps and seed. It passes or reports in a few words what went wrong. Two groups:

- used: the lr at the peak of the real run is the suggestion, and the parameter groups keep their ratio to it. The peak
  is the step with the largest lr in the same fit without a finder.
- robust: the loss or the length of the run is unusual during the test.

`isolation.py` measures what the two leave behind in the run. The authors of `LRRangeTest` chose scenarios in which a
test at the start of a fit is easy to get wrong: they show where the two differ, not how often a user will notice.

    python benchmarks/peers.py

Result (torch 2.15.0, lightning 2.6.6, 2 cores of a shared x86 server, 11 scenarios in 20 s, n = 2 runs with the same
table): `LRRangeTest` passes 11 of 11, `LearningRateFinder` 3 of the 9 that apply to it: two of five "used" (no
scheduler, cosine by epoch) and one of four "robust" (NaN).
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from measuring import silence
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import SGD, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from pl_onecycle import LRRangeTest, OneCycleScheduler, configure_one_cycle

MIN_LR, MAX_LR, TEST_STEPS = 1e-5, 10.0, 60
LR = 0.01  # the user's own
BATCHES, EPOCHS = 20, 3
STEPS = BATCHES * EPOCHS
PASS = "pass"


# ------------------------------------------------------------------------------------------- the two
@dataclass(frozen=True)
class Finder:
    """A uniform interface to one of the two callbacks."""

    build: Callable[[bool, float | None], pl.Callback]  # (apply, early_stop_threshold)
    suggestion: Callable[[Any], float | None]
    swept: Callable[[Any], list[float]]  # learning rates of the recorded points


FINDERS = {
    "LRRangeTest": Finder(
        lambda apply, stop: LRRangeTest(MIN_LR, MAX_LR, TEST_STEPS, apply=apply, early_stop_threshold=stop),
        lambda callback: None if callback.suggestion is None else callback.suggestion.lr,
        lambda callback: list(callback.curve.lr),
    ),
    # With `update_attr=False` it leaves the user's lr in the optimizer, so there is nothing to restore.
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
        twist: Transformation of the loss.
    """

    def __init__(self, optimizers: Callable[["Net"], Any], twist: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.lr, self.optimizers_of, self.twist = LR, optimizers, twist
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.twist(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return self.optimizers_of(self)


class LRs(pl.Callback):
    """Record the lr of every group at every optimizer step of the real run."""

    def __init__(self) -> None:
        self.lrs: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.lrs.append([float(group["lr"]) for group in optimizer.param_groups])


@cache
def digits() -> TensorDataset:
    """Return the first 640 images of 8 x 8 pixels: 20 batches of 32."""
    images, labels = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(images[:640] / 16, dtype=torch.float32), torch.tensor(labels[:640]))


class Fit:
    """A net, its data and a Trainer, from one seed, with a finder or without."""

    def __init__(
        self, case: "Case", finder: Finder | None = None, *, apply: bool = True, stop: float | None = 4.0
    ) -> None:
        pl.seed_everything(0, verbose=False)
        self.net = Net(case.optimizers, case.twist)
        self.recorder = LRs()
        callbacks: list[Any] = [finder.build(apply, stop)] if finder else []
        self.callback = callbacks[0] if callbacks else None
        self.trainer = pl.Trainer(
            callbacks=[*callbacks, self.recorder],
            default_root_dir=tempfile.mkdtemp(),
            accelerator="cpu",
            devices=1,
            max_epochs=case.epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def run(self) -> "Fit":
        """Train."""
        self.trainer.fit(self.net, DataLoader(digits(), 32))
        return self


# ---------------------------------------------------------------------------------------- scenarios
@dataclass(frozen=True)
class Case:
    """One scenario: a check, and the special settings of the fit.

    Attributes:
        check: (case, finder) -> `PASS` or what went wrong.
        ours: Whether it uses a schedule of this package; then Lightning's finder is skipped.
    """

    name: str
    check: Callable[["Case", Finder], str]
    optimizers: Callable[[Net], Any] = lambda net: SGD(net.parameters(), net.lr, momentum=0.9)
    twist: Callable[[Tensor], Tensor] = lambda loss: loss
    epochs: int = EPOCHS
    ours: bool = False

    def verdict(self, finder: Finder) -> str:
        """Run the check; an exception is a failure, too."""
        try:
            return self.check(self, finder)
        except Exception as error:
            words = str(error).split()
            return f"{type(error).__name__}: {' '.join(word for word in words[:12] if '/' not in word)}"


# ---- checks
def used(case: Case, finder: Finder) -> str:
    """Check that the lr at the peak is the suggestion, in every group in proportion."""
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


def refuses(case: Case, finder: Finder) -> str:
    """Check that there is no suggestion and training continues with the user's lr."""
    fit = Fit(case, finder).run()
    suggestion = finder.suggestion(fit.callback)
    if suggestion is not None:
        return f"suggests {suggestion:.2g}"
    trained = {lr for lrs in fit.recorder.lrs for lr in lrs}
    return PASS if trained == {LR} else f"trains with {_lrs(sorted(trained))} instead of {LR}"


def sweeps_on(case: Case, finder: Finder) -> str:
    """Check that the sweep reaches the largest lr."""
    swept = finder.swept(Fit(case, finder, stop=None).run().callback)
    return PASS if swept[-1] > 0.99 * MAX_LR else f"{len(swept)} of {TEST_STEPS} steps, up to lr {swept[-1]:.2g}"


def goes_past_the_start(case: Case, finder: Finder) -> str:
    """Check that the sweep is not cut off before it shows anything."""
    points = len(finder.swept(Fit(case, finder).run().callback))
    return PASS if points > TEST_STEPS / 2 else f"cut off after {points} of {TEST_STEPS} steps"


# ---- optimizers
def scheduled(build: Callable[[SGD, float], Any], interval: str, net: Net) -> dict[str, Any]:
    """Return SGD and the scheduler that ``build`` makes from it and the net's lr."""
    optimizer = SGD(net.parameters(), net.lr, momentum=0.9)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": build(optimizer, net.lr), "interval": interval}}


def two_groups(net: Net) -> SGD:
    """Return SGD with a slow first layer and a fast second layer."""
    groups: list[dict[str, Any]] = [{"params": layer.parameters()} for layer in (net.net[0], net.net[2])]
    groups[0]["lr"] = net.lr / 10
    return SGD(groups, net.lr, momentum=0.9)


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
    "robust": [
        Case("loss is NaN from the first step on", refuses, twist=lambda loss: loss * float("nan")),
        Case("loss is constant", refuses, twist=lambda loss: loss * 0 + 1),
        Case("run shorter than the test", sweeps_on, epochs=1),
        Case("loss is negative", goes_past_the_start, twist=lambda loss: loss - 10),
    ],
}


# --------------------------------------------------------------------------------------------- table
def main(quick: bool) -> None:
    """Print one row per scenario when it is done, and the counts."""
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
