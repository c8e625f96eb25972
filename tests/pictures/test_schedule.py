"""The picture of a schedule, read back from the axes of matplotlib."""

import pytest
import torch

from pl_onecycle.pictures import SchedulePicture, draw
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.scheduler import OneCycleScheduler
from tests.pictures.drawn import labels, points, rendered, title
from tests.report.made import PLANNED
from tests.schedules import sgd


def test_a_cycle_is_drawn_step_by_step_with_its_momentum() -> None:
    cycle, right = PLANNED.plot().axes
    assert (title(cycle), cycle.get_xlabel(), right.get_ylabel()) == ("planned cycle", "optimizer step", "momentum")
    steps = list(range(40))
    assert points(cycle.lines[0]) == [[step, PLANNED.lr(step)] for step in steps]
    assert points(right.lines[0]) == [[step, PLANNED.momentum(step)] for step in steps]
    assert labels(cycle) == ["learning rate", "momentum"]


def test_a_cycle_without_momentum_has_one_axis() -> None:
    (ax,) = OneCyclePolicy(1.0, 10, cycle_momentum=False).plot().axes
    assert labels(ax) == ["learning rate"]


def test_a_long_cycle_is_drawn_with_few_points_but_both_ends_and_near_its_peak() -> None:
    policy = OneCyclePolicy(1.0, 1_000_000)
    line = points(policy.plot().axes[0].lines[0])
    assert len(line) == 501
    assert line[0] == [0, policy.lr(0)]
    assert line[-1] == [999_999, policy.lr(999_999)]
    # Steps 2000 apart, the slope of the rise is 0.9 in 450000 steps: at most 0.004 below the peak.
    assert max(lr for _, lr in line) > 1 - 0.004


def test_a_cycle_of_one_step_can_be_drawn() -> None:
    figure = OneCyclePolicy(0.5, 1).plot()
    assert points(figure.axes[0].lines[0]) == [[0, 0.5]]
    assert len(rendered(figure)) > 1000


def test_a_scheduler_draws_each_group_and_where_the_run_is() -> None:
    optimizer = sgd(0.1, 1.0)
    scheduler = OneCycleScheduler(optimizer, total_steps=10)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    ax, _ = scheduler.plot().axes
    assert labels(ax) == ["lr of group 0", "lr of group 1", "now: step 3", "momentum"]
    run = scheduler.simulate()
    assert [[y for _, y in points(line)] for line in ax.lines[:2]] == run.lrs


def test_a_schedule_is_drawn_into_given_axes() -> None:
    figure = draw(SchedulePicture.of(PLANNED))
    ax = figure.axes[0]
    assert PLANNED.plot(ax) is ax
    assert len(ax.lines) == 2


# ---------------------------------------------------------------------------------------------- simulate
def played(
    scheduler: OneCycleScheduler, optimizer: torch.optim.Optimizer, steps: int
) -> list[list[tuple[float, float]]]:
    """The lr and momentum of each group at each step from now on."""
    used = []
    for _ in range(steps):
        used.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return used


@pytest.mark.parametrize("preset", ["smith", "torch", "fastai", "exp_decay"])
def test_simulated_values_are_those_that_a_run_then_has(preset: str) -> None:
    optimizer = sgd(0.1, 1.0, 0.0) if preset == "smith" else sgd(0.1, 1.0)
    scheduler = OneCycleScheduler(optimizer, total_steps=30, preset=preset)  # type: ignore[arg-type]
    run = scheduler.simulate()
    used = played(scheduler, optimizer, scheduler.total_steps)
    for group, lrs in enumerate(run.lrs):
        assert lrs == pytest.approx([step[group][0] for step in used], rel=1e-12)
    momenta = [step[0][1] for step in used]
    assert (run.momentum or [0.9] * len(used)) == pytest.approx(momenta, rel=1e-12)


def test_simulated_values_after_a_restart_are_those_of_the_new_cycle() -> None:
    optimizer = sgd(1.0)
    scheduler = OneCycleScheduler(optimizer, total_steps=20)
    played(scheduler, optimizer, 8)
    scheduler.restart(0.5)
    run = scheduler.simulate()
    assert run.lr[8:] == pytest.approx([step[0][0] for step in played(scheduler, optimizer, 12)], rel=1e-12)


def test_a_simulation_changes_nothing() -> None:
    optimizer = sgd(0.1, 1.0)
    scheduler = OneCycleScheduler(optimizer, total_steps=10)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.05})
    groups = [{name: it for name, it in group.items() if name != "params"} for group in optimizer.param_groups]
    run = scheduler.simulate()
    after = [{name: it for name, it in group.items() if name != "params"} for group in optimizer.param_groups]
    assert after == groups
    assert scheduler.last_epoch == 0
    assert [lrs[0] for lrs in run.lrs] == pytest.approx([0.01, 0.1, 0.05])
