"""The scheduler: what real torch optimizers hold at each step is what the policy says."""

import copy
import gc
import io
import math
import pickle
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import Optimizer

from pl_onecycle.policy import OneCyclePolicy, presets
from pl_onecycle.scheduler import OneCycleScheduler

SENTENCE = r"^Expected argument `{}` to be [^\n]+ but got [^\n]+$"
N = 20
many = settings(deadline=None, database=None, derandomize=True, max_examples=60)


def weights(count: int = 1) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(1)) for _ in range(count)]


def sgd(*lrs: Any, momentum: float = 0.9) -> torch.optim.SGD:
    """One group for each lr."""
    return torch.optim.SGD([{"params": weights(), "lr": lr} for lr in lrs or (0.1,)], momentum=momentum)


def held(optimizer: Optimizer) -> list[tuple[float, float | None]]:
    """Learning rate and momentum of each group."""
    return [
        (float(group["lr"]), float(group["betas"][0]) if "betas" in group else group.get("momentum"))
        for group in optimizer.param_groups
    ]


def play(
    optimizer: Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int
) -> list[list[tuple[float, float | None]]]:
    """Take ``steps`` optimizer steps and return what each of them used."""
    used = []
    for _ in range(steps):
        used.append(held(optimizer))
        optimizer.step()
        scheduler.step()
    return used


def group_of(used: list[list[tuple[float, float | None]]], group: int = 0) -> tuple[list[float], list[float | None]]:
    """Curves of learning rate and momentum of one group."""
    return [step[group][0] for step in used], [step[group][1] for step in used]


def saved(state: Any) -> Any:
    """``state`` as it comes back from a file that is read without pickle."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# -------------------------------------------------------------------------------------- equals its policy
OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: torch.optim.SGD(weights(), lr=0.1, momentum=0.9),
    "nesterov": lambda: torch.optim.SGD(weights(), lr=0.1, momentum=0.5, nesterov=True),
    "rmsprop": lambda: torch.optim.RMSprop(weights(), lr=0.1, momentum=0.9),
    "adam": lambda: torch.optim.Adam(weights(), lr=0.1),
    "adamw": lambda: torch.optim.AdamW(weights(), lr=0.1, betas=(0.7, 0.99)),
}


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


# ------------------------------------------------------------------------------------------ several groups
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


def test_group_with_lr_zero_beside_others_stays_frozen() -> None:
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


# ------------------------------------------------------- what torch's OneCycleLR does to momentum 0 and to new groups
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


# --------------------------------------------------------------------------------------------- set_max_lr
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


# --------------------------------------------------------------------------------------- set_max_momentum
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


def test_the_smallest_momentum_gives_way_to_a_largest_below_it() -> None:
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


def test_set_max_momentum_survives_set_max_lr_and_a_resume() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, None, N)
    scheduler.set_max_momentum(0.99)
    scheduler.set_max_lr(0.5)
    play(optimizer, scheduler, 5)
    other = sgd()
    resumed = OneCycleScheduler(other, None, N)
    other.load_state_dict(saved(optimizer.state_dict()))
    resumed.load_state_dict(saved(scheduler.state_dict()))
    assert resumed.policy == replace(OneCyclePolicy(0.5, N), max_momentum=0.99)
    assert play(other, resumed, N - 5) == play(optimizer, scheduler, N - 5)


@pytest.mark.parametrize(("value", "error"), [(1.0, ValueError), (-0.1, ValueError), ("0.9", TypeError)], ids=repr)
def test_a_bad_largest_momentum_is_refused_and_changes_nothing(value: Any, error: type[Exception]) -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, None, N)
    before = (scheduler.policy, held(optimizer))
    with pytest.raises(error, match=r"^Expected argument `(max_)?momentum` to be "):
        scheduler.set_max_momentum(value)
    assert (scheduler.policy, held(optimizer)) == before


# ---------------------------------------------------------------------------------------------- tensor lr
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


# ------------------------------------------------------------------------------------------ state and resume
def test_state_is_these_plain_values() -> None:
    optimizer = sgd(0.1, 0.05)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, 4)
    assert scheduler.state_dict() == {
        "last_epoch": 4,
        "step_count": 5,
        "max_lrs": [1.0, 0.5],
        "policy": {
            "max_lr": 1.0,
            "total_steps": N,
            "pct_start": None,
            "pct_plateau": 0.0,
            "pct_annihilation": 0.1,
            "div_factor": 10.0,
            "final_div_factor": 1e4,
            "anneal_strategy": "linear",
            "cycle_momentum": True,
            "base_momentum": 0.85,
            "max_momentum": 0.95,
            "decay": None,
        },
        "clock": [[0, 0]],
    }


@pytest.mark.parametrize(
    ("optimizer", "max_lr", "total_steps", "arguments"),
    [
        (sgd(0.1, 0.2), 1.0, N, {}),
        (sgd(torch.tensor(0.1)), None, N, {}),
        (sgd(0.1), np.float64(1.0), N, {}),
        (sgd(0.1), 1.0, np.int64(N), {}),
        (sgd(0.1), 1.0, N, {"pct_start": np.float64(0.25), "div_factor": np.float32(8)}),
    ],
    ids=["numbers", "tensor lr", "numpy max_lr", "numpy total_steps", "numpy arguments"],
)
def test_state_loads_without_pickle(
    optimizer: Optimizer, max_lr: Any, total_steps: Any, arguments: dict[str, Any]
) -> None:
    state = OneCycleScheduler(optimizer, max_lr, total_steps, **arguments).state_dict()
    assert saved(state) == state


@pytest.mark.parametrize("preset", ["smith", "torch", "fastai", "exp_decay"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("at", [0, 1, 9, N - 1, N, N + 3])
def test_resumed_run_goes_on_exactly(at: int, kind: str, preset: Any) -> None:
    optimizer = OPTIMIZERS[kind]()
    scheduler = OneCycleScheduler(optimizer, 0.7, N, preset=preset)
    play(optimizer, scheduler, at)
    states = saved({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})
    again = OPTIMIZERS[kind]()
    resumed = OneCycleScheduler(again, 0.7, N, preset=preset)
    again.load_state_dict(states["optimizer"])
    resumed.load_state_dict(states["scheduler"])
    assert resumed.state_dict() == scheduler.state_dict()
    assert resumed.get_last_lr() == scheduler.get_last_lr()
    assert play(again, resumed, N + 5 - at) == play(optimizer, scheduler, N + 5 - at)


@many
@given(
    st.integers(0, 45), st.integers(1, 40), st.floats(1e-4, 10), st.lists(st.floats(1e-4, 10), min_size=1, max_size=3)
)
def test_any_resumed_run_goes_on_exactly_without_the_state_of_the_optimizer_too(
    at: int, total_steps: int, max_lr: float, lrs: list[float]
) -> None:
    optimizer = sgd(*lrs)
    scheduler = OneCycleScheduler(optimizer, max_lr, total_steps)
    play(optimizer, scheduler, at)
    again = sgd(*lrs)
    resumed = OneCycleScheduler(again, 123.0, total_steps)  # another peak: the saved one is what goes on
    resumed.load_state_dict(scheduler.state_dict())
    assert held(again) == held(optimizer)
    assert play(again, resumed, 5) == play(optimizer, scheduler, 5)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_momentum_that_is_zero_at_the_peak_comes_back_after_a_resume_there(at: int) -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 1.0, 5, base_momentum=0.0, pct_annihilation=0.2)
    play(optimizer, scheduler, at)
    states = saved({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})
    again = sgd()
    resumed = OneCycleScheduler(again, 1.0, 5, base_momentum=0.0, pct_annihilation=0.2)
    again.load_state_dict(states["optimizer"])
    resumed.load_state_dict(states["scheduler"])
    momentum = group_of(play(again, resumed, 5 - at))[1]
    assert momentum == pytest.approx([0.95, 0.475, 0.0, 0.475, 0.95][at:])


def test_state_of_a_group_that_joined_goes_to_one_that_joins_again() -> None:
    def joined(steps: int) -> tuple[Optimizer, OneCycleScheduler]:
        optimizer = sgd(0.1)
        scheduler = OneCycleScheduler(optimizer, 1.0, N)
        play(optimizer, scheduler, steps)
        optimizer.add_param_group({"params": weights(), "lr": optimizer.param_groups[0]["lr"] / 4})
        return optimizer, scheduler

    optimizer, scheduler = joined(3)
    play(optimizer, scheduler, 4)
    states = saved({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})
    again, resumed = joined(0)  # a resumed run has the group from the start
    again.load_state_dict(states["optimizer"])
    resumed.load_state_dict(states["scheduler"])
    assert resumed.max_lrs == pytest.approx([1.0, 0.25])
    assert play(again, resumed, N) == play(optimizer, scheduler, N)


def test_schedule_goes_on_in_a_group_that_was_added_before_its_state_is_loaded() -> None:
    optimizer = sgd(0.1)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, 3)
    optimizer.add_param_group({"params": weights(), "lr": optimizer.param_groups[0]["lr"] / 4})
    play(optimizer, scheduler, 4)
    again = sgd(0.1)
    resumed = OneCycleScheduler(again, 1.0, N)
    again.add_param_group({"params": weights(), "lr": 0.1})
    resumed.load_state_dict(saved(scheduler.state_dict()))
    assert play(again, resumed, N) == play(optimizer, scheduler, N)


@pytest.mark.parametrize("loaded", [True, False], ids=["with", "without"])
def test_optimizer_state_of_a_run_without_schedule_joins_the_cycle(loaded: bool) -> None:
    optimizer = sgd(0.1, 0.02)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    if loaded:  # its groups know of no cycle, and stand at lr lo as ours do
        optimizer.load_state_dict(sgd(0.1, 0.02).state_dict())
    used = play(optimizer, scheduler, N)
    assert group_of(used, 0)[0] == pytest.approx([OneCyclePolicy(1.0, N).lr(step) for step in range(N)])
    assert group_of(used, 1)[0] == pytest.approx([OneCyclePolicy(0.2, N).lr(step) for step in range(N)])


def test_moved_peak_survives_a_resume() -> None:
    optimizer = sgd(0.1, 0.02)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, 6)
    scheduler.set_max_lr([3.0, 0.1])
    again = sgd(0.1, 0.02)
    resumed = OneCycleScheduler(again, 1.0, N)
    resumed.load_state_dict(saved(scheduler.state_dict()))
    assert resumed.max_lrs == [3.0, 0.1]
    assert play(again, resumed, N) == play(optimizer, scheduler, N)


@pytest.mark.parametrize("at", [0, 6, N, N + 3])
def test_resume_with_the_same_length_says_nothing(at: int) -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, at)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        OneCycleScheduler(sgd(), 2.0, N, preset="torch").load_state_dict(scheduler.state_dict())
    assert caught == []


@pytest.mark.parametrize("at", [1, 8, N])
def test_scheduler_built_on_a_resumed_optimizer_starts_at_the_step_after_last_epoch(at: int) -> None:
    optimizer = sgd(0.1, 0.02)
    scheduler = OneCycleScheduler(optimizer, 1.0, N)
    play(optimizer, scheduler, at)
    again = sgd(0.1, 0.02)
    again.load_state_dict(optimizer.state_dict())
    resumed = OneCycleScheduler(again, 1.0, N, last_epoch=at - 1)
    assert resumed.last_epoch == at
    assert play(again, resumed, N) == play(optimizer, scheduler, N)


# ----------------------------------------------------------------------------- resumed in a run of another length
# With plateaus; of 40 steps.
SHAPES: dict[str, dict[str, Any]] = {
    "smith": {"pct_plateau": 0.1},
    "torch": {"pct_plateau": 0.1},
    "torch_three_phase": {"pct_plateau": 0.1},
    "fastai": {"pct_plateau": 0.1},
    "exp_decay": {"rampup_epochs": 8, "sustain_epochs": 4, "exp_decay": 0.9, "cycle_momentum": True},
}
LONG = 40


def places(preset: Any) -> dict[str, int]:
    """A step in the middle of each phase, and the peak."""
    policy = presets.from_preset(preset, 1.0, LONG, **SHAPES[preset])
    middles = {f"in the {phase.name}": phase.start + max(phase.span // 2, 1) for phase in policy.phases}
    return {"at the start": 0, "at the peak": policy.peak_step} | middles


PLACES = [pytest.param(preset, at, id=f"{preset} {place}") for preset in SHAPES for place, at in places(preset).items()]


def cycle(total_steps: int, preset: Any = "smith", kind: str = "sgd") -> tuple[Optimizer, OneCycleScheduler]:
    """An optimizer of two groups, the second at a fifth of the first, and its cycle with the peak 1."""
    rates = [{"params": weights(), "lr": lr} for lr in (0.5, 0.1)]
    optimizer: Optimizer = torch.optim.Adam(rates) if kind == "adam" else torch.optim.SGD(rates, momentum=0.9)
    return optimizer, OneCycleScheduler(optimizer, 1.0, total_steps, preset=preset, **SHAPES[preset])


def resumed_from(
    optimizer: Optimizer, scheduler: OneCycleScheduler, total_steps: int, preset: Any = "smith", kind: str = "sgd"
) -> tuple[Optimizer, OneCycleScheduler]:
    """The same from a file, in a run of ``total_steps``."""
    states = saved({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})
    again, resumed = cycle(total_steps, preset, kind)
    again.load_state_dict(states["optimizer"])
    resumed.load_state_dict(states["scheduler"])
    return again, resumed


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


def test_steps_of_a_run_that_had_ended_and_goes_on_use_these_values() -> None:
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
def test_a_state_saved_after_a_replan_goes_on_exactly_without_a_warning(
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
def test_a_run_with_nothing_left_to_plan_goes_on_as_saved(asked: int) -> None:
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


@pytest.mark.parametrize("after", [N, N + 2], ids=["at the end", "two steps behind it"])
def test_a_restart_behind_the_end_holds_the_last_value(after: int) -> None:
    optimizer, scheduler = cycle(N)
    play(optimizer, scheduler, after)
    scheduler.restart(2.0)
    assert group_of(play(optimizer, scheduler, 3))[0] == pytest.approx([2e-5] * 3, rel=1e-12)
    assert scheduler.total_steps == N


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


# ------------------------------------------------------------------------------------------------- a new cycle
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
def test_a_restart_puts_the_peaks_where_it_is_told(max_lr: Any, peaks: list[float]) -> None:
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


# -------------------------------------------------------------------------------------- steps that are none (fp16)
INF = math.inf
GRADIENTS = [1.0, INF, 1.0, 1.0, INF, INF, math.nan, *[1.0] * N]
SCALED: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: torch.optim.SGD(weights(), lr=0.1, momentum=0.9),
    "adam": lambda: torch.optim.Adam(weights(), lr=0.1),
    "fused adamw": lambda: torch.optim.AdamW(weights(), lr=0.1, fused=True),
}


def play_scaled(
    optimizer: Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, gradients: list[float]
) -> list[tuple[float, bool]]:
    """Train with a gradient scaler; return the lr of each attempt and whether the weights have moved."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    [weight] = optimizer.param_groups[0]["params"]
    attempts = []
    for gradient in gradients:
        lr, before = held(optimizer)[0][0], weight.detach().clone()
        optimizer.zero_grad()
        scaler.scale((gradient * weight).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        attempts.append((lr, not torch.equal(weight, before)))
    return attempts


@pytest.mark.parametrize("kind", SCALED)
def test_steps_that_the_gradient_scaler_leaves_out_do_not_count(kind: str) -> None:
    optimizer = SCALED[kind]()
    scheduler = OneCycleScheduler(optimizer, 0.5, N, only_real_steps=True)
    policy = OneCyclePolicy(0.5, N)
    attempts = play_scaled(optimizer, scheduler, GRADIENTS)
    assert [moved for _, moved in attempts] == [math.isfinite(gradient) for gradient in GRADIENTS]
    assert [lr for lr, moved in attempts if moved] == [policy.lr(step) for step in range(N + 3)]
    # An attempt that failed is made again with the same lr.
    assert [lr for lr, _ in attempts[1:3]] == [policy.lr(1)] * 2
    assert [lr for lr, _ in attempts[4:8]] == [policy.lr(3)] * 4
    assert scheduler.last_epoch == N + 3


@pytest.mark.parametrize("kind", SCALED)
def test_every_call_counts_where_it_is_not_asked_for(kind: str) -> None:
    optimizer = SCALED[kind]()
    scheduler = OneCycleScheduler(optimizer, 0.5, N)
    assert not scheduler.only_real_steps
    attempts = play_scaled(optimizer, scheduler, GRADIENTS)
    assert [lr for lr, _ in attempts] == [OneCyclePolicy(0.5, N).lr(step) for step in range(len(GRADIENTS))]


@pytest.mark.filterwarnings("error")
def test_a_first_step_that_is_left_out_is_no_reason_for_torch_to_warn() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 0.5, N, only_real_steps=True)
    attempts = play_scaled(optimizer, scheduler, [INF, 1.0, 1.0])
    assert [lr for lr, _ in attempts] == [0.05, 0.05, OneCyclePolicy(0.5, N).lr(1)]  # 0.5 / 10 twice


def test_several_optimizer_steps_between_two_calls_count_once() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 0.5, N, only_real_steps=True)
    for _ in range(3):
        for _ in range(2):
            optimizer.step()
        for _ in range(2):
            scheduler.step()
    assert scheduler.last_epoch == 3


def test_a_step_that_is_named_is_taken() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 0.5, N, only_real_steps=True)
    optimizer.step()
    scheduler.step()
    with pytest.warns(UserWarning, match="epoch parameter"):  # torch's own
        scheduler.step(7)
    assert held(optimizer)[0][0] == OneCyclePolicy(0.5, N).lr(7)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("kind", SCALED)
def test_copy_counts_the_real_steps_of_its_own_optimizer(duplicate: Callable[[Any], Any], kind: str) -> None:
    optimizer = SCALED[kind]()
    scheduler = OneCycleScheduler(optimizer, 0.5, N, only_real_steps=True)
    policy = OneCyclePolicy(0.5, N)
    play_scaled(optimizer, scheduler, [1.0, 1.0])
    copied = duplicate(scheduler)
    assert copied.optimizer is not optimizer
    attempts = play_scaled(copied.optimizer, copied, [1.0, INF, 1.0, 1.0])
    assert [lr for lr, _ in attempts] == [policy.lr(step) for step in (2, 3, 3, 4)]
    assert scheduler.last_epoch == 2
    optimizer.step()
    copied.step()  # whose own optimizer has not stepped
    assert copied.last_epoch == 5
    scheduler.step()
    assert scheduler.last_epoch == 3


def test_the_optimizer_does_not_keep_the_scheduler_alive() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 0.5, N, only_real_steps=True)
    noted = weakref.ref(scheduler)
    del scheduler
    gc.collect()
    assert noted() is None
    before = held(optimizer)
    optimizer.step()  # whose hook has nobody to tell
    assert held(optimizer) == before


def test_resume_among_skipped_steps_is_exact() -> None:
    def begin() -> tuple[Optimizer, OneCycleScheduler]:
        optimizer = sgd()
        return optimizer, OneCycleScheduler(optimizer, 0.5, N, only_real_steps=True)

    optimizer, scheduler = begin()
    play_scaled(optimizer, scheduler, [1.0, INF, 1.0, INF])
    again, resumed = begin()
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(saved(scheduler.state_dict()))
    gradients = [INF, 1.0, 1.0, INF, 1.0]
    lr = [lr for lr, _ in play_scaled(again, resumed, gradients)]
    assert lr == [lr for lr, _ in play_scaled(optimizer, scheduler, gradients)]
    assert lr == [OneCyclePolicy(0.5, N).lr(step) for step in (2, 2, 3, 4, 4)]


# ---------------------------------------------------------------------------------------------- after the end
@pytest.mark.parametrize("preset", ["smith", "torch", "torch_three_phase", "fastai"])
def test_last_values_are_held_for_a_thousand_further_steps(preset: Any) -> None:
    optimizer = sgd(0.1, 0.02)
    scheduler = OneCycleScheduler(optimizer, 1.0, N, preset=preset)
    play(optimizer, scheduler, scheduler.total_steps - 1)
    last = held(optimizer)
    assert last[0] == (scheduler.policy.lr(scheduler.total_steps - 1), 0.95)
    assert all(used == last for used in play(optimizer, scheduler, 1000))


# ----------------------------------------------------------------------------------------------- bad arguments
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
        ("total_steps", None, TypeError),
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


# ----------------------------------------------------------------------------------------- copies, as torch's own
def one_cycle_lr(optimizer: Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, [1.0, 0.2], total_steps=N)


def ours(optimizer: Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return OneCycleScheduler(optimizer, [1.0, 0.2], N)


@pytest.mark.parametrize("build", [ours, one_cycle_lr])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["deepcopy", "pickle"]
)
def test_copy_of_optimizer_and_scheduler_goes_on_exactly_and_apart(
    duplicate: Callable[[Any], Any], build: Callable[[Optimizer], torch.optim.lr_scheduler.LRScheduler]
) -> None:
    optimizer = sgd(0.1, 0.02)
    scheduler = build(optimizer)
    play(optimizer, scheduler, 4)
    before = held(optimizer)
    again, resumed = duplicate((optimizer, scheduler))
    assert resumed.optimizer is again
    copied = play(again, resumed, N - 5)
    assert held(optimizer) == before
    assert copied == play(optimizer, scheduler, N - 5)
