"""`LRRangeTest` and Lightning's own `LearningRateFinder` in the same fits and faults: which leaves a trace?

Both sweep the same range in the same number of steps and apply nothing, so a fit with either must end like the same fit
without: weights, buffers, flags, optimizers, schedulers, gradient scale, metrics, counters, random streams and
generators, attributes, batches, hooks, states of loaders and callbacks, calls of loggers, logged rows, files and the
content of checkpoints, compared bit for bit. The fits are those of `tests/scenarios`. The faults are those of
`tests/faults.py`, at the 14th batch of a fit that both pass. A fault that ends the fit must leave Trainer and module
unchanged and no file on disk, and the next fit of the same Trainer must end like one without a trial; after any other
fault the fit must end as without a finder. Each fit has its own writable directory, unless that is the fault.

A cell contains "pass", the parts that differ, or the exception. The authors of `LRRangeTest` chose fits and faults in
which a test at the start of a fit is easy to get wrong: they show where the two differ, not how often a user will
notice.

    python benchmarks/isolation.py

Result (torch 2.14.1, lightning 2.6.6, 2 cores of a shared x86 server, 111 fits and 19 faults in 76 s, one run):
`LRRangeTest` passes 130 of 130. `LearningRateFinder`: of the 111 fits 3 pass, 53 differ only in the global random
streams, 43 train other weights, 6 differ elsewhere and 6 raise; of the 19 faults 12 leave a Trainer that cannot fit
again, SIGTERM ends the process and leaves a checkpoint behind, 2 that prevent the finder from writing raise, and after
the 4 losses that are not finite only the random streams differ.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateFinder

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout: its tests hold the scenarios, no wheel does
from measuring import silence
from peers import PASS

from pl_onecycle import LRRangeTest
from tests.faults import FAULTS, Fault
from tests.scenarios import SCENARIOS, Fit, Marker, differences, shape_of

SWEEP = (1e-5, 1e-2, 25)
STRUCK = "momentum, weight decay, Nesterov"
AT = 13
STREAMS = "global random streams only"


# ------------------------------------------------------------------------------------------- the two
class MarkedFinder(LearningRateFinder):
    """Run the fit's `Marker` first; Lightning moves a finder to the head of the callbacks."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        marker = next(callback for callback in callbacks_of(trainer) if isinstance(callback, Marker))
        marker.before = shape_of(trainer)
        super().on_fit_start(trainer, pl_module)


def callbacks_of(trainer: Any) -> list[pl.Callback]:
    """Return the Trainer's callbacks, an attribute that Lightning does not declare."""
    return list(trainer.callbacks)


@dataclass(frozen=True)
class Finder:
    """How to build one of the two callbacks for the same sweep, and how many points it has recorded."""

    build: Callable[[], pl.Callback]
    points: Callable[[Any], int]


FINDERS = {
    "LRRangeTest": Finder(
        lambda: LRRangeTest(*SWEEP, early_stop_threshold=None, apply=False),
        lambda callback: 0 if callback.curve is None else len(callback.curve),
    ),
    "LearningRateFinder": Finder(
        lambda: MarkedFinder(*SWEEP, early_stop_threshold=None, update_attr=False),
        lambda callback: 0 if callback.optimal_lr is None else len(callback.optimal_lr.results["lr"]),
    ),
}

# What the second fit keeps of the fit that a fault has ended: its rows, and the number of epochs begun in all.
OF_ALL_FITS = {"rows", "checkpoints"}
# Missing at the start of a fit, where Lightning's finder runs its search.
MADE_LATER = {"val_check_batch", "loaders", "streams"}


# ------------------------------------------------------------------------------------------- verdicts
@contextmanager
def fit_of(scenario: str, finder: Finder | None = None) -> Iterator[Fit]:
    """Yield a fit in an empty directory, which is also the working directory."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Fit(SCENARIOS[scenario], Path(folder) / "fit", finder.build() if finder else None)
        finally:
            os.chdir(here)


@cache
def without_a_finder(scenario: str) -> dict[str, Any]:
    """Return the outcome of the fit without a finder."""
    with fit_of(scenario) as fit:
        return fit.run().outcome()


def invisible(scenario: str, finder: Finder) -> str:
    """Check that the fit ends like the same fit without a finder, and that the finder has swept unless resumed."""
    expected = without_a_finder(scenario)
    with fit_of(scenario, finder) as fit:
        try:
            wrong = differences(expected, fit.run().outcome())
        except Exception as error:
            return name_of(error)
        swept = fit.scenario.resumed or finder.points(fit.finder) > 1
        return named(wrong) if swept else "no sweep"


def survives(fault: str, finder: Finder) -> str:
    """Check that the fault leaves no trace, in a separate process because the fault may end it."""
    without_a_finder(STRUCK)  # cached for the child
    receiver, sender = get_context("fork").Pipe(duplex=False)
    child = get_context("fork").Process(target=lambda: sender.send(trace(FAULTS[fault], finder)))
    child.start()
    child.join()
    left = [path.name for path in Path(tempfile.gettempdir()).rglob("*.ckpt")]
    return receiver.recv() if child.exitcode == 0 else f"ends the process; {len(left)} checkpoint left behind"


def trace(fault: Fault, finder: Finder) -> str:
    """Return what a fault leaves behind, or a pass."""
    expected = without_a_finder(STRUCK)
    with fit_of(STRUCK, finder) as fit:
        with fault.strikes(fit, AT):
            try:
                fit.run()
            except BaseException as error:  # Ctrl-C and SIGTERM do not raise an Exception
                if fault.ends is None or not isinstance(error, fault.ends):
                    return name_of(error)
                left = differences(fit.marker.before, shape_of(fit.trainer))
            else:
                if fault.ends is not None:
                    return "swallowed"
        if fault.ends is None:
            return named(differences(expected, fit.outcome()))
        files = [path.name for path in fit.root.rglob("*.ckpt")]
        try:
            again = named([part for part in differences(expected, fit.run().outcome()) if part not in OF_ALL_FITS])
        except BaseException as error:
            again = name_of(error)
    trouble = {
        "changed": named([part for part in left if part not in MADE_LATER]),
        "left behind": named(files),
        "second fit": again,
    }
    return "; ".join(f"{what}: {which}" for what, which in trouble.items() if which != PASS) or PASS


def named(parts: list[str]) -> str:
    """Summarize the parts that differ; no parts is a pass."""
    if parts == ["streams"]:
        return STREAMS
    if parts == ["files"]:
        return "files left behind only"
    return ", ".join(parts[:5]) + (f" and {len(parts) - 5} more" if len(parts) > 5 else "") or PASS


def name_of(error: BaseException) -> str:
    """Return an exception's type and the start of its message, without directories."""
    words = [word for word in str(error).split() if "/" not in word]
    return f"{type(error).__name__}: {' '.join(words[:12])}".rstrip(": ")


# --------------------------------------------------------------------------------------------- table
def main(quick: bool) -> None:
    """Print one row per scenario and fault when it is done, and the counts."""
    torch.set_num_threads(1)
    print(f"torch {version('torch')}, lightning {version('lightning')}\n")
    print(f"| scenario | {' | '.join(FINDERS)} |\n|---|{'---|' * len(FINDERS)}")
    rows = [*((name, invisible) for name in SCENARIOS), *((name, survives) for name in FAULTS)]
    rows = [rows[0], rows[-1]] if quick else rows
    verdicts: dict[str, list[str]] = {who: [] for who in FINDERS}
    for name, verdict in rows:
        cells = {who: verdict(name, finder) for who, finder in FINDERS.items()}
        for who, cell in cells.items():
            verdicts[who].append(cell)
        print(f"| {'fault: ' * (verdict is survives)}{name} | {' | '.join(cells.values())} |", flush=True)
    for what in (PASS, STREAMS):
        print(f"| {what} | {' | '.join(f'{cells.count(what)} of {len(rows)}' for cells in verdicts.values())} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the first scenario and the last fault")
    arguments = parser.parse_args()
    folder = tempfile.TemporaryDirectory()
    tempfile.tempdir = folder.name
    with folder, silence():
        main(**vars(arguments))
