"""Which of several curves is chosen, what counts as a tie, and which are excluded or hopeless."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pl_onecycle.curves import Choice, LossCurve, Refusal, choose, is_hopeless


def measured(loss: Sequence[float], val_loss: Sequence[float] = (), outcome: Any = "completed") -> LossCurve:
    """A curve with a point for each loss, validated at equal distances."""
    every = max(len(loss) // max(len(val_loss), 1), 1)
    return LossCurve([0.1] * len(loss), loss, outcome, None, [every * (k + 1) for k in range(len(val_loss))], val_loss)


def falling(end: float, steps: int = 50) -> list[float]:
    """Down a straight line from 2 to ``end``."""
    return [2 - (2 - end) * k / (steps - 1) for k in range(steps)]


def noisy(end: float, seed: int, sd: float = 0.1, steps: int = 50) -> list[float]:
    return [loss + sd * z for loss, z in zip(falling(end, steps), normal(seed, steps), strict=True)]


def normal(seed: int, number: int) -> list[float]:
    numbers: list[float] = np.random.default_rng(seed).normal(size=number).tolist()
    return numbers


def chosen(curves: Mapping[float, LossCurve]) -> Choice:
    choice = choose(curves)
    assert isinstance(choice, Choice), choice
    return choice


def refused(curves: Mapping[float, LossCurve]) -> str:
    answer = choose(curves)
    assert isinstance(answer, Refusal), answer
    return answer.reason


# ------------------------------------------------------------------------------------------- the lowest
@pytest.mark.parametrize("best", [1e-1, 1e-2, 1e-3, 0.0])
def test_the_candidate_that_ends_lowest_is_chosen_wherever_it_stands(best: float) -> None:
    candidates = (1e-1, 1e-2, 1e-3, 0.0)
    choice = chosen({value: measured(falling(0.5 if value == best else 1.0)) for value in candidates})
    assert (choice.value, choice.judged_by, choice.within_noise) == (best, "training loss", False)


def test_margin_and_noise_are_those_of_the_two_lowest() -> None:
    # Straight lines to 0.5, 1 and 1.5 in 50 steps. The level is the mean of the last 10 points, 4.5 steps before the
    # end: 2 - (2 - end) * 44.5 / 49. The difference of two lines has no noise about its trend, so that 3% of the
    # lowest one's span of 1.5 decide.
    choice = chosen({1e-1: measured(falling(1.5)), 1e-2: measured(falling(0.5)), 1e-3: measured(falling(1.0))})
    assert choice.value == 1e-2
    assert choice.margin == pytest.approx(0.5 * 44.5 / 49)
    assert choice.noise == pytest.approx(0.03 * 1.5)
    assert (
        choice.reason == "training loss lowest with candidate 0.01, by 0.45 against 0.001, more than the noise of 0.045"
    )


def test_the_reason_names_what_is_compared() -> None:
    reason = choose({0.9: measured(falling(1.0)), 0.8: measured(falling(0.5))}, "momentum")
    assert isinstance(reason, Choice)
    assert "lowest with momentum 0.8" in reason.reason


def test_only_the_end_of_a_curve_counts() -> None:
    slow, fast = [2.0] * 40 + [0.5] * 10, [1.0] * 50
    assert chosen({1e-3: measured(fast), 0.0: measured(slow)}).value == 0.0


def test_a_short_curve_is_judged_by_its_last_three_points() -> None:
    # A fifth of 6 is one point; the last three have the means 1 and 2.
    choice = chosen({1.0: measured([9, 9, 9, 0, 0, 3]), 0.0: measured([9, 9, 9, 2, 2, 2])})
    assert choice.value == 1.0
    assert choice.margin == pytest.approx(1.0)


def test_the_order_of_the_candidates_does_not_matter() -> None:
    ends = {1e-1: 0.9, 1e-2: 0.5, 1e-3: 0.52, 0.0: 0.51}
    curves = {value: measured(noisy(end, 7)) for value, end in ends.items()}
    assert chosen(curves) == chosen(dict(reversed(curves.items())))


# ------------------------------------------------------------------------------------------------- ties
@pytest.mark.parametrize("lowest", [1e-3, 1e-4, 0.0])
def test_of_candidates_that_differ_by_less_than_matters_the_largest_is_kept(lowest: float) -> None:
    # 3% of the span of 1.5 are 0.045; the ends differ by 0.03, or not at all.
    curves = {value: measured(falling(0.5 if value == lowest else 0.53)) for value in (1e-3, 1e-4, 0.0)}
    choice = chosen(curves)
    assert (choice.value, choice.within_noise) == (1e-3, True)
    assert choice.reason.startswith("within noise: 0, 0.0001 and 0.001 cannot be told apart by training loss, ")


def test_of_equals_another_than_the_largest_can_be_chosen() -> None:
    ends = {1e-1: 1.0, 1e-2: 0.51, 1e-3: 0.5}
    curves = {value: measured(falling(end)) for value, end in ends.items()}
    choice = choose(curves, of_equals=min)
    assert isinstance(choice, Choice)
    assert (choice.value, choice.within_noise) == (1e-3, True)


def test_many_equals_are_counted_and_not_listed() -> None:
    choice = chosen({value: measured(falling(0.5), falling(0.7, 10)) for value in (0.0, 1e-4, 3e-4, 1e-3, 3e-3)})
    assert choice.reason == (
        "within noise: 5 candidates from 0 to 0.003 cannot be told apart by validation and training loss, and 0.003 is"
        " taken"
    )


def test_curves_that_are_the_same_are_a_tie_with_a_margin_of_zero() -> None:
    choice = chosen({1e-3: measured(falling(0.5)), 1e-4: measured(falling(0.5))})
    assert (choice.value, choice.margin, choice.within_noise) == (1e-3, 0.0, True)


def test_constant_losses_are_a_tie() -> None:
    choice = chosen({1e-3: measured([1.0] * 20), 0.0: measured([1.0] * 20)})
    assert (choice.value, choice.margin, choice.noise) == (1e-3, 0.0, 0.0)


def test_a_candidate_that_is_clearly_worse_is_not_kept_for_being_larger() -> None:
    ends = {1e-1: 1.0, 1e-2: 0.51, 1e-3: 0.5}
    choice = chosen({value: measured(falling(end)) for value, end in ends.items()})
    assert (choice.value, choice.within_noise) == (1e-2, True)
    assert choice.reason.startswith("within noise: 0.001 and 0.01 cannot be told apart by training loss, ")


def test_noise_that_all_candidates_share_does_not_hide_a_difference() -> None:
    """The same batches: a noise of 0.5 about curves whose ends differ by 0.1."""
    choice = chosen({1e-3: measured(noisy(0.6, 1, sd=0.5)), 0.0: measured(noisy(0.5, 1, sd=0.5))})
    assert (choice.value, choice.within_noise) == (0.0, False)


def test_noise_of_their_own_hides_the_same_difference() -> None:
    choice = chosen({1e-3: measured(noisy(0.6, 1, sd=0.5)), 0.0: measured(noisy(0.5, 2, sd=0.5))})
    assert (choice.value, choice.within_noise) == (1e-3, True)


def test_two_draws_of_the_same_curve_are_called_a_tie_nearly_always() -> None:
    # 4 standard errors: 6e-5 of normal differences whose deviation is known; it is estimated from 18 bends here.
    ties = [chosen({1.0: measured(noisy(0.5, 2 * k)), 0.0: measured(noisy(0.5, 2 * k + 1))}) for k in range(300)]
    assert sum(choice.within_noise for choice in ties) >= 295
    assert all(choice.value == 1.0 for choice in ties if choice.within_noise)


# ------------------------------------------------------------------------------------------- validation
def test_validation_decides_before_training() -> None:
    """The decay that fits the training data best is not the one that is best on others."""
    curves = {1e-2: measured(falling(1.0), falling(0.5, 10)), 0.0: measured(falling(0.2), falling(1.0, 10))}
    choice = chosen(curves)
    assert (choice.value, choice.judged_by, choice.within_noise) == (1e-2, "validation loss", False)
    assert choice.margin == pytest.approx(0.5 * 8 / 9)  # the last three of ten points: one step before the end


def test_training_decides_between_those_that_validation_cannot_tell_apart() -> None:
    ends = {1e-1: (1.5, 1.0), 1e-2: (1.0, 0.5), 1e-3: (0.5, 0.5), 0.0: (0.2, 1.0)}  # of training and validation
    choice = chosen({value: measured(falling(own), falling(other, 10)) for value, (own, other) in ends.items()})
    assert (choice.value, choice.judged_by, choice.within_noise) == (1e-3, "training loss", False)
    assert choice.margin == pytest.approx(0.5 * 44.5 / 49)
    first, second = choice.reason.split(", and ")
    assert first == "validation loss cannot tell 2 of 4 apart"
    assert second.startswith("training loss lowest with candidate 0.001, by 0.45 against 0.01")


def test_what_neither_can_tell_apart_is_a_tie() -> None:
    choice = chosen({value: measured(falling(0.5), falling(0.7, 10)) for value in (1e-3, 1e-4)})
    assert (choice.value, choice.judged_by, choice.within_noise) == (1e-3, "training loss", True)


@pytest.mark.parametrize("few", [0, 1, 2])
def test_a_candidate_with_too_few_validation_losses_is_excluded_where_another_has_enough(few: int) -> None:
    curves = {1e-2: measured(falling(1.0), falling(0.5, 10)), 0.0: measured(falling(0.2), [0.1] * few)}
    choice = chosen(curves)
    assert (choice.value, choice.judged_by, choice.margin) == (1e-2, "validation loss", None)


@pytest.mark.parametrize("few", [0, 1, 2])
def test_where_all_have_too_few_validation_losses_training_decides_alone(few: int) -> None:
    curves = {1e-2: measured(falling(1.0), [0.1] * few), 0.0: measured(falling(0.2), [3.0] * few)}
    choice = chosen(curves)
    assert (choice.value, choice.judged_by) == (0.0, "training loss")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [1e-2, 0.0])
def test_a_validation_loss_that_is_not_finite_is_never_the_lowest(bad: float, where: float) -> None:
    curves = {value: measured(falling(0.5), falling(0.5, 10)) for value in (1e-2, 0.0)}
    curves[where] = replace(curves[where], val_loss=[*falling(0.5, 9), bad])
    assert chosen(curves).value == 1e-2 - where


def test_validation_losses_of_which_none_is_finite_choose_nothing_by_chance() -> None:
    curves = {value: measured(falling(0.5), [math.nan] * 10) for value in (1e-2, 0.0)}
    choice = choose(curves)
    assert isinstance(choice, Refusal) or choice.judged_by == "training loss"


# ------------------------------------------------------------------------------------------- excluded candidates
@pytest.mark.parametrize("outcome", ["diverged", "dropped", "overridden"])
def test_a_candidate_that_was_not_tried_to_the_end_is_excluded_even_if_it_ends_lowest(outcome: Any) -> None:
    curves = {1e-2: measured(falling(0.1), outcome=outcome), 1e-3: measured(falling(1.0)), 0.0: measured(falling(1.5))}
    assert chosen(curves).value == 1e-3


def test_data_that_ran_out_for_all_excludes_nothing() -> None:
    curves = {1e-2: measured(falling(0.1), outcome="stopped"), 0.0: measured(falling(1.0), outcome="stopped")}
    assert chosen(curves).value == 1e-2


def test_a_candidate_with_a_loss_that_is_not_finite_is_excluded() -> None:
    curves = {1e-2: measured([*falling(0.1), math.nan]), 0.0: measured(falling(1.0))}
    assert chosen(curves).value == 0.0


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        (("diverged",), "the only candidate has diverged"),
        (("diverged", "diverged"), "all 2 candidates have diverged"),
        (
            ("overridden", "overridden"),
            "the module sets the learning rate of its steps itself, so candidates cannot be compared",
        ),
        (("diverged", "dropped", "diverged"), "all 3 candidates have diverged or dropped"),
    ],
)
def test_all_diverged_is_a_reason_and_no_choice(outcomes: Sequence[Any], reason: str) -> None:
    curves = {float(k): measured([1.0, 9.0, 99.0], outcome=outcome) for k, outcome in enumerate(outcomes)}
    assert refused(curves) == reason


def test_a_single_candidate_is_chosen_without_a_margin() -> None:
    choice = chosen({1e-3: measured(falling(1.0))})
    assert (choice.value, choice.margin, choice.noise, choice.within_noise) == (1e-3, None, None, False)
    assert choice.reason == "the only candidate that neither diverged nor fell behind"


def test_the_only_remaining_candidate_is_chosen_without_a_margin() -> None:
    curves = {1e-2: measured(falling(0.1), outcome="diverged"), 0.0: measured(falling(1.0), falling(1.0, 10))}
    choice = chosen(curves)
    assert (choice.value, choice.margin, choice.judged_by) == (0.0, None, "validation loss")


def test_curves_without_a_point_are_excluded() -> None:
    assert isinstance(choose({1e-2: LossCurve([], [], "stopped")}), Refusal)
    assert chosen({1e-2: LossCurve([], [], "stopped"), 0.0: measured(falling(1.0))}).value == 0.0


def test_a_choice_cannot_be_changed_and_makes_a_round_trip_through_json() -> None:
    choice = chosen({1e-3: measured(falling(1.0)), 0.0: measured(falling(0.5))})
    assert Choice(**json.loads(json.dumps(choice.to_dict()))) == choice
    with pytest.raises(FrozenInstanceError):
        choice.value = 0.5  # type: ignore[misc]


# ------------------------------------------------------------------------------------------ the slow oracle
def slow_noise(best: Sequence[float], other: Sequence[float]) -> float:
    """max(4 e, 0.03 s) by loops: e from the second differences of d = other - best in the last two fifths.

    A second difference of independent normal values of deviation sigma has the deviation sqrt(6) sigma, and the median
    of its absolute value is 0.67449 times that.
    """
    end = max(round(len(best) / 5), 3)
    d = [theirs - own for own, theirs in zip(best, other, strict=True)][-2 * end :]
    bends = [abs(d[k - 1] - 2 * d[k] + d[k + 1]) for k in range(1, len(d) - 1)]
    sigma = statistics.median(bends) / statistics.NormalDist().inv_cdf(0.75) / math.sqrt(6)
    e = sigma / math.sqrt(end)
    return max(4 * e, 0.03 * (max(best) - min(best)))


def slow_stage(losses: dict[float, Sequence[float]]) -> list[float]:
    """Those that are not clearly worse than the lowest."""
    level = {value: statistics.fmean(loss[-max(round(len(loss) / 5), 3) :]) for value, loss in losses.items()}
    lowest = min(level.values())
    best = max(value for value in losses if level[value] == lowest)
    return [value for value in losses if level[value] - lowest <= slow_noise(losses[best], losses[value])]


def slow_choice(curves: dict[float, LossCurve]) -> tuple[float, bool]:
    left = slow_stage({value: curve.val_loss for value, curve in curves.items()})
    if len(left) > 1:
        left = slow_stage({value: curves[value].loss for value in left})
    return max(left), len(left) > 1


candidates = st.lists(st.sampled_from([1e-1, 1e-2, 1e-3, 1e-4, 0.0]), min_size=2, max_size=4, unique=True)
ends = st.sampled_from([0.5, 0.505, 0.55, 0.7, 1.0])


@st.composite
def several(draw: st.DrawFn) -> dict[float, LossCurve]:
    """Curves of noise that is shared, of their own, or both, about ends that differ or do not."""
    shared, own = draw(st.sampled_from([0.0, 0.3])), draw(st.sampled_from([0.0, 0.01, 0.1]))
    seed = draw(st.integers(0, 10**6))
    curves = {}
    for k, value in enumerate(draw(candidates)):
        loss = noisy(draw(ends), seed, shared)
        val_loss = noisy(draw(ends), seed, shared, 10)
        loss = [x + own * z for x, z in zip(loss, normal(seed + k + 1, 50), strict=True)]
        val_loss = [x + own * z for x, z in zip(val_loss, normal(seed + k + 9, 10), strict=True)]
        curves[value] = measured(loss, val_loss)
    return curves


@given(several())
def test_the_choice_is_that_of_the_slow_reference(curves: dict[float, LossCurve]) -> None:
    choice = chosen(curves)
    assert (choice.value, choice.within_noise) == slow_choice(curves)


@settings(max_examples=50)
@given(several(), st.sampled_from([2.0**-20, 0.125, 8.0, 2.0**20]), st.integers(-100, 100))
def test_scaling_and_shifting_all_losses_changes_nothing(
    curves: dict[float, LossCurve], scale: float, shift: int
) -> None:
    def moved(losses: Sequence[float]) -> list[float]:
        return [scale * (round(loss, 3) + shift) for loss in losses]  # of few digits, so that no margin is rounded away

    plain = {
        value: replace(
            curve, loss=[round(loss, 3) for loss in curve.loss], val_loss=[round(loss, 3) for loss in curve.val_loss]
        )
        for value, curve in curves.items()
    }
    others = {
        value: replace(curve, loss=moved(curve.loss), val_loss=moved(curve.val_loss)) for value, curve in curves.items()
    }
    before, after = chosen(plain), chosen(others)
    assert (after.value, after.judged_by, after.within_noise) == (before.value, before.judged_by, before.within_noise)
    assert after.margin == pytest.approx(scale * (before.margin or 0.0), rel=1e-6, abs=scale * 1e-9)
    assert after.noise == pytest.approx(scale * (before.noise or 0.0), rel=1e-6, abs=scale * 1e-9)


@settings(max_examples=50)
@given(several(), st.sampled_from([1e-6, 1e3]))
def test_only_the_order_of_the_candidates_counts_not_how_large_they_are(
    curves: dict[float, LossCurve], factor: float
) -> None:
    scaled = {value * factor: curve for value, curve in curves.items()}
    assert chosen(scaled).value == chosen(curves).value * factor


# --------------------------------------------------------------------------------------------- hopeless
def by_validation(val_loss: Sequence[float], outcome: Any = "completed") -> LossCurve:
    return measured([1.0] * 10 * len(val_loss), val_loss, outcome)


BEST = by_validation([2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1])  # a straight line has no noise


def test_a_candidate_is_hopeless_after_three_checkups_in_a_row_and_no_earlier() -> None:
    # The best one has come down from 2 by 0.1 a checkup; 2.5 is behind by more than half of that at each.
    verdicts = [is_hopeless(by_validation([2.5] * checkups), {0.0: BEST}) for checkups in range(1, 10)]
    assert verdicts == [False, False, *[True] * 7]


def test_a_good_checkup_in_between_restarts_the_count() -> None:
    behind, level = 2.5, 1.5
    verdicts = [is_hopeless(by_validation([*[behind] * 2, level, *[behind] * k]), {0.0: BEST}) for k in range(4)]
    assert verdicts == [False, False, False, True]


def test_behind_is_by_half_of_how_far_the_best_has_come() -> None:
    # At checkup k the best one is at 2 - k / 10 and has come k / 10; a candidate that has come 60% of that is not
    # hopeless, one that has come 40% of it is.
    ahead, after = ([2 - share * k / 10 for k in range(8)] for share in (0.6, 0.4))
    assert not is_hopeless(by_validation(ahead), {0.0: BEST})
    assert is_hopeless(by_validation(after), {0.0: BEST})


def test_noise_of_the_best_gives_the_others_time() -> None:
    restless = by_validation([2.0, 1.2, 1.9, 1.1, 1.8, 1.0, 1.7, 0.9, 1.6, 0.8])
    assert not is_hopeless(by_validation([2.5] * 6), {0.0: restless})


def test_without_a_candidate_that_was_tried_to_its_end_none_is_hopeless() -> None:
    others = {1.0: replace(BEST, outcome="diverged"), 2.0: replace(BEST, outcome="dropped")}
    assert not is_hopeless(by_validation([99.0] * 5), {})
    assert not is_hopeless(by_validation([99.0] * 5), others)


def test_the_best_one_is_that_which_ends_lowest() -> None:
    bad = by_validation([9.0] * 10)
    assert not is_hopeless(by_validation([2.5] * 5), {0.0: bad})
    assert is_hopeless(by_validation([2.5] * 5), {0.0: bad, 1.0: BEST})


def test_without_validation_the_training_loss_is_checked_every_tenth_of_the_steps() -> None:
    best = measured([2 - k / 100 for k in range(100)])
    verdicts = [is_hopeless(measured([2.0] * steps), {0.0: best}) for steps in (10, 20, 30, 40)]
    # Means of ten steps: the best is 0.045 down, 0.145, 0.245 ...; the other has not moved, and three must agree.
    assert verdicts == [False, False, True, True]
    assert not is_hopeless(best, {0.0: best})


def test_the_best_one_is_among_those_whose_validation_loss_is_finite() -> None:
    unseen = measured([0.0] * 100, [math.nan] * 10)
    assert is_hopeless(by_validation([2.5] * 5), {0.0: unseen, 1.0: BEST})
    assert not is_hopeless(by_validation([1.5] * 5), {0.0: unseen, 1.0: BEST})


def test_a_candidate_that_has_not_begun_is_not_hopeless() -> None:
    assert not is_hopeless(LossCurve([], []), {0.0: BEST})


@settings(max_examples=50)
@given(several(), st.sampled_from([2.0**-20, 8.0, 2.0**20]), st.integers(-100, 100))
def test_hopelessness_does_not_depend_on_scale_and_shift(
    curves: dict[float, LossCurve], scale: float, shift: int
) -> None:
    def moved(curve: LossCurve, factor: float, summand: float) -> LossCurve:
        loss, val_loss = ([factor * (round(x, 3) + summand) for x in losses] for losses in (curve.loss, curve.val_loss))
        return replace(curve, loss=loss, val_loss=val_loss)

    (_, one), *others = curves.items()
    verdicts = [
        is_hopeless(moved(one, *by), {value: moved(other, *by) for value, other in others})
        for by in ((1.0, 0.0), (scale, float(shift)))
    ]
    assert verdicts[0] == verdicts[1]
