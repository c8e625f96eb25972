"""What a run showed is said in plain words, from recorded numbers alone."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pl_onecycle.page import Plan, Played, hindsight, planned
from pl_onecycle.policy import OneCyclePolicy

STEPS = 200
POLICY = OneCyclePolicy(0.1, STEPS, pct_start=0.5, pct_annihilation=0.0)


def run(loss: Any, ended: str = "completed", steps: int = STEPS, **more: Any) -> Played:
    """A run under one cycle of 200 steps with a peak of 0.1 at step 100, with this loss at each step."""
    noise = np.random.default_rng(0).normal(size=steps) * 0.02
    losses = [loss(k) + noise[k] for k in range(steps)]
    lrs = [POLICY.lr(k) for k in range(steps)]
    return Played("SGD", range(steps), lrs, losses, done=steps, ended=ended, plan=planned(POLICY), **more)


def falls(step: int) -> float:
    """From 2 towards 0.5."""
    return 0.5 + 1.5 * math.exp(-step / 50)


def test_a_loss_that_falls_to_the_end_has_survived_the_peak() -> None:
    seen = hindsight(run(falls))
    assert seen.verdict == "survived"
    assert seen.advice == ()
    # 0.5 + 1.5 exp(-4.5 / 50) = 1.87 in the middle of the first tenth, 0.5 + 1.5 exp(-2) = 0.70 at step 100
    assert seen.shown[0].startswith("The training loss survived the peak of 0.1 at step")
    assert "at the peak" in seen.shown[0]
    assert 1.8 < float(seen.shown[0].split(": ")[1].split(" ")[0]) < 2.0


def test_a_loss_that_is_not_finite_tells_where_and_what_to_try() -> None:
    seen = hindsight(run(lambda step: falls(step) if step < 60 else math.nan))
    assert seen.verdict == "diverged"
    lr = POLICY.lr(60)
    assert f"was not finite at step 60, with lr {lr:.3g}, before its peak of 0.1" in seen.shown[0]
    assert f"Try a max_lr of {lr / 3:.2g}, {0.1 / (lr / 3):.1f} times lower" in seen.advice[0]
    assert "verify=True" in seen.advice[1]


def test_a_loss_that_explodes_to_finite_values_has_diverged_where_it_began_to() -> None:
    seen = hindsight(run(lambda step: falls(step) if step < 90 else 5.0 * (step - 88)))
    assert seen.verdict == "diverged"
    assert "the training loss exploded at step 9" in seen.shown[0]  # a median of three sees it a step later


def test_an_explosion_that_leads_to_nan_is_dated_at_the_explosion() -> None:
    def loss(step: int) -> float:
        return falls(step) if step < 80 else math.nan if step > 110 else 9.0 * (step - 78)

    assert " exploded at step 8" in hindsight(run(loss)).shown[0]


def test_after_the_peak_other_remedies_are_named_as_well() -> None:
    seen = hindsight(run(lambda step: falls(step) if step < 150 else math.nan))
    assert ", after its peak" in seen.shown[0]
    assert "gradient clipping" in seen.advice[-1]


def test_an_explosion_from_which_the_run_recovers_is_said_and_a_lower_peak_is_tried() -> None:
    seen = hindsight(run(lambda step: falls(step) + (8.0 if 95 <= step < 105 else 0.0)))
    assert seen.verdict == "survived"
    assert "and recovered" in seen.shown[-1]
    assert "a max_lr of 0.05 may end lower" in seen.advice[0]


def test_a_loss_that_never_falls_is_not_blamed_on_the_lr() -> None:
    seen = hindsight(run(lambda step: 2.0))
    assert seen.verdict == "flat"
    assert seen.shown[0].startswith("The training loss never fell: 2")
    assert "single batch" in seen.advice[0]


def test_validation_that_rises_while_training_falls_asks_for_more_weight_decay() -> None:
    validated: dict[str, Any] = {"val_steps": [40, 80, 120, 160, 200], "val_loss": [1.5, 1.0, 0.9, 1.1, 1.3]}
    seen = hindsight(run(falls, **validated))
    assert seen.verdict == "overfitted"
    assert "lowest, 0.9, after step 120, and rose to 1.3" in seen.shown[-1]
    assert "more weight decay" in seen.advice[0]


@pytest.mark.parametrize("losses", [[1.5, 1.0, 0.9], [1.5, 0.9, 0.91], [0.9, 1.3]], ids=["falls", "within", "two"])
def test_validation_that_does_not_clearly_rise_is_fine(losses: list[float]) -> None:
    steps = [round(200 * (k + 1) / len(losses)) for k in range(len(losses))]
    assert hindsight(run(falls, val_steps=steps, val_loss=losses)).verdict == "survived"


def test_a_fit_that_ended_before_its_peak_says_what_it_survived() -> None:
    seen = hindsight(run(falls, ended="KeyboardInterrupt", steps=50))
    assert seen.verdict == "short"
    assert f"it survived lrs up to {POLICY.lr(49):.3g}" in seen.shown[0]
    assert seen.shown[1] == "The fit ended after 50 steps with KeyboardInterrupt."


def test_a_run_without_a_schedule_has_no_peak() -> None:
    constant = replace(run(falls), lr=[0.1] * STEPS, plan=None)
    assert "with a constant lr of 0.1" in hindsight(constant).shown[0]


@pytest.mark.parametrize(
    ("played", "verdict"),
    [
        (replace(run(falls), ended=""), "running"),
        (replace(run(falls), loss=[math.nan] * STEPS), "unknown"),
        (run(falls, steps=5), "unknown"),
        (Played("SGD", [], [], [], ended="completed"), "unknown"),
    ],
    ids=["running", "no loss", "five steps", "no step"],
)
def test_where_nothing_can_be_said_nothing_is(played: Played, verdict: str) -> None:
    seen = hindsight(played)
    assert seen.verdict == verdict
    assert seen.advice == ()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [100, 2000])
def test_the_noise_of_a_run_is_no_explosion(seed: int, size: int) -> None:
    draw = np.random.default_rng(seed)
    losses = 0.5 + 1.5 * np.exp(-np.arange(size) / size * 4) + 0.2 * draw.standard_exponential(size)
    lrs = [POLICY.lr(k * STEPS / size) for k in range(size)]
    played = Played("SGD", range(size), lrs, losses.tolist(), done=size, ended="completed")
    assert hindsight(played).verdict == "survived"
    assert len(hindsight(played).shown) == 1


def test_a_policy_is_planned_by_a_few_points_from_its_first_step_to_its_last() -> None:
    plan = planned(POLICY, offset=10, points=5)
    assert plan == Plan([10, 60, 110, 159, 209], [POLICY.lr(k) for k in (0, 50, 100, 149, 199)], plan.momentum)
    assert plan.momentum == [POLICY.momentum(k) for k in (0, 50, 100, 149, 199)]
