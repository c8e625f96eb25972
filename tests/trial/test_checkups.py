"""`Checkups`: when a trial validates, which values it records, and what ends it."""

from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from pl_onecycle.curves import LossCurve
from pl_onecycle.trial import Checkups
from tests.fits import SmallNet, data
from tests.trial.made import SWEEP, GivenLoss, curve_of


class Validated(GivenLoss):
    """Its validation loss is 10 times the number of training steps done, plus the number of the batch."""

    def __init__(self) -> None:
        super().__init__(float)
        self.log_as = ""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        value = torch.tensor(10.0 * self.calls + batch_idx)
        if self.log_as:
            self.log(self.log_as, value + 1000)
        return value


def checked_up(checkups: Checkups, module: GivenLoss, validation: bool = True) -> LossCurve:
    loaders = (data(), data(128)) if validation else (data(),)
    return curve_of(module, SWEEP, *loaders, early_stop_threshold=None, checkups=checkups, num_sanity_val_steps=0)


@pytest.mark.parametrize("val_batches", [1, 2, 4, 9])
def test_each_checkup_records_the_mean_over_the_first_validation_batches(val_batches: int) -> None:
    curve = checked_up(Checkups((1, 2, 5, 8), val_batches), Validated())
    mean = (min(val_batches, 4) - 1) / 2  # of four batches
    assert curve.val_steps == (1, 2, 5, 8)
    assert curve.val_loss == (10 + mean, 20 + mean, 50 + mean, 80 + mean)
    assert curve.loss == tuple(float(k) for k in range(1, 8))  # those of a trial without checkups
    assert curve.outcome == "completed"


def test_a_logged_metric_counts_more_than_the_returned_loss() -> None:
    module = Validated()
    module.log_as = "val_loss"
    assert checked_up(Checkups((2, 4), 1), module).val_loss == (1020.0, 1040.0)


def test_a_quantity_of_which_more_is_better_is_recorded_negated() -> None:
    assert checked_up(Checkups((2, 4), 1, sign=-1.0), Validated()).val_loss == (-20.0, -40.0)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_without_validation_data_no_value_is_recorded() -> None:
    curve = checked_up(Checkups((2, 4), 1), Validated(), validation=False)
    assert (curve.val_steps, curve.val_loss, len(curve)) == ((), (), 7)


@pytest.mark.parametrize("outcome", ["dropped", "risen"])
def test_should_end_ends_the_trial_at_the_first_checkup_that_it_accepts(outcome: Any) -> None:
    asked: list[LossCurve] = []

    def should_end(curve: LossCurve) -> bool:
        asked.append(curve)
        return len(curve.val_loss) == 2

    curve = checked_up(Checkups((1, 3, 5), 1, should_end=should_end, outcome=outcome), Validated())
    assert [it.val_loss for it in asked] == [(10.0,), (10.0, 30.0)]
    assert [it.loss for it in asked] == [(), (1.0, 2.0)]  # the loss of step 3 is not known yet
    assert curve.outcome == outcome
    assert curve.val_steps == (1, 3)
    assert curve.loss == (1.0, 2.0)


def test_should_end_is_asked_where_nothing_validates() -> None:
    asked: list[tuple[float, ...]] = []

    def should_end(curve: LossCurve) -> bool:
        asked.append(tuple(curve.loss))
        return len(asked) == 2

    curve = checked_up(Checkups((2, 4), should_end=should_end), GivenLoss(float), validation=False)
    assert asked == [(1.0,), (1.0, 2.0, 3.0)]
    assert (curve.outcome, len(curve)) == ("dropped", 3)


class LogsItsCalls(GivenLoss):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("calls", float(self.calls), on_step=True)
        return loss


def test_a_metric_of_the_training_step_is_that_of_the_weights_it_is_computed_at() -> None:
    checkups = Checkups((1, 2, 4), monitor="calls", must_be_logged=True)
    curve = checked_up(checkups, LogsItsCalls(float), validation=False)
    assert curve.val_steps == (1, 2, 4)
    assert curve.val_loss == (2.0, 3.0, 5.0)  # the call after one step is the second


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("validation", [False, True])
def test_a_metric_that_must_be_logged_and_is_not_raises(validation: bool) -> None:
    checkups = Checkups((2, 4), 1, "calls", must_be_logged=True)
    with pytest.raises(MisconfigurationException, match=r"^The test saw no `calls`: `Validated` must log it in"):
        checked_up(checkups, Validated(), validation)


def test_a_checkup_changes_nothing_in_the_training() -> None:
    class WithDropout(SmallNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss([torch.nn.functional.dropout(batch[0]), batch[1]])

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            torch.rand(3)
            return self.loss(batch)

    def losses(checkups: Checkups) -> Any:
        torch.manual_seed(5)
        loaders = data(shuffle=True), data(96)
        return curve_of(WithDropout(), SWEEP, *loaders, checkups=checkups, early_stop_threshold=None).loss

    assert losses(Checkups((2, 4, 6), 0)) == losses(Checkups())
