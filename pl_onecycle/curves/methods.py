"""The rules of `suggest`: where on a loss curve each method finds its landmark.

Pure maths on numpy. Each rule takes a curve in which `find_fault` finds no fault, and returns the lr and half a
sentence about the landmark, or None without one. `suggest` has the table of all rules.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from pl_onecycle.curves.curve import LossCurve
from pl_onecycle.curves.noise import Array
from pl_onecycle.curves.thresholds import SLIDE_GAP, SLIDE_SLOPES, TROUGH_DECADES, TROUGH_MARGIN, TROUGH_SHARE
from pl_onecycle.curves.trough import find_trough

Method = Literal["trough", "smith", "steepest", "valley", "slide", "minimum"]
METHODS: tuple[Method, ...] = get_args(Method)


def _trough(curve: LossCurve) -> tuple[float, str]:
    trough = find_trough(curve)
    left, right = trough.ends
    where = f"from {left:.3g} to {right:.3g}{f', at most {TROUGH_DECADES:g} decades' if trough.is_cut else ''}"
    part = "the middle" if trough.right - trough.left >= 2 * TROUGH_MARGIN else "below the middle"
    return trough.lr, f"{part} of the trough {where}, where {TROUGH_SHARE:.0%} of the fall has happened"


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


def _slide(curve: LossCurve) -> tuple[float, str] | None:
    lr, loss = _one_point_per_lr(curve)
    gap = min(SLIDE_GAP, len(lr) - 1)
    slope = np.gradient(loss / (curve.start - loss.min()))
    right, left = len(lr) - 1, len(lr) - 1 - gap
    at = left
    while left >= 0 and abs(slope[right] - slope[left]) > SLIDE_SLOPES:
        at = left
        right, left = right - 1, left - 1
    return (lr[at], "where the slopes of a sliding pair of points first agree") if left >= 0 else None


def _one_point_per_lr(curve: LossCurve) -> tuple[Array, Array]:
    """Merge the points of one stair, so that slopes over lr exist."""
    lr, where = np.unique(curve.finite_lr, return_inverse=True)
    loss = np.bincount(where, weights=curve.smoothed()) / np.bincount(where)
    return lr, loss


RULES: dict[Method, Callable[[LossCurve], tuple[float, str] | None]] = {
    "trough": _trough,
    "smith": _smith,
    "steepest": _steepest,
    "valley": _valley,
    "slide": _slide,
    "minimum": _minimum,
}
