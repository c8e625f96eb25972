"""Measure what the path that users take costs, against bare fits and other packages' finders in the same run.

Small nets on scikit-learn's digits, batches of 32: an MLP, whose step of about a millisecond is nearly all Lightning's,
and a net of two convolutions with BatchNorm. Times run from the first ``on_train_epoch_start``.

- range test: `LRRangeTest` with its defaults and without a report: coarse and dense sweep, suggestion with its
  interval, apply. Against the loop of a fit of the steps that the test has trained; Lightning's `LearningRateFinder`
  in as many steps, with its saving and restoring and its progress bar; torch-lr-finder in as many steps, if it is
  installed; and the floor, a fit with a callback that only writes the lr and fetches the loss of each step.
- report: the same test with its report, until the fit continues; pictures are drawn at the end of the first batch.
- probe: `WeightDecayProbe` with 4 candidates and no report, against 4 fits that together take its steps; the floor is
  these fits with the callback above.
- trial: `run_trial` of 100 steps, without early stop, against the loop of a fit of 101 steps, as many as it trains.
- length: the loop of a fit of 400 steps whose one-cycle schedule follows the run, without and with a ``max_time``,
  against that of one whose ``total_steps`` is given.
- import: ``import pl_onecycle`` after ``import lightning.pytorch``, each time in a process of its own.

    python benchmarks/cost.py --quick

The results stand in docs/measured.md.
"""

import compileall
import importlib
import importlib.util
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache, partial
from typing import Any

import lightning.pytorch as pl
from digits_fits import (
    KINDS,
    Isolation,
    Kind,
    Least,
    Net,
    Timed,
    fit,
    lightnings_finder,
    loader,
    loop_seconds,
    trial_seconds,
)
from measuring import ROOT, Measure, Row, clock, interleaved, main, middle, ratios
from torch import nn
from torch.optim import SGD

from pl_onecycle import LossCurve, LRRangeTest, WeightDecayProbe, configure_one_cycle, suggest

PEER = "torch-lr-finder"
CANDIDATES, PROBE_STEPS, TRIAL_STEPS, FIT_STEPS = (1e-2, 1e-3, 1e-4, 1e-5), 60, 100, 400


# ----------------------------------------------------------------------------------------- range test
class Test(Timed, LRRangeTest):
    """The range test that users put into their Trainer."""


def tested(kind: Kind, report: bool) -> Test:
    """Return a range test that has run in a fit of one step."""
    test = Test(report=report)
    fit(Net(kind), 1, test)
    return test


def lightnings_seconds(kind: Kind, steps: int) -> float:
    """Return the time of Lightning's search, in a fit of one step."""
    finder = lightnings_finder(steps)
    fit(Net(kind), 1, finder)
    assert finder.optimal_lr is not None
    assert len(finder.optimal_lr.results["lr"]) == steps
    return finder.seconds


def peers_seconds(kind: Kind, steps: int) -> float:
    """Return the time of torch-lr-finder's range test, which has a loop of its own, without Lightning."""
    pl.seed_everything(0, verbose=False)
    net, batches = Net(kind).net, loader()
    start = clock()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        optimizer = SGD(net.parameters(), 1e-6, momentum=0.9)
        finder = importlib.import_module("torch_lr_finder").LRFinder(net, optimizer, nn.CrossEntropyLoss())
        finder.range_test(batches, end_lr=0.1, num_iter=steps, diverge_th=float("inf"))
        finder.reset()
    return clock() - start


def isolating(kind: Kind) -> float:
    """Return the time of entering and of leaving a trial, in a fit of one step."""
    isolation = Isolation()
    fit(Net(kind), 1, isolation)
    return isolation.enter + isolation.leave


def parts_of(kind: Kind, curve: LossCurve, trials: int, n: int) -> str:
    """Measure the parts of a range test that are no steps, and return a sentence about them."""

    def suggesting() -> float:
        start = clock()
        suggest(curve)
        return clock() - start

    seconds = interleaved({"isolation": partial(isolating, kind), "suggestion": suggesting}, n)
    isolation, suggestion = (middle([1e3 * value for value in values], "ms") for values in seconds.values())
    return f"isolation takes {isolation} in each of {trials} trials, the suggestion with its interval {suggestion}"


def range_test_rows(kind: Kind, n: int) -> Iterator[Row]:
    """Measure the range test in fits of one kind of net."""
    first = tested(kind, report=True)
    assert first.curve is not None
    steps, trials = first.steps_taken, len(first.coarse) + 1
    drawing: list[float] = []
    saving: list[float] = []

    def reported() -> float:
        test = tested(kind, report=True)
        drawing.append(test.drawing * 1e3)
        saving.append(test.saving * 1e3)
        return test.seconds

    measures: dict[str, Measure] = {
        "bare": lambda: loop_seconds(Net(kind), steps),
        "ours": lambda: tested(kind, report=False).seconds,
        "report": reported,
        "Lightning": partial(lightnings_seconds, kind, steps),
        "floor": lambda: loop_seconds(Net(kind), steps, Least()),
    }
    if importlib.util.find_spec("torch_lr_finder"):
        measures[PEER] = partial(peers_seconds, kind, steps)
    seconds = interleaved(measures, n)
    bare = {name: ratios(values, seconds["bare"]) for name, values in seconds.items()}
    takes = middle(bare["ours"])
    peer = middle(bare[PEER]) if PEER in bare else "not installed"
    parts = parts_of(kind, first.curve, trials, n)
    theirs, floor = middle(bare["Lightning"]), middle(bare["floor"])
    find = f"`LRRangeTest` with its defaults ({steps} steps), {kind}"
    others = f"Lightning's finder {theirs}; {PEER} {peer}; floor, a callback that writes the lr and fetches the loss: "
    because = f"the floor is {floor} and Lightning's finder takes {theirs}; {parts}"
    limits = {"MLP": (1.15, 1.5), "conv": (1.06, 1.2)}[kind]
    yield Row.of(
        f"{find}, no report, against the same steps of a bare fit",
        bare["ours"],
        limits[0],
        reference=f"{others}{floor}",
        because=because,
    )
    absolute = [[value * 1e3 for value in seconds[name]] for name in ("ours", "Lightning")]
    yield Row.of(
        f"{find}, no report, against Lightning's finder",
        ratios(seconds["ours"], seconds["Lightning"]),
        1.0,
        reference=" against ".join(middle(values, "ms") for values in absolute),
        because=f"it takes {takes} times a bare fit and Lightning's finder {theirs}; the floor is {floor}; {parts}",
    )
    files, pictures = (middle(values[1:], "ms") for values in (saving, drawing))  # the first repetition is not counted
    yield Row.of(
        f"{find}, with its report, until the fit continues, against the same steps of a bare fit",
        bare["report"],
        limits[1],
        reference=f"writing the files takes {files}; pictures, after the first batch, {pictures}",
        because=f"without its report it takes {takes}, and writing the files {files}",
    )


# ---------------------------------------------------------------------------------------------- probe
class Probe(Timed, WeightDecayProbe):
    """The probe that users put into their Trainer."""


def probed(kind: Kind) -> Probe:
    """Return a probe that has run in a fit of one step."""
    probe = Probe(CANDIDATES, num_steps=PROBE_STEPS, report=False)
    fit(Net(kind, lr=0.05), 1, probe)
    return probe


def probe_row(kind: Kind, n: int) -> Row:
    """Measure the probe in fits of one kind of net."""
    first = probed(kind)
    share, more = divmod(first.steps_taken, len(CANDIDATES))
    runs = [share + (i < more) for i in range(len(CANDIDATES))]
    seconds = interleaved(
        {
            "ours": lambda: probed(kind).seconds,
            "bare": lambda: sum(loop_seconds(Net(kind), steps) for steps in runs),
            "floor": lambda: sum(loop_seconds(Net(kind), steps, Least()) for steps in runs),
            "isolation": partial(isolating, kind),
        },
        n,
    )
    floor = middle(ratios(seconds["floor"], seconds["bare"]))
    isolation, bare = (middle([1e3 * value for value in seconds[name]], "ms") for name in ("isolation", "bare"))
    return Row.of(
        f"`WeightDecayProbe`, 4 candidates, {first.steps_taken} steps together, {kind}, against 4 bare fits",
        ratios(seconds["ours"], seconds["bare"]),
        {"MLP": 1.2, "conv": 1.05}[kind],
        reference=f"floor, a callback that writes the lr and fetches the loss: {floor}; {first.saved:.0%} of the steps"
        " were saved",
        because=f"the floor is {floor}, and isolation takes {isolation} in each of 4 trials, where the bare fits take"
        f" {bare}",
    )


# ------------------------------------------------------------------------------------- trial and length
class Scheduled(Net):
    """A net with a one-cycle schedule; with ``total_steps`` it does not follow its run."""

    def __init__(self, total_steps: int | None) -> None:
        super().__init__()
        self.total_steps = total_steps

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, super().configure_optimizers(), total_steps=self.total_steps)


def trial_row(n: int) -> Row:
    """Measure a trial."""
    seconds = interleaved(
        {"ours": lambda: trial_seconds(Net(), TRIAL_STEPS), "bare": lambda: loop_seconds(Net(), TRIAL_STEPS + 1)}, n
    )
    return Row.of(
        f"`run_trial` of {TRIAL_STEPS} steps, MLP, against the {TRIAL_STEPS + 1} steps of a fit that it takes",
        ratios(seconds["ours"], seconds["bare"]),
        reference=middle([value * 1e3 for value in seconds["ours"]], "ms"),
    )


def scheduled_seconds(total_steps: int | None, max_time: Any) -> float:
    """Return the time of the loop of a fit with a one-cycle schedule."""
    return loop_seconds(Scheduled(total_steps), FIT_STEPS, max_time=max_time)


def length_rows(n: int) -> Iterator[Row]:
    """Measure what it costs that a schedule follows the length of its run."""
    for name, max_time in {"": None, " and a `max_time`": {"hours": 1}}.items():
        seconds = interleaved(
            {
                "follows": partial(scheduled_seconds, None, max_time),
                "is given": partial(scheduled_seconds, FIT_STEPS, max_time),
            },
            n,
        )
        yield Row.of(
            f"fit of {FIT_STEPS} steps{name}, MLP: schedule that follows its run against one of a given length",
            ratios(seconds["follows"], seconds["is given"]),
            reference=f"{middle([value * 1e3 / FIT_STEPS for value in seconds['is given']], 'ms')} a step",
        )


# --------------------------------------------------------------------------------------------- import
IMPORT = """
import importlib, sys, time
import lightning.pytorch
before, start = set(sys.modules), time.process_time()
for name in sys.argv[1:]:
    importlib.import_module(name)
own = time.process_time()
import pl_onecycle
end = time.process_time()
print(end - start, end - own, *sorted(set(sys.modules) - before))
"""


@cache
def compiled() -> str:
    """Return a folder with a copy of the package and its byte code, which an environment may not allow to write."""
    folder = f"{tempfile.gettempdir()}/compiled"
    shutil.copytree(ROOT / "pl_onecycle", f"{folder}/pl_onecycle", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(folder, quiet=1)
    return folder


def imported(first: Sequence[str] = ()) -> tuple[float, float, list[str]]:
    """Import the package in a new process.

    Args:
        first: Modules that are imported before.

    Returns:
        Milliseconds of all imports, those of its own, and the modules that were loaded.
    """
    command = [sys.executable, "-W", "ignore", "-c", IMPORT, *first]
    # Python imports from the folder in which it runs such a command.
    run = subprocess.run(command, cwd=compiled(), capture_output=True, text=True, check=True)
    total, own, *names = run.stdout.split()
    return float(total) * 1e3, float(own) * 1e3, names


def import_row(n: int) -> Row:
    """Measure the import."""
    names = imported()[2]
    others = [name for name in names if name.partition(".")[0] != "pl_onecycle"]
    total, own, _ = zip(*(imported(others) for _ in range(n)), strict=True)
    parts = f"{middle(own, 'ms')} for its own {len(names) - len(others)} modules"
    return Row.of(
        "`import pl_onecycle` after `import lightning.pytorch`",
        total,
        40,
        unit="ms",
        reference=f"{parts}; the rest for {len(others)} modules of other packages",
        because=f"it takes {parts}",
    )


def rows(quick: bool) -> Iterator[Row]:
    """Measure all."""
    n = 5 if quick else 31
    for kind in KINDS:
        yield from range_test_rows(kind, n)
    for kind in KINDS:
        yield probe_row(kind, 3 if quick else 21)
    yield trial_row(n)
    yield from length_rows(3 if quick else 21)
    yield import_row(3 if quick else 21)


if __name__ == "__main__":
    main(rows, __doc__)
