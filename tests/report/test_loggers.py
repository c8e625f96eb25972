"""Curves in loggers: TensorBoard gets them under their own tags, all others are left alone."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from pl_onecycle.report.loggers import claim_directories, log_candidate, log_sweep
from tests.report.made import LRS, NAME, curve, diverged, events, several


def test_tensorboard_gets_the_curve_under_its_own_tags_and_steps(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"train_loss": 1.0}, step=7)
    log_sweep([logger], NAME, curve())
    reader = events(logger)
    assert sorted(reader.Tags()["scalars"]) == [
        f"{NAME}/loss",
        f"{NAME}/lr",
        f"{NAME}/smoothed_loss",
        "train_loss",
    ]
    wanted = {"lr": LRS, "loss": curve().loss, "smoothed_loss": curve().smoothed().tolist()}
    for tag, values in wanted.items():
        scalars = reader.Scalars(f"{NAME}/{tag}")
        assert [scalar.step for scalar in scalars] == list(range(50))
        assert [scalar.value for scalar in scalars] == pytest.approx(list(values), rel=1e-6)  # stored in single
    assert [scalar.step for scalar in reader.Scalars("train_loss")] == [7]


def test_tensorboard_gets_the_nan_of_a_diverged_sweep_but_no_smoothed_loss_for_it(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    log_sweep([logger], "probe", diverged())
    reader = events(logger)
    losses = [scalar.value for scalar in reader.Scalars("probe/loss")]
    assert losses[:2] == pytest.approx([2.5, 1 / 3])
    assert math.isnan(losses[2])
    assert [scalar.step for scalar in reader.Scalars("probe/smoothed_loss")] == [0, 1]


def test_tensorboard_gets_a_series_for_each_curve_counted_from_one(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    for name, candidate in several().items():
        log_candidate([CSVLogger(tmp_path / "csv"), logger], f"probe/{name}", candidate)
    reader = events(logger)
    whats = ("lr", "train_loss", "val_loss")
    assert sorted(reader.Tags()["scalars"]) == [
        f"probe/{name}/{what}" for name in ("wd=0", "wd=1e-04") for what in whats
    ]
    seen = {what: [(it.step, it.value) for it in reader.Scalars(f"probe/wd=1e-04/{what}")] for what in whats}
    assert seen["train_loss"] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    assert seen["val_loss"] == [(2, 2.5), (4, 1.5)]
    assert seen["lr"] == [(k + 1, pytest.approx(0.1 * (k + 1))) for k in range(4)]
    assert not os.path.exists(tmp_path / "csv")


class Recording(Logger):
    """Records every call."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @property
    def name(self) -> str:
        return "recording"

    @property
    def version(self) -> int:
        return 0

    @property
    def experiment(self) -> Any:
        self.calls.append("experiment")
        return None

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.calls.append("log_metrics")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.calls.append("log_hyperparams")


def test_loggers_with_one_step_axis_for_all_are_left_alone(tmp_path: Path) -> None:
    tables, recording, board = CSVLogger(tmp_path / "csv"), Recording(), TensorBoardLogger(tmp_path / "board")
    tables.log_metrics({"train_loss": 1.0}, step=0)
    log_sweep([tables, recording, board], NAME, curve())
    tables.save()
    assert recording.calls == []
    assert Path(tables.log_dir, "metrics.csv").read_text().splitlines() == ["step,train_loss", "0,1.0"]
    assert len(events(board).Scalars(f"{NAME}/loss")) == 50  # the one after them is not forgotten


def test_no_logger_is_fine() -> None:
    log_sweep([], NAME, curve())
    assert not os.listdir()


def test_loggers_of_one_directory_claim_the_same_version(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, "runs"), TensorBoardLogger(tmp_path, "runs")]
    claim_directories(loggers)
    assert [str(logger.log_dir) for logger in loggers] == [str(tmp_path / "runs" / "version_0")] * 2


def test_a_csv_logger_keeps_what_is_written_into_its_claimed_directory(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, "runs")
    claim_directories([logger])
    Path(logger.log_dir, "result.json").write_text("{}")
    logger.log_metrics({"train_loss": 1.0}, step=0)
    logger.save()  # unclaimed, it would warn that it deletes files
    assert sorted(os.listdir(logger.log_dir)) == ["metrics.csv", "result.json"]
