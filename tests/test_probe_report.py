"""What a probe leaves behind on purpose: files, curves and pictures."""

import csv
import json
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pl_onecycle import LossCurve, LRRangeTest
from tests.probes import Net, decay_probe, fit, found, line, momentum_probe


def rows_of(folder: Path) -> list[list[str]]:
    with open(folder / "curves.csv", newline="") as handle:
        return list(csv.reader(handle))


def test_the_report_holds_result_curves_and_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe(1e-4, 0.0, num_steps=20, report=True)
    with caplog.at_level("INFO"):
        fit(probe, Net(1e-4), root=tmp_path)
    folder = tmp_path / "weight_decay_probe"
    assert sorted(path.name for path in folder.iterdir()) == ["curves.csv", "result.json", "weight_decay_probe.png"]
    assert (folder / "weight_decay_probe.png").read_bytes().startswith(b"\x89PNG")
    assert line(caplog).endswith(f"; see {folder}")
    result = json.loads((folder / "result.json").read_text())
    assert result["suggestion"] == found(probe).to_dict()
    assert result["refusal"] is None
    assert result["seconds"] == probe.seconds
    assert result["changed"] == ["1 parameter group", "module.weight_decay"]
    assert result["settings"] == {
        "weight_decays": [1e-4, 0.0],
        "num_steps": 20,
        "mode": "rise",
        "max_lr": None,
        "min_lr": 1e-7,
        "early_stop_threshold": 4.0,
        "val_batches": 4,
        "monitor": "val_loss",
        "apply": True,
        "optimizer": 0,
    }
    assert list(result["curves"]) == ["wd=1e-04", "wd=0"]
    assert LossCurve(**result["curves"]["wd=1e-04"]) == probe.curves[1e-4]
    header, *rows = rows_of(folder)
    assert header == ["series", "step", "lr", "train_loss", "val_loss"]
    expected = []
    for name, curve in zip(("wd=1e-04", "wd=0"), probe.curves.values(), strict=True):
        # Every second of 20 steps is validated.
        val = [str(curve.val_loss[k // 2]) if k % 2 else "" for k in range(20)]
        expected += [[name, str(k + 1), str(curve.lr[k]), str(curve.loss[k]), val[k]] for k in range(20)]
    assert rows == expected


def test_a_report_of_no_choice_holds_the_reason(tmp_path: Path) -> None:
    fit(decay_probe(1e9, 2e9, num_steps=20, max_lr=1.0, report=True), root=tmp_path)
    result = json.loads((tmp_path / "weight_decay_probe" / "result.json").read_text())
    assert result["suggestion"] is None
    assert result["refusal"] == "all 2 candidates have diverged"
    assert result["changed"] == []


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_a_series_for_each_candidate(tmp_path: Path) -> None:
    probe = decay_probe(1e-4, 0.0, num_steps=20, report=True)
    logger = TensorBoardLogger(tmp_path, "runs")
    fit(probe, logger=logger)
    seen = scalars(Path(logger.log_dir))
    ours = {tag for tag in seen if tag.startswith("weight_decay_probe")}
    series = {f"weight_decay_probe/{name}" for name in ("wd=1e-04", "wd=0")}
    assert ours == {f"{name}/{what}" for name in series for what in ("train_loss", "val_loss", "lr")}
    curve = probe.curves[1e-4]
    for what, steps, values in (
        ("train_loss", range(1, 21), curve.loss),
        ("lr", range(1, 21), curve.lr),
        ("val_loss", curve.val_steps, curve.val_loss),
    ):
        points = seen[f"weight_decay_probe/wd=1e-04/{what}"]
        assert [step for step, _ in points] == list(steps)
        assert [value for _, value in points] == pytest.approx(list(values), rel=1e-6)
    assert (Path(logger.log_dir) / "weight_decay_probe" / "result.json").is_file()


def test_a_second_probe_in_the_same_directory_overwrites_nothing(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, "", version="")
    fit(decay_probe(1e-4, report=True), logger=logger)
    first = (tmp_path / "weight_decay_probe" / "curves.csv").read_bytes()
    before = {tag: points for tag, points in scalars(tmp_path).items() if tag.startswith("weight_decay_probe/")}
    again = TensorBoardLogger(tmp_path, "", version="")
    fit(decay_probe(0.5, report=True), Net(lr=0.3), logger=again)
    assert (tmp_path / "weight_decay_probe" / "curves.csv").read_bytes() == first
    assert rows_of(tmp_path / "weight_decay_probe_1")[1][0] == "wd=5e-01"
    after = scalars(tmp_path)
    assert {tag: after[tag] for tag in before} == before
    assert "weight_decay_probe_1/wd=5e-01/train_loss" in after


def test_two_probes_on_one_trainer_write_two_folders(tmp_path: Path) -> None:
    fit(decay_probe(report=True), Net(), momentum_probe(report=True), LRRangeTest(num_steps=20), root=tmp_path)
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == ["lr_range_test", "momentum_probe", "weight_decay_probe", "work"]
    assert {row[0] for row in rows_of(tmp_path / "momentum_probe")[1:]} == {"momentum=0.9", "momentum=0.95"}


def test_the_logger_sees_nothing_of_the_trials_but_the_curves(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, "runs")
    fit(decay_probe(num_steps=20), logger=logger)
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as handle:
        steps = [int(row["step"]) for row in csv.DictReader(handle)]
    assert steps == [*range(8), 7]  # eight of training and one validation


def test_report_false_writes_nothing(tmp_path: Path) -> None:
    fit(decay_probe(), root=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_a_picture_can_be_drawn_afterwards() -> None:
    probe = decay_probe(1e-4, 0.0)
    fit(probe)
    train, val, ends = probe.plot().axes
    labels = [text.get_text() for text in val.get_legend().get_texts()]
    assert labels == ["wd=1e-04, chosen" if found(probe).value else "wd=1e-04", *labels[1:]]
    assert (train.get_xlabel(), val.get_xlabel()) == ("learning rate", "optimizer step")
    assert ends.get_title(loc="left") == f"{found(probe).judged_by} at the end"
    assert train.texts[0].get_text().replace("\n", " ") == probe.why
    some = probe.plot(log_lr=True, skip_start=2, skip_end=3).axes[0]
    assert some.get_xscale() == "log"
    assert {len(line.get_xdata()) for line in some.lines} == {len(line.get_xdata()) - 5 for line in train.lines}


def test_a_probe_says_in_a_few_words_what_it_has_found() -> None:
    probe = decay_probe(1e-4, 0.0)
    assert repr(probe) == "WeightDecayProbe(not run yet)"
    fit(probe)
    value = found(probe).value
    assert repr(probe).startswith("WeightDecayProbe(weight_decay ")
    assert repr(probe).endswith(f"{value:.3g})")
    assert "data:image/png;base64," in probe._repr_html_()
