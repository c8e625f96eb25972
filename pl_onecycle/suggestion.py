"""From a loss curve to a learning rate, or to a reason why not.

Pure maths on numpy. Every method reads the smoothed view of the curve, is unmoved by the scale and the
shift of the loss, and refuses where the curve does not support an answer.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pl_onecycle.checks import expect, expect_one_of
from pl_onecycle.curve import Array, LossCurve

Method = Literal["smith", "steepest", "valley", "slide", "minimum"]

# Fewer points than this carry no shape.
MIN_POINTS = 5
# A fall counts when, seen through a wide kernel (decades), it exceeds this many standard deviations of the raw
# losses. Of flat curves with noise, 100 points over eight decades, about one in fifty falls as far by chance.
WIDE = 0.3
MIN_FALL = 2.0


@dataclass(frozen=True)
class Suggestion:
    """A learning rate to use, and why.

    Attributes:
        lr: The ``max_lr`` to use, > 0, for the parameter group with the largest lr; the other groups keep
            their ratio to it.
        method: The method that found it.
        reason: Half a sentence for people, with the landmark of the curve that decided.
    """

    lr: float
    method: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, as saved in checkpoints."""
        return asdict(self)


def suggest(curve: LossCurve, method: Method = "smith") -> Suggestion | None:
    """Suggest the ``max_lr`` of a one-cycle run from the curve of an LR range test.

    ===========  ==========================================================================================
    method       with L the smoothed loss, in the order of the sweep
    ===========  ==========================================================================================
    smith        lr at the minimum of L, divided by 10
    steepest     lr[i] with the smallest (L[i+1] - L[i]) / (ln lr[i+1] - ln lr[i]), before the minimum
    valley       the longest falling subsequence of L, from s to e: lr[s + int((e-s)/3) + int((e-s)/6)]
    slide        a pair of points 15 apart slides from the right while its slopes differ: lr of the left
    minimum      lr at the minimum of the raw loss, divided by 10
    ===========  ==========================================================================================

    Args:
        curve: A sweep, e.g. ``LRRangeTest.curve``.
        method: One of the table.

    Returns:
        The suggestion, or None where the curve does not support one; `refusal` says why.

    Raises:
        ValueError: No such method.

    Example:
        >>> lr = [10 ** (k / 10) for k in range(-60, 11)]
        >>> curve = LossCurve(lr, [(np.log10(x) + 1) ** 2 for x in lr])    # lowest at 0.1
        >>> round(suggest(curve).lr, 4), round(suggest(curve, "minimum").lr, 4)
        (0.01, 0.01)

    References:
        smith: one order of magnitude below the minimum, the rule of the article that this project began with,
        after arXiv:1506.01186. steepest, valley, slide, minimum: fastai v2, ``callback/schedule.py``.
        Differs: fastai smooths by a running average that lags, and cuts the first tenth and the last five
        points; points of one stair count as one; steepest looks left of the minimum only; slide's threshold of 0.005
        is a share of the fall instead of an absolute loss; minimum takes the raw loss, which makes it differ from smith
        at all; an answer at which the loss has exploded is refused.
    """
    answer = _answer(curve, method)
    return None if isinstance(answer, str) else answer


def refusal(curve: LossCurve, method: Method = "smith") -> str | None:
    """Return why the curve supports no suggestion, or None where it does.

    Args:
        curve: A sweep.
        method: One of the table of `suggest`.

    Raises:
        ValueError: No such method.

    Example:
        >>> refusal(LossCurve([1e-3, 1e-2, 1e-1, 1.0, 10.0], [2.0] * 5))
        'the loss does not fall anywhere in the sweep'
    """
    answer = _answer(curve, method)
    return answer if isinstance(answer, str) else None


def _answer(curve: LossCurve, method: Method) -> Suggestion | str:
    expect(isinstance(curve, LossCurve), "curve", "a LossCurve", type(curve).__name__, TypeError)
    expect_one_of("method", method, _METHODS)
    reason = _unfit(curve)
    if reason is not None:
        return reason
    found = _METHODS[method](curve)
    if found is None:
        return f"{method} finds its landmark nowhere on the curve"
    lr, reason = found
    smooth = curve.smoothed()
    there = float(np.interp(np.log(lr), np.log(curve.finite_lr), smooth))
    if lr > curve.finite_lr[smooth.argmin()] and there > curve.start + 0.5 * (curve.start - float(smooth.min())):
        return f"{method} ends at {lr:.3g}, where the loss has exploded"
    return Suggestion(float(lr), method, reason)


def _unfit(curve: LossCurve) -> str | None:
    """Why no method can read the curve, or None."""
    if curve.outcome == "overridden":
        return "the module sets the learning rate of its steps itself, so it cannot be swept"
    if len(curve) > 0 and len(curve.finite_loss) == 0:
        return "the loss is not finite from the first step on"
    if curve.initial_loss is not None and not np.isfinite(curve.initial_loss):
        return "the loss is not finite from the first step on"
    if len(curve.finite_loss) < MIN_POINTS:
        return f"the sweep ended after {len(curve.finite_loss)} finite points, at least {MIN_POINTS} are needed"
    if np.any(np.diff(curve.finite_lr) < 0) or curve.finite_lr[0] == curve.finite_lr[-1]:
        return "the learning rate does not rise from point to point, so this is no sweep"
    # Where the first points are the lowest, the loss only rises.
    fall = curve.start - float(curve.smoothed(WIDE)[curve.start_points :].min())
    # A rounding error of the loss is not a fall either.
    if fall <= 1e-7 * abs(curve.start):
        return "the loss does not fall anywhere in the sweep"
    if fall <= MIN_FALL * curve.noise:
        return f"the loss falls by {fall:.3g}, less than {MIN_FALL:g} times its noise of {curve.noise:.3g}"
    return None


# ------------------------------------------------------------------------------------------ methods
# Each takes a curve that `_unfit` let pass and returns the lr and the reason, or None without a landmark.


def _smith(curve: LossCurve) -> tuple[float, str]:
    smooth = curve.smoothed()
    lowest = curve.finite_lr[smooth.argmin()]
    return lowest / 10, f"one order of magnitude below {lowest:.3g}, where the smoothed loss is lowest"


def _minimum(curve: LossCurve) -> tuple[float, str]:
    lowest = curve.finite_lr[curve.finite_loss.argmin()]
    return lowest / 10, f"one order of magnitude below {lowest:.3g}, where the raw loss is lowest"


def _steepest(curve: LossCurve) -> tuple[float, str]:
    lr, loss = _one_point_per_lr(curve)
    lr, loss = lr[: loss.argmin() + 1], loss[: loss.argmin() + 1]
    if len(lr) < 2:
        return _smith(curve)
    slope = np.diff(loss) / np.diff(np.log(lr))
    return lr[slope.argmin()], "where the smoothed loss falls fastest over log lr"


def _valley(curve: LossCurve) -> tuple[float, str]:
    lr, loss = _one_point_per_lr(curve)
    length = np.ones(len(loss), dtype=int)
    for i in range(1, len(loss)):
        longer = length[:i][loss[:i] > loss[i]]
        length[i] = 1 + (longer.max() if len(longer) else 0)
    end = int(length.argmax())
    start = end - int(length[end])
    at = max(start + int((end - start) / 3) + int((end - start) / 6), 0)
    return lr[at], f"half way down the longest fall, which ends at {lr[end]:.3g}"


def _slide(curve: LossCurve, gap: int = 15, threshold: float = 0.005) -> tuple[float, str] | None:
    lr, loss = _one_point_per_lr(curve)
    gap = min(gap, len(lr) - 1)
    slope = np.gradient(loss / (curve.start - loss.min()))
    right, left = len(lr) - 1, len(lr) - 1 - gap
    at = left
    while left >= 0 and abs(slope[right] - slope[left]) > threshold:
        at = left
        right, left = right - 1, left - 1
    return (lr[at], "where the slopes of a sliding pair of points first agree") if left >= 0 else None


_METHODS: dict[str, Callable[[LossCurve], tuple[float, str] | None]] = {
    "smith": _smith,
    "steepest": _steepest,
    "valley": _valley,
    "slide": _slide,
    "minimum": _minimum,
}
METHODS = tuple(_METHODS)


def _one_point_per_lr(curve: LossCurve) -> tuple[Array, Array]:
    """Merge the points of one stair, so that slopes over lr exist."""
    lr, where = np.unique(curve.finite_lr, return_inverse=True)
    loss = np.bincount(where, weights=curve.smoothed()) / np.bincount(where)
    return lr, loss
