"""Every tracker tells the truth: real fits offline, read back with the tracker's own packages."""

import importlib.util
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

from pl_onecycle import LRRangeTest, MomentumProbe, OneCycleTuner, WeightDecayProbe
from pl_onecycle.finder import Finder
from tests.fits import LRs, SmallNet, data, trainer
from tests.report.made import NAME
from tests.report.trackers import TRACKERS, MLFlow, Tracker, Wandb

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the trackers' packages and what they import
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*is deprecated.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _trackers_are_offline_and_quiet() -> Iterator[None]:
    """Loggers set environment variables, which must not outlive a test."""
    before = dict(os.environ)
    os.environ |= {"WANDB_SILENT": "true", "WANDB_MODE": "offline", "COMET_LOGGING_CONSOLE": "ERROR"}
    yield
    os.environ.clear()
    os.environ.update(before)


class Net(SmallNet):
    """A user's module, whose hparams Lightning logs before the fit."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr)
        self.save_hyperparameters()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-3)


def a_test(**arguments: Any) -> LRRangeTest:
    return LRRangeTest(1e-4, 10.0, 30, method="smith", **arguments)


def make(name: str, root: Path) -> Tracker:
    kind = TRACKERS[name]
    if importlib.util.find_spec(kind.package) is None:
        pytest.skip(f"{kind.package} is not installed")
    root.mkdir()
    return kind(root)


def fit(tracker: Tracker, *callbacks: pl.Callback, **arguments: Any) -> pl.Trainer:
    torch.manual_seed(0)
    its = trainer(callbacks, tracker.root, logger=tracker.logger, **arguments)
    its.fit(Net(), data())
    tracker.close()
    return its


each_tracker = pytest.mark.parametrize("name", TRACKERS)


@each_tracker
def test_a_tracker_shows_what_the_run_trains_with_the_curve_over_the_lr_and_the_picture(
    name: str, tmp_path: Path
) -> None:
    tracker, test, lrs = make(name, tmp_path / "logs"), a_test(), LRs()
    fit(tracker, test, lrs)
    assert test.curve is not None
    assert lrs.lr[0] == [pytest.approx(test.used)]
    assert tracker.found() == {"max_lr": pytest.approx(lrs.lr[0][0]), "max_lr_before": 0.01}
    finite = [(lr, loss) for lr, loss in zip(test.curve.lr, test.curve.loss, strict=True) if math.isfinite(loss)]
    assert len(finite) > 15
    seen = [point for point in tracker.curve("loss") if math.isfinite(point[1])]
    assert np.array(seen) == pytest.approx(np.array(finite), rel=1e-6)  # some store single precision
    smoothed = np.array([test.curve.finite_lr, test.curve.smoothed()]).T
    assert np.array(tracker.curve("smoothed_loss")) == pytest.approx(smoothed, rel=1e-6)
    [picture], [written] = tracker.pictures(), [*tmp_path.rglob(f"{NAME}/{NAME}.png")][:1]
    assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(Image.open(written).convert("RGB")))


@each_tracker
def test_the_rows_of_a_fit_are_those_of_a_fit_without_a_test(name: str, tmp_path: Path) -> None:
    """The test only suggests, so that all values are the same, too; hyperparameters stay as they are."""
    fit(plain := make(name, tmp_path / "plain"))
    fit(tested := make(name, tmp_path / "tested"), a_test(apply=False))
    assert len(plain.rows()) >= 16
    assert tested.rows() == plain.rows()
    assert tested.found() == {}
    assert len(tested.curve("loss")) > 15


@each_tracker
def test_report_false_shows_the_found_value_only(name: str, tmp_path: Path) -> None:
    tracker, test = make(name, tmp_path / "logs"), a_test(report=False)
    fit(tracker, test)
    assert tracker.found() == {"max_lr": pytest.approx(test.used), "max_lr_before": 0.01}
    assert tracker.curve("loss") == []
    assert tracker.pictures() == []


@each_tracker
def test_files_lie_next_to_the_checkpoints_of_the_run(name: str, tmp_path: Path) -> None:
    tracker = make(name, tmp_path / "logs")
    its = fit(tracker, a_test(), enable_checkpointing=True)
    [result] = [path for path in tmp_path.rglob(f"{NAME}/result.json") if "artifacts" not in path.parts]
    checkpoint: Any = its.checkpoint_callback
    assert result.parents[1] == Path(checkpoint.dirpath).parent
    assert not os.listdir()  # nothing in the working directory


@each_tracker
def test_tune_begins_no_run_and_its_files_lie_where_the_logger_writes(name: str, tmp_path: Path) -> None:
    tracker = make(name, tmp_path / "logs")
    its = trainer(root=tmp_path / "logs", logger=tracker.logger)
    result = OneCycleTuner(its).tune(Net(), data(), lr_range_test=a_test(), weight_decay_probe=False)
    assert result.max_lr is not None
    assert tracker.runs() == 0
    assert Path(str(result.directory)).is_relative_to(tmp_path / "logs")
    fit(tracker)
    assert tracker.found() == {}
    assert not os.listdir()


@each_tracker
def test_all_found_values_stand_in_one_group(name: str, tmp_path: Path) -> None:
    tracker = make(name, tmp_path / "logs")
    decay = WeightDecayProbe((1e-2, 1e-4), 10, report=False)
    momentum = MomentumProbe((0.8, 0.95), 10, report=False)
    fit(tracker, test := a_test(report=False), decay, momentum)
    finders: list[Finder[Any]] = [test, decay, momentum]
    assert all(finder.used is not None for finder in finders)
    assert tracker.found() == {
        **{finder.result_name: pytest.approx(finder.used) for finder in finders},
        "max_lr_before": 0.01,
        "weight_decay_before": 1e-3,
        "max_momentum_before": 0.9,
    }


# ------------------------------------------------------------------------------------ what is special in one
def test_wandb_shows_the_curve_over_the_lr_after_the_rows_of_the_fit(tmp_path: Path) -> None:
    tracker = make("W&B", tmp_path / "logs")
    assert isinstance(tracker, Wandb)
    test = a_test()
    fit(tracker, test, WeightDecayProbe((1e-2, 1e-4), 10, mode="cycle"))
    axes = {it.name: it.step_metric for it in tracker.records("metric") if it.name}
    assert axes[f"{NAME}/loss"] == axes[f"{NAME}/smoothed_loss"] == f"{NAME}/lr"
    probe = "weight_decay_probe/wd=1e-02"
    assert axes[f"{probe}/train_loss"] == axes[f"{probe}/lr"] == f"{probe}/step"  # its lr rises and falls
    steps = [row["_step"] for row in tracker.history()]
    assert steps == [*range(len(steps))]
    of_fit = [row["_step"] for row in tracker.history() if "train_loss" in row]
    assert of_fit == [*range(16)]
    [row] = [row for row in tracker.history() if f"{NAME}/_type" in row]
    assert row["_step"] == 0


def test_mlflow_has_the_files_and_a_group_for_each_fit_of_a_run(tmp_path: Path) -> None:
    tracker, test = make("MLflow", tmp_path / "logs"), a_test()
    assert isinstance(tracker, MLFlow)
    fit(tracker, test)
    assert tracker.files() == ["curve.csv", f"{NAME}.png", "result.json"]
    first = test.used
    its = trainer([again := LRRangeTest(1e-4, 10.0, 25, method="steepest", report=False)], logger=tracker.logger)
    its.fit(Net(), data())
    assert tracker.found()["max_lr"] == first
    params = tracker._data.params
    assert float(params["one_cycle_1/max_lr"]) == again.used != first


def test_several_loggers_get_theirs_at_once(tmp_path: Path) -> None:
    first, second = make("TensorBoard", tmp_path / "board"), make("CSV", tmp_path / "csv")
    torch.manual_seed(0)
    test = a_test()
    trainer([test], logger=[first.logger, second.logger]).fit(Net(), data())
    assert first.found() == second.found() == {"max_lr": pytest.approx(test.used), "max_lr_before": 0.01}
    assert len(first.pictures()) == 1
    assert (tmp_path / "board" / "runs" / "version_0" / NAME).is_dir()


def test_a_sweep_reads_the_found_value_after_a_fit_as_optuna_does() -> None:
    values = []
    for lr in (0.001, 0.1):
        its = trainer([test := a_test(report=False)])
        its.fit(Net(lr), data())
        values.append(its.callback_metrics["found/max_lr"].item())
        assert values[-1] == test.used
        assert "train_loss" in its.callback_metrics  # the objective
    assert all(1e-4 < value < 10 for value in values)
