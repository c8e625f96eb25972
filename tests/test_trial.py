"""`run_trial`: which losses a curve is made of, and when it ends."""

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pl_onecycle.curve import LossCurve
from pl_onecycle.policy import OneCyclePolicy, Policy, RangeTestPolicy
from pl_onecycle.trial import run_trial
from tests.fits import SmallNet, data, trainer


class RunTrial(pl.Callback):
    """Runs a trial at the start of epoch ``epoch`` and keeps the curve."""

    def __init__(self, policy: Policy, epoch: int = 0, **arguments: Any) -> None:
        self.policy, self.epoch, self.arguments = policy, epoch, arguments
        self.curve: LossCurve | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            self.curve = run_trial(trainer, self.policy, **self.arguments)


def curve_of(module: pl.LightningModule, policy: Policy, loader: Any = None, **arguments: Any) -> LossCurve:
    """Fit with a trial at the start and return its curve; trial arguments go to the trial, others to the Trainer."""
    of_trial = {key: arguments.pop(key) for key in ("epoch", "early_stop_threshold", "on_step") if key in arguments}
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
        pytest.param(lambda module: None, "needs an optimizer", id="none"),
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


def test_manual_optimization_is_told_that_it_is_not_supported() -> None:
    class Manual(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(self.loss(batch))

    with pytest.raises(MisconfigurationException, match="automatic optimization with one optimizer"):
        curve_of(Manual(), SWEEP)
