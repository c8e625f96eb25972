"""`save` writes, draws and logs a report; what cannot be shown costs a warning, not the run."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from pl_onecycle.curves import LossCurve
from pl_onecycle.report import Report, Saved, save
from tests.report.made import (
    FOUND,
    NAME,
    curve,
    events,
    nothing_measured,
    parse_json,
    probe_report,
    several,
    sweep_report,
)


def folder_of(report: Report, root: Path, *loggers: TensorBoardLogger) -> str:
    saved = save(report, str(root), loggers)
    saved.draw(loggers).end(loggers)
    assert saved.folder is not None
    return saved.folder


def facts_in(folder: str) -> Any:
    return parse_json(Path(folder, "result.json").read_text())


# ------------------------------------------------------------------------------------------------- shown
def test_a_report_is_a_directory_of_two_files_and_a_picture_that_is_drawn_later(tmp_path: Path) -> None:
    root = tmp_path / "logs"
    saved = save(sweep_report(curve(), FOUND), str(root), [])
    assert saved.folder == str(root / NAME)
    assert sorted(os.listdir(root / NAME)) == ["curve.csv", "result.json"]
    saved.draw()
    assert sorted(os.listdir(root / NAME)) == ["curve.csv", f"{NAME}.png", "result.json"]
    assert os.listdir(root) == [NAME]


def test_a_report_without_a_figure_has_no_picture(tmp_path: Path) -> None:
    folder = folder_of(replace(sweep_report(curve()), figures={}), tmp_path)
    assert sorted(os.listdir(folder)) == ["curve.csv", "result.json"]


def test_a_report_of_several_curves_is_a_directory_of_three_files(tmp_path: Path) -> None:
    folder = folder_of(probe_report(several(), "wd=1e-04", saved=0.25), tmp_path)
    assert folder == str(tmp_path / "probe")
    assert sorted(os.listdir(folder)) == ["curves.csv", "probe.png", "result.json"]
    written = facts_in(folder)
    assert written["saved"] == 0.25
    assert sorted(written["versions"]) == ["lightning", "pl_onecycle", "python", "torch"]
    assert LossCurve(**written["curves"]["wd=1e-04"]) == several()["wd=1e-04"]
    assert written["curves"]["wd=0"]["loss"] == [4.0, None]
    assert Path(folder, "curves.csv").read_text().splitlines() == [
        "series,step,lr,train_loss,val_loss",
        "wd=1e-04,1,0.1,4.0,",
        "wd=1e-04,2,0.2,3.0,2.5",
        "wd=1e-04,3,0.3,2.0,",
        "wd=1e-04,4,0.4,1.0,1.5",
        "wd=0,1,0.1,4.0,",
        "wd=0,2,0.2,nan,3.5",
    ]


def test_a_report_never_overwrites_another(tmp_path: Path) -> None:
    folders = [folder_of(replace(sweep_report(curve(), run=run), figures={}), tmp_path) for run in range(3)]
    assert [Path(folder).name for folder in folders] == [NAME, f"{NAME}_1", f"{NAME}_2"]
    assert [facts_in(folder)["run"] for folder in folders] == [0, 1, 2]


def test_a_report_of_several_curves_never_overwrites_another(tmp_path: Path) -> None:
    folders = [folder_of(replace(probe_report(several(), run=run), figures={}), tmp_path) for run in range(3)]
    assert [Path(folder).name for folder in folders] == ["probe", "probe_1", "probe_2"]
    assert [facts_in(folder)["run"] for folder in folders] == [0, 1, 2]


@nothing_measured
def test_curves_of_which_nothing_was_measured_can_be_drawn_and_written(measured: LossCurve, tmp_path: Path) -> None:
    folder = folder_of(probe_report({"a": measured}), tmp_path)
    assert len(Path(folder, "curves.csv").read_text().splitlines()) == 1 + len(measured)
    assert Path(folder, "probe.png").stat().st_size > 0


def test_tags_begin_with_the_name_of_the_directory(tmp_path: Path) -> None:
    """A second report does not overwrite the curves of the first."""
    logger = TensorBoardLogger(tmp_path / "board")
    both = Report("Tuning", "tune", {}, {}, {}, sweeps={"": curve(), "again": curve()}, candidates=several())
    assert [Path(folder_of(both, tmp_path, logger)).name for _ in range(2)] == ["tune", "tune_1"]
    kinds = {"": ("loss", "lr", "smoothed_loss"), "/again": ("loss", "lr", "smoothed_loss")}
    kinds |= {f"/{name}": ("lr", "train_loss", "val_loss") for name in several()}
    assert set(events(logger).Tags()["scalars"]) == {
        f"{tag}{name}/{kind}" for tag in ("tune", "tune_1") for name in kinds for kind in kinds[name]
    }


PICTURES = {"probe": Figure}


@pytest.mark.parametrize("installed", [True, False], ids=["matplotlib", "no matplotlib"])
def test_the_end_of_a_log_line_says_where_the_report_is(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert str(Saved()) == str(Saved(None, "Probe", pictures=PICTURES)) == ""
    assert str(Saved("logs/probe")) == "; see logs/probe"
    missing = "" if installed else " (no picture: matplotlib is not installed)"
    assert str(Saved("logs/probe", "Probe", pictures=PICTURES)) == f"; see logs/probe{missing}"


# --------------------------------------------------------------------------------------------- not shown
def test_without_matplotlib_there_is_no_picture_and_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert folder_of(sweep_report(curve(), FOUND), tmp_path / "logs") == str(tmp_path / "logs" / NAME)
    assert sorted(os.listdir(tmp_path / "logs" / NAME)) == ["curve.csv", "result.json"]


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no latex")


class Failing(TensorBoardLogger):
    """A logger whose server is away."""

    @property
    def experiment(self) -> Any:
        raise RuntimeError("no server")


COULD_NOT = r"^LR range test: the report could not be written \({}\)\.$"


class Undrawable(Figure):
    """Fails when it is saved."""

    savefig = fail


@pytest.mark.parametrize("draw", [fail, Undrawable], ids=["drawing", "saving"])
def test_a_picture_that_fails_costs_a_warning_and_no_file_of_the_result(draw: Any, tmp_path: Path) -> None:
    report = replace(sweep_report(curve()), figures={NAME: draw}, texts={"tuned.yaml": "lr: 0.1"})
    with pytest.warns(UserWarning, match=r"^LR range test: the picture could not be drawn \(no latex\)\.$"):
        assert folder_of(report, tmp_path) == str(tmp_path / NAME)
    assert sorted(os.listdir(tmp_path / NAME)) == ["curve.csv", "result.json", "tuned.yaml"]


def test_a_directory_that_cannot_be_written_costs_a_warning_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.warns(UserWarning, match=COULD_NOT.format(".*file.*")):
        saved = save(sweep_report(curve()), str(tmp_path / "file"), [])
    assert saved.folder is None
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_system_that_is_unknown_costs_a_warning_only() -> None:
    with pytest.warns(UserWarning, match=COULD_NOT.format(".*nowhere.*")):
        assert save(sweep_report(curve()), "nowhere://logs", []).folder is None
    assert not os.listdir()


def test_a_logger_that_fails_costs_a_warning_and_the_files_stay(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"^LR range test: the result could not be logged to Failing \(no server\)\.$"):
        folder = folder_of(sweep_report(curve()), tmp_path, Failing(tmp_path))
    assert folder == str(tmp_path / NAME)
    assert sorted(os.listdir(folder)) == ["curve.csv", f"{NAME}.png", "result.json"]
