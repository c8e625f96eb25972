"""The recipes that `recipe.py` compares: how each finds its settings, and what it trains with.

Each package is used as its documentation recommends. A recipe that names no optimizer trains with that of the task.
"""

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from suggestion_peers import PEERS, CycledModule, Task, counted_steps, loaders, trainer
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from pl_onecycle import LRRangeTest, OneCycleScheduler, WeightDecayProbe

USERS_LR = 1e-3  # what a fit continues with if a search suggests nothing
Found = Mapping[str, float]  # by name: "lr", "weight_decay"


class TimedTask(Task, Protocol):
    """Interface of a task that says how long its run is."""

    @property
    def steps(self) -> int:
        """Optimizer steps of a run."""


@dataclass(frozen=True)
class Training:
    """What a run trains with.

    Attributes:
        schedule: Its `step` is called after each step of the optimizer; None keeps the lr.
    """

    optimizer: Optimizer
    schedule: Any = None


Build = Callable[[TimedTask, nn.Module, Found, int], Training]


@dataclass(frozen=True)
class Recipe:
    """A way to choose the settings of a run.

    Attributes:
        name: In tables.
        build: (task, model, what was found, number of steps) -> what to train with.
        search: (task, seed, steps of the run) -> what was found; its steps count.
        package: Distribution that it needs besides torch and Lightning, or an empty string.
        module: What is imported of that package.
        is_averaged: Whether the weights to evaluate are not those that training moves, as in ``schedulefree``.
    """

    name: str
    build: Build
    search: Callable[[TimedTask, int, int], Found] = field(default=lambda task, seed, steps: {})
    package: str = ""
    module: str = ""
    is_averaged: bool = False

    def missing(self) -> str | None:
        """Return why its package cannot be imported, or None."""
        try:
            if self.module:
                importlib.import_module(self.module)
        except ImportError as error:
            return str(error)
        return None

    def find(self, task: TimedTask, seed: int, steps: int) -> tuple[Found, int]:
        """Return what its search finds for a run of ``steps``, and the number of optimizer steps that it takes."""
        with counted_steps() as taken:
            return self.search(task, seed, steps), taken[0]


# ----------------------------------------------------------------------------------------- without a search
def _with_cosine(optimizer: Optimizer, steps: int) -> Training:
    return Training(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, steps))


def _adam(task: TimedTask, model: nn.Module, found: Found, steps: int) -> Training:
    return Training(torch.optim.Adam(model.parameters(), 1e-3))


def _adamw_cosine(task: TimedTask, model: nn.Module, found: Found, steps: int) -> Training:
    return _with_cosine(torch.optim.AdamW(model.parameters(), 1e-3), steps)


def _sgd_cosine(task: TimedTask, model: nn.Module, found: Found, steps: int) -> Training:
    return _with_cosine(torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), steps)


def _adamw_one_cycle(task: TimedTask, model: nn.Module, found: Found, steps: int) -> Training:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    return Training(optimizer, lr_scheduler.OneCycleLR(optimizer, 1e-3, steps))


def _prodigy(task: TimedTask, model: nn.Module, found: Found, steps: int) -> Training:
    return _with_cosine(importlib.import_module("prodigyopt").Prodigy(model.parameters(), lr=1.0), steps)


def _dadapt_adam(task: TimedTask, model: nn.Module, found: Found, steps: int) -> Training:
    # Its package's advice: "the same learning rate scheduler you would normally use".
    return _with_cosine(importlib.import_module("dadaptation").DAdaptAdam(model.parameters(), lr=1.0), steps)


def _schedule_free(kind: str, lr: float, task: TimedTask, model: nn.Module, found: Found, steps: int) -> Training:
    # Warm-up is recommended, its length is left open: a twentieth of the run here.
    make = getattr(importlib.import_module("schedulefree"), kind)
    return Training(make(model.parameters(), lr=lr, warmup_steps=math.ceil(steps / 20)))


# -------------------------------------------------------------------------------------------- with a search
def _lr_of_peer(package: str, method: str, task: TimedTask, seed: int, steps: int) -> Found:
    peer = next(it for it in PEERS if it.package == package)
    lr = peer.suggest(task, seed)[0][method]
    return {"lr": USERS_LR if lr is None else lr}


def _torch_one_cycle(task: TimedTask, model: nn.Module, found: Found, steps: int) -> Training:
    optimizer = task.optimizer(model, found["lr"])
    cycle = lr_scheduler.OneCycleLR(optimizer, found["lr"], steps, cycle_momentum=task.cycle_momentum)
    return Training(optimizer, cycle)


def _fastai_cycle(task: TimedTask, model: nn.Module, found: Found, steps: int) -> Training:
    optimizer = task.optimizer(model, found["lr"])
    # The defaults of fastai's ``fit_one_cycle``: a quarter rises from lr / 25 by a cosine, the rest falls to lr / 1e5.
    options: dict[str, Any] = {"pct_start": 0.25, "div_factor": 25.0, "final_div_factor": 1e5 / 25}
    cycle = lr_scheduler.OneCycleLR(optimizer, found["lr"], steps, cycle_momentum=task.cycle_momentum, **options)
    return Training(optimizer, cycle)


class _OneStep(pl.Callback):
    """End a fit after its first step."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = True


def _ours(verify: bool, decays: bool, task: TimedTask, seed: int, steps: int) -> Found:
    module = CycledModule(task, seed)
    test = LRRangeTest(report=False, verify=verify)
    probe = WeightDecayProbe(report=False)
    found: list[Any] = [test, probe] if decays else [test]
    # The search for a weight decay asks how long the run will be.
    trainer(callbacks=[*found, _OneStep()], max_steps=steps).fit(module, *loaders(task, seed))
    lr = USERS_LR if test.value is None else test.value
    return {"lr": lr} if not decays or probe.value is None else {"lr": lr, "weight_decay": probe.value}


def _one_cycle(task: TimedTask, model: nn.Module, found: Found, steps: int) -> Training:
    optimizer = task.optimizer(model, found["lr"])
    for group in optimizer.param_groups:
        group["weight_decay"] = found.get("weight_decay", group["weight_decay"])
    return Training(optimizer, OneCycleScheduler(optimizer, found["lr"], steps, cycle_momentum=task.cycle_momentum))


# ------------------------------------------------------------------------------------------------- recipes
def _free(kind: str, lr: float) -> Build:
    return partial(_schedule_free, kind, lr)


RECIPES = (
    Recipe("pl_onecycle: range test + one cycle", _one_cycle, partial(_ours, False, False)),
    Recipe("pl_onecycle: the same, with verify", _one_cycle, partial(_ours, True, False)),
    Recipe("pl_onecycle: the same, with decay probe", _one_cycle, partial(_ours, False, True)),
    Recipe("Lightning lr_find + OneCycleLR", _torch_one_cycle, partial(_lr_of_peer, "lightning", "Lightning lr_find")),
    Recipe("fastai valley + its cycle", _fastai_cycle, partial(_lr_of_peer, "fastai", "fastai valley")),
    Recipe("Adam 1e-3, constant", _adam),
    Recipe("AdamW 1e-3, cosine", _adamw_cosine),
    Recipe("SGD 0.1, cosine", _sgd_cosine),
    Recipe("AdamW, OneCycleLR to 1e-3", _adamw_one_cycle),
    Recipe("Prodigy, cosine", _prodigy, package="prodigyopt", module="prodigyopt"),
    Recipe("DAdaptAdam, cosine", _dadapt_adam, package="dadaptation", module="dadaptation"),
    Recipe(
        "AdamWScheduleFree 0.0025",
        _free("AdamWScheduleFree", 0.0025),
        package="schedulefree",
        module="schedulefree",
        is_averaged=True,
    ),
    Recipe(
        "SGDScheduleFree 1.0",
        _free("SGDScheduleFree", 1.0),
        package="schedulefree",
        module="schedulefree",
        is_averaged=True,
    ),
)


def named(names: Iterable[str]) -> list[Recipe]:
    """Return the recipes whose name contains one of the names."""
    return [recipe for recipe in RECIPES if any(name in recipe.name for name in names)]
