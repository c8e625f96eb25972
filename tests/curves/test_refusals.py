"""Which curves support no suggestion, and the reason."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pl_onecycle.curves import METHODS, Array, LossCurve, Method, Refusal, refusal, suggest
from tests.curves.made import DECADES, measured, noise, swept, training


def test_a_refusal_is_a_frozen_value() -> None:
    assert Refusal("flat") == Refusal("flat") != Refusal("short")
    with pytest.raises(FrozenInstanceError):
        Refusal("flat").reason = "short"  # type: ignore[misc]


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
        *["flat", "zero", "flat, negative", "rounding", "empty", "3 points", "4 points"],
        *["nan third", "nan", "inf first"],
    ],
)
def test_a_curve_without_a_suggestion_is_refused_with_the_reason(loss: list[float], reason: str) -> None:
    curve = LossCurve((10 ** DECADES[: len(loss)]).tolist(), loss)
    assert {method: refusal(curve, method) for method in METHODS} == dict.fromkeys(METHODS, reason)
    assert {method: suggest(curve, method) for method in METHODS} == dict.fromkeys(METHODS)


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
@pytest.mark.parametrize("record", [measured, swept], ids=["stopped at the explosion", "swept to the end"])
def test_a_loss_that_only_rises_is_refused(loss: Array, record: Callable[..., LossCurve]) -> None:
    curve = record(loss)
    assert (np.diff(curve.finite_loss) > 0).all()
    reasons = {refusal(curve, method) for method in METHODS}
    assert len(reasons) == 1
    assert None not in reasons
    assert refusal(curve) in reasons
    assert suggest(curve) is None


def test_a_loss_that_explodes_at_once_is_refused_because_it_does_not_fall() -> None:
    assert refusal(measured(RISING["exploding at once"])) == NO_FALL


@pytest.mark.parametrize("loss", RISING.values(), ids=RISING)
def test_a_loss_that_only_rises_but_for_its_noise_is_refused_for_nine_of_ten_seeds(loss: Array) -> None:
    assert sum(refusal(swept(loss + noise(seed))) is not None for seed in range(50)) >= 45


@pytest.mark.parametrize("sd", [1e-3, 0.05, 10.0])
def test_pure_noise_is_refused_for_nine_of_ten_seeds(sd: float) -> None:
    reasons = [refusal(swept(2.3 + noise(seed, sd))) for seed in range(100)]
    refused = [reason for reason in reasons if reason is not None]
    assert len(refused) >= 90
    assert all("less than 5 times the noise of " in reason or reason == NO_FALL for reason in refused)


def test_a_fall_of_four_times_the_noise_is_accepted_for_nine_of_ten_seeds() -> None:
    # A fall of 0.2 in noise of 0.05.
    loss = 2.3 - 0.2 / (1 + np.exp(-3 * DECADES - 6))
    assert [refusal(swept(loss + noise(seed))) for seed in range(50)].count(None) >= 45


def test_a_refusal_states_the_fall_and_the_noise() -> None:
    # 4, 0, 4, 0 ...: second differences are +-8, and 1.4826 * 8 / sqrt(6) = 4.842 for one loss. A Gaussian kernel of
    # 0.3 decades averages 2 sqrt(pi) * 0.3 * 99 / 8 = 13.16 losses, and half as many at an end of the curve, where the
    # highest and the lowest mean of this one are: 4.842 * sqrt(1 / 6.58 + 1 / 6.58) = 2.67, but for the end's own
    # point.
    curve = swept(np.array([4.0, 0.0] * 50))
    wide = curve.smoothed(0.3)
    assert [int(wide.argmax()), int(wide.argmin())] == [0, 99]
    reason = str(refusal(curve))
    assert reason.startswith(f"the loss falls by {wide[0] - wide[99]:.3g}, less than 5 times the noise of ")
    assert float(reason.rpartition(" ")[2]) == pytest.approx(2.67, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
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
    names = "'minimum', 'slide', 'smith', 'steepest', 'trough', 'valley'"
    sentence = f"Expected argument `method` to be one of .*{names}.* but got "
    for curve in (measured(training(DECADES)), LossCurve([], [])):
        for function in (suggest, refusal):
            with pytest.raises(ValueError, match=sentence):
                function(curve, method)


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_a_refusal_does_not_depend_on_scale_and_shift(seed: int, scale: float, shift: float) -> None:
    # A fall of 0.1 in noise of 0.05 is sometimes refused and sometimes not.
    loss = 2.0 - 0.1 / (1 + np.exp(-3 * DECADES - 6)) + noise(seed)
    refused = refusal(swept(loss)) is None
    assert (refusal(swept(scale * loss + shift)) is None) == refused
