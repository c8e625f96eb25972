"""Run all performance benchmarks and print one table: what, target, result, and whether it meets the target.

    python benchmarks/run_all.py --quick     # few repetitions; under 6 minutes on 2 cores
    python benchmarks/run_all.py --full      # more of them; writes results.json with hardware and versions
    python benchmarks/run_all.py --docs      # writes the table of results.json into docs/measured.md

torch-lr-finder takes part if it is installed. Where there is a GPU, the waits for it are those that CUDA reports.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import measuring
from measuring import Row, alone, machine, show


def rows(quick: bool) -> Iterator[Row]:
    """Measure the rows of all benchmarks."""
    import cost
    import growth
    import scheduler_step
    import waits

    for benchmark in (scheduler_step, cost, growth, waits):
        yield from benchmark.rows(quick)


def measure(mode: str, path: Path | None) -> None:
    """Measure and print all rows, and write them to ``path`` if there is one."""
    start = time.perf_counter()
    print(", ".join(f"{name} {value}" for name, value in machine().items()) + "\n")
    with alone():
        measured = show(rows(mode == "--quick"))
    minutes = (time.perf_counter() - start) / 60
    counted = [row.is_met for row in measured if row.target is not None]
    print(f"\n{sum(counted)} of {len(counted)} targets met, {minutes:.1f} minutes")
    if path is not None:
        measuring.write_results(measured, mode, minutes, path)


def write_page() -> None:
    """Write the table of the last full run into its page."""
    results = json.loads(measuring.RESULTS.read_text())
    measuring.PAGE.write_text(measuring.with_block(measuring.PAGE.read_text(), results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_mutually_exclusive_group(required=True)
    modes.add_argument("--quick", action="store_true", help="print the table, few repetitions")
    modes.add_argument("--full", action="store_true", help="print the table and write results.json")
    parser.add_argument("--json", type=Path, help="where to write the results; with --full it is results.json")
    modes.add_argument("--docs", action="store_true", help="write the table of results.json into docs/measured.md")
    arguments = parser.parse_args()
    if arguments.docs:
        write_page()
    elif arguments.full:
        measure("--full", arguments.json or measuring.RESULTS)
    else:
        measure("--quick", arguments.json)
