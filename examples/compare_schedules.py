"""Twelve learning rate schedules on the same net, data and number of steps: torch's own, and one cycle.

`LRRangeTest` finds one learning rate for each of two tasks, handwritten digits and a part of CIFAR-10. Each schedule
trains there with it, and again with the best learning rate of a grid around it, which is chosen with the first seed.
All use SGD with momentum 0.9; one cycle also cycles the momentum. The cyclical learning rates rise and fall six times,
between a quarter of the learning rate and all of it, and, as Smith reads them off his curve (arXiv:1506.01186), between
both ends of the trough of the range test.

Prints a ranking by the validation loss at the end. Draws all schedules, the loss over the steps, and the presets.

    python examples/compare_schedules.py                  # both tasks, three seeds: about 8 minutes on two cores
    python examples/compare_schedules.py --tasks digits   # the digits only
    python examples/compare_schedules.py --data.root DIR  # CIFAR-10 from there; downloaded by default
"""

import argparse
import itertools
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import lightning.pytorch as pl
import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from torch import Tensor, nn
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from pl_onecycle import LRRangeTest, configure_one_cycle
from pl_onecycle.curves import find_trough
from pl_onecycle.policy import from_preset

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "cifar10"))
from digits_cli import ValidatedDigits
from images import find_root, normalize, read_images
from measured import hardware, versions

GRID = (0.25, 1.0, 4.0)  # of the found lr
CYCLES = 6  # of cyclical learning rates


@dataclass(frozen=True)
class Found:
    """What the range test has found.

    Attributes:
        lr: The suggestion.
        low: Lower end of the trough.
        high: Its upper end.
    """

    lr: float
    low: float
    high: float


CycleMode = Literal["triangular", "triangular2", "exp_range"]
Make = Callable[[Optimizer, float, int, Found], Any]


# --------------------------------------------------------------------------------------- schedules
def cyclic(mode: CycleMode, optimizer: Optimizer, lr: float, steps: int, found: Found) -> Any:
    """Return torch's CyclicLR; the mode ``"exp_range"`` shrinks to a tenth by the end."""
    half = max(steps // (2 * CYCLES), 1)
    return lr_scheduler.CyclicLR(optimizer, lr / 4, lr, half, mode=mode, gamma=0.1 ** (1 / steps), cycle_momentum=False)


def between_ends(optimizer: Optimizer, lr: float, steps: int, found: Found) -> Any:
    """Return CyclicLR between both ends of the trough, multiplied as ``lr`` is of the found one."""
    factor = lr / found.lr
    half = max(steps // (2 * CYCLES), 1)
    return lr_scheduler.CyclicLR(optimizer, found.low * factor, found.high * factor, half, cycle_momentum=False)


# Name -> how to build it from an optimizer, its lr, the steps of the run and what the range test has found.
SCHEDULES: dict[str, Make] = {
    "constant": lambda sgd, lr, steps, found: lr_scheduler.ConstantLR(sgd, 1.0),
    "exponential": lambda sgd, lr, steps, found: lr_scheduler.ExponentialLR(sgd, 0.01 ** (1 / steps)),
    "piecewise constant": lambda sgd, lr, steps, found: lr_scheduler.MultiStepLR(sgd, [steps // 2, 3 * steps // 4]),
    "performance-based": lambda sgd, lr, steps, found: lr_scheduler.ReduceLROnPlateau(sgd, patience=1, factor=0.3),
    "polynomial": lambda sgd, lr, steps, found: lr_scheduler.PolynomialLR(sgd, steps, power=2.0),
    "cosine": lambda sgd, lr, steps, found: lr_scheduler.CosineAnnealingLR(sgd, steps),
    "cosine, restarts": lambda sgd, lr, steps, found: lr_scheduler.CosineAnnealingWarmRestarts(
        sgd, max(-(-steps // 7), 1), T_mult=2
    ),
    "triangular": partial(cyclic, "triangular"),
    "triangular2": partial(cyclic, "triangular2"),
    "exp_range": partial(cyclic, "exp_range"),
    "triangular, trough": between_ends,
    "one cycle": lambda sgd, lr, steps, found: None,  # `configure_one_cycle`
}
COLORS = dict(zip(SCHEDULES, matplotlib.colormaps["tab20"].colors, strict=False)) | {"one cycle": "#000000"}  # type: ignore[attr-defined]


class Net(pl.LightningModule):
    """A classifier that records its learning rates and validation losses.

    Args:
        net: From images to logits.
        schedule: A name of `SCHEDULES`.
        lr: Learning rate; the largest of the schedule.
        found: What the range test has found; None during it.
    """

    def __init__(self, net: nn.Module, schedule: str, lr: float, found: Found | None) -> None:
        super().__init__()
        self.net, self.schedule, self.lr, self.found = net, schedule, lr, found
        self.lrs: list[float] = []
        self.val_losses: list[tuple[int, float]] = []

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._loss(batch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.lrs.append(float(self.trainer.optimizers[0].param_groups[0]["lr"]))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def on_validation_epoch_end(self) -> None:
        self.val_losses.append((self.trainer.global_step, float(self.trainer.callback_metrics["val_loss"])))

    def configure_optimizers(self) -> Any:
        sgd = SGD(self.parameters(), lr=self.lr, momentum=0.9)
        if self.schedule == "one cycle" or self.found is None:
            return configure_one_cycle(self, sgd)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = SCHEDULES[self.schedule](sgd, self.lr, steps, self.found)
        interval = "epoch" if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else "step"
        return [sgd], [{"scheduler": schedule, "interval": interval, "monitor": "val_loss"}]


# -------------------------------------------------------------------------------------------- tasks
def conv_net(channels_in: int) -> nn.Sequential:
    """Return three convolutions with BatchNorm and a linear layer."""
    layers: list[nn.Module] = []
    widths = (channels_in, 16, 32, 64)
    for narrow, wide in itertools.pairwise(widths):
        layers += [nn.Conv2d(narrow, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Cifar10Part(pl.LightningDataModule):
    """A fixed random part of CIFAR-10, normalized, in memory."""

    def __init__(self, root: Path, count: int) -> None:
        super().__init__()
        self.root, self.count = root, count

    def setup(self, stage: str) -> None:
        images, labels = read_images(self.root, "train", self.count)
        pixels, classes = read_images(self.root, "test", max(self.count // 4, 1))
        self.train, self.val = TensorDataset(normalize(images), labels), TensorDataset(normalize(pixels), classes)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, 64, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val, 1000)


@dataclass(frozen=True)
class Task:
    """Data, a net and a number of epochs."""

    name: str
    channels: int
    data: Callable[[], pl.LightningDataModule]
    epochs: int

    def fit(self, schedule: str, lr: float, seed: int, found: Found | None, callbacks: Any = ()) -> Net:
        """Train a new net and return it."""
        pl.seed_everything(seed, verbose=False)
        net = Net(conv_net(self.channels), schedule, lr, found)
        trainer = pl.Trainer(
            max_epochs=self.epochs,
            accelerator="cpu",
            callbacks=list(callbacks),
            logger=False,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(net, self.data())
        return net


# -------------------------------------------------------------------------------------------- runs
@dataclass
class Runs:
    """The runs of one schedule on one task.

    Attributes:
        found: With the found lr, one net a seed.
        best: With the best lr of the grid, one net a seed.
        best_factor: That lr as a multiple of the found one.
    """

    found: list[Net]
    best: list[Net] = field(default_factory=list)
    best_factor: float = 1.0


def final_loss(net: Net) -> float:
    """Return the last validation loss; what has diverged counts as infinite."""
    loss = net.val_losses[-1][1]
    return loss if loss == loss else float("inf")


def find_lr(task: Task) -> Found:
    """Return the lr that the range test suggests before a run of one cycle, and both ends of the trough."""
    test = LRRangeTest(report=False, apply=False)
    task.fit("one cycle", 0.01, 0, None, [test])
    if test.suggestion is None or test.curve is None:
        raise SystemExit(f"No learning rate found on {task.name}: {test.why}.")
    return Found(test.suggestion.lr, *find_trough(test.curve).ends)


def run_task(task: Task, seeds: int, found: Found) -> dict[str, Runs]:
    """Train with each schedule, with the found lr and with the best of the grid."""
    runs, lr = {}, found.lr
    for name in SCHEDULES:
        its = Runs([task.fit(name, lr, seed, found) for seed in range(seeds)])
        tried = {factor: its.found[0] if factor == 1 else task.fit(name, factor * lr, 0, found) for factor in GRID}
        its.best_factor = min(tried, key=lambda factor: final_loss(tried[factor]))
        if its.best_factor == 1:
            its.best = its.found
        else:
            others = [task.fit(name, its.best_factor * lr, seed, found) for seed in range(1, seeds)]
            its.best = [tried[its.best_factor], *others]
        runs[name] = its
    return runs


def spread(nets: list[Net]) -> dict[str, float]:
    """Return mean, smallest and largest final validation loss."""
    losses = [final_loss(net) for net in nets]
    return {"mean": mean(losses), "min": min(losses), "max": max(losses)}


# ---------------------------------------------------------------------------------------- pictures
def draw_schedules(runs: dict[str, Runs]) -> Figure:
    """Draw the learning rates of each schedule with the found lr, one panel each."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(3, 4, sharex=True, sharey=True)
    for panel, (name, its) in zip(panels.flat, runs.items(), strict=True):
        panel.plot(its.found[0].lrs, color=COLORS[name])
        panel.set_title(name, fontsize="medium")
        panel.grid(alpha=0.3)
    panels[0, 0].set_yscale("log")
    lowest = max(its.found[0].lr for its in runs.values()) / 3e3
    panels[0, 0].set_ylim(bottom=lowest)
    figure.supxlabel("optimizer step")
    figure.supylabel("learning rate")
    return figure


def draw_losses(runs: dict[str, Runs], title: str) -> Figure:
    """Draw the mean validation loss of each schedule over the steps."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, kind, of in zip(panels, ("found", "best"), ("the found lr", "the best lr of the grid"), strict=True):
        for name, its in runs.items():
            nets: list[Net] = getattr(its, kind)
            steps = [step for step, _ in nets[0].val_losses]
            losses = [mean(at) for at in zip(*([loss for _, loss in net.val_losses] for net in nets), strict=True)]
            panel.plot(steps, losses, color=COLORS[name], linewidth=2.5 if name == "one cycle" else 1.3, label=name)
        panel.set(xlabel="optimizer step", title=f"With {of}", yscale="log")
        panel.grid(alpha=0.3, which="both")
        panel.yaxis.set_major_formatter(LogFormatter())
        panel.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))  # 0.2, not a power of ten
    panels[0].set_ylabel("validation loss, mean of the seeds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle(title)
    return figure


def draw_presets(max_lr: float, steps: int = 1000) -> Figure:
    """Draw the learning rate and the momentum of each preset: the shapes of their sources."""
    shapes: dict[str, dict[str, Any]] = {
        "smith": {},
        "torch": {},
        "torch_three_phase": {},
        "fastai": {},
        "exp_decay": {"rampup_epochs": 6, "steps_per_epoch": steps // 24},
    }
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    panels = figure.subplots(2, len(shapes), sharex=True, sharey="row")
    for column, (preset, arguments) in enumerate(shapes.items()):
        policy = from_preset(preset, max_lr, steps, **arguments)  # type: ignore[arg-type]
        panels[0, column].plot([policy.lr(step) for step in range(steps)], color="#0072B2")
        panels[1, column].plot([policy.momentum(step) for step in range(steps)], color="#D55E00")
        panels[0, column].set_title(preset)
        if not policy.cycle_momentum:
            panels[1, column].text(0.5, 0.5, "unchanged", ha="center", transform=panels[1, column].transAxes)
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("learning rate")
    panels[1, 0].set_ylabel("momentum")
    figure.supxlabel("optimizer step")
    return figure


# -------------------------------------------------------------------------------------------- main
def report(task: Task, runs: dict[str, Runs], found: Found, out: Path, seconds: float) -> dict[str, Any]:
    """Print the ranking, draw both pictures, write the numbers and return them."""
    steps, seeds = len(runs["constant"].found[0].lrs), len(runs["constant"].found)
    title = f"{task.name}, {steps} steps, n = {seeds}"
    order = sorted(runs, key=lambda name: spread(runs[name].found)["mean"])
    trough = f"trough from {found.low:.3g} to {found.high:.3g}"
    print(f"\n{title}: found lr {found.lr:.3g}, {trough}, {seconds:.0f} s in all")
    print(
        f"{'validation loss':20}{'found lr':>10}{'(min to max)':>20}{'best of grid':>14}{'(min to max)':>20}{'lr':>7}"
    )
    for name in order:
        its = runs[name]
        cells = ""
        for nets, width in ((its.found, 10), (its.best, 14)):
            they = spread(nets)
            cells += f"{they['mean']:>{width}.4f}" + f"({they['min']:.4f} to {they['max']:.4f})".rjust(20)
        print(f"{name:20}{cells}{f'x{its.best_factor:g}':>7}")
    folder = out / task.name.split(",")[0].replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in (("schedules", draw_schedules(runs)), ("losses", draw_losses(runs, title))):
        figure.savefig(folder / f"{name}.png", dpi=150)
        print(f"picture: {folder / name}.png")
    return {
        "task": task.name,
        "steps": steps,
        "n": seeds,
        "lr": found.lr,
        "trough": [found.low, found.high],
        "seconds": round(seconds, 1),
        "hardware": hardware(),
        "versions": versions(),
        "val_loss": {
            name: {"found": spread(its.found), "best": spread(its.best), "best_factor": its.best_factor}
            for name, its in ((name, runs[name]) for name in order)
        },
    }


def main(tasks: list[str], root: str | None, images: int, epochs: int, seeds: int, out: Path) -> list[dict[str, Any]]:
    """Train on each task and report."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    # The data are in memory: loader workers would cost more than they save.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    warnings.filterwarnings("ignore", ".*The epoch parameter in `scheduler.step\\(\\)`.*")
    cifar = partial(Cifar10Part, find_root(root), images)
    all_tasks = {
        "digits": Task("digits, 1,200 images", 1, ValidatedDigits, epochs),
        "cifar10": Task(f"cifar10, {images:,} images", 3, cifar, epochs),
    }
    results = []
    out.mkdir(parents=True, exist_ok=True)
    for name in tasks:
        start = time.perf_counter()
        found = find_lr(all_tasks[name])
        runs = run_task(all_tasks[name], seeds, found)
        results.append(report(all_tasks[name], runs, found, out, time.perf_counter() - start))
        (out / f"{name}.json").write_text(json.dumps(results[-1], indent=2) + "\n")
    draw_presets(1.0).savefig(out / "presets.png", dpi=150)
    print(f"picture: {out / 'presets.png'}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=["digits", "cifar10"], default=["digits", "cifar10"])
    parser.add_argument("--data.root", dest="root", help="folder of CIFAR-10, see `read_images` in cifar10/images.py")
    parser.add_argument("--images", type=int, default=2000, help="training images of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("demo_runs/schedules"), help="folder for pictures and numbers")
    main(**vars(parser.parse_args()))
