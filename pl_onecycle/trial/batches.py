"""Sources of batches: restore those that can be started over, and keep the batches taken from the others.

Most loaders can be started over and begin with the same batches if their samplers and random generators are restored.
A queue, a socket or an iterator gives each batch once; the batches that a trial takes from it go to the real run.

The life of a batch: before a trial, `tape_of` decides for each loader whether it can be started over. If it can, its
samplers and generators are remembered, the trial iterates over it from its start, and restoring them makes the real run
draw the same batches again. If it cannot, the trial draws from a `Tape`, which passes each batch on and keeps a copy;
afterwards `TakenFirst` stands before the loader and gives the copies to the real run, which then continues with the
iterator that the trial has left.
"""

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler

from pl_onecycle._lightning import pl
from pl_onecycle.trial.memory import ATOMS, GENERATORS, Memory, RandomState

# A larger container holds data, not the objects that make batches.
MOST_PARTS = 100
# Types at which the search for these objects ends.
NO_SOURCE = (type, ModuleType, str, bytes, int, float, type(None), Tensor, np.ndarray, pl.Trainer, pl.LightningModule)


# ------------------------------------------------------------------------------------- what is restored
def leave_data_alone(memory: Memory, loaders: list[Any]) -> None:
    """Keep data sets by reference; call this first, so that none is copied because another object refers to it."""
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
    """Remember the generators, samplers, modules and numbers that make batches; never the data themselves."""
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
    # The workers behind `_iterator` belong to the real run and are not touched.
    parts = source if isinstance(source, (list, tuple)) else [inside[key] for key in inside if key != "_iterator"]
    if depth > 0 and len(parts) <= MOST_PARTS:
        for part in parts:
            remember_source(memory, part, seen, depth - 1)


# -------------------------------------------------------------------------- what can be taken only once
class Tape(Iterator[Any]):
    """Batches from a source that cannot be started over; remembers the batches it has given.

    Args:
        source: The iterator that gives the batches.
        peeked: Iterators that were asked for one batch each. They are kept, as a generator that is dropped may close
            its source.
        seen: Those batches; they come first.
    """

    def __init__(self, source: Iterator[Any], peeked: Sequence[Iterator[Any]], seen: Iterable[Any]) -> None:
        self.source, self.peeked, self.taken = itertools.chain(seen, source), peeked, deque[Any]()

    def __next__(self) -> Any:
        batch = next(self.source)
        self.taken.append(copied(batch))
        return batch


def copied(batch: Any) -> Any:
    """Return a copy of a batch, as training may write into it; return the batch itself if it cannot be copied."""
    with suppress(Exception):
        return copy.deepcopy(batch)
    return batch


class TakenFirst:
    """A loader that gives the batches of a tape before its own; batches that one epoch leaves go to the next."""

    def __init__(self, loader: Any, tape: Tape) -> None:
        self.loader, self.tape, self.taken, self.begun = loader, tape, tape.taken, [tape.source]

    def __iter__(self) -> Iterator[Any]:
        own = iter(self.loader)  # created in any case, as a DataLoader then draws a random number
        return _taken_first(self.taken, self.begun.pop() if self.begun else own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _taken_first(taken: deque[Any], source: Iterator[Any]) -> Iterator[Any]:
    while taken:
        yield taken.popleft()
    yield from source


def tape_of(loader: Any, source: Callable[[], Iterator[Any]]) -> Tape | None:
    """Return None for a loader that can be started over, else a tape of what ``source`` gives from now on."""
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
    return None if _fingerprint(first) == _fingerprint(second) else Tape(source(), (one, other), (*first, *second))


def _first_batch(loader: Any) -> tuple[Iterator[Any], list[Any]]:
    """Return a new iterator and the batch that it begins with, if any."""
    with _untouched(loader):
        iterator = iter(loader)
        return iterator, list(itertools.islice(iterator, 1))


@contextmanager
def _untouched(loader: Any) -> Iterator[None]:
    """Restore the loader and the random streams afterwards."""
    with ExitStack() as undo:
        undo.callback(RandomState().restore)
        memory = Memory()
        undo.callback(memory.restore)
        leave_data_alone(memory, [loader])
        remember_source(memory, loader, set())
        yield


def _fingerprint(item: Any, depth: int = 8) -> Any:
    """Return a value that is equal for batches of equal content, whatever objects they are made of."""
    if isinstance(item, Tensor):
        bits = item.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return item.dtype, item.shape, bits.numpy().tobytes()
    if isinstance(item, np.ndarray):
        return item.dtype, item.shape, item.tobytes()
    if isinstance(item, ATOMS):
        return repr(item)  # NaN equals NaN
    if isinstance(item, dict):
        return [(repr(key), _fingerprint(value, depth - 1)) for key, value in item.items()]
    if isinstance(item, (list, tuple)):
        return [_fingerprint(part, depth - 1) for part in item]
    return type(item), _fingerprint(vars(item), depth - 1) if depth > 0 and hasattr(item, "__dict__") else None
