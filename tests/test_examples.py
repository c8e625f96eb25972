"""Every example runs a few steps and says what it promises."""

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the examples need scikit-learn: pip install 'pl-onecycle[examples]'")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_digits_prints_both_accuracies_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["digits.py", "--epochs", "2", "--out", str(tmp_path / "out")])
    runpy.run_path(str(EXAMPLES / "digits.py"), run_name="__main__")
    rows = [text.rsplit(maxsplit=3) for text in capsys.readouterr().out.splitlines() if "%" in text]
    assert [row[0].strip() for row in rows] == ["constant lr", "range test and one cycle"]
    assert float(rows[0][1]) == 0.01
    assert float(rows[1][1]) != 0.01
    assert all(50 < float(row[2].rstrip("%")) <= 100 for row in rows)
    (picture,) = (tmp_path / "out").rglob("lr_range_test.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
