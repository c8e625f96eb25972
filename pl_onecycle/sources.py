"""Where batches come from: what of it a trial puts back, and what is gone once it has been taken.

Most loaders are started over and begin with the same batches, if their samplers and random generators are what they
were. From a queue, a socket or an iterator a batch comes once; what a trial takes from those goes to the real run.
"""

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler

from pl_onecycle.memory import ATOMS, GENERATORS, Memory, RandomState

# A container of more parts holds data, not what makes batches of them.
MOST_PARTS = 100
# Where the search for them ends.
NO_SOURCE = (type, ModuleType, str, bytes, int, float, type(None), Tensor, np.ndarray, pl.Trainer, pl.LightningModule)


# ------------------------------------------------------------------------------------- what is put back
def leave_data_alone(memory: Memory, loaders: list[Any]) -> None:
    """To be called first, so that no data set is copied because something else refers to it."""
    for loader in loaders:
        _leave_alone(memory, getattr(loader, "dataset", None))


def _leave_alone(memory: Memory, data: Any, depth: int = 4) -> None:
    if isinstance(data, (*NO_SOURCE, nn.Module, *GENERATORS)):
        return
    is_container = isinstance(data, (list, tuple, dict))
    if is_container and len(data) > MOST_PARTS:
        memory.leave_alone(data)
        return
    if not is_container:
        memory.remember_bindings(data)
    parts = (
        data.values() if isinstance(data, dict) else data if is_container else getattr(data, "__dict__", {}).values()
    )
    for part in tuple(parts) if depth > 0 else ():
        _leave_alone(memory, part, depth - 1)


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
    elif len(source) <= MOST_PARTS and all(isinstance(part, ATOMS) for part in source):
        memory.remember(source)
    inside = source if isinstance(source, dict) else getattr(source, "__dict__", {})
    # The workers behind `_iterator` are those of the real run, which nobody touches.
    parts = source if isinstance(source, (list, tuple)) else [inside[key] for key in inside if key != "_iterator"]
    if depth > 0 and len(parts) <= MOST_PARTS:
        for part in parts:
            remember_source(memory, part, seen, depth - 1)


# ----------------------------------------------------------------------------- what is gone once taken
class Tape(Iterator[Any]):
    """Batches from a source that cannot be started over; remembers what it has given.

    Args:
        source: Where it goes on.
        looks: Iterators that have been asked for one batch each. They are kept, as a generator that is dropped may end
            what it has taken from.
        seen: Those batches, which come first.
    """

    def __init__(self, source: Iterator[Any], looks: Sequence[Iterator[Any]], seen: Iterable[Any]) -> None:
        self.source, self.looks, self.taken = itertools.chain(seen, source), looks, deque[Any]()

    def __next__(self) -> Any:
        batch = next(self.source)
        self.taken.append(copied(batch))
        return batch


def copied(batch: Any) -> Any:
    """A copy of a batch, as training may write into it; of what cannot be copied, the very batch."""
    with suppress(Exception):
        return copy.deepcopy(batch)
    return batch


class TakenFirst:
    """A loader that gives the batches of a tape before its own; an epoch that leaves some leaves them to the next."""

    def __init__(self, loader: Any, tape: Tape) -> None:
        self.loader, self.tape, self.taken, self.begun = loader, tape, tape.taken, [tape.source]

    def __iter__(self) -> Iterator[Any]:
        anew = iter(self.loader)  # asked for in any case: a DataLoader draws a random number then
        return _taken_first(self.taken, self.begun.pop() if self.begun else anew)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _taken_first(taken: deque[Any], source: Iterator[Any]) -> Iterator[Any]:
    while taken:
        yield taken.popleft()
    yield from source


def tape_of(loader: Any, source: Callable[[], Iterator[Any]]) -> Tape | None:
    """None for a loader that can be started over; else a tape of what ``source`` gives from here on."""
    dataset = getattr(loader, "dataset", None)
    if isinstance(loader, (TakenFirst, Iterator)) or isinstance(dataset, Iterator):
        return Tape(source(), (), ())
    has_rows = isinstance(loader, DataLoader) and not isinstance(dataset, IterableDataset)
    if has_rows or getattr(loader, "num_workers", 0) > 0:  # each worker has a data set of its own
        return None
    with _untouched(loader):
        if dataset is not None and iter(dataset) is iter(dataset):
            return Tape(source(), (), ())
    (one, first), (other, second) = _first_batch(loader), _first_batch(loader)
    return None if _look(first) == _look(second) else Tape(source(), (one, other), (*first, *second))


def _first_batch(loader: Any) -> tuple[Iterator[Any], list[Any]]:
    """A new iterator and the batch that it begins with, if any."""
    with _untouched(loader):
        iterator = iter(loader)
        return iterator, list(itertools.islice(iterator, 1))


@contextmanager
def _untouched(loader: Any) -> Iterator[None]:
    """Leave the loader and the random streams as they were."""
    with ExitStack() as undo:
        undo.callback(RandomState().restore)
        memory = Memory()
        undo.callback(memory.restore)
        leave_data_alone(memory, [loader])
        remember_source(memory, loader, set())
        yield


def _look(item: Any, depth: int = 8) -> Any:
    """What compares as the content of a batch, of whatever objects it is made."""
    if isinstance(item, Tensor):
        bits = item.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return item.dtype, item.shape, bits.numpy().tobytes()
    if isinstance(item, np.ndarray):
        return item.dtype, item.shape, item.tobytes()
    if isinstance(item, ATOMS):
        return repr(item)  # NaN is NaN
    if isinstance(item, dict):
        return [(repr(key), _look(value, depth - 1)) for key, value in item.items()]
    if isinstance(item, (list, tuple)):
        return [_look(part, depth - 1) for part in item]
    return type(item), _look(vars(item), depth - 1) if depth > 0 and hasattr(item, "__dict__") else None
