"""A control: what the views of a curve show against it, when one is needed, and what it changes in the answer."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pl_onecycle.curves import (
    LARGER_BUDGET,
    Array,
    LossCurve,
    dense_sweep,
    needs_control,
    noise_hides_fall,
    refusal,
)
from pl_onecycle.policy import RangeTestPolicy
from tests.curves.made import suggested

# Of a dense sweep: three and a half decades, 28 steps in each.
DENSE = np.linspace(-4, -0.5, 99)


def made(signal: Array, batches: Array, moved: Array | float = 0.0) -> LossCurve:
    """A curve whose batches differ by ``batches``, with a control; ``moved`` is noise of the weights' own."""
    control = 2.0 + batches
    return LossCurve((10**DENSE).tolist(), (signal + control + moved).tolist(), control=control.tolist())


def valley(depth: float) -> Array:
    """Down by ``depth`` around -2, and up again."""
    signal: Array = depth * (np.minimum((DENSE + 2) ** 2, 1.0) - 1.0)
    return signal


def batches(seed: int, sd: float) -> Array:
    return np.random.default_rng(seed).normal(0.0, sd, len(DENSE))


# ------------------------------------------------------------------------------------------------------- views
def test_what_batches_differ_in_cancels_in_the_views() -> None:
    curve = made(valley(0.2), batches(0, 1.0))
    level = float(np.median(curve.control))
    assert curve.finite_loss == pytest.approx(level + valley(0.2), abs=1e-12)
    assert curve.noise < 1e-3
    assert replace(curve, control=()).noise > 0.5


def test_the_loss_before_the_first_update_is_the_level_of_the_control() -> None:
    curve = LossCurve([0.1, 0.2, 0.4], [3.0, 2.0, 1.0], initial_loss=9.0, control=[5.0, 4.0, 6.0])
    assert (curve.before, replace(curve, control=()).before, replace(curve, initial_loss=None).before) == (5, 9, None)
    assert curve.finite_loss.tolist() == [3.0, 3.0, 0.0]


def test_losses_end_where_they_are_not_finite_also_against_a_control() -> None:
    curve = LossCurve([0.1, 0.2, 0.4], [3.0, math.nan, 1.0], control=[5.0, 4.0, 6.0])
    assert curve.finite_loss.tolist() == [3.0]


@pytest.mark.parametrize("last", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_in_both_ends_the_views_and_hides_nothing_before_it(last: float) -> None:
    curve = LossCurve([0.1, 0.2, 0.4], [3.0, 2.0, last], initial_loss=9.0, control=[5.0, 4.0, last])
    assert (curve.finite_loss.tolist(), curve.before) == ([2.5, 2.5], 4.5)


def test_a_control_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`control` to be as long as `lr` \(2\), or empty but got 1"):
        LossCurve([0.1, 0.2], [1.0, 2.0], control=[1.0])


def test_a_control_survives_a_checkpoint() -> None:
    curve = made(valley(0.2), batches(0, 1.0))
    assert LossCurve(**curve.to_dict()) == curve


# ------------------------------------------------------------------------------------------------------ answers
def test_a_fall_that_noise_hides_is_found_against_a_control() -> None:
    clean = math.log10(suggested(made(valley(0.2), np.zeros(99))).lr)
    for seed in range(20):
        curve = made(valley(0.2), batches(seed, 2.0))
        alone = replace(curve, control=())
        assert refusal(alone) is None or noise_hides_fall(alone)
        assert not noise_hides_fall(curve)
        assert math.log10(suggested(curve).lr) == pytest.approx(clean, abs=0.01)


def moved(seed: int, sd: float) -> Array:
    """Noise that grows with the lr."""
    noise: Array = batches(seed, sd) * 10 ** (DENSE + 2)
    return noise


def test_noise_that_grows_with_the_lr_asks_for_a_control_for_nine_of_ten_seeds() -> None:
    # As of a net whose last layer starts at zero and whose labels are chance: at first all losses are the same.
    curves = [LossCurve((10**DENSE).tolist(), (2.3 + moved(seed, 0.1)).tolist()) for seed in range(100)]
    assert sum(map(noise_hides_fall, curves)) >= 90


def test_shuffled_labels_are_refused_against_a_control_for_four_of_five_seeds() -> None:
    curves = [made(np.zeros(99), batches(seed, 1.0), moved(seed + 1000, 0.1)) for seed in range(100)]
    assert sum(refusal(curve) is None for curve in curves) <= 20


# ------------------------------------------------------------------------------------------- when one is needed
FLAT = [1.0, 1.1] * 12


@pytest.mark.parametrize(
    ("curve", "is_needed"),
    [
        (LossCurve([0.1] * 24, FLAT), True),
        (LossCurve([0.1] * 24, FLAT, "risen"), True),
        (LossCurve([0.1] * 24, FLAT[:16] + [0.1] * 8), False),
        (LossCurve([0.1] * 24, [1.0] * 24), False),
        (LossCurve([0.1] * 24, FLAT, "stopped"), False),
        (LossCurve([0.1] * 24, FLAT, "overridden"), False),
        (LossCurve([0.1] * 10, FLAT[:10]), False),
        (LossCurve([0.1] * 24, FLAT, control=[1.0] * 24), False),
    ],
    ids=["no fall", "only a rise", "sure fall", "constant", "stopped", "overridden", "short", "has one"],
)
def test_a_coarse_sweep_needs_a_control_where_noise_could_hide_its_fall(curve: LossCurve, is_needed: bool) -> None:
    assert needs_control(curve) is is_needed


def test_a_loss_without_noise_hides_no_fall() -> None:
    rising = LossCurve((10**DENSE).tolist(), (DENSE + 9).tolist())
    assert refusal(rising) is not None
    assert not noise_hides_fall(rising)
    assert not noise_hides_fall(LossCurve([0.1], [2.0]))


def test_half_of_what_a_controlled_coarse_sweep_leaves_is_for_the_control_of_the_dense_one() -> None:
    lr = (10 ** np.linspace(-7, 1, 49)).tolist()
    signal = np.interp(np.log10(lr), [-7, -3, -2, -1, 1], [0.0, 0.0, -1.0, 0.0, 5.0])
    control = np.random.default_rng(0).normal(3.0, 2.0, 49)
    coarse = LossCurve(lr, (control + signal).tolist(), control=control.tolist())
    sweep = dense_sweep([coarse])
    assert isinstance(sweep, RangeTestPolicy)
    # (300 - 2 * 50) / 2 = 100 steps, one of which only shows the effect of the one before.
    assert sweep.num_steps == 99
    assert 2 * (49 + 1) + 2 * (sweep.num_steps + 1) == LARGER_BUDGET == 300
    assert sweep.min_lr < 1e-3 < 1e-2 < sweep.max_lr
