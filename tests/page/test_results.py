"""What a run has saved is read back as it was."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from pl_onecycle.page import NoResult, read_results, results_in
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


def test_a_refusal_is_read_back_with_its_reason() -> None:
    [result] = read_results(str(made.refused().root / "lr_range_test" / "result.json"))
    assert (result.value, result.suggestion, result.trough) == (None, None, None)
    assert result.reason == made.refused().result["refusal"]
    assert not result.is_applied


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
    ],
    ids=["empty", "half", "no text", "a list", "foreign", "a curve of two lengths"],
)
def test_another_file_is_named_in_a_sentence(content: bytes, tmp_path: Path) -> None:
    (file := tmp_path / "result.json").write_bytes(content)
    with pytest.raises(NoResult, match=f"^'{file}' is not a result.json of pl_onecycle.$"):
        read_results(str(file))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("none", "There is no file or directory"), ("", "There is no result.json of pl_onecycle in")],
    ids=["no file", "no result"],
)
def test_where_nothing_is_a_sentence_says_so(path: str, sentence: str, tmp_path: Path) -> None:
    where: Any = str(tmp_path / path)
    with pytest.raises(NoResult, match=sentence):
        read_results(where)
