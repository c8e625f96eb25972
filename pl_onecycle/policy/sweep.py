"""`RangeTestPolicy`: the learning rates of an LR range test; `HeldPolicy`: one and the same."""

import math
import sys
from dataclasses import dataclass
from typing import Literal

from pl_onecycle.checks import expect, expect_integer, expect_number, expect_one_of
from pl_onecycle.policy.shapes import between, exponential, linear

SweepMode = Literal["exponential", "linear", "staircase"]


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
        shape = linear if self.mode == "linear" else exponential
        share = t if t in (0.0, 1.0) else shape(t, self.max_lr / self.min_lr)
        return between((self.min_lr, self.max_lr), share)

    def momentum(self, step: float) -> float | None:
        """Return None: a range test leaves momentum unchanged."""
        return None


@dataclass(frozen=True)
class HeldPolicy:
    """One learning rate at every step; momentum is left unchanged.

    Args:
        held_lr: The learning rate.
        total_steps: Optimizer steps.

    Example:
        >>> HeldPolicy(0.1).lr(7)
        0.1
    """

    held_lr: float
    total_steps: int = sys.maxsize

    def lr(self, step: float) -> float:
        """Return the learning rate, the same for every step."""
        return self.held_lr

    def momentum(self, step: float) -> None:
        """Return None: momentum is left unchanged."""
        return
