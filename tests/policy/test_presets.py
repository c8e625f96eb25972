"""Presets: typed tables, the libraries that they are named after, and their bad arguments."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pl_onecycle.policy import OneCyclePolicy, presets
from tests import reference
from tests.policy.made import SENTENCE, bad, lengths, lrs, many, momenta

NAMES: list[Any] = ["smith", "torch", "torch_three_phase", "fastai", "exp_decay"]
every_preset = pytest.mark.parametrize("preset", NAMES)
both_phases = pytest.mark.parametrize("three_phase", [False, True], ids=["two-phase", "three-phase"])
both_shapes = pytest.mark.parametrize("anneal", ["cos", "linear"])


# ------------------------------------------------------------------------------------------- typed tables
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


# ------------------------------------------------------------------------------- the libraries themselves
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


@both_shapes
@both_phases
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


@both_phases
def test_torch_presets_have_the_defaults_of_torch(three_phase: bool) -> None:
    lr, momentum = torch_one_cycle(50, max_lr=0.3, three_phase=three_phase)
    policy = presets.from_preset("torch_three_phase" if three_phase else "torch", 0.3, 50)
    assert lrs(policy) == pytest.approx(lr, rel=1e-9)
    assert momenta(policy) == pytest.approx(momentum, rel=1e-9)


@both_shapes
@both_phases
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


@many
@given(st.sampled_from(NAMES), st.floats(1e-6, 1e2), st.integers(1, 200))
def test_every_preset_is_defined_for_every_length(preset: Any, max_lr: float, total_steps: int) -> None:
    policy = presets.from_preset(preset, max_lr, total_steps)
    values = lrs(policy)
    assert policy.total_steps - total_steps == (1 if preset == "fastai" else 0)
    assert all(0 < lr <= max_lr for lr in values)
    assert max(values) == max_lr
    assert policy.lr(10 * total_steps + 10) == values[-1]


# ---------------------------------------------------------------------- two defects of torch's OneCycleLR
@pytest.mark.parametrize("preset", ["torch", "torch_three_phase"])
@both_shapes
def test_nothing_is_extrapolated_after_the_last_step(preset: Any, anneal: Any) -> None:
    # torch asked for step N: cosine rebounds to 5.07e-4, linear goes to -.0143 and, in three phases, to -.0036.
    policy = presets.from_preset(preset, 1.0, 100, anneal_strategy=anneal)
    assert {policy.lr(step) for step in (99, 100, 101, 150, 10_000, math.inf)} == {0.04 / 1e4}
    assert {policy.momentum(step) for step in (99, 100, 101, 150, 10_000, math.inf)} == {0.95}


@pytest.mark.parametrize("pct_start", [0.0, 0.01, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.85, 1.0], ids=str)
def test_torch_preset_reaches_its_peak_for_every_length_and_every_pct_start(pct_start: float) -> None:
    # torch itself divides by zero where pct_start * N is 1 and trains N = 1 at the lowest lr.
    for total_steps in range(1, 60):
        policy = presets.torch_two_phase(0.7, total_steps, pct_start)
        assert max(lrs(policy)) == 0.7
        assert abs(policy.peak_step - max(pct_start * total_steps - 1, 0)) <= 0.5 + 1e-9


# ---------------------------------------------------------------------------------------------- arguments
def test_smith_preset_is_the_class_itself() -> None:
    assert presets.from_preset("smith", 0.5, 70) == OneCyclePolicy(0.5, 70)


@pytest.mark.parametrize("name", ["torch", "torch_three_phase", "fastai", "exp_decay"])
def test_preset_by_name_is_its_own_function(name: Any) -> None:
    own = getattr(presets, "torch_two_phase" if name == "torch" else name)
    assert presets.from_preset(name, 0.5, 70) == own(0.5, 70)


@every_preset
def test_arguments_replace_those_of_the_preset_and_none_leaves_them(preset: Any) -> None:
    plain = presets.from_preset(preset, 0.5, 70)
    assert presets.from_preset(preset, 0.5, 70, div_factor=None, anneal_strategy=None) == plain
    changed = presets.from_preset(preset, 0.5, 70, div_factor=4.0, anneal_strategy="cosine", base_momentum=0.6)
    assert (changed.div_factor, changed.anneal_strategy, changed.base_momentum) == (4.0, "cosine", 0.6)
    assert changed.lr(0) == 0.125  # .5 / 4


@pytest.mark.parametrize(
    ("preset", "argument"),
    [("smith", "rampup_epochs"), ("torch", "exp_decay"), ("fastai", "steps_per_epoch"), ("exp_decay", "pct_start")],
)
def test_argument_that_a_preset_does_not_take_is_named(preset: Any, argument: str) -> None:
    with pytest.raises(TypeError, match=argument):
        presets.from_preset(preset, 1.0, 10, **{argument: 1})


@pytest.mark.parametrize("preset", ["smyth", "", "Torch", None, 1, ["torch"]], ids=repr)
def test_unknown_preset_gets_one_sentence_that_names_the_choices(preset: Any) -> None:
    with pytest.raises(ValueError, match=SENTENCE.format("preset")) as caught:
        presets.from_preset(preset, 1.0, 10)
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize("value", [0, -1, 10.5, "10", True, None], ids=repr)
@every_preset
def test_bad_length_gets_one_sentence_from_every_preset(preset: Any, value: Any) -> None:
    error = ValueError if value in (0, -1) and not isinstance(value, bool) else TypeError
    with pytest.raises(error, match=SENTENCE.format("total_steps")):
        presets.from_preset(preset, 1.0, value)


@pytest.mark.parametrize(
    ("value", "error"),
    [(math.nan, ValueError), (-0.5, ValueError), (1.5, ValueError), ("a", TypeError), (True, TypeError)],
    ids=repr,
)
@pytest.mark.parametrize("preset", NAMES[:4])
def test_bad_pct_start_gets_one_sentence_from_every_preset(preset: Any, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format("pct_start")) as caught:
        presets.from_preset(preset, 1.0, 100, pct_start=value)
    assert str(caught.value).endswith(f"but got {value!r}")  # the value that was given, not one derived from it


@every_preset
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("a", TypeError)], ids=repr)
def test_bad_div_factor_gets_one_sentence_from_every_preset(preset: Any, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format("div_factor")):
        presets.from_preset(preset, 1.0, 10, div_factor=value)


def test_three_phases_refuse_a_rise_of_more_than_half_the_run() -> None:
    with pytest.raises(ValueError, match=SENTENCE.format("pct_start")):
        presets.torch_three_phase(1.0, 100, 0.6)


# By name: outside of the range, of a wrong type.
BAD: dict[str, tuple[list[Any], list[Any]]] = {
    "rampup_epochs": ([-1], ["6"]),
    "sustain_epochs": ([math.nan], [True]),
    "exp_decay": ([0, 1.5], ["half"]),
    "steps_per_epoch": ([0], [2.0]),
}


@pytest.mark.parametrize(("name", "value", "error"), bad(BAD))
def test_bad_argument_of_exp_decay_gets_one_sentence(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format(name)):
        presets.from_preset("exp_decay", 1.0, 10, **{name: value})
