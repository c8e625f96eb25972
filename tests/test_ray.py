"""Two Ray workers on one machine find the same values, train with them, and Ray's metrics have them."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("ray.train.torch", reason="needs Ray: pip install 'pl-onecycle[ray]'")
pytest.importorskip("sklearn", reason="the examples need scikit-learn: pip install 'pl-onecycle[examples]'")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="each of two workers needs a CPU of its own"),
]

HOUSE = Path(__file__).parents[1]
NAMES = ("found/max_lr", "found/weight_decay")


def run(folder: Path, *words: str) -> tuple[str, list[dict[str, Any]]]:
    """Run the example in a folder of its own; return what it has written, and the metrics that it has printed."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}  # a cluster of its own
    environment["PYTHONPATH"] = os.pathsep.join([str(HOUSE), os.environ.get("PYTHONPATH", "")])
    environment |= {"HOME": str(folder), "RAY_DEDUP_LOGS": "0", "OMP_NUM_THREADS": "1"}
    script = [sys.executable, "-W", "ignore", str(HOUSE / "examples" / "ray_two_workers.py")]
    command = [*script, "--epochs", "2", "--out", "out", *words]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    metrics = [ast.literal_eval(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return done.stdout + done.stderr, metrics


def reported(output: str, name: str) -> set[tuple[str, str]]:
    """What each worker has reported to Ray under a name, with the number of the worker."""
    return set(re.findall(rf"'{name}': ([0-9.e-]+).* from rank (\d)", output))


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """What the fit has saved at its end."""
    saved = [torch.load(path, weights_only=False) for path in (folder / "out").rglob("checkpoint.ckpt")]
    return max(saved, key=lambda checkpoint: int(checkpoint["global_step"]))


def test_callbacks_in_two_workers_find_the_same_values_and_ray_has_them(tmp_path: Path) -> None:
    output, metrics = run(tmp_path)
    assert [(it["epoch"], it["step"]) for it in metrics] == [(0, 23), (1, 46)]  # 1,438 digits, two times 32 a step
    assert metrics[1]["val_loss"] < metrics[0]["val_loss"] < 2.3  # ln 10 is chance
    (test,) = (tmp_path / "out" / "fits").rglob("lr_range_test/result.json")  # written by the first worker only
    (probe,) = (tmp_path / "out" / "fits").rglob("weight_decay_probe/result.json")
    max_lr = json.loads(test.read_text())["suggestion"]["lr"]
    weight_decay = json.loads(probe.read_text())["suggestion"]["value"]
    assert [[it[name] for name in NAMES] for it in metrics] == [[max_lr, weight_decay]] * 2
    for name, value in zip(NAMES, (max_lr, weight_decay), strict=True):
        assert reported(output, name) == {(str(value), "0"), (str(value), "1")}
    (group,) = last_checkpoint(tmp_path)["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == weight_decay
    (schedule,) = last_checkpoint(tmp_path)["lr_schedulers"]
    assert repr(max_lr) in str(schedule)


def test_tune_in_two_workers_reports_its_values_and_files_and_the_fit_uses_them(tmp_path: Path) -> None:
    output, (tuned, *fitted) = run(tmp_path, "--tune")
    assert [it["epoch"] for it in fitted] == [0, 1]
    (file,) = (path for path in (tmp_path / "out").rglob("tuned.yaml") if "fits" not in path.parts)  # in Ray's storage
    found = yaml.safe_load(file.read_text())["one_cycle"]
    assert [tuned[name] for name in NAMES] == [found["max_lr"], found["weight_decay"]]
    for name in NAMES:
        assert {rank for value, rank in reported(output, name) if float(value) == tuned[name]} == {"0", "1"}
    (group,) = last_checkpoint(tmp_path)["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == found["weight_decay"]
