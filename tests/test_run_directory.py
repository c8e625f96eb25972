"""Where the files of a run lie, and those that belong to no run."""

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from pl_onecycle.run_directory import directory_without_run, run_directory
from tests.fits import trainer


class Tracker(Logger):
    """Is like W&B: a run has a name and an identity once it has begun."""

    def __init__(self, save_dir: str | None) -> None:
        self._folder = save_dir
        self.began = False

    @property
    def name(self) -> str:
        self.began = True
        return "project"

    @property
    def version(self) -> str:
        self.began = True
        return "abc"

    @property
    def save_dir(self) -> str | None:
        return self._folder

    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...


class Numbered(Tracker):
    """Counts its runs."""

    @property
    def version(self) -> int:  # type: ignore[override]
        return 3


class Away(Tracker):
    """Its server is away."""

    @property
    def version(self) -> str:
        raise ConnectionError("no server")


def with_loggers(root: Path, *loggers: Logger) -> pl.Trainer:
    return trainer(root=root, logger=list(loggers) or False)


def test_without_a_logger_it_is_the_root_directory(tmp_path: Path) -> None:
    its = with_loggers(tmp_path)
    assert run_directory(its) == directory_without_run(its) == str(tmp_path)


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_of_a_logger_with_a_directory_it_is_this_one(kind: Any, tmp_path: Path) -> None:
    its = with_loggers(tmp_path, kind(tmp_path / "logs", "runs"), Tracker(str(tmp_path / "other")))
    assert run_directory(its) == directory_without_run(its) == str(tmp_path / "logs" / "runs" / "version_0")


@pytest.mark.parametrize(("kind", "version"), [(Tracker, "abc"), (Numbered, "version_3")])
@pytest.mark.parametrize("save_dir", ["logs", None])
def test_of_another_logger_it_is_where_its_checkpoints_lie(
    kind: Any, version: str, save_dir: str | None, tmp_path: Path
) -> None:
    its = with_loggers(tmp_path, kind(save_dir), CSVLogger(tmp_path / "csv"))
    assert run_directory(its) == os.path.join(save_dir or tmp_path, "project", version)


@pytest.mark.parametrize("save_dir", ["logs", None])
def test_a_directory_without_a_run_begins_none(save_dir: str | None, tmp_path: Path) -> None:
    logger = Tracker(save_dir)
    assert directory_without_run(with_loggers(tmp_path, logger)) == (save_dir or str(tmp_path))
    assert not logger.began


def test_a_logger_that_does_not_answer_costs_a_warning(tmp_path: Path) -> None:
    its = with_loggers(tmp_path, Away("logs"))
    with pytest.warns(UserWarning, match=r"^Away does not say where its run lies \(no server\)\.$"):
        assert run_directory(its) == str(tmp_path)


def test_loggers_of_one_directory_choose_the_same_version(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, "runs"), TensorBoardLogger(tmp_path, "runs")]
    directory_without_run(with_loggers(tmp_path, *loggers))
    assert [str(logger.log_dir) for logger in loggers] == [str(tmp_path / "runs" / "version_0")] * 2


def test_a_csv_logger_keeps_what_is_written_into_the_directory_of_its_next_run(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, "runs")
    directory_without_run(with_loggers(tmp_path, logger))
    Path(logger.log_dir, "result.json").write_text("{}")
    logger.log_metrics({"train_loss": 1.0}, step=0)
    logger.save()  # otherwise it would warn that it deletes files
    assert sorted(os.listdir(logger.log_dir)) == ["metrics.csv", "result.json"]
