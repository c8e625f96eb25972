"""`Policy`, the interface of a schedule, and the shapes that its parts can have."""

import math
from collections.abc import Callable
from typing import Literal, Protocol

Anneal = Literal["linear", "cos", "cosine", "exponential"]


class Policy(Protocol):
    """The interface of a schedule that a scheduler or a trial uses."""

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the schedule."""

    def lr(self, step: float) -> float:
        """Return the learning rate of optimizer step ``step``."""

    def momentum(self, step: float) -> float | None:
        """Return the momentum of optimizer step ``step``, or None to leave it unchanged."""


# A shape maps time t in [0, 1] and the ratio end / start of two values to the share of the way from
# start to end. Only the exponential shape uses the ratio.


def linear(t: float, ratio: float) -> float:
    """Return the share done at a constant speed."""
    return t


def cosine(t: float, ratio: float) -> float:
    """Return the share done on half a cosine wave."""
    return (1 - math.cos(math.pi * t)) / 2


def exponential(t: float, ratio: float) -> float:
    """Return the share done at a constant factor per step."""
    return t if ratio == 1 else (ratio**t - 1) / (ratio - 1)


SHAPES: dict[str, Callable[[float, float], float]] = {
    "linear": linear,
    "cos": cosine,  # torch's name
    "cosine": cosine,
    "exponential": exponential,
}


def between(ends: tuple[float, float], share: float) -> float:
    """Return the value at ``share`` of the way between two ends."""
    # Exact at the joints, whatever the rounding.
    return ends[1] if share == 1 else ends[0] + (ends[1] - ends[0]) * share
