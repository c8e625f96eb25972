"""`OneCyclePolicy`: typed tables, an independent reference, what holds for any argument, and its bad arguments."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pl_onecycle.policy import OneCyclePolicy
from tests import reference
from tests.policy.made import SENTENCE, SMITH_100, bad, lengths, lrs, many, momenta, policies


@pytest.mark.parametrize(
    ("step", "lr", "momentum"),
    [
        # hi 1, lo 1/10, fin 1/100; 10 steps of annihilation leave 90, so a = c = 45.
        (0, 0.1, 0.95),
        (9, 0.28, 0.93),  # 9/45 of the way: .1 + .9/5; .95 - .1/5
        (44, 0.98, 0.85 + 0.1 / 45),  # one of 45 steps short: 1 - .9/45
        (45, 1.0, 0.85),
        (54, 0.82, 0.87),  # 9/45 of the way down: 1 - .9/5; .85 + .1/5
        (89, 0.12, 0.95 - 0.1 / 45),  # one of 45 steps short: .1 + .9/45
        (90, 0.1, 0.95),
        (93, 0.07, 0.95),  # 3/9 of the way: .1 - .09/3
        (99, 0.01, 0.95),
        (100, 0.01, 0.95),
    ],
)
def test_smith_goes_up_and_down_in_equal_legs_and_then_annihilates(step: int, lr: float, momentum: float) -> None:
    policy = OneCyclePolicy(1.0, 100, **SMITH_100)
    assert policy.lr(step) == pytest.approx(lr, rel=1e-12)
    assert policy.momentum(step) == pytest.approx(momentum, rel=1e-12)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (OneCyclePolicy(1.0, 1), [1.0]),  # the peak wins over both ends
        (OneCyclePolicy(1.0, 2), [0.1, 1.0]),  # the peak wins over the end
        (OneCyclePolicy(1.0, 3), [0.1, 1.0, 1e-5]),
        (OneCyclePolicy(1.0, 2, pct_start=0), [1.0, 1e-5]),  # the peak wins over the start
        (OneCyclePolicy(1.0, 2, pct_start=1, pct_annihilation=0), [0.1, 1.0]),
        (OneCyclePolicy(1.0, 4, pct_start=0, pct_annihilation=0), [1.0, 2 / 3 + 1e-5 / 3, 1 / 3 + 2e-5 / 3, 1e-5]),
        (OneCyclePolicy(1.0, 4, pct_start=1, pct_annihilation=0), [0.1, 0.4, 0.7, 1.0]),
        (OneCyclePolicy(1.0, 4, pct_annihilation=1), [1.0, 0.1, 0.050005, 1e-5]),  # one step is left for the cycle
        (OneCyclePolicy(1.0, 4, pct_plateau=1, pct_annihilation=0), [1.0, 1.0, 1.0, 1.0]),
        (OneCyclePolicy(1.0, 5, pct_annihilation=0.2), [0.1, 0.55, 1.0, 0.55, 1e-5]),  # the end wins over lo
        (OneCyclePolicy(1.0, 6, pct_plateau=1 / 3, pct_annihilation=0), [0.1, 0.55, 1.0, 1.0, 1.0, 1e-5]),
    ],
    ids=lambda value: None if isinstance(value, list) else f"N={value.total_steps}",
)
def test_tiny_runs_have_these_values(policy: OneCyclePolicy, expected: list[float]) -> None:
    assert lrs(policy) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("fraction", "steps"),
    [(0.24, 2), (0.25, 3), (0.34, 3), (0.35, 4)],  # 2.4, 2.5, 3.4, 3.5: halves go up
)
def test_shares_are_rounded_to_whole_steps_with_halves_up(fraction: float, steps: int) -> None:
    assert OneCyclePolicy(1.0, 10, pct_start=fraction).peak_step == steps
    plateau = OneCyclePolicy(1.0, 10, pct_start=0.1, pct_plateau=fraction, pct_annihilation=0)
    assert sum(lr == 1.0 for lr in lrs(plateau)) == steps + 1  # and the first step of the fall
    annihilation = OneCyclePolicy(1.0, 10, pct_annihilation=fraction)
    assert annihilation.phases[-1].start == 10 - steps


def test_odd_step_goes_to_the_fall() -> None:
    # 101 - 10 = 91 steps for two legs: 45 up, 46 down.
    policy = OneCyclePolicy(1.0, 101, pct_annihilation=10 / 101)
    assert policy.peak_step == 45
    assert policy.lr(45 + 46) == 0.1


def test_legs_of_the_original_code_are_the_same_and_its_annihilation_stops_one_step_short() -> None:
    seed = reference.seed_linear(1.0, 100, div_factor=10, percent=10)
    # The pinned numbers: k0 .1, k45 1, k90 .1, k99 .019 = .1 (1 - .9 * 9/10).
    assert [seed[0], seed[45], seed[90], seed[99]] == pytest.approx([0.1, 1.0, 0.1, 0.019], rel=1e-12)
    policy = OneCyclePolicy(1.0, 100, **SMITH_100)
    assert lrs(policy)[:91] == pytest.approx(seed[:91], rel=1e-12)
    # It would reach lo/div at step N; so does a policy one step longer, exactly as the original all the way.
    longer = OneCyclePolicy(1.0, 101, pct_start=45 / 101, pct_annihilation=11 / 101, final_div_factor=10)
    assert lrs(longer, 100) == pytest.approx(seed, rel=1e-12)
    assert longer.lr(100) == pytest.approx(0.01, rel=1e-12)


# --------------------------------------------------------------- the run that this project is named after
CIFAR_10 = OneCyclePolicy(0.8, 95 * 98, pct_annihilation=13 / 95, final_div_factor=10, base_momentum=0.8)


def test_cifar_10_run_follows_the_reference_at_every_one_of_its_9310_steps() -> None:
    # Epochs of 98 steps: 41 up, 41 down, 13 of annihilation; 0.08 -> 0.8 -> 0.08 -> 0.008.
    whole = (41 * 98, 0, 41 * 98, 13 * 98)
    lr = reference.one_cycle_lr(0.8, 0.08, 0.008, whole, reference.linear)
    momentum = reference.one_cycle_momentum(lr, 0.8, 0.08, 0.008, whole, 0.80, 0.95)
    assert len(lr) == CIFAR_10.total_steps == 9310
    assert lrs(CIFAR_10) == pytest.approx(lr, rel=1e-12)
    assert momenta(CIFAR_10) == pytest.approx(momentum, rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "lr", "momentum"),
    [
        (0, 0.08, 0.95),
        (20.5, 0.44, 0.875),  # halfway up: (.08 + .8) / 2, (.95 + .8) / 2
        (41, 0.8, 0.80),
        (61.5, 0.44, 0.875),
        (82, 0.08, 0.95),
    ],
)
def test_cifar_10_run_has_these_values_by_epoch(epoch: float, lr: float, momentum: float) -> None:
    assert CIFAR_10.lr(98 * epoch) == pytest.approx(lr, rel=1e-12)
    assert CIFAR_10.momentum(98 * epoch) == pytest.approx(momentum, rel=1e-12)


def test_cifar_10_run_ends_at_eight_thousandths_in_its_last_step() -> None:
    assert CIFAR_10.lr(9309) == pytest.approx(0.008, rel=1e-12)
    assert CIFAR_10.lr(9308) > CIFAR_10.lr(9309)
    assert CIFAR_10.momentum(9309) == 0.95


# ------------------------------------------------------------------------------------ any argument at all
@many
@given(policies())
def test_any_policy_equals_the_reference_at_every_step(policy: OneCyclePolicy) -> None:
    hi, lo = policy.max_lr, policy.max_lr / policy.div_factor
    fin = lo / policy.final_div_factor
    lr = reference.one_cycle_lr(hi, lo, fin, lengths(policy), reference.SHAPES[policy.anneal_strategy])
    momentum = reference.one_cycle_momentum(lr, hi, lo, fin, lengths(policy), policy.base_momentum, policy.max_momentum)
    assert lrs(policy) == pytest.approx(lr, rel=1e-9, abs=1e-12 * hi)
    assert momenta(policy) == pytest.approx(momentum, rel=1e-9, abs=1e-9)


@many
@given(policies())
def test_phases_are_whole_steps_in_order_and_add_up_to_the_run(policy: OneCyclePolicy) -> None:
    starts = [phase.start for phase in policy.phases]
    ends = [*starts[1:], policy.total_steps]
    steps = {phase.name: end - start for phase, start, end in zip(policy.phases, starts, ends, strict=True)}
    assert starts[0] == 0
    assert all(isinstance(start, int) for start in starts)
    assert all(length >= 1 for length in steps.values())
    order = ("rise", "plateau", "fall", "annihilation")
    assert tuple(steps.get(name, 0) for name in order) == lengths(policy)
    assert [name for name in order if name in steps] == list(steps)


@many
@given(policies())
def test_joints_are_exact(policy: OneCyclePolicy) -> None:
    a, b, c, d = lengths(policy)
    n = policy.total_steps
    hi, lo = policy.max_lr, policy.max_lr / policy.div_factor
    assert policy.peak_step == a
    assert policy.lr(a) == policy.lr(a + b) == hi
    assert policy.momentum(a) == policy.momentum(a + b) == policy.base_momentum
    if a > 0:
        assert policy.lr(0) == lo
        assert policy.momentum(0) == policy.max_momentum
    if d > 1:
        assert policy.lr(a + b + c) == lo
        assert policy.momentum(a + b + c) == policy.max_momentum
    if a + b < n - 1:
        assert policy.lr(n - 1) == lo / policy.final_div_factor
        assert policy.momentum(n - 1) == policy.max_momentum


@many
@given(policies(), st.integers(0, 10**6))
def test_last_value_is_held_after_the_end(policy: OneCyclePolicy, further: int) -> None:
    last = policy.total_steps - 1
    for step in (last + 1, last + 2, last + 1 + further):
        assert policy.lr(step) == policy.lr(last)
        assert policy.momentum(step) == policy.momentum(last)


@many
@given(policies())
def test_nothing_is_negative_or_above_the_peak_or_out_of_the_bounds_of_momentum(policy: OneCyclePolicy) -> None:
    for step in range(policy.total_steps + 3):
        assert 0 < policy.lr(step) <= policy.max_lr
        momentum = policy.momentum(step)
        assert momentum is not None
        assert policy.base_momentum - 1e-15 <= momentum <= policy.max_momentum + 1e-15


@many
@given(policies())
def test_lr_only_rises_before_the_peak_and_only_falls_after_it(policy: OneCyclePolicy) -> None:
    if policy.final_div_factor < 1:  # then the last phase goes up again, as asked for
        policy = replace(policy, final_div_factor=1.0)
    values = lrs(policy, policy.total_steps + 3)
    nothing = 1e-12 * policy.max_lr
    assert all(after >= before - nothing for before, after in pairwise(values[: policy.peak_step + 1]))
    assert all(after <= before + nothing for before, after in pairwise(values[policy.peak_step :]))


@many
@given(policies())
def test_momentum_mirrors_lr_until_the_annihilation_and_is_constant_there(policy: OneCyclePolicy) -> None:
    a, b, c, d = lengths(policy)
    hi, lo = policy.max_lr, policy.max_lr / policy.div_factor
    width = policy.max_momentum - policy.base_momentum
    for step in range(policy.total_steps):
        lr, momentum = policy.lr(step), policy.momentum(step)
        assert momentum is not None
        low = lo if step < a or d else lo / policy.final_div_factor
        height = 0.0 if step >= a + b + c else (lr - low) / (hi - low)
        assert policy.max_momentum - momentum == pytest.approx(width * height, abs=1e-9)


@many
@given(policies())
def test_momentum_is_none_at_every_step_when_it_is_not_cycled(policy: OneCyclePolicy) -> None:
    without = replace(policy, cycle_momentum=False)
    assert {without.momentum(step) for step in range(policy.total_steps + 2)} == {None}
    assert lrs(without) == lrs(policy)


@many
@given(policies(), st.floats(1e-3, 1e3))
def test_whole_curve_scales_with_the_peak(policy: OneCyclePolicy, factor: float) -> None:
    scaled = replace(policy, max_lr=policy.max_lr * factor)
    expected = [lr * factor for lr in lrs(policy)]
    assert lrs(scaled) == pytest.approx(expected, rel=1e-9, abs=1e-12 * scaled.max_lr)
    assert momenta(scaled) == pytest.approx(momenta(policy), abs=1e-9)


PCT_STARTS = [None, 0, 0.01, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.85, 1]


@pytest.mark.parametrize("pct_start", PCT_STARTS, ids=str)
def test_peak_is_reached_exactly_for_every_length_and_every_pct_start(pct_start: float | None) -> None:
    # torch with N = 10 and pct_start = .25 never gets beyond .989 of it.
    for total_steps in range(1, 100):
        policy = OneCyclePolicy(0.7, total_steps, pct_start, pct_annihilation=0.0)
        assert max(lrs(policy)) == 0.7
        assert policy.lr(policy.peak_step) == 0.7
        assert 0 <= policy.peak_step < total_steps


# ------------------------------------------------------------------------------------------ bad arguments
NUMBERS: list[tuple[Any, type[Exception]]] = [
    *((value, ValueError) for value in (math.nan, math.inf, -math.inf, -0.5)),
    *((value, TypeError) for value in ("0.1", True, [0.1], 1j)),
]


@pytest.mark.parametrize(("value", "error"), NUMBERS, ids=repr)
@pytest.mark.parametrize(
    "name",
    [
        *["max_lr", "pct_start", "pct_plateau", "pct_annihilation", "div_factor", "final_div_factor"],
        *["base_momentum", "max_momentum", "decay"],
    ],
)
def test_bad_number_gets_one_sentence(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format(name)):
        OneCyclePolicy(**({"max_lr": 1.0, "total_steps": 10} | {name: value}))


# By name: outside of the range, of a wrong type.
BAD: dict[str, tuple[list[Any], list[Any]]] = {
    "max_lr": ([0], [None]),
    "total_steps": ([0, -3], [10.0, "10", True, None, math.nan]),
    "pct_start": ([1.1], []),
    "pct_plateau": ([1.1], [None]),
    "pct_annihilation": ([1.1], [None]),
    "div_factor": ([0, 0.9], []),
    "final_div_factor": ([0, 0.05], []),  # the end would be above the peak: 1/10 / .05 = 2
    "anneal_strategy": (["cubic", None, 1], []),
    "cycle_momentum": ([], [1, "yes", None]),
    "base_momentum": ([1, 0.96], []),  # the latter is above max_momentum: that one is named
    "max_momentum": ([1, 0.8], []),  # the latter is below base_momentum
    "decay": ([0, 1.5], []),
}


@pytest.mark.parametrize(("name", "value", "error"), bad(BAD))
def test_bad_argument_gets_one_sentence(name: str, value: Any, error: type[Exception]) -> None:
    named = "max_momentum" if (name, value) == ("base_momentum", 0.96) else name
    with pytest.raises(error, match=SENTENCE.format(named)) as caught:
        OneCyclePolicy(**({"max_lr": 1.0, "total_steps": 10} | {name: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shares",
    [
        {"pct_start": 0.6, "pct_annihilation": 0.5},
        {"pct_start": 0.95},  # with the tenth of the annihilation
        {"pct_plateau": 0.7, "pct_annihilation": 0.4},
        {"pct_start": 0.4, "pct_plateau": 0.4, "pct_annihilation": 0.4},
    ],
    ids=str,
)
def test_shares_that_add_up_past_one_get_one_sentence(shares: dict[str, Any]) -> None:
    named = re.escape("pct_start + pct_plateau + pct_annihilation")
    with pytest.raises(ValueError, match=SENTENCE.format(named)):
        OneCyclePolicy(1.0, 10, **shares)


def test_shares_that_add_up_to_one_leave_one_step_to_the_fall() -> None:
    policy = OneCyclePolicy(1.0, 30, pct_start=0.1, pct_plateau=0.2, pct_annihilation=0.7)
    assert lengths(policy) == (3, 5, 1, 21)  # 3 + 6 + 21 = 30; the fall takes one from the plateau
    assert policy.lr(9) == 0.1
