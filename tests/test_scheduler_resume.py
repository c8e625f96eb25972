"""A scheduler's state: a resumed or copied run continues exactly."""

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import Optimizer

from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.scheduler import OneCycleScheduler
from tests.schedules import OPTIMIZERS, N, group_of, held, load, many, play, saved, sgd, weights


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
def test_resumed_run_continues_exactly(at: int, kind: str, preset: Any) -> None:
    optimizer = OPTIMIZERS[kind]()
    scheduler = OneCycleScheduler(optimizer, 0.7, N, preset=preset)
    play(optimizer, scheduler, at)
    again = OPTIMIZERS[kind]()
    resumed = OneCycleScheduler(again, 0.7, N, preset=preset)
    load(again, resumed, optimizer, scheduler)
    assert resumed.state_dict() == scheduler.state_dict()
    assert resumed.get_last_lr() == scheduler.get_last_lr()
    assert play(again, resumed, N + 5 - at) == play(optimizer, scheduler, N + 5 - at)


@many
@given(
    st.integers(0, 45), st.integers(1, 40), st.floats(1e-4, 10), st.lists(st.floats(1e-4, 10), min_size=1, max_size=3)
)
def test_any_resumed_run_continues_exactly_without_the_state_of_the_optimizer_too(
    at: int, total_steps: int, max_lr: float, lrs: list[float]
) -> None:
    optimizer = sgd(*lrs)
    scheduler = OneCycleScheduler(optimizer, max_lr, total_steps)
    play(optimizer, scheduler, at)
    again = sgd(*lrs)
    resumed = OneCycleScheduler(again, 123.0, total_steps)  # another peak: the saved one is what continues
    resumed.load_state_dict(scheduler.state_dict())
    assert held(again) == held(optimizer)
    assert play(again, resumed, 5) == play(optimizer, scheduler, 5)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_momentum_that_is_zero_at_the_peak_comes_back_after_a_resume_there(at: int) -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, 1.0, 5, base_momentum=0.0, pct_annihilation=0.2)
    play(optimizer, scheduler, at)
    again = sgd()
    resumed = OneCycleScheduler(again, 1.0, 5, base_momentum=0.0, pct_annihilation=0.2)
    load(again, resumed, optimizer, scheduler)
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
    again, resumed = joined(0)  # a resumed run has the group from the start
    load(again, resumed, optimizer, scheduler)
    assert resumed.max_lrs == pytest.approx([1.0, 0.25])
    assert play(again, resumed, N) == play(optimizer, scheduler, N)


def test_schedule_continues_in_a_group_that_was_added_before_its_state_is_loaded() -> None:
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
def test_resume_with_the_same_length_warns_of_nothing(at: int) -> None:
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


def test_set_max_momentum_survives_set_max_lr_and_a_resume() -> None:
    optimizer = sgd()
    scheduler = OneCycleScheduler(optimizer, None, N)
    scheduler.set_max_momentum(0.99)
    scheduler.set_max_lr(0.5)
    play(optimizer, scheduler, 5)
    other = sgd()
    resumed = OneCycleScheduler(other, None, N)
    load(other, resumed, optimizer, scheduler)
    assert resumed.policy == replace(OneCyclePolicy(0.5, N), max_momentum=0.99)
    assert play(other, resumed, N - 5) == play(optimizer, scheduler, N - 5)


# ---------------------------------------------------------------------------------------------- copies, as torch's own
def one_cycle_lr(optimizer: Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, [1.0, 0.2], total_steps=N)


def ours(optimizer: Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return OneCycleScheduler(optimizer, [1.0, 0.2], N)


@pytest.mark.parametrize("build", [ours, one_cycle_lr])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["deepcopy", "pickle"]
)
def test_copy_of_optimizer_and_scheduler_continues_exactly_and_apart(
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
