"""`SearchCost`: what a search costs at most, next to the run that it is for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pl_onecycle._lightning import pl
from pl_onecycle.run_length import accumulation_in, batches_done, steps_left
from pl_onecycle.sentences import counted, duration, rounded


@dataclass(frozen=True)
class SearchCost:
    """What a search costs at most; as a string, it is for people.

    Attributes:
        steps: Optimizer steps.
        seconds: What they take at a pace that was measured; None if none was.
        epochs: The epochs that they would train; None if an epoch has no known length.
        share: The steps as a multiple of those that the run has left; None if the run has no known end.
        is_within: Whether the run has begun, so that only its rest is left.
        made_of: How the number of steps comes about.

    Example:
        >>> print(SearchCost(150, 9.2, 0.234, 0.0078))
        150 steps, about 9.2 s, 0.23 epochs, 0.78% of the run
    """

    steps: int
    seconds: float | None = None
    epochs: float | None = None
    share: float | None = None
    is_within: bool = False
    made_of: str = ""

    @classmethod
    def of(cls, trainer: pl.Trainer, steps: int, pace: float | None, made_of: str = "") -> SearchCost:
        """Return the cost of a number of steps in a fit.

        Args:
            trainer: A Trainer within ``fit``.
            steps: Optimizer steps.
            pace: Seconds of a step, or None if they are not known.
            made_of: How the number of steps comes about.
        """
        batches, left = trainer.num_training_batches, steps_left(trainer, batches_done(trainer))
        used = steps * accumulation_in(trainer, trainer.current_epoch)
        return cls(
            steps,
            None if pace is None else steps * pace,
            used / batches if 0 < batches < math.inf else None,
            steps / left if 0 < left < math.inf else None,
            trainer.global_step > 0,
            made_of,
        )

    def __str__(self) -> str:
        """Return the cost, and a hint where it is more than what it is for."""
        parts = [counted(self.steps, "step") + (f" ({self.made_of})" if self.made_of else "")]
        run = "the rest of the run" if self.is_within else "the run"
        if self.seconds is not None:
            parts.append(f"about {duration(self.seconds)}")
        if self.epochs is not None:
            parts.append(f"{rounded(self.epochs)} epochs")
        if self.share is None:
            return ", ".join(parts)
        is_more = self.share > 1
        parts.append(f"{rounded(self.share)} times {run}" if is_more else f"{rounded(100 * self.share)}% of {run}")
        hint = f"\n  more than {run} itself: pass a smaller `num_steps`, or keep a value once found in your code"
        return ", ".join(parts) + (hint if is_more else "")
