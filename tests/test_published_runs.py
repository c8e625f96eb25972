"""The runs of the publications take a few steps with their own numbers."""

import csv
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

pytest.importorskip("torchvision", reason="the examples need torchvision: pip install 'pl-onecycle[examples]'")
pytest.importorskip("jsonargparse", reason="the command line needs it: pip install 'pl-onecycle[cli]'")

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
