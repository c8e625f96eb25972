"""Which weight decays a search tries, one after the other, and which it chooses."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pl_onecycle.curves import Choice, DecaySearch, LossCurve, Refusal, tolerated_harm

STEPS, SEARCHED = 50, 6
Harm = Callable[[float], float]  # decay -> share of its fall that a loss loses


def curve(harm: float, val_harm: float | None = None, noise: float = 0.0, seed: int = 0) -> LossCurve:
    """Falls from 2 by 1 - harm along a straight line; diverged where the harm is not finite."""
    if not math.isfinite(harm):
        return LossCurve([0.1] * 5, [2.0, 3.0, 9.0, 99.0, math.nan], "diverged")
    scatter = noise * np.random.default_rng(seed).normal(size=STEPS)
    loss = [2 - (1 - harm) * k / (STEPS - 1) + scatter[k] for k in range(STEPS)]
    if val_harm is None:
        return LossCurve([0.1] * STEPS, loss)
    val = [2.5 - (1 - val_harm) * k / 9 for k in range(10)]  # above the training loss: the net overfits
    return LossCurve([0.1] * STEPS, loss, val_steps=[STEPS // 10 * (k + 1) for k in range(10)], val_loss=val)


def searched(
    own: float, harm: Harm, val_harm: Harm | None = None, start: float = 1e-4, epochs: float = 40 / 3
) -> tuple[list[float], Choice | Refusal]:
    """Search as the probe does; return what was tried, in order, and the answer. 40 / 3 epochs tolerate 4%."""
    search, curves = DecaySearch(own, start, epochs), dict[float, LossCurve]()
    while len(curves) < SEARCHED and (decay := search.next_decay(curves)) is not None:
        assert decay not in curves
        curves[decay] = curve(harm(decay), None if val_harm is None else val_harm(decay))
    return [*curves], search.choice(curves)


def value_of(answer: Choice | Refusal) -> float:
    assert isinstance(answer, Choice), answer
    return answer.value


def reason_of(answer: Choice | Refusal) -> str:
    return answer.reason


@pytest.mark.parametrize(
    ("epochs", "share"), [(0.0, 0.006), (1, 0.006), (2, 0.006), (4, 0.012), (10, 0.03), (17, 0.05), (1000, 0.05)]
)
def test_what_is_tolerated_grows_with_the_epochs_within_bounds(epochs: float, share: float) -> None:
    assert tolerated_harm(epochs, overfits=True) == pytest.approx(share)
    assert tolerated_harm(4 * epochs, overfits=False) == pytest.approx(share)


# ------------------------------------------------------------------------------------------------- what is tried
@pytest.mark.parametrize(
    ("own", "start", "tried"),
    [
        (0.0, 1e-4, [0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (1e-4, 1e-4, [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]),
        (5e-4, 1e-4, [5e-4, 5e-3, 5e-2, 5e-1, 5.0, 50.0]),
        (1e-6, 1e-4, [1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (1e-2, 1e-2, [1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0]),  # AdamW's default
        (0.0, 1e-2, [0.0, 1e-2, 1e-1, 1.0, 10.0, 100.0]),
    ],
)
def test_where_nothing_hurts_it_goes_up_by_decades_and_the_own_stays(
    own: float, start: float, tried: list[float]
) -> None:
    seen, answer = searched(own, lambda decay: 0.0, start=start)
    assert seen == tried
    assert isinstance(answer, Choice)
    assert (answer.value, answer.judged_by, answer.within_noise) == (own, "training loss", True)
    assert answer.margin == 0.0
    assert answer.noise == pytest.approx(0.03)  # 3% of a fall from 2 to 1
    assert answer.reason == f"nothing up to {tried[-1]:g} clearly helps or hurts, and the run's own is kept"


def test_a_constant_loss_keeps_the_own() -> None:
    for own in (0.0, 1e-3):
        search = DecaySearch(own, 1e-4, 20)
        curves = {own: LossCurve([0.1] * 20, [1.0] * 20)}
        while len(curves) < SEARCHED:
            decay = search.next_decay(curves)
            assert decay is not None
            curves[decay] = LossCurve([0.1] * 20, [1.0] * 20)
        assert value_of(search.choice(curves)) == own


def test_from_the_edge_it_goes_back_to_two_thirds_of_what_is_tolerated() -> None:
    # The level is the mean of the last ten losses, 4.5 of 49 steps before the end: a harm of v is 9.08% at 0.1, the
    # edge, and 0.908% at 0.01. Two thirds of 4% lie log(2.667 / 0.908) / log(10) = 0.468 of the way up: at 0.0294,
    # which is rounded down to 0.025.
    tried, answer = searched(0.0, lambda decay: decay)
    assert tried == [0.0, 1e-4, 1e-3, 1e-2, 1e-1, 0.025]
    assert value_of(answer) == 0.025
    assert reason_of(answer) == (
        "0.1 costs 9% of the fall of the training loss, and 0.025 is the largest that was tried without harm"
    )


def test_less_is_tolerated_in_a_run_of_few_epochs() -> None:
    # 1e-2 costs 0.908%, which is more than 0.6%. Two thirds of these lie log(0.4 / 0.0908) / log(10) = 0.644 of the way
    # up from 1e-3: at 0.0044.
    tried, answer = searched(0.0, lambda decay: decay, epochs=1)
    assert tried == [0.0, 1e-4, 1e-3, 1e-2, 4e-3]
    assert value_of(answer) == 4e-3


def test_less_is_tolerated_where_validation_shows_no_overfitting() -> None:
    def half(decay: float) -> LossCurve:  # 3.33 of 13.33 epochs count, which tolerate 1%
        return curve(min(decay, 1.0), 0.0)

    search = DecaySearch(0.0, 1e-4, 40 / 3)
    overfits = {decay: half(decay) for decay in (0.0, 1e-4, 1e-3, 1e-2)}
    fits = {decay: replace(it, val_loss=[loss - 0.5 for loss in it.val_loss]) for decay, it in overfits.items()}
    assert [search.next_decay(curves) for curves in (overfits, fits)] == [1e-1, 1e-1]
    overfits[3e-2], fits[3e-2] = half(3e-2), replace(half(3e-2), val_loss=fits[0.0].val_loss)
    assert [value_of(search.choice(curves)) for curves in (overfits, fits)] == [0.0, 1e-2]  # 3e-2 is the edge of one


def test_a_candidate_that_diverges_is_the_edge() -> None:
    tried, answer = searched(1e-3, lambda decay: math.inf if decay > 1 else 0.0)
    # 1e-3 ... 1 cost nothing, so that a twentieth of what is tolerated stands for their harm, and half of the fall for
    # that of what diverged: log(0.02667 / 0.002) / log(0.5 / 0.002) = 0.47 of the way from 1 to 10.
    assert tried == [1e-3, 1e-2, 1e-1, 1.0, 10.0, 2.5]
    assert value_of(answer) == 1.0
    assert reason_of(answer) == "2.5 diverges, and 1 is the largest that was tried without harm"


@pytest.mark.parametrize(("own", "chosen"), [(0.03, 0.03), (0.1, 0.025), (0.5, 0.025)])
def test_an_own_that_the_next_decade_hurts_is_compared_with_zero(own: float, chosen: float) -> None:
    # A harm of v: 0.03 costs 3% and stays. 0.1 costs 10%: two thirds of 4% lie at 0.0267.
    tried, answer = searched(own, lambda decay: min(decay, 0.9))
    assert tried[:3] == [own, 10 * own, 0.0]
    assert value_of(answer) == chosen


def test_an_own_that_diverges_gives_way_to_what_does_not() -> None:
    tried, answer = searched(1.0, lambda decay: math.inf if decay > 0.5 else 0.0)
    assert tried[:2] == [1.0, 0.0]
    assert 0 < value_of(answer) <= 0.5


def test_an_own_that_diverges_is_not_compared_by_validation() -> None:
    _, answer = searched(1.0, lambda decay: math.inf if decay > 0.5 else 0.0, lambda decay: 0.1 if decay == 0 else 0.0)
    value = value_of(answer)
    assert 0 < value <= 0.5
    assert reason_of(answer) == f"1 diverges, and validation cannot tell {value:g} from the best of the others"


@pytest.mark.parametrize(
    ("own", "tried", "who"), [(0.0, [0.0], "the only candidate has"), (1e-3, [1e-3, 0.0], "all 2 candidates have")]
)
def test_where_all_diverge_there_is_a_reason(own: float, tried: list[float], who: str) -> None:
    assert searched(own, lambda decay: math.inf) == (tried, Refusal(f"{who} diverged"))


# ---------------------------------------------------------------------------------------------- what validation says
def test_what_validation_clearly_prefers_does_not_hurt() -> None:
    # Training loses a tenth of its fall for each decade above 1e-4; validation gains a fifth up to 1e-2 and none above.
    def harm(decay: float) -> float:
        return 0.1 * max(math.log10(decay) + 4, 0.0) if decay else 0.0

    tried, answer = searched(0.0, harm, lambda decay: {1e-3: -0.1, 1e-2: -0.2}.get(decay, 0.0))
    assert tried[:5] == [0.0, 1e-4, 1e-3, 1e-2, 1e-1]
    assert value_of(answer) == 1e-2
    assert reason_of(answer).startswith("validation loss ends clearly lower with 0.01 than with 0, and 0.1 costs 27%")


def test_what_validation_prefers_is_chosen_where_nothing_hurts() -> None:
    _, answer = searched(0.0, lambda decay: 0.0, lambda decay: -0.2 if decay >= 1e-2 else 0.0)
    assert value_of(answer) == 1.0
    assert reason_of(answer) == "validation loss ends clearly lower with 1 than with 0"


def test_an_edge_that_only_validation_shows_is_approached_by_half_a_decade() -> None:
    # Validation ends 10% of its fall higher from 1e-2 on, and training hardly. That does not show where below 1e-2 the
    # edge is, so that half a decade back is tried: 3.16e-3, rounded down.
    tried, answer = searched(0.0, lambda decay: decay / 100, lambda decay: 0.1 if decay >= 1e-2 else 0.0)
    assert tried == [0.0, 1e-4, 1e-3, 1e-2, 3e-3]
    assert value_of(answer) == 3e-3
    assert isinstance(answer, Choice)
    assert answer.judged_by == "validation loss"
    assert reason_of(answer).startswith("0.01 raises the validation loss by 9% of its fall, and 0.003 is the largest")


def test_what_ends_visibly_higher_in_validation_by_chance_is_no_edge_and_never_chosen() -> None:
    # Training shows no cost of 1e-2, so that the search goes up to 1, which diverges.
    tried, answer = searched(
        0.0, lambda decay: math.inf if decay == 1.0 else 0.0, lambda decay: 0.1 if decay >= 1e-2 else 0.0
    )
    assert tried == [0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    assert value_of(answer) == 1e-3


@pytest.mark.parametrize("where", [0, 4, -1])
def test_where_validation_of_one_candidate_is_not_finite_it_is_an_edge_and_never_chosen(where: int) -> None:
    search, curves = DecaySearch(0.0, 1e-4, 40 / 3), dict[float, LossCurve]()
    while len(curves) < SEARCHED and (decay := search.next_decay(curves)) is not None:
        curves[decay] = curve(0.0, 0.0)
        if decay >= 1e-2:
            loss = [*curves[decay].val_loss]
            loss[where] = math.nan
            curves[decay] = replace(curves[decay], val_loss=loss)
    answer = search.choice(curves)
    assert [*curves] == [0.0, 1e-4, 1e-3, 1e-2, 2.5e-3, 4.5e-3]
    assert value_of(answer) == 4.5e-3
    assert reason_of(answer).startswith("0.01 has no finite validation loss, and 0.0045 is the largest")


def test_a_candidate_whose_noise_hides_what_it_costs_is_not_tried_twice() -> None:
    # 3e-3 is where it would go back to, as validation of 1e-2 ends visibly higher. It lies below the edge, as what it
    # costs may be chance, and costs more than is tolerated, so that it cannot be chosen.
    search, curves = DecaySearch(1e-3, 1e-4, 40 / 3), {1e-3: curve(0, 0), 1e-2: curve(0, 0.1), 2.5e-2: curve(0.2, 0)}
    assert search.next_decay(curves) == 3e-3
    curves[3e-3] = curve(0.1, 0, noise=0.2, seed=1)
    assert search.next_decay(curves) is None
    assert value_of(search.choice(curves)) == 1e-3


def test_a_search_does_not_go_beyond_the_numbers_that_there_are() -> None:
    assert DecaySearch(1e308, 1e-4, 1).next_decay({1e308: curve(0)}) is None


@settings(max_examples=60, deadline=None)
@given(
    own=st.sampled_from([0.0, 1e-4, 1e-2]),
    edge=st.floats(-5, 2),
    noise=st.floats(0, 0.3),
    epochs=st.floats(0, 20),
    seed=st.integers(0, 1000),
)
def test_whatever_the_noise_the_choice_was_tried_and_costs_no_more_than_the_edge(
    own: float, edge: float, noise: float, epochs: float, seed: int
) -> None:
    search, curves = DecaySearch(own, 1e-4, epochs), dict[float, LossCurve]()
    while len(curves) < 3 * SEARCHED and (decay := search.next_decay(curves)) is not None:
        assert decay not in curves
        curves[decay] = curve(min(0.1 * decay / 10**edge, 1.0), None, noise, seed)
    answer = search.choice(curves)
    assert isinstance(answer, Choice)
    assert answer.value in curves
    # The same noise in all: only the harm makes them differ. That of the own is measured against 0.
    assert (
        answer.value == own
        or 0.1 * answer.value / 10**edge <= tolerated_harm(epochs, overfits=True) * (1 + 6 * noise) + 1e-9
    )
