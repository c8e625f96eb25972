"""`Clock`: which position of a policy each step of the run has."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pl_onecycle.policy import Clock, OneCyclePolicy


def joints_of(policy: OneCyclePolicy) -> list[int]:
    """Where the phases of a policy begin, and its end."""
    return [phase.start for phase in policy.phases] + [policy.total_steps - 1]


def test_a_new_clock_moves_step_for_step() -> None:
    assert [Clock().position(step) for step in range(5)] == [0, 1, 2, 3, 4]
    assert Clock().step_of(19) == 19


def test_a_started_clock_waits_and_then_moves_step_for_step() -> None:
    clock = Clock.started(at=100)
    assert [clock.position(step) for step in (0, 99, 100, 101, 120)] == [0, 0, 0, 1, 20]
    assert clock.step_of(19) == 119


def test_clocks_are_frozen_values() -> None:
    assert Clock.started(at=3) == Clock(((3, 0),))
    assert hash(Clock.started(at=3)) == hash(Clock(((3, 0),)))
    clock: Any = Clock()
    with pytest.raises(dataclasses.FrozenInstanceError):
        clock.knots = ((1, 1),)


# A policy of 20 steps: rise of 9, fall of 9, annihilation from step 18 to the end, step 19.
JOINTS = (0, 9, 18, 19)
STRETCHED: dict[str, tuple[int, int, tuple[tuple[float, float], ...], dict[int, float]]] = {
    # what: (at, end, knots, positions)
    "twice as long, from the rise": (
        3,
        35,  # 16 positions in 32 steps
        ((3, 3), (15, 9), (33, 18), (35, 19)),  # 3 + 6 * 2, 3 + 15 * 2, 3 + 16 * 2
        {3: 3, 4: 3.5, 14: 8.5, 15: 9, 16: 9.5, 32: 17.5, 33: 18, 34: 18.5, 35: 19, 36: 20},
    ),
    "half as long, from the rise": (
        3,
        11,  # 16 positions in 8 steps
        ((3, 3), (6, 9), (10, 18), (11, 19)),  # 3 + 6 / 2; 3 + 7.5 and 3 + 8 both fall on 11, which the end takes
        {3: 3, 4: 5, 5: 7, 6: 9, 7: 11.25, 10: 18, 11: 19, 12: 20},  # 9 positions in the 4 steps from 6
    ),
    "from the peak": (
        9,
        29,  # 10 positions in 20 steps
        ((9, 9), (27, 18), (29, 19)),
        {9: 9, 10: 9.5, 27: 18, 28: 18.5, 29: 19, 30: 20},
    ),
    "from the fall": (
        12,
        26,  # 7 positions in 14 steps
        ((12, 12), (24, 18), (26, 19)),
        {12: 12, 13: 12.5, 23: 17.5, 24: 18, 25: 18.5, 26: 19},
    ),
    "from the annihilation": (18, 22, ((18, 18), (22, 19)), {18: 18, 19: 18.25, 21: 18.75, 22: 19, 23: 20}),
    "joints at halves": (
        6,
        32,  # 13 positions in 26 steps
        ((6, 6), (12, 9), (30, 18), (32, 19)),
        {6: 6, 11: 8.5, 12: 9, 31: 18.5, 32: 19},
    ),
    "joints that are rounded up": (
        0,
        27,  # 19 positions in 27 steps: 9 * 27 / 19 = 12.79 and 18 * 27 / 19 = 25.58
        ((0, 0), (13, 9), (26, 18), (27, 19)),
        {0: 0, 13: 9, 26: 18, 27: 19},
    ),
    "joints that are rounded up and down": (
        0,
        10,  # 19 positions in 10 steps: 9 * 10 / 19 = 4.74 and 18 * 10 / 19 = 9.47
        ((0, 0), (5, 9), (9, 18), (10, 19)),
        {0: 0, 5: 9, 7: 13.5, 9: 18, 10: 19},
    ),
    "the same length": (3, 19, ((3, 3), (9, 9), (18, 18), (19, 19)), {3: 3, 4: 4, 10: 10, 18: 18, 19: 19, 25: 25}),
    "all of it in one step": (3, 4, ((3, 3), (4, 19)), {3: 3, 4: 19, 5: 20}),
}


@pytest.mark.parametrize(("at", "end", "knots", "positions"), STRETCHED.values(), ids=STRETCHED)
def test_the_rest_is_stretched_evenly_by_these_numbers(
    at: int, end: int, knots: tuple[tuple[float, float], ...], positions: dict[int, float]
) -> None:
    clock = Clock().stretched(at, JOINTS, end)
    assert clock.knots == knots
    assert {step: clock.position(step) for step in positions} == positions
    assert clock.step_of(19) == end


def test_joints_fall_on_the_nearest_steps_with_halves_up() -> None:
    # 10 positions in 5 steps: 1, 3 and 5 lie at 0.5, 1.5 and 2.5.
    assert Clock().stretched(0, (1, 3, 5, 10), 5).knots == ((0, 0), (1, 1), (2, 3), (3, 5), (5, 10))


@pytest.mark.parametrize(
    ("end", "knots"),
    [
        (6, ((0, 0), (1, 1), (3, 50), (4, 55), (6, 100))),  # 0.06, 3 and 3.3
        (4, ((0, 0), (1, 1), (2, 50), (3, 55), (4, 100))),  # 0.04, 2 and 2.2
        (3, ((0, 0), (1, 50), (2, 55), (3, 100))),  # the present stays
        (2, ((0, 0), (1, 55), (2, 100))),
        (1, ((0, 0), (1, 100))),
    ],
)
def test_each_joint_has_a_step_of_its_own_and_where_there_are_too_few_the_last_ones_have(
    end: int, knots: tuple[tuple[float, float], ...]
) -> None:
    assert Clock().stretched(0, (1, 50, 55, 100), end).knots == knots


def test_before_a_stretched_clock_begins_its_position_is_the_first() -> None:
    clock = Clock().stretched(3, JOINTS, 35)
    assert [clock.position(step) for step in (0, 2, 3)] == [3, 3, 3]


def test_a_stretched_clock_can_be_stretched_again() -> None:
    twice = Clock().stretched(3, JOINTS, 35).stretched(13, JOINTS, 57)
    # At step 13 the position is 3 + 10 / 2 = 8; the remaining 11 positions take 44 steps: 4 each.
    assert [twice.position(step) for step in (13, 14, 17, 18, 57, 58)] == [8, 8.25, 9, 9.25, 19, 20]
    assert twice.knots == ((13, 8), (17, 9), (53, 18), (57, 19))


def test_a_stretched_clock_can_be_brought_back_to_its_pace() -> None:
    back = Clock().stretched(3, JOINTS, 35).stretched(13, JOINTS, 24)  # from position 8 as above
    assert back.knots == ((13, 8), (14, 9), (23, 18), (24, 19))  # 11 positions in 11 steps


def test_a_started_clock_can_be_stretched() -> None:
    clock = Clock.started(at=100).stretched(103, JOINTS, 135)  # as "twice as long, from the rise", 100 steps later
    assert clock.knots == ((103, 3), (115, 9), (133, 18), (135, 19))


# ------------------------------------------------------------------------------------------- invariants
policies = st.builds(
    OneCyclePolicy,
    max_lr=st.just(1.0),
    total_steps=st.integers(1, 300),
    pct_start=st.none() | st.floats(0, 0.4),
    pct_plateau=st.floats(0, 0.3),
    pct_annihilation=st.floats(0, 0.3),
)
cases = st.tuples(policies, st.floats(0, 1), st.integers(1, 400))


def at_and_end(case: tuple[OneCyclePolicy, float, int]) -> tuple[list[int], int, int]:
    """The joints of a policy, a step of it before its last, and a step after that to end with."""
    policy, share, more = case
    at = min(math.floor(share * policy.total_steps), max(policy.total_steps - 2, 0))
    return joints_of(policy), at, at + more


@given(cases)
def test_a_stretched_clock_continues_where_it_is_and_ends_exactly(
    case: tuple[OneCyclePolicy, float, int],
) -> None:
    joints, at, end = at_and_end(case)
    clock = Clock().stretched(at, joints, end)
    assert clock.position(at) == at
    if at < joints[-1]:
        assert clock.position(end) == joints[-1]
        assert clock.step_of(joints[-1]) == end
        assert clock.position(end + 7) == joints[-1] + 7


@given(cases)
def test_a_stretched_clock_never_goes_back_and_moves_evenly(case: tuple[OneCyclePolicy, float, int]) -> None:
    joints, at, end = at_and_end(case)
    clock = Clock().stretched(at, joints, end)
    positions = [clock.position(step) for step in range(at, end + 1)]
    moves = [after - before for before, after in itertools.pairwise(positions)]
    assert all(move >= 0 for move in moves)
    # A joint lies half a step at most from its even place (and 1e-9 where a half is rounded).
    pace = max(joints[-1] - at, 0) / (end - at)
    for step, position in clock.knots[:-1]:
        lag = (position - at) - pace * (step - at)
        assert abs(lag) <= pace / 2 * (1 + 1e-6) + 1e-9


@given(cases)
def test_joints_ahead_stay_on_whole_steps_and_the_values_there_are_taken(
    case: tuple[OneCyclePolicy, float, int],
) -> None:
    policy = case[0]
    joints, at, end = at_and_end(case)
    clock = Clock().stretched(at, joints, end)
    assert all(isinstance(step, int) for step, _ in clock.knots)
    if end - at >= policy.total_steps - at:  # no two joints can fall on one step
        taken = {clock.position(step) for step in range(at, end + 1)}
        assert {float(joint) for joint in joints if joint > at} <= taken


@given(cases, st.floats(0, 1), st.integers(1, 400))
def test_stretching_twice_keeps_all_of_that(
    case: tuple[OneCyclePolicy, float, int], share: float, further: int
) -> None:
    joints, at, end = at_and_end(case)
    once = Clock().stretched(at, joints, end)
    again = at + math.floor(share * (end - 1 - at))
    here = once.position(again)
    twice = once.stretched(again, joints, again + further)
    assert twice.position(again) == here
    positions = [twice.position(step) for step in range(again, again + further + 1)]
    assert positions == sorted(positions)
    if here < joints[-1]:
        assert positions[-1] == joints[-1]


@given(cases)
def test_an_unchanged_length_changes_nothing(case: tuple[OneCyclePolicy, float, int]) -> None:
    joints, at, _ = at_and_end(case)
    if at < joints[-1]:
        clock = Clock().stretched(at, joints, joints[-1])
        positions = [clock.position(step) for step in range(at, joints[-1] + 5)]
        assert positions == list(range(at, joints[-1] + 5))
