"""What the range test leaves behind on purpose: files, curves, pictures and its state."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from pl_onecycle import LossCurve, LRRangeTest, OneCycleScheduler, WeightDecayProbe, suggest
from pl_onecycle.curves import METHODS, find_trough
from tests.fits import LRs, Momentum, data, trainer
from tests.range_test.made import Constant, Results, Valley, one_step, watched, with_milestones
from tests.report.made import events


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


def test_each_test_has_a_report_and_curves_of_its_own(tmp_path: Path) -> None:
    test = with_milestones(2, 4, report=True)
    results, logger = Results(test), TensorBoardLogger(tmp_path, name="run")
    trainer([test, results], logger=logger, max_epochs=6).fit(Valley(1.0, 0.5, 0.2), data())
    names = ["lr_range_test", "lr_range_test_epoch_2", "lr_range_test_epoch_4"]
    folders = sorted(folder for folder in Path(logger.log_dir).iterdir() if folder.is_dir())
    assert [folder.name for folder in folders] == names
    logged = events(logger)
    tags = {tag for tag in logged.Tags()["scalars"] if tag.startswith("lr_range_test")}
    assert tags == {f"{name}/{kind}" for name in names for kind in ("lr", "loss", "smoothed_loss")}
    for folder, curve, lr in zip(folders, results.curves[::2], results.lr[::2], strict=True):
        result = json.loads((folder / "result.json").read_text())
        assert result["curve"]["lr"] == list(curve.lr)
        assert result["suggestion"]["lr"] == lr
        assert result["settings"]["milestones"] == [2, 4]
        assert (folder / f"{folder.name}.png").exists()
        points = logged.Scalars(f"{folder.name}/loss")
        assert [point.value for point in points] == pytest.approx(list(curve.loss), rel=1e-6)


class Pictures(pl.Callback):
    """Notes how many pictures there are when a batch begins and has ended, and may fail at the end of a batch."""

    def __init__(self, root: Path, fails_at: int | None = None) -> None:
        self.root, self.fails_at = root, fails_at
        self.seen: list[tuple[int, int]] = []

    @property
    def number(self) -> int:
        return len([*self.root.rglob("*.png")])

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, at: int) -> None:
        self.seen.append((at, self.number))
        if at == self.fails_at:
            raise RuntimeError("the user's")


@pytest.mark.parametrize("make", [LRRangeTest, lambda: WeightDecayProbe(num_steps=20)], ids=["range test", "probe"])
def test_the_picture_is_drawn_after_the_first_batch(make: Any, tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    trainer([make(), pictures], tmp_path, max_epochs=1).fit(Valley(1.0, 0.5, 0.2), data())
    assert pictures.seen[:3] == [(0, 0), (1, 1), (2, 1)]


def test_the_picture_is_drawn_where_the_run_fails_before_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the user's"):
        trainer([LRRangeTest(), Pictures(tmp_path, fails_at=0)], tmp_path).fit(Valley(1.0, 0.5, 0.2), data())
    assert len([*tmp_path.rglob("*.png")]) == 1


def test_a_finder_that_is_no_callback_of_the_trainer_draws_at_once(tmp_path: Path) -> None:
    class Finds(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            LRRangeTest().find(trainer)

    pictures = Pictures(tmp_path)
    trainer([Finds(), pictures], tmp_path, max_epochs=1).fit(Valley(1.0, 0.5, 0.2), data())
    assert pictures.seen[0] == (0, 1)


def test_without_a_report_no_file_is_written(tmp_path: Path) -> None:
    root = tmp_path / "root"
    trainer([LRRangeTest(report=False)], root).fit(Momentum(), data())
    assert not root.exists()


def test_a_picture_that_fails_does_not_cost_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no latex")

    monkeypatch.setattr("pl_onecycle.range_test.draw", fails)
    test, lrs = LRRangeTest(), LRs()
    with pytest.warns(UserWarning, match="could not be drawn .no latex"):
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


# --------------------------------------------------------------------------------------------------------------- state
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


def test_the_test_says_in_a_few_words_what_it_has_found() -> None:
    test = LRRangeTest()
    assert repr(test) == "LRRangeTest(not run yet)"
    assert test._repr_html_() == "<div><b>LR range test: not run yet</b></div>"
    trainer([test]).fit(Momentum(), data())
    assert test.suggestion is not None
    assert re.fullmatch(r"LRRangeTest\(max_lr 0\.01 → [0-9.]+( \(×[0-9.]+\))?\)", repr(test))
    html = test._repr_html_()
    assert test.why in html
    assert "data:image/png;base64," in html


def test_the_picture_shows_what_decided(tmp_path: Path) -> None:
    test = LRRangeTest(verify=3, verify_steps=10)
    trainer([test], tmp_path).fit(Momentum(), data())
    assert test.suggestion is not None
    picture = test.picture()
    assert (picture.before, picture.reason, picture.coarse) == (test.before, test.why, test.coarse)
    assert picture.ends is not None
    assert set(picture.ends.levels) <= set(test.cycles) == set(picture.cycles)
    axes, cycles = test.plot().axes
    left, right = find_trough(test.curve).ends  # type: ignore[arg-type]
    (trough,) = (band for band in axes.patches if band.get_label() == "trough")
    assert (trough.get_x(), trough.get_x() + trough.get_width()) == pytest.approx((left, right))
    assert cycles.get_title(loc="left") == "3 short cycles around the suggestion"
    assert test.plot(axes) is axes


def test_a_refusal_is_in_the_picture(tmp_path: Path) -> None:
    test = LRRangeTest(1e-9, 1e-8, 30)
    trainer([test], tmp_path).fit(Momentum(), data())
    (axes,) = test.plot().axes
    assert repr(test) == "LRRangeTest(no suggestion)"
    assert axes.get_title(loc="left") == "LR range test: no suggestion"
    assert axes.texts[0].get_text().replace("\n", " ") == test.why


def test_a_linear_sweep_is_drawn_on_a_linear_axis(tmp_path: Path) -> None:
    test = LRRangeTest(1e-3, 1.0, 30, mode="linear")
    trainer([test], tmp_path).fit(Momentum(), data())
    scales = [test.plot(log_lr=log_lr).axes[0].get_xscale() for log_lr in (None, True)]
    assert scales == ["linear", "log"]
