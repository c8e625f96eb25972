"""`restart`: a new cycle over what is left of the run."""

import math
from dataclasses import replace
from typing import Any

import pytest

from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.scheduler import OneCycleScheduler
from tests.fits import SENTENCE
from tests.schedules import LONG, SHAPES, N, cycle, group_of, held, play, resumed_from, sgd, weights


@pytest.mark.parametrize("at", [0, 1, 9, 18, N - 1])
@pytest.mark.parametrize("preset", SHAPES)
def test_a_restart_plays_the_same_shape_over_what_is_left(preset: Any, at: int) -> None:
    optimizer = sgd(0.5, 0.1)
    scheduler = OneCycleScheduler(optimizer, 1.0, N, preset=preset)
    old = scheduler.policy
    play(optimizer, scheduler, at)
    total = scheduler.total_steps
    scheduler.restart()
    new = replace(old, total_steps=total - at)
    assert scheduler.policy == new
    assert scheduler.total_steps == total
    assert scheduler.max_lrs == [1.0, 0.2]
    assert scheduler.get_last_lr() == [lr for lr, _ in held(optimizer)]
    used = play(optimizer, scheduler, N + 5)
    lr, momentum = group_of(used)
    assert lr == [new.lr(step) for step in range(N + 5)]
    assert max(lr) == 1.0
    assert group_of(used, 1)[0] == pytest.approx([value / 5 for value in lr], rel=1e-12)
    if old.cycle_momentum:
        assert momentum == [new.momentum(step) for step in range(N + 5)]


def test_steps_of_a_restarted_run_use_these_values() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 1.0, 10, pct_annihilation=0.2, final_div_factor=10)
    before = play(optimizer, scheduler, 5)
    scheduler.restart(2.0)
    lr, momentum = group_of(before + play(optimizer, scheduler, 7))
    # Four steps up and four down; step 5 begins with 2/10 two steps up, two down, one of annihilation: 2/10/10.
    up = [0.1, 0.325, 0.55, 0.775, 1.0]
    assert lr == pytest.approx([*up, 0.2, 1.1, 2.0, 1.1, 0.02, 0.02, 0.02], rel=1e-12)
    cool = [0.95, 0.925, 0.9, 0.875, 0.85]
    assert momentum == pytest.approx([*cool, 0.95, 0.9, 0.85, 0.9, 0.95, 0.95, 0.95], rel=1e-12)


@pytest.mark.parametrize(
    ("max_lr", "peaks"),
    [(None, [1.0, 0.2]), (3.0, [3.0, 0.6]), ([3.0, 4.0], [3.0, 4.0])],
    ids=["the same", "a number", "one for each group"],
)
def test_a_restart_puts_the_peaks_where_it_is_asked_to(max_lr: Any, peaks: list[float]) -> None:
    optimizer = sgd(0.5, 0.1)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, 7)
    scheduler.restart(max_lr)
    assert scheduler.max_lrs == pytest.approx(peaks, rel=1e-12)
    used = play(optimizer, scheduler, N)
    assert [max(group_of(used, group)[0]) for group in (0, 1)] == pytest.approx(peaks, rel=1e-12)


def test_a_second_restart_plays_over_what_is_left_then() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 1.0, LONG)
    for at in (10, 25):
        scheduler.restart()
        assert scheduler.total_steps == LONG
        play(optimizer, scheduler, at - scheduler.last_epoch)
    scheduler.restart()
    policy = OneCyclePolicy(1.0, 15)
    assert group_of(play(optimizer, scheduler, 20))[0] == [policy.lr(step) for step in range(20)]


def test_a_restart_in_a_replanned_run_plays_to_its_new_end() -> None:
    optimizer, scheduler = cycle(LONG)
    play(optimizer, scheduler, 5)
    with pytest.warns(UserWarning, match="is resumed at step 5 in a run of 61"):
        again, resumed = resumed_from(optimizer, scheduler, 61)
    play(again, resumed, 16)
    resumed.restart()
    assert resumed.total_steps == 61
    policy = OneCyclePolicy(1.0, 40, pct_plateau=0.1)
    assert group_of(play(again, resumed, 45))[0] == [policy.lr(step) for step in range(45)]


def test_group_that_joined_takes_part_in_a_new_cycle() -> None:
    optimizer = sgd(0.5)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, 6)
    optimizer.add_param_group({"params": weights(), "lr": optimizer.param_groups[0]["lr"] / 4})
    scheduler.restart(2.0)
    policy = OneCyclePolicy(2.0, N - 6)
    assert scheduler.max_lrs == pytest.approx([2.0, 0.5], rel=1e-12)
    used = play(optimizer, scheduler, N)
    assert group_of(used, 0)[0] == [policy.lr(step) for step in range(N)]
    assert group_of(used, 1)[0] == pytest.approx([policy.lr(step) / 4 for step in range(N)], rel=1e-12)
    assert group_of(used, 1)[1] == [policy.momentum(step) for step in range(N)]


def test_group_that_joins_after_a_restart_gets_its_ratio() -> None:
    optimizer = sgd(0.5)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, 6)
    scheduler.restart(2.0)
    play(optimizer, scheduler, 3)
    optimizer.add_param_group({"params": weights(), "lr": optimizer.param_groups[0]["lr"] / 4})
    assert scheduler.max_lrs == pytest.approx([2.0, 0.5], rel=1e-12)


@pytest.mark.parametrize("preset", SHAPES)
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("further", [0, 1, 8, 30])
@pytest.mark.filterwarnings("error")
def test_resume_after_a_restart_is_exact(further: int, kind: str, preset: Any) -> None:
    optimizer, scheduler = cycle(LONG, preset, kind)
    play(optimizer, scheduler, 12)
    scheduler.restart([2.0, 0.1])
    play(optimizer, scheduler, further)
    again, resumed = resumed_from(optimizer, scheduler, LONG, preset, kind)
    assert resumed.max_lrs == [2.0, 0.1]
    assert resumed.total_steps == scheduler.total_steps
    assert resumed.state_dict() == scheduler.state_dict()
    assert held(again) == held(optimizer)
    assert play(again, resumed, LONG) == play(optimizer, scheduler, LONG)


def test_resume_after_a_restart_in_a_longer_run_stretches_the_new_cycle() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 1.0, LONG)
    play(optimizer, scheduler, 20)
    scheduler.restart(2.0)  # nine steps up and nine down, two of annihilation
    play(optimizer, scheduler, 5)
    again = sgd()
    resumed = OneCycleScheduler(again, 1.0, 54)  # 14 steps were left, and are 28 now
    with pytest.warns(UserWarning, match="saved for 40 steps and is resumed at step 25 in a run of 54"):
        resumed.load_state_dict(scheduler.state_dict())
    lr = group_of(play(again, resumed, 30))[0]
    policy = OneCyclePolicy(2.0, 20)
    assert lr[::2] == [policy.lr(step) for step in range(5, 20)]
    assert lr[8] == 2.0  # at step 33 = 25 + 4 * 2


@pytest.mark.parametrize(
    ("max_lr", "error"), [(0, ValueError), (math.nan, ValueError), ("x", ValueError), ([1.0], ValueError)], ids=repr
)
def test_bad_peak_for_a_new_cycle_gets_one_sentence_and_changes_nothing(max_lr: Any, error: type[Exception]) -> None:
    optimizer = sgd(0.1, 0.02)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, 5)
    before = (held(optimizer), scheduler.state_dict())
    with pytest.raises(error, match=SENTENCE.format("max_lr")):
        scheduler.restart(max_lr)
    assert (held(optimizer), scheduler.state_dict()) == before


@pytest.mark.parametrize("after", [N, N + 2], ids=["at the end", "two steps behind it"])
def test_a_restart_behind_the_end_holds_the_last_value(after: int) -> None:
    optimizer, scheduler = cycle(N)
    play(optimizer, scheduler, after)
    scheduler.restart(2.0)
    assert group_of(play(optimizer, scheduler, 3))[0] == pytest.approx([2e-5] * 3, rel=1e-12)
    assert scheduler.total_steps == N
