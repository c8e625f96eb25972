"""What each method reads off a curve, what it does not depend on, and when it refuses."""

import json
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pl_onecycle.curve import Array, LossCurve, first_explosion
from pl_onecycle.policy import RangeTestPolicy
from pl_onecycle.suggestion import METHODS, Method, Suggestion, refusal, suggest

# The default sweep: eight decades in 100 steps, both ends exact.
DECADES = np.linspace(-7, 1, 100)
FALL = 1.8


def training(decades: Array, lowest: float = -1.0) -> Array:
    """A typical curve: flat at 2.3, falling by 1.8 within a decade and a half, then an explosion."""
    fall = FALL / (1 + np.exp(-3 * (decades - lowest + 1.5)))
    curve: Array = 2.3 - fall + 0.02 * 10 ** (1.5 * (decades - lowest))
    return curve


def measured(loss: Array, decades: Array = DECADES, stop: bool = True) -> LossCurve:
    """The curve as a sweep records it, ended by `first_explosion`."""
    losses = loss.tolist()
    end = first_explosion(losses, 4.0) if stop else None
    losses = losses if end is None else losses[: end + 1]
    return LossCurve((10**decades).tolist()[: len(losses)], losses)


def noisy(seed: int, lowest: float = -1.0, sd: float = 0.05) -> LossCurve:
    return measured(training(DECADES, lowest) + np.random.default_rng(seed).normal(0, sd, len(DECADES)))


def staircase(stairs: int, steps: int = 100) -> LossCurve:
    policy = RangeTestPolicy(1e-7, 10.0, steps, "staircase", stairs)
    decades = np.log10([policy.lr(step) for step in range(steps)])
    return measured(training(decades), decades)


def lr_of(curve: LossCurve, method: Method) -> float:
    suggestion = suggest(curve, method)
    assert suggestion is not None, refusal(curve, method)
    return suggestion.lr


# ------------------------------------------------------------------------------- independent references
# Plain loops, written from the formulas of the peers; L is the smoothed loss.


def smith(lr: list[float], smooth: list[float], curve: LossCurve) -> float:
    return lr[smooth.index(min(smooth))] / 10


def minimum(lr: list[float], smooth: list[float], curve: LossCurve) -> float:
    return lr[list(curve.loss).index(min(curve.loss))] / 10  # raw


def steepest(lr: list[float], smooth: list[float], curve: LossCurve) -> float:
    best, found = math.inf, lr[0]
    for i in range(smooth.index(min(smooth))):
        slope = (smooth[i + 1] - smooth[i]) / (math.log(lr[i + 1]) - math.log(lr[i]))
        if slope < best:
            best, found = slope, lr[i]
    return found


def valley(lr: list[float], smooth: list[float], curve: LossCurve) -> float:
    """fastai: the longest falling subsequence, in O(n^2)."""
    longest = [1] * len(smooth)
    start = end = 0
    for i in range(1, len(smooth)):
        for j in range(i):
            if smooth[i] < smooth[j] and longest[i] < longest[j] + 1:
                longest[i] = longest[j] + 1
        if longest[end] < longest[i]:
            end, start = i, i - longest[i]
    sections = (end - start) / 3
    return lr[start + int(sections) + int(sections / 2)]


def slide(lr: list[float], smooth: list[float], curve: LossCurve) -> float | None:
    """fastai, with indices from the right; its threshold of 0.005 is a share of the fall."""
    gradient = np.gradient(smooth)
    right, left = -1, -1 - min(15, len(lr) - 1)
    found = lr[left]
    while left >= -len(lr) and abs(gradient[right] - gradient[left]) > 0.005 * (curve.start - min(smooth)):
        found = lr[left]
        right, left = right - 1, left - 1
    return found if left >= -len(lr) else None  # the pair has run off the curve


REFERENCES: dict[Method, Callable[[list[float], list[float], LossCurve], float | None]] = {
    "smith": smith,
    "steepest": steepest,
    "valley": valley,
    "slide": slide,
    "minimum": minimum,
}
ALL: list[Method] = list(REFERENCES)

CURVES: dict[str, Callable[[], LossCurve]] = {
    "parabola": lambda: measured((DECADES + 1) ** 2),
    "training": lambda: measured(training(DECADES)),
    "training, early": lambda: measured(training(DECADES, -4.0)),
    "training, no explosion": lambda: measured(training(DECADES, 1.0)),
    "training, never stopped": lambda: measured(training(DECADES), stop=False),
    "training, 30 points": lambda: measured(training(np.linspace(-7, 1, 30)), np.linspace(-7, 1, 30)),
    "training, linear sweep": lambda: measured(
        training(np.log10(np.linspace(1e-4, 1, 100))), np.log10(np.linspace(1e-4, 1, 100))
    ),
    "noisy": lambda: noisy(0),
    "noisier": lambda: noisy(1, sd=0.2),
    "negative": lambda: measured(training(DECADES) - 10),
    "short": lambda: measured(training(np.linspace(-4, 0, 8)), np.linspace(-4, 0, 8)),
}


# ----------------------------------------------------------------------------------------------- formulas
def test_every_method_has_a_reference() -> None:
    assert get_args(Method) == METHODS
    assert set(METHODS) == set(REFERENCES)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_every_method_agrees_with_its_formula(curve: Callable[[], LossCurve], method: Method) -> None:
    measurement = curve()
    expected = REFERENCES[method](measurement.finite_lr.tolist(), measurement.smoothed().tolist(), measurement)
    if expected is None:
        assert suggest(measurement, method) is None
        assert refusal(measurement, method) == f"{method} finds its landmark nowhere on the curve"
    else:
        assert lr_of(measurement, method) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", ["smith", "minimum"])
@pytest.mark.parametrize("lowest", [-4, -2, -1, 0])
def test_smith_and_minimum_answer_a_tenth_of_the_lr_of_the_minimum(lowest: int, method: Method) -> None:
    decades = np.linspace(-7, 1, 81)  # ten points a decade
    curve = measured((decades - lowest) ** 2, decades, stop=False)
    assert lr_of(curve, method) == pytest.approx(10.0 ** (lowest - 1))


def test_smith_looks_at_the_trend_and_minimum_at_the_raw_loss() -> None:
    decades = np.linspace(-7, 1, 81)
    loss = (decades + 1) ** 2 + 0.1
    loss[50] = 0.09  # one lucky batch at 10**-2
    curve = measured(loss, decades, stop=False)
    assert lr_of(curve, "minimum") == pytest.approx(1e-3)
    assert lr_of(curve, "smith") == pytest.approx(1e-2)


def test_steepest_is_the_middle_of_a_symmetric_fall() -> None:
    # Half a cosine is steepest in its middle, -3; of 82 points that interval lies between points 40 and 41.
    decades = np.linspace(-7, 1, 82)
    curve = measured(np.cos(math.pi * (decades + 7) / 8), decades)
    assert lr_of(curve, "steepest") == pytest.approx(10 ** decades[40])


def test_steepest_looks_left_of_the_minimum_only() -> None:
    # Down by 2 around -5 to the minimum at -4, up by 2 around -2 and down again, more steeply but less far, by 1.5.
    steps = [(-5.0, -2.0, 6.0), (-2.0, 2.0, 6.0), (0.0, -1.5, 30.0)]
    loss = 3.0 + np.sum([size / (1 + np.exp(-sharp * (DECADES - at))) for at, size, sharp in steps], axis=0)
    assert lr_of(measured(loss, stop=False), "steepest") == pytest.approx(1e-5, rel=0.25)


def test_valley_on_a_straight_fall_is_half_of_its_way() -> None:
    # 101 falling points: e = 100, s = 100 - 101 = -1, and -1 + int(101 / 3) + int(101 / 6) = -1 + 33 + 16 = 48.
    decades = np.linspace(-7, 3, 101)
    curve = measured(5.0 - decades, decades)
    assert lr_of(curve, "valley") == pytest.approx(10 ** decades[48])


def test_slide_on_a_straight_fall_is_fifteen_points_before_its_end() -> None:
    # All slopes agree, so the pair of points does not move: 100 - 15 = 85.
    decades = np.linspace(-7, 3, 101)
    curve = measured(5.0 - decades, decades)
    assert lr_of(curve, "slide") == pytest.approx(10 ** decades[85])


@pytest.mark.parametrize("lowest", [-3.0, -2.0, -1.0, 0.0])
def test_the_default_method_is_smith(lowest: float) -> None:
    curve = measured(training(DECADES, lowest))
    assert suggest(curve) == suggest(curve, "smith")
    # Its smoothed minimum is where the curve's is, and a tenth of it still is in the fall.
    at = DECADES[training(DECADES, lowest).argmin()]
    assert math.log10(lr_of(curve, "smith")) == pytest.approx(at - 1, abs=0.1)


@pytest.mark.parametrize("method", ALL)
def test_a_suggestion_tells_its_method_and_a_landmark_of_the_curve(method: Method) -> None:
    curve = measured(training(DECADES))
    suggestion = suggest(curve, method)
    assert suggestion is not None
    assert type(suggestion.lr) is float  # no numpy number, for checkpoints and YAML
    assert suggestion.method == method
    landmarks = {
        "smith": "one order of magnitude below 0.0955, where the smoothed loss is lowest",
        "minimum": "one order of magnitude below 0.0955, where the raw loss is lowest",
        "steepest": "where the smoothed loss falls fastest over log lr",
        "valley": "half way down the longest fall, which ends at 0.0955",
        "slide": "where the slopes of a sliding pair of points first agree",
    }
    assert suggestion.reason == landmarks[method]


# --------------------------------------------------------------------------------------------- invariance
@pytest.mark.parametrize("method", ALL)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_scale_and_shift_of_the_loss_change_nothing(method: Method, seed: int, scale: float, shift: float) -> None:
    curve = noisy(seed)
    initial = 2.3
    base = LossCurve(curve.lr, curve.loss, initial_loss=initial)
    moved = LossCurve(curve.lr, [scale * loss + shift for loss in curve.loss], initial_loss=scale * initial + shift)
    assert lr_of(moved, method) == lr_of(base, method)


def test_a_handful_of_noisy_losses_is_no_explosion() -> None:
    # Of this seed the first six losses happen to lie close together, and the next do not.
    assert len(noisy(5282)) > 80


@pytest.mark.parametrize("method", ALL)
@given(seed=st.integers(0, 10_000), factor=st.floats(1e-6, 1e6))
def test_scaling_the_lr_axis_scales_the_answer(method: Method, seed: int, factor: float) -> None:
    curve = noisy(seed)
    scaled = LossCurve([factor * lr for lr in curve.lr], curve.loss)
    assert lr_of(scaled, method) == pytest.approx(factor * lr_of(curve, method), rel=1e-9)


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_a_refusal_does_not_depend_on_scale_and_shift_either(seed: int, scale: float, shift: float) -> None:
    # A fall of 0.1 in noise of 0.05 is sometimes refused and sometimes not.
    noise = np.random.default_rng(seed).normal(0, 0.05, len(DECADES))
    loss = 2.0 - 0.1 / (1 + np.exp(-3 * DECADES - 6)) + noise
    refused = refusal(measured(loss, stop=False)) is None
    assert (refusal(measured(scale * loss + shift, stop=False)) is None) == refused


# ------------------------------------------------------------------------------------------------ noise
def test_steepest_survives_noise_where_the_slope_over_linear_lr_does_not() -> None:
    # D7: over linear lr the noise between neighbouring tiny learning rates looks infinitely steep.
    clean = measured(training(DECADES))
    truth = lr_of(clean, "steepest")
    over_log, over_linear = [], []
    for seed in range(60):
        curve = noisy(seed)
        over_log.append(lr_of(curve, "steepest"))
        over_linear.append(curve.finite_lr[np.gradient(curve.finite_loss, curve.finite_lr).argmin()])
    assert truth / 10 < np.median(over_log) < truth * 10
    assert np.quantile(over_log, 0.1) > truth / 10
    assert np.quantile(over_log, 0.9) < truth * 10
    assert np.median(over_linear) < truth / 1000


@pytest.mark.parametrize("method", ["smith", "steepest"])
@pytest.mark.parametrize("lowest", [-3.0, -1.0, 0.0])
def test_noise_moves_the_median_answer_by_less_than_half_a_decade(lowest: float, method: Method) -> None:
    truth = lr_of(measured(training(DECADES, lowest)), method)
    answers = [lr_of(noisy(seed, lowest), method) for seed in range(40)]
    assert math.log10(float(np.median(answers)) / truth) == pytest.approx(0.0, abs=0.5)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("stop", [True, False], ids=["stopped at the explosion", "swept to the end"])
@pytest.mark.parametrize("lowest", [-3.0, -2.0, -1.0, 0.0])
def test_no_method_suggests_an_lr_at_which_the_loss_has_exploded(lowest: float, stop: bool, method: Method) -> None:
    curve = measured(training(DECADES, lowest), stop=stop)
    suggestion = suggest(curve, method)
    if suggestion is None:  # the pair of slide may agree behind the explosion already
        assert method == "slide"
        assert str(refusal(curve, method)).endswith("where the loss has exploded")
    else:
        assert training(np.array([math.log10(suggestion.lr)]), lowest)[0] < 2.31


# -------------------------------------------------------------------------------------------- staircases
@pytest.mark.parametrize(
    ("method", "lr"),
    [
        ("smith", 1e-2),  # lowest on the stair of 0.1
        ("minimum", 1e-2),
        ("steepest", 1e-3),  # from 1.9 on the stair of 1e-3 to 0.6 on the next one is the steepest fall
        ("valley", 1e-6),  # 8 falling stairs: e = 7, s = 7 - 8 = -1, stair -1 + int(8 / 3) + int(8 / 6) = 2
    ],
)
def test_a_staircase_is_read_by_its_stairs(method: Method, lr: float) -> None:
    # Ten stairs of five steps, a decade apart.
    stairs = [2.5, 2.4, 2.3, 2.2, 2.1, 1.9, 0.6, 0.5, 0.9, 3.0]
    curve = LossCurve([10.0 ** (k // 5 - 8) for k in range(50)], [stairs[k // 5] for k in range(50)])
    assert lr_of(curve, method) == pytest.approx(lr)


# valley and slide count points, of which a staircase has too few.
@pytest.mark.parametrize("method", ["smith", "steepest", "minimum"])
@pytest.mark.parametrize("stairs", [5, 10, 20, 50])
def test_a_method_of_landmarks_finds_the_fall_of_a_staircase(stairs: int, method: Method) -> None:
    lr = lr_of(staircase(stairs), method)
    loss = training(np.array([math.log10(lr)]))[0]
    assert loss < 2.3 - 0.02 * FALL


@pytest.mark.parametrize("method", ALL)
def test_how_long_each_stair_is_held_does_not_matter_without_noise(method: Method) -> None:
    curves = [staircase(stairs=25, steps=25 * length) for length in (1, 2, 4, 10)]
    answers = [lr_of(curve, method) for curve in curves]
    assert answers == pytest.approx([answers[0]] * 4)


# ---------------------------------------------------------------------------------------------- refusals
NO_FALL = "the loss does not fall anywhere in the sweep"
NOT_FINITE = "the loss is not finite from the first step on"


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        ([2.0] * 100, NO_FALL),
        ([0.0] * 100, NO_FALL),
        ([-3.0] * 100, NO_FALL),
        ([1.0 + 1e-8 * (-1) ** k for k in range(100)], NO_FALL),
        ([], "the sweep ended after 0 finite points, at least 5 are needed"),
        ([3.0, 2.0, 1.0], "the sweep ended after 3 finite points, at least 5 are needed"),
        ([4.0, 3.0, 2.0, 1.0], "the sweep ended after 4 finite points, at least 5 are needed"),
        ([3.0, 2.0, math.nan], "the sweep ended after 2 finite points, at least 5 are needed"),
        ([math.nan], NOT_FINITE),
        ([math.inf, 2.0, 1.0, 0.5, 0.2, 0.1], NOT_FINITE),
    ],
    ids=[
        "flat",
        "zero",
        "flat, negative",
        "rounding",
        "empty",
        "3 points",
        "4 points",
        "nan third",
        "nan",
        "inf first",
    ],
)
def test_a_curve_without_an_answer_is_refused_with_the_reason(loss: list[float], reason: str) -> None:
    curve = LossCurve((10 ** DECADES[: len(loss)]).tolist(), loss)
    assert {method: refusal(curve, method) for method in ALL} == dict.fromkeys(ALL, reason)
    assert {method: suggest(curve, method) for method in ALL} == dict.fromkeys(ALL)


@pytest.mark.parametrize("initial", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_before_the_first_update_is_refused(initial: float) -> None:
    curve = measured(training(DECADES))
    assert refusal(LossCurve(curve.lr, curve.loss, initial_loss=initial)) == NOT_FINITE
    assert refusal(LossCurve(curve.lr, curve.loss, initial_loss=2.3)) is None


@pytest.mark.parametrize(
    "lr",
    [[0.1] * 6, [1e-3, 1e-2, 1e-1, 1e-1, 1e-2, 1e-3], [1e-3, 1e-2, 1e-1, 1.0, 10.0, 9.9]],
    ids=["held", "up and down", "last falls"],
)
def test_what_is_no_sweep_is_refused(lr: list[float]) -> None:
    curve = LossCurve(lr, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    assert refusal(curve) == "the learning rate does not rise from point to point, so this is no sweep"
    assert suggest(curve) is None


RISING = {
    "a line": 2 + 0.3 * (DECADES + 7),
    "a steep line": 10 * (DECADES + 7),
    "exploding at once": 1.5 ** np.arange(100.0),
    "exploding after a flat start": 2.3 + 0.02 * 10 ** (1.5 * (DECADES + 4)),
}


@pytest.mark.parametrize("loss", RISING.values(), ids=RISING)
@pytest.mark.parametrize("stop", [True, False], ids=["stopped at the explosion", "swept to the end"])
def test_a_loss_that_only_rises_is_refused(loss: Array, stop: bool) -> None:
    curve = measured(loss, stop=stop)
    assert (np.diff(curve.finite_loss) > 0).all()
    assert refusal(curve) is not None


def test_a_loss_that_explodes_at_once_is_refused_because_it_does_not_fall() -> None:
    assert refusal(measured(RISING["exploding at once"])) == NO_FALL


@pytest.mark.parametrize("loss", RISING.values(), ids=RISING)
def test_a_loss_that_only_rises_but_for_its_noise_is_refused_for_nine_of_ten_seeds(loss: Array) -> None:
    refused = 0
    for seed in range(50):
        refused += refusal(measured(loss + np.random.default_rng(seed).normal(0, 0.05, 100), stop=False)) is not None
    assert refused >= 45


@pytest.mark.parametrize("sd", [1e-3, 0.05, 10.0])
def test_pure_noise_is_refused_for_nine_of_ten_seeds(sd: float) -> None:
    reasons = [
        refusal(LossCurve((10**DECADES).tolist(), (2.3 + np.random.default_rng(seed).normal(0, sd, 100)).tolist()))
        for seed in range(100)
    ]
    refused = [reason for reason in reasons if reason is not None]
    assert len(refused) >= 90
    assert all("less than 2 times its noise of" in reason or reason == NO_FALL for reason in refused)


def test_a_fall_of_four_times_the_noise_is_accepted_for_nine_of_ten_seeds() -> None:
    # A fall of 0.2 in noise of 0.05.
    loss = 2.3 - 0.2 / (1 + np.exp(-3 * DECADES - 6))
    refused = [
        refusal(measured(loss + np.random.default_rng(seed).normal(0, 0.05, 100), stop=False)) for seed in range(50)
    ]
    assert refused.count(None) >= 45


def test_a_refusal_tells_the_fall_and_the_noise() -> None:
    # 4, 0, 4, 0 ...: the median of the first five is 4; second differences are +-8, 1.4826 * 8 / sqrt(6) = 4.84.
    curve = LossCurve((10**DECADES).tolist(), [4.0, 0.0] * 50)
    fall = 4 - curve.smoothed(0.3).min()
    assert refusal(curve) == f"the loss falls by {fall:.3g}, less than 2 times its noise of 4.84"


@pytest.mark.parametrize("method", ALL)
@given(losses=st.lists(st.floats(width=32), max_size=30), initial=st.one_of(st.none(), st.floats(width=32)))
def test_none_is_suggested_exactly_where_there_is_a_refusal(
    method: Method, losses: list[float], initial: float | None
) -> None:
    lr = [10.0 ** (k / 4 - 7) for k in range(len(losses))]
    curve = LossCurve(lr, losses, initial_loss=initial)
    suggestion = suggest(curve, method)
    assert (suggestion is None) == (refusal(curve, method) is not None)
    if suggestion is not None:
        assert lr[0] / 10 <= suggestion.lr <= lr[-1]


@pytest.mark.parametrize("method", ["fastest", "Smith", "", None, 3])
def test_an_unknown_method_is_refused_whatever_the_curve(method: Any) -> None:
    sentence = "Expected argument `method` to be one of .*'minimum', 'slide', 'smith', 'steepest', 'valley'.* but got "
    for curve in (measured(training(DECADES)), LossCurve([], [])):
        for function in (suggest, refusal):
            with pytest.raises(ValueError, match=sentence):
                function(curve, method)


# ------------------------------------------------------------------------------------------- the value
def test_a_suggestion_cannot_be_changed() -> None:
    suggestion = Suggestion(0.1, "smith", "by hand")
    with pytest.raises(FrozenInstanceError):
        suggestion.lr = 0.2  # type: ignore[misc]


def test_a_suggestion_survives_json() -> None:
    suggestion = suggest(measured(training(DECADES)))
    assert suggestion is not None
    assert Suggestion(**json.loads(json.dumps(suggestion.to_dict(), allow_nan=False))) == suggestion
