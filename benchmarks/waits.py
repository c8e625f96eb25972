"""Count how often a step of a trial waits: for the device, and for other processes.

- device: calls that make the host wait for an accelerator. On the CPU, where nothing waits, these are the calls that
  read a tensor from Python (``item``, ``tolist``, ``bool``, ``float`` and so on) outside torch's data loading, whose
  tensors are on the host; losses are fetched in chunks as on an accelerator. With a GPU they are what
  ``torch.cuda.set_sync_debug_mode`` reports. What the same number of steps of a bare fit counts is subtracted. Fixed
  sweeps of 100 and of 160 steps are run: their difference gives the waits of a step without those of the end, and
  likewise for Lightning's finder. The adaptive search is `LRRangeTest` with its defaults, as a whole.
- processes: calls of collectives, other than barriers, from Python in each of two processes (gloo, DDP) during a fixed
  sweep, minus those of as many steps of a bare fit. What DDP itself does in its backward pass is not among them.

    python benchmarks/waits.py --quick

The results stand in docs/measured.md.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from digits_fits import Net, Timed, fit, lightnings_finder
from measuring import ROOT, Row, alone, main, shown
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pl_onecycle import LRRangeTest
from pl_onecycle.trial import recorder

SHORT, LONG = 100, 160  # steps of a sweep; it takes one more, so that both end in the same place of a chunk
READS = ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__array__", "cpu", "numpy", "nonzero")
COLLECTIVES = (
    *("all_reduce", "reduce", "broadcast", "all_gather", "gather", "scatter", "all_gather_into_tensor"),
    *("reduce_scatter", "reduce_scatter_tensor", "all_to_all", "all_gather_object", "broadcast_object_list"),
    *("gather_object", "scatter_object_list", "monitored_barrier"),
)
ON_GPU = torch.cuda.is_available()


# --------------------------------------------------------------------------------------------- device
class Reads(TorchFunctionMode):
    """Count the calls that read a tensor from Python, outside torch's data loading.

    Attributes:
        count: How many there were.
    """

    names = frozenset({getattr(Tensor, name) for name in READS} | {torch.equal, torch.allclose, torch.nonzero})

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in self.names and not loads_data()
        return func(*args, **(kwargs or {}))


def loads_data() -> bool:
    """Whether a caller is torch's data loading, whose random numbers are on the host."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("torch.utils.data"):
            return True
        frame = frame.f_back
    return False


def waits(run: Callable[[], Any]) -> int:
    """Return how often ``run`` waits for the device."""
    if not ON_GPU:
        with Reads() as reads:
            run()
        return int(reads.count)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


@contextmanager
def chunks_of_an_accelerator() -> Iterator[None]:
    """Let a trial on the CPU fetch losses as seldom as on an accelerator."""
    before = recorder._chunk
    recorder._chunk = lambda trainer, decides: recorder.DECIDING_CHUNK if decides else recorder.CHUNK
    try:
        yield
    finally:
        recorder._chunk = before


class Test(Timed, LRRangeTest):
    """A range test that counts its steps."""


def fixed(steps: int) -> Test:
    """Return a test that sweeps once, up to an lr at which nothing diverges."""
    return Test(1e-6, 0.1, steps, early_stop_threshold=None, report=False)


def fit_here(steps: int, *callbacks: pl.Callback) -> None:
    """Fit on the device of this machine."""
    fit(Net(), steps, *callbacks, accelerator="gpu" if ON_GPU else "cpu", devices=1)


def waits_of(finder: pl.Callback) -> int:
    """Return the waits of a search at the start of a fit of one step, without those of its steps in a bare fit."""
    Net.steps = 0
    count = waits(partial(fit_here, 1, finder))
    steps = finder.steps_taken + 1 if isinstance(finder, Timed) else Net.steps
    return count - waits(partial(fit_here, steps))


def device_rows() -> Iterator[Row]:
    """Count the waits for the device."""
    fit_here(1)  # what happens once in a process
    ours: dict[int, int] = {}
    theirs: dict[int, int] = {}
    for size in (SHORT, LONG):
        ours[size] = waits_of(fixed(size))
        theirs[size] = waits_of(lightnings_finder(size))
    a_step = [(counts[LONG] - counts[SHORT]) / (LONG - SHORT) for counts in (ours, theirs)]
    lightning = f"Lightning's finder {shown(a_step[1])}"
    how = "reported by CUDA" if ON_GPU else "counted on the CPU with the chunks of an accelerator"
    yield Row.of(
        f"waits for the device a step, fixed sweep, {how}",
        a_step[:1],
        1 / 16,
        reference=f"{lightning}; sweeps of {SHORT} and {LONG} steps wait {ours[SHORT]} and {ours[LONG]} times,"
        f" Lightning's {theirs[SHORT]} and {theirs[LONG]}",
        because=f"the losses of {recorder.CHUNK} steps are fetched together; {lightning}",
    )
    test = Test(report=False)
    count = waits_of(test)
    yield Row.of(
        f"waits for the device a step, `LRRangeTest` with its defaults, {how}",
        [count / test.steps_taken],
        1 / 8,
        reference=f"{count} in {test.steps_taken} steps and {len(test.coarse) + 1} sweeps; {lightning}",
        because=f"each of its {len(test.coarse) + 1} sweeps ends with a fetch of its own; {lightning}",
    )


# ------------------------------------------------------------------------------------------- processes
@contextmanager
def counted_collectives() -> Iterator[Counter[str]]:
    """Count the calls of collectives from Python."""
    counts: Counter[str] = Counter()
    before = {name: getattr(torch.distributed, name) for name in (*COLLECTIVES, "barrier")}

    def counting(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return before[name](*args, **kwargs)

        return call

    for name in before:
        setattr(torch.distributed, name, counting(name))
    try:
        yield counts
    finally:
        for name, function in before.items():
            setattr(torch.distributed, name, function)


def collectives_of_one_process() -> None:
    """Print the counts of a fit with our test, with Lightning's finder and without, in one of two processes."""

    def count(steps: int, *callbacks: pl.Callback) -> Counter[str]:
        with counted_collectives() as counts:
            fit(Net(), steps, *callbacks, devices=2, strategy="ddp")
        return counts

    with chunks_of_an_accelerator(), alone():
        count(1)  # the processes connect
        results = {
            f"{name} {size}": dict(count(steps, *callbacks))
            for size in (SHORT, LONG)
            for name, steps, callbacks in (
                ("ours", 1, [fixed(size)]),
                ("theirs", 1, [lightnings_finder(size)]),
                ("bare", size + 1, []),
            )
        }
    print(json.dumps(results))


def two_processes() -> dict[str, dict[str, int]]:
    """Run this file in two processes and return the counts of the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    given["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", __file__, "--process"]
    with ExitStack() as opened:
        logs = [opened.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
        environments = [os.environ | given | {"LOCAL_RANK": str(rank)} for rank in range(2)]
        processes = [
            subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            for environment, log in zip(environments, logs, strict=True)
        ]
        try:
            codes = [process.wait(timeout=300) for process in processes]
        finally:
            for process in processes:
                process.kill()
        texts = []
        for log in logs:
            log.seek(0)
            texts.append(log.read())
    assert codes == [0, 0], "\n".join(text[-3000:] for text in texts)
    results: dict[str, dict[str, int]] = json.loads(texts[0].splitlines()[-1])
    return results


def process_row() -> Row:
    """Count the waits for other processes."""
    counts = two_processes()

    def a_step(name: str, *kinds: str) -> float:
        def total(size: int) -> int:
            return sum(counts[f"{name} {size}"].get(kind, 0) - counts[f"bare {size}"].get(kind, 0) for kind in kinds)

        return (total(LONG) - total(SHORT)) / (LONG - SHORT)

    theirs = shown(a_step("theirs", *COLLECTIVES))
    barriers = f"{shown(a_step('ours', 'barrier'))} barriers, Lightning's finder {shown(a_step('theirs', 'barrier'))}"
    return Row.of(
        "collectives a step of a fixed sweep, 2 processes (gloo, DDP), beyond a bare fit",
        [a_step("ours", *COLLECTIVES)],
        1.1,
        reference=f"Lightning's finder {theirs}; {barriers}",
        because=f"the processes meet before each forward and each backward pass, so that none waits for one that has"
        f" failed; Lightning's finder, in which they do not, takes {theirs}",
    )


def rows(quick: bool) -> Iterator[Row]:
    """Count all; counts do not vary, so that one run is enough."""
    with chunks_of_an_accelerator():
        yield from device_rows()
    yield process_row()


if __name__ == "__main__":
    if "--process" in sys.argv:
        collectives_of_one_process()
    else:
        main(rows, __doc__)
