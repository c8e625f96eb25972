"""The quantity on the curve: training loss, validation loss or a metric."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pl_onecycle import LRRangeTest
from tests.fits import LRs, data, same, trainer, weights_of
from tests.range_test.made import Watched, WatchedToo, one_step, watched


def test_the_curve_of_val_loss_is_the_mean_over_the_first_batches() -> None:
    test = LRRangeTest(1e-3, 1.0, 20, monitor="val_loss", val_batches=2, apply=False, report=False)
    test.early_stop_threshold = None
    module = watched(WatchedToo)
    one_step(test, module, data(shuffle=True), data(128))
    assert test.curve is not None
    means = np.reshape(module.val_losses[:40], (20, 2)).mean(axis=1)  # two of four batches after each of 20 steps
    assert list(test.curve.loss) == pytest.approx(means.tolist())
    assert list(test.curve.lr) == module.lrs[:20]
    assert len(module.val_losses) in (40, 44)  # the real run may validate once more
    assert test.steps == 21


@pytest.mark.parametrize(("every", "points"), [(1, 20), (5, 4), (6, 3), (20, 1)])
def test_val_every_leaves_points_out(every: int, points: int) -> None:
    test = LRRangeTest(
        1e-3, 1.0, 20, monitor="val_loss", val_every=every, early_stop_threshold=None, apply=False, report=False
    )
    module = watched(WatchedToo)
    one_step(test, module, data(shuffle=True), data(64))
    assert test.curve is not None
    # After step 5 of 20, at the lr of that step, and so on.
    assert list(test.curve.lr) == module.lrs[:20][every - 1 :: every]
    assert len(test.curve) == points


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("val_loss", "min"), ("train_acc", "max"), ("val_acc", "max")],
)
def test_another_quantity_finds_about_the_same_lr(monitor: str, mode: Any) -> None:
    found = []
    for arguments in ({}, {"monitor": monitor, "monitor_mode": mode}):
        test = LRRangeTest(apply=False, report=False, **arguments)
        one_step(test, watched(WatchedToo), data(1024, shuffle=True), data())
        assert test.suggestion is not None, test.why
        assert test.steps <= 150
        found.append(math.log10(test.suggestion.lr))
    assert found[1] == pytest.approx(found[0], abs=0.5)


@pytest.mark.parametrize("monitor", ["train_acc", "val_acc"])
def test_the_curve_of_a_quantity_of_which_more_is_better_is_its_negative(monitor: str) -> None:
    curves = []
    for mode in ("min", "max"):
        test = LRRangeTest(
            1e-3, 1.0, 30, monitor=monitor, monitor_mode=mode, early_stop_threshold=None, apply=False, report=False
        )
        one_step(test, watched(WatchedToo), data(shuffle=True), data(64))
        assert test.curve is not None
        curves.append(test.curve)
    assert all(0 <= value <= 1 for value in curves[0].loss)
    assert len(set(curves[0].loss)) > 3
    assert [-value for value in curves[1].loss] == list(curves[0].loss)
    assert curves[0].lr == curves[1].lr


def test_a_metric_of_the_training_step_is_paired_with_the_lr_of_the_step_before() -> None:
    class Counts(Watched):
        def accuracy(self, batch: Any) -> Any:
            return torch.tensor(float(len(self.lrs)))  # 1 in the first step

    test = LRRangeTest(1e-3, 1.0, 10, monitor="train_acc", early_stop_threshold=None, apply=False, report=False)
    module = watched(Counts)
    one_step(test, module)
    assert test.curve is not None
    # The second step, of value 2, sees the effect of the first lr.
    assert test.curve.loss == tuple(float(k) for k in range(2, 12))
    assert list(test.curve.lr) == module.lrs[:10]


@pytest.mark.parametrize("num_steps", [None, 20])
@pytest.mark.parametrize(
    ("monitor", "said"),
    [
        ("f1", "The test saw no `f1`: `Watched` must log it in each training step"),
        ("val_loss", r"`LRRangeTest\(monitor='val_loss'\)` needs validation data and a `validation_step`\."),
        ("val_acc", "The test saw no `val_acc`: `WatchedToo` must log it"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*but have no `val_dataloader`. Skipping val loop")
def test_a_quantity_that_is_never_logged_is_an_error_and_leaves_the_run_as_it_was(
    monitor: str, said: str, num_steps: int | None
) -> None:
    module, lrs = watched(Watched if monitor == "f1" else WatchedToo), LRs()
    before = weights_of(module)
    test = LRRangeTest(monitor=monitor, num_steps=num_steps)
    fit = trainer([test, lrs])
    with pytest.raises(MisconfigurationException, match=said):
        fit.fit(module, data())  # no validation loader
    assert lrs.lr == []
    assert test.suggestion is None
    assert fit.global_step == 0
    assert same(before, weights_of(module))
    assert fit.optimizers[0].state_dict()["state"] == {}
    assert fit.optimizers[0].param_groups[0]["lr"] == 0.01
    # And the Trainer can fit.
    test.monitor = "train_loss"
    fit.fit(module, data())
    assert fit.global_step == 16
    assert test.suggestion is not None
