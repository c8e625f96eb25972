"""Optimizers and cycles that are stepped by hand, without a fit."""

import io
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import settings
from torch.optim import Optimizer

from pl_onecycle.scheduler import OneCycleScheduler

N = 20


# Steps of a run in which each phase of each preset has some.


LONG = 40


many = settings(deadline=None, database=None, derandomize=True, max_examples=60)


# With plateaus; of 40 steps.
SHAPES: dict[str, dict[str, Any]] = {
    "smith": {"pct_plateau": 0.1},
    "torch": {"pct_plateau": 0.1},
    "torch_three_phase": {"pct_plateau": 0.1},
    "fastai": {"pct_plateau": 0.1},
    "exp_decay": {"rampup_epochs": 8, "sustain_epochs": 4, "exp_decay": 0.9, "cycle_momentum": True},
}


def weights(count: int = 1) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(1)) for _ in range(count)]


def sgd(*lrs: Any, momentum: float = 0.9) -> torch.optim.SGD:
    """One group for each lr."""
    return torch.optim.SGD([{"params": weights(), "lr": lr} for lr in lrs or (0.1,)], momentum=momentum)


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: torch.optim.SGD(weights(), lr=0.1, momentum=0.9),
    "nesterov": lambda: torch.optim.SGD(weights(), lr=0.1, momentum=0.5, nesterov=True),
    "rmsprop": lambda: torch.optim.RMSprop(weights(), lr=0.1, momentum=0.9),
    "adam": lambda: torch.optim.Adam(weights(), lr=0.1),
    "adamw": lambda: torch.optim.AdamW(weights(), lr=0.1, betas=(0.7, 0.99)),
}


def cycle(total_steps: int, preset: Any = "smith", kind: str = "sgd") -> tuple[Optimizer, OneCycleScheduler]:
    """An optimizer of two groups, the second at a fifth of the first, and its cycle with the peak 1."""
    rates = [{"params": weights(), "lr": lr} for lr in (0.5, 0.1)]
    optimizer: Optimizer = torch.optim.Adam(rates) if kind == "adam" else torch.optim.SGD(rates, momentum=0.9)
    return optimizer, OneCycleScheduler(optimizer, 1.0, total_steps, preset=preset, **SHAPES[preset])


def held(optimizer: Optimizer) -> list[tuple[float, float | None]]:
    """Learning rate and momentum of each group."""
    return [
        (float(group["lr"]), float(group["betas"][0]) if "betas" in group else group.get("momentum"))
        for group in optimizer.param_groups
    ]


def play(
    optimizer: Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int
) -> list[list[tuple[float, float | None]]]:
    """Take ``steps`` optimizer steps and return what each of them used."""
    used = []
    for _ in range(steps):
        used.append(held(optimizer))
        optimizer.step()
        scheduler.step()
    return used


def group_of(used: list[list[tuple[float, float | None]]], group: int = 0) -> tuple[list[float], list[float | None]]:
    """Curves of learning rate and momentum of one group."""
    return [step[group][0] for step in used], [step[group][1] for step in used]


def saved(state: Any) -> Any:
    """``state`` as it comes back from a file that is read without pickle."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def load(again: Optimizer, resumed: OneCycleScheduler, optimizer: Optimizer, scheduler: OneCycleScheduler) -> None:
    """Load the states of the last two, by way of a file, into the first two."""
    states = saved({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})
    again.load_state_dict(states["optimizer"])
    resumed.load_state_dict(states["scheduler"])


def resumed_from(
    optimizer: Optimizer, scheduler: OneCycleScheduler, total_steps: int, preset: Any = "smith", kind: str = "sgd"
) -> tuple[Optimizer, OneCycleScheduler]:
    """The same from a file, in a run of ``total_steps``."""
    again, resumed = cycle(total_steps, preset, kind)
    load(again, resumed, optimizer, scheduler)
    return again, resumed
