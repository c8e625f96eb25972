"""`tune`: one call before any training, and what a fit then uses."""

import copy
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import pytest
from torch import Tensor

from pl_onecycle import LRRangeTest, OneCycleTrainer, OneCycleTuner, TuneResult
from tests.fits import QUIET, LRs, SmallNet, data, trainer
from tests.scenarios import plain
from tests.tuner.made import ALLOWED, SHORT, Cycled, Rows, Scheduled, a_probe, a_test, tune

pytestmark = ALLOWED


def test_tuner_and_trainer_tune_by_the_same_function() -> None:
    assert OneCycleTrainer.tune is OneCycleTuner.tune


# ------------------------------------------------------------------------------------------------------- what is found
def test_tuning_in_one_call_trains_nothing_and_applying_its_result_does_not_either() -> None:
    model, datamodule = Cycled(), Rows()
    before = plain(model.state_dict())
    ours = OneCycleTrainer(**QUIET)
    result = ours.tune(model, datamodule=datamodule, **SHORT)
    assert result.max_lr is not None
    assert result.weight_decay in (1e-1, 1e-3, 0.0)
    result.apply(model, datamodule)
    assert plain(model.state_dict()) == before
    assert ours.global_step == ours.current_epoch == 0


def found_in_a_fit(model: pl.LightningModule) -> tuple[float, float, dict[str, Any]]:
    """What the callbacks find in a fit, and what the fit then comes to."""
    test, probe, lrs = a_test(report=False), a_probe(report=False), LRs()
    pl.seed_everything(3, verbose=False)
    trainer([probe, test, lrs]).fit(model, datamodule=Rows())
    assert test.suggestion is not None
    assert probe.suggestion is not None
    outcome = {"weights": plain(model.state_dict()), "lr": lrs.lr, "momentum": lrs.momentum}
    return test.suggestion.lr, probe.suggestion.value, outcome


def test_tune_and_apply_give_what_the_callbacks_find_in_a_fit_and_the_same_fit() -> None:
    pl.seed_everything(2, verbose=False)
    model = Cycled()
    twin = copy.deepcopy(model)
    max_lr, weight_decay, expected = found_in_a_fit(twin)

    pl.seed_everything(3, verbose=False)
    result = tune(model, datamodule=Rows())
    assert (result.max_lr, result.weight_decay) == (max_lr, weight_decay)
    result.apply(model)
    lrs = LRs()
    trainer([lrs]).fit(model, datamodule=Rows())
    found = {"weights": plain(model.state_dict()), "lr": lrs.lr, "momentum": lrs.momentum}
    assert found == expected


@pytest.mark.parametrize("schedule", Scheduled.kinds)
def test_after_apply_the_run_has_the_found_lr_as_its_peak_and_the_found_weight_decay(schedule: str) -> None:
    model = Scheduled(schedule)
    result = tune(model)
    assert result.max_lr is not None
    assert result.max_lr != model.lr
    assert dict(result.before) == {"max_lr": 0.01, "weight_decay": 1e-2}
    result.apply(model)
    lrs = LRs()
    trainer([lrs]).fit(model, data())
    assert max(lr for (lr,) in lrs.lr) == pytest.approx(result.max_lr, rel=1e-12)
    assert lrs.weight_decay == [[result.weight_decay]] * 16


@pytest.mark.parametrize("left_out", ["lr_range_test", "weight_decay_probe"])
def test_what_is_left_out_is_none_and_is_not_applied(left_out: str) -> None:
    model = Cycled()
    without: dict[str, Any] = {left_out: False}
    result = tune(model, **without)
    name = {"lr_range_test": "max_lr", "weight_decay_probe": "weight_decay"}[left_out]
    assert getattr(result, name) is None
    assert list(result.reasons) == [it for it in ("max_lr", "weight_decay") if it != name]
    assert name not in result.config()["one_cycle"]


def test_what_finds_nothing_says_why_and_the_rest_is_still_found() -> None:
    model = Cycled()
    result = tune(model, lr_range_test=LRRangeTest(1e-9, 1e-8, 25))  # far too small for anything to be learned
    assert result.max_lr is None
    assert result.weight_decay is not None
    assert result.reasons["max_lr"]
    result.apply(model)
    assert model.lr == 0.01
    lrs = LRs()
    trainer([lrs]).fit(model, data())
    assert max(lrs.lr) == [0.01]


def test_a_model_that_was_tuned_and_applied_can_be_tuned_again() -> None:
    model = Cycled()
    TuneResult(0.3, 1e-2, None, "Cycled").apply(model)
    result = tune(model)
    assert dict(result.before) == {"max_lr": 0.3, "weight_decay": 1e-2}


# ---------------------------------------------------------------------------------------------------------- batch size
seen: list[int] = []


class NoLargerThan(Cycled):
    """Runs out of memory above a batch size; remembers the sizes of batches."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        if len(batch[0]) > self.largest:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        seen.append(len(batch[0]))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("fits", "limit", "found"), [(100, 8192, 64), (10_000, 32, 32), (10_000, 100, 64)])
def test_the_largest_batch_size_up_to_the_limit_is_found_and_put_back(fits: int, limit: int, found: int) -> None:
    seen.clear()
    model, datamodule = NoLargerThan(fits), Rows(2, samples=512)
    result = tune(model, datamodule=datamodule, batch_size=True, max_batch_size=limit)
    assert result.batch_size == found
    assert max(seen) <= limit
    assert result.before["batch_size"] == 2
    assert (datamodule.batch_size, datamodule.hparams["batch_size"]) == (2, 2)
    assert seen[-1] == found  # the others were found with batches of this size
    assert result.config()["data"] == {"batch_size": found}
    result.apply(model, datamodule)
    assert (datamodule.batch_size, datamodule.hparams["batch_size"]) == (found, found)


@pytest.mark.parametrize("kind", [SmallNet, Cycled], ids=["without validation", "with a validation_step"])
def test_the_batch_size_may_be_the_models(kind: Any) -> None:
    class Net(kind):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 4

        def train_dataloader(self) -> Any:
            return data(batch_size=self.batch_size)

    model = Net()
    tuner = OneCycleTuner(trainer())
    result = tuner.tune(model, lr_range_test=False, weight_decay_probe=False, batch_size=True, max_batch_size=16)
    assert (result.batch_size, model.batch_size) == (16, 4)
    assert result.config() == {"one_cycle": {"tuned_for": Net.__qualname__}, "model": {"batch_size": 16}}
    result.apply(model)
    assert model.batch_size == 16
