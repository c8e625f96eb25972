"""The oracle of a weight decay: the final metric of a one-cycle run as a function of its decay.

`compute` runs each task over its grid of eight decays with several seeds; `DecayOracle` judges a decay by the stored
runs. ``python benchmarks/weight_decay.py --oracle --shared FOLDER`` recomputes ``weight_decay_oracle.json``.
"""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import machine
from suggestion_oracle import train, trivial_score
from weight_decay_tasks import TASKS, DecayTask

ORACLE = Path(__file__).with_name("weight_decay_oracle.json")
SEEDS = 4
# Where 0 lies on the logarithmic axis: this many decades below the smallest decay of the grid.
ZERO_BELOW = 1.0
# Decays that lose at most this many points count for the noise of a run: one that destroys a run has its own.
NEAR = 10.0


def load() -> dict[str, Any]:
    """Return the stored runs of each task, and the machine under ``"machine"``."""
    return dict(json.loads(ORACLE.read_text())) if ORACLE.exists() else {}


def save(oracle: dict[str, Any]) -> None:
    """Write the runs, one line per task, in task order."""
    names = ["machine", *(task.name for task in TASKS)]
    lines = [f"{json.dumps(name)}: {json.dumps(oracle[name])}" for name in names if name in oracle]
    ORACLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def compute(tasks: Sequence[DecayTask], shared: Path | None, seeds: int = SEEDS) -> None:
    """Recompute the oracle of these tasks; the file keeps that of the others."""
    for task in tasks:
        start = time.perf_counter()
        trivial = trivial_score(task.at(0.0, shared))
        scores: dict[str, list[float]] = {}
        for decay in task.grid:
            ends = [train(task.at(decay, shared), task.lr, seed) for seed in range(seeds)]
            scores[f"{decay:g}"] = [float(f"{end if math.isfinite(end) else trivial:.6g}") for end in ends]
        seconds = time.perf_counter() - start
        record = {"kind": task.kind, "group": task.group, "steps": task.steps, "seconds": round(seconds)}
        save({**load(), "machine": machine(), task.name: record | {"scores": scores}})
        print(f"{task.name}: {seconds / seeds / len(task.grid):.1f} s a run", flush=True)


class DecayOracle:
    """Score of a decay from the stored runs: the mean over seeds, linear between neighbours on the logarithmic axis.

    Attributes:
        noise: Standard deviation of a run over seeds, root mean square over the decays near the best one.
        best: The highest mean score, in accuracy or negative loss.
        best_decay: Its decay.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        self.kind: str = record["kind"]
        self.decays = [float(decay) for decay in record["scores"]]
        runs = np.array([*record["scores"].values()])
        self.means = runs.mean(1)
        self.best, self.best_decay = float(self.means.max()), self.decays[int(self.means.argmax())]
        self.noise = 0.0
        near = [k for k, decay in enumerate(self.decays) if self.lost(decay) <= NEAR]
        self.noise = float(np.sqrt(runs[near].var(1, ddof=1).mean()))

    def _place(self, decay: float) -> float:
        smallest = math.log10(min(it for it in self.decays if it > 0))
        return max(math.log10(decay), smallest - ZERO_BELOW) if decay > 0 else smallest - ZERO_BELOW

    def score(self, decay: float) -> float:
        """Return the expected score of a run with this decay; above the grid, that of its end."""
        return float(np.interp(self._place(decay), [self._place(it) for it in self.decays], self.means))

    def in_points(self, difference: float) -> float:
        """Return a difference of scores in points of accuracy, or in per cent of the best loss."""
        return 100 * difference / (1.0 if self.kind == "cls" else abs(self.best))

    def lost(self, decay: float) -> float:
        """Return the points that a run with this decay loses against the best one."""
        return self.in_points(self.best - self.score(decay))

    def is_worse(self, decay: float, own: float) -> bool:
        """Return whether a run with this decay is worse than with one's own by more than the noise of a run."""
        return self.score(own) - self.score(decay) > self.noise
