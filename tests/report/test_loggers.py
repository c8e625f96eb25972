"""What each logger gets of a result, by the sink of its kind; a logger nobody knows gets the found values only."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from PIL import Image

from pl_onecycle.curves import LossCurve
from pl_onecycle.report.loggers import Loggers, candidate_points, sweep_points
from tests.report.made import LRS, NAME, curve, diverged, events, several


def log_sweep(loggers: Sequence[Logger], tag: str, measured: LossCurve) -> None:
    Loggers(loggers, "Test").log_curves({tag: sweep_points(measured)}, at_end=False)


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
        both = Loggers([CSVLogger(tmp_path / "csv"), logger], "Test")
        both.log_curves({f"probe/{name}": candidate_points(candidate)}, at_end=False)
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
        self.calls: list[Any] = []

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
        self.calls.append(params)


class Away(Recording):
    """Its server is away."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no server")


def log_all(loggers: Sequence[Logger], folder: Path) -> Loggers:
    its = Loggers(loggers, "LR range test")
    its.log_found("one_cycle", {"max_lr": 0.5, "max_lr_before": 0.1})
    for at_end in (False, True):
        its.log_curves({NAME: sweep_points(curve())}, at_end=at_end)
    its.log_folder(NAME, str(folder))
    its.log_picture(NAME, Image.new("RGB", (4, 3)))
    return its


def test_a_csv_logger_and_an_unknown_one_get_the_found_values_and_no_row(tmp_path: Path) -> None:
    tables, recording, board = CSVLogger(tmp_path / "csv"), Recording(), TensorBoardLogger(tmp_path / "board")
    tables.log_metrics({"train_loss": 1.0}, step=0)
    log_all([tables, recording, board], tmp_path)
    tables.save()
    found = {"one_cycle": {"max_lr": 0.5, "max_lr_before": 0.1}}
    assert recording.calls == [found]
    assert yaml.safe_load(Path(tables.log_dir, "hparams.yaml").read_text()) == found
    assert Path(tables.log_dir, "metrics.csv").read_text().splitlines() == ["step,train_loss", "0,1.0"]
    assert len(events(board).Scalars(f"{NAME}/loss")) == 50  # the one after them is not forgotten


def test_a_logger_that_fails_costs_one_warning_and_the_others_get_theirs(tmp_path: Path) -> None:
    away, recording = Away(), Recording()
    with pytest.warns(UserWarning, match="no server") as caught:
        its = log_all([away, recording], tmp_path)
    wanted = "LR range test: the result could not be logged to Away (no server)."
    assert [str(warning.message) for warning in caught] == [wanted]
    assert its.failed == {0}
    assert away.calls == []
    assert recording.calls == [{"one_cycle": {"max_lr": 0.5, "max_lr_before": 0.1}}]


def test_tensorboard_gets_the_found_values_next_to_those_that_lightning_has_logged(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"lr": 0.1})
    logger.save()
    log_all([logger], tmp_path)
    found = {"one_cycle": {"max_lr": 0.5, "max_lr_before": 0.1}}
    assert yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text()) == {"lr": 0.1, **found}
    reader = events(logger)
    [text] = reader.Tensors("one_cycle/text_summary")
    assert b"| max_lr | 0.5 |\n| max_lr_before | 0.1 |" in text.tensor_proto.string_val[0]
    [image] = reader.Images(NAME)
    assert (image.width, image.height) == (4, 3)
    assert [it.value for it in reader.Scalars("hp_metric")] == [-1.0]  # Lightning's entry, once
    assert len(list(event_files(logger))) == 1


def event_files(logger: TensorBoardLogger) -> Iterator[Path]:
    return Path(logger.log_dir).rglob("events.out.tfevents.*")


def test_no_logger_is_fine() -> None:
    log_sweep([], NAME, curve())
    assert not os.listdir()
