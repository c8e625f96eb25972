"""`Clock`: which step of a policy is played at which step of the run.

A policy knows only its own steps, from 0 to its end. A run may begin a new cycle in its middle, or turn out longer than
it was planned when it is resumed; the policy stays what it is, and the clock that it is played by changes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """A map of steps, made of straight lines between knots.

    Before the first knot the position is the first knot's; after the last, one step of the run is one of the policy.

    Attributes:
        knots: Pairs (step of the run, position in the policy), both rising.

    Example:
        >>> Clock().position(7), Clock.started(at=100).position(107)
        (7, 7)
        >>> slower = Clock().stretched(at=10, joints=(14, 20), end=30)  # what was left in 10 steps takes 20
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
        """Return the step of the run at which the policy has come to ``position``, not before the last knot's."""
        step, begin = self.knots[-1]
        return step + (position - begin)

    def stretched(self, at: int, joints: Iterable[int], end: int) -> "Clock":
        """Return a clock that goes on from step ``at`` and comes to the last joint at step ``end``.

        What is left is stretched, or compressed, evenly; the joints between fall on the nearest whole steps (halves
        up), so that a schedule still takes exactly the values that it has there. Where several fall on one step the
        last of them counts, and ``at`` itself keeps its position.

        Args:
            at: Step of the run that is to be played next, < ``end``.
            joints: Positions in the policy that keep whole steps, rising, the last one its end.
            end: Step of the run.
        """
        here = self.position(at)
        ahead = [joint for joint in joints if joint > here]
        knots: dict[float, float] = {}
        for joint in ahead:
            knots[at + math.floor((joint - here) / (ahead[-1] - here) * (end - at) + 0.5 + 1e-9)] = joint
        return Clock(tuple(sorted((knots | {at: here}).items())))
