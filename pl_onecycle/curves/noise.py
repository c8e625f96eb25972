"""What a list of losses says without their learning rates: start, trend, noise and explosion.

Pure maths on numpy.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pl_onecycle.curves.thresholds import FEW_LOSSES, NOISE_OF_FALL, START_POINTS

Array = npt.NDArray[np.float64]


def start_level(losses: Array, points: int) -> float:
    """Return the loss before a sweep has an effect: the median of the first ``points``."""
    return float(np.median(losses[:points]))


def median_of_three(loss: Array) -> Array:
    """Return the median of each loss and the two before it, shape (n,); one outlier does not pass."""
    before = np.concatenate([loss[:1], loss[:1], loss])
    middle: Array = np.median(np.stack([before[:-2], before[1:-1], before[2:]]), axis=0)
    return middle


def noise_of(loss: Array) -> float:
    """Return the standard deviation of losses about their trend; 0 for fewer than three."""
    if len(loss) < 3:
        return 0.0
    bend = loss[:-2] - 2 * loss[1:-1] + loss[2:]
    # 1.4826 turns the median absolute deviation of a normal variable into its standard deviation;
    # a second difference of independent values has 1 + 4 + 1 times their variance.
    return float(1.4826 * np.median(np.abs(bend)) / math.sqrt(6))


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


def first_explosion(losses: Sequence[float], threshold: float | None, since: int = 0) -> int | None:
    """Return the index of the loss at which a sweep has diverged, or None.

    A loss that is NaN or infinite always counts. A finite one counts where the median m of it and the two before
    rises above the best m so far by more than ``threshold`` times the fall so far:

        m - best > threshold * max(start - best, 4 * (1 + 10 / n) * noise)

    with the noise of the n losses so far (a few losses underestimate it).

    Both sides are differences, so scaling or shifting the loss, also below zero, changes nothing.

    Args:
        losses: Losses in the order of the sweep, the one before the first update included.
        threshold: > 0, or None to look for non-finite losses only.
        since: Index of the first loss to judge. Each is judged only by those before it, so checking after every
            loss or after every ten gives the same result.

    Example:
        >>> first_explosion([1.0, 0.9, 0.7, 0.5, 0.2, 0.3, 40.0, 90.0], 4.0)
        7
        >>> first_explosion([-1.0, -1.1, -1.3, -1.5, -1.8, -1.7, 38.0, 88.0], 4.0)
        7

    References:
        Lightning's ``early_stop_threshold``. Differs: Lightning stops where the smoothed loss exceeds
        ``threshold`` times the best, which for a negative best is immediately.
    """
    loss = np.asarray(losses, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(loss))
    end = int(bad[0]) if len(bad) else len(loss)
    if threshold is not None and end > START_POINTS:
        middle = median_of_three(loss[:end])
        start = start_level(loss, START_POINTS)
        best = np.minimum.accumulate(middle)
        for k in range(max(since, START_POINTS), end):
            few = 1 + FEW_LOSSES / (k + 1)  # by chance, a handful of points underestimates the noise by far
            unit = rebound_unit(start - best[k], few * noise_of(loss[: k + 1]))
            if middle[k] - best[k] > threshold * unit + 1e-9 * abs(best[k]):
                return k
    return end if len(bad) else None
