"""`WeightDecayProbe` and `MomentumProbe` in real fits: what is tried, what is chosen, and what training then uses."""

import csv
import json
import math
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pl_onecycle import (
    Choice,
    LossCurve,
    LRRangeTest,
    MomentumProbe,
    OneCyclePolicy,
    WeightDecayProbe,
    configure_one_cycle,
)
from pl_onecycle.curves import choose
from pl_onecycle.probe import Probe
from tests.fits import LRs, SmallNet, data, trainer
from tests.test_range_test import TwoNets

SENTENCE = r"^Expected argument `{}` to be [^\n]+ but got [^\n]+$"
PROBES = pytest.mark.parametrize("kind", [WeightDecayProbe, MomentumProbe])


class Net(SmallNet):
    """SGD with momentum and a weight decay, validated on what it is trained on."""

    def __init__(self, weight_decay: float = 0.0, lr: float = 0.1) -> None:
        super().__init__(lr)
        self.weight_decay = weight_decay

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=self.weight_decay)


class OneCycle(Net):
    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, super().configure_optimizers())


class Wanting(Net):
    """Its validation loss falls, by 0.1 a look, where the largest decay is 0.5 or the largest momentum 0.97."""

    look = 0  # these two are put back after each trial
    highest = 0.0

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        momenta = (group["betas"][0] if "betas" in group else group["momentum"] for group in optimizer.param_groups)
        self.highest = max(self.highest, *momenta)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            self.look += 1
            decay = max(group["weight_decay"] for group in self.trainer.optimizers[0].param_groups)
            self.log("val_loss", torch.tensor(2 - 0.1 * self.look * (decay == 0.5 or self.highest == 0.97)))


class Decays(pl.Callback):
    """Records the weight decay of each group at each step of the real run."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.seen.append([float(group["weight_decay"]) for group in optimizer.param_groups])


def decay_probe(*weight_decays: float, num_steps: int = 10, **arguments: Any) -> WeightDecayProbe:
    return WeightDecayProbe(weight_decays or (1e-2, 0.0), num_steps, **{"report": False, **arguments})


def momentum_probe(*momentums: float, num_steps: int = 10, **arguments: Any) -> MomentumProbe:
    return MomentumProbe(momentums or (0.9, 0.95), num_steps, **{"report": False, **arguments})


def fit(probe: pl.Callback, module: pl.LightningModule | None = None, *others: pl.Callback, **arguments: Any) -> Any:
    """One epoch of 8 batches, validated on three batches of 32."""
    train, val = arguments.pop("train", None) or data(), arguments.pop("val", data(96))
    checkpoint = arguments.pop("ckpt_path", None)
    fitting = trainer([probe, *others], **{"max_epochs": 1, "num_sanity_val_steps": 0, **arguments})
    fitting.fit(module or Net(), train, val, ckpt_path=checkpoint)
    return fitting


def found(probe: Probe) -> Choice:
    assert probe.suggestion is not None
    return probe.suggestion


def line(caplog: pytest.LogCaptureFixture, title: str = "Weight decay probe") -> str:
    """The one line that the probe says."""
    [said] = [it.getMessage() for it in caplog.records if it.getMessage().startswith(title)]
    assert "\n" not in said
    return said


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# ---------------------------------------------------------------------------------------- bad arguments
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("weight_decays", (), ValueError),
        ("weight_decays", [], ValueError),
        ("weight_decays", (1e-3, 1e-3), ValueError),
        ("weight_decays", (1, 1.0), ValueError),
        ("weight_decays", (1e-3, -1e-4), ValueError),
        ("weight_decays", (math.nan,), ValueError),
        ("weight_decays", (math.inf,), ValueError),
        ("weight_decays", "wide", ValueError),
        ("weight_decays", 1e-3, ValueError),
        ("weight_decays", None, ValueError),
        ("weight_decays", {1e-3, 1e-4}, ValueError),
        ("weight_decays", ("1e-3",), TypeError),
        ("weight_decays", (True,), TypeError),
        ("weight_decays", ((1e-3,),), TypeError),
        ("num_steps", 9, ValueError),
        ("num_steps", 20.0, TypeError),
        ("num_steps", True, TypeError),
        ("mode", "fall", ValueError),
        ("mode", None, ValueError),
        ("max_lr", 0.0, ValueError),
        ("max_lr", 1e-7, ValueError),
        ("max_lr", "0.1", TypeError),
        ("min_lr", 0.0, ValueError),
        ("min_lr", math.nan, ValueError),
        ("refine", 1, TypeError),
        ("early_stop_threshold", 0.0, ValueError),
        ("early_stop_threshold", "4", TypeError),
        ("val_batches", -1, ValueError),
        ("val_batches", 1.5, TypeError),
        ("monitor", None, TypeError),
        ("optimizer", -1, ValueError),
        ("optimizer", "first", TypeError),
        ("apply", "yes", TypeError),
        ("report", 0, TypeError),
    ],
)
def test_bad_arguments_are_told_in_one_sentence(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format(name)):
        WeightDecayProbe(**{name: value})


@pytest.mark.parametrize(
    ("momentums", "error"),
    [
        ((), ValueError),
        ((0.9, 0.9), ValueError),
        ((1.0,), ValueError),
        ((-0.1,), ValueError),
        (("0.9",), TypeError),
        ("around", ValueError),
        (0.9, ValueError),
    ],
)
def test_bad_momentums_are_told_in_one_sentence(momentums: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format("momentums")):
        MomentumProbe(momentums)


@PROBES
def test_arguments_are_kept_as_they_were(kind: Any) -> None:
    values = [0.5, 0.25]
    probe = kind(values, 33, mode="cycle", max_lr=1, min_lr=0.5, val_batches=0, monitor="accuracy", apply=False)
    assert (probe.weight_decays if kind is WeightDecayProbe else probe.momentums) is values
    assert (probe.num_steps, probe.mode, probe.max_lr, probe.min_lr) == (33, "cycle", 1, 0.5)
    assert (probe.val_batches, probe.monitor, probe.apply) == (0, "accuracy", False)


# --------------------------------------------------------------------------------------- misconfiguration
@pytest.mark.parametrize("lr", [0.0, 1e-7])
@PROBES
def test_an_lr_that_is_no_peak_is_a_clear_error_and_harms_nothing(kind: Any, lr: float) -> None:
    module, lrs = Net(lr=lr), LRs()
    before = weights_of(module)
    with pytest.raises(
        MisconfigurationException,
        match=rf"^{kind.__name__} needs a learning rate above 1e-07 to train with, and the optimizer's is {lr:g}: run"
        r" LRRangeTest in the same fit, or pass `max_lr`\.$",
    ):
        fit(kind(num_steps=10), module, lrs)
    assert lrs.lr == []
    assert same(before, weights_of(module))


def test_an_lr_of_zero_is_no_error_with_an_lr_of_the_probes_own(caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe(max_lr=0.2)
    with caplog.at_level("INFO"):
        fit(probe, Net(lr=0.0))
    assert probe.curves[0.0].lr[-1] == 0.2
    assert "max_lr 0.2): " in line(caplog)


def test_an_optimizer_without_weight_decay_is_a_clear_error() -> None:
    class Plain(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1)

    with pytest.raises(
        MisconfigurationException,
        match=r"^Expected argument `optimizer` to be an optimizer with weight decay .* but got 'LBFGS'$",
    ):
        fit(decay_probe(), Plain())


@pytest.mark.parametrize(
    "optimizer",
    [lambda weights: torch.optim.SGD(weights, 0.1), lambda weights: torch.optim.Adagrad(weights, 0.1)],
    ids=["SGD", "Adagrad"],
)
def test_an_optimizer_without_momentum_is_a_clear_error(optimizer: Callable[[Any], Any]) -> None:
    class Plain(Net):
        def configure_optimizers(self) -> Any:
            return optimizer(self.parameters())

    with pytest.raises(
        MisconfigurationException,
        match=r"^MomentumProbe needs an optimizer that trains with momentum, and (SGD|Adagrad) has none\.$",
    ):
        fit(momentum_probe(), Plain())


@PROBES
def test_an_optimizer_that_is_not_there_is_told(kind: Any) -> None:
    with pytest.raises(
        MisconfigurationException,
        match=r"optimizer with index 1[^\n]*`Net\.configure_optimizers` returned 1\.$",
    ):
        fit(kind(num_steps=10, optimizer=1))


@PROBES
def test_a_module_without_an_optimizer_is_told(kind: Any) -> None:
    class Untrained(Net):
        def configure_optimizers(self) -> None:
            return None

    untrained = pytest.warns(UserWarning, match="`LightningModule.configure_optimizers` returned `None`")
    with (
        untrained,
        pytest.raises(MisconfigurationException, match=r"`Untrained\.configure_optimizers` returned (0|none)\.$"),
    ):
        fit(kind(num_steps=10), Untrained())


def test_there_is_nothing_around_a_decay_of_zero() -> None:
    with pytest.raises(MisconfigurationException, match="no weight decay to search around: the optimizer's is 0"):
        fit(WeightDecayProbe("around", 10))


# ----------------------------------------------------------------------------- each candidate really trains
def replay(module: Net, decay: float, highest: float, steps: int, val_batches: int) -> tuple[list[float], list[float]]:
    """Train a copy by hand: plain tensors, no torch optimizer, nothing of the package or of Lightning.

    v = m v + g + wd w and w = w - lr v, with lr_k = lo + (hi - lo) k / (N - 1) and m_k = 0.95 - 0.1 k / (N - 1).
    Returns the loss after each step, which is that of the next batch, and the validation loss at each tenth.
    """
    weights = [value.detach().clone().requires_grad_() for value in module.parameters()]
    velocity = [torch.zeros_like(weight) for weight in weights]

    def loss_of(batch: Sequence[Tensor]) -> Tensor:
        first, bias, second, other_bias = weights
        hidden = (batch[0] @ first.T + bias).clamp(min=0)
        return nn.functional.cross_entropy(hidden @ second.T + other_bias, batch[1])

    batches, val = list(data()), list(data(96))[:val_batches]
    losses, val_losses = [], []
    for k in range(steps + 1):
        loss = loss_of(batches[k % len(batches)])
        losses.append(loss.item())
        share = k / (steps - 1)
        lr, momentum = 1e-7 + (highest - 1e-7) * share, 0.95 - 0.1 * share
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, v, gradient in zip(weights, velocity, gradients, strict=True):
                v.mul_(momentum).add_(gradient + decay * weight)
                weight.sub_(lr * v)
        if (k + 1) in {round(steps * tenth / 10) for tenth in range(1, 11)} and val:
            val_losses.append(sum(loss_of(batch).item() for batch in val) / len(val))
    return losses[1:], val_losses


@pytest.mark.parametrize("num_steps", [10, 23])
def test_each_candidate_is_trained_with_its_decay(num_steps: int) -> None:
    module, probe = Net(), decay_probe(0.3, 0.03, 0.0, num_steps=num_steps, val_batches=2, early_stop_threshold=None)
    twin = Net()
    twin.load_state_dict(module.state_dict())
    fit(probe, module)
    assert list(probe.curves) == [0.3, 0.03, 0.0]
    ends = set()
    for decay, curve in probe.curves.items():
        losses, val_losses = replay(twin, decay, 0.1, num_steps, 2)
        assert list(curve.loss) == pytest.approx(losses, rel=1e-6, abs=1e-6)
        assert list(curve.val_loss) == pytest.approx(val_losses, rel=1e-6, abs=1e-6)
        assert curve.outcome == "completed"
        ends.add(round(curve.loss[-1], 5))
    assert len(ends) == 3
    # Tenths of 23 steps: 2.3 -> 2, 4.6 -> 5, 6.9 -> 7, 9.2, 11.5 -> 12, 13.8, 16.1, 18.4, 20.7, 23.
    tenths = {10: list(range(1, 11)), 23: [2, 5, 7, 9, 12, 14, 16, 18, 21, 23]}[num_steps]
    assert {tuple(curve.val_steps) for curve in probe.curves.values()} == {tuple(tenths)}


def test_lr_rises_linearly_from_the_range_tests_start_to_the_peak() -> None:
    probe = decay_probe(1e-4, num_steps=12)
    fit(probe)
    assert list(probe.curves[1e-4].lr) == pytest.approx([1e-7 + (0.1 - 1e-7) * k / 11 for k in range(12)], rel=1e-12)


def test_a_cycle_is_the_runs_own_in_short() -> None:
    """Momenta are seen in the groups; the rates are in the curve."""

    class Seen(OneCycle):
        momenta: list[float] = []  # noqa: RUF012

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.momenta.append(optimizer.param_groups[0]["momentum"])

        def configure_optimizers(self) -> Any:
            optimizer = Net.configure_optimizers(self)
            arguments: Any = {"pct_start": 0.3, "div_factor": 20, "final_div_factor": 100, "base_momentum": 0.8}
            return configure_one_cycle(self, optimizer, **arguments)

    probe, lrs = decay_probe(1e-4, num_steps=40, mode="cycle"), LRs()
    fit(probe, Seen(), lrs)
    short = OneCyclePolicy(0.1, 40, pct_start=0.3, div_factor=20, final_div_factor=100, base_momentum=0.8)
    assert list(probe.curves[1e-4].lr) == [short.lr(step) for step in range(40)]
    assert Seen.momenta[:40] == [short.momentum(step) for step in range(40)]
    whole = OneCyclePolicy(0.1, 8, pct_start=0.3, div_factor=20, final_div_factor=100, base_momentum=0.8)
    assert lrs.lr == [[whole.lr(step)] for step in range(8)]


def test_a_cycle_without_a_scheduler_is_smiths() -> None:
    probe = decay_probe(1e-4, num_steps=20, mode="cycle")
    fit(probe)
    short = OneCyclePolicy(0.1, 20)
    assert list(probe.curves[1e-4].lr) == [short.lr(step) for step in range(20)]


def test_an_exponential_fall_is_as_deep_in_short() -> None:
    class Falling(Net):
        def configure_optimizers(self) -> Any:
            arguments: Any = {"preset": "exp_decay", "rampup_epochs": 2, "exp_decay": 0.9, "steps_per_epoch": 8}
            return configure_one_cycle(self, super().configure_optimizers(), **arguments)

    probe = decay_probe(1e-4, num_steps=20, mode="cycle")
    whole = fit(probe, Falling(), max_epochs=10).lr_scheduler_configs[0].scheduler.policy
    lr = probe.curves[1e-4].lr
    assert whole.total_steps == 80
    assert max(lr) == pytest.approx(0.1)
    # Four steps of the run for each of the probe: the same rate at the same share of the way.
    assert [lr[k] for k in (5, 10, 15)] == pytest.approx([whole.lr(4 * k) for k in (5, 10, 15)], rel=0.02)


def test_momentum_that_the_run_does_not_cycle_stands_still_in_the_probe() -> None:
    class Seen(Net):
        momenta: set[float] = set()  # noqa: RUF012

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.momenta.add(optimizer.param_groups[0]["momentum"])

        def configure_optimizers(self) -> Any:
            return configure_one_cycle(self, super().configure_optimizers(), cycle_momentum=False)

    fit(decay_probe(), Seen())
    assert Seen.momenta == {0.9}


def test_the_decays_of_the_groups_keep_their_ratio_in_a_trial() -> None:
    class Grouped(Net):
        seen: list[list[float]] = []  # noqa: RUF012

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.seen.append([group["weight_decay"] for group in optimizer.param_groups])

        def configure_optimizers(self) -> Any:
            return grouped(self, torch.optim.SGD, 1e-3, 1e-4, 0.0)

    fit(decay_probe(0.5, 0.0, max_lr=0.1), Grouped())
    assert Grouped.seen[:11] == [[0.5, pytest.approx(0.05), 0.0]] * 11
    assert Grouped.seen[11:22] == [[0.0, 0.0, 0.0]] * 11


@pytest.mark.parametrize("val_batches", [0, 2])
def test_two_candidates_that_differ_in_name_only_have_the_same_curve(val_batches: int) -> None:
    """Of 1e-30 w nothing is left beside a gradient in float32. Shuffled data, dropout, noise and a batch norm."""

    class Random(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step([batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]], batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            super().validation_step([batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]], batch_idx)

    probe = decay_probe(1e-30, 1e-31, num_steps=20, val_batches=val_batches)
    fit(probe, Random(), train=data(shuffle=True), val=data(96))
    one, other = probe.curves.values()
    assert one == other
    assert len(set(one.loss)) > 10
    assert (found(probe).value, found(probe).margin, found(probe).within_noise) == (1e-30, 0.0, True)


@pytest.mark.parametrize("cycled", [True, False], ids=["cycle", "constant"])
def test_the_momentum_of_a_candidate_is_where_its_cycle_begins_or_all_of_it(cycled: bool) -> None:
    momenta: list[float] = []

    class Seen(Net):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            momenta.append(optimizer.param_groups[0]["momentum"])

        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return configure_one_cycle(self, optimizer) if cycled else optimizer

    fit(momentum_probe(0.99, 0.9, 0.5, early_stop_threshold=None, val_batches=0), Seen())
    rises = [momenta[11 * k : 11 * k + 10] for k in range(3)]
    if cycled:  # down to Smith's 0.85, which gives way to what is below it
        assert rises[0] == pytest.approx([0.99 - 0.14 * k / 9 for k in range(10)])
        assert rises[1] == pytest.approx([0.9 - 0.05 * k / 9 for k in range(10)])
        assert rises[2] == pytest.approx([0.5] * 10)
    else:
        assert rises == [[0.99] * 10, [0.9] * 10, [0.5] * 10]


# ------------------------------------------------------------------------------------------- validation
class Returning(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)


class ReturningDict(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "more": 1}


class Epochwise(Net):
    """Logs when all batches are through, as modules with torchmetrics do."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.losses.append(self.loss(batch))

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", torch.stack(self.losses).mean())
        self.losses.clear()


class Custom(Net):
    """Its own metric beside a loss of another value."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", torch.tensor(7.0))
        self.log("valid/nll", self.loss(batch))
        return torch.tensor(9.0)


@pytest.mark.parametrize(
    ("kind", "monitor"),
    [
        (Net, "val_loss"),
        (Returning, "val_loss"),
        (ReturningDict, "val_loss"),
        (Epochwise, "val_loss"),
        (Custom, "valid/nll"),
        (Returning, "not there"),
    ],
)
def test_validation_loss_is_the_mean_over_the_first_batches(kind: type[Net], monitor: str) -> None:
    module = kind()
    twin = Net()
    twin.load_state_dict(module.state_dict())
    probe = decay_probe(0.03, 0.0, val_batches=2, monitor=monitor)
    fit(probe, module)
    for decay, curve in probe.curves.items():
        _, expected = replay(twin, decay, 0.1, 10, 2)
        assert list(curve.val_loss) == pytest.approx(expected, rel=1e-5)
        assert list(curve.val_steps) == list(range(1, 11))


@pytest.mark.parametrize("returned", [False, True])
def test_several_validation_loaders_count_alike(returned: bool) -> None:
    class Two(Net):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            loss = torch.tensor([1.0, 4.0][dataloader_idx])
            if not returned:
                self.log("val_loss", loss)
            return loss

    probe = decay_probe(val_batches=2)
    fit(probe, Two(), val=[data(96), data(96)])
    assert list(probe.curves[0.0].val_loss) == [2.5] * 10


def test_a_loader_with_fewer_batches_is_used_up() -> None:
    seen: list[int] = []

    class Counted(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch_idx)
            return super().validation_step(batch, batch_idx)

    fit(decay_probe(1e-4, val_batches=50), Counted(), val=data(64))
    assert seen == [0, 1] * 11  # ten looks, and the epoch's own


def test_a_shuffled_validation_loader_gives_the_same_batches_each_time() -> None:
    seen: list[Tensor] = []

    class Seen(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch[0].clone())

    with pytest.warns(UserWarning, match="Your `val_dataloader`'s sampler has shuffling enabled"):
        fit(decay_probe(val_batches=1), Seen(), val=data(96, shuffle=True))
    assert len(seen) == 20 + 3
    assert all(torch.equal(batch, seen[0]) for batch in seen[:20])


def test_the_trainers_limit_on_validation_counts() -> None:
    seen: list[int] = []

    class Counted(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch_idx)
            return super().validation_step(batch, batch_idx)

    fit(decay_probe(1e-4, val_batches=3), Counted(), limit_val_batches=2)
    assert seen == [0, 1] * 11


class Numbers(IterableDataset[Tensor]):
    """Goes on where it was, so that it cannot be started over."""

    def __init__(self) -> None:
        self.rows = iter(torch.arange(512.0))

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.rows


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("once", [False, True], ids=["data set", "stream"])
def test_the_runs_own_validation_sees_what_it_sees_without_a_probe(sanity: int, once: bool) -> None:
    seen: list[float] = []

    class Seen(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(float(batch[0] if once else batch[0][0, 0]))
            self.log("val_loss", torch.tensor(1.0))

    runs = []
    for callback in (decay_probe(val_batches=2), pl.Callback()):
        seen.clear()
        loader: Any = DataLoader(Numbers(), 4) if once else data(96, batch_size=16)
        fit(callback, Seen(), val=loader, num_sanity_val_steps=sanity, limit_val_batches=3, max_epochs=2)
        assert len(seen) == (2 * 10 * 2 if isinstance(callback, Probe) else 0) + sanity + 2 * 3
        runs.append((seen[:sanity], seen[-6:]))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("accumulate", [2, 3])
def test_with_accumulated_batches_a_look_is_after_a_step(accumulate: int) -> None:
    probe = decay_probe(1e-4, 0.0)
    fit(probe, accumulate_grad_batches=accumulate)
    for curve in probe.curves.values():
        assert list(curve.val_steps) == list(range(1, 11))
        assert len(curve) == 10


def test_validation_in_a_probe_is_in_evaluation_mode_and_without_gradients() -> None:
    modes: set[tuple[bool, bool]] = set()

    class Seen(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            modes.add((self.training, torch.is_grad_enabled()))
            return super().validation_step(batch, batch_idx)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert self.training
            return super().training_step(batch, batch_idx)

    fit(decay_probe(), Seen())
    assert modes == {(False, False)}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("arguments", [{"val": None}, {"limit_val_batches": 0}], ids=["no loader", "limit of zero"])
def test_without_validation_the_training_loss_decides_and_that_is_said(
    arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    probe = decay_probe()
    with caplog.at_level("INFO"):
        fit(probe, Net(), **arguments)
    assert found(probe).judged_by == "training loss"
    assert all(list(curve.val_loss) == [] for curve in probe.curves.values())
    assert "judged by the training loss, as there is no validation loss): " in line(caplog)


def test_a_module_without_validation_step_is_probed_by_training_loss(caplog: pytest.LogCaptureFixture) -> None:
    class NoStep(SmallNet):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)

    probe = decay_probe()
    with caplog.at_level("INFO"):
        fit(probe, NoStep(), val=None)
    assert found(probe).judged_by == "training loss"
    assert "judged by the training loss, as there is no validation loss): " in line(caplog)


def test_validation_that_is_not_asked_for_is_left_out_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe(val_batches=0)
    with caplog.at_level("INFO"):
        fit(probe)
    assert found(probe).judged_by == "training loss"
    assert all(list(curve.val_loss) == [] for curve in probe.curves.values())
    assert "judged by the training loss" in line(caplog)


def test_validation_that_ties_is_not_called_missing(caplog: pytest.LogCaptureFixture) -> None:
    """Where validation cannot tell candidates apart and training can, the line must not deny that there was any."""

    class Blind(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("val_loss", torch.tensor(1.0))

    probe = decay_probe(3.0, 0.0, num_steps=20)
    with caplog.at_level("INFO"):
        fit(probe, Blind())
    assert (found(probe).value, found(probe).judged_by) == (0.0, "training loss")
    assert "validation loss lowest with" in line(caplog)
    assert "judged by the training loss" not in line(caplog)


def test_a_validation_loss_that_is_nan_does_not_end_the_fit() -> None:
    class Blind(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("val_loss", torch.tensor(math.nan))

    probe, lrs = decay_probe(), LRs()
    fit(probe, Blind(), lrs)
    assert len(lrs.lr) == 8


# -------------------------------------------------------------------------------------------- the choice
class Staged(Net):
    """The validation loss is what the test says of the weight decay and of the looks so far."""

    def __init__(self, told: Callable[[float, int], float], weight_decay: float = 0.0) -> None:
        super().__init__(weight_decay)
        self.told = told
        self.look = 0  # put back after each trial

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            self.look += 1
            decay = self.trainer.optimizers[0].param_groups[0]["weight_decay"]
            self.log("val_loss", torch.tensor(self.told(decay, self.look)))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=self.weight_decay)


def lowest_at(best: float) -> Callable[[float, int], float]:
    """Falls from 2 by 0.1 a look for the best one, by less the more decades another is away."""

    def told(decay: float, look: int) -> float:
        distance = abs(math.log10(max(decay, 1e-9)) - math.log10(max(best, 1e-9)))
        return 2 - 0.1 * look / (1 + distance / 8)

    return told


@pytest.mark.parametrize("best", [1e-1, 1e-2, 1e-3, 0.0])
def test_the_choice_is_that_of_the_pure_function_on_the_curves(best: float) -> None:
    probe = decay_probe(1e-1, 1e-2, 1e-3, 0.0)
    fit(probe, Staged(lowest_at(best)))
    assert probe.suggestion == choose(probe.curves, "weight_decay")
    assert found(probe).value == best
    assert found(probe).judged_by == "validation loss"


def test_curves_are_compared_with_the_validation_loss_in_the_log_line(caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe(1e-1, 1e-2)
    with caplog.at_level("INFO"):
        fit(probe, Staged(lowest_at(1e-2)))
    said = line(caplog)
    assert said.startswith("Weight decay probe (2 candidates, 10 steps each, max_lr 0.1 of the optimizer, as no range")
    assert "weight_decay 0 -> 0.01 (validation loss lowest with weight_decay 0.01, by " in said
    assert said.endswith("set in 1 parameter group, module.weight_decay.")


def test_all_that_diverge_are_no_choice_with_a_reason_and_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    probe, decays, module = decay_probe(1e9, 2e9, num_steps=20, max_lr=1.0), Decays(), Net()
    with caplog.at_level("INFO"):
        fit(probe, module, decays)
    assert probe.suggestion is None
    assert {curve.outcome for curve in probe.curves.values()} == {"diverged"}
    assert decays.seen == [[0.0]] * 8
    assert module.weight_decay == 0.0
    assert "no suggestion, because all 2 candidates have diverged; training continues with weight_decay 0" in line(caplog)


def test_a_candidate_that_diverges_is_out_and_its_steps_are_saved(caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe(1e9, 1e-4, num_steps=20, max_lr=1.0)
    with caplog.at_level("INFO"):
        fit(probe)
    assert probe.curves[1e9].outcome == "diverged"
    assert found(probe).value == 1e-4
    lost = 20 - len(probe.curves[1e9])
    assert probe.saved == pytest.approx(lost / 40)
    assert f"{lost / 40:.0%} of the steps saved" in line(caplog)


def test_a_hopeless_candidate_is_dropped_after_three_looks_in_a_row() -> None:
    # The first comes down by 0.1 a look; the second does not, which is hopeless at its looks 1, 2 and 3.
    def told(decay: float, look: int) -> float:
        return 2 - 0.1 * look if decay == 1e-2 else 2.0

    probe, module = decay_probe(1e-2, 1e-3, num_steps=20), Staged(told)
    fit(probe, module)
    dropped = probe.curves[1e-3]
    assert (dropped.outcome, list(dropped.val_steps)) == ("dropped", [2, 4, 6])
    assert len(dropped) == 5  # the loss after a step is seen at the next
    assert found(probe).value == 1e-2
    assert probe.saved == pytest.approx(15 / 40)


def test_the_first_candidate_is_never_dropped() -> None:
    probe = decay_probe(1e-2, 1e-3)
    fit(probe, Staged(lambda decay, look: 2.0 if decay == 1e-2 else 2 - 0.1 * look))
    assert [curve.outcome for curve in probe.curves.values()] == ["completed", "completed"]
    assert (found(probe).value, probe.saved) == (1e-3, 0.0)


def test_before_it_ran_nothing_is_saved_and_nothing_can_be_drawn() -> None:
    assert decay_probe().saved == 0.0
    with pytest.raises(RuntimeError, match="this WeightDecayProbe has not run yet"):
        decay_probe().plot()


# ------------------------------------------------------------------------------------------ the run's own
def test_the_runs_own_decay_is_tried_beside_the_defaults_and_kept_if_it_is_best() -> None:
    probe, decays = decay_probe(*WeightDecayProbe.defaults), Decays()
    fit(probe, Staged(lowest_at(1e-2), 1e-2), decays)
    assert list(probe.curves) == [1e-3, 1e-4, 1e-5, 0.0, 1e-2]
    assert (found(probe).value, probe.before) == (1e-2, 1e-2)
    assert decays.seen == [[1e-2]] * 8


def test_the_runs_own_decay_stays_where_all_candidates_diverge() -> None:
    probe, decays = decay_probe(1e9, num_steps=20, max_lr=1.0), Decays()
    fit(probe, Net(1e-4), decays)
    assert probe.suggestion is None
    assert decays.seen == [[1e-4]] * 8


@pytest.mark.parametrize("own", [0.0, 1e-3])
def test_an_own_decay_of_zero_or_one_of_the_defaults_is_no_further_one(own: float) -> None:
    probe = decay_probe(*WeightDecayProbe.defaults)
    fit(probe, Net(own))
    assert tuple(probe.curves) == WeightDecayProbe.defaults


def test_candidates_that_were_asked_for_are_all_that_is_tried() -> None:
    probe = decay_probe(1e-1, 1e-3)
    fit(probe, Net(1e-2))
    assert list(probe.curves) == [1e-1, 1e-3]


def test_a_tie_is_not_looked_closer_at() -> None:
    probe = decay_probe(1e-2, 1e-3, refine=True)
    fit(probe, Staged(lambda decay, look: 1.0))
    assert list(probe.curves) == [1e-2, 1e-3]


def test_the_runs_own_momentum_is_tried_beside_the_defaults() -> None:
    class Heavy(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.8)

    probe = momentum_probe(*MomentumProbe.defaults)
    fit(probe, Heavy())
    assert list(probe.curves) == [0.9, 0.95, 0.97, 0.99, 0.8]
    assert probe.before == 0.8


@pytest.mark.parametrize(("kind", "own"), [(Net, 0.9), (OneCycle, 0.95)])
def test_momenta_that_were_asked_for_are_all_that_is_tried(kind: type[Net], own: float) -> None:
    probe = momentum_probe(0.5, 0.6)
    fit(probe, kind())
    assert list(probe.curves) == [0.5, 0.6]
    assert probe.before == own


# ------------------------------------------------------------------------------------- refine and around
@pytest.mark.parametrize(("best", "neighbours"), [(1e-4, [3e-4, 3e-5]), (1e-2, [3e-2, 3e-3]), (5e-4, [1.5e-3, 1.5e-4])])
def test_refine_tries_the_two_neighbours_of_the_best(best: float, neighbours: list[float]) -> None:
    probe = decay_probe(0.1, best, 0.0, refine=True)
    fit(probe, Staged(lowest_at(best)))
    assert list(probe.curves) == [0.1, best, 0.0, *neighbours]
    assert found(probe).value == best


def test_refine_can_choose_a_neighbour() -> None:
    probe, module = decay_probe(1e-3, 1e-4, 0.0, refine=True), Staged(lowest_at(3e-5))
    fit(probe, module)
    assert list(probe.curves) == [1e-3, 1e-4, 0.0, 3e-4, 3e-5]
    assert (found(probe).value, module.weight_decay) == (3e-5, 3e-5)


def test_zero_has_no_neighbours() -> None:
    probe = decay_probe(1e-3, 0.0, refine=True)
    fit(probe, Staged(lowest_at(0.0)))
    assert list(probe.curves) == [1e-3, 0.0]


def test_a_neighbour_that_is_a_candidate_is_not_tried_twice() -> None:
    tried: list[float] = []  # in no attribute of the module, which would be put back

    def told(decay: float, look: int) -> float:
        tried.extend([decay] if look == 1 else [])
        return lowest_at(1e-3)(decay, look)

    probe = decay_probe(1e-3, 3e-4, refine=True)
    fit(probe, Staged(told))
    assert list(probe.curves) == [1e-3, 3e-4, 3e-3]
    assert tried[:-1] == [1e-3, 3e-4, 3e-3]  # and once more in training


def test_around_tries_the_optimizers_own_and_its_neighbours() -> None:
    probe, module = WeightDecayProbe("around", 10, report=False), Staged(lowest_at(3e-5), 1e-4)
    fit(probe, module)
    assert list(probe.curves) == [1e-4, 3e-4, 3e-5]
    assert (found(probe).value, probe.before, module.weight_decay) == (3e-5, 1e-4, 3e-5)


# ------------------------------------------------------------------------------------- what it is used for
def grouped(module: SmallNet, kind: Any, *decays: float, **arguments: Any) -> Any:
    """An optimizer with one group for each decay."""
    weights = list(module.parameters())
    parts = [weights[k :: len(decays)] for k in range(len(decays))]
    groups = [{"params": part, "weight_decay": decay} for part, decay in zip(parts, decays, strict=True)]
    return kind(groups, lr=0.01, **arguments)


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9}),
    "Adam": (torch.optim.Adam, {}),
    "AdamW": (torch.optim.AdamW, {}),
}


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([1e-4], [0.5]),
        ([0.0], [0.5]),
        ([0.0, 1e-4], [0.0, 0.5]),  # biases and norms
        ([1e-3, 1e-4], [0.5, 0.05]),
        ([1e-4, 0.0, 1e-3], [0.05, 0.0, 0.5]),
        ([0.0, 0.0], [0.5, 0.5]),
    ],
    ids=str,
)
def test_what_is_found_is_what_training_uses(optimizer: str, before: list[float], after: list[float]) -> None:
    class Grouped(Wanting):
        def configure_optimizers(self) -> Any:
            kind, arguments = KINDS[optimizer]
            return grouped(self, kind, *before, **arguments)

    probe, decays = decay_probe(0.5), Decays()
    fit(probe, Grouped(), decays)
    assert [seen == pytest.approx(after, rel=1e-12) for seen in decays.seen] == [True] * 8
    assert probe.before == max(before)


def test_hparams_and_the_attribute_of_the_module_follow() -> None:
    class Saved(Wanting):
        def __init__(self, weight_decay: float = 1e-4) -> None:
            super().__init__(weight_decay)
            self.save_hyperparameters()

    module = Saved()
    fit(decay_probe(0.5), module)
    assert (module.weight_decay, module.hparams["weight_decay"]) == (0.5, 0.5)


def test_apply_false_suggests_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    probe, decays, module = decay_probe(0.5, apply=False), Decays(), Wanting(1e-4)
    with caplog.at_level("INFO"):
        fit(probe, module, decays)
    assert (found(probe).value, module.weight_decay) == (0.5, 1e-4)
    assert decays.seen == [[1e-4]] * 8
    assert "suggests weight_decay 0.5 (" in line(caplog)
    assert "; not applied, training continues with weight_decay 0.0001." in line(caplog)


def test_but_for_the_decay_the_run_is_the_one_without_a_probe() -> None:
    """Weights, bit for bit, with shuffled data and dropout."""

    class Random(Wanting):
        def __init__(self, weight_decay: float) -> None:
            super().__init__(weight_decay)
            self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))

        def configure_optimizers(self) -> Any:
            return configure_one_cycle(self, super().configure_optimizers())

    ends = []
    for callback, decay in ((decay_probe(0.5), 0.01), (pl.Callback(), 0.5)):
        pl.seed_everything(3, verbose=False)
        module = Random(decay)
        fit(callback, module, train=data(shuffle=True), max_epochs=2)
        ends.append(weights_of(module))
    assert same(*ends)


@pytest.mark.parametrize("index", [0, 1])
def test_the_decay_of_one_optimizer_is_found_and_the_other_is_left_alone(
    index: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Two(TwoNets):
        weight_decay = 1e-4

    probe, module = decay_probe(0.5, optimizer=index), Two(scheduled=False)
    with caplog.at_level("INFO"):
        fitted = trainer([probe], max_epochs=1)
        fitted.fit(module, data())
    held = [{group["weight_decay"] for group in optimizer.param_groups} for optimizer in fitted.optimizers]
    assert held[index] == {0.5}
    assert held[1 - index] == {0}
    assert module.weight_decay == 1e-4  # whose of the two would it be
    assert line(caplog).endswith(f"set in {['1 parameter group', '2 parameter groups'][index]}.")


@pytest.mark.parametrize("told", ["around", [0.001, 0.0]], ids=str)
def test_a_command_line_can_tell_the_candidates(told: Any) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(WeightDecayProbe, "probe")
    words = ["--probe.weight_decays", told if isinstance(told, str) else str(told)]
    assert parser.parse_args(words).probe.weight_decays == told


class WantingCycle(Wanting):
    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, super().configure_optimizers())


def test_the_found_momentum_is_the_largest_of_the_cycle() -> None:
    probe, lrs = momentum_probe(0.97, 0.9), LRs()
    scheduler = fit(probe, WantingCycle(), lrs).lr_scheduler_configs[0].scheduler
    policy = OneCyclePolicy(0.1, 8, max_momentum=0.97)
    assert scheduler.policy == policy
    assert lrs.momentum == [[policy.momentum(step)] for step in range(8)]
    assert (list(probe.curves), probe.before) == ([0.97, 0.9], 0.95)


@pytest.mark.parametrize(("momentums", "kept"), [((0.9, 0.95, 0.99), 0.9), ((0.8, 0.99), 0.8)], ids=["own", "smallest"])
def test_of_momenta_that_cannot_be_told_apart_the_runs_own_stays_or_the_smallest_is_taken(
    momentums: tuple[float, ...], kept: float
) -> None:
    class Blind(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return 0 * super().training_step(batch, batch_idx)

    probe, lrs = momentum_probe(*momentums), LRs()
    fit(probe, Blind(), lrs)
    assert (found(probe).value, found(probe).within_noise) == (kept, True)
    assert lrs.momentum == [[kept]] * 8


@pytest.mark.parametrize("betas", [False, True], ids=["SGD", "AdamW"])
def test_without_a_cycle_the_found_momentum_is_that_of_the_groups(betas: bool) -> None:
    class Plain(Wanting):
        def configure_optimizers(self) -> Any:
            kind, arguments = KINDS["AdamW" if betas else "SGD"]
            return kind(self.parameters(), lr=0.01, **arguments)

    probe, lrs = momentum_probe(0.97), LRs()
    fitted = fit(probe, Plain(), lrs)
    assert lrs.momentum == [[0.97]] * 8
    if betas:
        assert fitted.optimizers[0].param_groups[0]["betas"] == (0.97, 0.999)


def test_the_found_momentum_is_the_largest_of_torchs_cycle_too() -> None:
    class Torch(Wanting):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    probe, lrs = momentum_probe(0.97, 0.9), LRs()
    fit(probe, Torch(), lrs)
    assert (found(probe).value, probe.before) == (0.97, 0.95)
    momenta = [momentum for [momentum] in lrs.momentum]
    assert [momenta[0], momenta[-1]] == pytest.approx([0.97, 0.97])
    assert 0.85 <= min(momenta) < 0.87


# ------------------------------------------------------------------------------------- two finders together
def test_the_order_in_the_list_does_not_matter_and_the_range_test_comes_first(caplog: pytest.LogCaptureFixture) -> None:
    results, decays = [], (1e-1, 1e-3)
    for turned in (False, True):
        torch.manual_seed(0)
        test, decay = LRRangeTest(1e-4, 10.0, 30, report=False), decay_probe(*decays)
        momentum, lrs = momentum_probe(0.9, 0.97), LRs()
        callbacks: list[pl.Callback] = [test, decay, momentum]
        caplog.clear()
        with caplog.at_level("INFO"):
            first, *others = callbacks[::-1] if turned else callbacks
            fit(first, OneCycle(1e-4), *others, lrs)
        said = [record.getMessage().split(" (")[0] for record in caplog.records]
        assert [it for it in said if it.endswith(("probe", "test"))] == [
            "LR range test",
            "Weight decay probe",
            "Momentum probe",
        ]
        assert test.suggestion is not None
        peak = test.suggestion.lr
        assert f"max_lr {peak:.3g}): " in line(caplog)
        assert {curve.lr[-1] for curve in (*decay.curves.values(), *momentum.curves.values())} == {peak}
        assert max(rates[0] for rates in lrs.lr) == peak
        results.append((test.suggestion, decay.curves, decay.suggestion, momentum.curves, momentum.suggestion, lrs.lr))
    assert results[0] == results[1]


def test_a_range_test_that_only_suggests_leaves_the_probe_the_optimizers_lr(caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe()
    with caplog.at_level("INFO"):
        fit(LRRangeTest(1e-4, 10.0, 30, report=False, apply=False), Net(), probe)
    assert probe.curves[0.0].lr[-1] == pytest.approx(0.1)
    assert "max_lr 0.1 of the optimizer, as no range test has" in line(caplog)


def test_a_decay_that_was_found_is_no_found_lr(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(momentum_probe(), Net(), decay_probe())
    assert "max_lr 0.1 of the optimizer, as no range test has" in line(caplog, "Momentum probe")


def test_the_found_decay_is_in_the_trials_of_the_momentum_probe() -> None:
    seen: set[float] = set()

    class Seen(Net):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            seen.add(optimizer.param_groups[0]["weight_decay"])

    fit(momentum_probe(), Seen(), decay_probe(0.5))
    assert seen == {0.5}


# -------------------------------------------------------------------------------------------- the report
def rows_of(folder: Path) -> list[list[str]]:
    with open(folder / "curves.csv", newline="") as handle:
        return list(csv.reader(handle))


def test_the_report_holds_result_curves_and_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe(1e-4, 0.0, num_steps=20, report=True)
    with caplog.at_level("INFO"):
        fit(probe, Net(1e-4), root=tmp_path)
    folder = tmp_path / "weight_decay_probe"
    assert sorted(path.name for path in folder.iterdir()) == ["curves.csv", "result.json", "weight_decay_probe.png"]
    assert (folder / "weight_decay_probe.png").read_bytes().startswith(b"\x89PNG")
    assert line(caplog).endswith(f"; see {folder}.")
    result = json.loads((folder / "result.json").read_text())
    assert result["suggestion"] == found(probe).to_dict()
    assert result["refusal"] is None
    assert result["changed"] == ["1 parameter group", "module.weight_decay"]
    assert result["settings"] == {
        "weight_decays": [1e-4, 0.0],
        "num_steps": 20,
        "mode": "rise",
        "max_lr": None,
        "min_lr": 1e-7,
        "early_stop_threshold": 4.0,
        "val_batches": 4,
        "monitor": "val_loss",
        "apply": True,
        "optimizer": 0,
    }
    assert list(result["curves"]) == ["wd=1e-04", "wd=0"]
    assert LossCurve(**result["curves"]["wd=1e-04"]) == probe.curves[1e-4]
    header, *rows = rows_of(folder)
    assert header == ["series", "step", "lr", "train_loss", "val_loss"]
    expected = []
    for name, curve in zip(("wd=1e-04", "wd=0"), probe.curves.values(), strict=True):
        # Every second of 20 steps is validated.
        val = [str(curve.val_loss[k // 2]) if k % 2 else "" for k in range(20)]
        expected += [[name, str(k + 1), str(curve.lr[k]), str(curve.loss[k]), val[k]] for k in range(20)]
    assert rows == expected


def test_a_report_of_no_choice_tells_why(tmp_path: Path) -> None:
    fit(decay_probe(1e9, 2e9, num_steps=20, max_lr=1.0, report=True), root=tmp_path)
    result = json.loads((tmp_path / "weight_decay_probe" / "result.json").read_text())
    assert result["suggestion"] is None
    assert result["refusal"] == "all 2 candidates have diverged"
    assert result["changed"] == []


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_a_series_for_each_candidate(tmp_path: Path) -> None:
    probe = decay_probe(1e-4, 0.0, num_steps=20, report=True)
    logger = TensorBoardLogger(tmp_path, "runs")
    fit(probe, logger=logger)
    seen = scalars(Path(logger.log_dir))
    ours = {tag for tag in seen if tag.startswith("weight_decay_probe")}
    series = {f"weight_decay_probe/{name}" for name in ("wd=1e-04", "wd=0")}
    assert ours == {f"{name}/{what}" for name in series for what in ("train_loss", "val_loss", "lr")}
    curve = probe.curves[1e-4]
    for what, steps, values in (
        ("train_loss", range(1, 21), curve.loss),
        ("lr", range(1, 21), curve.lr),
        ("val_loss", curve.val_steps, curve.val_loss),
    ):
        points = seen[f"weight_decay_probe/wd=1e-04/{what}"]
        assert [step for step, _ in points] == list(steps)
        assert [value for _, value in points] == pytest.approx(list(values), rel=1e-6)
    assert (Path(logger.log_dir) / "weight_decay_probe" / "result.json").is_file()


def test_a_second_probe_in_the_same_directory_overwrites_nothing(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, "", version="")
    fit(decay_probe(1e-4, report=True), logger=logger)
    first = (tmp_path / "weight_decay_probe" / "curves.csv").read_bytes()
    before = {tag: points for tag, points in scalars(tmp_path).items() if tag.startswith("weight_decay_probe/")}
    again = TensorBoardLogger(tmp_path, "", version="")
    fit(decay_probe(0.5, report=True), Net(lr=0.3), logger=again)
    assert (tmp_path / "weight_decay_probe" / "curves.csv").read_bytes() == first
    assert rows_of(tmp_path / "weight_decay_probe_1")[1][0] == "wd=5e-01"
    after = scalars(tmp_path)
    assert {tag: after[tag] for tag in before} == before
    assert "weight_decay_probe_1/wd=5e-01/train_loss" in after


def test_two_probes_on_one_trainer_write_two_folders(tmp_path: Path) -> None:
    fit(decay_probe(report=True), Net(), momentum_probe(report=True), LRRangeTest(num_steps=20), root=tmp_path)
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == ["lr_range_test", "momentum_probe", "weight_decay_probe", "work"]
    assert {row[0] for row in rows_of(tmp_path / "momentum_probe")[1:]} == {"momentum=0.9", "momentum=0.95"}


def test_the_logger_sees_nothing_of_the_trials_but_the_curves(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, "runs")
    fit(decay_probe(num_steps=20), logger=logger)
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as handle:
        steps = [int(row["step"]) for row in csv.DictReader(handle)]
    assert steps == [*range(8), 7]  # eight of training and one validation


def test_report_false_writes_nothing(tmp_path: Path) -> None:
    fit(decay_probe(), root=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1e-4, "wd=1e-04"),
        (3e-5, "wd=3e-05"),
        (0.0, "wd=0"),
        (0.5, "wd=5e-01"),
        (1.5e-3, "wd=1.5e-03"),
        (10, "wd=1e+01"),
    ],
)
def test_a_decay_is_named_by_mantissa_and_exponent(value: float, name: str) -> None:
    probe = decay_probe()
    probe.curves = {value: LossCurve([0.1], [1.0])}
    assert list(probe.labelled()) == [name]


def test_a_picture_can_be_drawn_afterwards() -> None:
    probe = decay_probe(1e-4, 0.0)
    fit(probe)
    train, val = probe.plot().axes
    labels = [text.get_text() for text in val.get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["wd=1e-04, chosen" if found(probe).value else "wd=1e-04", *labels[1:]]
    assert (train.get_xlabel(), val.get_xlabel()) == ("learning rate", "optimizer step")


# ------------------------------------------------------------------------------------- resume, refit, skips
@PROBES
def test_fast_dev_run_is_skipped_with_one_line(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    probe = kind(num_steps=10)
    with caplog.at_level("INFO"):
        fit(probe, fast_dev_run=True)
    assert probe.curves == {}
    assert probe.suggestion is None
    assert "skipped, as `fast_dev_run` trains too few steps" in line(caplog, probe.title)


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*")
@PROBES
def test_a_resumed_fit_does_not_probe_again_and_keeps_its_result(
    kind: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = (0.5, 0.4)
    first, saved = kind(values, 10, report=False), ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1)
    whole_lrs, whole_decays = LRs(), Decays()
    fit(first, OneCycle(1e-4), saved, whole_lrs, whole_decays, enable_checkpointing=True, max_epochs=2)
    again, module, lrs, decays = kind(values, 10, report=False), OneCycle(1e-4), LRs(), Decays()
    caplog.clear()
    checkpoint = str(next(tmp_path.glob("epoch=0*.ckpt")))
    with caplog.at_level("INFO"):
        fit(again, module, lrs, decays, max_epochs=2, ckpt_path=checkpoint)
    assert (again.curves, again.suggestion) == (first.curves, first.suggestion)
    assert "skipped, as this run was tested in epoch 0" in line(caplog, first.title)
    # Momentum, rates and decay of the second epoch are those of the fit that was not cut.
    assert (lrs.lr, lrs.momentum, decays.seen) == (whole_lrs.lr[8:], whole_lrs.momentum[8:], whole_decays.seen[8:])
    if kind is WeightDecayProbe:
        assert decays.seen == [[found(first).value]] * 8
        assert module.weight_decay == found(first).value
        assert f"its weight_decay {found(first).value:.3g} is set again in module.weight_decay" in line(caplog)


def test_a_further_fit_of_the_same_module_uses_what_was_found(caplog: pytest.LogCaptureFixture) -> None:
    probe, decays, module = decay_probe(0.5), Decays(), Wanting(1e-4)
    fitting = trainer([probe, decays], max_epochs=1)
    fitting.fit(module, data(), data(96))
    curves = probe.curves
    module.weight_decay = 1e-4
    fitting.fit_loop.max_epochs = 2
    fitting.fit(module, data(), data(96))
    assert probe.curves is curves
    assert decays.seen == [[0.5]] * 16


def test_a_new_fit_probes_anew() -> None:
    probe = decay_probe(0.5, 0.0)
    fit(probe, Net())
    first = probe.curves
    fit(probe, Net(lr=0.2))
    assert probe.curves.keys() == first.keys()
    assert probe.curves != first


def test_the_state_is_plain_and_makes_a_round_trip(tmp_path: Path) -> None:
    probe, other = decay_probe(1e-4, 0.0), decay_probe(1e-4, 0.0)
    fit(probe)
    torch.save(probe.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (other.curves, other.suggestion, other.why) == (probe.curves, probe.suggestion, probe.why)
    assert other.state_dict() == probe.state_dict()


@pytest.mark.parametrize("options", [{"limit_train_batches": 0}, {"max_epochs": 0}])
def test_a_fit_without_steps_is_told(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe()
    with caplog.at_level("INFO"):
        fit(probe, **options)
    assert probe.curves == {}
    assert "not run, as the fit had no training step" in line(caplog)


# ------------------------------------------------------------------------------------- left in the middle
class Broken(Exception):
    pass


class Interrupted(Net):
    """Raises, or is interrupted as by Ctrl-C, in the second candidate of a probe."""

    calls = 0  # of the class: an attribute of the module is put back after each trial

    def __init__(self, where: str, how: str) -> None:
        super().__init__(1e-4)
        self.where, self.how = where, how
        Interrupted.calls = 0

    def _call(self, where: str) -> None:
        Interrupted.calls += where == self.where
        if where == self.where and Interrupted.calls == 15:
            if self.how == "exception":
                raise Broken
            signal.raise_signal(signal.SIGINT)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self._call("training_step")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            self._call("validation_step")
        return super().validation_step(batch, batch_idx)


class Randomness(pl.Callback):
    """Keeps the state of the random stream with which the probe begins."""

    state: Tensor

    def on_train_start(self, *_: Any) -> None:
        self.state = torch.get_rng_state()


@pytest.mark.parametrize("where", ["training_step", "validation_step"])
@pytest.mark.parametrize("how", ["exception", "Ctrl-C"])
@PROBES
def test_whatever_ends_it_in_the_middle_leaves_all_as_it_was(kind: Any, where: str, how: str) -> None:
    probe, lrs, module = kind((0.5, 0.25), 10, report=False), LRs(), Interrupted(where, how)
    random = Randomness()
    fitting = trainer([probe, lrs, random], max_epochs=1)
    before = weights_of(module)
    with pytest.raises((Broken, KeyboardInterrupt, SystemExit)):
        fitting.fit(module, data(), data(96))
    assert lrs.lr == []
    assert same(before, weights_of(module))
    assert torch.equal(torch.get_rng_state(), random.state)
    [group] = fitting.optimizers[0].param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 1e-4)
    assert fitting.optimizers[0].state_dict()["state"] == {}
    assert (module.weight_decay, fitting.global_step, fitting.limit_val_batches) == (1e-4, 0, 1.0)
    assert probe in fitting.callbacks  # type: ignore[attr-defined]  # set by a connector
    assert all(weight.grad is None for weight in module.parameters())


# ---------------------------------------------------------------------------- where the right decay is known
class Ridge(pl.LightningModule):
    """Linear regression from zero: its best decay is known.

    y = x w + sigma e with w ~ N(0, 1): the posterior mean minimises sum (y - x w)^2 / (2 sigma^2) + |w|^2 / 2, which is
    n / sigma^2 times mean (y - x w)^2 / 2 + (sigma^2 / n) |w|^2 / 2. So a decay of sigma^2 / n is the best one, in the
    mean over problems, of all that can be done with n samples.
    """

    def __init__(self, weights: int, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.weight = nn.Parameter(torch.zeros(weights))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        errors: Tensor = batch[0] @ self.weight - batch[1]
        return 0.5 * errors.square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)


def regression(seed: int, right: float, samples: int, weights: int, scale: float) -> list[TensorDataset]:
    """Training data and as good as all others, for which ``right`` is the best decay."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(weights, generator=generator)
    parts = []
    for number in (samples, 256):
        x = scale * torch.randn(number, weights, generator=generator)
        noise = math.sqrt(right * samples) * torch.randn(number, generator=generator)
        parts.append(TensorDataset(x, x @ truth + noise))
    return parts


def decay_found(seed: int, decays: Iterable[float], lr: float, mode: Any, num_steps: int, **problem: Any) -> Choice:
    torch.manual_seed(seed)
    train, val = regression(seed, **problem)
    probe = WeightDecayProbe(tuple(decays), num_steps, mode=mode, report=False)
    fitting = trainer([probe], max_steps=1, max_epochs=-1, limit_val_batches=1, num_sanity_val_steps=0)
    fitting.fit(Ridge(problem["weights"], lr), DataLoader(train, 32, shuffle=True), DataLoader(val, 256))
    return found(probe)


@pytest.mark.parametrize(
    ("right", "mode", "num_steps"), [(1e-2, "rise", 100), (1e-3, "cycle", 60)], ids=["1e-2", "1e-3 by cycles"]
)
def test_where_the_right_decay_is_known_it_is_found_for_nine_seeds_of_ten(
    right: float, mode: Any, num_steps: int
) -> None:
    # 64 samples for 96 weights. The data are as strong in each direction as the decay, and lr is in proportion to
    # both: without a decay the weights of all directions are learnt in time, and so is the noise. Of the same four
    # candidates the second is right once, and the third once.
    problem = {"right": right, "samples": 64, "weights": 96, "scale": math.sqrt(right)}
    decays = (1e-1, 1e-2, 1e-3, 0.0)
    choices = [decay_found(seed, decays, 0.01 / right, mode, num_steps, **problem) for seed in range(10)]
    assert sum(choice.value == right and not choice.within_noise for choice in choices) >= 9
    assert {choice.judged_by for choice in choices} == {"validation loss"}


def test_where_the_decay_does_not_matter_the_probe_says_so_and_keeps_the_largest() -> None:
    # 1024 samples for 16 weights, of which 21 batches of 32 see each at most once; with a momentum of 0.95 the largest
    # decay changes a weight of 1 by less than lr * 20 * 20 * 1e-6.
    problem = {"right": 1e-4, "samples": 1024, "weights": 16, "scale": 0.1}
    choices = [decay_found(seed, (1e-6, 1e-7, 0.0), 1.0, "rise", 20, **problem) for seed in range(10)]
    assert all(choice.within_noise and choice.value == 1e-6 for choice in choices)
    assert all(re.match("^within noise: 0, 1e-07 and 1e-06 cannot be told apart", choice.reason) for choice in choices)
