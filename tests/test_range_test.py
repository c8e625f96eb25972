"""`LRRangeTest` in real fits: what it finds is what training then uses, and bad input costs nothing."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.optim import lr_scheduler as schedulers

from pl_onecycle import LRRangeTest, OneCycleScheduler, configure_one_cycle, suggest
from tests.fits import LRs, SmallNet, data, trainer
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
    assert "not applied, training goes on with lr 0.01" in line(caplog)


def line(caplog: pytest.LogCaptureFixture) -> str:
    """The one line that the test says."""
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("LR range test")]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    return lines[0]


def test_one_line_says_what_was_found_and_changed(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    test = LRRangeTest()
    with caplog.at_level("INFO"):
        trainer([test], tmp_path).fit(Momentum(torch_one_cycle), data())
    assert test.suggestion is not None
    assert test.curve is not None
    said = line(caplog)
    assert f"({len(test.curve)} of 100 steps, {test.curve.outcome})" in said
    assert f"max_lr 0.01 -> {test.suggestion.lr:.3g} (smith: one order of magnitude below" in said
    assert "set in 1 parameter group, OneCycleLR, module.lr" in said
    assert str(tmp_path / "lr_range_test") in said


@pytest.mark.parametrize("method", ["smith", "steepest", "valley", "slide", "minimum"])
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
    assert "not in Own, which keeps learning rates where they cannot be found" in line(caplog)


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
    assert "training goes on with lr 0.1" in said


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
    assert "skipped, as this run has been tested at its start" in line(caplog)
    assert resumed.global_step == 16
    assert len(lrs.lr) == 8
    assert again.curve == first.curve
    assert again.suggestion == first.suggestion
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
    assert result["settings"]["num_steps"] == 100
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
    def fails(*_: Any) -> Any:
        raise RuntimeError("no latex")

    monkeypatch.setattr("pl_onecycle.report.draw_range_test", fails)
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
