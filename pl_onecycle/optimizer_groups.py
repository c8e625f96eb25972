"""Read and write learning rate, momentum and weight decay in the parameter groups of an optimizer.

The only module that knows where torch optimizers store these: ``lr`` and ``weight_decay`` as a number or a tensor,
momentum as ``momentum`` (SGD, RMSprop) or as the first of ``betas`` (the Adam family).
"""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pl_onecycle.checks import expect


def write(holder: dict[str, Any], key: str, value: float) -> None:
    """Set ``holder[key]``; a tensor keeps its identity and is filled in place (CUDA graphs, capturable optimizers)."""
    if isinstance(holder[key], Tensor):
        holder[key].fill_(value)
    else:
        holder[key] = value


# --------------------------------------------------------------------------------------- learning rate
def check_lrs(optimizer: Optimizer, error: type[Exception] = ValueError) -> None:
    """Raise ``error`` unless every group has a finite numeric ``lr`` >= 0; TypeError for a non-optimizer."""
    wanted = "an optimizer whose parameter groups have a finite numeric `lr` >= 0"
    expect(isinstance(optimizer, Optimizer), "optimizer", wanted, optimizer, TypeError)
    name = type(optimizer).__name__
    for i, group in enumerate(optimizer.param_groups):
        lr: Any = group.get("lr")
        is_number = isinstance(lr, Real) or (isinstance(lr, Tensor) and lr.numel() == 1)
        usable = is_number and math.isfinite(float(lr)) and float(lr) >= 0
        expect(usable, "optimizer", wanted, f"{name} with lr={lr!r} in group {i}", error)
    expect(len(optimizer.param_groups) > 0, "optimizer", wanted, f"{name} without groups", error)


def peak_lrs(optimizer: Optimizer) -> list[float]:
    """Return for each group the lr that its schedule is built around.

    That is ``max_lr`` if a one-cycle scheduler set it, else ``initial_lr`` if any scheduler set it, else the group's
    ``lr``.
    """
    return [float(group.get("max_lr", group.get("initial_lr", group["lr"]))) for group in optimizer.param_groups]


def rescale(value: float, old_top: float, new_top: float) -> float:
    """Return ``value`` scaled by ``new_top / old_top``; exactly ``new_top`` for ``old_top``.

    If ``old_top`` is zero, every value becomes ``new_top``.

    Example:
        >>> rescale(0.25, old_top=1.0, new_top=0.5)
        0.125
    """
    return new_top if value == old_top or old_top == 0 else value * new_top / old_top


# -------------------------------------------------------------------------------------------- momentum
def momentum_of(group: dict[str, Any]) -> float | None:
    """Return the group's momentum or beta1, or None for an optimizer without one.

    Example:
        >>> momentum_of({"betas": (0.9, 0.999)}), momentum_of({"lr": 0.1})
        (0.9, None)
    """
    if "betas" in group:
        return float(group["betas"][0])
    return float(group["momentum"]) if group.get("momentum") is not None else None


def has_momentum(group: dict[str, Any]) -> bool:
    """Return whether the group trains with momentum; a momentum of 0 counts as none and stays 0."""
    return bool(momentum_of(group))


def write_momentum(group: dict[str, Any], momentum: float) -> None:
    """Write the group's momentum or beta1."""
    betas = group.get("betas")
    if type(betas) is tuple and type(betas[0]) is float:  # the usual kinds first, as each step writes each group
        group["betas"] = (momentum, betas[1]) if len(betas) == 2 else (momentum, *betas[1:])
    elif betas is None and type(group["momentum"]) is float:
        group["momentum"] = momentum
    elif betas is None:
        write(group, "momentum", momentum)
    elif isinstance(betas[0], Tensor):
        with torch.no_grad():
            betas[0].fill_(momentum)
    else:
        group["betas"] = type(betas)((momentum, *betas[1:]))


# ---------------------------------------------------------------------------------------- weight decay
def weight_decay_of(optimizer: Optimizer, error: type[Exception] = ValueError) -> float:
    """Return the largest weight decay of the groups; raise ``error`` for an optimizer without weight decay."""
    decays = [float(group["weight_decay"]) for group in _with_weight_decay(optimizer)]
    wanted = "an optimizer with weight decay (a `weight_decay` in its parameter groups)"
    expect(bool(decays), "optimizer", wanted, type(optimizer).__name__, error)
    return max(decays)


def write_weight_decay(optimizer: Optimizer, weight_decay: float) -> int:
    """Set the largest weight decay, keep the ratio of the others to it, and return how many groups decay.

    Groups at 0 next to decayed ones stay at 0; if all are at 0, all get ``weight_decay``.
    """
    top = weight_decay_of(optimizer)
    decayed = [group for group in _with_weight_decay(optimizer) if top == 0 or float(group["weight_decay"]) > 0]
    for group in decayed:
        write(group, "weight_decay", rescale(float(group["weight_decay"]), top, weight_decay))
    return len(decayed)


def is_decoupled(optimizer: Optimizer) -> bool:
    """Return whether weight decay shrinks the weights by itself, as in AdamW, and is no part of the gradient.

    Example:
        >>> weights = [torch.zeros(1)]
        >>> is_decoupled(torch.optim.AdamW(weights)), is_decoupled(torch.optim.SGD(weights, lr=0.1))
        (True, False)
    """
    says = (group.get("decoupled_weight_decay", group.get("decouple")) for group in optimizer.param_groups)
    # torch's AdamW has no such entry before 2.7; those of other packages are called alike
    return any(says) or any(name in type(optimizer).__name__ for name in ("AdamW", "Lion"))


def _with_weight_decay(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group.get("weight_decay") is not None]
