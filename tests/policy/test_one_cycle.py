"""Schedules: typed tables, an independent reference and the peers themselves, and what holds for any argument."""

import math
import re
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pl_onecycle import presets
from pl_onecycle.policy import OneCyclePolicy, RangeTestPolicy
from tests import reference

SENTENCE = r"^Expected argument `{}` to be [^\n]+ but got [^\n]+$"
many = settings(deadline=None, database=None, derandomize=True, max_examples=150)


def lrs(policy: OneCyclePolicy | RangeTestPolicy, steps: int | None = None) -> list[float]:
    return [policy.lr(step) for step in range(policy.total_steps if steps is None else steps)]


def momenta(policy: OneCyclePolicy, steps: int | None = None) -> list[float | None]:
    return [policy.momentum(step) for step in range(policy.total_steps if steps is None else steps)]


def lengths(policy: OneCyclePolicy) -> tuple[int, int, int, int]:
    return reference.phase_lengths(policy.total_steps, policy.pct_start, policy.pct_plateau, policy.pct_annihilation)


@st.composite
def policies(draw: st.DrawFn, max_steps: int = 120) -> OneCyclePolicy:
    """Any legal one-cycle policy without ``decay``."""
    pct_start = draw(st.none() | st.floats(0, 1))
    left = 1 - (pct_start or 0.0)
    pct_plateau = draw(st.floats(0, 1)) * left
    pct_annihilation = draw(st.floats(0, 1)) * (left - pct_plateau)
    div_factor = draw(st.floats(1.01, 1e3))
    base_momentum = draw(st.floats(0, 0.99))
    return OneCyclePolicy(
        max_lr=draw(st.floats(1e-6, 1e2)),
        total_steps=draw(st.integers(1, max_steps)),
        pct_start=pct_start,
        pct_plateau=pct_plateau,
        pct_annihilation=pct_annihilation,
        div_factor=div_factor,
        final_div_factor=draw(st.floats(1.01 / div_factor, 1e6)),
        anneal_strategy=draw(st.sampled_from(["linear", "cos", "cosine", "exponential"])),
        base_momentum=base_momentum,
        max_momentum=draw(st.floats(base_momentum, 0.999)),
    )


# --------------------------------------------------------------------------------------- typed tables
SMITH_100: dict[str, Any] = {"pct_annihilation": 0.1, "final_div_factor": 10.0}


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
    ("step", "lr"),
    [
        (0, 0.04),  # 1/25
        (28, 0.997186),  # .04 + .96 (1 - cos(28 pi / 29)) / 2
        (29, 1.0),  # .3 * 100 - 1
        (30, 0.999497),  # 4e-6 + (1 - 4e-6) (1 + cos(pi / 70)) / 2
        (98, 0.000507),
        (99, 4e-6),  # 1 / 25 / 1e4
        (100, 4e-6),  # torch: .000507 again
    ],
)
def test_torch_preset_has_the_values_of_torch_two_phase(step: int, lr: float) -> None:
    assert presets.torch_two_phase(1.0, 100).lr(step) == pytest.approx(lr, abs=5e-7)


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 0.04),
        (43, 0.978182),  # 1 - .96 / 44
        (44, 1.0),  # .45 * 100 - 1
        (45, 0.978182),
        (88, 0.04),  # 2 * 44
        (98, 0.003640),  # 4e-6 + (.04 - 4e-6) / 11
        (99, 4e-6),
        (100, 4e-6),  # torch: -.0036
    ],
)
def test_torch_three_phase_preset_has_the_values_of_torch_three_phase(step: int, lr: float) -> None:
    policy = presets.torch_three_phase(1.0, 100, 0.45, anneal_strategy="linear")
    assert policy.lr(step) == pytest.approx(lr, abs=5e-7)


def test_torch_three_phase_preset_spends_two_fifths_in_the_annihilation_at_its_default() -> None:
    policy = presets.torch_three_phase(1.0, 100)
    # Legs of .3 * 100 - 1 = 29 steps: up at 29, back at 58, and 42 of 100 steps are left.
    assert [policy.lr(29), policy.lr(58), policy.lr(99)] == [1.0, 0.04, pytest.approx(4e-6)]
    assert lengths(policy) == (29, 0, 29, 42)


@pytest.mark.parametrize(
    ("arguments", "step", "lr"),
    [
        ({}, 0, 0.04),
        ({}, 25, 1.0),  # .25 * 100
        ({}, 99, 0.000449),  # 1e-5 + (1 - 1e-5) (1 + cos(74 pi / 75)) / 2
        ({}, 100, 1e-5),  # 1 / 1e5, where fastai never trains
        ({}, 101, 1e-5),
        ({"pct_start": 0.3, "final_div_factor": 1e4}, 30, 1.0),  # fastai v1: int(.3 * 100)
        ({"pct_start": 0.3, "final_div_factor": 1e4}, 99, 0.000507),
        ({"div_factor": 10.0}, 0, 0.1),
        ({"div_factor": 10.0}, 100, 1e-5),  # whatever the start
    ],
)
def test_fastai_preset_has_the_values_of_fastai(arguments: dict[str, Any], step: int, lr: float) -> None:
    assert presets.fastai(1.0, 100, **arguments).lr(step) == pytest.approx(lr, abs=5e-7)


def test_fastai_preset_cycles_momentum_between_95_and_85_hundredths() -> None:
    policy = presets.fastai(1.0, 100)
    assert [policy.momentum(0), policy.momentum(25), policy.momentum(100)] == [0.95, 0.85, 0.95]


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [
        (0, 1e-3),
        (3, 1.5e-3),  # half of six epochs
        (6, 2e-3),
        (7, 1.5e-3),  # 1e-3 + 1e-3 / 2
        (8, 1.25e-3),
        (9, 1.125e-3),
        (26, 1e-3 + 1e-3 / 2**20),
    ],
)
def test_exp_decay_preset_goes_from_one_to_two_thousandths_and_back(epoch: int, lr: float) -> None:
    by_epoch = presets.exp_decay(2e-3, 30)
    by_step = presets.exp_decay(2e-3, 30 * 7, steps_per_epoch=7)
    assert by_epoch.lr(epoch) == pytest.approx(lr, rel=1e-12)
    assert by_step.lr(7 * epoch) == pytest.approx(lr, rel=1e-9)
    assert by_epoch.momentum(epoch) is None


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


# ------------------------------------------------------------- the run that this project is named after
def test_cifar_10_run_follows_the_reference_at_every_one_of_its_9310_steps() -> None:
    policy = OneCyclePolicy(0.8, 95 * 98, pct_annihilation=13 / 95, final_div_factor=10, base_momentum=0.8)
    # Epochs of 98 steps: 41 up, 41 down, 13 of annihilation; 0.08 -> 0.8 -> 0.08 -> 0.008.
    whole = (41 * 98, 0, 41 * 98, 13 * 98)
    lr = reference.one_cycle_lr(0.8, 0.08, 0.008, whole, reference.linear)
    momentum = reference.one_cycle_momentum(lr, 0.8, 0.08, 0.008, whole, 0.80, 0.95)
    assert len(lr) == policy.total_steps == 9310
    assert lrs(policy) == pytest.approx(lr, rel=1e-12)
    assert momenta(policy) == pytest.approx(momentum, rel=1e-12)


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
    policy = OneCyclePolicy(0.8, 95 * 98, pct_annihilation=13 / 95, final_div_factor=10, base_momentum=0.8)
    assert policy.lr(98 * epoch) == pytest.approx(lr, rel=1e-12)
    assert policy.momentum(98 * epoch) == pytest.approx(momentum, rel=1e-12)


def test_cifar_10_run_ends_at_eight_thousandths_in_its_last_step() -> None:
    policy = OneCyclePolicy(0.8, 95 * 98, pct_annihilation=13 / 95, final_div_factor=10, base_momentum=0.8)
    assert policy.lr(9309) == pytest.approx(0.008, rel=1e-12)
    assert policy.lr(9308) > policy.lr(9309)
    assert policy.momentum(9309) == 0.95


# ----------------------------------------------------------------------------------- the peers themselves
def torch_one_cycle(total_steps: int, **arguments: Any) -> tuple[list[float], list[float]]:
    """Learning rate and momentum that torch's own scheduler gives each step of the run."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, total_steps=total_steps, **arguments)
    lr, momentum = [], []
    for _ in range(total_steps):
        lr.append(optimizer.param_groups[0]["lr"])
        momentum.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    return lr, momentum


WHOLE = [(10, 0.2), (10, 0.3), (10, 0.5), (20, 0.25), (30, 0.1), (60, 0.45), (100, 0.3), (100, 0.29), (250, 0.5)]


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True], ids=["two-phase", "three-phase"])
@pytest.mark.parametrize(("total_steps", "pct_start"), WHOLE)
def test_torch_presets_equal_torch_at_every_step_where_its_peak_is_whole(
    total_steps: int, pct_start: float, three_phase: bool, anneal: Any
) -> None:
    given_too = {"div_factor": 20.0, "final_div_factor": 500.0, "base_momentum": 0.7, "max_momentum": 0.9}
    lr, momentum = torch_one_cycle(
        total_steps,
        max_lr=0.3,
        pct_start=pct_start,
        anneal_strategy=anneal,
        three_phase=three_phase,
        **given_too,
    )
    preset = presets.torch_three_phase if three_phase else presets.torch_two_phase
    policy = preset(0.3, total_steps, pct_start, anneal_strategy=anneal, **given_too)
    assert policy.total_steps == total_steps
    assert lrs(policy) == pytest.approx(lr, rel=1e-9)
    assert momenta(policy) == pytest.approx(momentum, rel=1e-9)


@pytest.mark.parametrize("three_phase", [False, True], ids=["two-phase", "three-phase"])
def test_torch_presets_have_the_defaults_of_torch(three_phase: bool) -> None:
    lr, momentum = torch_one_cycle(50, max_lr=0.3, three_phase=three_phase)
    policy = presets.from_preset("torch_three_phase" if three_phase else "torch", 0.3, 50)
    assert lrs(policy) == pytest.approx(lr, rel=1e-9)
    assert momenta(policy) == pytest.approx(momentum, rel=1e-9)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True], ids=["two-phase", "three-phase"])
@pytest.mark.parametrize(("total_steps", "pct_start"), [(10, 0.25), (37, 0.3), (100, 0.333), (100, 0.3)])
def test_reference_equals_torch_where_its_peak_lies_between_two_steps_too(
    total_steps: int, pct_start: float, three_phase: bool, anneal: Any
) -> None:
    lr, momentum = torch_one_cycle(
        total_steps, max_lr=1.0, pct_start=pct_start, anneal_strategy=anneal, three_phase=three_phase
    )
    oracle = reference.torch_three_phase if three_phase else reference.torch_two_phase
    shape = reference.SHAPES[anneal]
    assert oracle(0.04, 1.0, 4e-6, total_steps, pct_start, shape) == pytest.approx(lr, rel=1e-9, abs=1e-15)
    if not three_phase:  # in three phases its momentum stays at the maximum in the last one
        assert oracle(0.95, 0.85, 0.95, total_steps, pct_start, shape) == pytest.approx(momentum, rel=1e-9)


@pytest.mark.parametrize(("total_steps", "pct_start"), [(100, 0.25), (40, 0.25), (10, 0.5), (100, 0.3), (8, 0.0)])
def test_fastai_preset_equals_the_reference_at_every_step(total_steps: int, pct_start: float) -> None:
    policy = presets.fastai(0.5, total_steps, pct_start)
    lr = reference.fastai_v2(0.02, 0.5, 5e-6, total_steps, pct_start)
    momentum = reference.fastai_v2(0.95, 0.85, 0.95, total_steps, pct_start)
    assert lrs(policy, total_steps) == pytest.approx(lr, rel=1e-9)
    assert momenta(policy, total_steps) == pytest.approx(momentum, rel=1e-9)


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


@pytest.mark.parametrize(
    ("rampup", "sustain", "decay", "steps_per_epoch"),
    [(6, 0, 0.5, 1), (6, 0, 0.5, 10), (2, 3, 0.8, 5), (0, 0, 0.9, 3), (0, 2, 0.5, 4), (4, 1, 1.0, 2)],
)
def test_exp_decay_preset_equals_the_reference_at_every_step(
    rampup: int, sustain: int, decay: float, steps_per_epoch: int
) -> None:
    total_steps = 20 * steps_per_epoch
    policy = presets.exp_decay(2e-3, total_steps, rampup, sustain, decay, steps_per_epoch)
    expected = reference.rampup_sustain_decay(1e-3, 2e-3, total_steps, rampup, sustain, decay, steps_per_epoch)
    assert lrs(policy) == pytest.approx(expected, rel=1e-9)
    assert policy.lr(total_steps + 5) == policy.lr(total_steps - 1)


def test_exp_decay_preset_still_reaches_its_peak_when_the_run_is_shorter_than_the_rampup() -> None:
    assert lrs(presets.exp_decay(2.0, 5, rampup_epochs=20)) == [1.0, 1.25, 1.5, 1.75, 2.0]


# ----------------------------------------------------------------------------------- any argument at all
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


@many
@given(
    st.sampled_from(["smith", "torch", "torch_three_phase", "fastai", "exp_decay"]),
    st.floats(1e-6, 1e2),
    st.integers(1, 200),
)
def test_every_preset_is_defined_for_every_length(preset: Any, max_lr: float, total_steps: int) -> None:
    policy = presets.from_preset(preset, max_lr, total_steps)
    values = lrs(policy)
    assert policy.total_steps - total_steps == (1 if preset == "fastai" else 0)
    assert all(0 < lr <= max_lr for lr in values)
    assert max(values) == max_lr
    assert policy.lr(10 * total_steps + 10) == values[-1]


# --------------------------------------------------------------------------- two defects of torch's OneCycleLR
@pytest.mark.parametrize("preset", ["torch", "torch_three_phase"])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_nothing_is_extrapolated_after_the_last_step(preset: Any, anneal: Any) -> None:
    # torch asked for step N: cosine rebounds to 5.07e-4, linear goes to -.0143 and, in three phases, to -.0036.
    policy = presets.from_preset(preset, 1.0, 100, anneal_strategy=anneal)
    assert {policy.lr(step) for step in (99, 100, 101, 150, 10_000, math.inf)} == {0.04 / 1e4}
    assert {policy.momentum(step) for step in (99, 100, 101, 150, 10_000, math.inf)} == {0.95}


PCT_STARTS = [None, 0, 0.01, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.85, 1]


@pytest.mark.parametrize("pct_start", PCT_STARTS, ids=str)
def test_peak_is_reached_exactly_for_every_length_and_every_pct_start(pct_start: float | None) -> None:
    # torch with N = 10 and pct_start = .25 never gets beyond .989 of it.
    for total_steps in range(1, 100):
        policy = OneCyclePolicy(0.7, total_steps, pct_start, pct_annihilation=0.0)
        assert max(lrs(policy)) == 0.7
        assert policy.lr(policy.peak_step) == 0.7
        assert 0 <= policy.peak_step < total_steps


@pytest.mark.parametrize("pct_start", [0.0, 0.01, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.85, 1.0], ids=str)
def test_torch_preset_reaches_its_peak_for_every_length_and_every_pct_start(pct_start: float) -> None:
    # torch itself divides by zero where pct_start * N is 1 and trains N = 1 at the lowest lr.
    for total_steps in range(1, 60):
        policy = presets.torch_two_phase(0.7, total_steps, pct_start)
        assert max(lrs(policy)) == 0.7
        assert abs(policy.peak_step - max(pct_start * total_steps - 1, 0)) <= 0.5 + 1e-9


# ------------------------------------------------------------------------------------------------- presets
def test_smith_preset_is_the_class_itself() -> None:
    assert presets.from_preset("smith", 0.5, 70) == OneCyclePolicy(0.5, 70)


@pytest.mark.parametrize("name", ["torch", "torch_three_phase", "fastai", "exp_decay"])
def test_preset_by_name_is_its_own_method(name: Any) -> None:
    assert presets.from_preset(name, 0.5, 70) == getattr(presets, "torch_two_phase" if name == "torch" else name)(
        0.5, 70
    )


@pytest.mark.parametrize("name", ["smith", "torch", "torch_three_phase", "fastai", "exp_decay"])
def test_arguments_replace_those_of_the_preset_and_none_leaves_them(name: Any) -> None:
    plain = presets.from_preset(name, 0.5, 70)
    assert presets.from_preset(name, 0.5, 70, div_factor=None, anneal_strategy=None) == plain
    changed = presets.from_preset(name, 0.5, 70, div_factor=4.0, anneal_strategy="cosine", base_momentum=0.6)
    assert (changed.div_factor, changed.anneal_strategy, changed.base_momentum) == (4.0, "cosine", 0.6)
    assert changed.lr(0) == 0.125  # .5 / 4


@pytest.mark.parametrize(
    ("preset", "argument"),
    [("smith", "rampup_epochs"), ("torch", "exp_decay"), ("fastai", "steps_per_epoch"), ("exp_decay", "pct_start")],
)
def test_argument_that_a_preset_does_not_take_is_named(preset: Any, argument: str) -> None:
    with pytest.raises(TypeError, match=argument):
        presets.from_preset(preset, 1.0, 10, **{argument: 1})


# -------------------------------------------------------------------------------------------- bad arguments
NUMBERS: list[tuple[Any, type[Exception]]] = [
    (math.nan, ValueError),
    (math.inf, ValueError),
    (-math.inf, ValueError),
    (-0.5, ValueError),
    ("0.1", TypeError),
    (True, TypeError),
    ([0.1], TypeError),
    (1j, TypeError),
]


@pytest.mark.parametrize(("value", "error"), NUMBERS, ids=repr)
@pytest.mark.parametrize(
    "name",
    [
        "max_lr",
        "pct_start",
        "pct_plateau",
        "pct_annihilation",
        "div_factor",
        "final_div_factor",
        "base_momentum",
        "max_momentum",
        "decay",
    ],
)
def test_bad_number_gets_one_sentence(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format(name)):
        OneCyclePolicy(**({"max_lr": 1.0, "total_steps": 10} | {name: value}))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_lr", 0, ValueError),
        ("max_lr", None, TypeError),
        ("total_steps", 0, ValueError),
        ("total_steps", -3, ValueError),
        ("total_steps", 10.0, TypeError),
        ("total_steps", "10", TypeError),
        ("total_steps", True, TypeError),
        ("total_steps", None, TypeError),
        ("total_steps", math.nan, TypeError),
        ("pct_start", 1.1, ValueError),
        ("pct_plateau", 1.1, ValueError),
        ("pct_plateau", None, TypeError),
        ("pct_annihilation", 1.1, ValueError),
        ("pct_annihilation", None, TypeError),
        ("div_factor", 0, ValueError),
        ("div_factor", 0.9, ValueError),
        ("final_div_factor", 0, ValueError),
        ("final_div_factor", 0.05, ValueError),  # the end would be above the peak: 1/10 / .05 = 2
        ("anneal_strategy", "cubic", ValueError),
        ("anneal_strategy", None, ValueError),
        ("anneal_strategy", 1, ValueError),
        ("cycle_momentum", 1, TypeError),
        ("cycle_momentum", "yes", TypeError),
        ("cycle_momentum", None, TypeError),
        ("base_momentum", 1, ValueError),
        ("base_momentum", 0.96, ValueError),  # above max_momentum: that one is named
        ("max_momentum", 1, ValueError),
        ("max_momentum", 0.8, ValueError),  # below base_momentum
        ("decay", 0, ValueError),
        ("decay", 1.5, ValueError),
    ],
)
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


@pytest.mark.parametrize("preset", ["smyth", "", "Torch", None, 1, ["torch"]], ids=repr)
def test_unknown_preset_gets_one_sentence_that_names_the_choices(preset: Any) -> None:
    with pytest.raises(ValueError, match=SENTENCE.format("preset")) as caught:
        presets.from_preset(preset, 1.0, 10)
    assert all(name in str(caught.value) for name in ("smith", "torch", "torch_three_phase", "fastai", "exp_decay"))


@pytest.mark.parametrize("value", [0, -1, 10.5, "10", True, None], ids=repr)
@pytest.mark.parametrize("preset", ["smith", "torch", "torch_three_phase", "fastai", "exp_decay"])
def test_bad_length_gets_one_sentence_from_every_preset(preset: Any, value: Any) -> None:
    error = ValueError if value in (0, -1) and not isinstance(value, bool) else TypeError
    with pytest.raises(error, match=SENTENCE.format("total_steps")):
        presets.from_preset(preset, 1.0, value)


@pytest.mark.parametrize(
    ("value", "error"),
    [(math.nan, ValueError), (-0.5, ValueError), (1.5, ValueError), ("a", TypeError), (True, TypeError)],
    ids=repr,
)
@pytest.mark.parametrize("preset", ["smith", "torch", "torch_three_phase", "fastai"])
def test_bad_pct_start_gets_one_sentence_from_every_preset(preset: Any, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format("pct_start")) as caught:
        presets.from_preset(preset, 1.0, 100, pct_start=value)
    assert str(caught.value).endswith(f"but got {value!r}")  # the value that was given, not one derived from it


@pytest.mark.parametrize("preset", ["smith", "torch", "torch_three_phase", "fastai", "exp_decay"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("a", TypeError)], ids=repr)
def test_bad_div_factor_gets_one_sentence_from_every_preset(preset: Any, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format("div_factor")):
        presets.from_preset(preset, 1.0, 10, div_factor=value)


def test_three_phases_refuse_a_rise_of_more_than_half_the_run() -> None:
    with pytest.raises(ValueError, match=SENTENCE.format("pct_start")):
        presets.torch_three_phase(1.0, 100, 0.6)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("rampup_epochs", -1, ValueError),
        ("rampup_epochs", "6", TypeError),
        ("sustain_epochs", math.nan, ValueError),
        ("sustain_epochs", True, TypeError),
        ("exp_decay", 0, ValueError),
        ("exp_decay", 1.5, ValueError),
        ("exp_decay", "half", TypeError),
        ("steps_per_epoch", 0, ValueError),
        ("steps_per_epoch", 2.0, TypeError),
    ],
)
def test_bad_argument_of_exp_decay_gets_one_sentence(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format(name)):
        presets.from_preset("exp_decay", 1.0, 10, **{name: value})


@pytest.mark.parametrize("step", [-1, -0.001, math.nan])
@pytest.mark.parametrize("policy", [OneCyclePolicy(1.0, 10), RangeTestPolicy()], ids=["one-cycle", "range-test"])
def test_step_before_the_run_gets_one_sentence(policy: OneCyclePolicy | RangeTestPolicy, step: float) -> None:
    with pytest.raises(ValueError, match=SENTENCE.format("step")):
        policy.lr(step)


@pytest.mark.parametrize(
    ("policy", "name"),
    [(OneCyclePolicy(1.0, 10), "max_lr"), (OneCyclePolicy(1.0, 10), "other"), (RangeTestPolicy(), "num_steps")],
)
def test_policy_is_frozen(policy: Any, name: str) -> None:
    before = lrs(policy)
    with pytest.raises(FrozenInstanceError):
        setattr(policy, name, 5)
    assert lrs(policy) == before


# ----------------------------------------------------------------------------------------------- range test
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RangeTestPolicy(1e-4, 1.0, 5), [1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (RangeTestPolicy(0.1, 0.5, 5, "linear"), [0.1, 0.2, 0.3, 0.4, 0.5]),
        (RangeTestPolicy(1e-2, 1.0, 6, "staircase", 3), [1e-2, 1e-2, 1e-1, 1e-1, 1.0, 1.0]),
        (RangeTestPolicy(1e-2, 1.0, 7, "staircase", 3), [1e-2, 1e-2, 1e-2, 1e-1, 1e-1, 1.0, 1.0]),
        (RangeTestPolicy(1e-2, 1.0, 2), [1e-2, 1.0]),
    ],
    ids=["exponential", "linear", "staircase", "uneven staircase", "two steps"],
)
def test_sweep_has_these_values(policy: RangeTestPolicy, expected: list[float]) -> None:
    assert lrs(policy) == pytest.approx(expected, rel=1e-12)


@many
@given(
    st.floats(1e-9, 1e-2),
    st.floats(1.5e-2, 1e2),
    st.integers(2, 150),
    st.sampled_from(["exponential", "linear", "staircase"]),
    st.data(),
)
def test_any_sweep_equals_the_reference_with_both_ends_exact(
    min_lr: float, max_lr: float, num_steps: int, mode: Any, data: st.DataObject
) -> None:
    num_stairs = data.draw(st.integers(2, num_steps))
    policy = RangeTestPolicy(min_lr, max_lr, num_steps, mode, num_stairs)
    values = lrs(policy)
    expected = reference.sweep(min_lr, max_lr, num_steps, mode, num_stairs)
    assert values == pytest.approx(expected, rel=1e-9)
    assert (values[0], values[-1]) == (min_lr, max_lr)
    assert all(before <= after for before, after in pairwise(values))
    assert len(set(values)) == (num_stairs if mode == "staircase" else num_steps)
    assert policy.total_steps == num_steps


@pytest.mark.parametrize("mode", ["exponential", "linear", "staircase"])
def test_sweep_holds_its_last_value_and_leaves_momentum_alone(mode: Any) -> None:
    policy = RangeTestPolicy(1e-7, 10.0, 100, mode)
    assert {policy.lr(step) for step in (99, 100, 101, 10_000, math.inf)} == {10.0}
    assert {policy.momentum(step) for step in (0, 50, 99, 200)} == {None}


def test_sweep_by_default_goes_from_a_ten_millionth_to_ten_in_a_hundred_steps() -> None:
    policy = RangeTestPolicy()
    assert (policy.lr(0), policy.lr(99), policy.total_steps) == (1e-7, 10.0, 100)
    assert policy.lr(49.5) == pytest.approx(1e-3, rel=1e-9)  # halfway: sqrt(1e-7 * 10)


@pytest.mark.parametrize(
    ("arguments", "name", "error"),
    [
        ({"min_lr": 0}, "min_lr", ValueError),
        ({"min_lr": -1e-3}, "min_lr", ValueError),
        ({"min_lr": math.nan}, "min_lr", ValueError),
        ({"min_lr": math.inf}, "min_lr", ValueError),
        ({"min_lr": "1e-7"}, "min_lr", TypeError),
        ({"min_lr": True}, "min_lr", TypeError),
        ({"max_lr": 0}, "max_lr", ValueError),
        ({"max_lr": math.nan}, "max_lr", ValueError),
        ({"max_lr": math.inf}, "max_lr", ValueError),
        ({"max_lr": None}, "max_lr", TypeError),
        ({"max_lr": False}, "max_lr", TypeError),
        ({"min_lr": 0.1, "max_lr": 0.1}, "max_lr", ValueError),
        ({"min_lr": 0.2, "max_lr": 0.1}, "max_lr", ValueError),
        ({"num_steps": 1}, "num_steps", ValueError),
        ({"num_steps": 0}, "num_steps", ValueError),
        ({"num_steps": 100.0}, "num_steps", TypeError),
        ({"num_steps": True}, "num_steps", TypeError),
        ({"num_steps": "100"}, "num_steps", TypeError),
        ({"mode": "quadratic"}, "mode", ValueError),
        ({"mode": None}, "mode", ValueError),
        ({"mode": "staircase", "num_stairs": 1}, "num_stairs", ValueError),
        ({"mode": "staircase", "num_stairs": 101}, "num_stairs", ValueError),
        ({"mode": "staircase", "num_stairs": 5.0}, "num_stairs", TypeError),
        ({"mode": "staircase", "num_stairs": True}, "num_stairs", TypeError),
    ],
    ids=str,
)
def test_bad_argument_of_a_sweep_gets_one_sentence(
    arguments: dict[str, Any], name: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=SENTENCE.format(name)):
        RangeTestPolicy(**arguments)


def test_sentence_of_a_bad_argument_reads_like_this() -> None:
    with pytest.raises(ValueError, match=r"^Expected argument `num_steps` to be an integer >= 2 but got 1$"):
        RangeTestPolicy(num_steps=1)
    with pytest.raises(TypeError, match=r"^Expected argument `max_lr` to be a finite number > 0 but got '1'$"):
        OneCyclePolicy("1", 10)  # type: ignore[arg-type]
