"""Shapes and the interface that every policy has."""

import math
from dataclasses import FrozenInstanceError
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pl_onecycle.policy import Anneal, OneCyclePolicy, RangeTestPolicy
from pl_onecycle.policy.shapes import SHAPES, between, cosine, exponential, linear
from tests import reference
from tests.policy.made import SENTENCE, lrs


@pytest.mark.parametrize(
    ("shape", "ratio", "shares"),
    [
        (linear, 9.0, [0.0, 0.25, 0.5, 1.0]),
        (cosine, 9.0, [0.0, (1 - math.sqrt(0.5)) / 2, 0.5, 1.0]),
        (exponential, 16.0, [0.0, 1 / 15, 3 / 15, 1.0]),  # from 1 to 16: 2 after a quarter, 4 after half of the time
        (exponential, 1 / 16, [0.0, 8 / 15, 12 / 15, 1.0]),  # from 16 to 1: 8, then 4
        (exponential, 1.0, [0.0, 0.25, 0.5, 1.0]),
    ],
    ids=["linear", "cosine", "exponential up", "exponential down", "exponential without a way"],
)
def test_a_shape_has_these_shares_at_the_start_after_a_quarter_after_half_and_at_the_end(
    shape: Any, ratio: float, shares: list[float]
) -> None:
    assert [shape(t, ratio) for t in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(shares, rel=1e-12, abs=1e-15)


@given(name=st.sampled_from(get_args(Anneal)), t=st.floats(0, 1), end=st.floats(1e-3, 1e3))
def test_every_shape_by_name_equals_the_reference(name: Anneal, t: float, end: float) -> None:
    assert set(SHAPES) == set(get_args(Anneal))
    assert between((1.0, end), SHAPES[name](t, end)) == pytest.approx(reference.SHAPES[name](1.0, end, t), rel=1e-9)


@given(start=st.floats(-1e6, 1e6), end=st.floats(-1e6, 1e6))
def test_both_ends_are_exact(start: float, end: float) -> None:
    assert (between((start, end), 0.0), between((start, end), 1.0)) == (start, end)


# ------------------------------------------------------------------------------------------- every policy
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


def test_sentence_of_a_bad_argument_reads_like_this() -> None:
    with pytest.raises(ValueError, match=r"^Expected argument `num_steps` to be an integer >= 2 but got 1$"):
        RangeTestPolicy(num_steps=1)
    with pytest.raises(TypeError, match=r"^Expected argument `max_lr` to be a finite number > 0 but got '1'$"):
        OneCyclePolicy("1", 10)  # type: ignore[arg-type]
