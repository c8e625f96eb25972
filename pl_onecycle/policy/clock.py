"""`Clock`: a map from the steps of a run to the steps of a policy.

A policy has only its own steps, from 0 to its end. A run may begin a new cycle midway, or turn out longer than planned
when it is resumed. The policy then stays the same and its clock changes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """A piecewise linear map from steps of the run to positions in the policy.

    Before the first knot, the position is that of the first knot. After the last knot, one step of the run is one step
    of the policy.

    Attributes:
        knots: Pairs (step of the run, position in the policy), both rising.

    Example:
        >>> Clock().position(7), Clock.started(at=100).position(107)
        (7, 7)
        >>> slower = Clock().stretched(at=10, joints=(14, 20), end=30)  # the remaining 10 steps take 20
        >>> [slower.position(step) for step in (10, 11, 18, 30, 31)]
        [10, 10.5, 14.0, 20, 21]
    """

    knots: tuple[tuple[float, float], ...] = ((0, 0),)

    @classmethod
    def started(cls, at: int) -> "Clock":
        """Return the clock of a policy that begins at step ``at`` of the run."""
        return cls(((at, 0),))

    def position(self, step: float) -> float:
        """Return the position in the policy at step ``step`` of the run."""
        start, begin = self.knots[0]
        if step <= start:
            return begin
        for end, finish in self.knots[1:]:
            if step < end:
                return begin + (step - start) * ((finish - begin) / (end - start))
            start, begin = end, finish
        return begin + (step - start)

    def step_of(self, position: float) -> float:
        """Return the step of the run at which the policy reaches ``position``, not before that of the last knot."""
        step, begin = self.knots[-1]
        return step + (position - begin)

    def stretched(self, at: int, joints: Iterable[int], end: int) -> "Clock":
        """Return a clock that continues from step ``at`` and reaches the last joint at step ``end``.

        The rest is stretched, or compressed, evenly. The joints in between are placed on the nearest whole steps
        (halves up), so that the run still takes the exact values of the schedule at its joints; each on a step of its
        own as long as there are as many steps, else the last ones count. ``at`` itself keeps its position.

        Args:
            at: Next step of the run, < ``end``.
            joints: Positions in the policy to place on whole steps, rising; the last one is its end.
            end: Step of the run at which the last joint is reached.
        """
        here = self.position(at)
        ahead = sorted({joint for joint in joints if joint > here})
        knots: dict[float, float] = {}
        step = at
        for to_come, joint in zip(reversed(range(len(ahead))), ahead, strict=True):
            nearest = at + math.floor((joint - here) / (ahead[-1] - here) * (end - at) + 0.5 + 1e-9)
            step = max(at, min(max(nearest, step + 1), end - to_come))
            knots[step] = joint
        return Clock(tuple(sorted((knots | {at: here}).items())))
