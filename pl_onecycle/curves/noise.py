"""What a list of losses says without their learning rates: start, trend, noise and explosion.

Pure maths on numpy.
"""

import math
from bisect import insort
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pl_onecycle.curves.thresholds import FEW_LOSSES, NOISE_OF_FALL, START_POINTS

Array = npt.NDArray[np.float64]


def median(values: Array) -> float:
    """Return the median, NaN if there is none: as numpy does, but many times faster for a few numbers."""
    return _middle(np.sort(values).tolist())


def _middle(ordered: Sequence[float]) -> float:
    if not ordered or math.isnan(ordered[-1]):  # sorted behind all others
        return math.nan
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def start_level(losses: Array, points: int) -> float:
    """Return the loss before a sweep has an effect: the median of the first ``points``."""
    return median(losses[:points])


def median_of_three(loss: Array) -> Array:
    """Return the median of each loss and the two before it, shape (n,); one outlier does not pass."""
    before = np.concatenate([loss[:1], loss[:1], loss])
    first, second = before[:-2], before[1:-1]
    middle: Array = np.maximum(np.minimum(first, second), np.minimum(np.maximum(first, second), loss))
    return middle


def noise_of(loss: Array) -> float:
    """Return the standard deviation of losses about their trend; 0 for fewer than three."""
    if len(loss) < 3:
        return 0.0
    return _noise_of_bend(median(np.abs(loss[:-2] - 2 * loss[1:-1] + loss[2:])))


def _noise_of_bend(bend: float) -> float:
    # 1.4826 turns the median absolute deviation of a normal variable into its standard deviation;
    # a second difference of independent values has 1 + 4 + 1 times their variance.
    return 1.4826 * bend / math.sqrt(6)


def rebound_unit(fall: Any, noise: float) -> Any:
    """Return the unit in which a rise after a fall is measured: the fall, or four times the noise if that is more.

    Args:
        fall: From the start to the lowest loss, a number or shape (n,).
        noise: Standard deviation of the losses about their trend.

    Example:
        >>> float(rebound_unit(2.0, noise=0.1)), float(rebound_unit(0.0, noise=0.1))
        (2.0, 0.4)
    """
    return np.maximum(fall, NOISE_OF_FALL * noise)


def first_explosion(losses: Iterable[float], threshold: float | None) -> int | None:
    """Return the index of the loss at which a sweep has diverged, or None.

    A loss that is NaN or infinite always counts. A finite one counts where the median m of it and the two before
    rises above the best m so far by more than ``threshold`` times the fall so far:

        m - best > threshold * max(start - best, 4 * (1 + 10 / n) * noise)

    with the noise of the n losses so far (a few losses underestimate it).

    Both sides are differences, so scaling or shifting the loss, also below zero, changes nothing.

    Args:
        losses: Losses in the order of the sweep, the one before the first update included.
        threshold: > 0, or None to look for non-finite losses only.

    Example:
        >>> first_explosion([1.0, 0.9, 0.7, 0.5, 0.2, 0.3, 40.0, 90.0], 4.0)
        7
        >>> first_explosion([-1.0, -1.1, -1.3, -1.5, -1.8, -1.7, 38.0, 88.0], 4.0)
        7

    References:
        Lightning's ``early_stop_threshold``. Differs: Lightning stops where the smoothed loss exceeds
        ``threshold`` times the best, which for a negative best is immediately.
    """
    detector = ExplosionDetector(threshold)
    detector.add(losses)
    return detector.index


class ExplosionDetector:
    """Finds the `first_explosion` in losses that arrive one by one; the cost of one does not grow with their number.

    Args:
        threshold: As for `first_explosion`.

    Attributes:
        index: Index of the loss at which the sweep has diverged, or None so far.

    Example:
        >>> detector = ExplosionDetector(4.0)
        >>> detector.add([1.0, 0.9, 0.7, 0.5, 0.2, 0.3]); detector.add([40.0, 90.0, 1.0])
        >>> detector.index
        7
    """

    def __init__(self, threshold: float | None) -> None:
        self.index: int | None = None
        self._threshold = threshold
        self._losses: list[float] = []
        self._bends: list[float] = []  # the absolute second differences, in rising order
        self._start = self._best = math.inf

    def add(self, losses: Iterable[float]) -> None:
        """Judge losses, each by those before it."""
        for loss in losses:
            if self.index is None and self._is_explosion(float(loss)):
                self.index = len(self._losses) - 1

    def _is_explosion(self, loss: float) -> bool:
        losses, bends = self._losses, self._bends
        losses.append(loss)
        if not math.isfinite(loss):
            return True
        if self._threshold is None:
            return False
        count = len(losses)
        middle = sorted([losses[max(count - 3, 0)], losses[max(count - 2, 0)], loss])[1]
        self._best = min(self._best, middle)
        if count >= 3:
            insort(bends, abs(losses[-3] - 2 * losses[-2] + loss))
        if count == START_POINTS:
            self._start = _middle(sorted(losses))
        if count <= START_POINTS or middle == self._best:
            return False
        few = 1 + FEW_LOSSES / count  # by chance, a handful of points underestimates the noise by far
        unit = rebound_unit(self._start - self._best, few * _noise_of_bend(_middle(bends)))
        return bool(middle - self._best > self._threshold * unit + 1e-9 * abs(self._best))
