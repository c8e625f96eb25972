"""A segment gives the values of its policy and clock to the last bit, and ends where they change their course."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pl_onecycle.policy import Clock, OneCyclePolicy, Segment, segment_at
from pl_onecycle.policy.shapes import between


def values(policy: OneCyclePolicy, segment: Segment, step: int) -> tuple[float, float]:
    """Learning rate and momentum of a step of the run, as a scheduler takes them from a segment."""
    phase = policy.phases[segment.phase]
    share = segment.share(step, phase.lr[1] / phase.lr[0])
    return between(phase.lr, share), between(phase.momentum, segment.share(step, phase.lr[1] / phase.lr[0]))


policies = st.builds(
    OneCyclePolicy,
    max_lr=st.floats(1e-6, 10),
    total_steps=st.integers(1, 60),
    pct_start=st.sampled_from([None, 0.0, 0.2, 0.5]),
    pct_plateau=st.sampled_from([0.0, 0.2]),
    pct_annihilation=st.sampled_from([0.0, 0.1, 0.3]),
    div_factor=st.sampled_from([1.0, 10.0, 25.0]),
    final_div_factor=st.sampled_from([1.0, 1e4]),
    anneal_strategy=st.sampled_from(["linear", "cos", "exponential"]),
    decay=st.sampled_from([None, 0.9]),
)


@given(policy=policies, at=st.integers(0, 50), longer=st.integers(2, 90), start=st.integers(0, 20))
def test_every_step_has_the_values_of_policy_and_clock(
    policy: OneCyclePolicy, at: int, longer: int, start: int
) -> None:
    clocks = [Clock(), Clock.started(at=start)]
    joints = [phase.start for phase in policy.phases] + [policy.total_steps - 1]
    if at < policy.total_steps - 1:
        clocks.append(Clock().stretched(at, joints, at + longer))
    for clock in clocks:
        segment: Segment | None = None
        for step in range(150):
            if segment is None or not segment.first <= step < segment.end:
                segment = segment_at(policy, clock, step)
            position = clock.position(step)
            assert values(policy, segment, step) == (policy.lr(position), policy.momentum(position))


@pytest.mark.parametrize(
    ("arguments", "firsts"),
    [
        ({}, [0, 450, 900, 999]),
        ({"pct_plateau": 0.2}, [0, 350, 550, 900, 999]),
        ({"pct_annihilation": 0.0}, [0, 500, 999]),
    ],
    ids=["three phases", "plateau", "no annihilation"],
)
def test_a_schedule_has_one_segment_for_each_phase_and_one_for_its_end(
    arguments: dict[str, Any], firsts: list[int]
) -> None:
    policy, found, step = OneCyclePolicy(1.0, 1000, **arguments), list[int](), 0.0
    while math.isfinite(step):
        found.append(int(step))
        step = segment_at(policy, Clock(), int(step)).end
    assert found == firsts
