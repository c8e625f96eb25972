"""The scheduler: what real torch optimizers hold at each step is what the policy says."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from pl_onecycle.policy import OneCyclePolicy, presets
from pl_onecycle.scheduler import OneCycleScheduler
from tests.fits import SENTENCE
from tests.schedules import OPTIMIZERS, N, group_of, held, play, sgd, weights


# --------------------------------------------------------------------------------------------------- equals its policy
@pytest.mark.parametrize("kind", list(OPTIMIZERS))
@pytest.mark.parametrize("preset", ["smith", "torch", "torch_three_phase", "fastai"])
def test_every_step_uses_lr_and_momentum_of_the_policy(preset: Any, kind: str) -> None:
    optimizer = OPTIMIZERS[kind]()
    scheduler = OneCycleScheduler(optimizer, 0.5, N, preset=preset)
    policy = presets.from_preset(preset, 0.5, N)
    used = play(optimizer, scheduler, N + 5)
    assert scheduler.policy == policy
    assert group_of(used) == (
        [policy.lr(step) for step in range(N + 5)],
        [policy.momentum(step) for step in range(N + 5)],
    )


def test_steps_of_a_small_run_use_these_values() -> None:
    optimizer = sgd()
    used = play(optimizer, OneCycleScheduler(optimizer, 1.0, 6, pct_annihilation=1 / 3, final_div_factor=10), 7)
    # Two steps up, two down, two of annihilation: 1/10 -> 1 -> 1/10 -> 1/100.
    assert group_of(used)[0] == pytest.approx([0.1, 0.55, 1.0, 0.55, 0.1, 0.01, 0.01], rel=1e-12)
    assert group_of(used)[1] == pytest.approx([0.95, 0.9, 0.85, 0.9, 0.95, 0.95, 0.95], rel=1e-12)


def test_arguments_reach_the_policy() -> None:
    scheduler = OneCycleScheduler(
        sgd(),
        0.5,
        N,
        pct_start=0.2,
        pct_plateau=0.1,
        pct_annihilation=0.3,
        div_factor=5.0,
        final_div_factor=50.0,
        anneal_strategy="cos",
        cycle_momentum=False,
        base_momentum=0.6,
        max_momentum=0.7,
    )
    assert scheduler.policy == OneCyclePolicy(0.5, N, 0.2, 0.1, 0.3, 5.0, 50.0, "cos", False, 0.6, 0.7)


def test_last_lr_is_that_of_the_step_to_come() -> None:
    optimizer = sgd(0.1, 0.2)
    scheduler = OneCycleScheduler(optimizer, None, N)
    for _ in range(N + 2):
        assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        play(optimizer, scheduler, 1)


def test_second_beta_and_everything_else_of_a_group_is_left_alone() -> None:
    optimizer = torch.optim.AdamW(weights(), lr=0.1, betas=(0.9, 0.98), weight_decay=0.05, eps=1e-6)
    scheduler = OneCycleScheduler(optimizer, 0.5, N)
    for _ in range(N + 2):
        group = optimizer.param_groups[0]
        assert (group["betas"][1], group["weight_decay"], group["eps"]) == (0.98, 0.05, 1e-6)
        assert isinstance(group["betas"], tuple)
        play(optimizer, scheduler, 1)


UNMOVED: dict[str, Callable[[], Optimizer]] = {
    "adagrad": lambda: torch.optim.Adagrad(weights(), lr=0.1),
    "adadelta": lambda: torch.optim.Adadelta(weights(), lr=0.1),
    "sgd without momentum": lambda: torch.optim.SGD(weights(), lr=0.1),
    "rmsprop without momentum": lambda: torch.optim.RMSprop(weights(), lr=0.1),
    "adam with beta1 zero": lambda: torch.optim.Adam(weights(), lr=0.1, betas=(0.0, 0.99)),
}


@pytest.mark.parametrize("kind", list(UNMOVED))
def test_optimizer_without_momentum_is_scheduled_in_lr_alone(kind: str) -> None:
    optimizer = UNMOVED[kind]()
    keys = set(optimizer.param_groups[0])
    momentum = held(optimizer)[0][1]
    policy = OneCyclePolicy(0.5, N)
    used = play(optimizer, OneCycleScheduler(optimizer, 0.5, N), N)
    assert group_of(used) == ([policy.lr(step) for step in range(N)], [momentum] * N)
    assert not momentum
    assert ("momentum" in keys) == ("momentum" in optimizer.param_groups[0])


def test_momentum_stays_where_it_is_when_it_is_not_cycled() -> None:
    optimizer = sgd(momentum=0.77)
    used = play(optimizer, OneCycleScheduler(optimizer, 0.5, N, cycle_momentum=False), N + 2)
    assert group_of(used)[1] == [0.77] * (N + 2)


def test_momentum_may_go_down_to_zero_and_comes_back() -> None:
    optimizer = sgd()
    used = play(optimizer, OneCycleScheduler(optimizer, 1.0, 5, base_momentum=0.0, pct_annihilation=0.2), 5)
    # .95 down to 0 in two steps and back in two.
    assert group_of(used)[1] == pytest.approx([0.95, 0.475, 0.0, 0.475, 0.95])


@pytest.mark.parametrize("preset", ["smith", "torch", "torch_three_phase", "fastai"])
def test_last_values_are_held_for_a_thousand_further_steps(preset: Any) -> None:
    optimizer = sgd(0.1, 0.02)
    scheduler = OneCycleScheduler(optimizer, 1.0, N, preset=preset)
    play(optimizer, scheduler, scheduler.total_steps - 1)
    last = held(optimizer)
    assert last[0] == (scheduler.policy.lr(scheduler.total_steps - 1), 0.95)
    assert all(used == last for used in play(optimizer, scheduler, 1000))


# ------------------------------------------------------------------------------------------------------ several groups
def test_scalar_max_lr_is_for_the_group_with_the_largest_lr_and_the_others_keep_their_ratio() -> None:
    optimizer = sgd(0.01, 0.1, 0.05)
    scheduler = OneCycleScheduler(optimizer, 2.0, N)
    assert scheduler.max_lrs == pytest.approx([0.2, 2.0, 1.0])  # a tenth, the whole, a half
    policy = OneCyclePolicy(2.0, N)
    for step, used in enumerate(play(optimizer, scheduler, N + 3)):
        lr = policy.lr(step)
        assert [value for value, _ in used] == pytest.approx([0.1 * lr, lr, 0.5 * lr], rel=1e-12)


def test_list_of_max_lrs_is_taken_group_by_group() -> None:
    optimizer = sgd(0.1, 0.1, 0.1)
    scheduler = OneCycleScheduler(optimizer, [0.3, 2, 0.0], N)
    used = play(optimizer, scheduler, N + 3)
    assert scheduler.max_lrs == [0.3, 2.0, 0.0]
    for group, max_lr in enumerate([0.3, 2.0]):
        policy = OneCyclePolicy(max_lr, N)
        assert group_of(used, group)[0] == [policy.lr(step) for step in range(N + 3)]
    assert group_of(used, 2)[0] == [0.0] * (N + 3)


def test_tuple_of_max_lrs_is_as_good_as_a_list() -> None:
    assert OneCycleScheduler(sgd(0.1, 0.2), (0.5, 0.6), N).max_lrs == [0.5, 0.6]


def test_without_max_lr_each_group_peaks_at_its_own_lr() -> None:
    optimizer = sgd(0.01, 0.1)
    used = play(optimizer, OneCycleScheduler(optimizer, None, N), N)
    for group, max_lr in enumerate([0.01, 0.1]):
        assert group_of(used, group)[0] == [OneCyclePolicy(max_lr, N).lr(step) for step in range(N)]


def test_group_with_lr_zero_stays_frozen_next_to_others() -> None:
    optimizer = sgd(0.0, 0.1)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    used = play(optimizer, scheduler, N + 2)
    assert group_of(used, 0)[0] == [0.0] * (N + 2)
    assert max(group_of(used, 1)[0]) == 1.0
    scheduler.set_max_lr(2.0)
    assert scheduler.max_lrs == [0.0, 2.0]


def test_momentum_is_the_same_in_every_group_that_has_one() -> None:
    optimizer = torch.optim.SGD(
        [{"params": weights(), "momentum": 0.9}, {"params": weights(), "momentum": 0.0}], lr=0.1
    )
    used = play(optimizer, OneCycleScheduler(optimizer, 1.0, N), N)
    assert group_of(used, 0)[1] == [OneCyclePolicy(1.0, N).momentum(step) for step in range(N)]
    assert group_of(used, 1)[1] == [0.0] * N


# -------------------------------------------------------- what torch's OneCycleLR does to momentum 0 and to new groups
@pytest.mark.parametrize("preset", ["smith", "torch", "fastai"])
def test_momentum_zero_stays_zero_where_torch_makes_it_95_hundredths(preset: Any) -> None:
    optimizer = sgd(momentum=0)
    used = play(optimizer, OneCycleScheduler(optimizer, 0.5, N, preset=preset), N + 3)
    assert group_of(used)[1] == [0] * (N + 3)


@pytest.mark.parametrize("joins_at", [1, 5, 9, N - 1])
def test_group_added_during_training_joins_with_its_ratio_where_torch_raises_key_error(joins_at: int) -> None:
    optimizer = sgd(0.1)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    policy = OneCyclePolicy(1.0, N)
    play(optimizer, scheduler, joins_at)
    lr = optimizer.param_groups[0]["lr"]
    optimizer.add_param_group({"params": weights(), "lr": lr / 10})
    used = play(optimizer, scheduler, N + 3 - joins_at)
    expected = [policy.lr(step) for step in range(joins_at, N + 3)]
    assert group_of(used, 0)[0] == expected
    assert group_of(used, 1)[0] == pytest.approx([value / 10 for value in expected], rel=1e-9)
    # Its momentum is the optimizer's default until the next step.
    assert group_of(used, 1)[1][1:] == [policy.momentum(step) for step in range(joins_at + 1, N + 3)]
    assert scheduler.max_lrs == pytest.approx([1.0, 0.1], rel=1e-9)


def test_group_added_before_the_first_step_joins() -> None:
    optimizer = sgd(0.1)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    optimizer.add_param_group({"params": weights(), "lr": 0.05})  # half of 1.0 / 10
    used = play(optimizer, scheduler, N)
    assert group_of(used, 1)[0] == pytest.approx([0.5 * OneCyclePolicy(1.0, N).lr(step) for step in range(N)])


def test_state_can_be_saved_right_after_a_group_was_added() -> None:
    optimizer = sgd(0.1)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, 3)
    optimizer.add_param_group({"params": weights(), "lr": optimizer.param_groups[0]["lr"] / 10})
    assert scheduler.state_dict()["max_lrs"] == pytest.approx([1.0, 0.1], rel=1e-9)


def test_peak_can_be_moved_right_after_a_group_was_added() -> None:
    optimizer = sgd(0.1)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, 3)
    optimizer.add_param_group({"params": weights(), "lr": optimizer.param_groups[0]["lr"] / 10})
    scheduler.set_max_lr(2.0)
    lr = OneCyclePolicy(2.0, N).lr(3)
    assert [value for value, _ in held(optimizer)] == pytest.approx([lr, lr / 10], rel=1e-9)


# ---------------------------------------------------------------------------------------------------------- set_max_lr
@pytest.mark.parametrize("moved_at", [0, 1, 7, N - 1, N + 2])
def test_moved_peak_holds_from_the_current_step_on_and_keeps_ratios(moved_at: int) -> None:
    optimizer = sgd(0.1, 0.02)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    before, after = OneCyclePolicy(1.0, N), OneCyclePolicy(3.0, N)
    used = play(optimizer, scheduler, moved_at)
    scheduler.set_max_lr(3.0)
    assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
    used += play(optimizer, scheduler, N + 5 - moved_at)
    expected = [(before if step < moved_at else after).lr(step) for step in range(N + 5)]
    assert group_of(used, 0)[0] == expected
    assert group_of(used, 1)[0] == pytest.approx([lr / 5 for lr in expected], rel=1e-12)
    assert group_of(used, 0)[1] == [before.momentum(step) for step in range(N + 5)]


def test_peaks_can_be_moved_group_by_group() -> None:
    optimizer = sgd(0.1, 0.02)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    scheduler.set_max_lr([0.5, 4.0])
    used = play(optimizer, scheduler, N)
    assert scheduler.max_lrs == [0.5, 4.0]
    assert group_of(used, 0)[0] == [OneCyclePolicy(0.5, N).lr(step) for step in range(N)]
    assert group_of(used, 1)[0] == [OneCyclePolicy(4.0, N).lr(step) for step in range(N)]


def test_moved_peak_keeps_the_shape_of_the_cycle() -> None:
    scheduler = OneCycleScheduler(sgd(), 1.0, N, preset="torch", div_factor=7.0)
    scheduler.set_max_lr(3.0)
    assert scheduler.policy == presets.torch_two_phase(3.0, N, div_factor=7.0)


# ---------------------------------------------------------------------------------------------------- set_max_momentum
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("at", [0, 7, N - 1])
def test_set_max_momentum_plays_the_cycle_with_it_from_the_current_step_on(kind: str, at: int) -> None:
    optimizer = OPTIMIZERS[kind]()
    scheduler = OneCycleScheduler(optimizer, None, N, base_momentum=0.8)
    before, after = scheduler.policy, replace(scheduler.policy, max_momentum=0.99)
    play(optimizer, scheduler, at)
    scheduler.set_max_momentum(0.99)
    assert scheduler.policy == after
    lrs, momenta = group_of(play(optimizer, scheduler, N - at))
    assert momenta == [after.momentum(step) for step in range(at, N)]
    assert lrs == [before.lr(step) for step in range(at, N)]


def test_the_smallest_momentum_is_lowered_to_a_largest_below_it() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, None, N)
    scheduler.set_max_momentum(0.5)
    assert (scheduler.policy.base_momentum, scheduler.policy.max_momentum) == (0.5, 0.5)
    assert set(group_of(play(optimizer, scheduler, N))[1]) == {0.5}


def test_set_max_momentum_gives_none_to_a_group_without() -> None:
    optimizer = torch.optim.SGD(
        [{"params": weights(), "momentum": 0.9}, {"params": weights(), "momentum": 0.0}], lr=0.1
    )
    scheduler = OneCycleScheduler(optimizer, None, N)
    scheduler.set_max_momentum(0.97)
    assert [momentum for _, momentum in held(optimizer)] == [0.97, 0.0]


def test_set_max_momentum_of_a_cycle_without_momentum_leaves_that_alone() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, None, N, cycle_momentum=False)
    scheduler.set_max_momentum(0.97)
    assert set(group_of(play(optimizer, scheduler, N))[1]) == {0.9}


@pytest.mark.parametrize(("value", "error"), [(1.0, ValueError), (-0.1, ValueError), ("0.9", TypeError)], ids=repr)
def test_a_bad_largest_momentum_is_refused_and_changes_nothing(value: Any, error: type[Exception]) -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, None, N)
    before = (scheduler.policy, held(optimizer))
    with pytest.raises(error, match=r"^Expected argument `(max_)?momentum` to be "):
        scheduler.set_max_momentum(value)
    assert (scheduler.policy, held(optimizer)) == before


# ----------------------------------------------------------------------------------------------------------- tensor lr
def test_tensor_lr_and_tensor_betas_stay_the_same_tensors() -> None:
    lr, beta1, beta2 = torch.tensor(0.1), torch.tensor(0.9), torch.tensor(0.99)
    optimizer = torch.optim.AdamW(weights(), lr=lr, betas=(beta1, beta2), foreach=False, capturable=True)
    scheduler = OneCycleScheduler(optimizer, 0.5, N)
    policy = OneCyclePolicy(0.5, N)
    for step in range(N + 3):
        group = optimizer.param_groups[0]
        assert group["lr"] is lr
        assert group["betas"][0] is beta1
        assert group["betas"][1] is beta2
        assert float(lr) == pytest.approx(policy.lr(step))
        assert float(beta1) == pytest.approx(policy.momentum(step))
        assert float(beta2) == pytest.approx(0.99)
        play(optimizer, scheduler, 1)
    assert group["initial_lr"] is not lr


def test_tensor_lr_is_the_peak_when_none_is_given() -> None:
    lr = torch.tensor(0.25, dtype=torch.float64)
    optimizer = torch.optim.SGD(weights(), lr=lr, foreach=False)
    used = play(optimizer, OneCycleScheduler(optimizer, None, N), N)
    assert optimizer.param_groups[0]["lr"] is lr
    assert group_of(used)[0] == [OneCyclePolicy(0.25, N).lr(step) for step in range(N)]


# ------------------------------------------------------------------------------------------------------- bad arguments
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_lr", 0, ValueError),
        ("max_lr", -1.0, ValueError),
        ("max_lr", math.nan, ValueError),
        ("max_lr", math.inf, ValueError),
        ("max_lr", True, TypeError),
        ("max_lr", {"lr": 1.0}, TypeError),
        ("max_lr", [], ValueError),
        ("max_lr", [1.0], ValueError),
        ("max_lr", [1.0, 2.0, 3.0], ValueError),
        ("max_lr", [0.0, 0.0], ValueError),
        ("max_lr", [1.0, -1.0], ValueError),
        ("max_lr", [1.0, math.nan], ValueError),
        ("max_lr", [1.0, None], TypeError),
        ("max_lr", "0.1", ValueError),
        ("total_steps", 0, ValueError),
        ("total_steps", 1.5, TypeError),
        ("preset", "smyth", ValueError),
        ("pct_annihilation", 1.5, ValueError),
        ("div_factor", "ten", TypeError),
        ("anneal_strategy", "cubic", ValueError),
        ("cycle_momentum", "yes", TypeError),
    ],
)
def test_bad_argument_gets_one_sentence_and_leaves_the_optimizer_alone(
    name: str, value: Any, error: type[Exception]
) -> None:
    optimizer = sgd(0.1, 0.02)
    before = [{key: item for key, item in group.items() if key != "params"} for group in optimizer.param_groups]
    arguments: dict[str, Any] = {"max_lr": 1.0, "total_steps": N} | {name: value}
    with pytest.raises(error, match=SENTENCE.format(name)):
        OneCycleScheduler(optimizer, **arguments)
    after = [{key: item for key, item in group.items() if key != "params"} for group in optimizer.param_groups]
    assert after == before


@pytest.mark.parametrize(
    ("max_lr", "error"),
    [(0, ValueError), (math.nan, ValueError), ("x", ValueError), (None, TypeError), ([1.0], ValueError)],
    ids=repr,
)
def test_bad_peak_to_move_to_gets_one_sentence_and_changes_nothing(max_lr: Any, error: type[Exception]) -> None:
    optimizer = sgd(0.1, 0.02)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    before = (held(optimizer), scheduler.state_dict())
    with pytest.raises(error, match=SENTENCE.format("max_lr")):
        scheduler.set_max_lr(max_lr)
    assert (held(optimizer), scheduler.state_dict()) == before


def test_all_groups_with_lr_zero_have_no_peak_of_their_own() -> None:
    with pytest.raises(ValueError, match=SENTENCE.format("max_lr")):
        OneCycleScheduler(sgd(0.0), None, N)


@pytest.mark.parametrize("lr", [None, "0.1", -0.1, math.nan, math.inf], ids=repr)
def test_optimizer_without_a_usable_lr_gets_one_sentence(lr: Any) -> None:
    optimizer = sgd(0.1)
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(ValueError, match=SENTENCE.format("optimizer")):
        OneCycleScheduler(optimizer, 1.0, N)


@pytest.mark.parametrize("optimizer", [None, 0.1, torch.nn.Linear(1, 1)], ids=lambda value: type(value).__name__)
def test_what_is_not_an_optimizer_is_a_type_error(optimizer: Any) -> None:
    with pytest.raises(TypeError):
        OneCycleScheduler(optimizer, 1.0, N)


def test_unknown_argument_is_named() -> None:
    with pytest.raises(TypeError, match="pct_stat"):
        OneCycleScheduler(sgd(), 1.0, N, pct_stat=0.3)  # type: ignore[call-arg]


# ------------------------------------------------------------------------------------------------------------ notebook
def test_a_schedule_says_in_a_line_and_in_a_notebook_what_it_is() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 0.5, N)
    play(optimizer, scheduler, 3)
    assert repr(scheduler) == f"OneCycleScheduler(max_lr 0.5, step 3 of {N})"
    assert repr(scheduler.simulate()) == f"Simulated({N} steps, lr up to 0.5)"
    html = scheduler._repr_html_()
    assert html.startswith(f"<div><b>One cycle: max_lr 0.5, {N} steps</b><br>at step 3<br><img ")
    assert 'src="data:image/png;base64,iVBOR' in html
