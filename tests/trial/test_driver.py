"""`Driver`: the lr and the momentum of each group in each step, and those of other optimizers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pl_onecycle.policy import OneCyclePolicy
from tests.fits import SmallNet, data
from tests.trial.made import SWEEP, ByHand, GivenLoss, Used, curve_of, half_decades


def test_every_group_keeps_its_ratio_during_the_sweep() -> None:
    # D10: the peer sets every group to the same lr.
    seen: list[list[float]] = []

    class Two(GivenLoss):
        def __init__(self) -> None:
            super().__init__(lambda call: 1.0)
            self.other = nn.Parameter(torch.zeros(1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            groups = [{"params": [self.weight], "lr": 0.01}, {"params": [self.other], "lr": 0.1}]
            return torch.optim.SGD(groups)

    curve_of(Two(), SWEEP)
    swept = seen[:7]
    assert [lrs[1] for lrs in swept] == pytest.approx([1e-3 * 10 ** (k / 2) for k in range(7)])
    assert [lrs[1] / lrs[0] for lrs in swept] == pytest.approx([10.0] * 7)
    assert seen[8:] == [[0.01, 0.1]] * 16  # and the fit of two epochs has its own back


def test_a_group_that_joins_in_the_trial_is_left_alone() -> None:
    class Unfreezes(SmallNet):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            groups = self.trainer.optimizers[0].param_groups
            if batch_idx == 3 and len(groups) == 1:
                self.trainer.optimizers[0].add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5})

    assert len(curve_of(Unfreezes(), SWEEP)) == 7


def test_the_trial_trains_with_the_momentum_of_the_policy() -> None:
    seen: list[float] = []

    class Watched(SmallNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(self.trainer.optimizers[0].param_groups[0]["momentum"])
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    policy = OneCyclePolicy(0.1, 10, pct_annihilation=0.2)
    curve_of(Watched(), policy)
    assert seen[:11] == [policy.momentum(step) for step in range(11)]
    assert seen[11:] == [0.9] * 16


def test_every_group_of_an_optimizer_stepped_by_hand_keeps_its_ratio_and_has_the_momentum_of_the_policy() -> None:
    class Groups(ByHand):
        def configure_optimizers(self) -> Any:
            first, second, third = self.weights
            groups = [{"params": [second], "lr": 0.02}, {"params": [third], "lr": 0.2, "momentum": 0}]
            return [torch.optim.SGD([first], lr=0.1, momentum=0.9), torch.optim.SGD(groups, momentum=0.9)]

        def training_step(self, batch: Any, batch_idx: int) -> None:
            groups = [optimizer.param_groups for optimizer in self.trainer.optimizers]
            seen.append([[(group["lr"], group["momentum"]) for group in each] for each in groups])
            super().training_step(batch, batch_idx)

    seen: list[list[list[tuple[float, float]]]] = []
    policy = OneCyclePolicy(0.2, 6)
    curve_of(Groups(lambda batch: [0, 1], count=3), policy, optimizer=1, early_stop_threshold=None)
    assert [groups for groups, _ in seen] == [[(0.1, 0.9)]] * len(seen)
    swept = [groups for _, groups in seen[:7]]
    assert [small[0] for small, _ in swept] == pytest.approx([policy.lr(step) / 10 for step in range(7)])
    assert [small[1] for small, _ in swept] == [policy.momentum(step) for step in range(7)]
    assert [large for _, large in swept] == [(policy.lr(step), 0) for step in range(7)]
    assert [groups for _, groups in seen[7:]] == [[(0.02, 0.9), (0.2, 0)]] * 16


PLANS: dict[str, tuple[Callable[[int], list[int]], int, int]] = {
    # what: (plan, batches an epoch, optimizer)
    "GAN, the first": (lambda batch: [0, 1], 8, 0),
    "GAN, the second": (lambda batch: [0, 1], 8, 1),
    "the second steps first": (lambda batch: [1, 0], 8, 0),
    "five steps of the critic for one, the critic": (lambda batch: [1] * 5 + [0], 8, 1),
    "five steps of the critic for one, the other": (lambda batch: [1] * 5 + [0], 8, 0),
    "the other every fifth batch": (lambda batch: [1, 0] if batch % 5 == 0 else [1], 8, 0),
    "in turns by batch": (lambda batch: [batch % 2], 8, 1),
    "not in the first batches": (lambda batch: [0] if batch < 3 else [0, 1], 8, 1),
}


@pytest.mark.parametrize(("plan", "batches", "index"), PLANS.values(), ids=PLANS)
def test_the_named_optimizer_is_swept_and_the_others_train_with_their_own_lr(
    plan: Callable[[int], list[int]], batches: int, index: int
) -> None:
    used: Used = []
    module, loader = ByHand(plan, used), data(32 * batches)
    curve = curve_of(module, SWEEP, loader, optimizer=index, early_stop_threshold=None, max_epochs=1)
    # The losses of its own backward passes, one for each of its steps.
    assert curve.initial_loss == 100.0 * index
    assert curve.loss == tuple(100.0 * index + k for k in range(1, 8))
    assert curve.lr == pytest.approx(half_decades(7), rel=1e-12)
    assert curve.outcome == "completed"
    in_fit = sum(len(plan(batch)) for batch in range(batches))
    swept, fit = used[:-in_fit], used[-in_fit:]
    own = [lrs[index] for stepped, lrs in swept if stepped == index]
    assert own[:8] == pytest.approx(half_decades(8), rel=1e-12)
    assert {lrs[1 - index] for _, lrs in swept} == {[0.1, 0.2][1 - index]}
    assert [lrs for _, lrs in fit] == [[0.1, 0.2]] * in_fit  # and the fit has its own back


def test_a_third_optimizer_can_be_the_one() -> None:
    used: Used = []
    module = ByHand(lambda batch: [0, 2, 1], used, count=3)
    curve = curve_of(module, SWEEP, optimizer=2, early_stop_threshold=None, max_epochs=1)
    assert curve.loss == tuple(200.0 + k for k in range(1, 8))
    assert {(lrs[0], lrs[1]) for _, lrs in used} == {(0.1, 0.2)}


@pytest.mark.parametrize("value", [0.5, 1e-3])
def test_a_module_that_sets_its_own_lr_ends_the_sweep_as_overridden(value: float) -> None:
    class SetsItsOwn(GivenLoss):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.calls == 3:
                self.trainer.optimizers[0].param_groups[0]["lr"] = value
            return super().training_step(batch, batch_idx)

    curve = curve_of(SetsItsOwn(lambda call: 1.0), SWEEP)
    assert curve.outcome == "overridden"
    assert len(curve) == 3
    assert curve.lr == pytest.approx(half_decades(3), rel=1e-12)
