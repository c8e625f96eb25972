"""Which sweeps are run for which loss: never more than the budget, and the dense one where the loss falls.

Sweeps are simulated: a loss as a function of lr is recorded as `Recorder` does, and ended as it ends them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from pl_onecycle.curves import (
    BUDGET,
    MIN_LOSSES,
    ExplosionDetector,
    LossCurve,
    Refusal,
    coarse_sweep,
    dense_sweep,
    has_risen,
    higher_sweep,
    refusal,
)
from pl_onecycle.curves.search import has_fallen
from pl_onecycle.policy import RangeTestPolicy
from tests.curves.made import suggested

Loss = Callable[[float], float]  # of the lr of the step before, 0 before the first


def recorded(
    policy: RangeTestPolicy, loss: Loss, threshold: float | None, ends: Callable[[LossCurve], bool]
) -> LossCurve:
    """The curve of a sweep, ended by an explosion or by ``ends``."""
    lrs, losses = [policy.lr(step) for step in range(policy.num_steps)], [loss(0.0)]
    if not math.isfinite(losses[0]):  # the least there is: one point
        return LossCurve(lrs[:1], [loss(lrs[0])], "diverged", losses[0])
    detector = ExplosionDetector(threshold)
    detector.add(losses)
    for done, lr in enumerate(lrs, start=1):
        losses.append(loss(lr))
        curve = LossCurve(lrs[:done], losses[1:], initial_loss=losses[0])
        detector.add(losses[-1:])
        if detector.index is not None:
            return replace(curve, outcome="diverged")
        if MIN_LOSSES <= done < policy.num_steps and ends(curve):
            return replace(curve, outcome="risen")
    return curve


@dataclass(frozen=True)
class Run:
    """The coarse curves of a test, the policy of its dense sweep, and the curve that is read."""

    coarse: list[LossCurve]
    dense: RangeTestPolicy | Refusal
    curve: LossCurve

    @property
    def steps(self) -> int:
        """In all; each sweep takes one step more than it has points."""
        return sum(len(curve) + 1 for curve in self.coarse) + (
            0 if isinstance(self.dense, Refusal) else len(self.curve) + 1
        )

    @property
    def decade(self) -> float:
        """Of the suggestion."""
        return math.log10(suggested(self.curve).lr)


def run(loss: Loss, min_lr: float = 1e-7, max_lr: float = 10.0) -> Run:
    """Sweep as `LRRangeTest` does."""
    coarse: list[LossCurve] = []
    while (policy := coarse_sweep(coarse, min_lr, max_lr)) is not None:
        coarse.append(recorded(policy, loss, None, has_risen))
    dense = dense_sweep(coarse)
    curve = coarse[-1] if isinstance(dense, Refusal) else recorded(dense, loss, 4.0, lambda _: False)
    return Run(coarse, dense, curve)


def training(lowest: float, seed: int = 0, noise: float = 0.03, scale: float = 1.0, rise: float = 1.5) -> Loss:
    """2.3 with noise, which falls by 1.8 in the decades before ``lowest`` and then explodes."""
    random = np.random.default_rng(seed)

    def loss(lr: float) -> float:
        away = -20.0 if lr == 0 else math.log10(lr) - lowest
        fall = 1.8 / (1 + math.exp(-3 * (away + 1.5)))
        return scale * (2.3 - fall + 0.02 * 10 ** min(rise * away, 38) + float(random.normal(0, noise)))

    return loss


def curve_of(losses: ArrayLike, initial: float | None = None) -> LossCurve:
    values = np.asarray(losses, dtype=float).tolist()
    return LossCurve(np.logspace(-7, 1, len(values)).tolist(), values, initial_loss=initial)


# ------------------------------------------------------------------------------------------------- coarse
@pytest.mark.parametrize(
    ("min_lr", "max_lr", "steps"),
    [
        (1e-7, 10.0, 49),  # 8 decades * 6 + 1
        (1e-5, 1.0, 31),  # 5 * 6 + 1
        (1e-2, 0.1, 24),  # 1 * 6 + 1 is fewer than the least
        (1.0, 1.0001, 24),
        (1e-10, 1e10, 72),  # 20 * 6 + 1 is more than the most
        (1e-8, 3.0, 52),  # ceil(8.477 * 6) + 1 = 51 + 1
    ],
)
def test_the_first_coarse_sweep_covers_the_range_with_six_steps_a_decade(
    min_lr: float, max_lr: float, steps: int
) -> None:
    policy = coarse_sweep([], min_lr, max_lr)
    assert policy == RangeTestPolicy(min_lr, max_lr, steps)


def test_a_second_coarse_sweep_covers_four_decades_above_where_nothing_has_happened() -> None:
    flat = curve_of([2.0, 2.1] * 24)
    # From a decade below 10 to four above: 5 * 6 + 1 steps.
    policy = coarse_sweep([flat], 1e-7, 10.0)
    assert policy is not None
    assert (policy.min_lr, policy.num_steps) == (1.0, 31)
    assert policy.max_lr == pytest.approx(1e5)


HAPPENED = {
    "it has diverged": replace(curve_of([2.0, 2.1] * 24), outcome="diverged"),
    "it was dropped": replace(curve_of([2.0, 2.1] * 24), outcome="risen"),
    "it was overridden": replace(curve_of([2.0, 2.1] * 24), outcome="overridden"),
    "it was stopped": replace(curve_of([2.0, 2.1] * 24), outcome="stopped"),
    "it has fallen": curve_of([2.0, 2.1] * 18 + [1.0, 1.1] * 6),
    "it ends higher": curve_of([2.0, 2.1] * 18 + [2.2, 2.3] * 6),
}


@pytest.mark.parametrize("curve", HAPPENED.values(), ids=HAPPENED)
def test_there_is_no_second_coarse_sweep_where(curve: LossCurve) -> None:
    assert coarse_sweep([curve], 1e-7, 10.0) is None


def test_there_is_never_a_third_coarse_sweep() -> None:
    flat = curve_of([2.0, 2.1] * 24)
    assert coarse_sweep([flat, flat], 1e-7, 10.0) is None


# -------------------------------------------------------------------------------------------------- dense
def test_the_dense_sweep_begins_below_the_rise_and_takes_the_rest_of_the_budget() -> None:
    dropped = replace(curve_of([2.0, 2.1] * 19 + [9.0] * 10), outcome="risen")  # 48 points, the last at 10
    policy = dense_sweep([dropped])
    assert isinstance(policy, RangeTestPolicy)
    # 150 - (48 + 1) - 1 = 100 steps, which are 99 / 28 = 3.5357 decades: fewer than 3.7, so they end at the rise. The
    # first median of three that is high is that of point 39, counted from 0: -7 + 39 * 8 / 47 = -0.3617.
    assert policy.num_steps == 100
    assert math.log10(policy.min_lr) == pytest.approx(-0.3617 - 3.5357, abs=1e-4)
    assert math.log10(policy.max_lr) == pytest.approx(-0.3617, abs=1e-4)


def test_the_dense_sweep_after_an_early_rise_begins_3_7_decades_below_it() -> None:
    lr = np.logspace(-7, -3, 25).tolist()
    policy = dense_sweep([LossCurve(lr, [2.0, 2.1] * 12 + [9.0], "risen")])
    assert isinstance(policy, RangeTestPolicy)
    # One loss alone is no rise yet, so the last lr counts. 150 - 26 - 1 = 123 steps from -3 - 3.7 on, 122 / 28 decades.
    assert policy.num_steps == 123
    assert math.log10(policy.min_lr) == pytest.approx(-6.7, abs=1e-4)
    assert math.log10(policy.max_lr) == pytest.approx(-6.7 + 122 / 28, abs=1e-4)


def test_the_dense_sweep_is_centred_on_most_of_the_fall_where_nothing_rises() -> None:
    # Down from -4 to -2 in a straight line; 70 % of it at -2.6.
    decades = np.linspace(-7, 1, 49)
    curve = LossCurve((10**decades).tolist(), np.interp(decades, [-4, -2], [2.0, 1.0]).tolist(), initial_loss=2.0)
    policy = dense_sweep([curve])
    assert isinstance(policy, RangeTestPolicy)
    assert policy.num_steps == 99  # 150 - (49 + 1) - 1
    # 98 / 28 / 2 = 1.75 decades, less than 2, below the first point at or behind -2.6: they lie a sixth of a decade
    # apart.
    assert math.log10(policy.min_lr) == pytest.approx(-2.6 - 1.75, abs=0.2)
    assert math.log10(policy.max_lr / policy.min_lr) == pytest.approx(98 / 28)


def falling_to(end: float, left: float) -> LossCurve:
    """A dense sweep of three decades up to ``end`` whose loss falls from 2 to 1 in the half decade before ``left``."""
    decades = np.linspace(end - 3, end, 85)
    return LossCurve((10**decades).tolist(), np.interp(decades, [left - 0.5, left], [2.0, 1.0]).tolist())


def test_a_dense_sweep_whose_loss_still_falls_at_its_end_is_followed_by_a_higher_one() -> None:
    coarse, dense = curve_of([2.0] * 49), falling_to(-2.0, -2.0)
    policy = higher_sweep([coarse, dense])
    assert policy is not None
    # 300 - (49 + 1) - (85 + 1) - 1; two decades below where 80 % of the fall has happened, about a tenth below -2.
    assert policy.num_steps == 163
    assert math.log10(policy.min_lr) == pytest.approx(-4.1, abs=0.05)
    assert math.log10(policy.max_lr / policy.min_lr) == pytest.approx(162 / 28)


def test_there_is_no_higher_sweep_where_the_trough_is_half_a_decade_wide_or_ends_or_is_controlled_or_hidden() -> None:
    dense = falling_to(-2.0, -2.0)
    risen = falling_to(-2.0, -2.5)
    risen = replace(risen, loss=[*risen.loss[:-8], *[3.0] * 8])
    noise = np.random.default_rng(0).normal(0, 3, len(dense))
    cases = {
        "wide": falling_to(-2.0, -2.6),
        "risen": risen,
        "exploded": replace(dense, outcome="diverged"),
        "controlled": replace(dense, control=[0.0] * len(dense)),
        "hidden": replace(dense, loss=(np.asarray(dense.loss) + noise).tolist()),
    }
    assert {name: higher_sweep([curve]) for name, curve in cases.items()} == dict.fromkeys(cases)


NOTHING = {
    "nothing happens": curve_of([2.0, 2.1] * 24),
    "the loss is constant": curve_of([2.0] * 49, 2.0),
    "the loss is not finite before the first step": LossCurve([1e-7], [math.nan], "diverged", math.nan),
    "the module sets the lr itself": LossCurve([1e-7], [2.0], "overridden", 2.0),
    "the data have run out": replace(curve_of([2.0, 2.1] * 10), outcome="stopped"),
}


@pytest.mark.parametrize("curve", NOTHING.values(), ids=NOTHING)
def test_there_is_no_dense_sweep_where(curve: LossCurve) -> None:
    assert isinstance(dense_sweep([curve]), Refusal)


# ------------------------------------------------------------------------------------------- rise and fall
FLAT = [1.0, 1.1] * 7  # second differences of 0.2: a noise of 1.4826 * 0.2 / sqrt(6) = 0.121


@pytest.mark.parametrize(
    ("end", "risen"), [(1.0, False), (1.2, False), (1.24, False), (1.25, True), (2.0, True), (0.0, False)]
)
def test_a_rise_is_seen_from_two_standard_deviations_on(end: float, risen: bool) -> None:
    # 2 * 0.121 = 0.242 above the median of the first seven, 1.0.
    assert has_risen(curve_of([*FLAT, *[end] * 10])) is risen


def test_a_rise_must_last_for_five_steps() -> None:
    assert not has_risen(curve_of([*FLAT, *[3.0] * 5]))
    assert has_risen(curve_of([*FLAT, *[3.0] * 10]))
    assert not has_risen(curve_of([*FLAT, *[3.0] * 5, *FLAT[:5]]))


@pytest.mark.parametrize(("end", "fallen"), [(1.0, False), (0.88, False), (0.87, True), (0.0, True), (2.0, False)])
def test_a_fall_is_seen_wherever_it_is(end: float, fallen: bool) -> None:
    # The first third, six times 1.0 and five times 1.1, has a standard deviation of 0.1 * sqrt(6 * 5) / 11 = 0.0498, of
    # which 2.5 are 0.1245.
    assert has_fallen(curve_of([*FLAT, *[end] * 5, *FLAT])) is fallen


def test_a_sweep_whose_end_is_in_disorder_counts_as_fallen() -> None:
    # In the last third eight losses of 1.05 +- 0.2: four times the scatter of the first.
    assert has_fallen(curve_of([*FLAT, 1.0, 1.1, *[0.85, 1.25] * 4]))
    assert not has_fallen(curve_of([*FLAT, 1.0, 1.1, *[0.95, 1.15] * 4]))  # twice


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_rise_and_fall_do_not_depend_on_scale_and_shift(scale: float, shift: float) -> None:
    for end, risen, fallen in [(1.2, False, False), (1.6, True, False), (0.4, False, True)]:
        curve = curve_of(scale * (np.array([*FLAT, *[end] * 10]) + shift))
        assert (has_risen(curve), has_fallen(curve)) == (risen, fallen)


def test_the_loss_before_the_first_step_counts_as_one_of_them() -> None:
    fallen = [*FLAT[:6], *[0.0] * 5]
    assert not has_fallen(curve_of(fallen))
    assert has_fallen(curve_of(fallen, 1.1))


@pytest.mark.parametrize(("steps", "most"), [(24, 30), (49, 12), (72, 12)])
def test_noise_alone_is_rarely_called_a_rise_or_a_fall(steps: int, most: int) -> None:
    # Of 200: a rise 5 %, a fall 6 %, and 15 % in the shortest sweep, whose noise is that of its first eight losses.
    risen = fallen = 0
    for seed in range(200):
        losses = np.random.default_rng(seed).normal(2.3, 0.1, steps)
        risen += any(has_risen(curve_of(losses[:k])) for k in range(MIN_LOSSES, steps))  # checked after every step
        fallen += has_fallen(curve_of(losses))
    assert risen <= 10
    assert fallen <= most


# -------------------------------------------------------------------------------------------------- budget
@settings(max_examples=60)
@given(
    lowest=st.floats(-12, 12),
    noise=st.sampled_from([0.0, 0.01, 0.3, 3.0]),
    rise=st.sampled_from([0.0, 0.2, 1.5, 20.0]),
    low=st.floats(-12, 2),
    width=st.floats(0.01, 20),
    seed=st.integers(0, 100),
)
def test_no_test_takes_more_than_150_steps(
    lowest: float, noise: float, rise: float, low: float, width: float, seed: int
) -> None:
    found = run(training(lowest, seed, noise, rise=rise), 10**low, 10 ** (low + width))
    assert found.steps <= BUDGET == 150
    assert len(found.coarse) <= 2
    if isinstance(found.dense, RangeTestPolicy):  # which is then planned to use all of it
        planned = sum(len(curve) + 1 for curve in found.coarse) + found.dense.num_steps + 1
        assert planned == 150
        assert 28 * math.log10(found.dense.max_lr / found.dense.min_lr) == pytest.approx(found.dense.num_steps - 1)


def nan_above(limit: float, loss: Loss) -> Loss:
    return lambda lr: math.nan if lr > limit else loss(lr)


ODD: dict[str, Loss] = {
    "constant": lambda lr: 1.0,
    "zero": lambda lr: 0.0,
    "not finite at once": lambda lr: math.nan,
    "not finite after the first step": lambda lr: 1.0 if lr == 0 else math.inf,
    "only rising": lambda lr: 2.0 + lr,
    "rising at once": lambda lr: 2.0 + 1e6 * lr,
    "falling without end": lambda lr: -math.log10(lr + 1e-9),
    "not finite above 1e-5": nan_above(1e-5, training(-1.0)),
}


@pytest.mark.parametrize("loss", ODD.values(), ids=ODD)
def test_no_odd_loss_takes_more_than_150_steps(loss: Loss) -> None:
    assert 2 <= run(loss).steps <= 150


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("constant", "the loss does not fall anywhere in the sweep"),
        ("zero", "the loss does not fall anywhere in the sweep"),
        ("not finite at once", "the loss is not finite from the first step on"),
        ("only rising", "the loss does not fall anywhere in the sweep"),
        ("rising at once", "the loss does not fall anywhere in the sweep"),
    ],
)
def test_a_loss_without_a_fall_is_refused_with_the_reason(name: str, reason: str) -> None:
    assert refusal(run(ODD[name]).curve) == reason


# ------------------------------------------------------------------------------------- finding, wherever it is
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shift", [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
def test_a_loss_times_c_moves_the_suggestion_of_plain_sgd_by_as_much(shift: float, seed: int) -> None:
    # SGD on c times the loss with lr / c is SGD on the loss: the curve moves along the lr axis.
    loss = training(-2.0, seed)
    moved = training(-2.0 + shift, seed, scale=10**-shift)
    assert run(moved).decade - run(loss).decade == pytest.approx(shift, abs=0.15)


@pytest.mark.parametrize("lowest", [-7.0, -6.0, -5.0, -4.0])
def test_an_explosion_early_in_the_range_leaves_the_range_downwards(lowest: float) -> None:
    found = run(training(lowest))
    assert found.coarse[0].outcome in ("diverged", "risen")
    assert len(found.coarse[0]) < 37  # of 49
    assert isinstance(found.dense, RangeTestPolicy)
    assert found.dense.min_lr < 10 ** (lowest - 1.5)
    assert found.decade == pytest.approx(run(training(-2.0)).decade + 2 + lowest, abs=0.15)


def test_a_start_that_is_too_high_already_is_found_below_it() -> None:
    # The loss explodes from 1e-2 on; the range begins at 1, where the first step does it.
    found = run(training(-2.0), 1.0, 10.0)
    assert found.coarse[0].outcome == "risen"
    assert len(found.coarse[0]) <= 23  # of 24; judged from the twelfth loss on, for five more
    assert isinstance(found.dense, RangeTestPolicy)
    assert found.dense.min_lr < 1e-3
    assert found.decade == pytest.approx(run(training(-2.0)).decade, abs=0.3)


@pytest.mark.parametrize("lowest", [0.0, 1.0, 2.0])
def test_a_loss_that_does_not_explode_before_max_lr_is_followed_beyond_it(lowest: float) -> None:
    found = run(training(lowest))
    assert found.coarse[0].lr[-1] == pytest.approx(10.0)
    assert found.coarse[0].outcome == "completed"
    assert isinstance(found.dense, RangeTestPolicy)
    assert found.dense.max_lr > 10 ** (lowest - 1)
    assert found.decade == pytest.approx(run(training(-2.0)).decade + 2 + lowest, abs=0.2)


def test_a_loss_that_has_no_explosion_at_all_is_read_where_it_has_fallen() -> None:
    found = run(training(-2.0, rise=0.0))
    assert found.coarse[0].outcome == "completed"
    # 1.25 decades from where 80 % of the fall has happened: exp(-3 (x + 3.5)) = 20 / 80 at -3.04, its middle at -2.41.
    assert found.decade == pytest.approx(-2.41, abs=0.1)


@pytest.mark.parametrize("lowest", [4.0, 5.0])
def test_a_fall_above_max_lr_is_found_by_the_second_coarse_sweep_for_80_percent_of_seeds(lowest: float) -> None:
    second = 0
    for seed in range(20):
        found = run(training(lowest, seed))
        if len(found.coarse) == 2:
            second += 1
            assert found.coarse[1].lr[0] == pytest.approx(1.0)
            assert found.decade == pytest.approx(lowest - 0.6, abs=0.6)
    assert second >= 16


@pytest.mark.parametrize(
    ("min_lr", "max_lr", "steps"),
    [(1e-2, 1e-1, 24), (1e-4, 1e-3, 24), (1e-10, 1e10, 72), (1e-15, 1e5, 72), (1e-7, 1.0, 43)],
    ids=["a decade around it", "a decade below it", "twenty decades", "twenty other decades", "seven decades"],
)
def test_an_odd_range_finds_about_the_same(min_lr: float, max_lr: float, steps: int) -> None:
    first = coarse_sweep([], min_lr, max_lr)
    assert first is not None
    assert first.num_steps == steps
    assert run(training(-1.0), min_lr, max_lr).decade == pytest.approx(run(training(-1.0)).decade, abs=0.3)


@pytest.mark.parametrize("seed", range(10))
def test_the_suggestion_lies_where_the_loss_has_fallen(seed: int) -> None:
    decade = run(training(-2.0, seed, noise=0.1)).decade
    # More than two thirds of the fall have happened there, 2.3 - 1.2, and the explosion has not begun.
    assert training(-2.0, noise=0.0)(10**decade) < 1.1
