"""Short cycles verify the suggestion."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from pl_onecycle import LRRangeTest, OneCyclePolicy, OneCycleScheduler, suggest
from pl_onecycle.curves import candidates, verified
from pl_onecycle.sentences import rounded
from tests.fits import LRs, SmallNet, data, line, trainer
from tests.range_test.made import Constant, WatchedToo, one_step, watched


@pytest.mark.parametrize(("verify", "count", "steps"), [(3, 3, 50), (True, 5, 12)])
def test_short_cycles_verify_the_suggestion_on_the_same_batches(
    verify: Any, count: int, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    test, module = LRRangeTest(verify=verify, verify_steps=steps, apply=False, report=False), watched()
    with caplog.at_level("INFO"):
        lrs = one_step(test, module)
    assert test.curve is not None
    unverified = suggest(test.curve)
    assert unverified is not None
    swept = sum(len(curve) + 1 for curve in [*test.coarse, test.curve])
    assert swept <= 150
    assert test.steps == len(lrs) == swept + count * steps
    assert list(test.cycles) == candidates(unverified.lr, count)
    first = test.cycles[unverified.lr]
    for k, (lr, curve) in enumerate(test.cycles.items()):
        start = swept + k * steps
        policy = OneCyclePolicy(lr, steps - 1)
        assert lrs[start : start + steps - 1] == [policy.lr(step) for step in range(steps - 1)]
        assert module.batches[start : start + steps] == module.batches[swept : swept + steps]
        assert len(set(module.batches[start : start + steps])) > 8  # reshuffled from epoch to epoch
        assert (len(curve), curve.outcome, curve.val_loss) == (steps - 1, "completed", ())
        assert curve.initial_loss == first.initial_loss
    assert test.suggestion == verified(unverified, test.cycles)
    assert test.suggestion.reason.endswith(" by training loss")
    assert test.suggestion.lr != unverified.lr
    total = 150 + count * steps
    # One step is all that the run has left, and an eighth of an epoch.
    epochs, times = rounded(total / 8), rounded(float(total))
    [announced] = [it for it in caplog.messages if it.startswith("LR range test: at most")]
    assert announced.splitlines() == [
        f"LR range test: at most {total} steps (150 + {count} × {steps}), {epochs} epochs, {times} times the run",
        "  more than the run itself: pass a smaller `num_steps`, or keep a value once found in your code",
    ]
    what, why, _ = line(caplog).splitlines()
    assert what.startswith(f"LR range test: suggests max_lr {test.suggestion.lr:.3g}")
    assert why.startswith(f"  trough: {unverified.lr:.3g} on the curve; weighted mean")


def test_what_short_cycles_find_is_trained_with_and_reported(tmp_path: Path) -> None:
    test, module = LRRangeTest(verify=3, verify_steps=12), watched()
    lrs = LRs()
    trainer([test, lrs], tmp_path).fit(module, data())
    assert test.suggestion is not None
    assert lrs.lr == [[test.suggestion.lr]] * 16
    assert module.lr == test.suggestion.lr
    result = json.loads((tmp_path / "lr_range_test" / "result.json").read_text())
    assert result["suggestion"] == test.suggestion.to_dict()
    assert result["steps"] == test.steps
    assert (result["settings"]["verify"], result["settings"]["verify_steps"]) == (3, 12)
    assert [curve["loss"] for curve in result["cycles"].values()] == [list(c.loss) for c in test.cycles.values()]
    assert [float(lr) for lr in result["cycles"]] == pytest.approx(list(test.cycles), rel=1e-5)
    assert [curve["lr"] for curve in result["coarse"]] == [list(curve.lr) for curve in test.coarse]


def test_short_cycles_are_judged_by_validation_loss_where_there_is_one() -> None:
    test, module = LRRangeTest(verify=3, verify_steps=12, val_batches=2, apply=False, report=False), watched(WatchedToo)
    one_step(test, module, data(shuffle=True), data(128))
    assert test.curve is not None
    assert test.suggestion is not None
    assert test.suggestion.reason.endswith(" by val_loss")
    # Two batches at the end of each cycle, of the weights after its 11 steps.
    means = np.reshape(module.val_losses[:6], (3, 2)).mean(axis=1)
    for curve, mean in zip(test.cycles.values(), means, strict=True):
        assert curve.val_steps == (11,)
        assert curve.val_loss == pytest.approx((mean,))
    unverified = suggest(test.curve)
    assert unverified is not None
    assert test.suggestion == verified(unverified, test.cycles)


@pytest.mark.parametrize(("name", "stops"), [("val/loss", False), ("valid_loss", False), ("nll", True)])
def test_short_cycles_are_judged_by_a_validation_loss_of_another_name(name: str, stops: bool) -> None:
    class Named(WatchedToo):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            loss = self.loss(batch)
            self.val_losses.append(loss.item())
            self.log(name, loss)

    test, module = LRRangeTest(verify=3, verify_steps=12, val_batches=2, report=False), watched(Named)
    callbacks: list[pl.Callback] = [test]
    callbacks += [EarlyStopping(name, patience=99)] if stops else []
    trainer(callbacks, num_sanity_val_steps=0).fit(module, data(shuffle=True), data(128))
    means = np.reshape(module.val_losses[:6], (3, 2))
    for curve, mean in zip(test.cycles.values(), means.mean(axis=1), strict=True):
        assert curve.val_loss == pytest.approx((mean,))
    assert test.suggestion is not None
    assert test.suggestion.reason.endswith(" by val_loss")


def test_a_cycle_in_which_the_module_raises_an_exception_has_diverged_and_is_out() -> None:
    class Checked(SmallNet):
        def loss(self, batch: Any) -> Any:
            loss = super().loss(batch)
            if loss > 3:
                raise ValueError("the loss is too large")
            return loss

    torch.manual_seed(0)
    test, module = LRRangeTest(verify=9, verify_steps=40, report=False), Checked()
    with pytest.warns(UserWarning, match="^A trial has diverged and ended in ValueError: the loss is too large$"):
        trainer([test]).fit(module, data())
    outcomes = [curve.outcome for _, curve in sorted(test.cycles.items())]
    assert set(outcomes) == {"completed", "diverged"}
    assert outcomes == sorted(outcomes)  # those of the largest lrs
    assert test.suggestion is not None
    assert module.lr == test.suggestion.lr


def test_nothing_is_verified_where_nothing_is_suggested() -> None:
    test = LRRangeTest(verify=3, apply=False, report=False)
    lrs = one_step(test, watched(Constant))
    assert test.suggestion is None
    assert test.cycles == {}
    assert len(lrs) == test.steps <= 150


def test_short_cycles_have_the_shape_of_the_runs_own_cycle() -> None:
    test, module = LRRangeTest(verify=3, verify_steps=21, report=False), watched()
    module.schedule = lambda module, optimizer: OneCycleScheduler(
        optimizer, None, int(module.trainer.estimated_stepping_batches), pct_start=0.5
    )
    torch.manual_seed(0)
    trainer([test]).fit(module, data())
    for curve in test.cycles.values():
        peak = max(curve.lr)
        assert curve.lr[OneCyclePolicy(1.0, 20, pct_start=0.5).peak_step] == peak
        assert peak == pytest.approx(next(lr for lr, it in test.cycles.items() if it is curve))
