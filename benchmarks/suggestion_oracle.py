"""The oracle of a learning-rate suggestion: the final metric of a one-cycle run as a function of its ``max_lr``.

`Search` runs one task over a grid of learning rates, from 1e-5 to 30 in half decades, and in quarter decades near the
best; `OracleCurve` judges a learning rate by the stored runs. ``python benchmarks/suggestion.py --oracle`` recomputes
``suggestion_oracle.json``.
"""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from suggestion_tasks import TASKS, Task, batches
from suggestion_tasks_c import TASKS_C
from torch import Tensor, nn
from torch.optim import Optimizer

from pl_onecycle.policy import OneCyclePolicy

ORACLE = Path(__file__).with_name("suggestion_oracle.json")
LOW, HIGH = -5.0, 1.5
NEAR = 0.3  # points that lose at most this share of (best - trivial) get all seeds and the fine grid
FEW_SEEDS, MANY_SEEDS = 5, 10  # many if a run takes less than half a second
OWN = [*TASKS, *TASKS_C]
Scores = dict[float, list[float]]
Array = npt.NDArray[np.float64]


# ------------------------------------------------------------------------------------------ training
@torch.no_grad()
def evaluate(task: Task, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the accuracy or the negative loss, in eval mode; NaN if the loss is not finite."""
    model.eval()
    loss, hits = 0.0, 0
    for batch, target in zip(torch.split(x, 1000), torch.split(y, 1000), strict=True):
        output = model(batch)
        loss += task.loss(output, target).item() * len(batch) / len(x)
        hits += int((output.argmax(-1) == target).sum()) if task.kind == "cls" else 0
    if not math.isfinite(loss):
        return math.nan
    return hits / len(x) if task.kind == "cls" else -loss


def _set(optimizer: Optimizer, policy: OneCyclePolicy, step: int) -> None:
    momentum = policy.momentum(step)
    for group in optimizer.param_groups:
        group["lr"] = policy.lr(step)
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        elif momentum is not None:
            group["momentum"] = momentum


def train(task: Task, lr: float, seed: int, length: int = 1) -> float:
    """Return the score after one cycle of ``length`` times the task's steps, NaN if its loss became not finite."""
    policy = OneCyclePolicy(lr, length * task.steps, cycle_momentum=task.cycle_momentum)
    model = task.model(seed)
    optimizer = task.optimizer(model, lr)
    x_train, y_train, x_val, y_val = task.data(seed)
    model.train()
    order = batches(x_train, y_train, task.batch_size, 100_000 + seed)
    for step, (x, y) in zip(range(policy.total_steps), order, strict=False):
        _set(optimizer, policy, step)
        loss = task.loss(model(x), y)
        if not math.isfinite(loss.item()):
            return math.nan
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return evaluate(task, model, x_val, y_val)


def trivial_score(task: Task) -> float:
    """Return the score of the best input-independent model: majority class or best constant of the training set."""
    x_train, y_train, _, y_val = task.data(0)
    if task.kind == "cls":
        return float((y_val == y_train.mode().values).float().mean())
    shape = task.model(0).eval()(x_train[:2]).shape[1:]
    constant = torch.zeros(shape[-1], requires_grad=True)
    scale = task.loss(constant.expand(len(y_train), *shape), y_train).item()  # LBFGS has absolute tolerances
    lbfgs = torch.optim.LBFGS([constant], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> float:
        lbfgs.zero_grad()
        loss = task.loss(constant.expand(len(y_train), *shape), y_train) / scale
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    lbfgs.step(closure)  # type: ignore[no-untyped-call]
    return -task.loss(constant.detach().expand(len(y_val), *shape), y_val).item()


# -------------------------------------------------------------------------------------------- oracle
class Search:
    """Runs of one task over the grid, without repeats."""

    def __init__(self, task: Task) -> None:
        self.task, self.trivial = task, trivial_score(task)
        self.scores: Scores = {}
        start = time.perf_counter()
        self._fill(-3.0, 1)
        self.seconds = time.perf_counter() - start
        self.seeds = MANY_SEEDS if self.seconds < 0.5 else FEW_SEEDS

    def _fill(self, x: float, seeds: int) -> None:
        scores = self.scores.setdefault(x, [])
        for seed in range(len(scores), seeds):
            score = train(self.task, 10**x, seed)
            scores.append(score if math.isfinite(score) else self.trivial)

    def _mean(self, x: float) -> float:
        useful = [max(score, self.trivial) for score in self.scores[x]]  # as the judge does
        return sum(useful) / len(useful)

    def _near(self) -> list[float]:
        best = max(map(self._mean, self.scores))
        return [x for x in self.scores if self._mean(x) >= best - NEAR * (best - self.trivial)]

    def run(self) -> dict[str, Any]:
        """Run the coarse grid, then the fine grid until its region no longer grows."""
        for x in np.arange(LOW, HIGH + 0.01, 0.5):
            self._fill(float(x), 1)
        done: list[float] = []
        while True:
            near = self._near()
            # one more coarse step on either side, so that the edge of the region is accurate, too
            region = np.arange(max(min(near) - 0.5, LOW), min(max(near) + 0.5, HIGH) + 0.01, 0.25).tolist()
            if set(region) <= set(done):
                return self._record()
            for x in region:
                self._fill(x, self.seeds)
            done += region

    def _record(self) -> dict[str, Any]:
        def short(value: float) -> float:
            return float(f"{value:.6g}")

        points = [{"log10_lr": x, "score": [short(s) for s in self.scores[x]]} for x in sorted(self.scores)]
        head = {"kind": self.task.kind, "half": self.task.half, "steps": self.task.steps, "seeds": self.seeds}
        return {**head, "trivial": short(self.trivial), "points": points}


def load() -> dict[str, Any]:
    """Return the stored runs of each own task."""
    return dict(json.loads(ORACLE.read_text())) if ORACLE.exists() else {}


def save(oracle: dict[str, Any]) -> None:
    """Write the runs, one line per task, in task order."""
    names = [task.name for task in OWN if task.name in oracle]
    lines = [f"{json.dumps(name)}:{json.dumps(oracle[name], separators=(',', ':'))}" for name in names]
    ORACLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def compute(tasks: Sequence[Task]) -> None:
    """Recompute the oracle of these tasks; the file keeps that of the others."""
    for task in tasks:
        start = time.perf_counter()
        save({**load(), task.name: Search(task).run()})
        low, high = OracleCurve(load()[task.name]).basin()
        seconds = time.perf_counter() - start
        print(f"{task.name}: hits from {10**low:.2g} to {10**high:.2g} ({seconds:.0f} s)", flush=True)


# ------------------------------------------------------------------------------------------- lengths
def compare_lengths(tasks: Sequence[Task], lengths: Sequence[int], seeds: int) -> None:
    """Print the best learning rate of runs of several lengths, and what that of the first length loses in the others.

    The grid has half decades, from two below to one and a half above the best one of the stored oracle.
    """
    print(f"{'':<34}{'length':>7}{'best lr':>9}{'score':>10}{'regret of the first':>21}")
    for task in tasks:
        center, first = round(2 * math.log10(OracleCurve(load()[task.name]).best_lr)) / 2, math.nan
        for length in lengths:
            means = {
                x: _mean_of_runs(task, x, length, seeds) for x in np.arange(center - 2, center + 1.6, 0.5).tolist()
            }
            best = max(means, key=means.__getitem__)
            first = best if math.isnan(first) else first
            lost = (means[best] - means[first]) / (means[best] - trivial_score(task))
            print(f"{task.name:<34}{length:>7}{10**best:>9.2g}{means[best]:>10.4g}{lost:>21.3f}", flush=True)


def _mean_of_runs(task: Task, x: float, length: int, seeds: int) -> float:
    trivial = trivial_score(task)
    scores = [train(task, 10**x, seed, length) for seed in range(seeds)]
    return sum(max(score, trivial) if math.isfinite(score) else trivial for score in scores) / seeds


# --------------------------------------------------------------------------------------------- judge
class OracleCurve:
    """Score of a learning rate from the stored runs: seed mean over log10 lr, smoothed, linearly interpolated."""

    def __init__(self, record: dict[str, Any]) -> None:
        points = record["points"]
        self.kind: str = record["kind"]
        self.trivial: float = record["trivial"]
        self.x = np.array([point["log10_lr"] for point in points])
        # a run worse than trivial counts as trivial, however bad it is
        lowest = self.trivial if record.get("floored", True) else -math.inf
        self.raw = np.array([np.maximum(point["score"], lowest).mean() for point in points])
        self.y = self._smooth(self.raw)
        full = np.array([len(point["score"]) >= record["seeds"] for point in points])
        top = int(np.where(full, self.y, -np.inf).argmax())
        self.best, self.best_lr = float(self.y[top]), float(10 ** self.x[top])

    def _smooth(self, raw: Array) -> Array:
        """Smooth with weights 1-2-1 over neighbours close in lr and in score, which preserves cliffs."""
        smooth: Array = raw.copy()
        cliff = 0.1 * (raw.max() - self.trivial)
        for i in range(len(raw)):
            close = [j for j in (i - 1, i + 1) if 0 <= j < len(raw) and abs(self.x[j] - self.x[i]) < 0.4]
            close = [j for j in close if abs(raw[j] - raw[i]) < cliff]
            smooth[i] = (2 * raw[i] + raw[close].sum()) / (2 + len(close))
        return smooth

    def score(self, lr: float) -> float:
        """Return the expected score of a run with this ``max_lr``; outside the grid, that of its nearest end."""
        return float(np.interp(math.log10(lr), self.x, self.y))

    def hit(self, lr: float, tolerance: float = 0.01) -> bool:
        """Return whether the score is within this share of |best| of the best one."""
        return self.score(lr) >= self.best - tolerance * abs(self.best) - 1e-12

    def regret(self, lr: float) -> float:
        """Return the share of what training can gain over a trivial model that this lr loses, in [0, 1]."""
        return float(np.clip((self.best - self.score(lr)) / (self.best - self.trivial), 0, 1))

    def basin(self, tolerance: float = 0.01) -> tuple[float, float]:
        """Return the ends, in log10 lr, of the interval of hits around the best learning rate."""
        grid = np.arange(self.x[0], self.x[-1] + 1e-9, 0.01)
        hits = np.array([self.hit(float(10**x), tolerance) for x in grid])
        middle = int(abs(grid - math.log10(self.best_lr)).argmin())
        misses = np.flatnonzero(~hits)
        low = misses[misses < middle].max(initial=-1) + 1
        high = misses[misses > middle].min(initial=len(grid)) - 1
        return float(grid[low]), float(grid[high])
