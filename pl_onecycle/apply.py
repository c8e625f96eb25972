"""Apply a chosen learning rate, weight decay or momentum to the objects that train with it.

The value is written to the parameter groups, to their schedulers and to the attributes of the module; each function
returns what it changed.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from numbers import Real
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pl_onecycle.checks import expect_number
from pl_onecycle.optimizer_groups import has_momentum, peak_lrs, rescale, write, write_momentum, write_weight_decay
from pl_onecycle.scheduler import OneCycleScheduler

# Learning rates that torch's schedulers keep in the groups (OneCycleLR all of them, the others `initial_lr`) ...
_GROUP_KEYS = ("lr", "initial_lr", "max_lr", "min_lr")
# ... and in themselves.
_SCHEDULER_KEYS = ("base_lrs", "max_lrs", "_last_lr")
# Attributes and hparams of a module that are set as well.
LR_NAMES = ("lr", "learning_rate")
WEIGHT_DECAY_NAMES = ("weight_decay", "wd")


def apply_max_lr(
    lr: float,
    optimizer: Optimizer,
    schedulers: Sequence[Any] = (),
    module: torch.nn.Module | None = None,
    horizon: int = 1,
    restart: bool = False,
) -> list[str]:
    """Make ``lr`` the peak learning rate of the group with the largest one.

    Every learning rate in the optimizer and the schedulers is scaled by the same factor, so the schedule keeps its
    shape, the groups keep their ratios, and the current value is the new schedule's. Absolute floors set by the user
    (``eta_min``, ``ReduceLROnPlateau.min_lrs``) stay.

    Args:
        lr: The new peak, > 0.
        optimizer: Its groups are written; a tensor lr in place.
        schedulers: `OneCycleScheduler`, torch's ``OneCycleLR`` and ``CyclicLR``, anything with ``base_lrs``,
            also inside ``SequentialLR`` and ``ChainedScheduler``.
        module: Its ``lr`` and ``learning_rate`` and those of its ``hparams`` are set where they exist.
        horizon: How often a ``LambdaLR`` is stepped in the run; its largest factor is searched over these.
        restart: Start a new cycle of a `OneCycleScheduler` over the remaining steps.

    Returns:
        What was changed, as readable names, e.g. ``["OneCycleScheduler", "module.lr"]``.

    Example:
        >>> weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
        >>> optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.25}, {"params": weights[1:]}], lr=1.0)
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)
        >>> apply_max_lr(0.5, optimizer, [scheduler])
        ['2 parameter groups', 'StepLR']
        >>> [group["lr"] for group in optimizer.param_groups], scheduler.base_lrs
        ([0.125, 0.5], [0.125, 0.5])
    """
    expect_number("lr", lr, above=0)
    parts = [part for scheduler in schedulers for part in _parts(scheduler)]
    top = schedule_peak(optimizer, schedulers, horizon)

    def to_new(value: Any) -> float:
        return rescale(float(value), top, lr)

    groups = optimizer.param_groups
    # Compute all new values before writing any: one tensor may be in several places.
    in_groups = [(group, key, to_new(group[key])) for group in groups for key in _GROUP_KEYS if key in group]
    in_schedulers = [
        (part, key, [to_new(value) for value in values])
        for part in parts
        if not isinstance(part, OneCycleScheduler)
        for key in _SCHEDULER_KEYS
        if isinstance(values := getattr(part, key, None), list)
    ]
    for group, key, value in in_groups:
        write(group, key, value)
    for part, key, values in in_schedulers:
        setattr(part, key, values)
    for part in parts:
        if isinstance(part, OneCycleScheduler):
            (part.restart if restart else part.set_max_lr)(lr)
    changed = [_groups(len(groups))]
    for scheduler in schedulers:
        name = type(scheduler).__name__
        known = any(hasattr(part, key) for part in _parts(scheduler) for key in _SCHEDULER_KEYS)
        changed.append(name if known else f"not in {name}, whose learning rates cannot be found")
    return changed + set_attributes(module, LR_NAMES, lr)


def schedule_peak(optimizer: Optimizer, schedulers: Sequence[Any] = (), horizon: int = 1) -> float:
    """Return the largest lr that the schedule reaches, in the group with the largest one.

    That is ``max_lrs`` if a scheduler has them, the base times the largest factor over ``horizon`` steps for a
    ``LambdaLR``, and otherwise the peak in the groups.
    """
    peaks = peak_lrs(optimizer)
    for part in (part for scheduler in schedulers for part in _parts(scheduler)):
        if hasattr(part, "max_lrs"):
            return max(float(value) for value in part.max_lrs)
        if isinstance(part, LambdaLR):
            factors = [max(float(factor(k)) for k in range(horizon)) for factor in part.lr_lambdas]
            scaled = [base * factor for base, factor in zip(part.base_lrs, factors, strict=True)]
            return float(max(scaled)) if 0 < max(scaled) < math.inf else max(peaks)
    return max(peaks)


def _parts(scheduler: Any) -> Iterator[Any]:
    """Yield the scheduler and those inside it (SequentialLR, ChainedScheduler)."""
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _parts(inner)


def apply_weight_decay(weight_decay: float, optimizer: Optimizer, module: torch.nn.Module | None = None) -> list[str]:
    """Make ``weight_decay`` the largest decay of the groups that decay; the others stay at 0.

    Coupled (SGD, Adam) and decoupled decay (AdamW) are both written as the group's ``weight_decay``. Ratios between
    decayed groups stay; if all are at 0, all get it.

    Args:
        weight_decay: The new decay, >= 0.
        optimizer: Its groups are written.
        module: Its ``weight_decay`` and ``wd`` and those of its ``hparams`` are set where they exist.

    Returns:
        What was changed, as readable names.

    Raises:
        ValueError: The optimizer has no weight decay.

    Example:
        >>> weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
        >>> optimizer = torch.optim.AdamW([{"params": weights[:1], "weight_decay": 0.0}, {"params": weights[1:]}])
        >>> apply_weight_decay(0.1, optimizer), [group["weight_decay"] for group in optimizer.param_groups]
        (['1 parameter group'], [0.0, 0.1])
    """
    expect_number("weight_decay", weight_decay, minimum=0)
    groups = _groups(write_weight_decay(optimizer, weight_decay))
    return [groups, *set_attributes(module, WEIGHT_DECAY_NAMES, weight_decay)]


def apply_momentum(momentum: float, optimizer: Optimizer, schedulers: Sequence[Any] = ()) -> list[str]:
    """Make ``momentum`` the largest of the cycle if there is one, else of the groups.

    Groups without momentum, or with momentum 0, are not changed.

    Args:
        momentum: The new momentum or beta1, in [0, 1).
        optimizer: Its groups are written.
        schedulers: A `OneCycleScheduler` gets the value as its ``max_momentum``; torch's ``OneCycleLR`` and
            ``CyclicLR`` read theirs from the groups.

    Returns:
        What was changed, as readable names.
    """
    expect_number("momentum", momentum, minimum=0, below=1)
    groups = [group for group in optimizer.param_groups if has_momentum(group)]
    for group in groups:
        write_momentum(group, momentum)
        if "max_momentum" in group:  # torch's OneCycleLR and CyclicLR keep the ends of their cycle there
            group.update(max_momentum=momentum, base_momentum=min(group["base_momentum"], momentum))
    cycles = [part for scheduler in schedulers for part in _parts(scheduler) if isinstance(part, OneCycleScheduler)]
    for cycle in cycles:
        cycle.set_max_momentum(momentum)
    return [_groups(len(groups)), *(type(cycle).__name__ for cycle in cycles)]


def _groups(number: int) -> str:
    return f"{number} parameter group{'' if number == 1 else 's'}"


def set_attributes(holder: Any, names: Sequence[str], value: float) -> list[str]:
    """Set those of ``names`` that a module or its hparams hold as a number or None; return what was set."""
    changed = []
    hparams = getattr(holder, "hparams", {})
    for name in names:
        if name in hparams and _is_rate(hparams[name]):
            hparams[name] = value
            changed.append(f"hparams.{name}")
        if _is_rate(getattr(holder, name, "missing")):
            with suppress(AttributeError):  # a property without a setter
                setattr(holder, name, value)
                changed.append(f"module.{name}")
    return changed


def _is_rate(value: Any) -> bool:
    return value is None or (isinstance(value, Real) and not isinstance(value, bool))
