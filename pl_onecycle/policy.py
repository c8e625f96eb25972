"""Schedules as frozen values: optimizer step -> learning rate and momentum.

Pure Python; imports neither torch nor Lightning. A policy never touches an optimizer: `scheduler.py`
applies one in training, `trial.py` applies one in a trial.

Steps are optimizer steps, counted from zero: ``lr(k)`` is the learning rate that step ``k`` uses.
Every ``pct_*`` is a fraction of ``total_steps`` in [0, 1].

References:
    Smith, "Cyclical learning rates for training neural networks", arXiv:1506.01186 (LR range test).
    Smith, "A disciplined approach to neural network hyper-parameters", arXiv:1803.09820 (1cycle).
    Smith and Topin, "Super-convergence", arXiv:1708.07120.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from pl_onecycle.checks import expect, expect_bool, expect_integer, expect_number, expect_one_of

Anneal = Literal["linear", "cos", "cosine", "exponential"]
SweepMode = Literal["exponential", "linear", "staircase"]


class Policy(Protocol):
    """The interface of a schedule that a scheduler or a trial uses."""

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the schedule."""

    def lr(self, step: float) -> float:
        """Return the learning rate of optimizer step ``step``."""

    def momentum(self, step: float) -> float | None:
        """Return the momentum of optimizer step ``step``, or None to leave it unchanged."""


# ------------------------------------------------------------------------------------------- shapes
# A shape maps time t in [0, 1] and the ratio end / start of two values to the share of the way from
# start to end. Only the exponential shape uses the ratio.


def _linear(t: float, ratio: float) -> float:
    return t


def _cosine(t: float, ratio: float) -> float:
    return (1 - math.cos(math.pi * t)) / 2


def _exponential(t: float, ratio: float) -> float:
    return t if ratio == 1 else (ratio**t - 1) / (ratio - 1)


_SHAPES: dict[str, Callable[[float, float], float]] = {
    "linear": _linear,
    "cos": _cosine,  # torch's name
    "cosine": _cosine,
    "exponential": _exponential,
}


@dataclass(frozen=True)
class Phase:
    """A part of a policy in which learning rate and momentum move from one value to another.

    Attributes:
        name: ``"rise"``, ``"plateau"``, ``"fall"`` or ``"annihilation"``.
        start: The first step of the phase.
        span: Steps from ``start`` to the step that uses the end values (0: the phase starts at its end values).
        lr: Learning rate at the start and at the end.
        momentum: Momentum at the start and at the end.
    """

    name: str
    start: int
    span: int
    lr: tuple[float, float]
    momentum: tuple[float, float]


def _share(step: float, phase: Phase, shape: Callable[[float, float], float]) -> float:
    t = 1.0 if phase.span == 0 else min((step - phase.start) / phase.span, 1.0)
    return t if t in (0.0, 1.0) else shape(t, phase.lr[1] / phase.lr[0])


def _between(ends: tuple[float, float], share: float) -> float:
    # Exact at the joints, whatever the rounding.
    return ends[1] if share == 1 else ends[0] + (ends[1] - ends[0]) * share


def whole_steps(fraction: float, total_steps: int) -> int:
    """Round a fraction of the steps to whole steps, halves up; 1e-9 absorbs the rounding error of the product."""
    return math.floor(fraction * total_steps + 0.5 + 1e-9)


# ---------------------------------------------------------------------------------------- one cycle
@dataclass(frozen=True)
class OneCyclePolicy:
    r"""One cycle of learning rate and momentum, then the annihilation of the learning rate.

    With N = ``total_steps``, hi = ``max_lr``, lo = hi / ``div_factor`` and fin = lo / ``final_div_factor``
    there are four phases of a + b + c + d = N whole steps:

    ==============  =====  ==============================  =====================================
    phase           steps  learning rate                   momentum
    ==============  =====  ==============================  =====================================
    rise            a      lo -> hi                        ``max_momentum`` -> ``base_momentum``
    plateau         b      hi                              ``base_momentum``
    fall            c      hi -> lo (hi -> fin if d = 0)   ``base_momentum`` -> ``max_momentum``
    annihilation    d      lo -> fin                       ``max_momentum``
    ==============  =====  ==============================  =====================================

    Exactly, lr(0) = lo, lr(a) = hi, lr(a + b + c) = lo and lr(N - 1) = fin; from step N on the last
    value is held. Momentum is the mirror image of the learning rate within each phase.

    Rounding: d, b and a are the nearest whole steps to ``pct_annihilation``, ``pct_plateau`` and
    ``pct_start`` times N (halves up); if they leave no step for the fall, the plateau is shortened first, then
    the annihilation, then the rise; c is the rest. With ``pct_start=None`` rise and fall share the remaining steps
    and the fall gets the odd step. Where joints meet on one step (tiny N), the peak wins over the end and the end over
    the start.

    Args:
        max_lr: Learning rate at the peak, > 0, for example from a range test.
        total_steps: Optimizer steps of the whole run, >= 1.
        pct_start: Share of the steps in the rise; None (Smith) makes rise and fall equally long.
        pct_plateau: Share of the steps held at ``max_lr``.
        pct_annihilation: Share of the steps in the annihilation. Smith leaves it open ("the last few
            iterations"); the original code used a tenth.
        div_factor: hi / lo, >= 1. Smith uses 10 to 20 for one cycle.
        final_div_factor: lo / fin, >= 1 / ``div_factor``. Smith: "several orders of magnitude"; 1e4 is torch's
            default.
        anneal_strategy: Shape of every phase: ``"linear"`` (Smith), ``"cos"`` or ``"cosine"``, ``"exponential"``.
        cycle_momentum: False leaves momentum unchanged; ``momentum(step)`` then returns None.
        base_momentum: Momentum at the peak of the learning rate, in [0, 1).
        max_momentum: Momentum at the start and at the end, in [``base_momentum``, 1).
        decay: None, or the factor by which each step of the fall multiplies the distance to lo, in (0, 1]:
            lr(a + b + j) = lo + (hi - lo) ``decay``\ :sup:`j`. Such a fall approaches lo without reaching it.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument lies outside its range, or the ``pct_*`` add up to more than 1.

    Example:
        The CIFAR-10 run that this project is named after, with 98 steps per epoch:

        >>> policy = OneCyclePolicy(0.8, 95 * 98, pct_annihilation=13 / 95, final_div_factor=10, base_momentum=0.8)
        >>> [round(policy.lr(98 * epoch), 6) for epoch in (0, 41, 82)] + [round(policy.lr(95 * 98 - 1), 6)]
        [0.08, 0.8, 0.08, 0.008]
        >>> [round(policy.momentum(98 * epoch), 6) for epoch in (0, 41, 82)]
        [0.95, 0.8, 0.95]

    References:
        arXiv:1803.09820, section 4 and arXiv:1708.07120, section 3.
        Differs: phases are whole steps and the joints are exact; Smith gives no rounding rule.
    """

    max_lr: float
    total_steps: int
    pct_start: float | None = None
    pct_plateau: float = 0.0
    pct_annihilation: float = 0.1
    div_factor: float = 10.0
    final_div_factor: float = 1e4
    anneal_strategy: Anneal = "linear"
    cycle_momentum: bool = True
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    decay: float | None = None

    def __post_init__(self) -> None:
        """Check every argument."""
        expect_number("max_lr", self.max_lr, above=0)
        expect_integer("total_steps", self.total_steps, minimum=1)
        fractions = {
            "pct_start": 0.0 if self.pct_start is None else self.pct_start,
            "pct_plateau": self.pct_plateau,
            "pct_annihilation": self.pct_annihilation,
        }
        for name, fraction in fractions.items():
            expect_number(name, fraction, minimum=0, maximum=1)
        whole = sum(fractions.values())
        expect(whole <= 1 + 1e-9, " + ".join(f"{name}" for name in fractions), "at most 1", whole)
        expect_number("div_factor", self.div_factor, minimum=1)
        expect_number("final_div_factor", self.final_div_factor, minimum=1 / self.div_factor)
        expect_one_of("anneal_strategy", self.anneal_strategy, _SHAPES)
        expect_bool("cycle_momentum", self.cycle_momentum)
        expect_number("base_momentum", self.base_momentum, minimum=0, below=1)
        expect_number("max_momentum", self.max_momentum, minimum=self.base_momentum, below=1)
        if self.decay is not None:
            expect_number("decay", self.decay, above=0, maximum=1)

    # -------------------------------------------------------------------------------------- values
    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that have steps, in order."""
        a, b, c, d = self._phase_steps
        high = self.max_lr
        low = high / self.div_factor
        final = low / self.final_div_factor
        cool, hot = self.max_momentum, self.base_momentum
        fall_span, fall_end = (c, low) if d else (c - 1, final)
        if fall_span == 0:  # the run ends at its peak
            fall_end = high
        phases = [
            Phase("rise", 0, a, (low, high), (cool, hot)),
            Phase("plateau", a, b, (high, high), (hot, hot)),
            Phase("fall", a + b, fall_span, (high, fall_end), (hot, hot if fall_span == 0 else cool)),
            Phase("annihilation", a + b + c, d - 1, (low, final), (cool, cool)),
        ]
        return tuple(phase for phase, steps in zip(phases, (a, b, c, d), strict=True) if steps)

    @property
    def peak_step(self) -> int:
        """The first step at ``max_lr``."""
        return self._phase_steps[0]

    def lr(self, step: float) -> float:
        """Return the learning rate of optimizer step ``step``; from ``total_steps`` on, the last one."""
        phase, share = self._at(step)
        return _between(phase.lr, share)

    def momentum(self, step: float) -> float | None:
        """Return the momentum of optimizer step ``step``, or None with ``cycle_momentum=False``."""
        if not self.cycle_momentum:
            return None
        phase, share = self._at(step)
        return _between(phase.momentum, share)

    @cached_property
    def _phase_steps(self) -> tuple[int, int, int, int]:
        """Return (a, b, c, d) by the rounding rule of the class; c >= 1, so the peak is always a step of the run."""
        n = self.total_steps
        if self.pct_start is None:
            d = min(whole_steps(self.pct_annihilation, n), n - 1)
            b = min(whole_steps(self.pct_plateau, n), n - 1 - d)
            a = (n - b - d) // 2
        else:
            a = min(whole_steps(self.pct_start, n), n - 1)
            d = min(whole_steps(self.pct_annihilation, n), n - 1 - a)
            b = min(whole_steps(self.pct_plateau, n), n - 1 - a - d)
        return a, b, n - a - b - d, d

    def _at(self, step: float) -> tuple[Phase, float]:
        expect(step >= 0, "step", "a number >= 0", step)
        step = min(step, self.total_steps - 1)
        phase = next(phase for phase in reversed(self.phases) if phase.start <= step)
        if phase.name == "fall" and self.decay is not None:
            return phase, 1 - self.decay ** (step - phase.start)
        return phase, _share(step, phase, _SHAPES[self.anneal_strategy])


# --------------------------------------------------------------------------------------- range test
@dataclass(frozen=True)
class RangeTestPolicy:
    r"""The sweep of an LR range test: from ``min_lr`` to ``max_lr`` in ``num_steps`` steps, both ends exact.

    With t = k / (``num_steps`` - 1):

    - ``"exponential"``: lr(k) = ``min_lr`` (``max_lr`` / ``min_lr``)\ :sup:`t`
    - ``"linear"``: lr(k) = ``min_lr`` + (``max_lr`` - ``min_lr``) t
    - ``"staircase"``: the exponential sweep in ``num_stairs`` stairs, each held for the same number of
      steps, so that the loss has time to respond to each learning rate

    From step ``num_steps`` on ``max_lr`` is held. Momentum is left unchanged.

    Args:
        min_lr: Learning rate of the first step, > 0.
        max_lr: Learning rate of the last step, > ``min_lr``.
        num_steps: Optimizer steps of the sweep, >= 2.
        mode: Shape of the sweep.
        num_stairs: Number of stairs in ``"staircase"`` mode, in [2, ``num_steps``].

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument lies outside its range.

    Example:
        >>> policy = RangeTestPolicy(1e-4, 1.0, 5)
        >>> [round(policy.lr(step), 6) for step in range(6)]
        [0.0001, 0.001, 0.01, 0.1, 1.0, 1.0]

    References:
        arXiv:1506.01186, section 3.3. Differs: Smith sweeps linearly; the exponential sweep gives each
        decade the same number of steps.
    """

    min_lr: float = 1e-7
    max_lr: float = 10.0
    num_steps: int = 100
    mode: SweepMode = "exponential"
    num_stairs: int = 10

    def __post_init__(self) -> None:
        """Check every argument."""
        expect_number("min_lr", self.min_lr, above=0)
        expect_number("max_lr", self.max_lr, above=self.min_lr)
        expect(math.isfinite(self.max_lr / self.min_lr), "max_lr", "at most 1e308 times `min_lr`", self.max_lr)
        expect_integer("num_steps", self.num_steps, minimum=2)
        expect_one_of("mode", self.mode, ("exponential", "linear", "staircase"))
        expect_integer("num_stairs", self.num_stairs, minimum=2)
        if self.mode == "staircase":
            expect(self.num_stairs <= self.num_steps, "num_stairs", "at most `num_steps`", self.num_stairs)

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the sweep."""
        return self.num_steps

    def lr(self, step: float) -> float:
        """Return the learning rate of optimizer step ``step``; from ``num_steps`` on, ``max_lr``."""
        expect(step >= 0, "step", "a number >= 0", step)
        if self.mode == "staircase":
            stair = math.floor(min(step, self.num_steps - 1) * self.num_stairs / self.num_steps)
            t = stair / (self.num_stairs - 1)
        else:
            t = min(step / (self.num_steps - 1), 1.0)
        shape = _linear if self.mode == "linear" else _exponential
        share = t if t in (0.0, 1.0) else shape(t, self.max_lr / self.min_lr)
        return _between((self.min_lr, self.max_lr), share)

    def momentum(self, step: float) -> float | None:
        """Return None: a range test leaves momentum unchanged."""
        return None
