"""`Trough`: the part of a loss curve in which most of the fall has happened.

Pure maths on numpy. The method ``"trough"`` of `suggest` reads its suggestion off it, and pictures shade it.
"""

from dataclasses import dataclass

import numpy as np

from pl_onecycle.curves.curve import LossCurve
from pl_onecycle.curves.noise import Array, start_level
from pl_onecycle.curves.thresholds import (
    TROUGH_BANDWIDTH,
    TROUGH_DECADES,
    TROUGH_MARGIN,
    TROUGH_SHARE,
    TROUGH_START_POINTS,
)


@dataclass(frozen=True)
class Trough:
    """A range of learning rates, of a curve in which `find_fault` finds no fault.

    Attributes:
        left: Its lowest lr in decades, i.e. log10 lr.
        right: Its highest lr in decades, at most 1.25 above ``left``.
        is_cut: Whether the loss stays low beyond ``right``.
    """

    left: float
    right: float
    is_cut: bool

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest learning rate."""
        return 10**self.left, 10**self.right

    @property
    def lr(self) -> float:
        """The learning rate to suggest: the middle, but half a decade below the upper end, and in the trough."""
        return 10 ** max(min((self.left + self.right) / 2, self.right - TROUGH_MARGIN), self.left)


def find_trough(curve: LossCurve) -> Trough:
    """Return where at least 80 % of the fall of the smoothed loss has happened, around its minimum.

    Args:
        curve: A sweep that falls.

    Example:
        >>> curve = LossCurve([10 ** (k / 10 - 4) for k in range(41)], [abs(k - 20) / 10 for k in range(41)])
        >>> [round(lr, 4) for lr in find_trough(curve).ends], round(find_trough(curve).lr, 4)
        ([0.0032, 0.0312], 0.0099)
    """
    decades, smooth = np.log10(curve.finite_lr), curve.smoothed(TROUGH_BANDWIDTH)
    lowest = int(smooth.argmin())
    start = start_level(smooth, max(len(smooth) // 10, TROUGH_START_POINTS))
    level = start - TROUGH_SHARE * (start - float(smooth[lowest]))
    first = int(np.flatnonzero(smooth <= level)[0])
    left = _crossing(decades, smooth, level, first)
    above = np.flatnonzero(smooth[lowest:] > level)
    right = _crossing(decades, smooth, level, lowest + int(above[0])) if len(above) else float(decades[-1])
    return Trough(left, min(right, left + TROUGH_DECADES), right > left + TROUGH_DECADES)


def _crossing(x: Array, y: Array, level: float, after: int) -> float:
    """Return where the line from the point before ``after`` to ``after`` crosses the level."""
    before = max(after - 1, 0)
    rise = y[after] - y[before]
    return float(x[after] if rise == 0 else x[before] + (level - y[before]) / rise * (x[after] - x[before]))
