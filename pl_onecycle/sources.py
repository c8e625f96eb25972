"""Where batches come from: what of it a trial puts back, and what is gone once it has been taken.

Most loaders are started over and begin with the same batches, if their samplers and random generators are what they
were. From a queue, a socket or an iterator a batch comes once; what a trial takes from those goes to the real run.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler

from pl_onecycle.memory import GENERATORS, Memory, RandomState

# A container of more parts holds data, not what makes batches of them.
MOST_PARTS = 100
# Where the search for them ends.
NO_SOURCE = (type, ModuleType, str, bytes, int, float, type(None), Tensor, np.ndarray, pl.Trainer, pl.LightningModule)


# ------------------------------------------------------------------------------------- what is put back
def leave_data_alone(memory: Memory, loaders: list[Any]) -> None:
    """To be called first, so that no data set is copied because something else refers to it."""
    for loader in loaders:
        memory.remember_bindings(getattr(loader, "dataset", None))


def remember_source(memory: Memory, source: Any, seen: set[int], depth: int = 4) -> None:
    """Generators, samplers, modules and numbers in what batches are made by; never the data themselves."""
    if id(source) in seen or isinstance(source, NO_SOURCE):
        return
    seen.add(id(source))
    if isinstance(source, (DataLoader, Sampler)):
        memory.remember_attributes(source)
    elif isinstance(source, (nn.Module, *GENERATORS)):
        memory.remember(source)
    elif not isinstance(source, (list, tuple, dict)):
        memory.remember_bindings(source)
    inside = source if isinstance(source, dict) else getattr(source, "__dict__", {})
    # The workers behind `_iterator` are those of the real run, which nobody touches.
    parts = source if isinstance(source, (list, tuple)) else [inside[key] for key in inside if key != "_iterator"]
    if depth > 0 and len(parts) <= MOST_PARTS:
        for part in parts:
            remember_source(memory, part, seen, depth - 1)


# ----------------------------------------------------------------------------- what is gone once taken
class Tape(Iterator[Any]):
    """Batches from a source that cannot be started over; remembers what it has given."""

    def __init__(self, source: Iterator[Any], taken: deque[Any]) -> None:
        self.source, self.taken = source, taken

    def __next__(self) -> Any:
        batch = next(self.source)
        self.taken.append(apply_to_collection(batch, Tensor, Tensor.clone))  # training may write into the batch
        return batch


class TakenFirst:
    """A loader that gives the batches of a tape before its own; an epoch that leaves some leaves them to the next."""

    def __init__(self, loader: Any, tape: Tape) -> None:
        self.loader, self.taken, self.begun = loader, tape.taken, [tape.source]

    def __iter__(self) -> Iterator[Any]:
        anew = iter(self.loader)  # asked for in any case: a DataLoader draws a random number then
        return _taken_first(self.taken, self.begun.pop() if self.begun else anew)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _taken_first(taken: deque[Any], source: Iterator[Any]) -> Iterator[Any]:
    while taken:
        yield taken.popleft()
    yield from source


def gone_once_taken(loader: Any) -> deque[Any] | None:
    """None for a loader that can be started over; else the batches that were taken to find out that it cannot be."""
    dataset = getattr(loader, "dataset", None)
    if isinstance(loader, (TakenFirst, Iterator)) or isinstance(dataset, Iterator):
        return deque()
    has_rows = isinstance(loader, DataLoader) and not isinstance(dataset, IterableDataset)
    if has_rows or getattr(loader, "num_workers", 0) > 0:  # each worker has a data set of its own
        return None
    if dataset is not None and iter(dataset) is iter(dataset):
        return deque()
    first, second = _first_batch(loader), _first_batch(loader)
    return None if _same(first, second) else deque([*first, *second])


def _first_batch(loader: Any) -> list[Any]:
    """The batch that the loader begins with, if any; leaves the loader and the random streams as they were."""
    with ExitStack() as undo:
        undo.callback(RandomState().restore)
        memory = Memory()
        undo.callback(memory.restore)
        leave_data_alone(memory, [loader])
        remember_source(memory, loader, set())
        return list(itertools.islice(loader, 1))


def _same(one: Any, other: Any) -> bool:
    try:
        np.testing.assert_equal(*(apply_to_collection(batch, Tensor, _bits) for batch in (one, other)))
    except AssertionError:
        return False
    return True


def _bits(tensor: Tensor) -> Any:
    return tensor.dtype, tensor.shape, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
