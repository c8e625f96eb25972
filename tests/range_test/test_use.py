"""What the range test finds is what training then uses."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from pl_onecycle import LRRangeTest, OneCycleScheduler, configure_one_cycle
from pl_onecycle.sentences import factor
from tests.fits import AllLRs, LRs, Momentum, SmallNet, TwoNets, data, line, trainer
from tests.range_test.made import SCHEDULES
from tests.scenarios import SCENARIOS, Fit, differences


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
    """The strongest form: a second fit that has the lr from the start trains with the very same rates."""
    test, found, expected = LRRangeTest(), LRs(), LRs()
    trainer([test, found]).fit(Momentum(SCHEDULES["OneCycleLR"]), data())
    assert test.suggestion is not None
    trainer([expected]).fit(Momentum(SCHEDULES["OneCycleLR"], lr=test.suggestion.lr), data())
    assert [rates[0] for rates in found.lr] == pytest.approx([rates[0] for rates in expected.lr], rel=1e-12)


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
    assert line(caplog).splitlines()[0].endswith("; not applied, max_lr stays 0.01")


def test_three_lines_say_what_was_found_why_and_where_it_is(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    test = LRRangeTest(num_steps=100, method="smith")
    with caplog.at_level("INFO"):
        trainer([test], tmp_path).fit(Momentum(SCHEDULES["OneCycleLR"]), data())
    assert test.suggestion is not None
    assert test.curve is not None
    found = f"{test.suggestion.lr:.3g}{factor(0.01, test.suggestion.lr)}"
    assert line(caplog).splitlines() == [
        f"LR range test: max_lr 0.01 → {found} for SGD, 1 group, OneCycleLR, module.lr",
        f"  smith: {test.suggestion.reason}",
        f"  {min(test.steps, 100)} of 100 steps, {test.curve.outcome}; see {tmp_path / 'lr_range_test'}",
    ]
    assert test.suggestion.reason.startswith("one order of magnitude below")


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
    assert line(caplog).splitlines()[1] == "  not in Own, whose learning rates cannot be found"


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
    assert line(caplog).splitlines()[:2] == [
        "LR range test: no suggestion, max_lr stays 0.01",
        "  the module sets the learning rate of its steps itself, so it cannot be swept",
    ]
    assert lrs.lr == [[0.01]] * 16


# -------------------------------------------------------------------------------------------- one optimizer of several
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
    groups = ["1 group", "2 groups"][index]
    schedule = [", StepLR", ", OneCycleScheduler"][index] if scheduled else ""
    new = f"{test.suggestion.lr:.3g}{factor(top, test.suggestion.lr)}"
    said = [f"LR range test: max_lr {top} → {new} for SGD, {groups}{schedule}"]
    if not scheduled:
        said += ["  held constant, as SGD has no scheduler: `configure_one_cycle(self, optimizer)` makes it one cycle"]
    assert line(caplog).splitlines()[:-1] == [*said, f"  trough: {test.suggestion.reason}"]
    if scheduled:  # stepped by hand in the test, and at its place afterwards
        assert [config.scheduler.last_epoch for config in fit.lr_scheduler_configs] == [16, 16]


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


# ------------------------------------------------------------------------------------------------- the rest of the fit
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


def test_the_callback_works_with_batchnorm_and_dropout_on_a_long_sweep() -> None:
    class Deep(Momentum):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3))

    pl.seed_everything(0, verbose=False)
    test = LRRangeTest()
    trainer([test], max_epochs=1).fit(Deep(), data(512, shuffle=True))
    assert test.suggestion is not None
    assert 1e-4 < test.suggestion.lr < 1.0
