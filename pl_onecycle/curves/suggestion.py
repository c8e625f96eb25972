"""Read a learning rate from a loss curve, or the reason why the curve supports none.

Pure maths on numpy. No suggestion depends on the scale of the loss or on a constant added to it. A curve that does not
support a suggestion is refused.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pl_onecycle.checks import expect, expect_one_of
from pl_onecycle.curves.curve import LossCurve
from pl_onecycle.curves.methods import RULES, Method
from pl_onecycle.curves.refusals import Refusal
from pl_onecycle.curves.thresholds import (
    EXPLODED_SHARE,
    MIN_CONTROLLED_FALL,
    MIN_FALL,
    MIN_POINTS,
    NOISE_DRAWS,
    ROUNDING,
    WIDE_BANDWIDTH,
    WIDE_INTERVAL,
)
from pl_onecycle.pictures import card


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
    def value(self) -> float:
        """The same as `lr`: the value that was found, as in a `Choice`."""
        return self.lr

    @property
    def decades(self) -> float:
        """Width of the interval in decades of lr, NaN if unknown."""
        return math.nan if self.low is None or self.high is None else math.log10(self.high / self.low)

    @property
    def is_unsure(self) -> bool:
        """Whether the interval is wider than half a decade."""
        return self.decades > WIDE_INTERVAL + 1e-9  # two spacings of short cycles do not count as wide

    def __repr__(self) -> str:
        interval = "" if self.low is None or self.high is None else f", {self.low:.3g} to {self.high:.3g}"
        return f"Suggestion(lr={self.lr:.3g}{interval}, {self.method!r})"

    def _repr_html_(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({self.low:.3g} to {self.high:.3g})"
        return card(f"max_lr {self.lr:.3g}{interval}", f"{self.method}: {self.reason}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, as saved in checkpoints."""
        return asdict(self)


def suggest(curve: LossCurve, method: Method = "trough") -> Suggestion | None:
    """Suggest the ``max_lr`` of a one-cycle run from the curve of an LR range test.

    ===========  ==========================================================================================
    method       with L the smoothed loss, in the order of the sweep
    ===========  ==========================================================================================
    trough       middle, in log lr, of the part where at least 80 % of the fall of L has happened: from the first
                 such lr to the last one around the minimum, but at most 1.25 decades above the first; at least half
                 a decade below its upper end, but not below its lower end
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
        (0.06, 0.01)

    References:
        trough: this project, ``benchmarks/suggestion.py``. The fall is from the median of the first tenth of L to its
        minimum. The lr at which it has happened is by itself too low for slow optimizers, the minimum too high for fast
        ones. An lr that is too high costs more than one that is too low, hence the distance to the upper end. The
        method was chosen on sweeps of 28 steps per decade.
        smith: one order of magnitude below the minimum, the rule of the article that this project started from,
        after arXiv:1506.01186. steepest, valley, slide, minimum: fastai v2, ``callback/schedule.py``.
        Differs: fastai smooths by a running average that lags, and cuts the first tenth and the last five points.
        Here, points of one stair count as one; steepest searches only left of the minimum; slide's threshold of 0.005
        is a share of the fall instead of an absolute loss; minimum uses the raw loss, its only difference from smith;
        a suggestion at which the loss has exploded is refused.
    """
    answer = read_curve(curve, method)
    return answer if isinstance(answer, Suggestion) else None


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
    answer = read_curve(curve, method)
    return answer.reason if isinstance(answer, Refusal) else None


def read_curve(curve: LossCurve, method: Method = "trough") -> Suggestion | Refusal:
    """Return what `suggest` suggests, or why it suggests nothing.

    Raises:
        ValueError: No such method.
    """
    expect(isinstance(curve, LossCurve), "curve", "a LossCurve", type(curve).__name__, TypeError)
    expect_one_of("method", method, RULES)
    fault = find_fault(curve)
    if fault is not None:
        return fault
    found = RULES[method](curve)
    if found is None:
        return Refusal(f"{method} finds no landmark on the curve")
    lr, reason = float(found[0]), found[1]
    smooth = curve.smoothed()
    there = float(np.interp(np.log(lr), np.log(curve.finite_lr), smooth))
    if lr > curve.finite_lr[smooth.argmin()] and there > curve.start + EXPLODED_SHARE * (
        curve.start - float(smooth.min())
    ):
        return Refusal(f"{method} ends at {lr:.3g}, where the loss has exploded")
    return Suggestion(lr, method, reason, *_interval(curve, method, lr))


def _interval(curve: LossCurve, method: Method, lr: float) -> tuple[float, float]:
    """Return the lrs between which nine of ten suggestions lie when the noise about the trend is drawn again."""
    smooth = curve.smoothed()
    random = np.random.default_rng(0)  # a curve always has the same interval, and the user's streams are not touched
    drawn = curve.redrawn(smooth + random.normal(0.0, curve.noise, (NOISE_DRAWS, len(smooth))))
    answers = [lr, *(found[0] for found in map(RULES[method], drawn) if found is not None)]
    low, high = np.quantile([math.log(answer) for answer in answers], (0.05, 0.95))
    return min(math.exp(low), lr), max(math.exp(high), lr)


def find_fault(curve: LossCurve) -> Refusal | None:
    """Return why no method can read the curve, or None."""
    return _fault_of_form(curve) or _fault_of_fall(curve)


def noise_hides_fall(curve: LossCurve) -> bool:
    """Return whether noise may hide or feign a fall of the loss, so that a control is worth its steps.

    It is stricter than a refusal, as a control also shows whether a fall is noise that grows with the lr.

    Args:
        curve: A sweep.

    Example:
        >>> lr = [10 ** (k / 10 - 3) for k in range(30)]
        >>> noise_hides_fall(LossCurve(lr, [1.0, 1.1] * 15)), noise_hides_fall(LossCurve(lr, [1.0] * 30))
        (True, False)
    """
    if curve.control or _fault_of_form(curve) is not None or curve.noise <= ROUNDING * abs(curve.start):
        return False
    fall = _Fall.of(curve)
    return _fault_of_fall(curve) is not None or fall.size <= MIN_FALL * fall.scatter


def _fault_of_form(curve: LossCurve) -> Refusal | None:
    if curve.outcome == "overridden":
        return Refusal("the module sets the learning rate of its steps itself, so it cannot be swept")
    if len(curve) > 0 and len(curve.finite_loss) == 0:
        return Refusal("the loss is not finite from the first step on")
    if curve.initial_loss is not None and not np.isfinite(curve.initial_loss):
        return Refusal("the loss is not finite from the first step on")
    if len(curve.finite_loss) < MIN_POINTS:
        return Refusal(
            f"the sweep ended after {len(curve.finite_loss)} finite points, at least {MIN_POINTS} are needed"
        )
    if np.any(np.diff(curve.finite_lr) < 0) or curve.finite_lr[0] == curve.finite_lr[-1]:
        return Refusal("the learning rate does not rise from point to point, so this is no sweep")
    return None


def _fault_of_fall(curve: LossCurve) -> Refusal | None:
    fall = _Fall.of(curve)
    # If the first points are the lowest, the loss only rises. A rounding error is not a fall either.
    if min(fall.size, curve.start - fall.lowest) <= ROUNDING * abs(curve.start):
        return Refusal("the loss does not fall anywhere in the sweep")
    # Without a control the noise of the whole curve decides: the scatter of few steps is also the bend of their loss.
    least, noise = (MIN_CONTROLLED_FALL, fall.scatter) if curve.control else (MIN_FALL, fall.noise)
    if fall.size <= least * noise:
        return Refusal(f"the loss falls by {fall.size:.3g}, less than {least:g} times the noise of {noise:.3g}")
    return None


@dataclass(frozen=True)
class _Fall:
    """The largest fall of a curve.

    Attributes:
        size: Height of the fall.
        lowest: The loss at its lower end.
        noise: Standard deviation of such a fall by chance, from the noise of the whole curve.
        scatter: The same from the losses around its two ends: they scatter the more, the further the weights have
            moved. At the lowest lrs a net whose last layer starts at zero shows no noise at all, and neither does a
            difference to a control.
    """

    size: float
    lowest: float
    noise: float
    scatter: float

    @classmethod
    def of(cls, curve: LossCurve) -> "_Fall":
        wide = curve.smoothed(WIDE_BANDWIDTH)
        lowest = int(wide[curve.start_points :].argmin()) + curve.start_points
        highest = int(wide[:lowest].argmax())
        decades = np.log10(curve.finite_lr)
        weight = np.exp(-0.5 * ((decades[:, None] - decades[[highest, lowest]]) / WIDE_BANDWIDTH) ** 2)
        share = weight / weight.sum(0)
        return cls(
            size=float(wide[highest] - wide[lowest]),
            lowest=float(wide[lowest]),
            noise=curve.noise * math.sqrt(float((share**2).sum())),
            scatter=math.sqrt(float(((share * curve.residual[:, None]) ** 2).sum())),
        )
