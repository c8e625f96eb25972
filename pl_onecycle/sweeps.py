"""Which sweeps a range test runs: a coarse one to find the part that matters, then a dense one over it.

Pure maths on numpy: curves of the sweeps so far -> policy of the next one. No more than a budget of optimizer steps is
spent in all, whatever the loss does; the suggestion is read off the dense curve alone, whose steps per decade are
always the same.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pl_onecycle.curve import ROUNDING, Array, LossCurve, median_of_three, noise_of
from pl_onecycle.policy import RangeTestPolicy

# Optimizer steps in all, those included whose only purpose is to show the effect of the step before.
BUDGET = 150
# Steps per decade. Over a range of eight decades a coarse sweep leaves two thirds of the budget to the dense one, which
# then spans three and a half.
COARSE, DENSE = 6, 28
# A coarse sweep has no fewer steps, to tell a rise from noise, and no more, whatever the range.
MIN_STEPS, MAX_STEPS = 24, 72
# The dense sweep begins so many decades below the lr at which a coarse one has risen: on the tasks of
# benchmarks/suggestion.py that were looked at, the trough began 0.7 to 2.9 decades below it.
BELOW_RISE = 3.7
# Where the loss does not rise, so many decades below the lr at which this share of the fall has happened.
BELOW_FALL, FALLEN = 2.0, 0.7
# Where nothing happens up to the highest lr, so many decades more are looked at.
BEYOND = 4.0
# Fewer losses carry no noise to compare with, nor an explosion: that of a handful is found in one of forty flat curves.
MIN_LOSSES = 12
# The start is the median of so many losses. The median of a window of so many more has fallen for sure when it has
# moved by so many standard deviations of one loss; there are many windows, so that less would be found by chance.
START, WINDOW, SURE = 7, 5, 2.5
# A rise is one by so many standard deviations that lasts for so many steps.
RISE, LASTING = 2.0, 5
# The losses of a sweep that has gone too far scatter by this multiple of the first ones' scatter, or more.
DISORDER = 2.0
# What has come back by this multiple of the fall so far has exploded, as in `first_explosion`; less than for a sweep
# that is read, as an early end costs nothing here.
BACK = 1.25


def coarse_sweep(curves: Sequence[LossCurve], min_lr: float, max_lr: float) -> RangeTestPolicy | None:
    """Return the coarse sweep to run after those so far, or None where they have shown enough.

    The first is from ``min_lr`` to ``max_lr``, to be ended by `has_risen`. Where the loss neither falls nor rises in
    it, a second one looks at the four decades above.

    Args:
        curves: Of the coarse sweeps so far.
        min_lr: Where to begin, > 0.
        max_lr: Where to end, > ``min_lr``.

    Example:
        >>> coarse_sweep([], 1e-7, 10.0).num_steps
        49
    """
    if not curves:
        return _coarse(min_lr, max_lr)
    if len(curves) > 1 or curves[0].outcome != "completed" or has_fallen(curves[0]) or _ends_high(curves[0]):
        return None
    # From a decade below, so that the first step is not the largest that there has been by far.
    return _coarse(max_lr / 10, max_lr * 10**BEYOND)


def dense_sweep(curves: Sequence[LossCurve]) -> RangeTestPolicy | None:
    """Return the sweep to read, with all that is left of the budget, or None where there is nothing to look closer at.

    Args:
        curves: Of the coarse sweeps, at least one.

    Example:
        >>> risen = LossCurve([10 ** (k / 6 - 7) for k in range(40)], [1.0, 1.1] * 17 + [2.0] * 6, "dropped")
        >>> sweep = dense_sweep([risen])
        >>> sweep.num_steps, round(sweep.min_lr, 7)
        (108, 1.36e-05)
    """
    last = curves[-1]
    is_finite = last.initial_loss is None or math.isfinite(last.initial_loss)
    if last.outcome in ("overridden", "stopped") or not is_finite:
        return None
    # Each sweep takes one step more than it has points, to see the effect of the last one.
    steps = BUDGET - sum(len(curve) + 1 for curve in curves) - 1
    span = (steps - 1) / DENSE
    if last.outcome != "completed" or _ends_high(last):
        low = _lr_of_the_rise(last) / 10 ** min(BELOW_RISE, span)  # with less to spend, it still reaches the rise
    elif has_fallen(last):
        low = _lr_of_the_fall(last) / 10 ** min(BELOW_FALL, span / 2)
    else:
        return None
    return RangeTestPolicy(low, low * 10**span, steps)


def has_risen(curve: LossCurve) -> bool:
    """Whether a coarse sweep has risen so high that going on would show no more.

    It has where it has twelve losses and, at each of the last five, with m the median of it and the two before,

        m - median(first 7) > 2 noise, or m - best > 1.25 max(median(first 7) - best, 4 noise)

    where best is the lowest m so far, and the noise that about the trend, and no less than that of the first twelve.

    Args:
        curve: So far.

    Example:
        >>> has_risen(LossCurve([0.1] * 30, [1.0, 1.1] * 10 + [2.0] * 10))
        True
    """
    losses = _losses(curve)
    return len(losses) >= MIN_LOSSES and bool(_is_high(losses)[-LASTING:].all())


def has_fallen(curve: LossCurve) -> bool:
    """Whether a coarse sweep that is through has fallen anywhere, or is in disorder at its end.

    That is, median(first 7) - median(any 5 in a row) > 2.5 noise, or median(first third) - median(last third) > noise,
    or the standard deviation of its last third is more than twice that of its first third, which is the noise.

    Args:
        curve: A sweep that is through.

    Example:
        >>> has_fallen(LossCurve([0.1] * 20, [1.0, 1.1] * 7 + [0.5] * 6))
        True
    """
    losses = _losses(curve)
    if len(losses) < MIN_LOSSES:
        return False
    first, last = _thirds(losses)
    fall = _start(losses) - float(_middles(losses).min())
    is_sure = fall > max(SURE * _scatter(first), ROUNDING * abs(_start(losses)))
    return is_sure or _shift(curve) < -1 or _scatter(last) > DISORDER * _scatter(first) > 0


def _is_high(losses: Array) -> npt.NDArray[np.bool_]:
    """Whether each loss lies above the start, or has come back from a fall beyond it, shape (n,)."""
    start = _start(losses)
    # The noise about the trend of so few losses is small by chance now and then.
    noise = max(noise_of(losses), _scatter(losses[:MIN_LOSSES]))
    middle = median_of_three(losses)
    best = np.minimum.accumulate(middle)
    is_back = middle - best > BACK * np.maximum(start - best, 4 * noise)
    is_above = middle - start > max(RISE * noise, ROUNDING * abs(start))
    high: npt.NDArray[np.bool_] = is_back | is_above
    return high


def _lr_of_the_rise(curve: LossCurve) -> float:
    """The lr from which on a sweep is high, or its last one."""
    high = _is_high(_losses(curve))
    return _lr_of(curve, len(high) - int(high[::-1].argmin()))  # behind the last loss that is not high


def _lr_of(curve: LossCurve, loss: int) -> float:
    """The lr behind one of `_losses`, the first or the last one where there is none."""
    return curve.lr[min(max(loss - (curve.initial_loss is not None), 0), len(curve) - 1)]


def _scatter(losses: Array) -> float:
    with np.errstate(over="ignore"):  # beyond the largest number is wide enough
        return float(losses.std())


def _ends_high(curve: LossCurve) -> bool:
    """Whether a sweep that is through has risen, at its very end or by little."""
    return bool(_is_high(_losses(curve))[-1]) or _shift(curve) > 1


def _shift(curve: LossCurve) -> float:
    """How much higher the last third of a sweep lies than its first, median against median, in the noise of the first.

    By chance it is beyond -1 or 1 in one of fifty flat sweeps each.
    """
    losses = _losses(curve)
    if len(losses) < MIN_LOSSES:
        return 0.0
    first, last = _thirds(losses)
    noise = max(_scatter(first), ROUNDING * abs(_start(losses)), 1e-300)  # not 0
    return float(np.median(last) - np.median(first)) / noise


def _thirds(losses: Array) -> tuple[Array, Array]:
    third = len(losses) // 3
    return losses[:third], losses[-third:]


def _coarse(low: float, high: float) -> RangeTestPolicy:
    steps = math.ceil(math.log10(high / low) * COARSE) + 1
    return RangeTestPolicy(low, high, min(max(steps, MIN_STEPS), MAX_STEPS))


def _losses(curve: LossCurve) -> Array:
    first = [] if curve.initial_loss is None else [curve.initial_loss]
    return np.concatenate([first, curve.finite_loss])


def _start(losses: Array) -> float:
    return float(np.median(losses[:START]))


def _lr_of_the_fall(curve: LossCurve) -> float:
    """The lr at which most of the fall to the lowest median of five losses has happened."""
    losses = _losses(curve)
    middles, start = _middles(losses), _start(losses)
    lowest = float(middles.min())
    level = lowest + (1 - FALLEN) * max(start - lowest, 0.0)
    return _lr_of(curve, int(np.flatnonzero(middles <= level)[0]) + WINDOW // 2)


def _middles(losses: Array) -> Array:
    """Median of any five losses in a row, shape (n - 4,)."""
    middles: Array = np.median(np.lib.stride_tricks.sliding_window_view(losses, WINDOW), axis=1)
    return middles
