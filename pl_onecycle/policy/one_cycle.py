"""`OneCyclePolicy`: one cycle of learning rate and momentum, then the annihilation of the learning rate."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pl_onecycle.checks import expect, expect_bool, expect_integer, expect_number, expect_one_of
from pl_onecycle.pictures import SchedulePicture, draw
from pl_onecycle.policy.shapes import SHAPES, Anneal, between

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        expect_one_of("anneal_strategy", self.anneal_strategy, SHAPES)
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
        return between(phase.lr, share)

    def momentum(self, step: float) -> float | None:
        """Return the momentum of optimizer step ``step``, or None with ``cycle_momentum=False``."""
        if not self.cycle_momentum:
            return None
        phase, share = self._at(step)
        return between(phase.momentum, share)

    def plot(self, ax: "Axes | None" = None) -> Any:
        """Draw learning rate and momentum over the steps.

        Args:
            ax: Axes to draw into, instead of a new figure.

        Returns:
            The figure, which a notebook shows, or ``ax``.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        return draw(SchedulePicture.of(self), ax)

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
        return phase, _share(step, phase, SHAPES[self.anneal_strategy])
