"""Get the suggestions of other packages for a task, each used as its documentation shows.

Every peer sweeps with its defaults, from 1e-7 to 10 in 100 steps if it has none. If a package cannot be imported, its
published rule replaces it, on the losses of a plain sweep of the same length and range.
"""

import importlib
import io
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, Protocol

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, TensorDataset

from pl_onecycle import configure_one_cycle

Array = npt.NDArray[np.float64]
Lrs = dict[str, float | None]  # by the name of the method, None for no suggestion
LOW, HIGH, STEPS = 1e-7, 10.0, 100
SEED = 500  # weights of a range test: not those of the oracle
ORDER = 3_000_000  # batches of a range test: not those of the oracle


class Task(Protocol):
    """Interface of a task."""

    @property
    def name(self) -> str:
        """Name in a few words."""

    @property
    def kind(self) -> Literal["cls", "loss"]:
        """Judged by validation accuracy or by validation loss."""

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """(output, target) -> scalar."""

    @property
    def batch_size(self) -> int:
        """Samples per step."""

    @property
    def cycle_momentum(self) -> bool:
        """Whether a one-cycle schedule of its optimizer also cycles momentum."""

    def model(self, seed: int) -> nn.Module:
        """Return a fresh model, and seed torch's global generator."""

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return a fresh optimizer."""

    def data(self, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (x_train, y_train, x_val, y_val)."""


def loaders(task: Task, seed: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return a loader of shuffled training batches and one of validation batches."""
    x, y, x_val, y_val = task.data(SEED + seed)
    generator = torch.Generator().manual_seed(ORDER + seed)
    size = min(task.batch_size, len(x))
    train = DataLoader(TensorDataset(x, y), size, shuffle=True, drop_last=True, generator=generator)
    return train, DataLoader(TensorDataset(x_val, y_val), 512)


class Module(pl.LightningModule):
    """A task as a LightningModule."""

    def __init__(self, task: Task, seed: int, lr: float = 1e-3) -> None:
        super().__init__()
        self.task, self.lr = task, lr
        self.model = task.model(SEED + seed)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return self.task.loss(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Optimizer:
        return self.task.optimizer(self.model, self.lr)


class CycledModule(Module):
    """The same with a one-cycle schedule."""

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, super().configure_optimizers(), cycle_momentum=self.task.cycle_momentum)


def trainer(**options: Any) -> pl.Trainer:
    """Return a Trainer that prints and writes nothing."""
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return pl.Trainer(accelerator="cpu", devices=1, num_sanity_val_steps=0, **quiet, **options)


@contextmanager
def counted_steps() -> Iterator[list[int]]:
    """Count the steps of all optimizers in the first element of the list."""
    count = [0]

    def add(*_: Any) -> None:
        count[0] += 1

    hook = register_optimizer_step_post_hook(add)
    try:
        yield count
    finally:
        hook.remove()


# ----------------------------------------------------------------------------------------- packages
def _or_none(find: Callable[[], float | None]) -> float | None:
    """Return the lr that ``find`` returns, or None if it is unusable or ``find`` raises."""
    try:
        lr = find()
    except (IndexError, RuntimeError, ValueError):
        return None
    return float(lr) if lr is not None and math.isfinite(lr) and lr > 0 else None


def _lightning(task: Task, seed: int) -> Lrs:
    module = Module(task, seed)
    with tempfile.TemporaryDirectory() as folder:
        finder = Tuner(trainer(default_root_dir=folder, max_epochs=1000)).lr_find(module, loaders(task, seed)[0])
    assert finder is not None
    return {"Lightning lr_find": _or_none(finder.suggestion)}


def _torch_lr_finder(task: Task, seed: int) -> Lrs:
    finders, figures = importlib.import_module("torch_lr_finder"), importlib.import_module("matplotlib.figure")
    model = task.model(SEED + seed)
    finder = finders.LRFinder(model, task.optimizer(model, LOW), task.loss)
    finder.range_test(loaders(task, seed)[0], start_lr=LOW, end_lr=HIGH, num_iter=STEPS)
    return {"torch-lr-finder": _or_none(lambda: finder.plot(ax=figures.Figure().subplots())[1])}


def _ignite(task: Task, seed: int) -> Lrs:
    engine, handlers = importlib.import_module("ignite.engine"), importlib.import_module("ignite.handlers")
    model = task.model(SEED + seed)
    optimizer = task.optimizer(model, LOW)
    finder = handlers.FastaiLRFinder()
    states = {"model": model, "optimizer": optimizer}
    engine = engine.create_supervised_trainer(model, optimizer, task.loss)
    with finder.attach(engine, states, num_iter=STEPS, start_lr=LOW, end_lr=HIGH) as attached:
        attached.run(loaders(task, seed)[0])
    return {"ignite FastaiLRFinder": _or_none(finder.lr_suggestion)}


def _fastai(task: Task, seed: int) -> Lrs:
    schedule, recorder = importlib.import_module("fastai.callback.schedule"), _fastai_sweep(task, seed)
    # The steps of `lr_find` for each of the four, so that one can fail alone.
    lr, loss = (torch.tensor(values[STEPS // 10 : -5]) for values in (recorder.lrs, recorder.losses))
    bad = torch.isnan(loss).nonzero()
    end = int(bad[0]) if len(bad) else len(loss)

    def found(name: str) -> float:
        return float(getattr(schedule, name)(lr[:end], loss[:end], STEPS)[0])

    return {f"fastai {name}": _or_none(partial(found, name)) for name in FASTAI}


def _fastai_sweep(task: Task, seed: int) -> Any:
    """Run ``lr_find`` and return the recorder with its losses."""
    optim, learners = importlib.import_module("fastai.optimizer"), importlib.import_module("fastai.learner")
    data, model = importlib.import_module("fastai.data.core"), task.model(SEED + seed)
    # Other values would write into the optimizer's state, which torch's optimizers then take as initialized.
    flags: dict[str, Any] = {"wd_bn_bias": True, "train_bn": False}
    with tempfile.TemporaryDirectory() as folder:
        learn = learners.Learner(
            data.DataLoaders(*loaders(task, seed), device="cpu"),
            model,
            loss_func=task.loss,
            opt_func=lambda _, lr: optim.OptimWrapper(opt=task.optimizer(model, lr)),
            path=folder,
            **flags,
        )
        with learn.no_bar():
            learn.lr_find(suggest_funcs=None, show_plot=False)
    return learn.recorder


# -------------------------------------------------------------------------------------------- rules
def _swept(task: Task, seed: int) -> tuple[Array, Array]:
    """Return learning rates and the losses before their steps, NaN from the first that is not finite."""
    model = task.model(SEED + seed)
    optimizer = task.optimizer(model, LOW)
    batches = itertools.chain.from_iterable(itertools.repeat(loaders(task, seed)[0]))
    lrs, losses = LOW * (HIGH / LOW) ** (np.arange(STEPS) / STEPS), np.full(STEPS, np.nan)
    for k, (x, y) in zip(range(STEPS), batches, strict=False):
        optimizer.param_groups[0]["lr"] = lrs[k]
        loss = task.loss(model(x), y)
        if not math.isfinite(loss.item()):
            break
        losses[k] = loss.item()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return lrs, losses


def _averaged(losses: Array, beta: float, stop: float, debiased: bool) -> Array:
    """Return the running average up to ``stop`` times its lowest value; it starts at 0 or the first loss."""
    mean, best, averages = 0.0 if debiased else float(losses[0]), math.inf, list[float]()
    for k, loss in enumerate(losses):
        mean = beta * mean + (1 - beta) * float(loss)
        averages.append(mean / (1 - beta ** (k + 1)) if debiased else mean)
        best = min(best, averages[-1])
        if averages[-1] > stop * best:
            break
    return np.array(averages)


def _rule_torch_lr_finder(task: Task, seed: int) -> Lrs:
    lr, losses = _swept(task, seed)
    loss = _averaged(losses, 0.95, 5.0, debiased=False)
    return {"torch-lr-finder": _or_none(lambda: lr[10:][np.gradient(loss[10:-5]).argmin()])}


def _rule_ignite(task: Task, seed: int) -> Lrs:
    lr, losses = _swept(task, seed)
    loss = _averaged(losses, 0.95, 5.0, debiased=False)
    falling = loss[: loss.argmin() + 1]
    return {"ignite FastaiLRFinder": _or_none(lambda: lr[(falling[2:] - falling[:-2]).argmin() + 1])}


def _rule_fastai(task: Task, seed: int) -> Lrs:
    lr, losses = _swept(task, seed)
    loss = _averaged(losses, 0.98, 4.0, debiased=True)[10:-5]
    loss = loss.astype(np.float32).astype(np.float64)  # the precision of its tensors
    loss = loss[: np.isnan(loss).argmax()] if np.isnan(loss).any() else loss
    lr = lr[10:][: len(loss)]
    rules = {"valley": _valley, "slide": _slide, "minimum": _minimum, "steep": _steep}
    return {f"fastai {name}": _or_none(partial(rules[name], lr, loss)) for name in FASTAI}


def _minimum(lr: Array, loss: Array) -> float:
    return float(lr[loss.argmin()] / 10)


def _steep(lr: Array, loss: Array) -> float:
    return float(lr[(np.diff(loss) / np.diff(np.log(lr))).argmin()])


def _valley(lr: Array, loss: Array) -> float:
    """Return the lr half-way down the longest falling subsequence."""
    length = np.ones(len(loss), int)
    for i in range(1, len(loss)):
        length[i] = 1 + length[:i][loss[:i] > loss[i]].max(initial=0)
    end = int(length.argmax())
    third = int(length[end]) / 3
    return float(lr[end - int(length[end]) + int(third) + int(third / 2)])


def _slide(lr: Array, loss: Array) -> float:
    """Slide two points, 15 apart, from the right while their slopes differ by more than 0.005; return the left."""
    if len(loss) < 16:
        raise ValueError("too short for a pair of points")
    slope = np.gradient(loss)
    left = len(loss) - 16
    found = left
    while left >= 0 and abs(slope[left + 15] - slope[left]) > 0.005:
        found, left = left, left - 1
    return float(lr[found])


# -------------------------------------------------------------------------------------------- peers
FASTAI = ("valley", "slide", "minimum", "steep")


@dataclass(frozen=True)
class Peer:
    """A package, its methods, the modules it requires, how to run it, and the rule that can replace it."""

    package: str
    methods: tuple[str, ...]
    modules: tuple[str, ...]
    ask: Callable[[Task, int], Lrs]
    rule: Callable[[Task, int], Lrs] | None = None

    def missing(self) -> str | None:
        """Return why it cannot be imported, or None."""
        try:
            for name in self.modules:
                importlib.import_module(name)
        except ImportError as error:
            return str(error)
        return None

    def source(self) -> str:
        """Return the source of its suggestions."""
        return "rule" if self.missing() else f"{self.package} {version(self.package)}"

    def suggest(self, task: Task, seed: int) -> tuple[Lrs, int]:
        """Return its suggestions and the number of optimizer steps."""
        ask = self.rule if self.rule is not None and self.missing() else self.ask
        with counted_steps() as steps, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return ask(task, seed), steps[0]


PEERS = (
    Peer("lightning", ("Lightning lr_find",), (), _lightning),
    Peer(
        "torch-lr-finder",
        ("torch-lr-finder",),
        ("torch_lr_finder", "matplotlib.figure"),
        _torch_lr_finder,
        _rule_torch_lr_finder,
    ),
    Peer("pytorch-ignite", ("ignite FastaiLRFinder",), ("ignite.engine", "ignite.handlers"), _ignite, _rule_ignite),
    Peer(
        "fastai",
        tuple(f"fastai {name}" for name in FASTAI),
        ("fastai.data.core", "fastai.learner", "fastai.optimizer", "fastai.callback.schedule"),
        _fastai,
        _rule_fastai,
    ),
)
