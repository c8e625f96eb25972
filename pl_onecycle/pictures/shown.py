"""`Curve`, `Suggested`, `Compared`, `Planned` and `Played`: what a picture needs to know of a result.

The rooms above define the results; the pictures, which they call, know them by these interfaces only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Curve(Protocol):
    """A loss curve."""

    @property
    def lr(self) -> Sequence[float]:
        """Learning rates, one for each loss."""

    @property
    def outcome(self) -> str:
        """How it ended."""

    @property
    def val_steps(self) -> Sequence[int]:
        """Numbers of steps after which the validation loss was measured."""

    @property
    def val_loss(self) -> Sequence[float]:
        """Validation losses."""

    @property
    def finite_lr(self) -> Any:
        """Learning rates of `finite_loss`."""

    @property
    def finite_loss(self) -> Any:
        """Losses before the first that is not finite."""

    @property
    def noise(self) -> float:
        """Standard deviation of the losses about their trend; NaN if unknown."""

    def smoothed(self) -> Any:
        """Return the smoothed losses at `finite_lr`."""


class Suggested(Protocol):
    """A suggested learning rate."""

    @property
    def lr(self) -> float:
        """The learning rate."""

    @property
    def method(self) -> str:
        """The method that found it."""

    @property
    def low(self) -> float | None:
        """Lower end of its interval."""

    @property
    def high(self) -> float | None:
        """Upper end of its interval."""


class Compared(Protocol):
    """Candidates that are compared by one kind of loss."""

    @property
    def kind(self) -> str:
        """The kind of loss."""

    @property
    def levels(self) -> Mapping[float, float]:
        """The level at which each candidate ends, from the lowest up."""

    @property
    def noise(self) -> Mapping[float, float]:
        """By candidate, the margin above the lowest level that may be chance."""

    @property
    def left(self) -> Sequence[float]:
        """The candidates that cannot be told from the lowest one."""


class Planned(Protocol):
    """A schedule."""

    @property
    def total_steps(self) -> int:
        """Number of its optimizer steps."""

    def lr(self, step: float) -> float:
        """Return the learning rate of a step."""

    def momentum(self, step: float) -> float | None:
        """Return the momentum of a step, or None."""


class Plan(Protocol):
    """A schedule as a few points."""

    @property
    def steps(self) -> Sequence[int]:
        """Optimizer steps of the run."""

    @property
    def lr(self) -> Sequence[float]:
        """The learning rate of each."""


class Played(Protocol):
    """What a run has done."""

    @property
    def steps(self) -> Sequence[int]:
        """The recorded optimizer steps."""

    @property
    def lr(self) -> Sequence[float]:
        """The learning rate of each."""

    @property
    def loss(self) -> Sequence[float]:
        """The training loss of each, NaN where none is known."""

    @property
    def val_steps(self) -> Sequence[int]:
        """After how many steps validation ended."""

    @property
    def val_loss(self) -> Sequence[float]:
        """The validation loss then."""

    @property
    def plan(self) -> Plan | None:
        """What was planned, or None."""
