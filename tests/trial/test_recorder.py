"""`Recorder`: which loss stands at which lr, and when the sweep has diverged."""

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from pl_onecycle.policy import RangeTestPolicy
from tests.trial.made import SWEEP, ByHand, GivenLoss, curve_of, half_decades, lr_of


def test_each_lr_is_paired_with_the_loss_after_its_step() -> None:
    # D19: peers pair lr k with the loss before the step at lr k.
    curve = curve_of(GivenLoss(lambda call: 10.0 - call), SWEEP)
    assert curve.initial_loss == 10.0
    assert curve.loss == (9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0)
    assert curve.lr == pytest.approx([1e-3 * 10 ** (k / 2) for k in range(7)], rel=1e-12)
    assert (curve.lr[0], curve.lr[-1]) == (1e-3, 1.0)
    assert curve.outcome == "completed"


def test_the_pairing_shows_the_effect_of_a_step() -> None:
    """One huge lr at one step must show at that lr: a quadratic jumps exactly there."""

    class Quadratic(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1.0]))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return (self.weight**2).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    # The gradient of w^2 is 2w: w <- w (1 - 2 lr), so lr 1/2 brings the loss to exactly zero.
    curve = curve_of(Quadratic(), RangeTestPolicy(0.125, 0.5, 3))  # 1/8, 1/4, 1/2
    assert curve.initial_loss == 1.0
    assert curve.loss == pytest.approx([0.75**2, (0.75 * 0.5) ** 2, 0.0], abs=1e-12)


def test_a_constant_loss_is_recorded_as_that_constant() -> None:
    # D1: the peer's average starts at half of it.
    curve = curve_of(GivenLoss(lambda call: 1.0), SWEEP)
    assert curve.loss == (1.0,) * 7
    assert curve.smoothed().tolist() == pytest.approx([1.0] * 7, abs=1e-12)
    assert curve.outcome == "completed"


def test_a_negative_loss_is_swept_like_any_other() -> None:
    # D11: for the peer four times the best loss is below the best loss, so it stops after two points.
    curve = curve_of(GivenLoss(lambda call: -1.0 - 0.01 * call), RangeTestPolicy(1e-4, 1.0, 30))
    assert len(curve) == 30
    assert curve.outcome == "completed"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_loss_that_is_not_finite_is_recorded_and_ends_the_sweep_at_once(bad: float, at: int) -> None:
    # D11: the peer continues to the end with an average that is NaN for good.
    module = GivenLoss(lambda call: bad if call == at else 1.0)
    calls: list[int] = []
    curve = curve_of(module, RangeTestPolicy(1e-4, 1.0, 30), on_step=lambda done, loss: calls.append(done))
    assert curve.outcome == "diverged"
    assert len(curve) == max(at, 1)
    assert calls[-1] <= at + 2
    if at > 0:
        assert repr(curve.loss[-1]) == repr(bad)
        assert curve.finite_loss.tolist() == [1.0] * (at - 1)
    else:
        assert repr(curve.initial_loss) == repr(bad)


def explosion(call: int) -> float:
    return 2.0 - 0.05 * call if call < 20 else 2000.0


@pytest.mark.parametrize("shift", [0.0, -100.0], ids=["positive", "negative"])
def test_an_explosion_stops_the_sweep_within_three_steps(shift: float) -> None:
    calls: list[int] = []
    module = GivenLoss(lambda call: shift + explosion(call))
    curve = curve_of(
        module, RangeTestPolicy(1e-4, 1.0, 50), on_step=lambda done, loss: calls.append(done), min_epochs=2
    )
    assert curve.outcome == "diverged"
    assert 20 <= len(curve) <= 22
    assert calls[-1] <= 23


def test_without_a_threshold_only_a_loss_that_is_not_finite_stops() -> None:
    curve = curve_of(GivenLoss(explosion), RangeTestPolicy(1e-4, 1.0, 50), early_stop_threshold=None)
    assert len(curve) == 50
    assert curve.outcome == "completed"


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`.*")
def test_a_step_without_a_loss_has_no_point() -> None:
    class Skips(GivenLoss):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if self.calls == 4 else loss

    curve = curve_of(Skips(lambda call: float(call)), SWEEP, early_stop_threshold=None)
    assert curve.loss == (1.0, 2.0, 4.0, 5.0, 6.0, 7.0)
    assert curve.lr == pytest.approx([1e-3 * 10 ** (k / 2) for k in (0, 1, 3, 4, 5, 6)])


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`.*")
def test_a_module_that_shows_no_loss_raises_and_is_restored() -> None:
    class Silent(ByHand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizers: Any = self.optimizers()
            ((self.weights[0] - 1) ** 2).sum().backward()
            optimizers[0].step()

    module = Silent()
    with pytest.raises(
        MisconfigurationException,
        match=r"^The test saw no loss: `Silent\.training_step` must pass it to `self\.manual_backward` or return it\.$",
    ):
        curve_of(module, SWEEP)
    assert [weight.item() for weight in module.weights] == [0.0, 0.0]
    assert [lr_of(optimizer) for optimizer in module.trainer.optimizers] == [0.1, 0.2]


def test_steps_after_the_end_of_the_sweep_in_its_last_batch_do_no_harm() -> None:
    # Nine steps a batch: the sweep of seven and the loss after it end within the first.
    curve = curve_of(ByHand(lambda batch: [0] * 9), SWEEP, early_stop_threshold=None)
    assert curve.loss[:7] == tuple(float(k) for k in range(1, 8))
    assert curve.lr[:7] == pytest.approx(half_decades(7), rel=1e-12)
    assert len(curve) == 7


def fp16(init_scale: float = 1024.0) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=init_scale))


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("by_hand", [False, True], ids=["automatic", "by hand"])
def test_a_step_that_the_gradient_scaler_leaves_out_is_made_again_with_the_same_lr(by_hand: bool, fused: bool) -> None:
    class Overflows(GivenLoss):
        def __init__(self) -> None:
            super().__init__(lambda call: 10.0 - call)
            self.automatic_optimization = not by_hand

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            used.append(lr_of(self.trainer.optimizers[0]))
            loss = super().training_step(batch, batch_idx)
            if self.calls - 1 in (2, 3, 6):  # zero, whose slope is none
                loss = loss + (self.weight.abs() ** 0.5).sum()
            if not by_hand:
                return loss
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return None

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.1, fused=fused)

    used: list[float] = []
    curve = curve_of(Overflows(), SWEEP, plugins=[fp16()], early_stop_threshold=None)
    # Batches 2 and 3 fail before batch 4 makes the step, and 6 before 7: their first attempt has the loss.
    assert used[:11] == pytest.approx([half_decades(8)[step] for step in (0, 1, 2, 2, 2, 3, 4, 4, 5, 6, 7)], rel=1e-12)
    assert curve.lr == pytest.approx(half_decades(7), rel=1e-12)
    assert (curve.initial_loss, *curve.loss) == (10.0, 9.0, 8.0, 5.0, 4.0, 2.0, 1.0, 0.0)
