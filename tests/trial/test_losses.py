"""`LossCollector`: which losses make the loss of a step."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from pl_onecycle.policy import RangeTestPolicy
from tests.fits import data
from tests.trial.made import SWEEP, ByHand, GivenLoss, curve_of, half_decades


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_loss_of_a_step_is_the_mean_of_its_micro_batches(accumulate: int) -> None:
    # D6: the peer records the last micro-batch divided by their number, and misses the short last window.
    # 10 batches an epoch: windows of 4, 4, 2 or of 2, 2, 2, 2, 2.
    windows = {1: [1] * 20, 2: [2] * 10, 4: [4, 4, 2] * 4}[accumulate]
    losses = [float(call) for call in range(sum(windows))]
    means, start = [], 0
    for length in windows:
        means.append(sum(losses[start : start + length]) / length)
        start += length
    curve = curve_of(
        GivenLoss(float),
        SWEEP,
        data(320),
        accumulate_grad_batches=accumulate,
        early_stop_threshold=None,
    )
    assert curve.initial_loss == means[0]
    assert curve.loss == tuple(means[1:8])


def test_a_training_step_may_return_a_dict() -> None:
    class Dict(GivenLoss):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx), "more": torch.ones(3)}

    assert curve_of(Dict(lambda call: 10.0 - call), SWEEP).loss == (9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0)


def test_one_optimizer_by_hand_gives_the_curve_of_automatic_optimization() -> None:
    by_hand = curve_of(ByHand(lambda batch: [0], count=1), SWEEP, early_stop_threshold=None)
    automatic = curve_of(GivenLoss(float), SWEEP, early_stop_threshold=None)
    assert by_hand == automatic


@pytest.mark.parametrize("index", [0, 1])
def test_backward_passes_of_one_step_add_up(index: int) -> None:
    # The discriminator's loss of real and of fake samples, or accumulation by hand: the gradient is of the sum.
    curve = curve_of(ByHand(lambda batch: [0, 1], passes=2), SWEEP, optimizer=index, early_stop_threshold=None)
    sums = [2 * 100.0 * index + 2 * k + (2 * k + 1) for k in range(8)]  # passes 2 k and 2 k + 1
    assert curve.initial_loss == sums[0]
    assert curve.loss == tuple(sums[1:])


def test_backward_passes_of_several_batches_for_one_step_add_up() -> None:
    class Accumulates(ByHand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizers: Any = self.optimizers()
            self.manual_backward(self.next_loss(0) / 4)
            if (batch_idx + 1) % 4 == 0:
                optimizers[0].step()
                optimizers[0].zero_grad()

    curve = curve_of(Accumulates(), SWEEP, early_stop_threshold=None)
    # The mean of 4 k, 4 k + 1, 4 k + 2 and 4 k + 3.
    assert (curve.initial_loss, *curve.loss) == tuple(4 * k + 1.5 for k in range(8))


@pytest.mark.parametrize("wrapped", [True, False], ids=["Lightning's optimizer", "torch's optimizer"])
@pytest.mark.parametrize("as_dict", [False, True], ids=["tensor", "dict"])
def test_without_manual_backward_the_loss_is_what_training_step_returns(as_dict: bool, wrapped: bool) -> None:
    class OwnBackward(ByHand):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizers: Any = self.optimizers(use_pl_optimizer=wrapped)
            loss = self.next_loss(0)
            loss.backward()
            optimizers[0].step()
            optimizers[0].zero_grad()
            return {"loss": loss, "more": 1} if as_dict else loss

    curve = curve_of(OwnBackward(), SWEEP, early_stop_threshold=None)
    assert (curve.initial_loss, *curve.loss) == tuple(float(k) for k in range(8))
    assert curve.lr == pytest.approx(half_decades(7), rel=1e-12)


def test_the_loss_of_the_backward_pass_counts_more_than_the_returned_one() -> None:
    class Returns(ByHand):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)
            return torch.tensor(-5.0)

    curve = curve_of(Returns(lambda batch: [0, 1]), SWEEP, optimizer=1, early_stop_threshold=None)
    assert curve.loss == tuple(100.0 + k for k in range(1, 8))


@pytest.mark.parametrize("index", [0, 1])
def test_steps_of_torchs_own_optimizers_are_recorded_like_those_of_lightnings(index: int) -> None:
    class Raw(ByHand):
        def optimizers(self, use_pl_optimizer: bool = True) -> Any:
            return super().optimizers(use_pl_optimizer=False)

    module = Raw(lambda batch: [0, 1])
    curve = curve_of(module, SWEEP, optimizer=index, early_stop_threshold=None, max_epochs=1)
    assert (curve.initial_loss, *curve.loss) == tuple(100.0 * index + k for k in range(8))


class Shared(ByHand):
    """One backward pass for each group of optimizers, all of which step after it; the k-th has the loss k."""

    def __init__(self, *groups: list[int], wrapped: bool = True) -> None:
        super().__init__()
        self.groups, self.wrapped = groups, wrapped

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers(use_pl_optimizer=self.wrapped)
        for group in self.groups:
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(self.next_loss(0) + 0 * self.weights[1].sum())
            for index in group:
                optimizers[index].step()


@pytest.mark.parametrize("wrapped", [True, False], ids=["Lightning's optimizer", "torch's optimizer"])
@pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=str)
@pytest.mark.parametrize("index", [0, 1])
def test_optimizers_that_step_after_one_backward_pass_all_have_its_loss(
    index: int, order: list[int], wrapped: bool
) -> None:
    curve = curve_of(Shared(order, wrapped=wrapped), SWEEP, optimizer=index, early_stop_threshold=None)
    assert (curve.initial_loss, *curve.loss) == tuple(float(k) for k in range(8))


@pytest.mark.parametrize(
    ("groups", "index", "first"),
    [
        pytest.param(([0], [0, 1]), 1, 1.0, id="the first optimizer also after a pass of its own"),
        pytest.param(([0, 1], [0]), 1, 0.0, id="and after the shared one"),
        pytest.param(([1], [0]), 0, 1.0, id="one pass each"),
    ],
)
def test_a_new_backward_pass_ends_the_share_in_those_before(groups: Any, index: int, first: float) -> None:
    curve = curve_of(Shared(*groups), SWEEP, optimizer=index, early_stop_threshold=None)
    assert (curve.initial_loss, *curve.loss) == tuple(first + 2 * k for k in range(8))


def test_of_a_shared_pass_in_each_batch_an_optimizer_that_steps_in_every_third_has_the_last() -> None:
    class Rarely(ByHand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizers: Any = self.optimizers()
            self.manual_backward(self.next_loss(0) + 0 * self.weights[1].sum())
            optimizers[0].step()
            if self.passed[0] % 3 == 0:
                optimizers[1].step()

    curve = curve_of(Rarely(), SWEEP, optimizer=1, early_stop_threshold=None)
    assert (curve.initial_loss, *curve.loss) == tuple(3.0 * k + 2 for k in range(8))


class Bowl(pl.LightningModule):
    """The loss is w^2, so that a step of gradient descent with lr a makes 1 - 2 a of w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))

    def loss(self) -> Tensor:
        return (self.weight**2).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class BowlByHand(Bowl):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


@pytest.mark.parametrize("by_hand", [False, True], ids=["automatic", "by hand"])
def test_lbfgs_which_asks_many_times_for_one_step_has_the_loss_at_its_start(by_hand: bool) -> None:
    class Automatic(Bowl):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2)

    class Manual(Automatic):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = self.loss()
                self.manual_backward(loss)
                asked.append(loss.item())
                return loss

            optimizer.step(closure)

    asked: list[float] = []
    module = Manual() if by_hand else Automatic()
    curve = curve_of(module, RangeTestPolicy(0.01, 0.04, 3), max_epochs=1)  # 0.01, 0.02, 0.04
    assert curve.initial_loss == 1.0
    assert len(curve) == 3
    assert curve.lr == pytest.approx([0.01, 0.02, 0.04])
    assert 1.0 > curve.loss[0] > curve.loss[1] > curve.loss[2]
    if by_hand:  # two losses a step, of which the first counts
        assert (curve.initial_loss, *curve.loss) == tuple(asked[:8:2])


def test_two_backward_passes_for_one_step_as_sharpness_aware_minimization_makes_them() -> None:
    class Sam(BowlByHand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss())
            with torch.no_grad():
                self.weight.add_(0.5)  # to the worst point nearby
            optimizer.zero_grad()
            self.manual_backward(self.loss())
            with torch.no_grad():
                self.weight.sub_(0.5)
            optimizer.step()

    curve = curve_of(Sam(), RangeTestPolicy(0.125, 0.5, 3))  # 1/8, 1/4, 1/2
    # w <- w - 2 a (w + 1/2): 1, 5/8, 1/16, -1/2; the two losses are w^2 and (w + 1/2)^2.
    sums = [w**2 + (w + 0.5) ** 2 for w in (1.0, 5 / 8, 1 / 16, -1 / 2)]
    assert (curve.initial_loss, *curve.loss) == pytest.approx(sums, rel=1e-6)
