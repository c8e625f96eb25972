"""`Round`: the levels at which candidates end, by one kind of loss, and what of their differences may be chance.

Pure maths on numpy. `choose` chooses by these numbers, and pictures draw them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pl_onecycle.curves.curve import LossCurve
from pl_onecycle.curves.noise import Array, noise_of
from pl_onecycle.curves.refusals import Refusal
from pl_onecycle.curves.thresholds import END_SHARE, MATTERS, MIN_END_POINTS, MIN_POINTS, SURE_MARGIN


@dataclass(frozen=True)
class Round:
    """The candidates that are compared by one kind of loss.

    Attributes:
        kind: ``"validation loss"`` or ``"training loss"``.
        levels: The level at which each candidate ends, from the lowest up.
        noise: By candidate, the largest margin above the lowest level that could be chance or is too small to matter.
    """

    kind: str
    levels: Mapping[float, float]
    noise: Mapping[float, float]

    @property
    def margins(self) -> dict[float, float]:
        """How far each candidate ends above the lowest level, in the same order."""
        lowest = next(iter(self.levels.values()))
        return {value: level - lowest for value, level in self.levels.items()}

    @property
    def left(self) -> list[float]:
        """The candidates that cannot be told from the lowest one."""
        return [value for value, margin in self.margins.items() if margin <= self.noise[value]]


def rounds(curves: Mapping[float, LossCurve]) -> list[Round] | Refusal:
    """Compare candidates by validation loss, if some have it, and those that are left by training loss.

    Args:
        curves: Curves by candidate.

    Returns:
        One or two rounds, the last one being the one that decides; or why nothing can be compared.

    Example:
        >>> lr = [0.1] * 10
        >>> curves = {1e-3: LossCurve(lr, [2 - k / 10 for k in range(10)]), 0.0: LossCurve(lr, [2.0] * 10)}
        >>> [(it.kind, round(it.levels[0.001], 2), it.left) for it in rounds(curves)]
        [('training loss', 1.2, [0.001])]
    """
    left = {value: curve for value, curve in curves.items() if curve.outcome in ("completed", "stopped")}
    left = {value: curve for value, curve in left.items() if len(curve.finite_loss) == len(curve)}
    if not left:
        outcomes = sorted({it.outcome for it in curves.values()})
        if "overridden" in outcomes:
            return Refusal("the module sets the learning rate of its steps itself, so candidates cannot be compared")
        who = "the only candidate has" if len(curves) == 1 else f"all {len(curves)} candidates have"
        return Refusal(f"{who} {' or '.join(outcomes)}")
    left = {value: curve for value, curve in left.items() if len(curve) >= MIN_POINTS}
    if not left:
        return Refusal(f"the candidates ended after fewer than {MIN_POINTS} steps")
    left = {value: curve for value, curve in left.items() if is_validated(curve)} or left
    validated = all(is_validated(curve) for curve in left.values())
    done: list[Round] = []
    for kind in ("validation loss", "training loss")[not validated :]:
        done.append(compared(left, kind))
        left = {value: left[value] for value in done[-1].left}
        if len(left) == 1:
            break
    return done


def compared(curves: Mapping[float, LossCurve], kind: str) -> Round:
    """Compare curves, at least one, by one kind of loss that all of them have."""
    levels = {value: level(curve, kind) for value, curve in curves.items()}
    order = sorted(levels, key=lambda value: (levels[value], -value))
    best = judged(curves[order[0]], kind)
    noise = {value: _noise(best, judged(curves[value], kind)) for value in order}
    return Round(kind, {value: levels[value] for value in order}, noise)


def is_comparable(curve: LossCurve) -> bool:
    """Return whether a candidate ran to its end, with finite losses that are enough for a level."""
    is_whole = curve.outcome in ("completed", "stopped") and len(curve.finite_loss) == len(curve)
    return is_whole and len(curve) >= MIN_POINTS


def is_validated(curve: LossCurve) -> bool:
    """Return whether a curve has enough validation losses to be judged by, all finite."""
    return len(curve.val_loss) >= MIN_END_POINTS and all(map(math.isfinite, curve.val_loss))


def level(curve: LossCurve, kind: str) -> float:
    """Return the level at which a curve ends: the mean of the last fifth of its losses, at least three if it has them.

    Args:
        curve: A curve with at least one loss of that kind.
        kind: ``"validation loss"`` or ``"training loss"``.

    Example:
        >>> level(LossCurve([0.1] * 4, [9.0, 3.0, 2.0, 1.0]), "training loss")
        2.0
    """
    return float(end_of(judged(curve, kind)).mean())


def judged(curve: LossCurve, kind: str) -> Array:
    """Return the losses of that kind."""
    return np.asarray(curve.val_loss if kind == "validation loss" else curve.loss, dtype=np.float64)


def end_of(losses: Array) -> Array:
    """Return the last fifth of losses, at least three if there are as many."""
    return losses[-max(round(END_SHARE * len(losses)), MIN_END_POINTS) :]


def _noise(best: Array, other: Array) -> float:
    """Return the largest difference between the ends that could be chance or is too small to matter."""
    return max(drift(best, other), MATTERS * float(np.ptp(best)))


def drift(one: Array, other: Array) -> float:
    """Return the largest difference between the ends of two lists of losses that could be chance."""
    shared = min(len(one), len(other))
    difference = other[:shared] - one[:shared]
    end = len(end_of(difference))
    # Two runs begin alike and drift apart, so the noise is that of the later part.
    return SURE_MARGIN * noise_of(difference[-2 * end :]) / float(np.sqrt(end))
