"""`LRRangeTest` in real fits: what it finds is what training then uses, and bad input costs nothing."""

import csv
import functools
import json
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loops import _FitLoop
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing import event_accumulator
from torch import nn
from torch.optim import lr_scheduler as schedulers

from pl_onecycle import LossCurve, LRRangeTest, OneCyclePolicy, OneCycleScheduler, configure_one_cycle, suggest
from pl_onecycle.curves import METHODS, candidates, verified
from tests.fits import LRs, SmallNet, data, trainer
from tests.scenarios import SCENARIOS, Fit, differences
from tests.test_trial import Told


class Momentum(SmallNet):
    """SGD with momentum and what a test returns as its schedule."""

    def __init__(self, schedule: Any = None, groups: bool = False, lr: float = 0.01) -> None:
        super().__init__(lr)
        self.schedule, self.groups = schedule, groups

    def configure_optimizers(self) -> Any:
        parameters: Any = self.parameters()
        if self.groups:
            first, last = self.net[0].parameters(), self.net[2].parameters()
            parameters = [{"params": first, "lr": self.lr / 10}, {"params": last, "lr": self.lr}]
        optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=0.9)
        if self.schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(self, optimizer), "interval": "step"},
        }


# 2 epochs of 8 batches: 16 steps, of which pct_start = 0.5 is a whole number.
def torch_one_cycle(module: SmallNet, optimizer: Any) -> Any:
    rates = [group["lr"] for group in optimizer.param_groups]
    return schedulers.OneCycleLR(optimizer, max_lr=rates, total_steps=16, pct_start=0.5)


def torch_cyclic(module: SmallNet, optimizer: Any) -> Any:
    rates = [group["lr"] for group in optimizer.param_groups]
    lowest = [rate / 4 for rate in rates]
    return schedulers.CyclicLR(optimizer, lowest, rates, step_size_up=4, cycle_momentum=False)


SCHEDULES: dict[str, Any] = {
    "OneCycleLR": torch_one_cycle,
    "OneCycleScheduler": lambda module, optimizer: OneCycleScheduler(optimizer, None, 16),
    "no scheduler": None,
    "LambdaLR": lambda module, optimizer: schedulers.LambdaLR(optimizer, lambda k: min((k + 1) / 5, 1.0)),
    "CosineAnnealingLR": lambda module, optimizer: schedulers.CosineAnnealingLR(optimizer, 16),
    "CyclicLR": torch_cyclic,
    "warm-up, then cosine": lambda module, optimizer: schedulers.SequentialLR(
        optimizer,
        [schedulers.LinearLR(optimizer, 0.1, total_iters=4), schedulers.CosineAnnealingLR(optimizer, 12)],
        milestones=[4],
    ),
}


# torch 2.4 warns of what its own SequentialLR does.
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("groups", [False, True], ids=["one group", "two groups"])
def test_the_peak_of_the_real_run_is_the_found_lr(name: str, groups: bool) -> None:
    # D9: with any schedule the peer's result is gone after the first step. D10: it makes all groups equal.
    test, lrs = LRRangeTest(), LRs()
    module = Momentum(SCHEDULES[name], groups)
    trainer([test, lrs]).fit(module, data())
    assert test.suggestion is not None
    assert len(lrs.lr) == 16
    assert max(rates[-1] for rates in lrs.lr) == pytest.approx(test.suggestion.lr, rel=1e-12)
    assert test.suggestion.lr != 0.01
    assert module.lr == test.suggestion.lr
    if groups:
        assert [rates[1] / rates[0] for rates in lrs.lr] == pytest.approx([10.0] * 16)


def test_the_peak_is_the_found_lr_with_the_helper_too() -> None:
    class Net(Momentum):
        def configure_optimizers(self) -> Any:
            return configure_one_cycle(self, super().configure_optimizers())

    test, lrs = LRRangeTest(), LRs()
    fit = trainer([test, lrs])
    fit.fit(Net(), data())
    scheduler: Any = fit.lr_scheduler_configs[0].scheduler
    assert test.suggestion is not None
    assert max(rates[0] for rates in lrs.lr) == test.suggestion.lr
    assert [rates[0] for rates in lrs.lr] == [scheduler.policy.lr(step) for step in range(16)]
    assert [momenta[0] for momenta in lrs.momentum] == [scheduler.policy.momentum(step) for step in range(16)]


def test_the_learning_rates_are_those_of_a_run_made_with_the_found_lr() -> None:
    """The strongest form: a second fit that is told the lr from the start trains with the very same rates."""
    test, found, told = LRRangeTest(), LRs(), LRs()
    trainer([test, found]).fit(Momentum(torch_one_cycle), data())
    assert test.suggestion is not None
    trainer([told]).fit(Momentum(torch_one_cycle, lr=test.suggestion.lr), data())
    assert [rates[0] for rates in found.lr] == pytest.approx([rates[0] for rates in told.lr], rel=1e-12)


def test_hparams_and_learning_rate_follow() -> None:
    class Net(SmallNet):
        def __init__(self, learning_rate: float = 0.01) -> None:
            super().__init__()
            del self.lr
            self.save_hyperparameters()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.hparams["learning_rate"])

    test, module = LRRangeTest(), Net()
    trainer([test]).fit(module, data())
    assert test.suggestion is not None
    assert module.hparams["learning_rate"] == test.suggestion.lr
    assert not hasattr(module, "lr")


def test_apply_false_suggests_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    test, lrs, module = LRRangeTest(apply=False), LRs(), Momentum()
    with caplog.at_level("INFO"):
        trainer([test, lrs]).fit(module, data())
    assert test.suggestion is not None
    assert lrs.lr == [[0.01]] * 16
    assert module.lr == 0.01
    assert "not applied, training continues with max_lr 0.01" in line(caplog)


def line(caplog: pytest.LogCaptureFixture) -> str:
    """The one line that the test says."""
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("LR range test")]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    return lines[0]


def test_one_line_says_what_was_found_and_changed(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    test = LRRangeTest(num_steps=100, method="smith")
    with caplog.at_level("INFO"):
        trainer([test], tmp_path).fit(Momentum(torch_one_cycle), data())
    assert test.suggestion is not None
    assert test.curve is not None
    said = line(caplog)
    assert f"({min(test.steps, 100)} of 100 steps, {test.curve.outcome})" in said
    assert f"max_lr 0.01 -> {test.suggestion.lr:.3g} (smith: one order of magnitude below" in said
    assert "set in 1 parameter group, OneCycleLR, module.lr" in said
    assert str(tmp_path / "lr_range_test") in said


@pytest.mark.parametrize("method", ["trough", "smith", "steepest", "valley", "slide", "minimum"])
def test_the_suggestion_is_that_of_the_pure_function(method: Any) -> None:
    test = LRRangeTest(method=method)
    trainer([test]).fit(Momentum(), data())
    assert test.curve is not None
    assert test.suggestion is not None
    assert test.suggestion == suggest(test.curve, method)


@pytest.mark.parametrize("mode", ["exponential", "linear", "staircase"])
def test_every_mode_sweeps_to_the_end(mode: Any) -> None:
    test = LRRangeTest(1e-3, 0.1, 20, mode=mode, early_stop_threshold=None)
    trainer([test]).fit(SmallNet(), data())
    assert test.curve is not None
    assert (test.curve.lr[0], test.curve.lr[-1]) == (1e-3, 0.1)
    assert len(set(test.curve.lr)) == (10 if mode == "staircase" else 20)


def test_a_lambda_with_factors_of_its_own_peaks_at_the_found_lr() -> None:
    """The transformer recipe: base lr 1, all of the rate in the factor."""
    noam = lambda module, optimizer: schedulers.LambdaLR(  # noqa: E731
        optimizer, lambda k: 0.25 * min((k + 1) ** -0.5, (k + 1) * 8**-1.5)
    )
    test, lrs = LRRangeTest(), LRs()
    trainer([test, lrs]).fit(Momentum(noam, lr=1.0), data())
    assert test.suggestion is not None
    assert max(rates[0] for rates in lrs.lr) == pytest.approx(test.suggestion.lr, rel=1e-12)


def test_a_schedule_that_cannot_be_moved_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Own:
        """As timm's: keeps its rates in an attribute of its own."""

        def __init__(self, optimizer: Any) -> None:
            self.optimizer, self.values = optimizer, [group["lr"] for group in optimizer.param_groups]

        def step(self) -> None:
            self.optimizer.param_groups[0]["lr"] = self.values[0]

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pass

    class Net(Momentum):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.step()

    with caplog.at_level("INFO"):
        trainer([LRRangeTest()]).fit(Net(lambda module, optimizer: Own(optimizer)), data())
    assert "not in Own, whose learning rates cannot be found" in line(caplog)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "optimizer_step"])
def test_a_module_that_sets_its_lr_itself_gets_no_suggestion(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    class Hand(Momentum):
        def _set(self) -> None:
            self.trainer.optimizers[0].param_groups[0]["lr"] = 0.01

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if hook == "on_train_batch_start":
                self._set()

        def optimizer_step(self, *arguments: Any, **named: Any) -> None:
            if hook == "optimizer_step":
                self._set()
            super().optimizer_step(*arguments, **named)

    test, lrs = LRRangeTest(), LRs()
    with caplog.at_level("INFO"):
        trainer([test, lrs]).fit(Hand(), data())
    assert test.curve is not None
    assert test.curve.outcome == "overridden"
    assert "no suggestion, because the module sets the learning rate of its steps itself" in line(caplog)
    assert lrs.lr == [[0.01]] * 16


# ------------------------------------------------------------------------------- one optimizer of several
class TwoNets(SmallNet):
    """Two classifiers, each with an optimizer and schedulers of its own, trained by hand as the networks of a GAN."""

    def __init__(self, lr: float = 0.01, scheduled: bool = True) -> None:
        super().__init__(lr)
        self.automatic_optimization = False
        self.scheduled = scheduled
        self.nets = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for net, optimizer in zip(self.nets, optimizers, strict=True):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(self.loss_of(net, batch, optimizer))
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        schedules: Any = self.lr_schedulers() or []
        for schedule in schedules:
            schedule.step()

    def loss_of(self, net: nn.Module, batch: Any, optimizer: Any) -> Any:
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        first = torch.optim.SGD(self.nets[0].parameters(), lr=self.lr, momentum=0.9)
        weight, bias = self.nets[1].parameters()
        groups: list[dict[str, Any]] = [{"params": [weight]}, {"params": [bias], "lr": self.lr}]
        second = torch.optim.SGD(groups, lr=2 * self.lr, momentum=0.9)
        if not self.scheduled:
            return [first, second]
        halves = schedulers.StepLR(first, 4, gamma=0.5)
        return [first, second], [halves, OneCycleScheduler(second, None, 16)]


class AllLRs(pl.Callback):
    """Records what each batch of the real run begins with: the lr of each group of each optimizer."""

    def __init__(self) -> None:
        self.lr: list[list[list[float]]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.lr.append([[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers])


@pytest.mark.parametrize("scheduled", [True, False], ids=["with schedulers", "without"])
@pytest.mark.parametrize("index", [0, 1])
def test_the_lr_of_one_optimizer_is_found_and_the_other_is_left_alone(
    index: int, scheduled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    test, found, own = LRRangeTest(optimizer=index, report=False), AllLRs(), AllLRs()
    module = TwoNets(scheduled=scheduled)
    with caplog.at_level("INFO"):
        fit = trainer([test, found])
        fit.fit(module, data())
    trainer([own]).fit(TwoNets(scheduled=scheduled), data())
    assert test.suggestion is not None
    top = [0.01, 0.02][index]
    scale = test.suggestion.lr / top
    assert abs(scale - 1) > 0.1
    # The lr of the other are those of a fit without a test; its own are as many times as large.
    assert [lrs[1 - index] for lrs in found.lr] == [lrs[1 - index] for lrs in own.lr]
    for lrs, before in zip(found.lr, own.lr, strict=True):
        assert lrs[index] == pytest.approx([lr * scale for lr in before[index]], rel=1e-12)
    assert max(max(lrs[index]) for lrs in found.lr) == test.suggestion.lr
    assert module.lr == 0.01  # whose of the two would it be
    groups = ["1 parameter group", "2 parameter groups"][index]
    schedule = [", StepLR", ", OneCycleScheduler"][index] if scheduled else ""
    assert f"max_lr {top} -> {test.suggestion.lr:.3g} (trough: " in line(caplog)
    assert line(caplog).endswith(f", set in {groups}{schedule}.")
    if scheduled:  # stepped by hand in the test, and at its place afterwards
        assert [config.scheduler.last_epoch for config in fit.lr_scheduler_configs] == [16, 16]


def test_an_optimizer_that_is_not_there_is_told_and_nothing_is_harmed() -> None:
    module, before = TwoNets(), AllLRs()
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(
        MisconfigurationException,
        match=r"^There is no optimizer with index 2: `TwoNets\.configure_optimizers` returned 2\.$",
    ):
        trainer([LRRangeTest(optimizer=2), before]).fit(module, data())
    assert before.lr == []
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


def test_a_module_by_hand_with_one_optimizer_has_its_lr_attribute_set_too() -> None:
    class ByHand(Momentum):
        def __init__(self) -> None:
            super().__init__(lambda module, optimizer: OneCycleScheduler(optimizer, None, 16))
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            schedule: Any = self.lr_schedulers()
            schedule.step()

    torch.manual_seed(0)
    test, lrs, module = LRRangeTest(report=False), LRs(), ByHand()
    trainer([test, lrs]).fit(module, data())
    torch.manual_seed(0)
    automatic, twin = LRRangeTest(report=False), LRs()
    trainer([automatic, twin]).fit(Momentum(SCHEDULES["OneCycleScheduler"]), data())
    assert test.suggestion is not None
    assert test.curve == automatic.curve
    assert module.lr == test.suggestion.lr
    assert (lrs.lr, lrs.momentum) == (twin.lr, twin.momentum)


# -------------------------------------------------------------------------------------------- milestones
class Results(pl.Callback):
    """Looks at a test at the start of each epoch, when it has run; to be listed behind it."""

    def __init__(self, test: LRRangeTest) -> None:
        self.test = test
        self.curves: list[LossCurve] = []
        self.lr: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.test.curve is not None
        assert self.test.suggestion is not None
        self.curves.append(self.test.curve)
        self.lr.append(self.test.suggestion.lr)


class Valley(Momentum):
    """Has the loss 1 + log10(lr / best)^2 after a step with ``lr``, with a best lr for each two epochs."""

    def __init__(self, *best: float, schedule: Any = None) -> None:
        super().__init__(schedule)
        self.best, self.last = best, 1e-4

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        before, self.last = self.last, self.trainer.optimizers[0].param_groups[0]["lr"]
        return 1 + math.log10(before / self.best[self.current_epoch // 2]) ** 2 + 0 * self.loss(batch)


def with_milestones(*epochs: int, **arguments: Any) -> LRRangeTest:
    return LRRangeTest(1e-4, num_steps=40, milestones=epochs, **{"report": False, "method": "smith", **arguments})


def in_valleys(test: LRRangeTest, schedule: Any) -> tuple[list[float], LRs, Valley]:
    """Fit six epochs of eight batches; return the result that stands in each epoch, and what each step used."""
    results, lrs, module = Results(test), LRs(), Valley(1.0, 0.5, 0.2, schedule=schedule)
    trainer([test, results, lrs], max_epochs=6).fit(module, data())
    # The best lr by "smith", to one step of the sweep: five decades in 39.
    assert results.lr == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.02, 0.02], rel=10 ** (5 / 39) - 1)
    return results.lr, lrs, module


def test_at_each_milestone_a_new_cycle_begins_over_the_rest_with_the_peak_found_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        found, lrs, _ = in_valleys(
            with_milestones(2, 4), lambda module, optimizer: OneCycleScheduler(optimizer, None, 48)
        )
    assert (found[0], found[2], found[4]) == (found[1], found[3], found[5])
    # Two epochs of a cycle of 6 * 8 steps, two of one of 4 * 8, and the whole of one of 2 * 8.
    cycles = [OneCyclePolicy(found[0], 48), OneCyclePolicy(found[2], 32), OneCyclePolicy(found[4], 16)]
    assert [lr for [lr] in lrs.lr] == [cycle.lr(step) for cycle in cycles for step in range(16)]
    assert [value for [value] in lrs.momentum] == [cycle.momentum(step) for cycle in cycles for step in range(16)]
    assert lrs.lr[-1] == [found[4] / 10 / 1e4]  # the last of them with its annihilation
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("LR range test (")]
    assert len(said) == 3
    peaks = [f"{lr:.3g}" for lr in (0.01, found[0], found[2], found[4])]
    assert [f"max_lr {peaks[i]} -> {peaks[i + 1]} (" in said[i] for i in range(3)] == [True] * 3


@pytest.mark.parametrize("name", ["no scheduler", "StepLR", "OneCycleLR", "CosineAnnealingLR", "LambdaLR"])
def test_other_schedules_keep_their_place_and_are_scaled_at_a_milestone(name: str) -> None:
    schedules: dict[str, Any] = {
        "no scheduler": None,
        "StepLR": lambda module, optimizer: schedulers.StepLR(optimizer, 8, gamma=0.5),
        "OneCycleLR": lambda module, optimizer: schedulers.OneCycleLR(optimizer, 0.01, total_steps=48, pct_start=0.5),
        "CosineAnnealingLR": lambda module, optimizer: schedulers.CosineAnnealingLR(optimizer, 48),
        "LambdaLR": lambda module, optimizer: schedulers.LambdaLR(optimizer, lambda k: 1 / (1 + k / 8)),
    }
    plain = LRs()
    trainer([plain], max_epochs=6).fit(Momentum(schedules[name]), data())
    found, lrs, module = in_valleys(with_milestones(2, 4), schedules[name])
    assert module.lr == found[-1]
    expected = [lr * found[step // 8] / 0.01 for step, [lr] in enumerate(plain.lr)]
    assert [lr for [lr] in lrs.lr] == pytest.approx(expected, rel=1e-9)
    assert lrs.momentum == plain.momentum
    if name == "StepLR":  # halved after every epoch
        assert lrs.lr[::8] == pytest.approx(np.array([[lr / 2**epoch] for epoch, lr in enumerate(found)]))


def test_each_test_has_a_report_and_curves_of_its_own(tmp_path: Path) -> None:
    test = with_milestones(2, 4, report=True)
    results, logger = Results(test), TensorBoardLogger(tmp_path, name="run")
    trainer([test, results], logger=logger, max_epochs=6).fit(Valley(1.0, 0.5, 0.2), data())
    names = ["lr_range_test", "lr_range_test_epoch_2", "lr_range_test_epoch_4"]
    folders = sorted(folder for folder in Path(logger.log_dir).iterdir() if folder.is_dir())
    assert [folder.name for folder in folders] == names
    events = event_accumulator.EventAccumulator(logger.log_dir)
    events.Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("lr_range_test")}
    assert tags == {f"{name}/{kind}" for name in names for kind in ("lr", "loss", "smoothed_loss")}
    for folder, curve, lr in zip(folders, results.curves[::2], results.lr[::2], strict=True):
        result = json.loads((folder / "result.json").read_text())
        assert result["curve"]["lr"] == list(curve.lr)
        assert result["suggestion"]["lr"] == lr
        assert result["settings"]["milestones"] == [2, 4]
        assert (folder / f"{folder.name}.png").exists()
        points = events.Scalars(f"{folder.name}/loss")
        assert [point.value for point in points] == pytest.approx(list(curve.loss), rel=1e-6)


def test_milestones_that_only_suggest_change_nothing() -> None:
    plain = LRs()
    schedule = SCHEDULES["OneCycleScheduler"]
    trainer([plain], max_epochs=6).fit(Momentum(schedule), data())
    found, lrs, module = in_valleys(with_milestones(2, 4, apply=False), schedule)
    assert len(set(found)) == 3
    assert (lrs.lr, lrs.momentum) == (plain.lr, plain.momentum)
    assert module.lr == 0.01


@pytest.mark.parametrize("milestones", [(3,), [3], (3, 3), (3, 77), [0 + 3, 1]], ids=repr)
def test_milestones_may_be_a_list_repeat_and_lie_beyond_the_end(milestones: Any) -> None:
    test = LRRangeTest(1e-4, num_steps=40, milestones=milestones, report=False)
    results = Results(test)
    trainer([test, results], max_epochs=4).fit(Valley(1.0, 0.5), data())
    assert test.milestones is milestones
    changed = [epoch for epoch in range(1, 4) if results.curves[epoch] is not results.curves[epoch - 1]]
    assert changed == sorted({epoch for epoch in milestones if epoch < 4})


def test_a_milestone_that_gives_no_suggestion_leaves_the_cycle_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class Flat(Valley):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss if self.current_epoch == 0 else 1 + 0 * loss

    test, lrs = with_milestones(1), LRs()
    with caplog.at_level("INFO"):
        trainer([test, lrs]).fit(Flat(1.0, schedule=SCHEDULES["OneCycleScheduler"]), data())
    [first, second] = [r.getMessage() for r in caplog.records if r.getMessage().startswith("LR range test (")]
    peak = max(lr for [lr] in lrs.lr)
    assert f"-> {peak:.3g} (" in first
    assert (
        f"no suggestion, because the loss does not fall anywhere in the sweep; training continues with max_lr {peak:.3g}"
        in second
    )
    assert [lr for [lr] in lrs.lr] == [OneCyclePolicy(peak, 16).lr(step) for step in range(16)]
    assert test.suggestion is None


def test_a_backbone_that_is_unfrozen_at_a_milestone_is_in_the_new_cycle() -> None:
    class Backbone(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
            self.net = nn.Sequential(self.backbone, nn.ReLU(), self.head)

        def configure_optimizers(self) -> Any:
            head = [weight for weight in self.parameters() if weight.requires_grad]
            return configure_one_cycle(self, torch.optim.SGD(head, lr=0.1, momentum=0.9))

    finetuning = BackboneFinetuning(1, backbone_initial_ratio_lr=0.5, verbose=False)  # half the lr of the head
    test = with_milestones(1)
    results, lrs = Results(test), LRs()
    trainer([finetuning, test, results, lrs]).fit(Backbone(), data())
    first, second = OneCyclePolicy(results.lr[0], 16), OneCyclePolicy(results.lr[1], 8)
    assert results.lr[0] != results.lr[1]
    assert lrs.lr[:8] == [[first.lr(step)] for step in range(8)]
    assert [head for head, _ in lrs.lr[8:]] == [second.lr(step) for step in range(8)]
    assert [backbone for _, backbone in lrs.lr[8:]] == pytest.approx([second.lr(step) / 2 for step in range(8)])
    assert lrs.momentum[8:] == [[second.momentum(step)] * 2 for step in range(8)]


def test_milestones_find_the_lr_of_one_optimizer_of_several() -> None:
    class TwoValleys(TwoNets):
        """The loss of each is lowest where its lr is 1 in the first epoch, and 0.5 in the second."""

        def __init__(self) -> None:
            super().__init__()
            self.last = [1e-4, 1e-4]

        def loss_of(self, net: nn.Module, batch: Any, optimizer: Any) -> Any:
            index = int(net is self.nets[1])
            before, self.last[index] = self.last[index], optimizer.param_groups[0]["lr"]
            distance = math.log10(before / [1.0, 0.5][self.current_epoch])
            return 1 + distance**2 + 0 * super().loss_of(net, batch, optimizer)

    test, lrs = with_milestones(1, optimizer=1), AllLRs()
    results = Results(test)
    trainer([test, results, lrs]).fit(TwoValleys(), data())
    assert results.lr == pytest.approx([0.1, 0.05], rel=10 ** (5 / 39) - 1)
    cycles = [OneCyclePolicy(results.lr[0], 16), OneCyclePolicy(results.lr[1], 8)]
    assert [second[0] for _, second in lrs.lr] == [cycle.lr(step) for cycle in cycles for step in range(8)]
    assert [first[0] for first, _ in lrs.lr] == [0.01 / 2 ** (step // 4) for step in range(16)]


class SelfContained(SmallNet):
    """A module that brings its data, as LightningCLI needs one without a data module."""

    def train_dataloader(self) -> Any:
        return data()


def test_lightning_cli_reads_optimizer_and_milestones_from_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    config = tmp_path / "config.yaml"
    config.write_text("""
trainer:
  {max_epochs: 3, accelerator: cpu, devices: 1, log_every_n_steps: 1, logger: false, enable_checkpointing: false,
   enable_progress_bar: false, enable_model_summary: false, callbacks: [{class_path: pl_onecycle.LRRangeTest,
   init_args: {min_lr: 1.0e-4, num_steps: 40, milestones: [1, 2], optimizer: 0}}]}
""")
    cli = LightningCLI(
        SelfContained,
        save_config_callback=None,
        seed_everything_default=False,
        args=["fit", "--config", str(config), f"--trainer.default_root_dir={tmp_path / 'root'}"],
    )
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
    [test] = [callback for callback in callbacks if isinstance(callback, LRRangeTest)]
    assert list(test.milestones) == [1, 2]
    assert test.optimizer == 0
    folders = sorted(path.name for path in (tmp_path / "root").iterdir())
    assert folders == ["lr_range_test", "lr_range_test_epoch_1", "lr_range_test_epoch_2"]


# ---------------------------------------------------------------------------- a sweep that raises
class Explodes(Valley):
    """Its weights are infinite after a step with an lr above 2, and then its loss raises, as many do."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        [weight, *_] = self.parameters()
        if self.last > 2 and weight.isfinite().all():
            with torch.no_grad():
                weight.fill_(math.inf)
        elif self.last > 2:
            nn.functional.binary_cross_entropy(self.net(batch[0]).softmax(1)[:, 0], batch[0][:, 0].sigmoid())
        return loss


def test_a_loss_that_raises_when_it_diverges_ends_the_sweep_and_not_the_fit(caplog: pytest.LogCaptureFixture) -> None:
    test, lrs, module = with_milestones(), LRs(), Explodes(1.0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    said = "^A trial has diverged and ended in RuntimeError: all elements of input"
    with caplog.at_level("INFO"), pytest.warns(UserWarning, match=said):
        trainer([test, lrs]).fit(module, data())
    assert test.curve is not None
    assert test.curve.outcome == "diverged"
    # 1e-4 * 10^(5 k / 39) is above 2 from k = 34 on: 4.3 / 5 * 39 = 33.55.
    assert len(test.curve) == 35
    assert math.isnan(test.curve.loss[-1])
    assert all(math.isfinite(loss) for loss in test.curve.loss[:-1])
    assert "LR range test (35 of 40 steps, diverged): max_lr 0.01 -> " in line(caplog)
    assert test.suggestion is not None
    assert lrs.lr == [[test.suggestion.lr]] * 16
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())  # of slope zero


def test_an_exception_of_another_cause_ends_the_fit_and_leaves_the_model_as_it_was() -> None:
    class Fails(SmallNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 5:
                raise ValueError("a bad row")
            return super().training_step(batch, batch_idx)

    module, lrs = Fails(), LRs()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match="a bad row"):
        trainer([LRRangeTest(), lrs]).fit(module, data())
    assert lrs.lr == []
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# ----------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"min_lr": 1.0, "max_lr": 0.1}, ValueError, id="min above max"),
        pytest.param({"min_lr": 1.0, "max_lr": 1.0}, ValueError, id="min equals max"),
        pytest.param({"min_lr": 0.0}, ValueError, id="zero"),
        pytest.param({"min_lr": -1e-3}, ValueError, id="negative"),
        pytest.param({"min_lr": math.nan}, ValueError, id="NaN"),
        pytest.param({"max_lr": math.nan}, ValueError, id="NaN max"),
        pytest.param({"max_lr": math.inf}, ValueError, id="infinite"),
        pytest.param({"min_lr": "1e-3"}, TypeError, id="string"),
        pytest.param({"num_steps": 1}, ValueError, id="one step"),
        pytest.param({"num_steps": 10.0}, TypeError, id="float steps"),
        pytest.param({"num_steps": True}, TypeError, id="bool steps"),
        pytest.param({"mode": "triangular"}, ValueError, id="mode"),
        pytest.param({"mode": "staircase", "num_stairs": 1}, ValueError, id="one stair"),
        pytest.param({"mode": "staircase", "num_steps": 5, "num_stairs": 6}, ValueError, id="more stairs than steps"),
        pytest.param({"method": "magic"}, ValueError, id="method"),
        pytest.param({"early_stop_threshold": 0.0}, ValueError, id="threshold"),
        pytest.param({"apply": "yes"}, TypeError, id="apply"),
        pytest.param({"optimizer": -1}, ValueError, id="optimizer below zero"),
        pytest.param({"optimizer": "a"}, TypeError, id="optimizer by name"),
        pytest.param({"optimizer": 1.0}, TypeError, id="float optimizer"),
        pytest.param({"optimizer": True}, TypeError, id="bool optimizer"),
        pytest.param({"optimizer": None}, TypeError, id="no optimizer"),
        pytest.param({"milestones": (0,)}, ValueError, id="milestone zero"),
        pytest.param({"milestones": [5, -1]}, ValueError, id="negative milestone"),
        pytest.param({"milestones": [1.5]}, TypeError, id="milestone within an epoch"),
        pytest.param({"milestones": [True]}, TypeError, id="bool milestone"),
        pytest.param({"milestones": ["5"]}, TypeError, id="milestone as a string"),
        pytest.param({"milestones": "5"}, TypeError, id="milestones as a string"),
        pytest.param({"milestones": 5}, TypeError, id="one milestone"),
        pytest.param({"milestones": True}, TypeError, id="bool milestones"),
        pytest.param({"milestones": None}, TypeError, id="no milestones"),
        pytest.param({"milestones": {5}}, TypeError, id="set of milestones"),
        pytest.param({"verify": 2}, ValueError, id="verify an even number"),
        pytest.param({"verify": 4}, ValueError, id="verify a larger even number"),
        pytest.param({"verify": 1}, ValueError, id="verify one"),
        pytest.param({"verify": 0}, ValueError, id="verify zero"),
        pytest.param({"verify": -3}, ValueError, id="verify below zero"),
        pytest.param({"verify": "yes"}, TypeError, id="verify as a string"),
        pytest.param({"verify": 3.0}, TypeError, id="float verify"),
        pytest.param({"verify": None}, TypeError, id="no verify"),
        pytest.param({"verify_steps": 9}, ValueError, id="few steps to verify"),
        pytest.param({"verify_steps": 50.0}, TypeError, id="float steps to verify"),
        pytest.param({"val_every": 0}, ValueError, id="validate never"),
        pytest.param({"val_every": 1.0}, TypeError, id="float val_every"),
        pytest.param({"val_every": True}, TypeError, id="bool val_every"),
        pytest.param({"val_batches": 0}, ValueError, id="no validation batch"),
        pytest.param({"val_batches": "all"}, TypeError, id="val_batches as a string"),
        pytest.param({"monitor": 3}, TypeError, id="monitor a number"),
        pytest.param({"monitor": None}, TypeError, id="monitor nothing"),
        pytest.param({"monitor_mode": "avg"}, ValueError, id="monitor_mode"),
        pytest.param({"monitor_mode": None}, ValueError, id="no monitor_mode"),
    ],
)
def test_bad_arguments_are_told_in_one_sentence(arguments: dict[str, Any], error: type[Exception]) -> None:
    name = list(arguments)[-1]
    with pytest.raises(
        error, match=rf"^Expected argument `({'|'.join(arguments)}|max_lr)` to be [^\n]+ but got "
    ) as told:
        LRRangeTest(**arguments)
    assert name in str(told.value) or "max_lr" in str(told.value)


def fit_unchanged(module: Told, caplog: pytest.LogCaptureFixture, **arguments: Any) -> tuple[LRRangeTest, str]:
    """Fit with a test that finds nothing; its lr must be the user's. Returns the test and its one line."""
    test, lrs = LRRangeTest(num_steps=30), LRs()
    with caplog.at_level("INFO"):
        trainer([test, lrs], **arguments).fit(module, data())
    assert test.suggestion is None
    assert {rate for rates in lrs.lr for rate in rates} <= {0.1}
    return test, line(caplog)


def test_a_loss_that_is_nan_from_the_first_step_gives_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    _, said = fit_unchanged(Told(lambda call: math.nan), caplog)
    assert "no suggestion, because the loss is not finite from the first step on" in said
    assert "training continues with max_lr 0.1" in said


def test_a_constant_loss_gives_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    _, said = fit_unchanged(Told(lambda call: 1.5), caplog)
    assert "no suggestion, because the loss does not fall anywhere in the sweep" in said


def test_fast_dev_run_is_skipped_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    test, said = fit_unchanged(Told(lambda call: 1.0), caplog, fast_dev_run=True)
    assert test.curve is None
    assert "skipped" in said
    assert "fast_dev_run" in said


@pytest.mark.parametrize("options", [{"limit_train_batches": 0}, {"max_epochs": 0}])
def test_a_fit_without_steps_is_told(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    test, said = fit_unchanged(Told(lambda call: 1.0), caplog, **options)
    assert test.curve is None
    assert "not run" in said


@pytest.mark.filterwarnings("ignore:.*Total length of `DataLoader` across ranks is zero.*")
@pytest.mark.filterwarnings("ignore:.*Total length of `CombinedLoader` across ranks is zero.*")
def test_an_empty_loader_is_told_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    test, module = LRRangeTest(), SmallNet()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    empty = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(0, 8), torch.zeros(0)), 4)
    with caplog.at_level("INFO"):
        trainer([test]).fit(module, empty)
    assert "not run" in line(caplog)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_plot_before_the_test_is_one_clear_error() -> None:
    with pytest.raises(RuntimeError, match="has not run yet"):
        LRRangeTest().plot()


# ---------------------------------------------------------------------------------- coarse, then dense
class Watched(Momentum):
    """Keeps, in lists that no trial puts back, what each step has seen; logs loss and accuracy of both kinds of step.

    Class attributes, as those of the module are put back; `watched` makes a class with lists of its own.
    """

    lrs: list[float]
    batches: list[float]
    val_losses: list[float]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.lrs.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.batches.append(float(batch[0].sum()))
        loss = self.told(batch)
        self.log("train_acc", self.accuracy(batch), on_step=True, on_epoch=False)
        return loss

    def told(self, batch: Any) -> Any:
        return self.loss(batch)

    def accuracy(self, batch: Any) -> Any:
        return (self.net(batch[0]).argmax(1) == batch[1]).float().mean()


class WatchedToo(Watched):
    """And the same of validation steps."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.loss(batch)
        self.val_losses.append(float(loss))
        self.log_dict({"val_loss": loss, "val_acc": self.accuracy(batch)})


def watched(kind: type[Watched] = Watched) -> Watched:
    torch.manual_seed(0)
    module: Watched = type(kind.__name__, (kind,), {"lrs": [], "batches": [], "val_losses": []})()
    return module


def one_step(test: LRRangeTest, module: Watched, *loaders: Any, **options: Any) -> list[float]:
    """Fit one real step, behind the test, and return the lrs of the steps of the test."""
    torch.manual_seed(0)
    arguments = {"max_steps": 1, "max_epochs": 1, "limit_val_batches": 1.0, "num_sanity_val_steps": 0} | options
    trainer([test], **arguments).fit(module, *(loaders or [data(shuffle=True)]))
    assert module.lrs[-1] == 0.01 or test.apply
    return module.lrs[:-1]


class Constant(Watched):
    def told(self, batch: Any) -> Any:
        return 1.5 + 0 * self.loss(batch)


class Rising(Watched):
    """The larger the lr of the step before, the larger its loss."""

    def told(self, batch: Any) -> Any:
        before = self.lrs[-2] if len(self.lrs) > 1 else 0.0
        return 1.0 + before + 0 * self.loss(batch)


class OnlyNaN(Watched):
    def told(self, batch: Any) -> Any:
        return math.nan * self.loss(batch)


class Slow(Watched):
    """Begins to learn where others explode."""

    def told(self, batch: Any) -> Any:
        return 1e-4 * self.loss(batch)


@pytest.mark.parametrize("kind", [Watched, Constant, Rising, OnlyNaN, Slow])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_by_default_no_more_than_150_steps_are_trained(kind: type[Watched], accumulate: int) -> None:
    test = LRRangeTest(apply=False, report=False)
    options = {"accumulate_grad_batches": accumulate, "limit_train_batches": accumulate, "max_steps": -1}
    lrs = one_step(test, watched(kind), **options)
    module_steps = len(lrs) - (accumulate - 1)  # the real step's other micro-batch
    assert module_steps % accumulate == 0
    assert module_steps // accumulate == test.steps
    assert 2 <= test.steps <= 150
    assert test.curve is not None
    assert 1 <= len(test.coarse) <= 2
    assert (test.suggestion is not None) == (kind in (Watched, Slow))


def test_a_default_test_reads_a_dense_sweep_that_follows_a_coarse_one(caplog: pytest.LogCaptureFixture) -> None:
    test = LRRangeTest(apply=False, report=False)
    with caplog.at_level("INFO"):
        lrs = one_step(test, watched())
    [coarse], curve = test.coarse, test.curve
    assert curve is not None
    # Both in the order of the steps, each with one step more than it has points.
    assert lrs[: len(coarse)] == list(coarse.lr)
    assert lrs[len(coarse) + 1 :][: len(curve)] == list(curve.lr)
    assert test.steps == len(lrs) == len(coarse) + 1 + len(curve) + 1
    assert coarse.lr[0] == 1e-7
    density = [(len(it) - 1) / math.log10(it.lr[-1] / it.lr[0]) for it in (coarse, curve)]
    assert density == pytest.approx([6.0, 28.0])
    assert coarse.initial_loss == curve.initial_loss  # of the same weights and batch
    assert test.suggestion == suggest(curve)
    assert f"LR range test ({len(lrs)} of 150 steps, {curve.outcome}): suggests max_lr " in line(caplog)


@pytest.mark.parametrize("shift", [-2, 2])
def test_a_loss_times_c_moves_the_suggestion_of_a_real_sweep_by_as_much(shift: int) -> None:
    class Scaled(Watched):
        def told(self, batch: Any) -> Any:
            return 10.0**-shift * self.loss(batch)

    found = []
    for kind in (Watched, Scaled):
        test = LRRangeTest(apply=False, report=False)
        one_step(test, watched(kind))
        assert test.suggestion is not None
        found.append(math.log10(test.suggestion.lr))
    assert found[1] - found[0] == pytest.approx(shift, abs=0.15)


def test_num_steps_asks_for_one_sweep_over_exactly_the_range() -> None:
    test = LRRangeTest(1e-5, 1e-2, num_steps=30, apply=False, report=False)
    lrs = one_step(test, watched())
    assert test.coarse == []
    assert test.steps == 31
    assert lrs[:30] == pytest.approx([1e-5 * 10 ** (3 * k / 29) for k in range(30)])
    assert test.curve is not None
    assert list(test.curve.lr) == lrs[:30]


@pytest.mark.parametrize("mode", ["linear", "staircase"])
def test_stairs_and_linear_ranges_take_one_sweep_of_100_steps(mode: Any) -> None:
    test = LRRangeTest(1e-5, 1e-2, mode=mode, apply=False, report=False, early_stop_threshold=None)
    one_step(test, watched())
    assert test.coarse == []
    assert test.curve is not None
    assert (len(test.curve), test.steps) == (100, 101)


INVISIBLE = {
    "default": {},
    "verified": {"verify": 3, "verify_steps": 10},
    "val_loss": {"monitor": "val_loss", "val_batches": 1, "val_every": 10, "num_steps": 30},
}


@pytest.mark.parametrize("arguments", INVISIBLE.values(), ids=INVISIBLE)
@pytest.mark.parametrize("name", ["BatchNorm", "EarlyStopping, ModelCheckpoint, LearningRateMonitor, CSVLogger"])
def test_a_fit_with_such_a_test_equals_a_fit_without(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    if name == "BatchNorm" and "monitor" in arguments:
        pytest.skip("has no validation")
    expected = Fit(SCENARIOS[name], tmp_path / "without").run().outcome()
    test = LRRangeTest(apply=False, **arguments)
    assert differences(expected, Fit(SCENARIOS[name], tmp_path / "with", test).run().outcome()) == []
    assert test.curve is not None
    assert len(set(test.curve.loss)) > 1  # it did train
    assert len(test.cycles) == arguments.get("verify", 0)


# -------------------------------------------------------------------------------------------------- verify
@pytest.mark.parametrize(("verify", "count", "steps"), [(3, 3, 50), (True, 5, 12)])
def test_short_cycles_verify_the_suggestion_on_the_same_batches(
    verify: Any, count: int, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    test, module = LRRangeTest(verify=verify, verify_steps=steps, apply=False, report=False), watched()
    with caplog.at_level("INFO"):
        lrs = one_step(test, module)
    assert test.curve is not None
    unverified = suggest(test.curve)
    assert unverified is not None
    swept = sum(len(curve) + 1 for curve in [*test.coarse, test.curve])
    assert swept <= 150
    assert test.steps == len(lrs) == swept + count * steps
    assert list(test.cycles) == candidates(unverified.lr, count)
    first = test.cycles[unverified.lr]
    for k, (lr, curve) in enumerate(test.cycles.items()):
        start = swept + k * steps
        policy = OneCyclePolicy(lr, steps - 1)
        assert lrs[start : start + steps - 1] == [policy.lr(step) for step in range(steps - 1)]
        assert module.batches[start : start + steps] == module.batches[swept : swept + steps]
        assert len(set(module.batches[start : start + steps])) > 8  # reshuffled from epoch to epoch
        assert (len(curve), curve.outcome, curve.val_loss) == (steps - 1, "completed", ())
        assert curve.initial_loss == first.initial_loss
    assert test.suggestion == verified(unverified, test.cycles)
    assert test.suggestion.reason.endswith(" by training loss")
    assert test.suggestion.lr != unverified.lr
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("LR range test")]
    total = 150 + count * steps
    assert said[0] == f"LR range test: at most 150 + {count} x {steps} = {total} optimizer steps."
    assert (
        f"suggests max_lr {test.suggestion.lr:.3g} (trough: {unverified.lr:.3g} on the curve; weighted mean" in said[1]
    )


def test_what_short_cycles_say_is_trained_with_and_reported(tmp_path: Path) -> None:
    test, module = LRRangeTest(verify=3, verify_steps=12), watched()
    lrs = LRs()
    trainer([test, lrs], tmp_path).fit(module, data())
    assert test.suggestion is not None
    assert lrs.lr == [[test.suggestion.lr]] * 16
    assert module.lr == test.suggestion.lr
    result = json.loads((tmp_path / "lr_range_test" / "result.json").read_text())
    assert result["suggestion"] == test.suggestion.to_dict()
    assert result["steps"] == test.steps
    assert (result["settings"]["verify"], result["settings"]["verify_steps"]) == (3, 12)
    assert [curve["loss"] for curve in result["cycles"].values()] == [list(c.loss) for c in test.cycles.values()]
    assert [float(lr) for lr in result["cycles"]] == pytest.approx(list(test.cycles), rel=1e-5)
    assert [curve["lr"] for curve in result["coarse"]] == [list(curve.lr) for curve in test.coarse]


def test_short_cycles_are_judged_by_validation_loss_where_there_is_one() -> None:
    test, module = LRRangeTest(verify=3, verify_steps=12, val_batches=2, apply=False, report=False), watched(WatchedToo)
    one_step(test, module, data(shuffle=True), data(128))
    assert test.curve is not None
    assert test.suggestion is not None
    assert test.suggestion.reason.endswith(" by val_loss")
    # Two batches at the end of each cycle, of the weights after its 11 steps.
    means = np.reshape(module.val_losses[:6], (3, 2)).mean(axis=1)
    for curve, mean in zip(test.cycles.values(), means, strict=True):
        assert curve.val_steps == (11,)
        assert curve.val_loss == pytest.approx((mean,))
    unverified = suggest(test.curve)
    assert unverified is not None
    assert test.suggestion == verified(unverified, test.cycles)


def test_nothing_is_verified_where_nothing_is_suggested() -> None:
    test = LRRangeTest(verify=3, apply=False, report=False)
    lrs = one_step(test, watched(Constant))
    assert test.suggestion is None
    assert test.cycles == {}
    assert len(lrs) == test.steps <= 150


def test_short_cycles_have_the_shape_of_the_runs_own_cycle() -> None:
    test, module = LRRangeTest(verify=3, verify_steps=21, report=False), watched()
    module.schedule = lambda module, optimizer: OneCycleScheduler(
        optimizer, None, int(module.trainer.estimated_stepping_batches), pct_start=0.5
    )
    torch.manual_seed(0)
    trainer([test]).fit(module, data())
    for curve in test.cycles.values():
        peak = max(curve.lr)
        assert curve.lr[OneCyclePolicy(1.0, 20, pct_start=0.5).peak_step] == peak
        assert peak == pytest.approx(next(lr for lr, it in test.cycles.items() if it is curve))


# ------------------------------------------------------------------------------------------------- monitor
def test_the_curve_of_val_loss_is_the_mean_over_the_first_batches() -> None:
    test = LRRangeTest(1e-3, 1.0, 20, monitor="val_loss", val_batches=2, apply=False, report=False)
    test.early_stop_threshold = None
    module = watched(WatchedToo)
    one_step(test, module, data(shuffle=True), data(128))
    assert test.curve is not None
    means = np.reshape(module.val_losses[:40], (20, 2)).mean(axis=1)  # two of four batches after each of 20 steps
    assert list(test.curve.loss) == pytest.approx(means.tolist())
    assert list(test.curve.lr) == module.lrs[:20]
    assert len(module.val_losses) in (40, 44)  # the real run may validate once more
    assert test.steps == 21


@pytest.mark.parametrize(("every", "points"), [(1, 20), (5, 4), (6, 3), (20, 1)])
def test_val_every_leaves_points_out(every: int, points: int) -> None:
    test = LRRangeTest(
        1e-3, 1.0, 20, monitor="val_loss", val_every=every, early_stop_threshold=None, apply=False, report=False
    )
    module = watched(WatchedToo)
    one_step(test, module, data(shuffle=True), data(64))
    assert test.curve is not None
    # After step 5 of 20, at the lr of that step, and so on.
    assert list(test.curve.lr) == module.lrs[:20][every - 1 :: every]
    assert len(test.curve) == points


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("val_loss", "min"), ("train_acc", "max"), ("val_acc", "max")],
)
def test_another_quantity_finds_about_the_same_lr(monitor: str, mode: Any) -> None:
    found = []
    for arguments in ({}, {"monitor": monitor, "monitor_mode": mode}):
        test = LRRangeTest(apply=False, report=False, **arguments)
        one_step(test, watched(WatchedToo), data(1024, shuffle=True), data())
        assert test.suggestion is not None, test.why
        assert test.steps <= 150
        found.append(math.log10(test.suggestion.lr))
    assert found[1] == pytest.approx(found[0], abs=0.5)


@pytest.mark.parametrize("monitor", ["train_acc", "val_acc"])
def test_the_curve_of_a_quantity_of_which_more_is_better_is_its_negative(monitor: str) -> None:
    curves = []
    for mode in ("min", "max"):
        test = LRRangeTest(
            1e-3, 1.0, 30, monitor=monitor, monitor_mode=mode, early_stop_threshold=None, apply=False, report=False
        )
        one_step(test, watched(WatchedToo), data(shuffle=True), data(64))
        assert test.curve is not None
        curves.append(test.curve)
    assert all(0 <= value <= 1 for value in curves[0].loss)
    assert len(set(curves[0].loss)) > 3
    assert [-value for value in curves[1].loss] == list(curves[0].loss)
    assert curves[0].lr == curves[1].lr


def test_a_metric_of_the_training_step_is_paired_with_the_lr_of_the_step_before() -> None:
    class Counts(Watched):
        def accuracy(self, batch: Any) -> Any:
            return torch.tensor(float(len(self.lrs)))  # 1 in the first step

    test = LRRangeTest(1e-3, 1.0, 10, monitor="train_acc", early_stop_threshold=None, apply=False, report=False)
    module = watched(Counts)
    one_step(test, module)
    assert test.curve is not None
    # The second step, of value 2, sees the effect of the first lr.
    assert test.curve.loss == tuple(float(k) for k in range(2, 12))
    assert list(test.curve.lr) == module.lrs[:10]


@pytest.mark.parametrize("num_steps", [None, 20])
@pytest.mark.parametrize(
    ("monitor", "said"),
    [
        ("f1", "The test saw no `f1`: `Watched` must log it in each training step"),
        ("val_loss", r"`LRRangeTest\(monitor='val_loss'\)` needs validation data and a `validation_step`\."),
        ("val_acc", "The test saw no `val_acc`: `WatchedToo` must log it"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*but have no `val_dataloader`. Skipping val loop")
def test_what_is_never_seen_is_told_and_leaves_the_run_as_it_was(
    monitor: str, said: str, num_steps: int | None
) -> None:
    module, lrs = watched(Watched if monitor == "f1" else WatchedToo), LRs()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    test = LRRangeTest(monitor=monitor, num_steps=num_steps)
    fit = trainer([test, lrs])
    with pytest.raises(MisconfigurationException, match=said):
        fit.fit(module, data())  # no validation loader
    assert lrs.lr == []
    assert test.suggestion is None
    assert fit.global_step == 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert fit.optimizers[0].state_dict()["state"] == {}
    assert fit.optimizers[0].param_groups[0]["lr"] == 0.01
    # And the Trainer can fit.
    test.monitor = "train_loss"
    fit.fit(module, data())
    assert fit.global_step == 16
    assert test.suggestion is not None


# --------------------------------------------------------------------------------------- state and picture
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*")
def test_sweeps_and_cycles_travel_in_a_checkpoint(tmp_path: Path) -> None:
    first, saved = LRRangeTest(verify=3, verify_steps=12), ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1)
    trainer([first, saved], tmp_path, enable_checkpointing=True, max_epochs=1).fit(Momentum(), data())
    again = LRRangeTest(verify=3, verify_steps=12)
    trainer([again], tmp_path).fit(Momentum(), data(), ckpt_path=saved.best_model_path)
    assert first.coarse != []
    assert len(first.cycles) == 3
    assert (again.curve, again.suggestion, again.steps) == (first.curve, first.suggestion, first.steps)
    assert (again.coarse, again.cycles) == (first.coarse, first.cycles)
    assert json.loads(json.dumps(again.state_dict()))["cycles"][0][0] == next(iter(first.cycles))


def test_a_checkpoint_from_before_there_were_coarse_sweeps_is_read() -> None:
    test = LRRangeTest()
    curve = LossCurve([0.1, 0.2], [2.0, 1.0])
    test.load_state_dict({"curve": curve.to_dict(), "suggestion": {"lr": 0.1, "method": "smith", "reason": "so"}})
    assert test.curve == curve
    assert test.suggestion is not None
    assert (test.suggestion.lr, test.suggestion.low, test.suggestion.high) == (0.1, None, None)
    assert (test.coarse, test.cycles, test.steps) == ([], {}, 0)


def test_a_second_test_forgets_the_sweeps_and_cycles_of_the_first() -> None:
    test = LRRangeTest(verify=3, verify_steps=12, apply=False, report=False)
    one_step(test, watched())
    assert len(test.cycles) == 3
    one_step(test, watched(Constant))
    assert test.cycles == {}
    assert test.steps == sum(len(curve) + 1 for curve in test.coarse)


def test_a_picture_of_all_methods_marks_each_that_has_an_answer() -> None:
    test = LRRangeTest(apply=False, report=False)
    one_step(test, watched())
    assert test.curve is not None
    assert test.suggestion is not None
    found = [suggest(test.curve, method) for method in METHODS]
    answers = {it.method: it.lr for it in found if it is not None}
    assert len(answers) >= 4

    def marks(all_methods: bool) -> set[float]:
        [axes] = test.plot(all_methods=all_methods).axes
        upright = [np.asarray(it.get_xdata(), dtype=float) for it in axes.get_lines()]
        return {float(x[0]) for x in upright if len(x) == 2 and x[0] == x[1]}

    assert marks(all_methods=False) == {test.suggestion.lr}
    assert sorted(marks(all_methods=True)) == pytest.approx(sorted(set(answers.values())))
    [axes] = test.plot(all_methods=True).axes
    legend = axes.get_legend()
    assert legend is not None
    words = " ".join(it.get_text() for it in legend.get_texts())
    assert [method for method in answers if method not in words] == []


# ---------------------------------------------------------------------------------------- resume, refit
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*")
def test_a_resumed_fit_does_not_test_again_and_knows_its_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # D2: the peer loses the resume and starts over at step 0.
    first, saved = LRRangeTest(num_steps=40), ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1)
    trainer([first, saved], enable_checkpointing=True, max_epochs=1).fit(Momentum(torch_one_cycle), data())
    again, lrs = LRRangeTest(num_steps=40), LRs()
    module = Momentum(torch_one_cycle)
    caplog.clear()
    resumed = trainer([again, lrs])
    with caplog.at_level("INFO"):
        resumed.fit(module, data(), ckpt_path=saved.best_model_path)
    assert f"skipped, as this run was tested in epoch 0; its max_lr {module.lr:.3g} is set again in module.lr." in line(
        caplog
    )
    assert resumed.global_step == 16
    assert len(lrs.lr) == 8
    assert again.curve == first.curve
    assert again.suggestion == first.suggestion
    assert module.lr == first.suggestion.lr  # type: ignore[union-attr]
    # The uninterrupted run's learning rates, at every step.
    whole, whole_lrs = LRRangeTest(num_steps=40), LRs()
    torch.manual_seed(0)
    trainer([whole, whole_lrs]).fit(Momentum(torch_one_cycle), data())
    assert first.suggestion is not None
    assert lrs.lr[0] == pytest.approx(
        [rate * first.suggestion.lr / whole.suggestion.lr for rate in whole_lrs.lr[8]]  # type: ignore[union-attr]
    )


def test_a_further_fit_of_the_same_trainer_uses_what_was_found() -> None:
    test, lrs, module = LRRangeTest(num_steps=40), LRs(), Momentum()
    fit = trainer([test, lrs], max_epochs=1)
    fit.fit(module, data())
    assert test.suggestion is not None
    curve = test.curve
    module.lr = 0.01  # as a module would that does not read the attribute
    assert fit.fit_loop.max_epochs == 1
    fit.fit_loop.max_epochs = 2
    fit.fit(module, data())
    assert test.curve is curve
    assert lrs.lr == [[test.suggestion.lr]] * 16


def test_another_module_does_not_get_the_result_of_the_first() -> None:
    test, lrs = LRRangeTest(num_steps=40), LRs()
    fit = trainer([test, lrs], max_epochs=1)
    fit.fit(Momentum(), data())
    fit.fit_loop.max_epochs = 2
    fit.fit(Momentum(lr=1e-4), data())
    assert lrs.lr[8:] == [[1e-4]] * 8


def test_a_fit_of_another_trainer_tests_anew() -> None:
    test = LRRangeTest(num_steps=40)
    trainer([test]).fit(Momentum(), data())
    first = test.curve
    trainer([test]).fit(Told(lambda call: 1.0), data())
    assert first is not None
    assert test.curve is not None
    assert test.curve.loss == (1.0,) * 40
    assert test.suggestion is None


# ---------------------------------------------------------------------------------------- interrupted runs
def same_batches() -> Any:
    """Eight batches an epoch, all alike: a loader that starts over in the middle of an epoch gives what it would."""
    features, labels = next(iter(data()))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(features.repeat(8, 1), labels.repeat(8)), 32)


class Interrupt(pl.Callback):
    """Raises in a hook at a step of the real run, or at an epoch."""

    def __init__(self, fault: BaseException, hook: str, *, step: int | None = None, epoch: int | None = None) -> None:
        self.fault, self.step, self.epoch = fault, step, epoch
        setattr(self, hook, self._raise)

    def _raise(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step or (self.step is None and trainer.current_epoch == self.epoch):
            raise self.fault


class Stopped(Exception):
    """What ends a run on purpose."""


# How a run of three epochs of eight steps ends: (what interrupts it, when checkpoints are saved, the last one's step).
INTERRUPTIONS: dict[str, tuple[Callable[[], Interrupt], dict[str, Any], int]] = {
    "in an epoch, saved every step": (
        lambda: Interrupt(Stopped(), "on_train_batch_end", step=11),
        {"every_n_train_steps": 1},
        10,  # the interruption comes before the checkpoint of its step
    ),
    "Ctrl-C in an epoch, saved every fifth step": (
        lambda: Interrupt(KeyboardInterrupt(), "on_train_batch_start", step=13),
        {"every_n_train_steps": 5},
        10,
    ),
    "in the first epoch, saved every third step": (
        lambda: Interrupt(Stopped(), "on_train_batch_start", step=6),
        {"every_n_train_steps": 3},
        6,
    ),
    "in an epoch, saved every epoch": (
        lambda: Interrupt(Stopped(), "on_train_batch_start", step=14),
        {"every_n_epochs": 1},
        8,
    ),
    "at the start of an epoch, saved every epoch": (
        lambda: Interrupt(KeyboardInterrupt(), "on_train_epoch_start", epoch=2),
        {"every_n_epochs": 1},
        16,
    ),
    "at the end of an epoch, saved every step": (
        lambda: Interrupt(Stopped(), "on_train_epoch_end", epoch=1),
        {"every_n_train_steps": 1},
        16,
    ),
    "at the start of an epoch, saved every eighth step": (
        lambda: Interrupt(Stopped(), "on_train_epoch_start", epoch=1),
        {"every_n_train_steps": 8},
        8,
    ),
    "in the last epoch, saved every third step": (
        lambda: Interrupt(Stopped(), "on_train_batch_start", step=22),
        {"every_n_train_steps": 3},
        21,
    ),
}


def saving(interruption: str, folder: Path) -> pl.Callback:
    if "saved every epoch" not in interruption and not hasattr(_FitLoop, "restarted_mid_epoch"):
        pytest.skip("before its #20379 Lightning repeats a batch of an epoch within which it resumes")
    return ModelCheckpoint(folder, "{step}", save_top_k=-1, **INTERRUPTIONS[interruption][1])


RESUMED: dict[str, Any] = {
    "OneCycleScheduler": lambda module, optimizer: OneCycleScheduler(
        optimizer, None, int(module.trainer.estimated_stepping_batches)
    ),
    "OneCycleLR": lambda module, optimizer: schedulers.OneCycleLR(optimizer, 0.01, total_steps=24, pct_start=0.25),
    "no scheduler": None,
}
resuming = pytest.mark.filterwarnings(
    "ignore:.*You're resuming from a checkpoint that ended before the epoch ended.*",
    "ignore:.*callbacks used to create the checkpoint need to be provided.*",
)


def begun(
    name: str, milestones: tuple[int, ...], *others: Any, **options: Any
) -> tuple[pl.Trainer, Momentum, Any, LRs]:
    """A Trainer and a module, the same at every call; the test in it and what each step will have used."""
    torch.manual_seed(0)
    test, lrs = with_milestones(*milestones), LRs()
    return trainer([test, lrs, *others], **({"max_epochs": 3} | options)), Momentum(RESUMED[name]), test, lrs


@functools.cache
def uninterrupted(name: str, milestones: tuple[int, ...] = ()) -> tuple[Any, LRs]:
    fit, module, test, lrs = begun(name, milestones)
    fit.fit(module, same_batches())
    return test, lrs


def resumed_from(
    interruption: str, folder: Path, name: str, milestones: tuple[int, ...] = (), max_epochs: int = 3
) -> tuple[int, pl.Trainer, Any, LRs]:
    """Interrupt a run and resume it: from which step, the Trainer, its test, and what each step used."""
    interrupt, _, step = INTERRUPTIONS[interruption]
    fit, module, *_ = begun(name, milestones, interrupt(), saving(interruption, folder), enable_checkpointing=True)
    with pytest.raises((Stopped, KeyboardInterrupt, SystemExit)):
        fit.fit(module, same_batches())
    fit, module, test, lrs = begun(name, milestones, max_epochs=max_epochs)
    fit.fit(module, same_batches(), ckpt_path=str(folder / f"step={step}.ckpt"))
    return step, fit, test, lrs


def count_of_tests(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.getMessage().startswith("LR range test (") for record in caplog.records)


@pytest.fixture(autouse=True)
def _ctrl_c_as_it_was() -> Iterator[None]:
    """Lightning leaves it ignored."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@resuming
@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_resumed_run_trains_with_the_rates_of_the_uninterrupted_one(
    interruption: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, expected = uninterrupted(name)
    caplog.clear()
    with caplog.at_level("INFO"):
        step, fit, test, lrs = resumed_from(interruption, tmp_path, name)
    assert fit.global_step == 24
    assert len(expected.lr) == 24
    assert max(lr for [lr] in expected.lr) == pytest.approx(whole.suggestion.lr, rel=1e-12)
    assert (lrs.lr, lrs.momentum) == (expected.lr[step:], expected.momentum[step:])
    # The result came with the checkpoint: only the interrupted run has tested.
    assert count_of_tests(caplog) == 1
    assert (test.curve, test.suggestion) == (whole.curve, whole.suggestion)


@resuming
@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_resumed_module_has_the_found_lr_in_its_attribute(interruption: str, tmp_path: Path) -> None:
    _, fit, test, _ = resumed_from(interruption, tmp_path, "no scheduler")
    module: Any = fit.lightning_module
    assert module.lr == test.suggestion.lr


@resuming
@pytest.mark.parametrize(
    ("interruption", "name"),
    [(interruption, "OneCycleScheduler") for interruption in INTERRUPTIONS]
    + [("in an epoch, saved every step", name) for name in ("OneCycleLR", "no scheduler")],
)
def test_a_resumed_run_repeats_no_milestone_and_leaves_out_none(
    interruption: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, expected = uninterrupted(name, (1, 2))
    caplog.clear()
    with caplog.at_level("INFO"):
        step, fit, test, lrs = resumed_from(interruption, tmp_path, name, (1, 2))
    assert fit.global_step == 24
    assert (lrs.lr, lrs.momentum) == (expected.lr[step:], expected.momentum[step:])
    assert (test.curve, test.suggestion) == (whole.curve, whole.suggestion)
    # Each epoch begins with a test. The interrupted run has begun so many, and the resumed one begins those behind the
    # checkpoint's step.
    begun = {"in the first epoch, saved every third step": 1, "at the start of an epoch, saved every epoch": 3}
    begun["in the last epoch, saved every third step"] = 3
    assert count_of_tests(caplog) == begun.get(interruption, 2) + 2 - (step - 1) // 8


@resuming
def test_a_milestone_is_not_repeated_where_lightning_starts_its_epoch_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Saves(pl.Callback):
        def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "interrupted.ckpt")

    starts: list[int] = []
    interrupt = Interrupt(Stopped(), "on_train_epoch_start", epoch=2)
    fit, module, before, _ = begun("OneCycleScheduler", (1, 2), interrupt, Saves())
    with pytest.raises(Stopped):
        fit.fit(module, same_batches())
    starts_again = pl.callbacks.LambdaCallback(on_train_epoch_start=lambda *_: starts.append(1))
    fit, module, test, lrs = begun("OneCycleScheduler", (1, 2), starts_again)
    caplog.clear()
    with caplog.at_level("INFO"):
        fit.fit(module, same_batches(), ckpt_path=str(tmp_path / "interrupted.ckpt"))
    assert len(starts) == 1
    assert count_of_tests(caplog) == 0
    assert (test.curve, test.suggestion) == (before.curve, before.suggestion)
    assert lrs.lr[0] == [OneCyclePolicy(before.suggestion.lr, 8).lr(0)]


@resuming
@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_run_that_is_resumed_for_more_epochs_goes_on_without_a_jump_to_its_new_end(
    interruption: str, tmp_path: Path
) -> None:
    whole, expected = uninterrupted("OneCycleScheduler")
    with pytest.warns(UserWarning, match=r"saved for 24 steps and is resumed at step \d+ in a run of 48, and its"):
        step, fit, test, lrs = resumed_from(interruption, tmp_path, "OneCycleScheduler", max_epochs=6)
    assert test.suggestion == whole.suggestion
    assert fit.global_step == 48
    rates, planned = [lr for [lr] in lrs.lr], [lr for [lr] in expected.lr]
    assert len(rates) == 48 - step
    assert (lrs.lr[0], lrs.momentum[0]) == (expected.lr[step], expected.momentum[step])
    assert (lrs.lr[-1], lrs.momentum[-1]) == (expected.lr[-1], expected.momentum[-1])
    if step <= OneCyclePolicy(1.0, 24).peak_step:
        assert max(rates) == test.suggestion.lr
    assert np.abs(np.diff(rates)).max() <= np.abs(np.diff(planned)).max() * (1 + 1e-12)


@resuming
@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_milestones_of_a_resumed_run_that_only_suggest_are_invisible(interruption: str, tmp_path: Path) -> None:
    interrupt, _, step = INTERRUPTIONS[interruption]
    fit = trainer([interrupt(), saving(interruption, tmp_path)], max_epochs=3, enable_checkpointing=True)
    with pytest.raises((Stopped, KeyboardInterrupt, SystemExit)):
        fit.fit(Momentum(), data(shuffle=True))

    def resumed(*callbacks: pl.Callback) -> list[Any]:
        torch.manual_seed(1)
        module = Momentum()
        fit = trainer(callbacks, max_epochs=3)
        fit.fit(module, data(shuffle=True), ckpt_path=str(tmp_path / f"step={step}.ckpt"))
        weights = [value.tolist() for value in module.state_dict().values()]
        return [weights, fit.global_step, torch.rand(1).item()]

    test = with_milestones(1, 2, apply=False)
    with_test = resumed(test)
    assert with_test == resumed()
    assert (test.curve is None) == (step > 16)


@resuming
def test_a_test_that_a_resumed_run_asks_for_anew_runs_at_its_milestone(tmp_path: Path) -> None:
    """The run that was interrupted had no milestone, and no test at all."""
    saved = ModelCheckpoint(tmp_path, "{step}", every_n_epochs=1, save_top_k=-1)
    schedule = lambda module, optimizer: OneCycleScheduler(optimizer, None, 24)  # noqa: E731
    trainer([saved], tmp_path, enable_checkpointing=True, max_epochs=1).fit(Momentum(schedule), same_batches())
    test, lrs = with_milestones(2), LRs()
    resumed = trainer([test, lrs], tmp_path, max_epochs=3)
    resumed.fit(Momentum(schedule), same_batches(), ckpt_path=str(tmp_path / "step=8.ckpt"))
    assert test.suggestion is not None
    before, new = OneCyclePolicy(0.01, 24), OneCyclePolicy(test.suggestion.lr, 8)
    expected = [before.lr(step) for step in range(8, 16)] + [new.lr(step) for step in range(8)]
    assert [lr for [lr] in lrs.lr] == expected


# ----------------------------------------------------------------------------------------------- report
@pytest.mark.parametrize("kind", ["csv", "tensorboard", "none"])
def test_the_report_lies_under_the_loggers_directory(kind: str, tmp_path: Path) -> None:
    loggers = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}
    logger: Any = loggers[kind](tmp_path, name="run") if kind in loggers else False
    test = LRRangeTest()
    fit = trainer([test], tmp_path, logger=logger)
    fit.fit(Momentum(lambda module, optimizer: OneCycleScheduler(optimizer, None, 16)), data())
    folder = Path(str(fit.log_dir)) / "lr_range_test"
    assert test.curve is not None
    assert test.suggestion is not None
    result = json.loads((folder / "result.json").read_text())
    assert result["suggestion"]["lr"] == test.suggestion.lr
    assert result["changed"] == ["1 parameter group", "OneCycleScheduler", "module.lr"]
    assert result["settings"]["num_steps"] is None
    assert result["steps"] == test.steps
    assert result["curve"]["lr"] == list(test.curve.lr)
    rows = list(csv.DictReader((folder / "curve.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == list(test.curve.loss)
    assert (folder / "lr_range_test.png").stat().st_size > 10_000
    if kind == "csv":  # the rows of the fit are those of the fit
        header = (folder.parent / "metrics.csv").read_text().splitlines()[0]
        assert "lr_range_test" not in header


def test_without_a_report_no_file_is_written(tmp_path: Path) -> None:
    root = tmp_path / "root"
    trainer([LRRangeTest(report=False)], root).fit(Momentum(), data())
    assert not root.exists()


def test_numpy_arguments_are_written_as_numbers(tmp_path: Path) -> None:
    root = tmp_path / "root"
    trainer([LRRangeTest(np.float32(1e-6), num_steps=np.int64(30))], root).fit(Momentum(), data())
    assert json.loads((root / "lr_range_test" / "result.json").read_text())["settings"]["num_steps"] == 30


def test_a_picture_that_fails_does_not_cost_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no latex")

    monkeypatch.setattr("pl_onecycle.range_test.draw_range_test", fails)
    test, lrs = LRRangeTest(), LRs()
    with pytest.warns(UserWarning, match="could not be written .no latex"):
        trainer([test, lrs], tmp_path / "root").fit(Momentum(), data())
    assert test.suggestion is not None
    assert lrs.lr == [[test.suggestion.lr]] * 16


def test_a_directory_that_cannot_be_written_costs_a_warning_only(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    test, lrs = LRRangeTest(), LRs()
    with pytest.warns(UserWarning, match="report could not be written"):
        trainer([test, lrs], blocked / "root").fit(Momentum(), data())
    assert test.suggestion is not None
    assert lrs.lr == [[test.suggestion.lr]] * 16


def test_the_callback_works_beside_batchnorm_and_dropout_on_a_long_sweep() -> None:
    class Deep(Momentum):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3))

    pl.seed_everything(0, verbose=False)
    test = LRRangeTest()
    trainer([test], max_epochs=1).fit(Deep(), data(512, shuffle=True))
    assert test.suggestion is not None
    assert 1e-4 < test.suggestion.lr < 1.0
