"""Every example runs a few steps and says what it promises."""

import csv
import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

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


@pytest.mark.slow
def test_digits_cli_trains_with_what_it_has_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jsonargparse", reason="the command line needs it: pip install 'pl-onecycle[cli]'")
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as for a script
    common = ["-c", str(EXAMPLES / "configs" / "digits.yaml"), "--trainer.default_root_dir", str(tmp_path / "out")]
    common += ["--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"]

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["digits_cli.py", *words])
        runpy.run_path(str(EXAMPLES / "digits_cli.py"), run_name="__main__")
        return capsys.readouterr().out

    said = run("tune", *common, "--weight_decay_probe.num_steps=20")
    (named,) = re.findall(r"^Tuned values: (.*)$", said, flags=re.MULTILINE)
    tuned = yaml.safe_load(Path(named).read_text())["one_cycle"]
    assert {path.suffix for path in Path(named).parent.iterdir()} == {".yaml", ".json", ".csv", ".png"}
    run("fit", *common, "-c", named)
    (metrics,) = (tmp_path / "out").rglob("metrics.csv")
    rows = list(csv.DictReader(metrics.read_text().splitlines()))
    assert max(float(row["lr-SGD"]) for row in rows if row["lr-SGD"]) == tuned["max_lr"]
    decays = {float(row["lr-SGD-weight_decay"]) for row in rows if row["lr-SGD-weight_decay"]}
    assert decays == {tuned["weight_decay"]}
    assert any(row["val_loss"] for row in rows)
