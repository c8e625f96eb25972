"""With `only_real_steps`, a step that the gradient scaler of fp16 skips does not count."""

import copy
import gc
import math
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.scheduler import OneCycleScheduler
from tests.schedules import N, held, load, sgd, weights

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
    load(again, resumed, optimizer, scheduler)
    gradients = [INF, 1.0, 1.0, INF, 1.0]
    lr = [lr for lr, _ in play_scaled(again, resumed, gradients)]
    assert lr == [lr for lr, _ in play_scaled(optimizer, scheduler, gradients)]
    assert lr == [OneCyclePolicy(0.5, N).lr(step) for step in (2, 2, 3, 4, 4)]
