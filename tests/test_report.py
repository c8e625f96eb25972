"""Files, figures and logger curves of a range test, each read back with the library that users read it with."""

import csv
import io
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import fsspec
import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pl_onecycle.curve import LossCurve
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.report import draw_curves, draw_range_test, log_curve, log_curves, write_curves, write_report
from pl_onecycle.suggestion import Suggestion, suggest

NAME = "lr_range_test"
DECADES = np.linspace(-7, 1, 50)
LRS = (10**DECADES).tolist()
FOUND = Suggestion(0.0125, "smith", "by hand")
PLANNED = OneCyclePolicy(0.0125, total_steps=40)


def curve(outcome: Any = "completed", initial_loss: float | None = None) -> LossCurve:
    """Falls from 8 to 2 at 0.1."""
    return LossCurve(LRS, (2 + (DECADES + 1) ** 2 / 6).tolist(), outcome, initial_loss)


def diverged() -> LossCurve:
    return LossCurve([0.001, 0.01, 0.1], [2.5, 1 / 3, math.nan], "diverged", 2.75)


NOTHING = {"empty": LossCurve([], []), "all nan": LossCurve([0.1], [math.nan], "diverged")}
nothing_measured = pytest.mark.parametrize("measured", NOTHING.values(), ids=NOTHING)


def strictly(text: str) -> Any:
    """JSON without the NaN and Infinity that Python's parser would let pass."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


# -------------------------------------------------------------------------------------------------- files
def test_a_report_is_a_directory_of_three_files(tmp_path: Path) -> None:
    root = tmp_path / "logs"
    folder = write_report(str(root), NAME, {}, curve(), draw_range_test(curve(), FOUND))
    assert folder == str(root / NAME)
    assert sorted(os.listdir(folder)) == ["curve.csv", f"{NAME}.png", "result.json"]
    assert os.listdir(root) == [NAME]


def test_a_report_without_a_figure_has_no_picture(tmp_path: Path) -> None:
    folder = write_report(str(tmp_path), "probe", {}, curve(), None)
    assert sorted(os.listdir(folder)) == ["curve.csv", "result.json"]


def test_the_directory_is_made_with_all_above_it(tmp_path: Path) -> None:
    root = tmp_path / "logs" / "version_0"
    folder = write_report(f"{root}/", NAME, {}, curve(), None)
    assert Path(folder) == root / NAME
    assert (root / NAME / "result.json").is_file()


def test_the_json_file_holds_facts_curve_and_versions_with_null_for_nan(tmp_path: Path) -> None:
    facts = {
        "suggestion": {"lr": 0.1},
        "refusal": None,
        "settings": {"numbers": (1, math.inf, [math.nan, -math.inf]), "apply": True, "numpy": np.float64(0.5)},
    }
    folder = write_report(str(tmp_path), NAME, facts, diverged(), None)
    written = strictly((Path(folder) / "result.json").read_text())
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
        },
    }
    assert sorted(versions) == ["lightning", "python", "torch"]
    assert versions["python"] == platform.python_version()
    assert versions["lightning"] == lightning.__version__
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_the_csv_file_holds_the_curve_to_the_last_digit(tmp_path: Path) -> None:
    folder = write_report(str(tmp_path), NAME, {}, curve(), None)
    with open(f"{folder}/curve.csv", newline="") as handle:
        header, *rows = csv.reader(handle)
    assert header == ["step", "lr", "loss", "smoothed_loss"]
    numbers = [[float(cell) for cell in row] for row in rows]
    expected = zip(range(50), curve().lr, curve().loss, curve().smoothed().tolist(), strict=True)
    assert numbers == [list(row) for row in expected]


def test_the_csv_file_of_a_diverged_sweep_ends_with_its_nan(tmp_path: Path) -> None:
    folder = write_report(str(tmp_path), NAME, {}, diverged(), None)
    # A decade apart, at a bandwidth of a tenth, each smoothed loss is the loss itself.
    lines = Path(folder, "curve.csv").read_text().split()
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
    folder = write_report(str(tmp_path), NAME, {}, measured, draw_range_test(measured, None))
    written = strictly(Path(folder, "result.json").read_text())
    assert written["curve"]["loss"] == [None] * len(measured)
    assert len(Path(folder, "curve.csv").read_text().splitlines()) == 1 + len(measured)
    assert Path(folder, f"{NAME}.png").stat().st_size > 0


def test_the_picture_shows_points_line_and_suggestion(tmp_path: Path) -> None:
    folder = write_report(str(tmp_path), NAME, {}, curve(), draw_range_test(curve(), FOUND, PLANNED))
    picture = imread(f"{folder}/{NAME}.png")[..., :3]
    # 11 x 4 inches at 120 dots per inch
    assert picture.shape == (480, 1320, 3)
    left, right = picture[:, :660], picture[:, 660:]
    for panel, color in (
        (left, "#9aa5b1"),
        (left, "#1f6feb"),
        (left, "#d1242f"),
        (right, "#1f6feb"),
        (right, "#1a7f37"),
    ):
        close = np.abs(panel - np.array(to_rgb(color))).max(axis=-1) < 0.02
        assert close.sum() > 25
    assert 0.5 < (picture == 1).all(axis=-1).mean() < 0.99  # on a white ground


def test_a_report_never_overwrites_another(tmp_path: Path) -> None:
    folders = [write_report(str(tmp_path), NAME, {"run": run}, curve(), None) for run in range(3)]
    assert [Path(folder).name for folder in folders] == [NAME, f"{NAME}_1", f"{NAME}_2"]
    assert [strictly(Path(folder, "result.json").read_text())["run"] for folder in folders] == [0, 1, 2]


def test_a_file_of_the_same_name_is_not_overwritten_either(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("mine")
    assert Path(write_report(str(tmp_path), NAME, {}, curve(), None)).name == f"{NAME}_1"
    assert (tmp_path / NAME).read_text() == "mine"


@pytest.fixture
def memory_root() -> Iterator[str]:
    root = f"memory://reports-{uuid4().hex}"
    yield root
    files, path = fsspec.core.url_to_fs(root)
    files.rm(path, recursive=True)


def test_a_report_goes_to_any_file_system_that_fsspec_knows(memory_root: str) -> None:
    folders = [
        write_report(memory_root, NAME, {"run": run}, diverged(), draw_range_test(diverged(), None)) for run in range(2)
    ]
    assert [folder.rsplit("/", 1)[1] for folder in folders] == [NAME, f"{NAME}_1"]
    files = fsspec.filesystem("memory")
    assert all(folder.startswith("memory://") for folder in folders)
    for run, folder in enumerate(files._strip_protocol(folder) for folder in folders):
        assert sorted(files.ls(folder, detail=False)) == [
            f"{folder}/curve.csv",
            f"{folder}/{NAME}.png",
            f"{folder}/result.json",
        ]
        assert strictly(files.cat_file(f"{folder}/result.json").decode())["run"] == run
        assert files.cat_file(f"{folder}/curve.csv").decode().startswith("step,lr,loss,smoothed_loss\r\n0,0.001,2.5,")
        assert imread(io.BytesIO(files.cat_file(f"{folder}/{NAME}.png"))).shape == (480, 720, 4)  # 6 x 4 inches at 120
    assert not os.listdir()  # nothing on the disk


def test_a_root_that_is_a_file_raises_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        write_report(str(tmp_path / "file"), NAME, {}, curve(), None)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_impossible_name_raises_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        write_report(str(tmp_path), "x" * 300, {}, curve(), None)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_root_raises_os_error(tmp_path: Path) -> None:
    root = tmp_path / "locked"
    root.mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        write_report(str(root), NAME, {}, curve(), None)
    assert not os.listdir(root)


# ------------------------------------------------------------------------------------------------ figures
def labels(ax: Any) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def points(line: Any) -> list[list[float]]:
    return [list(point) for point in line.get_xydata().tolist()]


def rendered(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return buffer.getvalue()


def test_the_loss_panel_shows_raw_and_smoothed_losses_over_log_lr() -> None:
    figure = draw_range_test(curve("stopped"), None)
    (ax,) = figure.axes
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == (
        "LR range test (stopped, no suggestion)",
        "learning rate",
        "training loss",
    )
    assert ax.get_xscale() == "log"
    raw, smooth = ax.lines
    assert points(raw) == [list(point) for point in zip(LRS, curve().loss, strict=True)]
    assert [y for _, y in points(smooth)] == curve().smoothed().tolist()
    assert labels(ax) == ["measured", "smoothed"]
    assert len(rendered(figure)) > 1000


def test_the_suggestion_is_a_line_at_its_lr() -> None:
    (ax,) = draw_range_test(curve(), FOUND).axes
    assert [x for x, _ in points(ax.lines[2])] == [0.0125, 0.0125]
    assert labels(ax) == ["measured", "smoothed", "max_lr 0.0125 (smith)"]


def test_the_planned_cycle_is_drawn_beside_it_step_by_step() -> None:
    figure = draw_range_test(curve(), FOUND, PLANNED)
    loss, cycle, right = figure.axes
    assert loss.get_title() == "LR range test (completed)"
    assert (cycle.get_title(), cycle.get_xlabel(), right.get_ylabel()) == (
        "planned cycle",
        "optimizer step",
        "momentum",
    )
    steps = list(range(40))
    assert points(cycle.lines[0]) == [[step, PLANNED.lr(step)] for step in steps]
    assert points(right.lines[0]) == [[step, PLANNED.momentum(step)] for step in steps]
    assert labels(cycle) == ["learning rate", "momentum"]


def test_a_cycle_without_momentum_has_one_axis() -> None:
    figure = draw_range_test(curve(), None, OneCyclePolicy(1.0, 10, cycle_momentum=False))
    assert len(figure.axes) == 2
    assert labels(figure.axes[1]) == ["learning rate"]


def test_a_long_cycle_is_drawn_with_few_points_but_both_ends_and_near_its_peak() -> None:
    policy = OneCyclePolicy(1.0, 1_000_000)
    line = points(draw_range_test(curve(), None, policy).axes[1].lines[0])
    assert len(line) == 501
    assert line[0] == [0, policy.lr(0)]
    assert line[-1] == [999_999, policy.lr(999_999)]
    # Steps 2000 apart, the slope of the rise is 0.9 in 450000 steps: at most 0.004 below the peak.
    assert max(lr for _, lr in line) > 1 - 0.004


def test_a_cycle_of_one_step_can_be_drawn() -> None:
    figure = draw_range_test(curve(), None, OneCyclePolicy(0.5, 1))
    assert points(figure.axes[1].lines[0]) == [[0, 0.5]]
    assert len(rendered(figure)) > 1000


def test_a_given_axis_is_drawn_on_and_nothing_else_changes() -> None:
    figure = Figure()
    first, second = figure.subplots(1, 2)
    assert draw_range_test(curve(), FOUND, ax=second) is figure
    assert figure.axes == [first, second]
    assert (len(first.lines), len(second.lines)) == (0, 3)
    assert second.get_title() == "LR range test (completed)"


@nothing_measured
@pytest.mark.parametrize("planned", [None, PLANNED], ids=["alone", "with the cycle"])
def test_nothing_measured_is_an_empty_panel(measured: LossCurve, planned: OneCyclePolicy | None) -> None:
    figure = draw_range_test(measured, None, planned)
    assert len(figure.axes[0].lines) == 0
    assert labels(figure.axes[0]) == []
    assert figure.axes[0].get_title() == f"LR range test ({measured.outcome}, no suggestion)"
    assert len(rendered(figure)) > 1000


def test_one_point_and_a_flat_curve_have_a_panel_of_some_height() -> None:
    for flat in (LossCurve([0.1], [2.0]), LossCurve(LRS, [2.0] * 50)):
        figure = draw_range_test(flat, None)
        bottom, top = figure.axes[0].get_ylim()
        assert (bottom, top) == pytest.approx((1.9, 2.1))
        assert len(rendered(figure)) > 1000


@pytest.mark.parametrize("height", [1e3, 1e12, 3e38])
def test_an_explosion_does_not_squash_the_axis(height: float) -> None:
    losses = list(curve().loss)
    losses[-3:] = [height / 100, height / 10, height]
    (ax,) = draw_range_test(LossCurve(LRS, losses, "diverged"), None).axes
    bottom, top = ax.get_ylim()
    # 8 at the start and 2 at the lowest: losses are lowered to 8 + 6 = 14 at most, and a tenth of 12 is room.
    assert 0.8 <= bottom < 2
    assert 8 < top <= 15.2
    assert points(ax.lines[0])[-1][1] == height  # still recorded


def test_drawing_does_not_import_pyplot() -> None:
    # torchmetrics imports pyplot whether or not somebody draws, so it is forgotten before.
    script = """
import sys
from pl_onecycle.curve import LossCurve
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.report import draw_range_test
for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
    del sys.modules[name]
figure = draw_range_test(LossCurve([0.1, 0.2], [2.0, 1.0]), None, OneCyclePolicy(0.1, 10))
figure.savefig("figure.png")
print("matplotlib.figure" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    root = str(Path(__file__).parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert result.stdout.split() == ["True", "False"], result.stderr
    assert imread("figure.png").std() > 0


def test_a_missing_matplotlib_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"^Pictures need matplotlib: pip install 'pl-onecycle\[plot\]'$"):
        draw_range_test(curve(), None)


# ------------------------------------------------------------------------------------------------ loggers
def events(logger: TensorBoardLogger) -> EventAccumulator:
    logger.experiment.flush()
    reader = EventAccumulator(logger.log_dir)
    reader.Reload()
    return reader


def test_tensorboard_gets_the_curve_under_its_own_tags_and_steps(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"train_loss": 1.0}, step=7)
    log_curve([logger], NAME, curve())
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
    log_curve([logger], "probe", diverged())
    reader = events(logger)
    losses = [scalar.value for scalar in reader.Scalars("probe/loss")]
    assert losses[:2] == pytest.approx([2.5, 1 / 3])
    assert math.isnan(losses[2])
    assert [scalar.step for scalar in reader.Scalars("probe/smoothed_loss")] == [0, 1]


class Recording(Logger):
    """Writes down every call."""

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
    log_curve([tables, recording, board], NAME, curve())
    tables.save()
    assert recording.calls == []
    assert Path(tables.log_dir, "metrics.csv").read_text().splitlines() == ["step,train_loss", "0,1.0"]
    assert len(events(board).Scalars(f"{NAME}/loss")) == 50  # the one after them is not forgotten


def test_no_logger_is_fine() -> None:
    log_curve([], NAME, curve())
    assert not os.listdir()


# ----------------------------------------------------------------------------------------------- together
def test_what_was_written_gives_the_same_suggestion_again(tmp_path: Path) -> None:
    folder = write_report(str(tmp_path), NAME, {}, curve(), None)
    again = LossCurve(**strictly(Path(folder, "result.json").read_text())["curve"])
    assert again == curve()
    assert suggest(again) == suggest(curve())


# ----------------------------------------------------------------------------------------- several curves
def several() -> dict[str, LossCurve]:
    """Four steps of two candidates, of which the second was dropped."""
    return {
        "wd=1e-04": LossCurve([0.1, 0.2, 0.3, 0.4], [4.0, 3.0, 2.0, 1.0], "completed", None, [2, 4], [2.5, 1.5]),
        "wd=0": LossCurve([0.1, 0.2], [4.0, math.nan], "dropped", None, [2], [3.5]),
    }


def test_a_report_of_several_curves_is_a_directory_of_three_files(tmp_path: Path) -> None:
    figure = draw_curves("Probe", several(), "wd=1e-04", True)
    folder = write_curves(str(tmp_path), "probe", {"saved": 0.25}, several(), figure)
    assert folder == str(tmp_path / "probe")
    assert sorted(os.listdir(folder)) == ["curves.csv", "probe.png", "result.json"]
    written = strictly(Path(folder, "result.json").read_text())
    assert written["saved"] == 0.25
    assert sorted(written["versions"]) == ["lightning", "python", "torch"]
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


def test_a_report_of_several_curves_never_overwrites_another(tmp_path: Path) -> None:
    folders = [write_curves(str(tmp_path), "probe", {"run": run}, several(), None) for run in range(3)]
    assert [Path(folder).name for folder in folders] == ["probe", "probe_1", "probe_2"]
    assert [strictly(Path(folder, "result.json").read_text())["run"] for folder in folders] == [0, 1, 2]


def test_every_validation_loss_is_in_the_table_also_that_of_a_dropped_curve(tmp_path: Path) -> None:
    """A candidate is dropped after the validation of a step whose own loss is only seen at the next."""
    dropped = {"wd=0": LossCurve([0.1], [4.0], "dropped", None, [1, 2], [3.0, 3.5])}
    folder = write_curves(str(tmp_path), "probe", {}, dropped, None)
    with open(f"{folder}/curves.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [float(row["val_loss"]) for row in rows if row["val_loss"]] == [3.0, 3.5]


def test_no_curves_are_a_table_of_its_header(tmp_path: Path) -> None:
    folder = write_curves(str(tmp_path), "probe", {}, {}, None)
    assert Path(folder, "curves.csv").read_text().split() == ["series,step,lr,train_loss,val_loss"]


def test_tensorboard_gets_a_series_for_each_curve_counted_from_one(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    log_curves([CSVLogger(tmp_path / "csv"), logger], "probe", several())
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


@pytest.mark.parametrize("over_lr", [True, False])
def test_training_and_validation_loss_are_drawn_side_by_side(over_lr: bool) -> None:
    figure = draw_curves("Probe", several(), "wd=1e-04", over_lr)
    train, val = figure.axes
    assert (train.get_title(), train.get_xlabel()) == ("Probe", "learning rate" if over_lr else "optimizer step")
    assert (val.get_xlabel(), val.get_ylabel()) == ("optimizer step", "validation loss")
    assert labels(train) == labels(val) == ["wd=1e-04, chosen", "wd=0 (dropped)"]
    assert [x for x, _ in points(train.lines[0])] == ([0.1, 0.2, 0.3, 0.4] if over_lr else [1, 2, 3, 4])
    assert [x for x, _ in points(train.lines[1])] == ([0.1] if over_lr else [1])  # as far as it is finite
    assert points(val.lines[0]) == [[2, 2.5], [4, 1.5]]
    assert train.lines[0].get_linewidth() > train.lines[1].get_linewidth()
    assert len(rendered(figure)) > 1000


def test_the_drawn_training_loss_is_a_mean_that_keeps_a_constant() -> None:
    line = draw_curves("Probe", {"a": LossCurve(LRS, [2.5] * 50)}, None, True).axes[0].lines[0]
    assert [y for _, y in points(line)] == pytest.approx([2.5] * 50)


def test_without_validation_there_is_one_panel() -> None:
    (ax,) = draw_curves("Probe", {"a": curve()}, None, True).axes
    assert labels(ax) == ["a"]


def test_several_curves_are_drawn_on_a_given_axis_and_nothing_else() -> None:
    figure = Figure()
    first, second = figure.subplots(1, 2)
    assert draw_curves("Probe", several(), None, True, second) is figure
    assert (figure.axes, len(first.lines), len(second.lines)) == ([first, second], 0, 2)


@nothing_measured
def test_curves_of_which_nothing_was_measured_can_be_drawn_and_written(measured: LossCurve, tmp_path: Path) -> None:
    figure = draw_curves("Probe", {"a": measured}, None, True)
    folder = write_curves(str(tmp_path), "probe", {}, {"a": measured}, figure)
    assert len(Path(folder, "curves.csv").read_text().splitlines()) == 1 + len(measured)
