"""`run_trial`: how far a trial runs, what ends it, whose fault an exception is, and what a trial does not touch."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, distributions
from torch.utils.data import DataLoader, IterableDataset

from pl_onecycle.policy import RangeTestPolicy
from pl_onecycle.trial import Checkups
from tests.fits import SmallNet, data, same, trainer, weights_of
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


# --------------------------------------------------------------------------------- exceptions of too large an lr
WIDE = RangeTestPolicy(1e-5, 1e4, 50)


def assertion(out: Tensor, labels: Tensor) -> Tensor:
    loss = (out[:, 0] - labels).pow(4).mean()
    assert loss < 1e6, "loss is not finite"
    return loss


def own_check(out: Tensor, labels: Tensor) -> Tensor:
    if out.abs().max() > 100:
        raise FloatingPointError("activations have exploded")
    return torch.nn.functional.cross_entropy(out, labels)


def silent(out: Tensor, labels: Tensor) -> Tensor:
    if out.abs().max() > 100:
        raise RuntimeError
    return torch.nn.functional.cross_entropy(out, labels)


def beta(out: Tensor, labels: Tensor) -> Tensor:
    # A concentration that underflows to zero or overflows is none.
    values = torch.full(labels.shape, 0.3)
    alpha, beta = out[:, :2].exp().unbind(1)
    densities: Tensor = distributions.Beta(alpha, beta, validate_args=True).log_prob(
        values
    )  # torch.compile turns it off
    return -densities.mean()


def negative_scale(out: Tensor, labels: Tensor) -> Tensor:
    densities: Tensor = distributions.Normal(out[:, 0], 3 + out[:, 1], validate_args=True).log_prob(labels)
    return -densities.mean()


def cholesky(out: Tensor, labels: Tensor) -> Tensor:
    covariance = torch.eye(3) + torch.diag(out.mean(0))
    factor: Tensor = torch.linalg.cholesky(covariance)
    return factor.diagonal().log().sum() + (out[:, 0] - labels).square().mean()


def logarithm(out: Tensor, labels: Tensor) -> Tensor:
    return (out[:, 0] - labels).square().mean() - math.log(3 + float(out[:, 1].detach().min()))


def clamped_ratio(out: Tensor, labels: Tensor) -> Tensor:
    # The loss of an infinite ratio is finite, its gradient is 0 * inf.
    return (out[:, 1] - labels).square().mean() - 0.1 * out[:, 0].exp().clamp(max=2.0).mean()


Strain = Callable[[Tensor, Tensor], Tensor]
STRAINS: dict[str, tuple[Strain, dict[str, Any], str]] = {
    "assertion": (assertion, {}, "AssertionError: loss is not finite$"),
    "own check": (own_check, {}, "FloatingPointError: activations have exploded$"),
    "without a message": (silent, {}, "RuntimeError$"),
    "Beta": (beta, {}, r"ValueError: Expected parameter concentration .*$"),
    "negative scale": (negative_scale, {}, r"ValueError: Expected parameter scale .*$"),
    "cholesky": (cholesky, {}, r"_?LinAlgError: linalg\.cholesky: .*$"),
    "logarithm": (logarithm, {}, "ValueError: .*$"),
    "anomaly detection": (clamped_ratio, {"detect_anomaly": True}, r"RuntimeError: Function '\w+' returned nan .*$"),
}


class Strained(SmallNet):
    """Its loss raises an exception where the outputs have become too large."""

    def __init__(self, strain: Strain, by_hand: bool = False) -> None:
        torch.manual_seed(3)
        super().__init__()
        self.strain, self.automatic_optimization = strain, not by_hand

    def loss(self, batch: Any) -> Tensor:
        return self.strain(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None


def fitted(module: SmallNet, *loaders: Any, **options: Any) -> dict[str, Tensor]:
    """The weights after a fit without a trial."""
    trainer(**options).fit(module, *(loaders or [data()]))
    return weights_of(module)


def cause(error: Any) -> Any:
    return pytest.warns(UserWarning, match=f"^A trial has diverged and ended in {error}")


@pytest.mark.parametrize("by_hand", [False, True], ids=["automatic", "by hand"])
@pytest.mark.parametrize(("strain", "options", "said"), STRAINS.values(), ids=STRAINS)
@pytest.mark.filterwarnings("ignore:.*Error detected in .*:UserWarning")
def test_an_exception_that_only_a_large_lr_causes_ends_the_sweep_as_diverged(
    strain: Strain, options: dict[str, Any], said: str, by_hand: bool
) -> None:
    expected = fitted(Strained(strain, by_hand))
    module = Strained(strain, by_hand)
    seen: list[int] = []
    with cause(said) as warned:
        curve = curve_of(
            module, WIDE, early_stop_threshold=None, on_step=lambda done, loss: seen.append(done), **options
        )
    assert len([it for it in warned if "A trial" in str(it.message)]) == 1
    assert curve.outcome == "diverged"
    assert 10 < len(curve) < 50
    assert repr(curve.loss[-1]) == "nan"
    assert all(math.isfinite(loss) for loss in curve.loss[:-1])
    assert curve.lr[-1] == pytest.approx(WIDE.lr(len(curve) - 1))
    assert seen == [*range(1, len(curve) + 1)]  # the repeated batches are not reported
    assert same(weights_of(module), expected)
    assert module.trainer.global_step == 16


def test_an_exception_in_validation_that_only_a_large_lr_causes_ends_the_trial_as_diverged() -> None:
    class Checked(Strained):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            own_check(self.net(batch[0]), batch[1])
            self.log("val_loss", torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def plain(out: Tensor, labels: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(out, labels)

    expected = fitted(Checked(plain), data(), data(64))
    module = Checked(plain)
    checkups = Checkups(range(5, 50, 5), val_batches=1)
    with cause("FloatingPointError"):
        curve = curve_of(module, WIDE, data(), data(64), early_stop_threshold=None, checkups=checkups)
    assert curve.outcome == "diverged"
    assert len(curve) % 5 == 0
    assert len(curve.val_loss) == len(curve) // 5 - 1
    assert same(weights_of(module), expected)


class Queue(IterableDataset[Any]):
    """Gives each batch once."""

    def __init__(self) -> None:
        self.batches = iter([*data(32 * 120)])

    def __iter__(self) -> Iterator[Any]:
        return self.batches


def test_the_batches_of_a_queue_that_were_repeated_go_to_the_run() -> None:
    options = {"max_epochs": 1, "limit_train_batches": 80}
    expected = fitted(Strained(own_check), DataLoader(Queue(), batch_size=None), **options)
    module = Strained(own_check)
    with cause("FloatingPointError"):
        curve_of(module, WIDE, DataLoader(Queue(), batch_size=None), early_stop_threshold=None, **options)
    assert same(weights_of(module), expected)


class Row(torch.utils.data.Dataset[Any]):
    """Rows of which one cannot be read: always, or only the first time."""

    def __init__(self, bad: int, always: bool) -> None:
        self.rows: Any = data().dataset
        self.bad, self.always, self.reads = bad, always, itertools.count()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        if index == self.bad and (next(self.reads) == 0 or self.always):
            raise OSError(f"row {index} is damaged")
        return self.rows[index]


class Hooked(Strained):
    """Fails in the hook ``where`` of the batch ``at``: always, or only the first time."""

    def __init__(self, where: str, at: int, always: bool) -> None:
        super().__init__(lambda out, labels: torch.nn.functional.cross_entropy(out, labels))
        self.where, self.at, self.always, self.strikes = where, at, always, itertools.count()

    def strike(self, where: str, batch_idx: int) -> None:
        if where == self.where and batch_idx == self.at and (next(self.strikes) == 0 or self.always):
            raise KeyError("label")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.strike("start", batch_idx)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.strike("step", batch_idx)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.strike("end", batch_idx)


@pytest.mark.parametrize("always", [True, False], ids=["always", "once"])
@pytest.mark.parametrize("at", [0, 1, 6])
@pytest.mark.parametrize("where", ["start", "step", "end", "row"])
@pytest.mark.filterwarnings("ignore:The module holds objects of type count")
def test_an_exception_of_a_batch_at_any_lr_or_by_chance_is_the_users(where: str, at: int, always: bool) -> None:
    loader = DataLoader(Row(32 * at if where == "row" else -1, always), 32)
    module = Hooked(where, at, always)
    before = weights_of(module)
    with pytest.raises(OSError if where == "row" else KeyError):
        curve_of(module, WIDE, loader, early_stop_threshold=None)
    assert same(weights_of(module), before)
    assert lr_of(module.trainer.optimizers[0]) == 0.01
    assert module.trainer.global_step == 0
