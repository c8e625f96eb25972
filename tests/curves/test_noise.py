"""The noise of losses, and where a sweep has exploded."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pl_onecycle.curves import ExplosionDetector, LossCurve, first_explosion
from pl_onecycle.curves.noise import median_of_three, rebound_unit, start_level
from tests.curves.made import DECADES, noise, noisy, swept, valley


def test_the_start_level_is_the_median_of_the_first_points_alone() -> None:
    assert start_level(np.array([1.0, 9.0, 2.0, 50.0, 60.0]), 3) == 2.0
    assert start_level(np.array([1.0, 3.0]), 5) == 2.0


def test_the_median_of_three_lets_two_high_losses_pass_but_not_one() -> None:
    losses = np.array([1.0, 9.0, 1.0, 9.0, 9.0, 1.0])
    assert median_of_three(losses).tolist() == [1.0, 1.0, 1.0, 9.0, 9.0, 9.0]
    assert median_of_three(losses[:1]).tolist() == [1.0]
    assert median_of_three(losses[:0]).tolist() == []


def test_a_rise_is_measured_in_units_of_the_fall_or_of_four_times_the_noise() -> None:
    assert rebound_unit(np.array([0.0, 0.3, 0.4, 0.5]), 0.1).tolist() == [0.4, 0.4, 0.4, 0.5]


@pytest.mark.parametrize("slope", [0.0, 0.3, -2.0], ids=["flat", "rising", "falling"])
def test_a_straight_line_has_no_noise(slope: float) -> None:
    assert swept(2.0 + slope * DECADES).noise == pytest.approx(0.0, abs=1e-14)


def test_noise_follows_its_formula() -> None:
    # Second differences of 0 0 3 0 0: 3, -6, 3; their absolute median is 3; 1.4826 * 3 / sqrt(6) = 1.8158
    assert LossCurve([1, 2, 3, 4, 5], [0, 0, 3, 0, 0]).noise == pytest.approx(1.8158, abs=5e-5)


def test_noise_is_close_to_the_truth_whatever_the_seed() -> None:
    estimates = [swept(2.3 + noise(seed)).noise for seed in range(40)]
    assert min(estimates) > 0.6 * 0.05
    assert max(estimates) < 1.5 * 0.05
    assert np.mean(estimates) == pytest.approx(0.05, rel=0.05)


def test_an_explosion_hardly_counts_as_noise() -> None:
    curve = swept(valley(-1.0) + noise(0))
    assert max(curve.loss) > 1e3  # 10**(2 * 2) / (2 ln 10) = 2171
    assert curve.noise == pytest.approx(0.05, rel=0.35)


def test_fewer_than_three_points_have_no_noise() -> None:
    assert LossCurve([1, 2], [5.0, 1.0]).noise == 0.0


# ---------------------------------------------------------------------------------------------- explosion
# Five losses at 1, so start = 1; then 0.5, so best = 0.5 and the fall is 0.5. Second differences are mostly 0, so the
# noise is 0. With a threshold of t the sweep ends where the median of three rises above 0.5 + t * 0.5.
FALL = [1.0] * 5 + [0.5] * 10


@pytest.mark.parametrize(
    ("after", "threshold", "index"),
    [
        ([2.4] * 5, 4.0, None),  # 0.5 + 4 * 0.5 = 2.5 is not reached
        ([2.5] * 5, 4.0, None),  # reached, not exceeded
        ([2.6] * 5, 4.0, 16),  # point 15 is the first above, the median of three is above from 16 on
        ([2.4] * 5, 3.0, 16),  # 0.5 + 3 * 0.5 = 2.0
        ([100.0], 4.0, None),  # one outlier
        ([100.0, 0.5, 100.0, 0.5, 0.5], 4.0, 17),  # two of three
        ([0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0], 4.0, 24),  # 2.75 is the first median above
        ([2.6] * 5, None, None),
        ([1e9] * 5, None, None),
        ([1e9, math.nan], None, 16),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_sweep_explodes_where_the_loss_rises_by_the_threshold_times_its_fall(
    after: list[float], threshold: float | None, index: int | None
) -> None:
    assert first_explosion([*FALL, *after], threshold) == index


def test_a_larger_threshold_never_stops_earlier() -> None:
    losses = valley(-2.0).tolist()
    stops = [first_explosion(losses, threshold) for threshold in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)]
    assert None not in stops
    assert stops == sorted(stops, key=lambda stop: stop or 0)
    assert len(set(stops)) == 6


@pytest.mark.parametrize("threshold", [4.0, None], ids=["threshold 4", "no threshold"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "-inf"])
@pytest.mark.parametrize("at", [0, 1, 4, 5, 20, 39])
def test_a_loss_that_is_not_finite_stops_at_once(at: int, bad: float, threshold: float | None) -> None:
    # D11: in Lightning one NaN poisons the average and nothing stops.
    losses = [1.0 - 0.01 * k for k in range(40)]
    losses[at] = bad
    assert first_explosion(losses, threshold) == at


def test_wild_first_five_losses_are_no_explosion() -> None:
    # The median of three is 9 at points 3 and 4, but the start level of 1 is the median of all five.
    assert first_explosion([1.0, 1.0, 9.0, 9.0, 1.0, *[1.0] * 20], 4.0) is None
    # Two of six losses are as much noise as explosion; two of eleven are not.
    assert first_explosion([1.0, 1.0, 1.0, 1.0, 9.0, 9.0, *[1.0] * 20], 4.0) is None
    assert first_explosion([*[1.0] * 9, 9.0, 9.0, *[1.0] * 20], 4.0) == 10


@given(losses=st.lists(st.floats(-10, 10), min_size=1, max_size=40), chunk=st.integers(1, 12))
def test_checking_in_chunks_finds_the_same_explosion_as_checking_at_once(losses: list[float], chunk: int) -> None:
    detector = ExplosionDetector(1.5)
    for start in range(0, len(losses), chunk):
        detector.add(losses[start : start + chunk])
    assert detector.index == first_explosion(losses, 1.5)


def test_an_explosion_before_a_nan_wins() -> None:
    assert first_explosion([*FALL, 9.0, 9.0, 9.0, math.nan], 4.0) == 16


@given(
    constant=st.floats(-1e30, 1e30),
    points=st.integers(0, 60),
    threshold=st.one_of(st.none(), st.floats(1e-3, 1e3)),
)
def test_a_constant_loss_never_diverges(constant: float, points: int, threshold: float | None) -> None:
    assert first_explosion([constant] * points, threshold) is None


def test_noise_about_a_flat_loss_never_diverges() -> None:
    stops = {first_explosion((2.3 + noise(seed)).tolist(), 4.0) for seed in range(100)}
    assert stops == {None}


def test_a_wobble_of_middling_size_does_not_stop_the_sweep() -> None:
    # Up by three times the fall of 0.5, for five steps: 0.5 + 3 * 0.5 = 2.0.
    wobble = [*FALL, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 0.5, 0.4]
    assert first_explosion(wobble, 4.0) is None
    assert first_explosion([*wobble, 0.4, 0.4, 0.4, 9.0, 9.0], 4.0) == 29  # and a real one is still seen: 15 + 10 + 4


def test_a_negative_loss_stops_where_the_shifted_positive_one_does() -> None:
    # D11: 4 * best is more negative than best, so Lightning stops after two points.
    positive = valley(-2.0) + 10.0
    stop = first_explosion(positive.tolist(), 4.0)
    assert stop is not None
    # With x in decades from the minimum, the loss is 10**(2x) / 4.605 - x: 4.84 at the third point, 0.217 at 0.
    # It exceeds 0.217 + 4 * (4.84 - 0.217) = 18.7 from x = 0.98 on, the median of three one point (0.08) later.
    assert DECADES[stop] == pytest.approx(-1.0, abs=0.2)
    for shift in (5.0, 10.0, 20.0, 1e3):
        assert first_explosion((positive - shift).tolist(), 4.0) == stop


LOSSES = st.lists(st.integers(-1000, 1000).map(float), max_size=40)


@given(
    losses=LOSSES,
    exponent=st.integers(-20, 20),
    shift=st.integers(-1000, 1000),
    threshold=st.sampled_from([0.5, 4.0, None]),
)
@example(losses=[*FALL, 9.0, 9.0], exponent=3, shift=-10, threshold=4.0)
def test_where_a_sweep_explodes_depends_on_neither_scale_nor_shift(
    losses: list[float], exponent: int, shift: int, threshold: float | None
) -> None:
    # Whole numbers and powers of two, so that no rounding decides.
    changed = [(loss + shift) * 2.0**exponent for loss in losses]
    assert first_explosion(changed, threshold) == first_explosion(losses, threshold)


@given(losses=LOSSES, threshold=st.floats(0.5, 10))
def test_where_a_sweep_explodes_does_not_depend_on_what_comes_much_later(losses: list[float], threshold: float) -> None:
    # More than half of the second differences are 0, so there is no noise: 4 + 10 * (5 - 4) = 14 is the highest limit.
    sweep = [*[5.0] * 5, *[4.0] * 100, *[40.0] * 3]
    assert first_explosion([*sweep, *losses], threshold) == 106  # the second of the three at 40


def test_a_handful_of_noisy_losses_is_no_explosion() -> None:
    # Of this seed the first six losses happen to lie close together, and the next do not.
    assert len(noisy(5282)) > 80
