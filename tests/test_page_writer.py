"""The page of a run is written after the first batch and again at its end, and says what was really played."""

import copy
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from pl_onecycle import LRRangeTest, OneCycleTuner, WeightDecayProbe, page_writer
from pl_onecycle.played_run import MOST_POINTS, PlayedRun
from tests.fits import LRs, SmallNet, data, trainer
from tests.page import made
from tests.page.test_document import Page


def played(test: LRRangeTest) -> Any:
    return test._page.shown


def fit(
    tmp_path: Path, *callbacks: pl.Callback, module: pl.LightningModule | None = None, **options: Any
) -> pl.Trainer:
    it = trainer(callbacks, tmp_path, **options)
    it.fit(made.Validated() if module is None else module, data(), data(64))
    return it


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_played_schedule_is_that_of_the_optimizer_at_every_step(accumulated: int, tmp_path: Path) -> None:
    test, lrs = LRRangeTest(1e-4, 10.0, 40), LRs()
    fit(tmp_path, test, lrs, max_epochs=4, accumulate_grad_batches=accumulated)
    seen = played(test)
    assert list(seen.steps) == list(range(32 // accumulated))
    assert [[lr] for lr in seen.lr] == lrs.lr
    assert [[momentum] for momentum in seen.momentum] == lrs.momentum
    assert seen.lr == pytest.approx([seen.plan.lr[step] for step in seen.steps], rel=1e-6)
    assert (seen.done, seen.ended) == (32 // accumulated, "completed")


def test_the_played_loss_is_that_of_each_training_step(tmp_path: Path) -> None:
    class Recorded(made.Validated):
        def __init__(self) -> None:
            super().__init__()
            self.losses: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.losses.append(loss.item())
            return loss

    test, module = LRRangeTest(1e-4, 10.0, 40), Recorded()
    fit(tmp_path, test, module=module)
    seen = played(test)
    assert seen.loss == pytest.approx(module.losses[-16:])  # those of the test come before
    assert list(seen.val_steps) == [8, 16]
    assert all(0 < loss < 2 for loss in seen.val_loss)


def test_the_page_says_each_step_that_was_played() -> None:
    rows = [row for row in Page(made.good().page.read_text()).rows if len(row) == 4]
    first = next(k for k, row in enumerate(rows) if row == ["step", "lr", "momentum", "training loss"])
    lrs = [row[1] for row in rows[first + 1 : first + 65]]
    assert lrs == [str(lr) for [lr] in made.good().lrs.lr]


def test_a_long_run_keeps_a_bounded_number_of_points() -> None:
    run = PlayedRun(trainer(), 0, None)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    run._trainer.strategy._optimizers = [optimizer]
    for step in range(3 * MOST_POINTS):
        run._trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
        run.begin_step(optimizer)
    seen = run.played()
    assert len(seen.steps) <= MOST_POINTS
    assert list(seen.steps) == list(range(0, 3 * MOST_POINTS, run.stride))
    assert seen.done == 3 * MOST_POINTS


def test_several_finders_share_one_page(tmp_path: Path) -> None:
    fit(tmp_path, WeightDecayProbe(num_steps=20), LRRangeTest(1e-4, 10.0, 40))
    [page] = tmp_path.glob("report*.html")
    text = page.read_text()
    assert re.findall('class="result"><h2>(.*?)</h2>', text) == ["LR range test", "Weight decay probe"]
    assert text.count('class="hindsight"') == 1


def test_nobody_waits_for_a_picture_or_a_page_before_the_first_batch(tmp_path: Path) -> None:
    class Sees(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
            if trainer.global_step == 0:
                self.there = sorted(path.name for path in tmp_path.rglob("*.*") if path.suffix in (".html", ".png"))

    sees = Sees()
    fit(tmp_path, WeightDecayProbe(num_steps=20), LRRangeTest(1e-4, 10.0, 40), sees)
    assert sees.there == []
    drawn = sorted(path.name for path in tmp_path.rglob("*.*") if path.suffix in (".html", ".png"))
    assert drawn == ["lr_range_test.png", "report.html", "weight_decay_probe.png"]


def test_a_second_fit_has_a_page_of_its_own(tmp_path: Path) -> None:
    test = LRRangeTest(1e-4, 10.0, 40)
    for _ in range(2):
        fit(tmp_path, test)
    assert sorted(page.name for page in tmp_path.glob("*.html")) == ["report.html", "report_1.html"]


def test_a_run_that_is_interrupted_says_so(tmp_path: Path) -> None:
    class Stops(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 12:
                raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fit(tmp_path, LRRangeTest(1e-4, 10.0, 40), Stops(), max_epochs=4)
    assert "The fit ended after 12 steps with ValueError: on purpose." in (tmp_path / "report.html").read_text()


def test_while_a_run_trains_its_page_says_that_it_has_not_ended(tmp_path: Path) -> None:
    class Reads(pl.Callback):
        text = ""

        def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            self.text = self.text or (tmp_path / "report.html").read_text()

    fit(tmp_path, LRRangeTest(1e-4, 10.0, 40), reads := Reads())
    assert "The fit has not ended" in reads.text
    assert "The fit has not ended" not in (tmp_path / "report.html").read_text()


def test_a_page_that_fails_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> str:
        raise RuntimeError("no page today")

    monkeypatch.setattr(page_writer, "page_of_run", fails)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = fit(tmp_path, LRRangeTest(1e-4, 10.0, 40, milestones=[1]), WeightDecayProbe(num_steps=20))
    said = [str(it.message) for it in caught if "page" in str(it.message)]
    assert said == ["The page of this run could not be written (no page today)."]
    assert done.global_step == 16
    assert list(tmp_path.glob("*.html")) == []


def test_a_recording_that_fails_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no lr today")

    monkeypatch.setattr(PlayedRun, "begin_step", fails)
    with pytest.warns(UserWarning, match="The run is not recorded for its page") as caught:
        done = fit(tmp_path, LRRangeTest(1e-4, 10.0, 40))
    assert len([it for it in caught if "recorded" in str(it.message)]) == 1
    assert done.global_step == 16
    assert (tmp_path / "report.html").exists()


def test_without_a_report_there_is_no_page_and_no_recording(tmp_path: Path) -> None:
    fit(tmp_path, test := LRRangeTest(1e-4, 10.0, 40, report=False))
    assert played(test) is None
    assert list(tmp_path.glob("*.html")) == []


def test_only_the_first_process_writes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda _: False))
    fit(tmp_path, test := LRRangeTest(1e-4, 10.0, 40))
    assert played(test) is None
    assert list(tmp_path.rglob("*.html")) == []


def test_tune_writes_a_page_next_to_its_result(tmp_path: Path) -> None:
    found = OneCycleTuner(trainer((), tmp_path)).tune(
        SmallNet(), data(), lr_range_test=LRRangeTest(1e-4, 10.0, 40), weight_decay_probe=False
    )
    assert found.max_lr is not None
    assert Page((tmp_path / "tune" / "report.html").read_text()).found["lr"] == str(found.max_lr)


def test_a_finder_is_copied_and_pickled_while_it_records(tmp_path: Path) -> None:
    class Copies(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            [test] = [it for it in trainer.callbacks if isinstance(it, LRRangeTest)]  # type: ignore[attr-defined]
            assert test._page.played is not None
            assert copy.deepcopy(test)._page.played is None
            assert pickle.loads(pickle.dumps(test))._page.played is None

    fit(tmp_path, LRRangeTest(1e-4, 10.0, 40), Copies())
