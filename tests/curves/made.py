"""Made curves that the tests of the curves share."""

import math

import numpy as np

from pl_onecycle.curves import Array, LossCurve, Method, Suggestion, first_explosion, refusal, suggest

# A sweep of eight decades in 100 steps, both ends exact.
DECADES = np.linspace(-7, 1, 100)
LRS = 10**DECADES


def training(decades: Array, lowest: float = -1.0, fall: float = 1.8, sharpness: float = 3.0) -> Array:
    """A typical loss: flat at 2.3, then ``fall`` lower within a decade and a half, then an explosion."""
    away = decades - lowest
    loss: Array = 2.3 - fall / (1 + np.exp(-sharpness * (away + 1.5))) + 0.02 * 10 ** (1.5 * away)
    return loss


def valley(lowest: float, steepness: float = 2.0) -> Array:
    """A loss that falls by one a decade and then explodes: d/dx is -1 + 10**(s (x - lowest)), zero at ``lowest``."""
    x = DECADES - lowest
    loss: Array = -x + 10 ** (steepness * x) / (steepness * math.log(10))
    return loss


def noise(seed: int, sd: float = 0.05) -> Array:
    """Independent normal noise for `DECADES`."""
    return np.random.default_rng(seed).normal(0, sd, len(DECADES))


def swept(loss: Array, decades: Array = DECADES) -> LossCurve:
    """The curve of a sweep that is run to its end."""
    return LossCurve((10**decades).tolist(), loss.tolist())


def measured(loss: Array, decades: Array = DECADES) -> LossCurve:
    """The curve of a sweep that `first_explosion` ends."""
    end = first_explosion(loss.tolist(), 4.0)
    points = len(loss) if end is None else end + 1
    return LossCurve((10**decades).tolist()[:points], loss.tolist()[:points])


def noisy(seed: int, lowest: float = -1.0, sd: float = 0.05) -> LossCurve:
    return measured(training(DECADES, lowest) + noise(seed, sd))


def suggested(curve: LossCurve, method: Method = "trough") -> Suggestion:
    """The suggestion from a curve that supports one."""
    suggestion = suggest(curve, method)
    assert suggestion is not None, refusal(curve, method)
    return suggestion


def interval_of(suggestion: Suggestion) -> tuple[float, float]:
    assert suggestion.low is not None
    assert suggestion.high is not None
    return suggestion.low, suggestion.high
