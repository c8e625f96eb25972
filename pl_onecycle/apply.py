"""Apply a chosen learning rate, weight decay or momentum to the objects that train with it.

The value is written to the parameter groups, to their schedulers and to the attributes of the module; each function
returns what it changed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from pl_onecycle.checks import expect_number
from pl_onecycle.module_attributes import WEIGHT_DECAY, scale_attributes
from pl_onecycle.optimizer_groups import (
    has_momentum,
    peak_lrs,
    rescale,
    weight_decay_of,
    write,
    write_momentum,
    write_weight_decay,
)
from pl_onecycle.played_schedule import parts
from pl_onecycle.scheduler import OneCycleScheduler
from pl_onecycle.sentences import counted

# Learning rates that torch's schedulers keep in the groups (OneCycleLR all of them, the others `initial_lr`) ...
_GROUP_KEYS = ("lr", "initial_lr", "max_lr", "min_lr")
# ... and in themselves, as timm's do, ...
_SCHEDULER_KEYS = ("base_lrs", "max_lrs", "_last_lr", "base_values")
# ... which have more for a warm-up; and single numbers in schedulers of other packages.
_WARM_UP_KEYS = ("warmup_lr_init", "warmup_steps")
_NUMBER_KEYS = ("max_lr", "base_max_lr", "base_lr", "peak_lr")
# Floors that a user sets in a scheduler.
_FLOOR_KEYS = ("eta_min", "min_lr", "min_lrs", "lr_min")


def apply_max_lr(
    lr: float,
    optimizer: Optimizer,
    schedulers: Sequence[Any] = (),
    module: torch.nn.Module | None = None,
    restart: bool = False,
    *,
    old_peak: float | None = None,
    attr_name: str = "",
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
        module: Its ``lr`` and ``learning_rate`` and those of its ``hparams`` are scaled, see `scale_attributes`.
        restart: Start a new cycle of a `OneCycleScheduler` over the remaining steps.
        old_peak: The peak that the schedule has; None for the one that groups and schedulers say, see `schedule_peak`.
        attr_name: Where the module holds the learning rate, see `scale_attributes`.

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
    all_parts = [part for scheduler in schedulers for part in parts(scheduler)]
    top = schedule_peak(optimizer, schedulers) if old_peak is None else old_peak

    def to_new(value: Any) -> float:
        return rescale(float(value), top, lr)

    groups = optimizer.param_groups
    # Compute all new values before writing any: one tensor may be in several places.
    in_groups = [(group, key, to_new(group[key])) for group in groups for key in _GROUP_KEYS if key in group]
    in_schedulers = [
        (part, key, [to_new(value) for value in values] if isinstance(values, list) else to_new(values))
        for part in all_parts
        if not isinstance(part, OneCycleScheduler)
        for key in _keys(part)
        if (values := getattr(part, key, None)) is not None
    ]
    for group, key, value in in_groups:
        write(group, key, value)
    for part, key, values in in_schedulers:
        setattr(part, key, values)
    for part in all_parts:
        if isinstance(part, OneCycleScheduler):
            (part.restart if restart else part.set_max_lr)(lr)
    changed = [counted(len(groups), "parameter group")]
    for scheduler in schedulers:
        name = type(scheduler).__name__
        known = any(_keys(part) for part in parts(scheduler))
        changed.append(name if known else f"not in {name}, whose learning rates cannot be found")
    return changed + ([] if module is None else scale_attributes(module, attr_name, top, lr))


def schedule_peak(optimizer: Optimizer, schedulers: Sequence[Any] = ()) -> float:
    """Return the largest lr that groups and schedulers are built around: ``max_lrs``, else the peak in the groups."""
    for part in (part for scheduler in schedulers for part in parts(scheduler)):
        if hasattr(part, "max_lrs"):
            return max(float(value) for value in part.max_lrs)
    return max(peak_lrs(optimizer))


def floors_above(lr: float, schedulers: Sequence[Any]) -> list[str]:
    """Return the floors of the schedulers that lie above ``lr``, each as ``"eta_min=0.1 of CosineAnnealingLR"``."""
    found = []
    for part in (part for scheduler in schedulers for part in parts(scheduler)):
        for key in _FLOOR_KEYS:
            values = getattr(part, key, None)
            numbers = values if isinstance(values, (list, tuple)) else [values]
            floor = max((float(it) for it in numbers if isinstance(it, (int, float))), default=0.0)
            if floor > lr:
                found.append(f"{key}={floor:.3g} of {type(part).__name__}")
    return found


def _keys(part: Any) -> tuple[str, ...]:
    """Return the attributes of a scheduler that hold learning rates."""
    keys = tuple(key for key in _SCHEDULER_KEYS if isinstance(getattr(part, key, None), list))
    keys += tuple(key for key in _NUMBER_KEYS if isinstance(getattr(part, key, None), float))
    # With 0 steps of warm-up, timm's hold ones that are not used.
    warms_up = "base_values" in keys and bool(getattr(part, "warmup_t", 0))
    return keys + tuple(key for key in _WARM_UP_KEYS if warms_up and hasattr(part, key))


def apply_weight_decay(weight_decay: float, optimizer: Optimizer, module: torch.nn.Module | None = None) -> list[str]:
    """Make ``weight_decay`` the largest decay of the groups that decay; the others stay at 0.

    Coupled (SGD, Adam) and decoupled decay (AdamW) are both written as the group's ``weight_decay``. Ratios between
    decayed groups stay; if all are at 0, all get it.

    Args:
        weight_decay: The new decay, >= 0.
        optimizer: Its groups are written.
        module: Its ``weight_decay`` and ``wd`` and those of its ``hparams`` are scaled as the largest decay of the
            groups is, see `scale_attributes`.

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
    before = weight_decay_of(optimizer)
    groups = counted(write_weight_decay(optimizer, weight_decay), "parameter group")
    return [groups] + ([] if module is None else scale_attributes(module, "", before, weight_decay, WEIGHT_DECAY))


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
        if group.keys() >= {"base_momentum", "max_momentum"}:  # where torch's schedulers keep the ends of their cycle
            group.update(max_momentum=momentum, base_momentum=min(group["base_momentum"], momentum))
    cycles = [part for scheduler in schedulers for part in parts(scheduler) if isinstance(part, OneCycleScheduler)]
    for cycle in cycles:
        cycle.set_max_momentum(momentum)
    return [counted(len(groups), "parameter group"), *(type(cycle).__name__ for cycle in cycles)]
