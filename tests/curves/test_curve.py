"""The curve of a sweep: what it keeps, where it starts and how it is smoothed."""

import json
import math
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pl_onecycle.curves import Array, LossCurve
from tests.curves.made import DECADES, LRS, noise, swept, valley


def debiased_running_average(loss: Array, weight: float = 0.98) -> Array:
    """What fastai and Lightning smooth with, without Lightning's slip."""
    averages, average = [], 0.0
    for step, value in enumerate(loss):
        average = weight * average + (1 - weight) * float(value)
        averages.append(average / (1 - weight ** (step + 1)))
    return np.array(averages)


# ------------------------------------------------------------------------------------------ what it keeps
def test_raw_losses_and_learning_rates_are_kept_as_tuples_of_floats() -> None:
    loss: Any = np.array([3, 0.1], dtype=np.float32)
    curve = LossCurve(lr=[1, 2], loss=loss, outcome="stopped", initial_loss=4.0)
    assert curve.lr == (1.0, 2.0)
    assert curve.loss == (3.0, float(np.float32(0.1)))  # not 0.1: nothing is rounded
    assert {type(value) for value in (*curve.lr, *curve.loss)} == {float}
    assert (len(curve), curve.outcome, curve.initial_loss) == (2, "stopped", 4.0)


def test_a_curve_cannot_be_changed() -> None:
    curve = LossCurve([0.1], [1.0])
    with pytest.raises(FrozenInstanceError):
        curve.loss = (2.0,)  # type: ignore[misc]


def test_a_curve_does_not_follow_the_lists_that_it_was_made_of() -> None:
    lr, loss = [0.1, 0.2], [1.0, 2.0]
    curve = LossCurve(lr, loss)
    lr.append(0.3)
    loss[0] = 7.0
    assert (curve.lr, curve.loss) == ((0.1, 0.2), (1.0, 2.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "-inf"])
def test_a_loss_that_is_not_finite_is_recorded_but_not_averaged_in(bad: float) -> None:
    lr, loss = [1e-4, 1e-3, 1e-2, 1e-1], [4.0, 3.0, 2.0, bad]
    curve = LossCurve(lr, loss, "diverged")
    assert repr(curve.loss[-1]) == repr(bad)
    assert curve.finite_loss.tolist() == [4.0, 3.0, 2.0]
    assert curve.finite_lr.tolist() == [1e-4, 1e-3, 1e-2]
    assert curve.smoothed(0.5).tolist() == LossCurve(lr[:3], loss[:3]).smoothed(0.5).tolist()


def test_nothing_after_the_first_loss_that_is_not_finite_counts() -> None:
    curve = LossCurve([1, 2, 3, 4], [2.0, math.nan, 1.0, 0.5])
    assert curve.finite_loss.tolist() == [2.0]
    assert curve.finite_lr.tolist() == [1.0]


@pytest.mark.parametrize("loss", [[], [math.nan], [math.inf, 1.0]], ids=["empty", "nan", "inf first"])
def test_views_of_a_curve_without_a_finite_loss_are_empty(loss: list[float]) -> None:
    curve = LossCurve([0.1] * len(loss), loss)
    assert len(curve) == len(loss)
    assert curve.finite_loss.tolist() == curve.finite_lr.tolist() == curve.smoothed().tolist() == []
    assert curve.noise == 0.0
    assert math.isnan(curve.start)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lr": [0.1, 0.2], "loss": [1.0]}, r"`loss` to be as long as `lr` \(2\) but got 1"),
        ({"lr": [], "loss": [1.0]}, r"`loss` to be as long as `lr` \(0\) but got 1"),
        ({"lr": [0.0, 0.1], "loss": [1.0, 1.0]}, "`lr` to be a finite number > 0 but got 0.0"),
        ({"lr": [-0.1], "loss": [1.0]}, "`lr` to be a finite number > 0 but got -0.1"),
        ({"lr": [0.1, math.inf], "loss": [1.0, 1.0]}, "`lr` to be a finite number > 0 but got inf"),
        ({"lr": [0.1, math.nan], "loss": [1.0, 1.0]}, "`lr` to be a finite number > 0 but got nan"),
        ({"lr": [0.1], "loss": [1.0], "outcome": "bored"}, "`outcome` to be one of .* but got 'bored'"),
        (
            {"lr": [0.1], "loss": [1.0], "val_steps": [1], "val_loss": []},
            r"`val_loss` to be as long as `val_steps` \(1\) but got 0",
        ),
        (
            {"lr": [0.1], "loss": [1.0], "val_loss": [1.0]},
            r"`val_loss` to be as long as `val_steps` \(0\) but got 1",
        ),
    ],
    ids=[
        *["too few losses", "too many losses", "zero", "negative", "infinite", "nan", "outcome"],
        *["too few validation losses", "validation losses of no step"],
    ],
)
def test_a_malformed_curve_is_refused_with_the_reason(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^Expected argument {sentence}$"):
        LossCurve(**arguments)


@pytest.mark.parametrize("initial", [None, 2.5], ids=["initial unknown", "initial known"])
def test_a_curve_survives_json_and_compares_equal(initial: float | None) -> None:
    curve = LossCurve(LRS.tolist(), valley(-1.0).tolist(), "stopped", initial)
    saved = json.loads(json.dumps(curve.to_dict(), allow_nan=False))
    assert LossCurve(**saved) == curve
    assert saved["lr"] == list(curve.lr)  # every digit
    assert {key: saved[key] for key in ("outcome", "initial_loss")} == {"outcome": "stopped", "initial_loss": initial}


def test_validation_losses_are_kept_with_their_steps_and_survive_json() -> None:
    steps: Any = np.array([1, 2])
    losses: Any = np.array([0.5, 0.1], dtype=np.float32)
    curve = LossCurve([0.1, 0.2], [2.0, 1.0], "dropped", None, steps, losses)
    assert (curve.val_steps, curve.val_loss) == ((1, 2), (0.5, float(np.float32(0.1))))
    assert [type(value) for value in (*curve.val_steps, *curve.val_loss)] == [int, int, float, float]
    saved = json.loads(json.dumps(curve.to_dict()))
    assert (saved["val_steps"], saved["outcome"]) == ([1, 2], "dropped")
    assert LossCurve(**saved) == curve


def test_a_curve_of_an_older_checkpoint_has_no_validation_losses() -> None:
    saved: dict[str, Any] = {"lr": [0.1], "loss": [1.0], "outcome": "completed", "initial_loss": None}
    curve = LossCurve(**saved)
    assert (curve.val_steps, curve.val_loss) == ((), ())


def test_validation_losses_change_no_view_of_the_training_losses() -> None:
    plain = swept(valley(-1.0))
    validated = LossCurve(plain.lr, plain.loss, val_steps=[50, 100], val_loss=[9.0, math.nan])
    assert validated.smoothed().tolist() == plain.smoothed().tolist()
    assert (validated.start, validated.noise, len(validated)) == (plain.start, plain.noise, 100)


def test_a_diverged_curve_survives_json_with_its_nan() -> None:
    curve = LossCurve([0.1, 0.2], [1.0, math.nan], "diverged")
    again = LossCurve(**json.loads(json.dumps(curve.to_dict())))
    assert (again.lr, again.loss[0], again.outcome) == (curve.lr, 1.0, "diverged")
    assert math.isnan(again.loss[1])


# ------------------------------------------------------------------------------------ start and smoothing
@pytest.mark.parametrize(
    ("points", "initial", "start"),
    [
        (100, None, 3.0),  # min(5, 100 // 10) = 5 losses: median of 1 2 3 4 5
        (100, 9.0, 3.0),  # one of the five is the initial loss: median of 9 1 2 3 4
        (100, 0.0, 2.0),  # median of 0 1 2 3 4
        (1000, None, 3.0),  # never more than five
        (40, None, 2.5),  # 40 // 10 = 4: median of 1 2 3 4
        (20, None, 1.5),  # 20 // 10 = 2: median of 1 2
        (20, 7.0, 4.0),  # median of 7 1
        (5, None, 1.0),  # at least one
        (5, 7.0, 7.0),  # the initial loss is that one
        (100, math.nan, 3.0),  # an initial loss that is not finite says nothing
        (0, 7.0, 7.0),
    ],
)
def test_the_start_level_is_the_median_of_the_first_tenth_at_most_five(
    points: int, initial: float | None, start: float
) -> None:
    losses = [float(k + 1) for k in range(points)]
    assert LossCurve([0.1] * points, losses, initial_loss=initial).start == start


@pytest.mark.parametrize("constant", [1.0, 0.1, -3.7, 0.0, 1e9, 1e-9])
@pytest.mark.parametrize("points", [1, 2, 3, 20, 100])
def test_a_constant_loss_smooths_to_exactly_that_constant(constant: float, points: int) -> None:
    # Defect D1 of Lightning's finder: 1.0 comes out as .505 .673 .758 ..., always rising at the start.
    assert LossCurve(LRS[:points].tolist(), [constant] * points).smoothed().tolist() == [constant] * points


@pytest.mark.parametrize("slope", [-0.5, 0.0, -10.0])
@pytest.mark.parametrize("bandwidth", [0.05, 0.1, 0.3, 3.0])
def test_a_straight_line_over_log_lr_smooths_to_itself_also_at_both_ends(slope: float, bandwidth: float) -> None:
    line = 2.0 + slope * (DECADES + 7)
    assert swept(line).smoothed(bandwidth) == pytest.approx(line, abs=1e-9)


def test_smoothing_is_a_weighted_least_squares_line_at_every_point() -> None:
    loss = 3.0 - 0.3 * DECADES + noise(3, 0.1)
    reference = []
    for x in DECADES:
        weight = np.exp(-0.5 * ((DECADES - x) / 0.2) ** 2)
        line = np.polyfit(DECADES - x, loss, 1, w=np.sqrt(weight))  # polyfit squares its weights
        reference.append(line[1])
    assert swept(loss).smoothed(0.2) == pytest.approx(np.array(reference), rel=1e-9)


def test_smoothing_takes_noise_away() -> None:
    error = swept(2.0 - 0.2 * DECADES + noise(0)).smoothed() - (2.0 - 0.2 * DECADES)
    # A Gaussian of sd h over points d apart averages 2 sqrt(pi) h / d = 3.54 * 0.1 / 0.0808 = 4.4 of them:
    # 0.05 / sqrt(4.4) = 0.024
    assert np.std(error[10:-10]) == pytest.approx(0.024, rel=0.35)


@pytest.mark.parametrize("steepness", [1.0, 2.0, 3.0], ids=lambda steepness: f"steepness {steepness:g}")
@pytest.mark.parametrize("lowest", [-5.0, -3.0, -1.0, 0.0])
def test_the_smoothed_minimum_does_not_lag(lowest: float, steepness: float) -> None:
    loss = valley(lowest, steepness)
    curve = swept(loss)
    assert DECADES[curve.smoothed().argmin()] == pytest.approx(lowest, abs=0.1)
    # D7: the running average of the peers lags by a quarter to nearly a whole decade on the same curve.
    assert DECADES[debiased_running_average(loss).argmin()] > lowest + 0.2


def test_losses_at_one_learning_rate_smooth_to_one_value() -> None:
    curve = LossCurve([0.1, 0.1, 0.1, 1.0, 1.0, 1.0], [4.0, 2.0, 3.0, 1.0, 0.5, 1.5])
    smooth = curve.smoothed(0.01)  # the other stair is 100 bandwidths away
    # (4 + 2 + 3) / 3 = 3 and (1 + 0.5 + 1.5) / 3 = 1
    assert smooth == pytest.approx(np.array([3.0] * 3 + [1.0] * 3))
    assert LossCurve([0.1] * 4, [4.0, 2.0, 1.0, 1.0]).smoothed() == pytest.approx(np.full(4, 2.0))  # 8 / 4


@pytest.mark.parametrize("height", [1e2, 1e6, 1e30, 3e38])
def test_how_high_an_explosion_goes_does_not_move_the_minimum(height: float) -> None:
    loss = valley(-1.0)
    exploded = np.where(DECADES > 0, loss * height, loss)
    smooth = swept(exploded).smoothed()
    assert smooth.argmin() == swept(loss).smoothed().argmin()
    assert smooth.max() <= 2 * exploded[2] - exploded.min()  # lowered to start + fall, start = third of five


@pytest.mark.parametrize("height", [1.0, 1e2, 1e6, 1e30])
@pytest.mark.parametrize("where", [0, 20, 60, 85, 99])
def test_one_outlier_away_from_the_minimum_does_not_move_it(where: int, height: float) -> None:
    loss = valley(-1.0)  # lowest at point 6 / 8 * 99 = 74
    outlier = loss.copy()
    outlier[where] += height
    assert swept(outlier).smoothed().argmin() == swept(loss).smoothed().argmin()


def test_one_outlier_at_the_minimum_moves_it_by_less_than_half_a_decade_however_high() -> None:
    for where in range(70, 79):
        lowest = set()
        for height in (1e2, 1e6, 1e30):
            loss = valley(-1.0)
            loss[where] += height
            lowest.add(DECADES[swept(loss).smoothed().argmin()])
        assert len(lowest) == 1  # the height does not matter at all
        assert lowest.pop() == pytest.approx(-1.0, abs=0.5)


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_smoothing_follows_the_scale_and_the_shift_of_the_loss(seed: int, scale: float, shift: float) -> None:
    loss = valley(-1.0) + noise(seed, 0.1)
    smooth = swept(loss).smoothed()
    assert swept(scale * loss + shift).smoothed() == pytest.approx(scale * smooth + shift, rel=1e-6, abs=1e-6)


@given(seed=st.integers(0, 10_000), factor=st.floats(1e-6, 1e6))
def test_smoothing_does_not_depend_on_the_unit_of_the_learning_rate(seed: int, factor: float) -> None:
    loss = valley(-1.0) + noise(seed, 0.1)
    assert LossCurve((LRS * factor).tolist(), loss.tolist()).smoothed() == pytest.approx(
        swept(loss).smoothed(), abs=1e-9
    )


@pytest.mark.parametrize(
    ("bandwidth", "error"), [(0.0, ValueError), (-0.1, ValueError), (math.nan, ValueError), ("wide", TypeError)]
)
def test_a_bad_bandwidth_is_refused(bandwidth: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="Expected argument `bandwidth` to be a finite number > 0"):
        LossCurve([0.1], [1.0]).smoothed(bandwidth)
