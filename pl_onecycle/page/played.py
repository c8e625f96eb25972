"""`Played`: what a run really did, step by step, next to what was planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Plan:
    """The schedule that was planned.

    Attributes:
        steps: Optimizer steps of the run, at most a few hundred.
        lr: The lr of the group with the largest one.
        momentum: Its momentum; empty where the schedule leaves it alone.
    """

    steps: Sequence[int]
    lr: Sequence[float]
    momentum: Sequence[float] = ()


@dataclass(frozen=True)
class Played:
    """What an optimizer of a run did.

    Attributes:
        optimizer: Its class and index, for people.
        steps: The steps that are recorded, rising; every one of a short run.
        lr: The lr of the group with the largest one at each.
        momentum: The momentum of that group; empty where it has none.
        loss: The training loss of each, NaN where none is known.
        val_steps: After how many steps validation ended.
        val_loss: The validation loss then.
        done: How many steps the optimizer has taken.
        ended: How the fit ended: an empty string as long as it runs, ``"completed"``, or the exception.
        plan: What was planned, or None.
    """

    optimizer: str
    steps: Sequence[int]
    lr: Sequence[float]
    loss: Sequence[float]
    momentum: Sequence[float] = ()
    val_steps: Sequence[int] = ()
    val_loss: Sequence[float] = ()
    done: int = 0
    ended: str = ""
    plan: Plan | None = None


def planned(policy: Any, offset: int = 0, points: int = 400) -> Plan:
    """Return a policy as a plan of a few points, ``offset`` steps after the start of the run.

    Args:
        policy: A `Policy`.
        offset: The step of the run at which it begins.
        points: How many steps to keep, the first and the last among them.

    Example:
        >>> from pl_onecycle.policy import OneCyclePolicy
        >>> planned(OneCyclePolicy(0.1, total_steps=101), points=3).steps
        [0, 50, 100]
    """
    last = policy.total_steps - 1
    kept = sorted({round(k * last / max(points - 1, 1)) for k in range(points)})
    momenta = [policy.momentum(step) for step in kept]
    has_momentum = all(momentum is not None for momentum in momenta)
    return Plan([offset + step for step in kept], [policy.lr(step) for step in kept], momenta if has_momentum else ())
