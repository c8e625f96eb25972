"""What all performance benchmarks share: paired timings, rows with a target and a verdict, tables, the machine.

Times are CPU times of this process on one thread. In each repetition all sides of a comparison are measured one after
the other, in random order; a result is the median, with quartiles, over the repetitions of the ratio within each.
"""

import argparse
import gc
import io
import json
import logging
import math
import os
import platform
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
Measure = Callable[[], float]  # seconds, or another quantity
Quick = bool  # whether few repetitions are enough
clock = time.process_time


# ------------------------------------------------------------------------------------------ measuring
def interleaved(measures: Mapping[str, Measure], n: int) -> dict[str, list[float]]:
    """Return what each measure gives in n repetitions, after one that is not counted; their order is random."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    order, names = random.Random(0), list(measures)  # not the global generator, which fits seed
    for repetition in range(n + 1):
        order.shuffle(names)
        for name in names:
            gc.collect()  # so that no measure pays for what another has left
            value = measures[name]()
            if repetition:
                values[name].append(value)
    return values


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return the ratio within each repetition."""
    return [a / b for a, b in zip(one, other, strict=True)]


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the exponent p of cost ~ size ** p: the slope of the regression line between the logarithms."""
    return statistics.linear_regression([*map(math.log, sizes)], [*map(math.log, costs)]).slope


def slopes(sizes: Sequence[int], seconds: Mapping[str, Sequence[float]], name: str) -> list[float]:
    """Return the slope of each repetition; ``f"{name} {size}"`` is the name of the measure of a size."""
    columns = [seconds[f"{name} {size}"] for size in sizes]
    return [slope(sizes, costs) for costs in zip(*columns, strict=True)]


def shown(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:#.3g}".rstrip(".")


def middle(values: Sequence[float], unit: str = "") -> str:
    """Return the median for people."""
    return f"{shown(statistics.median(values))}{unit and ' ' + unit}"


# ----------------------------------------------------------------------------------------------- rows
@dataclass(frozen=True)
class Row:
    """A result and its target.

    Args:
        what: What was measured, and against what.
        target: The largest median that meets it, or None.
        median: Of the repetitions.
        low: First quartile.
        high: Third quartile.
        n: Number of repetitions.
        unit: Of target, median and quartiles; empty for a ratio and a number.
        reference: What else was measured in the same run: floors and other packages.
        because: Why the target is missed, where it is.
    """

    what: str
    target: float | None
    median: float
    low: float
    high: float
    n: int
    unit: str = ""
    reference: str = ""
    because: str = ""

    @classmethod
    def of(cls, what: str, values: Sequence[float], target: float | None = None, **texts: str) -> "Row":
        """Return the row of the values of all repetitions."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * [*values]
        return cls(what, target, median, low, high, len(values), **texts)

    @property
    def is_met(self) -> bool:
        """Whether the median, as it is shown, meets the target."""
        return self.target is None or float(shown(self.median)) <= self.target

    @property
    def verdict(self) -> str:
        """Return "met" or "missed", with the reason."""
        if self.target is None:
            return "no target"
        return "met" if self.is_met else f"missed, because {self.because}"

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        unit = self.unit and f" {self.unit}"
        target = "-" if self.target is None else f"≤ {self.target:g}{unit}"
        result = f"{shown(self.median)}{unit} ({shown(self.low)} to {shown(self.high)})"
        return [self.what, target, result, str(self.n), self.reference or "-", self.verdict]


HEADER = ["what", "target", "median (quartiles)", "n", "in the same run", "verdict"]


def table_row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    return "\n".join([table_row(HEADER), "|" + "---|" * len(HEADER), *(table_row(row.cells()) for row in rows)])


# -------------------------------------------------------------------------------------------- machine
def machine() -> dict[str, str]:
    """Return hardware and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": str(os.cpu_count()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: installed(name) for name in ("torch", "lightning", "numpy", "matplotlib", "torch-lr-finder")},
    }


def installed(name: str) -> str:
    """Return the version of a package, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@contextmanager
def silence() -> Iterator[None]:
    """Hide Lightning's messages and the progress bar that its finder always shows."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def alone() -> Iterator[None]:
    """Measure on one thread, silently, with a folder of its own for all that is written."""
    torch.set_num_threads(1)
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder, silence():
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


# ---------------------------------------------------------------------------------------- command line
def show(rows: Iterator[Row]) -> list[Row]:
    """Print each row as soon as it is measured, and return all."""
    print(f"{table_row(HEADER)}\n|{'---|' * len(HEADER)}", flush=True)
    measured = []
    for row in rows:
        print(table_row(row.cells()), flush=True)
        measured.append(row)
    return measured


def main(rows: Callable[[Quick], Iterator[Row]], doc: str | None) -> None:
    """Measure the rows of one benchmark and print their table."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    quick = parser.parse_args().quick
    with alone():
        show(rows(quick))


# ------------------------------------------------------------------------------------- results and page
RESULTS, PAGE = Path(__file__).with_name("results.json"), ROOT / "docs" / "measured.md"
START, END = "<!-- performance -->", "<!-- /performance -->"


def write_results(rows: Sequence[Row], mode: str, minutes: float, path: Path) -> None:
    """Write rows, hardware and versions as JSON.

    Args:
        rows: What was measured.
        mode: The option of ``run_all.py`` with which it was.
        minutes: How long it took.
        path: Of the file.
    """
    content = {
        "command": f"python benchmarks/run_all.py {mode}",
        "minutes": round(minutes, 1),
        "machine": machine(),
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def page_block(results: Mapping[str, Any]) -> str:
    """Return what stands on the page between the two markers, from the content of the JSON file."""
    host = results["machine"]
    rows = [Row(**{key: value for key, value in row.items() if key != "verdict"}) for row in results["rows"]]
    counted = [row for row in rows if row.target is not None]
    about = (
        f"`{results['command']}`, {results['minutes']:.0f} minutes; torch {host['torch']}, lightning"
        f" {host['lightning']}, Python {host['python']}, {host['cpu']}, {host['cores']} cores, GPU: {host['gpu']};"
        f" {sum(row.is_met for row in counted)} of {len(counted)} targets met. Numbers without a unit are ratios of CPU"
        " time on one thread, or counts."
    )
    return f"{START}\n{about}\n\n{table(rows)}\n{END}"


def with_block(page: str, results: Mapping[str, Any]) -> str:
    """Return the page with the lines between the markers replaced."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{page_block(results)}{after}"
