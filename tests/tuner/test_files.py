"""What `tune` writes and logs."""

import csv
import json
import math
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from tests.fits import SmallNet, trainer
from tests.report.made import events
from tests.tuner.made import ALLOWED, tune

pytestmark = ALLOWED


def test_files_and_picture_hold_all_and_are_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    results = [tune(on=trainer(root=tmp_path), batch_size=False) for _ in range(2)]
    assert [Path(str(result.directory)).name for result in results] == ["tune", "tune_1"]
    for result in results:
        folder = tmp_path / Path(str(result.directory)).name
        assert sorted(path.name for path in folder.iterdir()) == [
            *("lr_range_test.csv", "report.html", "result.json", "tune.png", "tuned.yaml", "weight_decay_probe.csv")
        ]
        assert (folder / "tune.png").read_bytes().startswith(b"\x89PNG")
        text = (folder / "tuned.yaml").read_text()
        assert text.startswith("# Values for Cycled,")
        assert yaml.safe_load(text) == result.config()
        facts = json.loads((folder / "result.json").read_text())
        assert facts["config"] == result.config()
        assert facts["before"] == dict(result.before)
        assert facts["reasons"] == dict(result.reasons)
        assert facts["search_space"] == result.search_space()
        found = facts["lr_range_test"]["suggestion"]
        assert result.intervals["max_lr"] == (found["low"], found["high"])
        tried = [0.0, 1e-3, 1e-1]
        at = tried.index(result.weight_decay or 0.0)
        assert result.intervals["weight_decay"] == (tried[max(at - 1, 0)], tried[min(at + 1, 2)])
        assert all(facts[name]["seconds"] > 0 for name in ("lr_range_test", "weight_decay_probe"))
        assert facts["lr_range_test"]["suggestion"]["lr"] == result.max_lr
        assert facts["weight_decay_probe"]["suggestion"]["value"] == result.weight_decay
        assert set(facts["versions"]) == {"pl_onecycle", "python", "torch", "lightning"}
        with (folder / "weight_decay_probe.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {row["series"] for row in rows} == {"wd=1e-01", "wd=1e-03", "wd=0"}
        assert all(math.isfinite(float(row["train_loss"])) for row in rows)
        assert sum(row["val_loss"] != "" for row in rows if row["series"] == "wd=0") == 10
    assert "Tuned Cycled" in capsys.readouterr().out


def test_a_directory_that_cannot_be_written_costs_the_files_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"Tuning: the report could not be written"):
        result = tune(on=trainer(root=tmp_path / "file"))
    assert result.max_lr is not None
    assert result.directory is None


def test_loggers_get_nothing_of_tune_and_a_csv_logger_begins_with_the_fit(tmp_path: Path) -> None:
    its = trainer(logger=CSVLogger(tmp_path, name="csv"))
    tune(on=its)
    assert list(tmp_path.rglob("metrics.csv")) == []
    assert list(tmp_path.rglob("hparams.yaml")) == []
    assert [path.name for path in (tmp_path / "csv" / "version_0").iterdir()] == ["tune"]


def test_tensorboard_gets_the_curves_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logger = TensorBoardLogger(tmp_path, name="tb")
    tune(on=trainer(logger=logger))
    logged = events(logger)
    tags = set(logged.Tags()["scalars"])
    assert {tag.rpartition("/")[0] for tag in tags} == {
        "tune/lr_range_test",
        *(f"tune/weight_decay_probe/wd={value}" for value in ("1e-01", "1e-03", "0")),
    }
    assert len(logged.Scalars("tune/weight_decay_probe/wd=0/val_loss")) == 10


def test_the_result_holds_the_cycle_that_training_will_follow_and_draws_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = tune(on=trainer(root=tmp_path))
    assert result.planned is not None
    assert result.planned.max_lr == pytest.approx(result.max_lr)
    line = result.plot().axes[0].lines[0]
    assert max(line.get_ydata()) == result.planned.max_lr


def test_a_model_without_a_one_cycle_schedule_has_no_cycle_to_draw(tmp_path: Path) -> None:
    result = tune(SmallNet(), weight_decay_probe=False, on=trainer(root=tmp_path))
    assert result.planned is None
    with pytest.raises(RuntimeError, match=r"^There is nothing to plot: SmallNet trains with no one-cycle schedule\.$"):
        result.plot()
