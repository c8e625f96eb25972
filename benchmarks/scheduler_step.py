"""Measure a step of `OneCycleScheduler` against one of torch's ``OneCycleLR``, with momentum cycling.

The optimizer step is not included, only, with ``only_real_steps``, the hook that runs after it. The floor is a
scheduler that has all values in a list and only writes them into the groups. One net parameter a group; a schedule of
400 steps, or fewer of them with many groups.

    python benchmarks/scheduler_step.py --quick

The results stand in docs/measured.md.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from measuring import Measure, Row, clock, interleaved, main, middle, ratios
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from pl_onecycle import OneCycleScheduler

SCHEDULE_STEPS = 400
Make = Callable[[Optimizer, list[float], int], Any]


class Floor:
    """Write one known lr and momentum into each group."""

    def __init__(self, optimizer: Optimizer, lrs: list[float], total_steps: int) -> None:
        self.groups, self.lrs, self.momentum = optimizer.param_groups, lrs, 0.9
        self.uses_betas = "betas" in self.groups[0]

    def step(self) -> None:
        """Write them."""
        for group, lr in zip(self.groups, self.lrs, strict=True):
            group["lr"] = lr
            if self.uses_betas:
                group["betas"] = (self.momentum, 0.999)
            else:
                group["momentum"] = self.momentum


def optimizer_of(kind: type[Optimizer], lrs: list[float]) -> Optimizer:
    """Return an optimizer with one group for each lr."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    return SGD(groups, lrs[0], momentum=0.9) if kind is SGD else AdamW(groups, lrs[0])


def schedule_seconds(make: Make, kind: type[Optimizer], lrs: list[float]) -> float:
    """Return the mean time of the steps of a schedule, with the hooks that it has put after an optimizer step."""
    optimizer = optimizer_of(kind, lrs)
    scheduler = make(optimizer, lrs, SCHEDULE_STEPS)
    optimizer.step()
    scheduler.step()
    hooks = list(optimizer._optimizer_step_post_hooks.values())
    steps = min(SCHEDULE_STEPS - 2, max(20, 20_000 // len(lrs)))
    start = clock()
    for _ in range(steps):
        for hook in hooks:
            hook(optimizer, (), {})
        scheduler.step()
    return (clock() - start) / steps


def step_seconds(make: Make, kind: type[Optimizer], lrs: list[float]) -> float:
    """Return the mean over enough schedules for a clock that jumps."""
    count = max(1, 20 // len(lrs))
    return sum(schedule_seconds(make, kind, lrs) for _ in range(count)) / count


CASES: dict[str, tuple[type[Optimizer], list[float], Make, float]] = {
    "1 group, SGD": (SGD, [0.1], OneCycleScheduler, 0.45),
    "1 group, AdamW": (AdamW, [0.1], OneCycleScheduler, 0.45),
    "100 groups of one lr": (SGD, [0.1] * 100, OneCycleScheduler, 0.2),
    "100 groups of 100 lrs": (SGD, [0.1 * 0.95**i for i in range(100)], OneCycleScheduler, 0.5),
    "1,000 groups of 1,000 lrs": (SGD, [0.1 * 0.995**i for i in range(1000)], OneCycleScheduler, 0.6),
    "1 group, `only_real_steps` with its hook": (SGD, [0.1], partial(OneCycleScheduler, only_real_steps=True), 0.7),
}


def rows(quick: bool) -> Iterator[Row]:
    """Measure all cases."""
    for name, (kind, lrs, make, target) in CASES.items():
        makes: dict[str, Make] = {"ours": make, "torch's": OneCycleLR, "floor": Floor}
        measures: dict[str, Measure] = {side: partial(step_seconds, it, kind, lrs) for side, it in makes.items()}
        # An optimizer with 1,000 groups takes long to make.
        seconds = interleaved(measures, (3 if len(lrs) == 1000 else 7) if quick else 21)
        floor = middle(ratios(seconds["floor"], seconds["torch's"]))
        microseconds = middle([value * 1e6 for value in seconds["ours"]], "µs")
        yield Row.of(
            f"`OneCycleScheduler.step`, {name}, against `OneCycleLR`",
            ratios(seconds["ours"], seconds["torch's"]),
            target,
            reference=f"{microseconds}; floor, which only writes known values: {floor}",
            because=f"writing known values alone takes {floor}; the rest is the check of each value's type, as groups"
            " may hold tensors, and the formula",
        )


if __name__ == "__main__":
    main(rows, __doc__)
