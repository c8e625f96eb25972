"""The runs of the publications take a few steps with their own numbers."""

import csv
import json
import math
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("torchvision", reason="the examples need torchvision: pip install 'pl-onecycle[examples]'")
pytest.importorskip("jsonargparse", reason="the command line needs it: pip install 'pl-onecycle[cli]'")

from PIL import Image  # comes with torchvision
from torchvision.models import mobilenet_v2

from tests.test_examples import EXAMPLES, pack_images

CONFIGS = EXAMPLES / "cifar10" / "configs"
SMALL = ["--model.depth=8", "--data.train_images=16", "--data.test_images=16", "--trainer.accelerator=cpu"]
SMALL += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL += ["--trainer.log_every_n_steps=1"]
# Learning rate at the first step, its peak, that at the last step; momentum at the first step and at the peak;
# weight decay, batch size and epochs. From the articles.
PUBLISHED = {
    "one_cycle": (0.08, 0.8, 0.008, 0.95, 0.8, 1e-4, 512, 95),
    "constant_momentum": (0.08, 0.8, 0.008, 0.9, 0.9, 1e-4, 512, 95),
    "fifty_epochs": (0.3, 3, 3e-5, 0.95, 0.8, 1e-4, 512, 50),
    "fifty_epochs_decay_1e-3": (0.3, 3, 3e-5, 0.95, 0.8, 1e-3, 512, 50),
    "fifty_epochs_decay_1e-5": (0.3, 3, 3e-5, 0.95, 0.8, 1e-5, 512, 50),
    "super_convergence": (0.1, 3, 0.1, 0.9, 0.9, 1e-4, 1000, 200),
    "stepwise": (0.1, 0.1, 0.001, 0.9, 0.9, 1e-4, 128, -1),
}


@pytest.fixture
def data(tmp_path: Path) -> str:
    """The argument that names 16 images a part."""
    for part in ("train", "test"):
        pack_images(tmp_path, part, 16)
    return f"--data.root={tmp_path}"


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, as a script finds it."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "cifar10"))
    monkeypatch.delitem(sys.modules, "train", raising=False)
    import train

    return train


def rows_of(folder: Path, column: str) -> list[float]:
    """Return a logged column, of all steps."""
    (metrics,) = folder.rglob("metrics.csv")
    return [float(row[column]) for row in csv.DictReader(metrics.read_text().splitlines()) if row[column]]


def test_each_published_row_has_its_yaml() -> None:
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == sorted([*PUBLISHED, "tune"])


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_yaml_of_a_published_row_trains_with_its_numbers(
    name: str, data: str, train: ModuleType, tmp_path: Path
) -> None:
    first, peak, last, momentum, least_momentum, decay, batch_size, epochs = PUBLISHED[name]
    assert yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["trainer"]["max_epochs"] == epochs
    out = tmp_path / "out"
    words = ["fit", "-c", str(CONFIGS / f"{name}.yaml"), *SMALL, data, f"--result.folder={out}"]
    cli = train.main([*words, "--trainer.max_epochs=8", "--trainer.max_steps=8"])
    assert cli.datamodule.batch_size == batch_size
    rates, momenta = rows_of(out, "lr-SGD"), rows_of(out, "lr-SGD-momentum")
    assert (rates[0], max(rates), rates[-1]) == pytest.approx((first, peak, last))
    assert (momenta[0], momenta[rates.index(max(rates))]) == pytest.approx((momentum, least_momentum))
    result = json.loads((out / f"{name}.json").read_text())
    assert result["about"]["iterations"] == len(rates) == 8
    assert result["weight_decay"]["mean"] == decay
    assert result["largest_lr"]["mean"] == pytest.approx(peak)
    assert all(math.isfinite(result[metric]["mean"]) for metric in ("train_accuracy", "val_accuracy", "seconds"))


@pytest.mark.slow
def test_a_run_takes_all_its_values_from_what_tune_has_found(
    train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "test"):
        pack_images(tmp_path, part, 96)
    out = tmp_path / "out"
    small = [*SMALL, "--data.train_images=96", f"--data.root={tmp_path}", f"--result.folder={out}"]
    search = [
        "--lr_range_test.num_steps=40",
        "--lr_range_test.verify=false",
        "--weight_decay_probe.num_steps=10",
        "--data.held_out=32",
    ]
    train.main(["tune", "-c", str(CONFIGS / "tune.yaml"), *small, "--data.batch_size=16", *search])
    (named,) = re.findall(r"^Tuned values: (.*)$", capsys.readouterr().out, flags=re.MULTILINE)
    tuned = yaml.safe_load(Path(named).read_text())["one_cycle"]
    short = ["--trainer.max_epochs=2", "--data.batch_size=32", "--result.name=tuned"]
    train.main(["fit", "-c", str(CONFIGS / "one_cycle.yaml"), "-c", named, *small, *short])
    result = json.loads((out / "tuned.json").read_text())
    assert result["about"]["iterations"] == 2 * 3
    assert result["largest_lr"]["mean"] == pytest.approx(tuned["max_lr"])
    assert result["weight_decay"]["mean"] == tuned["weight_decay"]
    search = json.loads((out / "tune.json").read_text())["runs"][0]
    assert (search["max_lr"], search["weight_decay"]) == (tuned["max_lr"], tuned["weight_decay"])


@pytest.mark.slow
def test_a_run_that_was_cut_off_continues_its_schedule(data: str, train: ModuleType, tmp_path: Path) -> None:
    def fit(place: str, *words: str) -> Path:
        common = [*SMALL, data, "--data.batch_size=8", "--trainer.max_epochs=4"]
        where = f"--result.folder={tmp_path / place}"
        cli = train.main(["fit", "-c", str(CONFIGS / "one_cycle.yaml"), *common, where, *words])
        return Path(cli.trainer.logger.log_dir)

    whole = fit("whole")
    with pytest.raises(KeyError, match="cut off"):
        fit("cut", "--trainer.callbacks+=tests.test_published_runs.CutOff")
    rest = fit("cut", "--ckpt_path=last")
    for column in ("lr-SGD", "lr-SGD-momentum"):
        assert rows_of(rest, column) == rows_of(whole, column)[4:]  # after the second of four epochs
    results = [json.loads((tmp_path / place / "one_cycle.json").read_text()) for place in ("whole", "cut")]
    assert [result["about"]["iterations"] for result in results] == [8, 8]
    assert [result["largest_lr"]["mean"] for result in results] == [0.8, 0.8]


class CutOff(pl.Callback):
    """Ends a run in its third epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        if trainer.global_step == 5:
            raise KeyError("cut off")


# --------------------------------------------------------------------------------------------- scripts
def run_script(monkeypatch: pytest.MonkeyPatch, script: str, *words: str) -> dict[str, Any]:
    """Run an example as from the command line, and return its names."""
    monkeypatch.setattr(sys, "argv", [script, *words])
    return runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_compare_trains_each_schedule_with_each_seed_and_draws(
    data: str, train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run_script(monkeypatch, "cifar10/compare.py", data, "--out", str(out), "--images=16", "--epochs=4", "--seeds=1")
    lines = capsys.readouterr().out.splitlines()
    for name in ("constant, 0.1", "stepwise, 0.1", "one cycle, 0.1", "one cycle, found"):
        file = f"small_{name.replace(', ', '_').replace(' ', '_').replace('.', '')}.json"
        row = json.loads((out / file).read_text())
        assert (row["n"], row["about"]["iterations"]) == (1, 4)
        assert (row["largest_lr"]["mean"] == 0.1) == name.endswith("0.1")
        (line,) = [line for line in lines if line.startswith(name)]
        assert f"{row['val_accuracy']['mean']:.1%}" in line
    assert is_picture(out / "compare.png")


@pytest.mark.slow
def test_the_range_test_keeps_its_reading_and_draws_the_published_one(
    data: str, train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [data, "--out", str(out), "--depth=8", "--images=16", "--batch-size=16", "--num-steps=30"]
    run_script(monkeypatch, "cifar10/range_test.py", *words)
    (run,) = json.loads((out / "range_test.json").read_text())["runs"]
    assert 20 <= run["steps"] <= 30
    assert run["trough_low"] <= run["max_lr"] <= run["trough_high"]
    assert f"max_lr {run['max_lr']:.3g} after {run['steps']} steps" in capsys.readouterr().out
    assert is_picture(out / "range_test.png")


@pytest.mark.slow
def test_rock_paper_scissors_trains_four_times_and_draws(
    tmp_path: Path, train: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 10)):
        for number, name in enumerate(("paper", "rock", "scissors")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = (80 * number + generator.integers(0, 80, (28, 28, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    out = tmp_path / "out"
    out.mkdir()
    torch.save(mobilenet_v2(num_classes=10).state_dict(), out / "mobilenet_v2_cifar10_0_steps_seed0.pt")
    words = ["--data.root", str(tmp_path), "--out", str(out), "--size=32", "--epochs=3", "--weights=cifar10"]
    run_script(monkeypatch, "rock_paper_scissors.py", *words, "--pretrain-steps=0")
    assert "MobileNetV2 trained here on CIFAR-10 for 0 steps" in capsys.readouterr().out
    rows = {row["about"]["run"]: row for row in (json.loads(path.read_text()) for path in out.glob("*.json"))}
    published = ["MobileNetV2", "MobileNetV2, article's schedule", "simple CNN"]
    assert sorted(rows) == sorted([*published, "MobileNetV2, found, one cycle"])
    assert [rows[name]["lr"]["mean"] for name in published] == [1e-3, 2e-3, 1e-3]
    assert [rows[name]["weight_decay"]["mean"] for name in published] == [0.02, 0.02, 0]
    assert is_picture(out / "rock_paper_scissors.png")


@pytest.mark.slow
def test_compare_schedules_ranks_twelve_and_draws(
    tmp_path: Path, train: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "test"):
        pack_images(tmp_path, part, 32)
    words = ["--tasks", "cifar10", "--images=32", "--epochs=2", "--seeds=1", "--data.root", str(tmp_path)]
    names = run_script(monkeypatch, "compare_schedules.py", *words, "--out", str(tmp_path / "out"))
    result = json.loads((tmp_path / "out" / "cifar10.json").read_text())
    assert sorted(result["val_loss"]) == sorted(names["SCHEDULES"])
    losses = [row["found"]["mean"] for row in result["val_loss"].values()]
    assert losses == sorted(losses)
    assert result["trough"][0] <= result["lr"] <= result["trough"][1]
    lines = capsys.readouterr().out.splitlines()
    ranked = [line[:20].strip() for line in lines if line[:20].strip() in result["val_loss"]]
    assert ranked == list(result["val_loss"])
    pictures = ["cifar10/losses.png", "cifar10/schedules.png", "presets.png"]
    assert all(is_picture(tmp_path / "out" / name) for name in pictures)


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_cyclical_learning_rates_run_between_both_ends_of_the_trough(
    factor: float, train: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = runpy.run_path(str(EXAMPLES / "compare_schedules.py"))
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    found = names["Found"](lr=0.1, low=0.02, high=0.3)
    schedule = names["between_ends"](sgd, factor * 0.1, 120, found)
    rates = []
    for _ in range(120):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    assert (min(rates), max(rates)) == pytest.approx((0.02 * factor, 0.3 * factor))
    assert rates[::20] == pytest.approx([0.02 * factor] * 6)  # six cycles of 20 steps


# ------------------------------------------------------------------------------------- what they have measured
def test_the_page_and_the_readme_show_what_the_json_files_hold() -> None:
    names = runpy.run_path(str(EXAMPLES / "published_results.py"))
    assert names["PAGE"].read_text() == names["page"]()
    readme = names["README"].read_text()
    assert readme == names["with_block"](readme)
    assert names["START"] in readme


def test_the_page_shows_fine_tuning_and_the_transformer_as_they_were_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = runpy.run_path(str(EXAMPLES / "published_results.py"))
    within = names["page"].__globals__  # of the functions
    monkeypatch.setitem(within, "RESULTS", tmp_path / "results")
    assert "`python examples/finetune.py`: not measured." in names["page"]()
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from measured import add_run

    run = {"peak_frozen": 0.02, "peak_unfrozen": 0.03, "least_ratio": 10.0, "largest_ratio": 10.0}
    run |= {"accuracy_frozen": 0.95, "accuracy": 0.985, "unfrozen_at": 92, "cycle_begins_at": 92}
    about = {"head_epochs": 4, "epochs": 12}
    files = tmp_path / "runs" / "finetune"
    add_run(files / "finetune.json", about, {"seed": 0, **run, "refused": False, "why": "steep"})
    add_run(files / "finetune.json", about, {"seed": 1, **run, "refused": True, "why": "too noisy"})
    net: dict[str, Any] = {
        "layers": 2,
        "width": 96,
        "parameters": 242_000,
        "block": 64,
        "batch_size": 8,
        "accumulated": 2,
    }
    net |= {"steps": 800, "precision": "bf16-mixed", "weight_decay": 0.1}
    numbers = {"seed": 0, "lr": 0.008, "searched": 150, "val_loss": 1.964}
    add_run(tmp_path / "runs" / "shakespeare" / "found_one_cycle.json", net, numbers)
    assert len(names["store"](tmp_path / "runs")) == 2
    page = names["page"]()
    row = "| 1 | 0.02, then 0.03 | 10.0000 to 10.0000 | 92 | 92 | 95.0 %, then 98.5 % |"
    assert row in page
    assert "the second cycle has the first peak (seed 1: too noisy)" in page
    assert "2 layers of width 96, 242,000 parameters, 800 optimizer steps of 2 x 8 windows of 64" in page
    assert "| found peak, one cycle | 0.008 | 150 | 1.964 | n = 1; " in page
    assert "| usual peak, warm-up and cosine | - | - | not measured | - |" in page
