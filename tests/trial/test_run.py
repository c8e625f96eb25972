"""`run_trial`: which losses a curve is made of, and when it ends."""

import math
import signal
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pl_onecycle.curves import LossCurve
from pl_onecycle.policy import OneCyclePolicy, Policy, RangeTestPolicy
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.trial import run_trial
from tests.fits import SmallNet, data, trainer


class RunTrial(pl.Callback):
    """Runs a trial at the start of epoch ``epoch`` and keeps the curve."""

    def __init__(self, policy: Policy, epoch: int = 0, optimizer: int = 0, **arguments: Any) -> None:
        self.policy, self.epoch, self.optimizer, self.arguments = policy, epoch, optimizer, arguments
        self.curve: LossCurve | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            run = RunOptimizer(trainer, self.optimizer)
            self.curve = run_trial(run, self.policy, **self.arguments)


def curve_of(module: pl.LightningModule, policy: Policy, loader: Any = None, **arguments: Any) -> LossCurve:
    """Fit with a trial at the start and return its curve; trial arguments go to the trial, others to the Trainer."""
    of_trial = {
        key: arguments.pop(key) for key in ("epoch", "optimizer", "early_stop_threshold", "on_step") if key in arguments
    }
    callback = RunTrial(policy, **of_trial)
    trainer([callback], **arguments).fit(module, data() if loader is None else loader)
    assert callback.curve is not None
    return callback.curve


class Told(pl.LightningModule):
    """Has the losses that it is told, one for each micro-batch, and one parameter that does not matter."""

    def __init__(self, loss: Callable[[int], float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.told, self.calls = loss, 0
        self.lrs: list[list[float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.lrs.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
        self.calls += 1
        return self.told(self.calls - 1) + 0 * self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


SWEEP = RangeTestPolicy(1e-3, 1.0, 7)  # half a decade a step


def test_each_lr_is_paired_with_the_loss_after_its_step() -> None:
    # D19: peers pair lr k with the loss before the step at lr k.
    curve = curve_of(Told(lambda call: 10.0 - call), SWEEP)
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
    curve = curve_of(Told(lambda call: 1.0), SWEEP)
    assert curve.loss == (1.0,) * 7
    assert curve.smoothed().tolist() == pytest.approx([1.0] * 7, abs=1e-12)
    assert curve.outcome == "completed"


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_loss_of_a_step_is_the_mean_of_its_micro_batches(accumulate: int) -> None:
    # D6: the peer records the last micro-batch divided by their number, and misses the short last window.
    # 10 batches an epoch: windows of 4, 4, 2 or of 2, 2, 2, 2, 2.
    windows = {1: [1] * 20, 2: [2] * 10, 4: [4, 4, 2] * 4}[accumulate]
    told = [float(call) for call in range(sum(windows))]
    means, start = [], 0
    for length in windows:
        means.append(sum(told[start : start + length]) / length)
        start += length
    curve = curve_of(
        Told(lambda call: float(call)), SWEEP, data(320), accumulate_grad_batches=accumulate, early_stop_threshold=None
    )
    assert curve.initial_loss == means[0]
    assert curve.loss == tuple(means[1:8])


def test_the_sweep_is_not_cut_by_max_epochs_or_a_short_loader() -> None:
    # D5: the peer's sweep ends with max_epochs, at a fraction of the range.
    curve = curve_of(Told(lambda call: 1.0), RangeTestPolicy(1e-7, 10.0, 50), data(96), max_epochs=1)  # 3 batches
    assert len(curve) == 50
    assert curve.lr[-1] == 10.0


@pytest.mark.parametrize("options", [{"max_steps": 5, "max_epochs": -1}, {"limit_train_batches": 2}, {"min_epochs": 2}])
def test_the_trainers_limits_do_not_cut_the_sweep(options: dict[str, Any]) -> None:
    assert len(curve_of(Told(lambda call: 1.0), RangeTestPolicy(1e-4, 1.0, 30), **options)) == 30


def test_a_group_that_joins_in_the_trial_is_left_alone() -> None:
    class Unfreezes(SmallNet):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            groups = self.trainer.optimizers[0].param_groups
            if batch_idx == 3 and len(groups) == 1:
                self.trainer.optimizers[0].add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5})

    assert len(curve_of(Unfreezes(), SWEEP)) == 7


def test_every_group_keeps_its_ratio_during_the_sweep() -> None:
    # D10: the peer sets every group to the same lr.
    class Two(Told):
        def __init__(self) -> None:
            super().__init__(lambda call: 1.0)
            self.other = nn.Parameter(torch.zeros(1))

        def configure_optimizers(self) -> Any:
            groups = [{"params": [self.weight], "lr": 0.01}, {"params": [self.other], "lr": 0.1}]
            return torch.optim.SGD(groups)

    module = Two()
    callback = RunTrial(SWEEP)
    seen: list[list[float]] = []
    step = module.training_step

    def watched(batch: Any, batch_idx: int) -> Tensor:
        seen.append([group["lr"] for group in module.trainer.optimizers[0].param_groups])
        return step(batch, batch_idx)

    module.training_step = watched  # type: ignore[method-assign]
    trainer([callback]).fit(module, data())
    swept = seen[:7]
    assert [lrs[1] for lrs in swept] == pytest.approx([1e-3 * 10 ** (k / 2) for k in range(7)])
    assert [lrs[1] / lrs[0] for lrs in swept] == pytest.approx([10.0] * 7)
    assert seen[8:] == [[0.01, 0.1]] * 16  # and the fit of two epochs has its own back


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_loss_that_is_not_finite_is_recorded_and_ends_the_sweep_at_once(bad: float, at: int) -> None:
    # D11: the peer goes on to the end with an average that is NaN for good.
    module = Told(lambda call: bad if call == at else 1.0)
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


def test_a_negative_loss_is_swept_like_any_other() -> None:
    # D11: for the peer four times the best loss is below the best loss, so it stops after two points.
    curve = curve_of(Told(lambda call: -1.0 - 0.01 * call), RangeTestPolicy(1e-4, 1.0, 30))
    assert len(curve) == 30
    assert curve.outcome == "completed"


def told_explosion(call: int) -> float:
    return 2.0 - 0.05 * call if call < 20 else 2000.0


@pytest.mark.parametrize("shift", [0.0, -100.0], ids=["positive", "negative"])
def test_an_explosion_stops_the_sweep_within_three_steps(shift: float) -> None:
    calls: list[int] = []
    module = Told(lambda call: shift + told_explosion(call))
    curve = curve_of(
        module, RangeTestPolicy(1e-4, 1.0, 50), on_step=lambda done, loss: calls.append(done), min_epochs=2
    )
    assert curve.outcome == "diverged"
    assert 20 <= len(curve) <= 22
    assert calls[-1] <= 23


def test_without_a_threshold_only_a_loss_that_is_not_finite_stops() -> None:
    curve = curve_of(Told(told_explosion), RangeTestPolicy(1e-4, 1.0, 50), early_stop_threshold=None)
    assert len(curve) == 50
    assert curve.outcome == "completed"


def test_a_trial_in_the_middle_of_training_records_its_first_losses_right() -> None:
    # D8: the peer's averages start from zero there, and its first loss "diverges".
    curve = curve_of(Told(lambda call: 1.0), SWEEP, epoch=1, max_epochs=3)
    assert curve.initial_loss == 1.0
    assert curve.loss == (1.0,) * 7


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`.*")
def test_a_step_without_a_loss_has_no_point() -> None:
    class Skips(Told):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if self.calls == 4 else loss

    curve = curve_of(Skips(lambda call: float(call)), SWEEP, early_stop_threshold=None)
    assert curve.loss == (1.0, 2.0, 4.0, 5.0, 6.0, 7.0)
    assert curve.lr == pytest.approx([1e-3 * 10 ** (k / 2) for k in (0, 1, 3, 4, 5, 6)])


def test_a_training_step_may_return_a_dict() -> None:
    class Dict(Told):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx), "more": torch.ones(3)}

    assert curve_of(Dict(lambda call: 10.0 - call), SWEEP).loss == (9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0)


def test_a_module_that_asks_to_stop_ends_the_sweep() -> None:
    class Stops(Told):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.trainer.should_stop = self.calls == 4
            return super().training_step(batch, batch_idx)

    curve = curve_of(Stops(lambda call: 1.0), SWEEP)
    assert curve.outcome == "stopped"
    assert len(curve) == 4


def test_data_that_runs_out_for_good_ends_the_sweep() -> None:
    rows = iter(data())

    class Once(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return rows

    curve = curve_of(Told(lambda call: 1.0), RangeTestPolicy(1e-4, 1.0, 30), DataLoader(Once(), batch_size=None))
    assert curve.outcome == "stopped"
    assert len(curve) == 6  # 8 batches; the real run's loader has fetched one ahead, the first loss is no point


def test_momentum_of_the_policy_is_played_in_the_trial() -> None:
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


@pytest.mark.parametrize(
    ("optimizers", "match"),
    [
        pytest.param(lambda module: None, "returned 0", id="none"),
        pytest.param(lambda module: Keyless(module.parameters()), "finite numeric `lr`", id="no lr key"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*this fit will run with no optimizer.*")
def test_a_module_without_a_usable_optimizer_is_told_so(optimizers: Any, match: str) -> None:
    class Odd(SmallNet):
        def configure_optimizers(self) -> Any:
            return optimizers(self)

    module = Odd()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(MisconfigurationException, match=match):
        curve_of(module, SWEEP)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Keyless(torch.optim.Optimizer):
    """An optimizer that has no `lr`."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"rate": 0.1})

    def step(self, closure: Any = None) -> Any:
        return None if closure is None else closure()


# ------------------------------------------------------------------------------- manual optimization, many optimizers
def half_decades(steps: int) -> list[float]:
    """The learning rates of `SWEEP`, held after its end."""
    return [1e-3 * 10 ** (min(step, 6) / 2) for step in range(steps)]


Used = list[tuple[int, list[float]]]


class ByHand(pl.LightningModule):
    """Two optimizers with learning rates 0.1 and 0.2, or as many as asked, stepped by hand as it is told.

    ``plan`` says which optimizers step in a batch, one after the other. The k-th backward pass for optimizer i has the
    loss 100 * i + k, and each step is preceded by ``passes`` of them. ``used`` gets the index of each step's optimizer
    and the learning rates of all, in a list that no trial restores.
    """

    def __init__(
        self,
        plan: Callable[[int], list[int]] = lambda batch: [],
        used: Used | None = None,
        passes: int = 1,
        count: int = 2,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weights = nn.ParameterList([torch.zeros(1) for _ in range(count)])
        self.plan, self.passes = plan, passes
        self.passed = [0] * count
        self.tell = ([] if used is None else used).append

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        found: Any = self.optimizers()
        optimizers = found if isinstance(found, list) else [found]
        for index in self.plan(batch_idx):
            optimizers[index].zero_grad()
            for _ in range(self.passes):
                self.manual_backward(self.next_loss(index))
            self.tell((index, [lr_of(optimizer) for optimizer in optimizers]))
            optimizers[index].step()

    def next_loss(self, index: int) -> Tensor:
        self.passed[index] += 1
        loss: Tensor = 100.0 * index + self.passed[index] - 1 + 0 * self.weights[index].sum()
        return loss

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([weight], lr=0.1 * (i + 1)) for i, weight in enumerate(self.weights)]


def lr_of(optimizer: Any) -> float:
    return float(optimizer.param_groups[0]["lr"])


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


def test_one_optimizer_by_hand_gives_the_curve_of_automatic_optimization() -> None:
    by_hand = curve_of(ByHand(lambda batch: [0], count=1), SWEEP, early_stop_threshold=None)
    automatic = curve_of(Told(lambda call: float(call)), SWEEP, early_stop_threshold=None)
    assert by_hand == automatic


def test_steps_after_the_end_of_the_sweep_in_its_last_batch_do_no_harm() -> None:
    # Nine steps a batch: the sweep of seven and the loss after it end within the first.
    curve = curve_of(ByHand(lambda batch: [0] * 9), SWEEP, early_stop_threshold=None)
    assert curve.loss[:7] == tuple(float(k) for k in range(1, 8))
    assert curve.lr[:7] == pytest.approx(half_decades(7), rel=1e-12)
    assert len(curve) == 7


def test_a_third_optimizer_can_be_the_one() -> None:
    used: Used = []
    module = ByHand(lambda batch: [0, 2, 1], used, count=3)
    curve = curve_of(module, SWEEP, optimizer=2, early_stop_threshold=None, max_epochs=1)
    assert curve.loss == tuple(200.0 + k for k in range(1, 8))
    assert {(lrs[0], lrs[1]) for _, lrs in used} == {(0.1, 0.2)}


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
def test_torchs_own_optimizers_are_as_good_as_lightnings(index: int) -> None:
    class Raw(ByHand):
        def optimizers(self, use_pl_optimizer: bool = True) -> Any:
            return super().optimizers(use_pl_optimizer=False)

    module = Raw(lambda batch: [0, 1])
    curve = curve_of(module, SWEEP, optimizer=index, early_stop_threshold=None, max_epochs=1)
    assert (curve.initial_loss, *curve.loss) == tuple(100.0 * index + k for k in range(8))


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`.*")
def test_a_module_that_shows_no_loss_is_told_so_and_is_as_before() -> None:
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


def test_an_optimizer_that_never_steps_ends_the_sweep_after_one_epoch() -> None:
    used: Used = []
    curve = curve_of(ByHand(lambda batch: [0], used), SWEEP, optimizer=1, max_epochs=1)
    assert curve.outcome == "stopped"
    assert len(curve) == 0
    assert len(used) == 16  # an epoch of the trial and one of the fit


@pytest.mark.parametrize("index", [2, 5])
def test_an_index_beyond_the_optimizers_is_told(index: int) -> None:
    match = rf"^There is no optimizer with index {index}: `ByHand\.configure_optimizers` returned 2\.$"
    with pytest.raises(MisconfigurationException, match=match):
        curve_of(ByHand(lambda batch: [0, 1]), SWEEP, optimizer=index)


def test_every_group_of_the_named_optimizer_keeps_its_ratio_and_momentum_is_played_by_hand_too() -> None:
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


@pytest.mark.parametrize("index", [0, 1])
def test_schedulers_that_are_stepped_by_hand_stand_still_in_the_trial(index: int) -> None:
    class Scheduled(ByHand):
        def configure_optimizers(self) -> Any:
            optimizers = super().configure_optimizers()
            return optimizers, [torch.optim.lr_scheduler.ExponentialLR(each, 0.5) for each in optimizers]

        def training_step(self, batch: Any, batch_idx: int) -> None:
            super().training_step(batch, batch_idx)
            schedulers: Any = self.lr_schedulers()
            for scheduler in schedulers:
                scheduler.step()
            counts.append([scheduler.last_epoch for scheduler in schedulers])

    counts: list[list[int]] = []
    used: Used = []
    module = Scheduled(lambda batch: [0, 1], used)
    curve = curve_of(module, SWEEP, optimizer=index, early_stop_threshold=None, max_epochs=1)
    assert curve.outcome == "completed"
    assert counts == [[0, 0]] * 8 + [[k, k] for k in range(1, 9)]
    assert {lrs[1 - index] for _, lrs in used[:16]} == {[0.1, 0.2][1 - index]}
    # The fit halves both after every batch, as if there had been no trial.
    assert [lrs for _, lrs in used[16::2]] == [[0.1 / 2**k, 0.2 / 2**k] for k in range(8)]
    assert [lr_of(optimizer) for optimizer in module.trainer.optimizers] == [0.1 / 2**8, 0.2 / 2**8]


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


# ------------------------------------------------------------------------------------------------ fp16
def fp16(init_scale: float = 1024.0) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=init_scale))


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("by_hand", [False, True], ids=["automatic", "by hand"])
def test_a_step_that_the_gradient_scaler_leaves_out_is_made_again_with_the_same_lr(by_hand: bool, fused: bool) -> None:
    class Overflows(Told):
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


# ---------------------------------------------------------------------------------- exceptions in a sweep
class Jump:
    """Five small steps, then five that bring a weight beyond what a number can hold."""

    total_steps = 10

    def lr(self, step: float) -> float:
        return 1e-3 if step < 5 else 1e38

    def momentum(self, step: float) -> None:
        return None


def steep(weight: Tensor) -> Tensor:
    """10 w^4, whose slope at 1 times 1e38 is infinite."""
    return (10 * weight**4).sum()


class Guarded(pl.LightningModule):
    """A weight at 1 whose loss may raise, where it is not finite."""

    def __init__(self, guard: Callable[[Tensor], Tensor], by_hand: bool = False) -> None:
        super().__init__()
        self.guard, self.automatic_optimization = guard, not by_hand
        self.weight = nn.Parameter(torch.tensor([1.0]))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.guard(self.weight)
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def binary_cross_entropy(weight: Tensor) -> Tensor:
    share = torch.sigmoid(weight - weight)  # a half, or NaN of an infinite weight, which raises
    return nn.functional.binary_cross_entropy(share, torch.tensor([0.5])) + steep(weight)


def own_check(weight: Tensor) -> Tensor:
    if not torch.isfinite(weight).all():
        raise FloatingPointError("the weights have exploded")
    return steep(weight)


GUARDS: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any], str]] = {
    "binary cross entropy": (binary_cross_entropy, {}, "RuntimeError: all elements of input should be between 0 and 1"),
    "own check": (own_check, {}, "FloatingPointError: the weights have exploded"),
    "anomaly detection": (
        lambda weight: steep(weight) * (1 + weight - weight).sum(),
        {"detect_anomaly": True},
        r"RuntimeError: Function '\w+' returned nan values",
    ),
}


@pytest.mark.parametrize("by_hand", [False, True], ids=["automatic", "by hand"])
@pytest.mark.parametrize(("guard", "options", "said"), GUARDS.values(), ids=GUARDS)
@pytest.mark.filterwarnings("ignore:.*Error detected in .*:UserWarning")
def test_an_exception_that_comes_of_values_that_are_not_finite_ends_the_sweep_as_diverged(
    guard: Callable[[Tensor], Tensor], options: dict[str, Any], said: str, by_hand: bool
) -> None:
    module = Guarded(guard, by_hand)
    with pytest.warns(UserWarning, match=f"^A trial has diverged and ended in {said}"):
        curve = curve_of(module, Jump(), early_stop_threshold=None, max_epochs=1, **options)
    assert curve.outcome == "diverged"
    assert curve.lr == (1e-3,) * 5 + (1e38,)
    # The loss falls, and the step with 1e38 has none.
    assert list(curve.loss[:5]) == sorted(curve.loss[:5], reverse=True)
    assert repr(curve.loss[5:]) == "(nan,)"
    # The fit has gone on from where it was: eight steps of lr 0.01.
    weight = torch.tensor([1.0], requires_grad=True)
    for _ in range(8):
        [gradient] = torch.autograd.grad(guard(weight), [weight])
        weight = (weight - 0.01 * gradient).detach().requires_grad_()
    assert module.weight.item() == pytest.approx(weight.item(), rel=1e-6)
    assert module.trainer.global_step == 8


class Broken(Exception):
    """What goes wrong for another reason."""


@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize("fault", [Broken("disk full"), RuntimeError("shapes"), KeyboardInterrupt()], ids=repr)
def test_an_exception_of_another_cause_is_the_users(
    fault: BaseException, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # Lightning would leave Ctrl-C ignored

    class Fails(Told):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.calls == at:
                raise fault
            return super().training_step(batch, batch_idx)

    module = Fails(lambda call: 1.0)
    with pytest.raises((type(fault), SystemExit)):
        curve_of(module, SWEEP)
    assert lr_of(module.trainer.optimizers[0]) == 0.1


def test_an_exception_of_weights_that_were_not_finite_from_the_first_is_the_users() -> None:
    module = Guarded(own_check)
    module.weight.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="have exploded"):
        curve_of(module, SWEEP)
