"""Files of a report, each read back with the library that users read it with."""

import csv
import io
import math
import os
import platform
from collections import UserList
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import lightning
import numpy as np
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from pl_onecycle.curves import LossCurve, suggest
from pl_onecycle.pictures import SchedulePicture, SweepPicture, draw
from pl_onecycle.pictures.colours import CHOICE, MOMENTUM, SMOOTH
from pl_onecycle.report.files import curve_table, curves_table, write_folder, write_page, write_picture
from tests.report.made import FOUND, NAME, PLANNED, curve, diverged, nothing_measured, parse_json


def write(
    root: Path | str,
    measured: LossCurve,
    facts: Mapping[str, Any] | None = None,
    picture: Figure | None = None,
    name: str = NAME,
) -> str:
    """Write what a range test writes."""
    facts = {**(facts or {}), "curve": measured.to_dict()}
    folder = write_folder(str(root), name, facts, {"curve.csv": curve_table(measured)}, {})
    if picture is not None:
        write_picture(folder, name, picture)
    return folder


def test_the_directory_is_made_with_all_above_it(tmp_path: Path) -> None:
    root = tmp_path / "logs" / "version_0"
    folder = write(f"{root}/", curve())
    assert Path(folder) == root / NAME
    assert (root / NAME / "result.json").is_file()


def test_texts_and_tables_lie_next_to_the_json_file(tmp_path: Path) -> None:
    folder = write_folder(str(tmp_path), "tune", {}, {"a.csv": [("x", "y"), (1, 0.1)]}, {"tuned.yaml": "lr: 0.1\n"})
    assert sorted(os.listdir(folder)) == ["a.csv", "result.json", "tuned.yaml"]
    assert Path(folder, "a.csv").read_bytes() == b"x,y\r\n1,0.1\r\n"
    assert Path(folder, "tuned.yaml").read_text() == "lr: 0.1\n"


def test_the_json_file_holds_facts_curve_and_versions_with_null_for_nan(tmp_path: Path) -> None:
    facts = {
        "suggestion": {"lr": 0.1},
        "refusal": None,
        "settings": {"numbers": (1, math.inf, [math.nan, -math.inf]), "apply": True, "numpy": np.float64(0.5)},
    }
    written = parse_json(Path(write(tmp_path, diverged(), facts), "result.json").read_text())
    versions = written.pop("versions")
    assert written == {
        "suggestion": {"lr": 0.1},
        "refusal": None,
        "settings": {"numbers": [1, None, [None, None]], "apply": True, "numpy": 0.5},
        "curve": {
            "lr": [0.001, 0.01, 0.1],
            "loss": [2.5, 1 / 3, None],
            "outcome": "diverged",
            "initial_loss": 2.75,
            "val_steps": [],
            "val_loss": [],
            "control": [],
        },
    }
    assert sorted(versions) == ["lightning", "pl_onecycle", "python", "torch"]
    assert versions["python"] == platform.python_version()
    assert versions["lightning"] == lightning.__version__
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


@pytest.mark.parametrize(
    ("setting", "written"),
    [
        (UserList([2, 5]), [2, 5]),
        (range(1, 4), [1, 2, 3]),
        (np.array([0.5, math.nan]), [0.5, None]),
        (np.array(7), 7),
        (np.bool_(True), True),
        (torch.tensor([1, 2]), [1, 2]),
        ({"a": (np.float64(0.25), Fraction(1, 4))}, {"a": [0.25, 0.25]}),
        (Path("a/b"), "a/b"),
    ],
    ids=["list of a library", "range", "array", "array of no dimension", "bool of numpy", "tensor", "nested", "path"],
)
def test_the_json_file_holds_settings_of_any_library(setting: Any, written: Any, tmp_path: Path) -> None:
    folder = write(tmp_path, curve(), {"settings": setting})
    assert parse_json(Path(folder, "result.json").read_text())["settings"] == written


def test_contents_that_cannot_be_made_leave_no_directory(tmp_path: Path) -> None:
    for facts, rows in (({"a": {(1, 2): 3}}, [("x",)]), ({}, [1])):
        with pytest.raises((TypeError, csv.Error)):
            write_folder(str(tmp_path), NAME, facts, {"a.csv": rows}, {})  # type: ignore[dict-item]
    assert not (tmp_path / NAME).exists()


def test_the_json_file_holds_each_list_of_a_curve_on_one_line(tmp_path: Path) -> None:
    lines = Path(write(tmp_path, diverged()), "result.json").read_text().splitlines()
    assert [line.strip() for line in lines if "0.01" in line] == ['"lr": [ 0.001, 0.01, 0.1 ],']


def test_the_csv_file_holds_the_curve_to_the_last_digit(tmp_path: Path) -> None:
    with open(f"{write(tmp_path, curve())}/curve.csv", newline="") as handle:
        header, *rows = csv.reader(handle)
    assert header == ["step", "lr", "loss", "smoothed_loss"]
    numbers = [[float(cell) for cell in row] for row in rows]
    expected = zip(range(50), curve().lr, curve().loss, curve().smoothed().tolist(), strict=True)
    assert numbers == [list(row) for row in expected]


def test_the_csv_file_of_a_diverged_sweep_ends_with_its_nan(tmp_path: Path) -> None:
    # A decade apart, at a bandwidth of a tenth, each smoothed loss is the loss itself.
    lines = Path(write(tmp_path, diverged()), "curve.csv").read_text().split()
    assert lines[0] == "step,lr,loss,smoothed_loss"
    assert [line.rsplit(",", 1)[0] for line in lines[1:]] == [
        "0,0.001,2.5",
        "1,0.01,0.3333333333333333",
        "2,0.1,nan",
    ]
    assert [float(line.rsplit(",", 1)[1]) for line in lines[1:3]] == pytest.approx([2.5, 1 / 3])
    assert lines[3].endswith(",nan")


@nothing_measured
def test_a_sweep_without_a_finite_loss_has_a_report_too(measured: LossCurve, tmp_path: Path) -> None:
    folder = write(tmp_path, measured, picture=draw(SweepPicture(measured, None)))
    written = parse_json(Path(folder, "result.json").read_text())
    assert written["curve"]["loss"] == [None] * len(measured)
    assert len(Path(folder, "curve.csv").read_text().splitlines()) == 1 + len(measured)
    assert Path(folder, f"{NAME}.png").stat().st_size > 0


def test_every_validation_loss_is_in_the_table_also_that_of_a_dropped_curve(tmp_path: Path) -> None:
    """A candidate is dropped after the validation of a step whose own loss is only seen at the next."""
    dropped = {"wd=0": LossCurve([0.1], [4.0], "dropped", None, [1, 2], [3.0, 3.5])}
    folder = write_folder(str(tmp_path), "probe", {}, {"curves.csv": curves_table(dropped)}, {})
    with open(f"{folder}/curves.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [float(row["val_loss"]) for row in rows if row["val_loss"]] == [3.0, 3.5]


def test_the_table_of_a_curve_with_a_control_has_a_column_for_it() -> None:
    measured = LossCurve([0.1, 0.2, 0.4], [3.0, 2.0, math.nan], "diverged", control=[1.0, 2.0, 1.5])
    head, *rows = curve_table(measured)
    assert head == ("step", "lr", "loss", "smoothed_loss", "control_loss")
    assert [row[-1] for row in rows] == [1.0, 2.0, 1.5]
    assert rows[0][:3] == (0, 0.1, 3.0)
    assert rows[0][3] == pytest.approx(3.5)  # against the control, whose median is 1.5


def test_no_curves_are_a_table_of_its_header(tmp_path: Path) -> None:
    folder = write_folder(str(tmp_path), "probe", {}, {"curves.csv": curves_table({})}, {})
    assert Path(folder, "curves.csv").read_text().split() == ["series,step,lr,train_loss,val_loss"]


def test_the_picture_shows_points_line_and_suggestion(tmp_path: Path) -> None:
    folder = write(tmp_path, curve(), picture=draw(SweepPicture(curve(), FOUND, planned=SchedulePicture.of(PLANNED))))
    picture = imread(f"{folder}/{NAME}.png")[..., :3]
    # 10.4 x 4 inches at 120 dots per inch
    assert picture.shape == (480, 1248, 3)
    left, right = picture[:, :660], picture[:, 660:]
    for panel, color in (
        (left, "#999999"),  # grey, a fifth of it white
        (left, SMOOTH),
        (left, CHOICE),
        (right, SMOOTH),
        (right, MOMENTUM),
    ):
        close = np.abs(panel - np.array(to_rgb(color))).max(axis=-1) < 0.02
        assert close.sum() > 25
    assert 0.5 < (picture == 1).all(axis=-1).mean() < 0.99  # on a white ground


def test_a_file_of_the_same_name_is_not_overwritten_either(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("mine")
    assert Path(write(tmp_path, curve())).name == f"{NAME}_1"
    assert (tmp_path / NAME).read_text() == "mine"


def test_two_processes_that_write_at_once_take_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exists = LocalFileSystem.exists

    def exists_a_moment_ago(files: Any, path: str, **more: Any) -> bool:
        was_there = exists(files, path, **more)
        if not was_there and Path(path).name == NAME:
            Path(path).mkdir()
        if not was_there and Path(path).name == "report.html":
            Path(path).write_text("theirs")
        return bool(was_there)

    monkeypatch.setattr(LocalFileSystem, "exists", exists_a_moment_ago)
    assert Path(write(tmp_path, curve())).name == f"{NAME}_1"
    assert write_page(str(tmp_path), "ours") == str(tmp_path / "report_1.html")
    assert (tmp_path / "report.html").read_text() == "theirs"
    assert (tmp_path / "report_1.html").read_text() == "ours"


def test_what_has_the_name_of_a_page_and_cannot_be_opened_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_page(str(tmp_path), "page", str(folder))
    (file := tmp_path / "mine.html").write_text("mine")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError

    monkeypatch.setattr(LocalFileSystem, "_open", refuse)
    with pytest.raises(PermissionError):
        write_page(str(tmp_path), "page", str(file))
    assert (folder.is_dir(), file.read_text()) == (True, "mine")


@pytest.fixture
def memory_root() -> Iterator[str]:
    root = f"memory://reports-{uuid4().hex}"
    yield root
    files, path = fsspec.core.url_to_fs(root)
    files.rm(path, recursive=True)


def test_a_report_goes_to_any_file_system_that_fsspec_knows(memory_root: str) -> None:
    picture = draw(SweepPicture(diverged(), None))
    folders = [write(memory_root, diverged(), {"run": run}, picture) for run in range(2)]
    assert [folder.rsplit("/", 1)[1] for folder in folders] == [NAME, f"{NAME}_1"]
    files = fsspec.filesystem("memory")
    assert all(folder.startswith("memory://") for folder in folders)
    for run, folder in enumerate(files._strip_protocol(folder) for folder in folders):
        assert sorted(files.ls(folder, detail=False)) == [
            f"{folder}/curve.csv",
            f"{folder}/{NAME}.png",
            f"{folder}/result.json",
        ]
        assert parse_json(files.cat_file(f"{folder}/result.json").decode())["run"] == run
        assert files.cat_file(f"{folder}/curve.csv").decode().startswith("step,lr,loss,smoothed_loss\r\n0,0.001,2.5,")
        content = files.cat_file(f"{folder}/{NAME}.png")
        assert imread(io.BytesIO(content)).shape == (480, 672, 4)  # 5.6 x 4 inches at 120 dots
    assert not os.listdir()  # nothing on the disk


def test_a_root_that_is_a_file_raises_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        write(tmp_path / "file", curve())
    assert (tmp_path / "file").read_text() == "mine"


def test_an_impossible_name_raises_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        write(tmp_path, curve(), name="x" * 300)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_root_raises_os_error(tmp_path: Path) -> None:
    root = tmp_path / "locked"
    root.mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        write(root, curve())
    assert not os.listdir(root)


def test_what_was_written_gives_the_same_suggestion_again(tmp_path: Path) -> None:
    again = LossCurve(**parse_json(Path(write(tmp_path, curve()), "result.json").read_text())["curve"])
    assert again == curve()
    assert suggest(again) == suggest(curve())
