"""Read a learning rate from a loss curve, or the reason why the curve supports none.

Pure maths on numpy. No suggestion depends on the scale of the loss or on a constant added to it. A curve that does not
support a suggestion is refused.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from pl_onecycle.checks import expect, expect_one_of
from pl_onecycle.curve import ROUNDING, Array, LossCurve

Method = Literal["trough", "smith", "steepest", "valley", "slide", "minimum"]

# A curve with fewer points has no usable shape.
MIN_POINTS = 5
# A fall counts if, on a curve smoothed over WIDE decades, it exceeds MIN_FALL standard deviations of a fall by chance.
# About one in twenty flat curves with noise falls as far.
WIDE = 0.3
MIN_FALL = 5.0
# The trough of a curve: where SHARE of the fall has happened, at most WIDEST decades wide, as a loss that cannot fall
# further stays low at any lr. Shares from 0.75 to 0.9 and widths from 1 to 1.5 work about as well.
SHARE, WIDEST = 0.85, 1.25
# The trough is read from a curve smoothed over this many decades, twenty points of a dense sweep; half as many work as
# well but leave more noise.
TROUGH_WIDTH = 0.2
# Number of noise draws for the interval, and the width in decades above which it counts as wide.
DRAWS, UNSURE = 40, 0.5


@dataclass(frozen=True)
class Suggestion:
    """A learning rate to use, and why.

    Attributes:
        lr: The ``max_lr`` to use, > 0, for the parameter group with the largest lr; the other groups keep
            their ratio to it.
        method: The method that found it.
        reason: Half a sentence for people, with the deciding landmark of the curve.
        low: Lower end of the interval of lrs that the evidence cannot distinguish from ``lr``, > 0. For a curve, nine
            of ten suggestions lie in it when the noise is drawn again; it measures chance in this curve, not the
            average error of the method. For short cycles, see `verified`. None if unknown.
        high: Upper end of that interval.
    """

    lr: float
    method: str
    reason: str
    low: float | None = None
    high: float | None = None

    @property
    def decades(self) -> float:
        """Width of the interval in decades of lr, NaN if unknown."""
        return math.nan if self.low is None or self.high is None else math.log10(self.high / self.low)

    @property
    def is_unsure(self) -> bool:
        """Whether the interval is wider than half a decade."""
        return self.decades > UNSURE + 1e-9  # two spacings of short cycles do not count as wide

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, as saved in checkpoints."""
        return asdict(self)


def suggest(curve: LossCurve, method: Method = "trough") -> Suggestion | None:
    """Suggest the ``max_lr`` of a one-cycle run from the curve of an LR range test.

    ===========  ==========================================================================================
    method       with L the smoothed loss, in the order of the sweep
    ===========  ==========================================================================================
    trough       middle, in log lr, of the part where at least 85 % of the fall of L has happened: from the first
                 such lr to the last one around the minimum, but at most 1.25 decades above the first
    smith        lr at the minimum of L, divided by 10
    steepest     lr[i] with the smallest (L[i+1] - L[i]) / (ln lr[i+1] - ln lr[i]), before the minimum
    valley       the longest falling subsequence of L, from s to e: lr[s + int((e-s)/3) + int((e-s)/6)]
    slide        a pair of points 15 apart slides from the right while its slopes differ: lr of its left point
    minimum      lr at the minimum of the raw loss, divided by 10
    ===========  ==========================================================================================

    Args:
        curve: A sweep, e.g. ``LRRangeTest.curve``.
        method: A method of the table.

    Returns:
        The suggestion, or None if the curve does not support one; `refusal` returns why.

    Raises:
        ValueError: No such method.

    Example:
        >>> lr = [10 ** (k / 28) for k in range(-84, 1)]
        >>> curve = LossCurve(lr, [min(1.0, 4 * (np.log10(x) + 1) ** 2) for x in lr])    # lowest at 0.1
        >>> round(suggest(curve).lr, 2), round(suggest(curve, "minimum").lr, 4)
        (0.1, 0.01)

    References:
        trough: this project, ``benchmarks/suggestion.py``. The fall is from the median of the first tenth of L to its
        minimum. The lr at which it has happened is by itself too low for slow optimizers, the minimum too high for fast
        ones. The method was chosen on sweeps of 28 steps per decade.
        smith: one order of magnitude below the minimum, the rule of the article that this project started from,
        after arXiv:1506.01186. steepest, valley, slide, minimum: fastai v2, ``callback/schedule.py``.
        Differs: fastai smooths by a running average that lags, and cuts the first tenth and the last five points.
        Here, points of one stair count as one; steepest searches only left of the minimum; slide's threshold of 0.005
        is a share of the fall instead of an absolute loss; minimum uses the raw loss, its only difference from smith;
        a suggestion at which the loss has exploded is refused.
    """
    answer = _answer(curve, method)
    if isinstance(answer, str):
        return None
    lr, reason = answer
    return Suggestion(lr, method, reason, *_interval(curve, method, lr))


def refusal(curve: LossCurve, method: Method = "trough") -> str | None:
    """Return why the curve supports no suggestion, or None if it supports one.

    Args:
        curve: A sweep.
        method: A method of the table of `suggest`.

    Raises:
        ValueError: No such method.

    Example:
        >>> refusal(LossCurve([1e-3, 1e-2, 1e-1, 1.0, 10.0], [2.0] * 5))
        'the loss does not fall anywhere in the sweep'
    """
    answer = _answer(curve, method)
    return answer if isinstance(answer, str) else None


def _answer(curve: LossCurve, method: Method) -> tuple[float, str] | str:
    expect(isinstance(curve, LossCurve), "curve", "a LossCurve", type(curve).__name__, TypeError)
    expect_one_of("method", method, _METHODS)
    reason = _unfit(curve)
    if reason is not None:
        return reason
    found = _METHODS[method](curve)
    if found is None:
        return f"{method} finds no landmark on the curve"
    lr, reason = found
    smooth = curve.smoothed()
    there = float(np.interp(np.log(lr), np.log(curve.finite_lr), smooth))
    if lr > curve.finite_lr[smooth.argmin()] and there > curve.start + 0.5 * (curve.start - float(smooth.min())):
        return f"{method} ends at {lr:.3g}, where the loss has exploded"
    return float(lr), reason


def _interval(curve: LossCurve, method: Method, lr: float) -> tuple[float, float]:
    """Return the lrs between which nine of ten suggestions lie when the noise about the trend is drawn again."""
    smooth = curve.smoothed()
    random = np.random.default_rng(0)  # a curve always has the same interval, and the user's streams are not touched
    answers = [math.log(lr)]
    for _ in range(DRAWS):
        drawn = smooth + random.normal(0.0, curve.noise, len(smooth))
        found = _METHODS[method](LossCurve(curve.finite_lr.tolist(), drawn.tolist(), initial_loss=curve.initial_loss))
        answers += [] if found is None else [math.log(found[0])]
    low, high = np.quantile(answers, (0.05, 0.95))
    return min(math.exp(low), lr), max(math.exp(high), lr)


def _unfit(curve: LossCurve) -> str | None:
    """Return why no method can read the curve, or None."""
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
    wide = curve.smoothed(WIDE)
    lowest = int(wide[curve.start_points :].argmin()) + curve.start_points
    highest = int(wide[:lowest].argmax())
    fall, noise = float(wide[highest] - wide[lowest]), _noise_between(curve, [highest, lowest])
    # If the first points are the lowest, the loss only rises. A rounding error is not a fall either.
    if min(fall, curve.start - float(wide[lowest])) <= ROUNDING * abs(curve.start):
        return "the loss does not fall anywhere in the sweep"
    if fall <= MIN_FALL * noise:
        return f"the loss falls by {fall:.3g}, less than {MIN_FALL:g} times the noise of {noise:.3g}"
    return None


def _noise_between(curve: LossCurve, points: list[int]) -> float:
    """Return the standard deviation, by chance, of the difference of two points of the widely smoothed curve."""
    decades = np.log10(curve.finite_lr)
    weight = np.exp(-0.5 * ((decades[:, None] - decades[points]) / WIDE) ** 2)
    averaged = weight.sum(0) ** 2 / (weight**2).sum(0)  # effective number of losses
    return curve.noise * math.sqrt(float((1 / averaged).sum()))


# ------------------------------------------------------------------------------------------ methods
# Each takes a curve that `_unfit` accepts and returns the lr and the reason, or None without a landmark.


def _trough(curve: LossCurve) -> tuple[float, str]:
    decades, smooth = np.log10(curve.finite_lr), curve.smoothed(TROUGH_WIDTH)
    lowest = int(smooth.argmin())
    start = float(np.median(smooth[: max(len(smooth) // 10, 3)]))
    level = start - SHARE * (start - float(smooth[lowest]))
    first = int(np.flatnonzero(smooth <= level)[0])
    left = _crossing(decades, smooth, level, first)
    above = np.flatnonzero(smooth[lowest:] > level)
    right = _crossing(decades, smooth, level, lowest + int(above[0])) if len(above) else float(decades[-1])
    is_cut, right = right > left + WIDEST, min(right, left + WIDEST)
    trough = f"from {10**left:.3g} to {10**right:.3g}{', cut there' if is_cut else ''}"
    return 10 ** ((left + right) / 2), f"the middle of the trough {trough}, where {SHARE:.0%} of the fall has happened"


def _crossing(x: Array, y: Array, level: float, after: int) -> float:
    """Return where the line from the point before ``after`` to ``after`` crosses the level."""
    before = max(after - 1, 0)
    rise = y[after] - y[before]
    return float(x[after] if rise == 0 else x[before] + (level - y[before]) / rise * (x[after] - x[before]))


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


_METHODS: dict[Method, Callable[[LossCurve], tuple[float, str] | None]] = {
    "trough": _trough,
    "smith": _smith,
    "steepest": _steepest,
    "valley": _valley,
    "slide": _slide,
    "minimum": _minimum,
}
METHODS: tuple[Method, ...] = get_args(Method)


def _one_point_per_lr(curve: LossCurve) -> tuple[Array, Array]:
    """Merge the points of one stair, so that slopes over lr exist."""
    lr, where = np.unique(curve.finite_lr, return_inverse=True)
    loss = np.bincount(where, weights=curve.smoothed()) / np.bincount(where)
    return lr, loss
