"""Readers, callbacks, files and flags answer as recorded; see `snapshots.py` for the comparison bit for bit."""

import json
import logging
import re
from importlib.metadata import version
from typing import Any

import pytest

from tests import snapshots

RECORDED: dict[str, Any] = json.loads(snapshots.RECORDED.read_text())
# In double precision another processor, or another version of torch or numpy, moves the last few digits; TensorBoard
# keeps seven.
TOLERANCE = 1e-6


@pytest.mark.slow
def test_readers_answer_as_recorded() -> None:
    now = snapshots.plain(snapshots.readers())
    assert [*snapshots.difference(RECORDED["readers"], now, TOLERANCE)] == []


@pytest.mark.slow
def test_callbacks_log_and_write_what_they_did_when_recorded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = json.loads(json.dumps(snapshots.plain(snapshots.fits())))
    assert [*snapshots.difference(RECORDED["fits"], now, TOLERANCE)] == []


def test_flags_have_the_names_types_and_defaults_that_were_recorded() -> None:
    now = snapshots.helps()
    if version("jsonargparse") != RECORDED["jsonargparse"]:  # each version prints types in its own way
        now, recorded = _flags_alone(now), _flags_alone(RECORDED["help"])
    else:
        recorded = RECORDED["help"]
    assert now == recorded


def _flags_alone(helps: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: [re.split(r" ", line)[0] for line in lines] for name, lines in helps.items()}


def test_a_difference_is_seen_wherever_it_is() -> None:
    before = {"a": [1.0, {"b": "x"}], "c": None}
    assert [*snapshots.difference(before, {"a": [1.0, {"b": "x"}], "c": None})] == []
    assert [*snapshots.difference(before, {"a": [1.1, {"b": "x"}], "c": None}, 1e-3)] == ["/a/0: 1.0 -> 1.1"]
    assert [*snapshots.difference(before, {"a": [1.0, {"b": "y"}], "c": None})] == ["/a/1/b: 'x' -> 'y'"]
    assert len([*snapshots.difference(before, {"a": [1.0], "c": None})]) == 1
