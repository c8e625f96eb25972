"""`run_trial`: how far a trial runs, what ends it, and what it does not touch."""

from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from pl_onecycle.policy import RangeTestPolicy
from tests.fits import SmallNet, data
from tests.trial.made import SWEEP, ByHand, GivenLoss, Used, curve_of, lr_of


def test_the_sweep_is_not_cut_by_max_epochs_or_a_short_loader() -> None:
    # D5: the peer's sweep ends with max_epochs, at a fraction of the range.
    curve = curve_of(GivenLoss(lambda call: 1.0), RangeTestPolicy(1e-7, 10.0, 50), data(96), max_epochs=1)  # 3 batches
    assert len(curve) == 50
    assert curve.lr[-1] == 10.0


@pytest.mark.parametrize("options", [{"max_steps": 5, "max_epochs": -1}, {"limit_train_batches": 2}, {"min_epochs": 2}])
def test_the_trainers_limits_do_not_cut_the_sweep(options: dict[str, Any]) -> None:
    assert len(curve_of(GivenLoss(lambda call: 1.0), RangeTestPolicy(1e-4, 1.0, 30), **options)) == 30


def test_a_trial_in_the_middle_of_training_records_its_first_losses_right() -> None:
    # D8: the peer's averages start from zero there, and its first loss "diverges".
    curve = curve_of(GivenLoss(lambda call: 1.0), SWEEP, epoch=1, max_epochs=3)
    assert curve.initial_loss == 1.0
    assert curve.loss == (1.0,) * 7


def test_a_module_that_asks_to_stop_ends_the_sweep() -> None:
    class Stops(GivenLoss):
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

    curve = curve_of(GivenLoss(lambda call: 1.0), RangeTestPolicy(1e-4, 1.0, 30), DataLoader(Once(), batch_size=None))
    assert curve.outcome == "stopped"
    assert len(curve) == 6  # 8 batches; the real run's loader has fetched one ahead, the first loss is no point


def test_an_optimizer_that_never_steps_ends_the_sweep_after_one_epoch() -> None:
    used: Used = []
    curve = curve_of(ByHand(lambda batch: [0], used), SWEEP, optimizer=1, max_epochs=1)
    assert curve.outcome == "stopped"
    assert len(curve) == 0
    assert len(used) == 16  # an epoch of the trial and one of the fit


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


class Keyless(torch.optim.Optimizer):
    """An optimizer that has no `lr`."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"rate": 0.1})

    def step(self, closure: Any = None) -> Any:
        return None if closure is None else closure()


@pytest.mark.parametrize(
    ("optimizers", "match"),
    [
        pytest.param(lambda module: None, "returned 0 optimizers", id="none"),
        pytest.param(lambda module: Keyless(module.parameters()), "finite numeric `lr`", id="no lr key"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*this fit will run with no optimizer.*")
def test_a_module_without_a_usable_optimizer_raises_and_is_restored(optimizers: Any, match: str) -> None:
    class Odd(SmallNet):
        def configure_optimizers(self) -> Any:
            return optimizers(self)

    module = Odd()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(MisconfigurationException, match=match):
        curve_of(module, SWEEP)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("index", [2, 5])
def test_an_index_beyond_the_optimizers_raises(index: int) -> None:
    match = rf"^There is no optimizer with index {index}: `ByHand\.configure_optimizers` returned 2 optimizers\.$"
    with pytest.raises(MisconfigurationException, match=match):
        curve_of(ByHand(lambda batch: [0, 1]), SWEEP, optimizer=index)
