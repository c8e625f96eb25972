"""Every example runs a few steps and says what it promises."""

import csv
import io
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("sklearn", reason="the examples need scikit-learn: pip install 'pl-onecycle[examples]'")

pytest.importorskip("torchvision", reason="the examples need torchvision: pip install 'pl-onecycle[examples]'")

from PIL import Image  # comes with torchvision

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
    assert {path.suffix for path in Path(named).parent.iterdir()} == {".yaml", ".json", ".csv", ".png", ".html"}
    run("fit", *common, "-c", named)
    (metrics,) = (tmp_path / "out").rglob("metrics.csv")
    rows = list(csv.DictReader(metrics.read_text().splitlines()))
    assert max(float(row["lr-SGD"]) for row in rows if row["lr-SGD"]) == tuned["max_lr"]
    decays = {float(row["lr-SGD-weight_decay"]) for row in rows if row["lr-SGD-weight_decay"]}
    assert decays == {tuned["weight_decay"]}
    assert any(row["val_loss"] for row in rows)


def pack_images(folder: Path, part: str, count: int) -> None:
    """Write grey-ish noise as CIFAR-10 is packed in ``<part>.npz``; the brighter, the higher the class."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, count)
    files = []
    for label in labels:
        file = io.BytesIO()
        pixels = 25 * label + generator.integers(0, 25, (32, 32, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    offset = np.cumsum([0, *map(len, files)])
    jpeg = np.frombuffer(b"".join(files), dtype=np.uint8)
    np.savez(folder / f"{part}.npz", jpeg=jpeg, offset=offset, label=labels.astype(np.uint8))


@pytest.mark.slow
def test_weight_decay_cifar10_compares_three_decays_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pack_images(tmp_path, "train", 64)
    pack_images(tmp_path, "test", 32)
    options = {"--data": tmp_path, "--out": tmp_path / "out", "--batch-size": 16, "--num-steps": 20, "--max-lr": 0.5}
    arguments = [str(text) for pair in options.items() for text in pair]
    monkeypatch.setattr(sys, "argv", ["weight_decay_cifar10.py", *arguments])
    runpy.run_path(str(EXAMPLES / "weight_decay_cifar10.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.endswith("completed")]
    assert [row[0] for row in rows] == ["0.001", "0.0001", "1e-05"]

    (picture,) = (tmp_path / "out").rglob("weight_decay_probe.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = json.loads((picture.parent / "result.json").read_text())
    for row, curve in zip(rows, told["curves"].values(), strict=True):
        assert curve["lr"][-1] == pytest.approx(0.5)
        assert float(row[1]) == pytest.approx(np.mean(curve["loss"][-4:]), abs=5e-4)  # a fifth of 20 steps
        assert float(row[2]) == pytest.approx(np.mean(curve["val_loss"][-2:]), abs=5e-4)  # a fifth of 10 looks
    assert any(f"choice: {told['suggestion']['value']:g}," in line for line in lines)


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:register_new_resolver\(\) is deprecated")  # what Hydra calls of omegaconf
@pytest.mark.filterwarnings("ignore:Implicit conversion:FutureWarning")
def test_hydra_template_takes_the_length_from_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra", reason="this example needs Hydra: pip install hydra-core")
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as for a script
    words = ["trainer.max_epochs=2", "+trainer.enable_progress_bar=false", f"logger.save_dir={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["hydra_template.py", *words])
    runpy.run_path(str(EXAMPLES / "hydra_template.py"), run_name="__main__")
    assert float(capsys.readouterr().out.split("Test accuracy: ")[1].split("%")[0]) > 50
    (metrics,) = (tmp_path / "out").rglob("metrics.csv")
    rows = list(csv.DictReader(metrics.read_text().splitlines()))
    rates = [float(row["lr-SGD"]) for row in rows if row["lr-SGD"]]
    (told,) = (tmp_path / "out").rglob("result.json")
    peak = json.loads(told.read_text())["suggestion"]["lr"]
    assert len(rates) == 2 * 45  # 1,437 images in batches of 32
    assert max(rates) == pytest.approx(peak, rel=0.03)  # between two steps of the cycle
    assert rates[-1] == pytest.approx(peak / 10 / 1e4)
