"""Which learning rates are tried around a suggestion, and which lr their short cycles support."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pl_onecycle.curves import LossCurve, Outcome, Refusal, Suggestion, candidates, verified
from tests.curves.made import interval_of

FOUND = Suggestion(0.1, "trough", "by hand", 0.05, 0.2)


def ends_at(loss: float, lr: float = 0.1, outcome: Outcome = "completed", val_loss: float | None = None) -> LossCurve:
    """A cycle of ten steps, of which the last five have this mean."""
    validated = ([10], [val_loss]) if val_loss is not None else ([], [])
    return LossCurve(
        [lr] * 10, [3.0, 2.5, 2.0, 2.0, 2.0, *[loss + 0.1, loss - 0.1] * 2, loss], outcome, 3.0, *validated
    )


def cycles(ends: dict[float, float]) -> dict[float, LossCurve]:
    return {lr: ends_at(end, lr) for lr, end in ends.items()}


def answer(curves: dict[float, LossCurve], found: Suggestion = FOUND) -> Suggestion:
    """The suggestion that short cycles support."""
    suggestion = verified(found, curves)
    assert isinstance(suggestion, Suggestion)
    return suggestion


# ---------------------------------------------------------------------------------------------- candidates
@pytest.mark.parametrize(
    ("count", "expected"),
    [
        # A quarter of a decade is a factor of 1.7783.
        (3, [0.056234, 0.1, 0.177828]),
        (5, [0.031623, 0.056234, 0.1, 0.177828, 0.316228]),
        (7, [0.0177828, 0.031623, 0.056234, 0.1, 0.177828, 0.316228, 0.562341]),
    ],
)
def test_candidates_lie_a_quarter_of_a_decade_apart_around_the_suggestion(count: int, expected: list[float]) -> None:
    assert candidates(0.1, count) == pytest.approx(expected, rel=1e-5)


@given(lr=st.floats(1e-9, 1e3), count=st.sampled_from([3, 5, 7, 9]))
def test_the_suggestion_itself_is_the_candidate_in_the_middle(lr: float, count: int) -> None:
    tried = candidates(lr, count)
    assert len(tried) == count
    assert tried[count // 2] == lr
    assert tried == sorted(tried)
    assert tried[-1] / tried[0] == pytest.approx(10 ** (0.25 * (count - 1)))


# ------------------------------------------------------------------------------------------------- verified
@pytest.mark.parametrize(
    ("ends", "lr"),
    [
        # Excesses 0, 0.5, 0.5: a median of 0.5, weights 1, exp(-1 / 1.2) = 0.4346 twice, symmetric about 0.1.
        pytest.param({0.01: 1.0, 0.1: 0.5, 1.0: 1.0}, 0.1, id="symmetric"),
        # Excesses 0, 1, 2: weights 1, exp(-1 / 1.2) = 0.4346, exp(-2 / 1.2) = 0.1889; decades -3, -2, -1 have the mean
        # (-3 - 0.8692 - 0.1889) / 1.6235 = -2.4996.
        pytest.param({1e-3: 1.0, 1e-2: 2.0, 1e-1: 3.0}, 10**-2.4996, id="the lowest is best"),
        # The same from above: (-1 - 0.8692 - 0.5666) / 1.6235 = -1.5004.
        pytest.param({1e-3: 3.0, 1e-2: 2.0, 1e-1: 1.0}, 10**-1.5004, id="the highest is best"),
        # Excesses 0, 1, 1, 1, 1 with a median of 1: decades -4 to 0, weights 1 at -4 and 0.4346 else:
        # (-4 + 0.4346 * (-3 - 2 - 1)) / (1 + 4 * 0.4346) = -6.6076 / 2.7384 = -2.4129.
        pytest.param({1e-4: 1.0, 1e-3: 2.0, 1e-2: 2.0, 1e-1: 2.0, 1.0: 2.0}, 10**-2.4129, id="five"),
        pytest.param({1e-3: 1.0, 1e-2: 1.0, 1e-1: 1.0}, 1e-2, id="all alike"),
    ],
)
def test_the_answer_is_a_mean_in_which_the_better_weigh_more(ends: dict[float, float], lr: float) -> None:
    assert answer(cycles(ends)).lr == pytest.approx(lr, rel=1e-3)


@given(
    ends=st.lists(st.integers(0, 1000), min_size=3, max_size=3, unique=True),
    power=st.floats(-6, 6),
    shift=st.floats(-100, 100),
)
def test_scale_and_shift_of_the_loss_do_not_matter(ends: list[int], power: float, shift: float) -> None:
    lrs = candidates(0.1, 3)
    base = answer(cycles({lr: end / 100 for lr, end in zip(lrs, ends, strict=True)}))
    moved = {
        lr: LossCurve([lr] * 10, [10**power * (end / 100 + shift)] * 10) for lr, end in zip(lrs, ends, strict=True)
    }
    assert answer(moved).lr == pytest.approx(base.lr, rel=1e-6)
    assert lrs[0] <= base.lr <= lrs[-1]


@given(factor=st.floats(1e-6, 1e6))
def test_scaling_all_candidates_scales_the_answer_and_its_interval(factor: float) -> None:
    ends = {0.05: 1.0, 0.1: 0.5, 0.2: 0.7}
    base, scaled = answer(cycles(ends)), answer(cycles({factor * lr: end for lr, end in ends.items()}))
    low, high = interval_of(base)
    assert scaled.lr == pytest.approx(factor * base.lr)
    assert (scaled.low, scaled.high) == pytest.approx((factor * low, factor * high))


def test_the_mean_of_the_last_fifth_counts_and_not_the_last_loss() -> None:
    # Of 30 losses the last six; one of them is lucky.
    steady, lucky = [2.0] * 24 + [1.0] * 6, [2.0] * 24 + [1.5] * 5 + [0.0]  # means 1.0 and 1.25
    other = [2.0] * 30
    curves = {lr: LossCurve([lr] * 30, losses) for lr, losses in ((0.05, steady), (0.1, lucky), (0.2, other))}
    assert answer(curves).reason.endswith(", best 0.05 by training loss")


def test_the_validation_loss_counts_where_all_have_one() -> None:
    curves = {0.05: ends_at(1.0, 0.05, val_loss=2.0), 0.1: ends_at(2.0, 0.1, val_loss=1.0)}
    curves[0.2] = ends_at(3.0, 0.2, val_loss=3.0)
    found = answer(curves)
    assert found.reason.endswith("best 0.1 by val_loss")
    curves[0.2] = ends_at(3.0, 0.2)
    found = answer(curves)
    assert found.reason.endswith("best 0.05 by training loss")


def test_of_several_validation_losses_the_last_three_count() -> None:
    ends = {0.05: (1.0, 9.0, 9.0, 9.0), 0.1: (9.0, 1.0, 1.0, 1.0), 0.2: (5.0, 5.0, 5.0, 5.0)}
    curves = {lr: LossCurve([lr] * 10, [1.0] * 10, val_steps=[4, 6, 8, 10], val_loss=end) for lr, end in ends.items()}
    assert answer(curves).reason.endswith(", best 0.1 by val_loss")


BAD = {
    "diverged": ends_at(0.0, 0.2, "diverged"),
    "stopped": ends_at(0.0, 0.2, "stopped"),
    "not finite": LossCurve([0.2] * 10, [2.0] * 9 + [math.nan]),
    "a validation loss that is not finite": ends_at(0.0, 0.2, val_loss=math.inf),
    "without a point": LossCurve([], []),
}


@pytest.mark.parametrize("curve", BAD.values(), ids=BAD)
def test_a_cycle_that_has_failed_weighs_nothing(curve: LossCurve) -> None:
    # 0 and 1 remain: their median excess is 0.5, weights 1 and exp(-1 / 0.6) = 0.1889 at -2 and -1:
    # (-2 - 0.1889) / 1.1889 = -1.8411.
    found = answer({0.01: ends_at(1.0, 0.01), 0.1: ends_at(2.0), 0.2: curve})
    assert found.lr == pytest.approx(10**-1.8411, rel=1e-3)
    assert "mean of 3 short cycles" in found.reason


@pytest.mark.parametrize("curve", BAD.values(), ids=BAD)
def test_where_all_cycles_have_failed_the_reason_is_returned(curve: LossCurve) -> None:
    reason = "none of 3 short cycles around the 0.1 of trough completed with finite losses"
    assert verified(FOUND, dict.fromkeys(candidates(0.1, 3), curve)) == Refusal(reason)


def test_one_remaining_cycle_is_the_answer() -> None:
    curves = {0.05: ends_at(1.0, 0.05), 0.1: BAD["diverged"], 0.2: BAD["not finite"]}
    found = answer(curves)
    assert (found.lr, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))


def test_the_answer_names_the_lr_from_the_curve_and_keeps_its_method() -> None:
    found = answer(cycles({0.05: 2.0, 0.1: 1.0, 0.2: 3.0}), Suggestion(0.123, "smith", "by hand"))
    assert found.method == "smith"
    assert found.reason == ("0.123 on the curve; weighted mean of 3 short cycles, best 0.1 by training loss")


def test_the_interval_spans_the_candidates_that_end_nearly_as_well() -> None:
    # Excesses 0, 0.1, 0.2, 1, 2: a median of 0.2, of which 0.8 are 0.16: the first two. The mean lies between them.
    found = answer(cycles({0.1: 1.0, 0.2: 1.1, 0.05: 1.2, 0.4: 2.0, 0.025: 3.0}))
    assert (found.low, found.high) == (0.1, 0.2)
    # Weights 1, 0.6592, 0.4346, 0.0155 and 0.0002 at decades -1, -0.6990, -1.3010, -0.3979, -1.6021.
    assert math.log10(found.lr) == pytest.approx((-1 - 0.4608 - 0.5654 - 0.0062 - 0.0004) / 2.1095, abs=1e-3)


@pytest.mark.parametrize("bad", [9.0, 1e6])
def test_where_most_candidates_tie_the_others_weigh_no_more_than_they(bad: float) -> None:
    # As accuracies do that have reached their best: the mean of 0.1 and 0.2 alone is 0.1414.
    found = answer(cycles({0.1: 1.0, 0.2: 1.0, 0.4: bad}))
    assert found.lr == pytest.approx(math.sqrt(0.1 * 0.2), rel=0.05)
    assert found.high == 0.2
