"""Plan the sweeps of a range test: a coarse one to find the relevant lrs, then a dense one over them.

Pure maths on numpy: curves of the sweeps so far -> policy of the next one. All sweeps together never exceed a budget of
optimizer steps, whatever the loss does. The suggestion is read only from the dense curve, which always has the same
number of steps per decade.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pl_onecycle.curves.curve import LossCurve
from pl_onecycle.curves.noise import Array, median_of_three, noise_of, rebound_unit, start_level
from pl_onecycle.curves.refusals import Refusal
from pl_onecycle.curves.suggestion import find_fault, noise_hides_fall
from pl_onecycle.curves.thresholds import (
    BANDWIDTH,
    BELOW_FALL,
    BELOW_RISE,
    BEYOND,
    BUDGET,
    COARSE_REBOUND,
    COARSE_START_POINTS,
    COARSE_STEPS,
    DENSE_STEPS,
    DISORDER,
    FALL_SHARE,
    FALL_WINDOW,
    LARGER_BUDGET,
    LASTING_STEPS,
    MAX_COARSE,
    MIN_COARSE,
    MIN_LOSSES,
    NARROW,
    RISE,
    ROUNDING,
    SURE_FALL,
)
from pl_onecycle.curves.trough import find_trough
from pl_onecycle.policy import RangeTestPolicy


def coarse_sweep(curves: Sequence[LossCurve], min_lr: float, max_lr: float) -> RangeTestPolicy | None:
    """Return the next coarse sweep, or None if the sweeps so far have shown enough.

    The first one is from ``min_lr`` to ``max_lr``; `has_risen` ends it. If the loss neither falls nor rises in it, a
    second one covers the four decades above.

    Args:
        curves: Curves of the coarse sweeps so far.
        min_lr: Lowest lr of the first sweep, > 0.
        max_lr: Highest lr of the first sweep, > ``min_lr``.

    Example:
        >>> coarse_sweep([], 1e-7, 10.0).num_steps
        49
    """
    if not curves:
        return _coarse(min_lr, max_lr)
    first = curves[0]
    if len(curves) > 1 or len(first) == 0 or first.outcome != "completed" or has_fallen(first) or _ends_high(first):
        return None
    # Begins a decade below `max_lr`, so that its first step is not by far the largest so far.
    return _coarse(max_lr / 10, max_lr * 10**BEYOND)


def dense_sweep(curves: Sequence[LossCurve]) -> RangeTestPolicy | Refusal:
    """Return the dense sweep, with all that is left of the budget, or why there is nothing to examine.

    If a coarse sweep has a control, half of what is left of the larger budget is for that of the dense one.

    Args:
        curves: Curves of the coarse sweeps, at least one.

    Example:
        >>> risen = LossCurve([10 ** (k / 6 - 7) for k in range(40)], [1.0, 1.1] * 17 + [2.0] * 6, "risen")
        >>> sweep = dense_sweep([risen])
        >>> sweep.num_steps, round(sweep.min_lr, 7)
        (108, 1.36e-05)
    """
    last = curves[-1]
    is_finite = last.initial_loss is None or math.isfinite(last.initial_loss)
    if last.outcome in ("overridden", "stopped") or not is_finite or len(last) == 0:
        return _nothing_found(curves)
    # Each sweep and each control takes one step more than it has points, to show the effect of the last one.
    used = sum((len(curve) + 1) * (2 if curve.control else 1) for curve in curves)
    is_controlled = any(curve.control for curve in curves)
    steps = (LARGER_BUDGET - used) // 2 - 1 if is_controlled else BUDGET - used - 1
    span = (steps - 1) / DENSE_STEPS
    if last.outcome != "completed" or _ends_high(last):
        low = _lr_of_the_rise(last) / 10 ** min(BELOW_RISE, span)  # with a smaller budget, it still reaches the rise
    elif has_fallen(last):
        low = _lr_of_the_fall(last) / 10 ** min(BELOW_FALL, span / 2)
    else:
        return _nothing_found(curves)
    return RangeTestPolicy(low, low * 10**span, steps)


def higher_sweep(curves: Sequence[LossCurve]) -> RangeTestPolicy | None:
    """Return another dense sweep if the last one has ended where its loss still fell, or None.

    That is, it ends in its trough, or a tenth of a decade above it, and the trough is less than a decade wide. The next
    one begins two decades below that trough, with all that is left of the larger budget.

    Args:
        curves: Curves of all sweeps so far; the last one is dense.

    Example:
        >>> falling = LossCurve([10 ** (k / 28 - 5) for k in range(100)], [2.0] * 70 + [2 - k / 30 for k in range(30)])
        >>> higher_sweep([falling]).num_steps
        198
    """
    last = curves[-1]
    if last.outcome != "completed" or find_fault(last) is not None or noise_hides_fall(last):
        return None
    trough = find_trough(last)
    is_open = trough.right >= math.log10(last.lr[-1]) - BANDWIDTH and trough.right - trough.left < NARROW
    if not is_open or any(curve.control for curve in curves):
        return None
    steps = LARGER_BUDGET - sum(len(curve) + 1 for curve in curves) - 1
    low = trough.ends[0] / 10**BELOW_FALL
    return RangeTestPolicy(low, low * 10 ** ((steps - 1) / DENSE_STEPS), steps)


def needs_control(curve: LossCurve) -> bool:
    """Return whether the noise of a coarse sweep is so large that only a control shows where its loss falls.

    That is, it has not surely fallen: median(first 7) - median(any 5 in a row) <= 2.5 noise, with the standard
    deviation of the first third as the noise.

    Args:
        curve: A coarse sweep that has ended.

    Example:
        >>> needs_control(LossCurve([0.1] * 20, [1.0, 1.1] * 10)), needs_control(LossCurve([0.1] * 20, [1.0] * 20))
        (True, False)
    """
    losses = _losses(curve)
    if curve.control or curve.outcome in ("overridden", "stopped") or len(losses) < MIN_LOSSES:
        return False
    return _scatter(_thirds(losses)[0]) > ROUNDING * abs(_start(losses)) and not _has_surely_fallen(losses)


def _nothing_found(curves: Sequence[LossCurve]) -> Refusal:
    fault = find_fault(curves[-1])
    if fault is not None:
        return fault
    lowest, highest = curves[0].lr[0], curves[-1].lr[-1]
    return Refusal(f"the loss neither falls nor rises clearly between lr {lowest:.3g} and {highest:.3g}")


def has_risen(curve: LossCurve) -> bool:
    """Return whether a coarse sweep has risen so high that continuing would show no more.

    That is, it has at least twelve losses and, at each of the last five, with m the median of it and the two before,

        m - median(first 7) > 2 noise, or m - best > 1.25 max(median(first 7) - best, 4 noise)

    where best is the lowest m so far. The noise is that about the trend, but no less than that of the first twelve.

    Args:
        curve: The curve so far.

    Example:
        >>> has_risen(LossCurve([0.1] * 30, [1.0, 1.1] * 10 + [2.0] * 10))
        True
    """
    # What is high lies above the start; most checkups end here, without numpy, which is slow for one curve at a time.
    recent = [*([] if curve.initial_loss is None else [curve.initial_loss]), *curve.loss]
    if math.isfinite(sum(recent)) and _median(recent[-3:]) <= _median(recent[:COARSE_START_POINTS]):
        return False
    losses = _losses(curve)
    return len(losses) >= MIN_LOSSES and bool(_is_high(losses)[-LASTING_STEPS:].all())


def has_fallen(curve: LossCurve) -> bool:
    """Return whether a finished coarse sweep has fallen anywhere, or is in disorder at its end.

    That is, median(first 7) - median(any 5 in a row) > 2.5 noise, or median(first third) - median(last third) > noise,
    or the standard deviation of its last third is more than twice that of its first third, which is the noise.

    Args:
        curve: Curve of a finished sweep.

    Example:
        >>> has_fallen(LossCurve([0.1] * 20, [1.0, 1.1] * 7 + [0.5] * 6))
        True
    """
    losses = _losses(curve)
    if len(losses) < MIN_LOSSES:
        return False
    first, last = _thirds(losses)
    return _has_surely_fallen(losses) or _shift(curve) < -1 or _scatter(last) > DISORDER * _scatter(first) > 0


def _has_surely_fallen(losses: Array) -> bool:
    fall = _start(losses) - float(_middles(losses).min())
    return fall > max(SURE_FALL * _scatter(_thirds(losses)[0]), ROUNDING * abs(_start(losses)))


def _median(some: list[float]) -> float:
    return sorted(some)[len(some) // 2] if some else math.nan


def _is_high(losses: Array) -> npt.NDArray[np.bool_]:
    """Return whether each loss lies above the start level or has risen beyond it after a fall, shape (n,)."""
    start = _start(losses)
    # The noise about the trend of a few losses is sometimes small by chance.
    noise = max(noise_of(losses), _scatter(losses[:MIN_LOSSES]))
    middle = median_of_three(losses)
    best = np.minimum.accumulate(middle)
    is_back = middle - best > COARSE_REBOUND * rebound_unit(start - best, noise)
    is_above = middle - start > max(RISE * noise, ROUNDING * abs(start))
    high: npt.NDArray[np.bool_] = is_back | is_above
    return high


def _lr_of_the_rise(curve: LossCurve) -> float:
    """Return the lr from which on the losses of a sweep are high, or its last lr."""
    high = _is_high(_losses(curve))
    return _lr_of(curve, len(high) - int(high[::-1].argmin()))  # after the last loss that is not high


def _lr_of(curve: LossCurve, loss: int) -> float:
    """Return the lr of one of `_losses`, clipped to the first or last lr."""
    return curve.lr[min(max(loss - (curve.initial_loss is not None), 0), len(curve) - 1)]


def _scatter(losses: Array) -> float:
    with np.errstate(over="ignore"):  # an overflow to infinity is wide enough
        return float(losses.std())


def _ends_high(curve: LossCurve) -> bool:
    """Return whether a finished sweep has risen, even if only at its very end or only a little."""
    return bool(_is_high(_losses(curve))[-1]) or _shift(curve) > 1


def _shift(curve: LossCurve) -> float:
    """Return the difference of the medians of the last and the first third of a sweep, in units of the first's noise.

    By chance it is below -1 in one of fifty flat sweeps, and above 1 in another one of fifty.
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
    steps = math.ceil(math.log10(high / low) * COARSE_STEPS) + 1
    return RangeTestPolicy(low, high, min(max(steps, MIN_COARSE), MAX_COARSE))


def _losses(curve: LossCurve) -> Array:
    first = [] if curve.before is None else [curve.before]
    return np.concatenate([first, curve.finite_loss])


def _start(losses: Array) -> float:
    return start_level(losses, COARSE_START_POINTS)


def _lr_of_the_fall(curve: LossCurve) -> float:
    """Return the lr at which most of the fall to the lowest median of five losses has happened."""
    losses = _losses(curve)
    middles, start = _middles(losses), _start(losses)
    lowest = float(middles.min())
    level = lowest + (1 - FALL_SHARE) * max(start - lowest, 0.0)
    return _lr_of(curve, int(np.flatnonzero(middles <= level)[0]) + FALL_WINDOW // 2)


def _middles(losses: Array) -> Array:
    """Return the median of every five losses in a row, shape (n - 4,)."""
    middles: Array = np.median(np.lib.stride_tricks.sliding_window_view(losses, FALL_WINDOW), axis=1)
    return middles
