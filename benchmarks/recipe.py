"""Compare what people pick for a training run, at equal cost: how well does the run end?

Every recipe gets the same number of optimizer steps, those of its search included: ``length`` times the steps of the
task, and the 150 of a range test. One that does not search trains with all of them. A search that leaves fewer steps
than a quarter of the task's is not run. Each recipe is used as its documentation recommends, see `recipe_methods.py`.

The tasks are those of `suggestion.py`. Columns, over the tasks:

- regret: the lost share of what training can gain over a trivial model, mean; the best run known of a task has none. A
  run that ends worse than the trivial model, or diverges, loses all.
- worst: the largest mean regret of a task.
- won: share of tasks on which the recipe is the best, or within 1 % of the gain.
- search: optimizer steps of the search, mean.

    python benchmarks/recipe.py --shared FOLDER            # runs what is not in recipe.json, prints the tables
    python benchmarks/recipe.py --table --picture FILE     # prints and draws what is stored

``recipe.json`` keeps the score of each run, with hardware, versions and n; ``--quick`` runs three tasks with one seed
and stores nothing.
"""

import argparse
import itertools
import json
import math
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import installed, machine
from recipe_methods import RECIPES, Recipe, TimedTask, named
from suggestion import HALVES, Problem, be_quiet, problems
from suggestion_oracle import evaluate
from suggestion_tasks import batches
from torch import nn

RESULTS = Path(__file__).with_name("recipe.json")
TEST_STEPS = 150
LEAST = 0.25  # of the task's steps, for training
WINS = 0.01  # of the gain
CALIBRATION = 50  # batches for the statistics of batch norms, as schedulefree's documentation shows
PACKAGES = ("lightning", "prodigyopt", "dadaptation", "schedulefree", "fastai")
Scores = dict[str, dict[str, dict[str, Any]]]  # length -> task -> recipe -> what `measure` returns


# ------------------------------------------------------------------------------------------ one run
def train(task: TimedTask, recipe: Recipe, found: Mapping[str, float], steps: int, seed: int) -> float:
    """Return the score after training, NaN if it became not finite."""
    model = task.model(seed)
    training = recipe.build(task, model, found, steps)
    set_mode = {mode: getattr(training.optimizer, mode) if recipe.is_averaged else _nothing for mode in _MODES}
    x_train, y_train, x_val, y_val = task.data(seed)
    order = batches(x_train, y_train, min(task.batch_size, len(x_train)), 100_000 + seed)
    model.train()
    set_mode["train"]()
    for x, y in itertools.islice(order, steps):
        loss = task.loss(model(x), y)
        if not math.isfinite(loss.item()):
            return math.nan
        training.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()
        if training.schedule is not None:
            training.schedule.step()
    set_mode["eval"]()
    if recipe.is_averaged:
        _calibrate(model, (x for x, _ in itertools.islice(order, CALIBRATION)))
    return evaluate(task, model, x_val, y_val)  # type: ignore[arg-type]  # it asks for no more than a `TimedTask` has


_MODES = ("train", "eval")


def _nothing() -> None:
    pass


@torch.no_grad()
def _calibrate(model: nn.Module, inputs: Any) -> None:
    """Measure the statistics of batch norms again, as those so far belong to other weights."""
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
        for x in inputs:
            model(x)


def measure(folder: str | None, length: int, seeds: int, names: Sequence[str], name: str) -> dict[str, Any]:
    """Run recipes on a task; return what each has found, and its scores."""
    be_quiet()
    problem = problems(folder)[name]
    task: Any = problem.task
    task.model(0)  # some models are pre-trained on the first call, outside of the search
    budget = length * task.steps + TEST_STEPS
    measured = dict[str, Any]()
    for recipe in [it for it in named(names) if it.missing() is None]:
        runs = (_run(task, recipe, budget, seed) for seed in range(seeds))
        # A search that is too long for the first seed is not tried with others.
        done = [run for run in itertools.takewhile(lambda run: run is not None, runs) if run is not None]
        if len(done) == seeds:
            scores = [float(f"{run['score']:.6g}") for run in done]
            measured[recipe.name] = {"score": scores, "steps": [run["steps"] for run in done]}
    return measured


def _run(task: TimedTask, recipe: Recipe, budget: int, seed: int) -> dict[str, Any] | None:
    found, steps = recipe.find(task, seed, budget)
    steps = max(steps - 1, 0) if "pl_onecycle" in recipe.name else steps  # the fit around our search takes one step
    if budget - steps < LEAST * task.steps:
        return None
    return {"score": train(task, recipe, found, budget - steps, seed), "steps": steps}


# ----------------------------------------------------------------------------------------------- tables
def regrets(runs: Mapping[str, Any], problem: Problem, length: int) -> dict[str, float]:
    """Return the mean regret of each recipe on a task."""
    trivial = problem.curve.trivial
    means = {name: float(np.mean([_useful(score, trivial) for score in run["score"]])) for name, run in runs.items()}
    best = max([*means.values(), *([problem.curve.best] if length == 1 else [])])
    return {name: (best - mean) / (best - trivial) for name, mean in means.items()}


def _useful(score: float, trivial: float) -> float:
    return trivial if math.isnan(score) else max(score, trivial)


HEAD = f"{'':<42}{'regret':>8}{'worst':>7}{'won':>6}{'search':>8}{'tasks':>7}"


def table(tasks: Mapping[str, Any], by_task: Mapping[str, dict[str, float]]) -> str:
    """Return one row per recipe, sorted by regret."""
    rows = list[tuple[float, str]]()
    for name in dict.fromkeys(name for regret in by_task.values() for name in regret):
        own = {task: regret[name] for task, regret in by_task.items() if name in regret}
        won = np.mean([regret <= min(by_task[task].values()) + WINS for task, regret in own.items()])
        steps = np.mean([tasks[task][name]["steps"] for task in own])
        mean, worst = float(np.mean([*own.values()])), max(own.values())
        rows.append((mean, f"{name:<42}{mean:>8.3f}{worst:>7.2f}{won:>6.0%}{steps:>8.0f}{len(own):>7}"))
    return "\n".join([HEAD, *(row for _, row in sorted(rows))])


def print_tables(scores: Scores, folder: str | None) -> None:
    """Print one table for each length and group of tasks."""
    every = problems(folder)
    for length, tasks in scores.items():
        known = {name: runs for name, runs in tasks.items() if name in every}
        for group in sorted({every[name].group for name in known}):
            by_task = {
                name: regrets(runs, every[name], int(length))
                for name, runs in known.items()
                if every[name].group == group
            }
            n = min(len(run["score"]) for name in by_task for run in known[name].values())
            print(f"\n{length} times the steps, {group}: {len(by_task)} tasks, n = {n}")
            print(table(known, by_task), flush=True)


def draw(scores: Scores, folder: str | None, path: str) -> None:
    """Draw the regret of each recipe on each task, and its mean, for each length."""
    from matplotlib.figure import Figure

    every = problems(folder)
    figure = Figure((7 * len(scores), 5), layout="constrained")
    for ax, (length, tasks) in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores.items(), strict=True):
        by_task = {name: regrets(runs, every[name], int(length)) for name, runs in tasks.items() if name in every}
        means = dict[str, float]()
        for name in [recipe.name for recipe in RECIPES]:
            own = [regret[name] for regret in by_task.values() if name in regret]
            if own:
                means[name] = float(np.mean(own))
        order = sorted(means, key=means.__getitem__, reverse=True)
        for row, name in enumerate(order):
            own = [max(regret[name], 1e-4) for regret in by_task.values() if name in regret]
            color = "tab:orange" if "pl_onecycle" in name else "tab:blue"
            ax.plot(own, [row] * len(own), "|", color=color, alpha=0.6, ms=9)
            ax.plot(max(means[name], 1e-4), row, "o", color=color)
        ax.set_yticks(range(len(order)), order)
        ax.set_xscale("log")
        ax.set_xlabel("regret: share of the gain that is lost (dots: mean)")
        ax.set_title(f"{length} times the steps, {len(by_task)} tasks")
    figure.savefig(path, dpi=110)


# ------------------------------------------------------------------------------------------------- main
def load() -> dict[str, Any]:
    """Return what is stored."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {"scores": {}}


def save(stored: Mapping[str, Any]) -> None:
    """Write the runs, one line per task, with hardware and versions."""
    packages = {name: installed(name) for name in PACKAGES}
    now = machine() | {name: there for name, there in packages.items() if there != "not installed"}
    known = stored.get("machine", packages)  # rows that do not run again keep the versions that they were measured with
    lines = [
        f"{json.dumps(length)}:{{\n" + ",\n".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in tasks.items()) + "}"
        for length, tasks in stored["scores"].items()
    ]
    RESULTS.write_text(f'{{"machine":{json.dumps(known | now)},\n"scores":{{\n' + ",\n".join(lines) + "}}\n")


def choose(arguments: argparse.Namespace) -> list[str]:
    """Return the names of the selected tasks."""
    groups = [*(f"half {half}" for half in HALVES[arguments.half]), "shared"]
    parts = arguments.tasks.split(",")
    every = problems(arguments.shared).items()
    chosen = [name for name, problem in every if problem.group in groups and any(part in name for part in parts)]
    return chosen[:: max(len(chosen) // 3, 1)][:3] if arguments.quick else chosen


def run_all(measured: Callable[[str], dict[str, Any]], names: Sequence[str], jobs: int) -> Any:
    """Yield (task, what was measured)."""
    if jobs == 1:
        yield from zip(names, map(measured, names), strict=True)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from zip(names, pool.map(measured, names), strict=True)


def main(arguments: argparse.Namespace) -> None:
    """Run what is missing, and print the tables."""
    be_quiet()
    stored = {"scores": {}} if arguments.quick else load()
    length, names, seeds = str(arguments.length), choose(arguments), 1 if arguments.quick else arguments.seeds
    recipes = arguments.recipes.split(",")
    if not arguments.table:
        for recipe in RECIPES:
            if reason := recipe.missing():
                print(f"{recipe.name} is left out: {reason}")
        scores = stored["scores"].setdefault(length, {})
        if not arguments.again:
            names = [name for name in names if name not in scores]
        measured = partial(measure, arguments.shared, arguments.length, seeds, recipes)
        for name, runs in run_all(measured, names, arguments.jobs):
            scores[name] = scores.get(name, {}) | runs
            print(name, flush=True)
            if not arguments.quick:
                save(stored)
    print_tables(stored["scores"], arguments.shared)
    if arguments.picture:
        draw(stored["scores"], arguments.shared, arguments.picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--length", type=int, default=1, help="multiple of the task's steps")
    parser.add_argument("--half", choices=HALVES, default="all", help="own tasks: a part, A and B, or all")
    parser.add_argument("--tasks", default="", help="only tasks whose name contains one of these, with commas")
    parser.add_argument("--recipes", default="", help="only recipes whose name contains one of these, with commas")
    parser.add_argument("--shared", metavar="FOLDER", help="also the tasks of this folder: tasks.py and oracle.json")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--again", action="store_true", help="also run what is stored")
    parser.add_argument("--table", action="store_true", help="only print what is stored")
    parser.add_argument("--picture", metavar="FILE", help="draw the regrets")
    parser.add_argument("--quick", action="store_true", help="three tasks, one seed, nothing is stored")
    main(parser.parse_args())
