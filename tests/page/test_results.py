"""What a run has saved is read back as it was."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pl_onecycle.curves import LossCurve, find_trough, suggest
from pl_onecycle.page import NoResult, Result, RunPage, page_of_run, page_of_runs, read_results, results_in
from tests.page import made


def test_a_range_test_is_read_back_with_all_its_numbers() -> None:
    [result] = read_results(str(made.good().root))
    saved = made.good().result
    assert result.content == saved
    assert result.folder == str(made.good().root / "lr_range_test")
    assert (result.title, result.value_name, result.before) == ("LR range test", "max_lr", 0.01)
    assert result.value == saved["suggestion"]["lr"]
    assert result.curve is not None
    assert list(result.curve.lr) == saved["curve"]["lr"]
    assert list(result.curve.loss) == [math.nan if loss is None else loss for loss in saved["curve"]["loss"]]
    assert set(result.cycles) == set(saved["cycles"])
    assert result.steps == saved["steps"]
    assert result.seconds == saved["seconds"]
    low, high = result.trough or (0.0, 0.0)
    assert 0 < low < high


def test_a_curve_is_read_back_with_its_control() -> None:
    batches = np.random.default_rng(0).normal(0.0, 2.0, 60)
    loss = batches + np.minimum(np.linspace(-2, 1, 60) ** 2, 1.0)
    curve = LossCurve((10 ** np.linspace(-4, -1, 60)).tolist(), loss.tolist(), control=batches.tolist())
    found = suggest(curve)
    assert found is not None
    saved: dict[str, Any] = {"settings": {}, "curve": curve.to_dict(), "suggestion": found.to_dict()}
    saved["coarse"] = [curve.to_dict()]
    [result] = results_in(saved)
    assert result.curve == result.coarse[0] == curve
    assert result.trough == find_trough(curve).ends
    assert f"<td>{batches[7]}</td>" in page_of_run(RunPage("Net", [result]))
    del saved["curve"]["control"]  # as before there were controls
    assert Result(saved).curve == replace(curve, control=())


def test_a_refusal_is_read_back_with_its_reason() -> None:
    [result] = read_results(str(made.refused().root / "lr_range_test" / "result.json"))
    assert (result.value, result.suggestion, result.trough) == (None, None, None)
    assert result.reason == made.refused().result["refusal"]
    assert not result.is_applied


def test_the_candidates_of_probes_are_read_back_by_their_names() -> None:
    root, *probes = made.probed()
    results = read_results(str(root))
    for result, probe in zip(results, probes, strict=True):
        assert result.candidates == probe.labelled()
        assert result.chosen == probe.chosen
        assert [*result.candidate_values.values()] == pytest.approx(sorted(probe.curves, reverse=True), rel=1e-5)
    assert results[0].chosen in ("wd=0", "wd=1.23457e-04", "wd=3e-03")


def test_a_value_that_is_only_suggested_is_not_applied() -> None:
    [result] = read_results(str(made.diverged().root))
    assert result.value is not None
    assert not result.is_applied


def test_results_come_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    for k, name in enumerate(["b", "a"]):
        (tmp_path / name).mkdir()
        (file := tmp_path / name / "result.json").write_text(json.dumps(made.refused().result))
        os.utime(file, (k, k))
    assert [Path(result.folder).name for result in read_results(str(tmp_path))] == ["b", "a"]


def test_the_results_of_tune_are_several_in_one_file() -> None:
    one = made.refused().result
    both = results_in({"config": {}, "lr_range_test": one, "again": one, "versions": {"torch": "0"}})
    assert [result.content["versions"] for result in both] == [{"torch": "0"}] * 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"settings": {}, "suggestion": {"lr": 1}, "curve": {"lr": [1], "loss": []}}',
        b'{"settings": {}, "suggestion": null, "before": "low"}',
        b'{"settings": {}, "suggestion": {"lr": 1, "method": "smith", "reason": "", "low": [1]}}',
        b'{"settings": {}, "suggestion": null, "steps": null}',
        b'{"settings": {}, "suggestion": null, "tries": [32, 64]}',
        b"[" * 100_000,
    ],
    ids=[
        *("empty", "half", "no text", "a list", "foreign", "a curve of two lengths", "a word for a value"),
        *("a list for a limit", "no number of steps", "a list of sizes", "deep"),
    ],
)
def test_another_file_is_named_in_a_sentence(content: bytes, tmp_path: Path) -> None:
    (file := tmp_path / "result.json").write_bytes(content)
    with pytest.raises(NoResult, match=f"^'{file}' is not a result.json of pl_onecycle.$"):
        read_results(str(file))


def test_a_value_that_is_not_finite_in_a_file_of_another_writer_is_unknown(tmp_path: Path) -> None:
    found = {"lr": math.nan, "method": "smith", "reason": "lowest at 0.1"}
    (file := tmp_path / "result.json").write_text(
        json.dumps({"settings": {}, "suggestion": found, "before": math.inf, "curve": {"lr": [0.1], "loss": [1.0]}})
    )
    [result] = read_results(str(file))
    assert (result.value, result.suggestion, result.before) == (None, None, None)
    assert "no suggestion" in page_of_runs({"run": [result]}, {})


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("none", "There is no file or directory"), ("", "There is no result.json of pl_onecycle in")],
    ids=["no file", "no result"],
)
def test_where_nothing_is_a_sentence_says_so(path: str, sentence: str, tmp_path: Path) -> None:
    where: Any = str(tmp_path / path)
    with pytest.raises(NoResult, match=sentence):
        read_results(where)
