"""Compare the learning rates that `LRRangeTest` and its peers suggest by the runs that follow.

A suggestion is good if a one-cycle run with it as ``max_lr`` ends nearly as well as the best one. Each task has an
oracle: such runs over a grid of learning rates, with 5 or 10 seeds (`suggestion_oracle.py`). The suggestions come from
real fits with weights and batches that the oracle has not seen. Columns:

- hit: the final accuracy or loss is within 1 % of the best.
- regret: the lost share of what training can gain over a trivial model, mean; no suggestion loses all.
- worst: the largest regret.
- points: accuracy points lost, mean and worst, over the tasks judged by accuracy.
- std: standard deviation of log10 lr over the seeds, mean over the tasks.
- none: share of runs without a suggestion.
- steps: optimizer steps of the test, mean.

The own tasks are in three parts of eight: A was used while the method of `LRRangeTest` was chosen, B and C were not.
With eight tasks a hit rate is accurate to 15 to 20 points. The tables also list a constant, which needs no test.

The peers torch-lr-finder, pytorch-ignite and fastai are optional; the ones that can be imported run.

    python benchmarks/suggestion.py --verify --jobs 2
    python benchmarks/suggestion.py --lengths 1,4,16 --tasks vae,autoencoder,diabetes,hinge --seeds 2

``--shared FOLDER`` adds tasks from a folder with a ``tasks.py`` and an ``oracle.json``; ``--quick`` uses one seed.

Result (torch 2.14.1, lightning 2.6.6, Python 3.11, 2 cores of a shared x86 server with other work on them, n = 3 seeds,
5 minutes with two jobs; of the last three the rule on a plain sweep), hit, regret and its worst:

                                           half A           half B           half C  fourteen others
    LRRangeTest, trough + verify    67% .022  .08    54% .031  .25    54% .022  .21    90% .006  .05
    LRRangeTest, trough (default)   62% .024  .11    58% .040  .32    67% .023  .22    90% .005  .07
    a constant, 0.03                50% .240  .94    75% .135  .99    50% .025  .09    79% .014  .07
    fastai, minimum                 38% .105  .63    67% .035  .13    42% .142  .89    71% .027  .36
    pytorch-ignite                  25% .137  .78    33% .141 1.00    50% .033  .18    74% .018  .35
    torch-lr-finder                 25% .118  .78    29% .174 1.00    50% .145 1.00    76% .039 1.00

No test gave no suggestion. Before controls and the distance to the upper end, the default had 42 % and .031 on A, 46 %
and .124 on B, 90 % and .006 on the others. Half C was evaluated once, after all choices; B, earlier versions of which
had revealed faults, was evaluated with it. Both ran again when the sweeps took over the momentum of the run's cycle.
"""

import argparse
import importlib.util
import json
import logging
import math
import multiprocessing
import platform
import sys
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import suggestion_oracle
import torch
from suggestion_oracle import OWN, OracleCurve
from suggestion_peers import PEERS, CycledModule, Lrs, Peer, Task, counted_steps, loaders, trainer

from pl_onecycle import LRRangeTest
from pl_onecycle.curves import METHODS, Suggestion, suggest

CONSTANT = 0.03  # a typical choice without a test
OURS = "LRRangeTest"
HALVES = {"A": "A", "B": "B", "C": "C", "both": "AB", "all": "ABC", "none": ""}


# ------------------------------------------------------------------------------------------ problems
@dataclass(frozen=True)
class Problem:
    """A task, the oracle that judges it, and its group in the report."""

    task: Task
    curve: OracleCurve
    group: str


@cache
def problems(folder: str | None) -> dict[str, Problem]:
    """Return the own tasks, and those of another folder with a ``tasks.py`` and an ``oracle.json``."""
    stored = suggestion_oracle.load()
    own = [Problem(task, OracleCurve(stored[task.name]), f"half {task.half}") for task in OWN if task.name in stored]
    return {problem.task.name: problem for problem in [*own, *(_shared(Path(folder)) if folder else [])]}


def _shared(folder: Path) -> list[Problem]:
    spec = importlib.util.spec_from_file_location("shared_tasks", folder / "tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["shared_tasks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    records = json.loads((folder / "oracle.json").read_text())
    return [Problem(task, OracleCurve(_own_form(records[task.name])), "shared") for task in module.TASKS]


def _own_form(record: dict[str, Any]) -> dict[str, Any]:
    """Convert a record to our form; its accuracies below that of a trivial model count as they are."""
    is_loss = record["kind"] == "loss"
    trivial = -(record["trivial"] or record["floor"]) if is_loss else record["floor"]
    return {**record, "trivial": trivial, "floored": is_loss}


# ----------------------------------------------------------------------------------------- measuring
@dataclass(frozen=True)
class Answer:
    """The suggestion of one method for one task and seed."""

    task: str
    method: str
    lr: float | None
    steps: int


@dataclass(frozen=True)
class Plan:
    """The measurements of each task."""

    folder: str | None
    seeds: int
    verify: bool
    peers: tuple[Peer, ...]


def be_quiet() -> None:
    """Use one thread, and silence Lightning and the peers."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.CRITICAL)
    torch.set_num_threads(1)


def measure(plan: Plan, name: str) -> list[Answer]:
    """Run every method on a task, with every seed."""
    be_quiet()
    task = problems(plan.folder)[name].task
    task.model(0)  # some models are pre-trained on the first call, outside of the test
    answers = [Answer(name, f"constant {CONSTANT:g}", CONSTANT, 0)]
    for seed in range(plan.seeds):
        for lrs, steps in [ours(task, seed), *([verified(task, seed)] if plan.verify else [])]:
            answers += [Answer(name, method, lr, steps) for method, lr in lrs.items()]
        for peer in plan.peers:
            lrs, steps = peer.suggest(task, seed)
            answers += [Answer(name, method, lr, steps) for method, lr in lrs.items()]
    return answers


def ran(task: Task, seed: int, **options: Any) -> tuple[LRRangeTest, int]:
    """Run a test at the start of a fit of one step, and count its steps."""
    module = CycledModule(task, seed)
    test = LRRangeTest(apply=False, report=False, **options)
    with counted_steps() as steps:
        trainer(callbacks=[test], max_steps=1).fit(module, *loaders(task, seed))
    return test, steps[0] - 1


def ours(task: Task, seed: int) -> tuple[Lrs, int]:
    """Return the suggestions of the default method and of the others on the same curve."""
    test, steps = ran(task, seed)
    assert test.curve is not None
    others = {f"{OURS}, {method}": _lr(suggest(test.curve, method)) for method in METHODS if method != test.method}
    return {f"{OURS}, {test.method} (default)": _lr(test.suggestion), **others}, steps


def verified(task: Task, seed: int) -> tuple[Lrs, int]:
    """Return the suggestion of the default method, verified by short cycles."""
    test, steps = ran(task, seed, verify=True)
    return {f"{OURS}, {test.method} + verify": _lr(test.suggestion)}, steps


def _lr(suggestion: Suggestion | None) -> float | None:
    return None if suggestion is None else suggestion.lr


# -------------------------------------------------------------------------------------------- tables
@dataclass(frozen=True)
class Row:
    """The score of a method on a group of tasks."""

    method: str
    source: str
    hit: float
    regret: float
    worst: float
    points: float
    worst_points: float
    std: float
    none: float
    steps: float

    def __str__(self) -> str:
        """Return a row of the table."""
        points = f"{self.points:.1f} ({self.worst_points:.1f})"
        return (
            f"{self.method:<34}{self.source:<23}{self.hit:>5.0%}{self.regret:>8.3f}{self.worst:>7.2f}"
            f"{points:>13}{self.std:>6.2f}{self.none:>6.0%}{self.steps:>7.0f}"
        )


HEAD = f"{'':<57}{'hit':>5}{'regret':>8}{'worst':>7}{'points':>13}{'std':>6}{'none':>6}{'steps':>7}"


def score(method: str, answers: Sequence[Answer], curves: dict[str, OracleCurve], sources: dict[str, str]) -> Row:
    """Score the suggestions of a method."""
    by_task: dict[str, list[float]] = {}
    for answer in answers:
        by_task.setdefault(answer.task, []).extend([] if answer.lr is None else [answer.lr])
    given = [(curves[task], lr) for task, lrs in by_task.items() for lr in lrs]
    regrets = [curve.regret(lr) for curve, lr in given] + [1.0] * (len(answers) - len(given))
    points = [100 * (curve.best - curve.score(lr)) for curve, lr in given if curve.kind == "cls"]
    stds = [float(np.std(np.log10(lrs))) for lrs in by_task.values() if len(lrs) > 1]
    return Row(
        method,
        sources.get(method, ""),
        sum(curve.hit(lr) for curve, lr in given) / len(answers),
        float(np.mean(regrets)),
        max(regrets),
        float(np.mean(points)) if points else math.nan,
        max(points, default=math.nan),
        float(np.mean(stds)) if stds else math.nan,
        1 - len(given) / len(answers),
        float(np.mean([answer.steps for answer in answers])),
    )


def table(answers: Iterable[Answer], curves: dict[str, OracleCurve], sources: dict[str, str]) -> str:
    """Return one row per method, sorted by hits."""
    by_method: dict[str, list[Answer]] = {}
    for answer in answers:
        by_method.setdefault(answer.method, []).append(answer)
    rows = [score(method, given, curves, sources) for method, given in by_method.items()]
    return "\n".join([HEAD, *map(str, sorted(rows, key=lambda row: (-row.hit, row.regret)))])


def details(answers: Iterable[Answer], curves: dict[str, OracleCurve]) -> str:
    """List every suggestion by task, with the ends of the interval of hits."""
    by_task: dict[str, dict[str, list[Answer]]] = {}
    for answer in answers:
        by_task.setdefault(answer.task, {}).setdefault(answer.method, []).append(answer)
    lines = list[str]()
    for task, by_method in by_task.items():
        low, high = curves[task].basin()
        lines.append(f"{task}: hits from {10**low:.2g} to {10**high:.2g}")
        for method, given in by_method.items():
            row = score(method, given, curves, {})
            lrs = " ".join("none" if answer.lr is None else f"{answer.lr:.2g}" for answer in given)
            lines.append(f"    {method:<34}{row.hit:>5.0%}{row.regret:>8.3f}  {lrs}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------- picture
def draw(answers: Sequence[Answer], chosen: Sequence[Problem], path: str) -> None:
    """Draw the oracle's curve and the suggestions for each task."""
    from matplotlib.figure import Figure

    methods = [method for method in dict.fromkeys(answer.method for answer in answers) if _is_drawn(method)]
    rows = math.ceil(len(chosen) / 3)
    figure = Figure((18, 4 * rows + 1), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    for ax, problem in zip(axes, chosen, strict=False):
        _draw_oracle(ax, problem)
        for k, method in enumerate(methods):
            lrs = [a.lr for a in answers if (a.task, a.method) == (problem.task.name, method) and a.lr is not None]
            below = -0.06 * (k + 1)
            ax.plot(lrs, [below] * len(lrs), "|", ms=9, mew=2, color=f"C{k % 10}", label=method)
    for ax in axes[len(chosen) :]:
        ax.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=80)


def _is_drawn(method: str) -> bool:
    return not method.startswith((OURS, "constant")) or "default" in method or "verify" in method


def _draw_oracle(ax: Any, problem: Problem) -> None:
    """Draw the share of the gain that each ``max_lr`` keeps; lrs that hit are shaded."""
    curve = problem.curve
    low, high = curve.basin()
    ax.axvspan(10**low, 10**high, color="tab:green", alpha=0.2, lw=0)
    ax.plot(10**curve.x, [1 - curve.regret(10**x) for x in curve.x], "k.-", lw=1)
    ax.set_xscale("log")
    ax.set_xlim(1e-7, 40)
    ax.set_title(f"{problem.task.name} ({problem.group})", fontsize=10)
    ax.set_xlabel("max_lr")
    ax.set_ylabel("share of the best gain")


# ---------------------------------------------------------------------------------------------- main
def choose(arguments: argparse.Namespace) -> list[Problem]:
    """Return the selected problems."""
    wanted = [*(f"half {half}" for half in HALVES[arguments.half]), "shared"]
    every = problems(arguments.shared).items()
    return [problem for name, problem in every if problem.group in wanted and arguments.tasks in name]


def ask_all(plan: Plan, names: Sequence[str], jobs: int) -> list[Answer]:
    """Measure every task, in ``jobs`` processes."""
    ask = partial(measure, plan)
    if jobs == 1:
        return [answer for name in names for answer in ask(name)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        return [answer for answers in pool.map(ask, names) for answer in answers]


def sources_of(peers: Sequence[Peer]) -> dict[str, str]:
    """Return the source of the suggestions of each method."""
    return {method: peer.source() for peer in peers for method in peer.methods}


def main(arguments: argparse.Namespace) -> None:
    """Measure and print one table for each group of tasks."""
    be_quiet()
    if arguments.oracle:
        chosen_tasks = [task for task in OWN if task.half in HALVES[arguments.half] and arguments.tasks in task.name]
        suggestion_oracle.compute(chosen_tasks)
        return
    if arguments.lengths:
        lengths = [int(length) for length in arguments.lengths.split(",")]
        named = [task for task in OWN if any(part in task.name for part in arguments.tasks.split(","))]
        suggestion_oracle.compare_lengths(named, lengths, arguments.seeds)
        return
    chosen = choose(arguments)
    plan = Plan(arguments.shared, 1 if arguments.quick else arguments.seeds, arguments.verify, PEERS)
    print(f"torch {version('torch')}, lightning {version('lightning')}, Python {platform.python_version()}")
    for peer in PEERS:
        if reason := peer.missing():
            print(f"{peer.package} cannot be imported ({reason}): its rule on a plain sweep replaces it")
    answers = ask_all(plan, [problem.task.name for problem in chosen], arguments.jobs)
    for group in dict.fromkeys(problem.group for problem in chosen):
        curves = {problem.task.name: problem.curve for problem in chosen if problem.group == group}
        print(f"\n{group}: {len(curves)} tasks, n = {plan.seeds}")
        given = [answer for answer in answers if answer.task in curves]
        print(table(given, curves, sources_of(PEERS)), flush=True)
        if arguments.each:
            print(f"\n{details(given, curves)}", flush=True)
    if arguments.picture:
        draw(answers, chosen, arguments.picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--half", choices=HALVES, default="all", help="own tasks: a part, A and B, or all")
    parser.add_argument(
        "--tasks", default="", help="only tasks whose name contains this; with --lengths one of these, with commas"
    )
    parser.add_argument("--verify", action="store_true", help="also with LRRangeTest(verify=True)")
    parser.add_argument("--shared", metavar="FOLDER", help="also the tasks of this folder: tasks.py and oracle.json")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--each", action="store_true", help="also list every suggestion")
    parser.add_argument(
        "--lengths", metavar="1,4,16", help="only the best lr of runs so many times as long; --tasks may have commas"
    )
    parser.add_argument("--picture", metavar="FILE", help="draw oracles and suggestions")
    parser.add_argument("--oracle", action="store_true", help="only recompute the oracle of the own tasks")
    main(parser.parse_args())
