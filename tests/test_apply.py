"""The found learning rate or momentum is the one that training then uses, whatever schedule stands on the optimizer."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD, Adam, Optimizer
from torch.optim import lr_scheduler as schedulers

from pl_onecycle.apply import apply_max_lr, apply_momentum
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.scheduler import OneCycleScheduler
from tests.fits import SmallNet
from tests.schedules import sgd

# torch 2.4 warns of what its own SequentialLR does.
pytestmark = pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")

STEPS = 12
OLD, FOUND = 0.02, 0.37


# Each gets the optimizer and the learning rates that its groups were made with.
Build = Callable[[Optimizer, list[float]], Any]


SCHEDULERS: dict[str, Build] = {
    "none": lambda optimizer, lrs: None,
    "LambdaLR": lambda optimizer, lrs: schedulers.LambdaLR(optimizer, lambda step: 0.9**step),
    "MultiplicativeLR": lambda optimizer, lrs: schedulers.MultiplicativeLR(optimizer, lambda step: 1 - 0.05 * step),
    "StepLR": lambda optimizer, lrs: schedulers.StepLR(optimizer, 3, gamma=0.5),
    "MultiStepLR": lambda optimizer, lrs: schedulers.MultiStepLR(optimizer, [2, 7]),
    "ConstantLR": lambda optimizer, lrs: schedulers.ConstantLR(optimizer, factor=0.25, total_iters=4),
    "LinearLR": lambda optimizer, lrs: schedulers.LinearLR(optimizer, start_factor=0.2, total_iters=6),
    "ExponentialLR": lambda optimizer, lrs: schedulers.ExponentialLR(optimizer, 0.8),
    "PolynomialLR": lambda optimizer, lrs: schedulers.PolynomialLR(optimizer, total_iters=10, power=2.0),
    "CosineAnnealingLR": lambda optimizer, lrs: schedulers.CosineAnnealingLR(optimizer, T_max=11),
    "CosineAnnealingWarmRestarts": lambda optimizer, lrs: schedulers.CosineAnnealingWarmRestarts(optimizer, T_0=5),
    "ReduceLROnPlateau": lambda optimizer, lrs: schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=5),
    "CyclicLR": lambda optimizer, lrs: schedulers.CyclicLR(
        optimizer, [lr / 10 for lr in lrs], lrs, step_size_up=4, cycle_momentum=False
    ),
    "CyclicLR triangular2": lambda optimizer, lrs: schedulers.CyclicLR(
        optimizer, [lr / 4 for lr in lrs], lrs, step_size_up=2, mode="triangular2", cycle_momentum=False
    ),
    "OneCycleLR": lambda optimizer, lrs: schedulers.OneCycleLR(optimizer, lrs, total_steps=STEPS, pct_start=0.25),
    "OneCycleLR three phases": lambda optimizer, lrs: schedulers.OneCycleLR(
        optimizer, lrs, total_steps=STEPS, pct_start=0.25, three_phase=True, anneal_strategy="linear"
    ),
    "SequentialLR": lambda optimizer, lrs: schedulers.SequentialLR(
        optimizer,
        [
            schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=4),
            schedulers.CosineAnnealingLR(optimizer, T_max=STEPS - 4),
        ],
        milestones=[4],
    ),
    "ChainedScheduler": lambda optimizer, lrs: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(optimizer, factor=0.5, total_iters=3), schedulers.ExponentialLR(optimizer, 0.9)]
    ),
    "OneCycleScheduler": lambda optimizer, lrs: OneCycleScheduler(optimizer, lrs, STEPS),
    "OneCycleScheduler fastai": lambda optimizer, lrs: OneCycleScheduler(optimizer, lrs, STEPS, preset="fastai"),
}


by_scheduler = pytest.mark.parametrize("build", SCHEDULERS.values(), ids=SCHEDULERS)


others_than_ours = {name: build for name, build in SCHEDULERS.items() if not name.startswith("OneCycleScheduler")}


def train(optimizer: Optimizer, scheduler: Any, steps: int) -> Iterator[list[float]]:
    """The learning rates that each of ``steps`` steps uses, one for each group."""
    for _ in range(steps):
        yield [float(group["lr"]) for group in optimizer.param_groups]
        optimizer.step()
        if isinstance(scheduler, schedulers.ReduceLROnPlateau):
            scheduler.step(1.0)
        elif scheduler is not None:
            scheduler.step()


def present(scheduler: Any) -> list[Any]:
    return [] if scheduler is None else [scheduler]


def from_the_start(build: Build, lrs: list[float], dtype: torch.dtype | None = None) -> list[list[float]]:
    optimizer = sgd(*(lrs if dtype is None else [torch.tensor(lr, dtype=dtype) for lr in lrs]))
    return list(train(optimizer, build(optimizer, lrs), STEPS))


# ------------------------------------------------------------------------------------------------ the run that follows
@by_scheduler
@pytest.mark.parametrize("ratios", [[1.0], [1.0, 0.1], [0.1, 1.0]], ids=["one group", "two groups", "largest last"])
@pytest.mark.parametrize("after", [0, 1, 5], ids=lambda after: f"after {after} steps")
def test_the_run_continues_as_if_it_had_been_built_with_the_found_lr(
    build: Build, ratios: list[float], after: int
) -> None:
    # D9: Lightning writes group["lr"] only, so LambdaLR is back at the old lr at the next step and OneCycleLR still
    # peaks at the old one. D10: it sets all groups to one lr.
    old, new = [OLD * ratio for ratio in ratios], [FOUND * ratio for ratio in ratios]
    optimizer = sgd(*old)
    scheduler = build(optimizer, old)
    before = list(train(optimizer, scheduler, after))
    apply_max_lr(FOUND, optimizer, present(scheduler))
    run = list(train(optimizer, scheduler, STEPS - after))
    assert before == from_the_start(build, old)[:after]
    assert np.array(run) == pytest.approx(np.array(from_the_start(build, new)[after:]), rel=1e-9, abs=1e-15)


@by_scheduler
def test_groups_keep_their_ratio_of_ten_in_the_whole_run(build: Build) -> None:
    # D10: Lightning's finder sets every group to the found lr.
    optimizer = sgd(OLD, OLD / 10)
    scheduler = build(optimizer, [OLD, OLD / 10])
    apply_max_lr(FOUND, optimizer, present(scheduler))
    run = np.array(list(train(optimizer, scheduler, STEPS)))
    assert run[:, 0] == pytest.approx(10 * run[:, 1], rel=1e-9, abs=1e-15)
    assert run[:, 0].max() > 0.2 * FOUND  # ConstantLR's first lr is a quarter, CyclicLR's and SequentialLR's a tenth


@by_scheduler
def test_a_second_value_replaces_the_first(build: Build) -> None:
    optimizer = sgd(OLD, OLD / 10)
    scheduler = build(optimizer, [OLD, OLD / 10])
    for lr in (3.0, 1e-6, FOUND):
        apply_max_lr(lr, optimizer, present(scheduler))
    run = np.array(list(train(optimizer, scheduler, STEPS)))
    assert run == pytest.approx(np.array(from_the_start(build, [FOUND, FOUND / 10])), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("total_steps", "pct_start", "peak"),
    [(10, 0.3, 2), (12, 0.25, 2), (100, 0.3, 29), (20, 0.5, 9)],  # torch peaks at pct_start * N - 1
)
@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("lr", [0.37, 1e-5, 1 / 3])
def test_one_cycle_lr_peaks_exactly_at_the_found_lr(
    total_steps: int, pct_start: float, peak: int, anneal: Any, lr: float
) -> None:
    optimizer = sgd(OLD, OLD / 10)
    scheduler = schedulers.OneCycleLR(
        optimizer, [OLD, OLD / 10], total_steps, pct_start=pct_start, anneal_strategy=anneal
    )
    apply_max_lr(lr, optimizer, [scheduler])
    run = [lrs[0] for lrs in train(optimizer, scheduler, total_steps)]
    assert max(run) == lr
    assert run.index(lr) == peak


@pytest.mark.parametrize("total_steps", [1, 2, 3, 7, 50])
def test_our_own_cycle_peaks_exactly_at_the_found_lr(total_steps: int) -> None:
    optimizer = sgd(OLD / 3, OLD)
    scheduler = OneCycleScheduler(optimizer, None, total_steps)
    apply_max_lr(1 / 3, optimizer, [scheduler])
    assert max(lrs[1] for lrs in train(optimizer, scheduler, total_steps)) == 1 / 3
    assert scheduler.policy.max_lr == 1 / 3


def test_momentum_of_a_cycle_stays_its_own() -> None:
    optimizer = sgd(OLD)
    scheduler = schedulers.OneCycleLR(optimizer, OLD, total_steps=10, base_momentum=0.8, max_momentum=0.9)
    apply_max_lr(FOUND, optimizer, [scheduler])
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["base_momentum"], group["max_momentum"]) == (0.9, 0.8, 0.9)


def test_an_absolute_floor_of_the_user_stays() -> None:
    optimizer = sgd(OLD)
    scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=10, eta_min=1e-3)
    apply_max_lr(FOUND, optimizer, [scheduler])
    run = [lrs[0] for lrs in train(optimizer, scheduler, 11)]
    assert run[0] == FOUND
    assert run[10] == pytest.approx(1e-3)


def test_a_plateau_reduces_to_its_floor_and_not_below() -> None:
    optimizer = sgd(OLD)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, min_lr=0.01)
    apply_max_lr(FOUND, optimizer, [scheduler])
    # The first step sets the best metric; then x 0.1 to 0.037 and, instead of 0.0037, to 0.01.
    assert [lrs[0] for lrs in train(optimizer, scheduler, 5)] == pytest.approx([0.37, 0.37, 0.037, 0.01, 0.01])


def test_a_plateau_that_has_already_reduced_continues_from_the_found_lr() -> None:
    optimizer = sgd(OLD)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    assert [lrs[0] for lrs in train(optimizer, scheduler, 3)] == pytest.approx([OLD, OLD, OLD / 10])
    apply_max_lr(FOUND, optimizer, [scheduler])  # it keeps no peak but the lr in force
    assert [lrs[0] for lrs in train(optimizer, scheduler, 3)] == pytest.approx([FOUND, FOUND / 10, FOUND / 100])


@pytest.mark.parametrize("after", [0, 1, 5, 11], ids=lambda after: f"after {after} steps")
@pytest.mark.parametrize("ratios", [[1.0], [1.0, 0.1], [0.1, 1.0]], ids=["one group", "two groups", "largest last"])
def test_our_own_cycle_starts_again_where_it_is_asked_to(ratios: list[float], after: int) -> None:
    optimizer = sgd(*(OLD * ratio for ratio in ratios))
    scheduler = OneCycleScheduler(optimizer, None, STEPS)
    before = list(train(optimizer, scheduler, after))
    assert apply_max_lr(FOUND, optimizer, [scheduler], restart=True)[1:] == ["OneCycleScheduler"]
    run = np.array(list(train(optimizer, scheduler, STEPS)))
    rest = OneCyclePolicy(FOUND, STEPS - after)
    assert (
        before
        == from_the_start(
            lambda optimizer, lrs: OneCycleScheduler(optimizer, lrs, STEPS), [OLD * ratio for ratio in ratios]
        )[:after]
    )
    assert run[:, ratios.index(1.0)].tolist() == [rest.lr(step) for step in range(STEPS)]
    assert run == pytest.approx(np.array([[rest.lr(step) * ratio for ratio in ratios] for step in range(STEPS)]))
    assert scheduler.total_steps == STEPS


@pytest.mark.parametrize("build", others_than_ours.values(), ids=others_than_ours)
@pytest.mark.parametrize("after", [0, 5], ids=lambda after: f"after {after} steps")
def test_other_schedules_cannot_start_again_and_keep_their_place(build: Build, after: int) -> None:
    runs = []
    for restart in (False, True):
        optimizer = sgd(OLD, OLD / 10)
        scheduler = build(optimizer, [OLD, OLD / 10])
        list(train(optimizer, scheduler, after))
        apply_max_lr(FOUND, optimizer, present(scheduler), restart=restart)
        runs.append(list(train(optimizer, scheduler, STEPS - after)))
    assert runs[0] == runs[1]


def test_a_cycle_within_another_schedule_starts_again_too() -> None:
    optimizer = sgd(OLD)
    cycle = OneCycleScheduler(optimizer, None, STEPS)
    both = schedulers.ChainedScheduler([cycle], optimizer=optimizer)
    list(train(optimizer, both, 4))
    apply_max_lr(FOUND, optimizer, [both], restart=True)
    rest = OneCyclePolicy(FOUND, STEPS - 4)
    assert [lr for [lr] in train(optimizer, both, STEPS)] == [rest.lr(step) for step in range(STEPS)]


def test_only_the_schedules_that_are_given_are_touched() -> None:
    """As with several optimizers, of which one has been tested."""
    optimizer, other = sgd(OLD), sgd(OLD, 2 * OLD)
    scheduler, others = (OneCycleScheduler(each, None, STEPS) for each in (optimizer, other))
    for each, schedule in ((optimizer, scheduler), (other, others)):
        list(train(each, schedule, 3))
    before = ([dict(group) for group in other.param_groups], others.state_dict())
    apply_max_lr(FOUND, optimizer, [scheduler], restart=True)
    assert ([dict(group) for group in other.param_groups], others.state_dict()) == before


# ------------------------------------------------------------------------------------------------------- the optimizer
def test_what_an_optimizer_without_a_schedule_gets() -> None:
    optimizer = sgd(0.1, 1.0, 0.0)
    assert apply_max_lr(0.5, optimizer) == ["3 parameter groups"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5, 0.0]  # 0 is a tenth of nothing
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9, 0.9]


def test_an_optimizer_whose_lr_is_zero_gets_the_found_one() -> None:
    optimizer = sgd(0.0, 0.0)
    apply_max_lr(0.5, optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


@given(
    lrs=st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=5),
    found=st.floats(1e-9, 1e3),
)
def test_the_largest_group_gets_exactly_the_found_lr_and_the_others_their_share(lrs: list[float], found: float) -> None:
    optimizer = sgd(*lrs)
    scheduler = schedulers.StepLR(optimizer, 100)
    apply_max_lr(found, optimizer, [scheduler])
    new = [group["lr"] for group in optimizer.param_groups]
    assert max(new) == new[lrs.index(max(lrs))] == found
    assert new == pytest.approx([lr / max(lrs) * found for lr in lrs], rel=1e-12)
    assert scheduler.base_lrs == new
    assert scheduler.get_last_lr() == new


@by_scheduler
@pytest.mark.parametrize("after", [0, 5], ids=lambda after: f"after {after} steps")
def test_a_tensor_lr_stays_the_same_tensor_and_follows_the_schedule(build: Build, after: int) -> None:
    old, new = [OLD, OLD / 10], [FOUND, FOUND / 10]
    expected = np.array(from_the_start(build, new))
    if np.array(from_the_start(build, new, torch.float64)) != pytest.approx(expected):
        pytest.skip("this torch's own schedule differs with a tensor lr (SequentialLR of 2.4)")
    optimizer = sgd(*(torch.tensor(lr, dtype=torch.float64) for lr in old))
    scheduler = build(optimizer, old)
    list(train(optimizer, scheduler, after))
    before = [group["lr"] for group in optimizer.param_groups]  # some schedulers of torch 2.4 have replaced it
    apply_max_lr(FOUND, optimizer, present(scheduler))
    for group, lr in zip(optimizer.param_groups, before, strict=True):
        assert group["lr"] is lr or type(lr) is float
    assert after > 0 or all(isinstance(lr, torch.Tensor) for lr in before)
    run = list(train(optimizer, scheduler, STEPS - after))
    assert np.array(run) == pytest.approx(expected[after:], rel=1e-6, abs=1e-12)


def test_a_capturable_adam_keeps_its_tensor() -> None:
    tensor = torch.tensor(OLD)
    optimizer = Adam([torch.nn.Parameter(torch.ones(2))], lr=tensor, foreach=False)
    apply_max_lr(FOUND, optimizer)
    assert optimizer.param_groups[0]["lr"] is tensor
    assert tensor.item() == pytest.approx(FOUND)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    ("lr", "error"),
    [
        (0.0, ValueError),
        (0, ValueError),
        (-0.1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        ("0.1", TypeError),
        (None, TypeError),
        (True, TypeError),
        ([0.1], TypeError),
    ],
    ids=repr,
)
def test_a_bad_lr_is_refused_before_anything_changes(lr: Any, error: type[Exception]) -> None:
    optimizer = sgd(OLD)
    scheduler = schedulers.StepLR(optimizer, 3)
    net = SmallNet(lr=OLD)
    for restart in (False, True):
        with pytest.raises(error, match=r"^Expected argument `lr` to be a finite number > 0 but got "):
            apply_max_lr(lr, optimizer, [scheduler], net, restart=restart)
    assert (optimizer.param_groups[0]["lr"], scheduler.base_lrs, net.lr) == (OLD, [OLD], OLD)


# ------------------------------------------------------------------------------------------------------------ momentum
def test_momentum_goes_to_the_groups_that_have_any() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "momentum": momentum} for momentum in (0.9, 0.0)]
    optimizer = SGD(groups, lr=OLD)
    assert apply_momentum(0.5, optimizer) == ["1 parameter group"]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.5, 0.0]
    adam = Adam([torch.nn.Parameter(torch.ones(1))], betas=(0.9, 0.99))
    assert apply_momentum(0.5, adam) == ["1 parameter group"]
    assert adam.param_groups[0]["betas"] == (0.5, 0.99)


def test_other_keys_of_a_group_are_no_cycle() -> None:
    optimizer = SGD([{"params": [torch.zeros(1)], "max_momentum": None}], lr=OLD, momentum=0.9)
    apply_momentum(0.8, optimizer)
    assert (optimizer.param_groups[0]["momentum"], optimizer.param_groups[0]["max_momentum"]) == (0.8, None)


@pytest.mark.parametrize("after", [0, 5])
def test_momentum_is_the_largest_of_the_cycle_from_here_on(after: int) -> None:
    optimizer = sgd(OLD)
    cycle = OneCycleScheduler(optimizer, None, STEPS)
    list(train(optimizer, cycle, after))
    assert apply_momentum(0.99, optimizer, [cycle]) == ["1 parameter group", "OneCycleScheduler"]
    policy = OneCyclePolicy(OLD, STEPS, max_momentum=0.99)
    momenta = []
    for _ in range(after, STEPS):
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        cycle.step()
    assert momenta == [policy.momentum(step) for step in range(after, STEPS)]


def test_a_cycle_within_another_scheduler_gets_the_momentum_too() -> None:
    optimizer = sgd(OLD)
    cycle = OneCycleScheduler(optimizer, None, STEPS)
    chained = schedulers.ChainedScheduler([cycle, schedulers.ConstantLR(optimizer, 1.0, 3)])
    assert apply_momentum(0.99, optimizer, [chained]) == ["1 parameter group", "OneCycleScheduler"]
    assert cycle.policy.max_momentum == 0.99


@pytest.mark.parametrize(
    ("value", "error"),
    [(1.0, ValueError), (-0.1, ValueError), (math.nan, ValueError), ("0.9", TypeError), (None, TypeError)],
    ids=repr,
)
def test_a_bad_momentum_is_refused_before_anything_changes(value: Any, error: type[Exception]) -> None:
    optimizer = sgd(OLD)
    cycle = OneCycleScheduler(optimizer, None, STEPS)
    with pytest.raises(error, match=r"^Expected argument `momentum` to be a finite number >= 0 and < 1 but got "):
        apply_momentum(value, optimizer, [cycle])
    assert (optimizer.param_groups[0]["momentum"], cycle.policy.max_momentum) == (0.95, 0.95)
