"""`add_run`: keep what examples measured, one JSON file a row, with the machine, the versions and the number of runs.

Each run of an example adds itself to the file of its row, in place of an earlier one of the same seed.
``published_results.py`` makes tables of the files.
"""

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import pl_onecycle

PACKAGES = ("torch", "torchvision", "lightning")


def hardware() -> str:
    """Return the name of the first GPU if there is one, else that of the CPU with the number of cores and threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores, threads: {torch.get_num_threads()}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version(), "pl-onecycle": pl_onecycle.__version__}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # a result must not be lost for it
            found[name] = version(name)
    return found


def add_run(path: Path, about: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Add ``run`` to the file at ``path``, and return the content.

    Args:
        path: The row's file; runs of other settings than ``about`` are dropped from it.
        about: What all runs of the row have in common.
        run: What this one measured; ``seed`` names it. Its numbers get their mean, smallest and largest over all runs.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "row.json"
        ...     first = add_run(path, {"batch_size": 512}, {"seed": 0, "accuracy": 0.5})
        ...     add_run(path, {"batch_size": 512}, {"seed": 1, "accuracy": 0.75})["accuracy"]
        {'mean': 0.625, 'min': 0.5, 'max': 0.75}
    """
    old = json.loads(path.read_text()) if path.exists() else {}
    kept = old.get("runs", []) if old.get("about") == about else []
    run = {**run, "hardware": hardware(), "versions": versions()}
    runs = sorted([it for it in kept if it["seed"] != run["seed"]] + [run], key=lambda it: int(it["seed"]))
    names = [name for name, value in run.items() if isinstance(value, float)]
    columns = {name: [it[name] for it in runs if isinstance(it.get(name), float)] for name in names}
    spread = {name: {"mean": mean(them), "min": min(them), "max": max(them)} for name, them in columns.items()}
    row = {"about": about, "n": len(runs), **spread, "runs": runs}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row, indent=2) + "\n")
    return row
