"""`Segment`: the steps of a run in which a schedule moves along one phase at one speed."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from pl_onecycle.policy.clock import Clock
from pl_onecycle.policy.one_cycle import OneCyclePolicy
from pl_onecycle.policy.shapes import SHAPES, exponential


@dataclass(frozen=True)
class Segment:
    """What `OneCyclePolicy.lr` and `Clock.position` share at every step of a segment, so that a step costs little.

    Its values are the same to the last bit.

    Attributes:
        first: The first step known to belong to the segment.
        end: The first step beyond it, or infinity.
        phase: Index of its phase among the policy's.
        knot: Step of the run and position in the policy from which positions count.
        speed: Steps of the policy for each step of the run.
        start: Position at which the phase starts.
        span: Steps of the policy in the phase.
        shape: Maps time in [0, 1] and the ratio end / start of two values to the share of the way.
        decay: The policy's, in the phase that it applies to.
        needs_ratio: Whether the share depends on the ratio of the two values.

    Example:
        >>> policy = OneCyclePolicy(1.0, 5, pct_annihilation=0.2)
        >>> rise = segment_at(policy, Clock(), step=1)
        >>> rise.end, rise.share(1), policy.phases[rise.phase].lr
        (2, 0.5, (0.1, 1.0))
    """

    first: int
    end: float
    phase: int
    knot: tuple[float, float]
    speed: float
    start: float
    span: float
    shape: Callable[[float, float], float]
    decay: float | None
    needs_ratio: bool

    def share(self, step: int, ratio: float = 1.0) -> float:
        """Return the share of the way from the phase's start values to its end values that is done at ``step``."""
        position = self.knot[1] + (step - self.knot[0]) * self.speed - self.start
        if self.decay is not None:
            return float(1 - self.decay**position)
        return self.shape(position / self.span, ratio)


def segment_at(policy: OneCyclePolicy, clock: Clock, step: int) -> Segment:
    """Return the segment of a schedule that ``step`` of the run belongs to.

    Args:
        policy: The schedule.
        clock: The map from steps of the run to positions in the policy.
        step: A step of the run, >= 0.
    """
    position, last = clock.position(step), policy.total_steps - 1
    phases = policy.phases
    phase = max(index for index, it in enumerate(phases) if it.start <= min(position, last))
    knot, speed, knot_end = _piece(clock, step)
    end: float
    if position >= last:  # the last value is held
        knot, speed, end = (0, last), 0, math.inf
    else:
        limit = min(phases[phase + 1].start if phase + 1 < len(phases) else last, last)
        steps = range(step, math.ceil(min(knot_end, step + limit - position + 1)))
        end = step + bisect_left(steps, True, key=lambda at: clock.position(at) >= limit)
    decay = policy.decay if phases[phase].name == "fall" else None
    shape = SHAPES[policy.anneal_strategy] if phases[phase].span else _at_end
    span = phases[phase].span or 1
    needs_ratio = shape is exponential and decay is None
    return Segment(step, end, phase, knot, speed, phases[phase].start, span, shape, decay, needs_ratio)


def _piece(clock: Clock, step: int) -> tuple[tuple[float, float], float, float]:
    """Return knot and speed of the linear piece that ``step`` belongs to, and the step at which it ends."""
    before = [knot for knot in clock.knots if knot[0] <= step]
    after = clock.knots[len(before) :]
    if not before:
        return (0, after[0][1]), 0, after[0][0]
    start, begin = before[-1]
    if not after:
        return before[-1], 1, math.inf
    end, finish = after[0]
    return before[-1], (finish - begin) / (end - start), end


def _at_end(t: float, ratio: float) -> float:
    return 1.0
