"""A schedule that is resumed in a run of another length reaches its new end without a jump."""

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pl_onecycle.policy import presets
from pl_onecycle.scheduler import OneCycleScheduler
from tests.schedules import LONG, SHAPES, N, cycle, group_of, held, many, play, resumed_from, saved, sgd, weights


def places(preset: Any) -> dict[str, int]:
    """A step in the middle of each phase, and the peak."""
    policy = presets.from_preset(preset, 1.0, LONG, **SHAPES[preset])
    middles = {f"in the {phase.name}": phase.start + max(phase.span // 2, 1) for phase in policy.phases}
    return {"at the start": 0, "at the peak": policy.peak_step} | middles


PLACES = [pytest.param(preset, at, id=f"{preset} {place}") for preset in SHAPES for place, at in places(preset).items()]


def run_with(preset: Any, at: int, asked: int, kind: str = "sgd") -> tuple[list[float], list[float | None]]:
    """The curves of a run that is planned for `LONG` steps, interrupted at ``at`` and resumed with ``asked``."""
    optimizer, scheduler = cycle(LONG, preset, kind)
    before = play(optimizer, scheduler, at)
    with pytest.warns(UserWarning, match=f"is resumed at step {at} in a run of"):
        again, resumed = resumed_from(optimizer, scheduler, asked, preset, kind)
    for (lr, momentum), (saved_lr, saved_momentum) in zip(held(again), held(optimizer), strict=True):  # no jump
        assert lr == pytest.approx(saved_lr, rel=1e-12)
        assert momentum == pytest.approx(saved_momentum, rel=1e-12)
    after = play(again, resumed, asked + 10 + (preset == "fastai") - at)
    assert all(used[1][0] == pytest.approx(used[0][0] / 5, rel=1e-12) for used in after)
    assert resumed.total_steps == asked + (preset == "fastai")  # which never trains at its last value
    return group_of(before + after)


@pytest.mark.parametrize("asked", [LONG + 1, 2 * LONG + 7, 10 * LONG], ids=lambda asked: f"{asked} steps")
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize(("preset", "at"), PLACES)
def test_resume_in_a_longer_run_stretches_what_is_left_without_a_jump(
    preset: Any, at: int, kind: str, asked: int
) -> None:
    policy = presets.from_preset(preset, 1.0, LONG, **SHAPES[preset])
    lr, momentum = run_with(preset, at, asked, kind)
    last = asked - 1 + (preset == "fastai")
    assert lr[: at + 1] == [policy.lr(step) for step in range(at + 1)]
    assert momentum[: at + 1] == [policy.momentum(step) for step in range(at + 1)]
    assert max(lr) == 1.0
    assert min(momentum[:last]) == 0.85  # type: ignore[type-var]
    if at <= policy.peak_step:
        assert 1.0 in lr[at:]
    # To exactly the old end, which is held and not reached before.
    assert lr[last:] == [policy.lr(policy.total_steps)] * 11
    assert momentum[last:] == [policy.momentum(policy.total_steps)] * 11
    assert lr[last - 1] > lr[last]
    # A slower clock never takes a larger step than the plan did; a curve between whole steps is a little steeper.
    planned = np.abs(np.diff([policy.lr(step) for step in range(policy.total_steps)]))
    assert np.abs(np.diff(lr)).max() <= planned.max() * 1.01


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize(("preset", "at"), PLACES)
def test_resume_in_a_shorter_run_compresses_what_is_left_without_a_jump(preset: Any, at: int, kind: str) -> None:
    policy = presets.from_preset(preset, 1.0, LONG, **SHAPES[preset])
    asked = at + max(2, (LONG - at) * 2 // 3)
    lr, momentum = run_with(preset, at, asked, kind)
    last = asked - 1 + (preset == "fastai")
    assert lr[: at + 1] == [policy.lr(step) for step in range(at + 1)]
    assert momentum[: at + 1] == [policy.momentum(step) for step in range(at + 1)]
    if at <= policy.peak_step:
        assert max(lr[at:]) == 1.0
        assert 0.85 in momentum[at:]
    assert lr[last:] == [policy.lr(policy.total_steps)] * 11
    assert momentum[last:] == [policy.momentum(policy.total_steps)] * 11


def test_steps_of_a_run_that_is_resumed_twice_as_long_use_these_values() -> None:
    # Eight steps: three up, four down, one of annihilation; resumed at step 2, with 5 steps left, in 10.
    arguments: dict[str, Any] = {"pct_annihilation": 0.125, "final_div_factor": 10}
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 1.0, 8, **arguments)
    assert group_of(play(optimizer, scheduler, 2))[0] == pytest.approx([0.1, 0.4])
    again = sgd()
    resumed = OneCycleScheduler(again, 1.0, 13, **arguments)
    with pytest.warns(
        UserWarning,
        match=r"^The one-cycle schedule was saved for 8 steps and is resumed at step 2 in a run of 13, and its"
        r" remaining part is stretched to end with step 12\.$",
    ):
        resumed.load_state_dict(scheduler.state_dict())
    lr, momentum = group_of(play(again, resumed, 13))
    # 0.7 at step 2, the peak at 2 + 1 * 2 = 4, down by 0.9 / 4 in each two steps to step 2 + 5 * 2 = 12, whose value is
    # that of the annihilation: 0.1 / 10. On the way it comes as near to 0.1 as half of such a step.
    assert lr == pytest.approx(
        [0.7, 0.85, 1.0, 0.8875, 0.775, 0.6625, 0.55, 0.4375, 0.325, 0.2125, 0.01, 0.01, 0.01], rel=1e-12
    )
    # In step with it: 0.1 for 0.9 up and down.
    assert momentum == pytest.approx([0.95 - (value - 0.1) / 9 for value in lr[:10]] + [0.95, 0.95, 0.95], rel=1e-12)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("over", [0, 1, 7], ids=lambda over: f"{over} steps after its end")
@pytest.mark.parametrize("preset", SHAPES)
def test_a_run_that_had_ended_rises_again_from_its_last_lr_and_comes_back_to_it(
    preset: Any, over: int, kind: str
) -> None:
    policy = presets.from_preset(preset, 1.0, LONG, **SHAPES[preset])
    at, asked = LONG + over, LONG + over + 30
    lr, momentum = run_with(preset, at, asked, kind)
    last = asked - 1 + (preset == "fastai")
    start = policy.lr(at)
    assert lr[at] == pytest.approx(start, rel=1e-12)
    assert max(lr[at:]) == 1.0
    assert lr[at:].index(1.0) > 4  # a rise
    assert min(momentum[at:]) == 0.85  # type: ignore[type-var]
    # Of the 30 steps 0.2 go up and 0.1 stay; from step 9 on the decay leaves 0.9 of the way at each of 20 steps.
    end = start + (1 - start) * 0.9**20 if preset == "exp_decay" else start
    assert lr[last:] == pytest.approx([end] * 11, rel=1e-12)
    assert momentum[last:] == [momentum[last]] * 11
    assert np.abs(np.diff(lr[at:])).max() < 0.25  # no jump within 30 steps up and down


def test_steps_of_a_run_that_had_ended_and_continues_use_these_values() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 1.0, 6, pct_annihilation=1 / 3, final_div_factor=10)
    play(optimizer, scheduler, 6)
    again = sgd()
    resumed = OneCycleScheduler(again, 1.0, 11, pct_annihilation=1 / 3, final_div_factor=10)
    with pytest.warns(
        UserWarning,
        match=r"^The one-cycle schedule was saved for 6 steps and is resumed at step 6 in a run of 11, at its end: a"
        r" new cycle rises from its last learning rate and ends with step 10\.$",
    ):
        resumed.load_state_dict(scheduler.state_dict())
    lr, momentum = group_of(play(again, resumed, 7))
    # Five steps from 1/10/10 = 0.01: half of them up by 0.99, the rest down, without another annihilation.
    assert lr == pytest.approx([0.01, 0.505, 1.0, 0.505, 0.01, 0.01, 0.01], rel=1e-12)
    assert momentum == pytest.approx([0.95, 0.9, 0.85, 0.9, 0.95, 0.95, 0.95], rel=1e-12)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("at", "asked"), [(3, 25), (3, 60), (20, 25), (20, 60), (LONG, 60)], ids=lambda steps: f"{steps}"
)
@pytest.mark.parametrize("preset", SHAPES)
@pytest.mark.filterwarnings("error")
def test_a_state_saved_after_a_replan_continues_exactly_without_a_warning(
    preset: Any, at: int, asked: int, kind: str
) -> None:
    optimizer, scheduler = cycle(LONG, preset, kind)
    play(optimizer, scheduler, at)
    with pytest.warns(UserWarning, match="is resumed at step"):
        second, replanned = resumed_from(optimizer, scheduler, asked, preset, kind)
    play(second, replanned, 2)
    assert saved(replanned.state_dict()) == replanned.state_dict()
    third, resumed = resumed_from(second, replanned, asked, preset, kind)
    assert resumed.state_dict() == replanned.state_dict()
    assert held(third) == held(second)
    assert play(third, resumed, asked) == play(second, replanned, asked)


def test_a_run_can_be_replanned_twice() -> None:
    optimizer, scheduler = cycle(LONG)
    play(optimizer, scheduler, 10)
    with pytest.warns(UserWarning, match="saved for 40 steps and is resumed at step 10 in a run of 70"):
        second, longer = resumed_from(optimizer, scheduler, 70)
    play(second, longer, 10)
    with pytest.warns(UserWarning, match="saved for 70 steps and is resumed at step 20 in a run of 50"):
        third, shorter = resumed_from(second, longer, 50)
    assert held(third) == held(second)
    assert shorter.total_steps == 50
    lr, _ = group_of(play(third, shorter, 35))
    assert max(lr) == 1.0  # the peak, at step 16 of the first plan, is ahead still
    assert lr[29:] == [scheduler.policy.lr(LONG)] * 6


@pytest.mark.parametrize("asked", [1, 5, 6, 7], ids=lambda asked: f"{asked} steps")
def test_a_run_with_nothing_left_to_plan_continues_as_saved(asked: int) -> None:
    optimizer, scheduler = cycle(LONG)
    play(optimizer, scheduler, 6)
    with pytest.warns(
        UserWarning,
        match=rf"^The one-cycle schedule was saved for {LONG} steps and is resumed at step 6 in a run of {asked}, which"
        r" leaves nothing to plan: it continues as saved\.$",
    ):
        again, resumed = resumed_from(optimizer, scheduler, asked)
    assert resumed.total_steps == LONG
    assert play(again, resumed, LONG) == play(optimizer, scheduler, LONG)


@many
@given(st.integers(1, 60), st.integers(0, 70), st.integers(1, 120), st.floats(1e-4, 10))
def test_any_replan_is_without_a_jump_and_ends_with_the_run(
    total_steps: int, at: int, more: int, max_lr: float
) -> None:
    asked = at + 1 + more
    optimizer = sgd(0.1, 0.02)
    scheduler = OneCycleScheduler(optimizer, max_lr, total_steps)
    play(optimizer, scheduler, at)
    again = sgd(0.1, 0.02)
    resumed = OneCycleScheduler(again, 123.0, asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed.load_state_dict(scheduler.state_dict())
    for (lr, momentum), (saved_lr, saved_momentum) in zip(held(again), held(optimizer), strict=True):
        assert lr == pytest.approx(saved_lr, rel=1e-12)
        assert momentum == pytest.approx(saved_momentum, rel=1e-12)
    has_no_room = at >= total_steps - 1 and more == 1  # a new cycle needs three steps to rise and fall
    assert resumed.total_steps == (total_steps if has_no_room else asked)
    rates = group_of(play(again, resumed, more + 20))[0]
    assert max(rates) <= max_lr
    assert rates[more:] == [rates[more]] * 20
    if at < scheduler.policy.peak_step and asked >= total_steps:
        assert max(rates) == max_lr


@pytest.mark.parametrize(("more", "expected"), [(2, [1e-5, 1e-5]), (3, [1e-5, 1.0, 1e-5])], ids=["two", "three"])
def test_an_ended_run_of_two_more_steps_does_not_end_at_a_peak(more: int, expected: list[float]) -> None:
    optimizer, scheduler = cycle(N)
    play(optimizer, scheduler, N)
    with pytest.warns(UserWarning, match="leaves nothing to plan" if more == 2 else "a new cycle rises"):
        again, resumed = resumed_from(optimizer, scheduler, N + more)
    assert group_of(play(again, resumed, more))[0] == pytest.approx(expected, rel=1e-12)


def test_a_tensor_lr_is_replanned_in_place() -> None:
    tensor = torch.tensor(0.1, dtype=torch.float64)
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, 4)
    again = torch.optim.SGD(weights(), lr=tensor, momentum=0.9, foreach=False)
    resumed = OneCycleScheduler(again, 1.0, 2 * N)
    with pytest.warns(UserWarning, match="is stretched"):
        resumed.load_state_dict(scheduler.state_dict())
    assert again.param_groups[0]["lr"] is tensor
    assert held(again) == held(optimizer)


def test_group_that_joined_is_replanned_with_the_others() -> None:
    optimizer, scheduler = cycle(LONG)
    play(optimizer, scheduler, 5)
    optimizer.add_param_group({"params": weights(), "lr": optimizer.param_groups[0]["lr"] / 4})
    play(optimizer, scheduler, 5)
    again, resumed = cycle(2 * LONG)
    again.add_param_group({"params": weights(), "lr": 0.1})
    with pytest.warns(UserWarning, match="is resumed at step 10"):
        resumed.load_state_dict(saved(scheduler.state_dict()))
    assert held(again) == held(optimizer)
    for used in play(again, resumed, 2 * LONG):
        assert [lr for lr, _ in used] == pytest.approx([used[0][0], used[0][0] / 5, used[0][0] / 4], rel=1e-12)


def test_group_that_joins_after_a_replan_gets_its_ratio() -> None:
    optimizer, scheduler = cycle(LONG)
    play(optimizer, scheduler, 5)
    with pytest.warns(UserWarning, match="is resumed at step 5"):
        again, resumed = resumed_from(optimizer, scheduler, 3 * LONG)
    play(again, resumed, 4)
    again.add_param_group({"params": weights(), "lr": again.param_groups[0]["lr"] / 4})
    assert resumed.max_lrs == pytest.approx([1.0, 0.2, 0.25], rel=1e-12)


def test_peak_can_be_moved_after_a_replan() -> None:
    optimizer, scheduler = cycle(LONG)
    play(optimizer, scheduler, 5)
    with pytest.warns(UserWarning, match="is resumed at step 5"):
        again, resumed = resumed_from(optimizer, scheduler, 3 * LONG)
    before = held(again)
    resumed.set_max_lr(3.0)
    assert [lr for lr, _ in held(again)] == pytest.approx([3 * lr for lr, _ in before], rel=1e-12)
    assert resumed.total_steps == 3 * LONG
    assert max(group_of(play(again, resumed, 3 * LONG))[0]) == 3.0


@pytest.mark.parametrize("asked", [N, N + 9])
def test_a_cycle_that_ends_at_its_peak_can_be_resumed(asked: int) -> None:
    # lo / fin is 1 / div_factor: rounding must not bring the end above the peak.
    arguments: dict[str, Any] = {"div_factor": 55, "final_div_factor": 1 / 55, "pct_annihilation": 0.0}
    optimizer, again = sgd(), sgd()
    scheduler = OneCycleScheduler(optimizer, 5.9, N, **arguments)
    play(optimizer, scheduler, N)
    resumed = OneCycleScheduler(again, 5.9, asked, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed.load_state_dict(scheduler.state_dict())
    lr = group_of(play(again, resumed, 12))[0]
    assert lr == pytest.approx([5.9] * 12)


@pytest.mark.parametrize("arguments", [{"pct_start": 0.0}, {"preset": "torch_three_phase", "pct_start": 0.0}], ids=str)
def test_a_cycle_without_a_rise_that_has_ended_rises_again_without_a_jump(arguments: dict[str, Any]) -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 1.0, 10, **arguments)
    play(optimizer, scheduler, 10)
    assert scheduler.replan(60)
    lrs, _ = group_of(play(optimizer, scheduler, 50))
    assert max(abs(after - before) for before, after in pairwise(lrs)) < 0.1
    assert max(lrs) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("preset", ["smith", "torch", "torch_three_phase", "fastai"])
@pytest.mark.parametrize("planned", [4, 10, 5000])
def test_a_plan_that_changes_before_the_first_step_is_that_of_its_new_length(preset: Any, planned: int) -> None:
    replanned, new = (OneCycleScheduler(sgd(), 1.0, steps, preset=preset) for steps in (planned, 1000))
    assert replanned.replan(1000)
    assert replanned.policy == new.policy
