"""The policy of a sweep: a table, an independent reference, and its bad arguments."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pl_onecycle.policy import RangeTestPolicy
from tests import reference
from tests.policy.made import SENTENCE, bad, lrs, many


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


# By name: outside of the range, of a wrong type.
BAD: dict[str, tuple[list[Any], list[Any]]] = {
    "min_lr": ([0, -1e-3, math.nan, math.inf], ["1e-7", True]),
    "max_lr": ([0, math.nan, math.inf], [None, False]),
    "num_steps": ([1, 0], [100.0, True, "100"]),
    "mode": (["quadratic", None], []),
}
STAIRS: dict[str, tuple[list[Any], list[Any]]] = {"num_stairs": ([1, 101], [5.0, True])}


@pytest.mark.parametrize(
    ("arguments", "name", "error"),
    [
        *(({name: value}, name, error) for name, value, error in bad(BAD)),
        *(({"mode": "staircase", name: value}, name, error) for name, value, error in bad(STAIRS)),
        ({"min_lr": 0.1, "max_lr": 0.1}, "max_lr", ValueError),
        ({"min_lr": 0.2, "max_lr": 0.1}, "max_lr", ValueError),
    ],
    ids=str,
)
def test_bad_argument_of_a_sweep_gets_one_sentence(
    arguments: dict[str, Any], name: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=SENTENCE.format(name)):
        RangeTestPolicy(**arguments)
