"""Sources of batches: restore those that can be started over, and find those of which a trial needs a tape.

Most loaders can be started over and begin with the same batches if samplers, random generators and the positions of
open files are restored. A queue, a socket or an iterator gives each batch once.

The life of a batch: before a trial, `tape_of` decides for each loader whether it can be started over. If it can, what
makes its batches is remembered, `renew_iterators` lets the trial begin with iterators and workers of its own, and
restoring makes the real run draw the same batches again. If it cannot, the trial draws from a `Tape`, which `tapes.py`
describes.

`walk` visits what a loader is made of. It stops at handles: iterators, files, queues, locks, threads, processes, and
what belongs to running workers are never restored in part.

Private names used here: of torch ``DataLoader._iterator`` (persistent workers live there), ``_BaseDataLoaderIter``,
``_get_iterator`` and ``_index_sampler`` (to recognize and renew the iterator that a loader keeps), of the standard
library ``_Stream`` (an archive that is read once) and ``_ConnectionBase``.
"""

import bz2
import io
import itertools
import lzma
import math
import queue
import socket
import tarfile
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from mmap import mmap
from multiprocessing import connection, pool, process, queues, synchronize
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from pl_onecycle._lightning import pl
from pl_onecycle.random_state import RandomState
from pl_onecycle.trial.memory import ATOMS, GENERATORS, Memory
from pl_onecycle.trial.tapes import Pass, TakenFirst, Tape, iterates_as_torch

# A larger container holds data, not the objects that make batches.
MOST_PARTS = 100
# How many objects the walk visits at most, and how many of them lie inside one another.
MOST_OBJECTS, DEPTH = 10_000, 12
# Types at which the search for these objects ends.
NO_SOURCE = (type, ModuleType, str, bytes, int, float, type(None), Tensor, np.ndarray, pl.Trainer, pl.LightningModule)
CONTAINERS = (list, tuple, dict, set, frozenset, deque)

# Give each thing once, to whoever asks first.
CHANNELS = (queues.Queue, queues.SimpleQueue, connection._ConnectionBase, socket.socket)
STREAMS = (
    *(Iterator, queue.Queue, queue.SimpleQueue, *CHANNELS),
    *(type(zlib.decompressobj()), bz2.BZ2Decompressor, lzma.LZMADecompressor),
    tarfile._Stream,  # type: ignore[attr-defined]  # an archive that is read once
)
# Run, or keep others waiting, and do not move on by being read.
RUNNERS = (
    *(threading.Thread, threading.Event, threading.Condition, threading.Semaphore, threading.Barrier, threading.local),
    *(type(threading.Lock()), type(threading.RLock()), synchronize.SemLock, synchronize.Condition, synchronize.Event),
    *(process.BaseProcess, pool.Pool, Executor),
)


# ------------------------------------------------------------------------------------------------ handles
def is_file(part: Any) -> bool:
    """Return whether an object is a file, or stands somewhere as one does."""
    is_like_one = all(hasattr(type(part), name) for name in ("tell", "seek", "seekable"))
    return isinstance(part, (io.IOBase, mmap)) or is_like_one


def is_handle(part: Any) -> bool:
    """Return whether an object belongs to something that runs or stands open; the walk stops there."""
    return is_file(part) or isinstance(part, (*STREAMS, *RUNNERS))


def moves_on(part: Any) -> bool:
    """Return whether taking a batch may move an object on in a way that cannot be undone."""
    if is_file(part):
        return is_read(part) and not can_be_put_back(part)
    return isinstance(part, STREAMS) or (isinstance(part, threading.Thread) and part.is_alive())


def is_shared(part: Any) -> bool:
    """Return whether workers that have a copy of an object move it on for each other."""
    if isinstance(part, io.IOBase) and is_read(part):
        try:
            return part.fileno() >= 0  # of the operating system, which keeps one position for all
        except OSError:
            return False
    return isinstance(part, CHANNELS)


def is_read(file: Any) -> bool:
    """Return whether a file is open for reading."""
    return not getattr(file, "closed", False) and (not hasattr(file, "readable") or bool(file.readable()))


def can_be_put_back(file: Any) -> bool:
    """Return whether a file that is read can be restored to where it stands."""
    try:
        file.tell()
        return isinstance(file, mmap) or bool(file.seekable())
    except (OSError, ValueError):  # a text file that is read line by line does not know where it stands
        return False


# --------------------------------------------------------------------------------------------------- walk
def walk(source: Any, seen: set[int], depth: int = DEPTH) -> Iterator[Any]:
    """Visit the objects that make batches, from the outside in, each once; never the data themselves."""
    if id(source) in seen or len(seen) > MOST_OBJECTS or isinstance(source, NO_SOURCE):
        return
    seen.add(id(source))
    yield source
    if depth > 0 and not is_handle(source):
        for part in _parts(source):
            yield from walk(part, seen, depth - 1)


def _parts(source: Any) -> list[Any]:
    if isinstance(source, DataLoader):  # its data set, the first of them, is visited last
        return [part for name, part in reversed(vars(source).items()) if not _is_renewed(source, name)]
    if not isinstance(source, CONTAINERS):
        parts = list(getattr(source, "__dict__", {}).values())
    elif _is_large(source) and not any(is_handle(part) for part in itertools.islice(_items(source), MOST_PARTS)):
        parts = []
    else:
        parts = [*_items(source)]
    return parts if len(parts) <= MOST_PARTS else [part for part in parts if is_handle(part)]


def _items(container: Any) -> Iterator[Any]:
    return iter(container.values() if isinstance(container, dict) else container)


def _is_large(source: Any) -> bool:
    return isinstance(source, CONTAINERS) and len(source) > MOST_PARTS


# ------------------------------------------------------------------------------------- what is restored
def leave_data_alone(memory: Memory, loaders: list[Any]) -> None:
    """Keep data sets by reference; call this first, so that none is copied because another object refers to it."""
    seen: set[int] = set()
    for loader in loaders:
        for part in walk(getattr(loader, "dataset", None), seen):
            if _is_large(part):
                memory.leave_alone(part)
            elif not isinstance(part, (*CONTAINERS, nn.Module, *GENERATORS)) and not is_handle(part):
                memory.remember_bindings(part)


def remember_source(memory: Memory, source: Any, seen: set[int]) -> None:
    """Remember the generators, samplers, modules, numbers and open files that make batches; never the data."""
    for part in walk(source, seen):
        if is_file(part):
            if is_read(part) and can_be_put_back(part):
                memory.remember_position(part)
        elif is_handle(part):
            memory.leave_alone(part)
        elif isinstance(part, (DataLoader, Sampler)):
            memory.remember_attributes(part)
        elif isinstance(part, (nn.Module, *GENERATORS)):
            memory.remember(part)
        elif not isinstance(part, CONTAINERS):
            memory.remember_bindings(part)
        elif not _is_large(part) and all(isinstance(item, ATOMS) for item in _items(part)):
            memory.remember(part)


def renew_iterators(source: Any) -> None:
    """Give each DataLoader in a remembered source new iterators and workers; those it has stay as they are."""
    for part in [*walk(source, set())]:
        if isinstance(part, DataLoader):
            for name in [name for name in vars(part) if _is_renewed(part, name)]:
                setattr(part, name, None if name == "_iterator" else part._get_iterator())


def _is_renewed(loader: DataLoader[Any], name: str) -> bool:
    """Return whether an attribute of a loader keeps an iterator that the loader can make again."""
    kept = vars(loader)[name]
    is_own = isinstance(kept, _BaseDataLoaderIter) and kept._index_sampler is loader._index_sampler
    return name == "_iterator" or is_own


# -------------------------------------------------------------------------- what can be taken only once
def tape_of(
    loader: Any, source: Callable[[], Pass], passes: float = math.inf, batches: float = math.inf, epoch: int = 0
) -> Tape | None:
    """Return None for a loader that can be started over, else a tape of what ``source`` gives from now on.

    Args:
        loader: Any iterable of batches.
        source: Gives the iteration with which the run would continue.
        passes: How many more iterations the run has, that one included.
        batches: How many more batches the run has.
        epoch: Of the run, as its samplers know it.
    """
    dataset = getattr(loader, "dataset", None)
    if isinstance(loader, (TakenFirst, Iterator)) or isinstance(dataset, Iterator) or lives_on(loader):
        return Tape(loader, source(), (), (), passes, batches, epoch)
    has_copies = isinstance(loader, DataLoader) and loader.num_workers > 0  # each worker has a data set of its own
    if iterates_as_torch(loader) and (has_copies or not isinstance(dataset, IterableDataset)):
        return None
    with _untouched(loader):
        if dataset is not None and not has_copies and hasattr(dataset, "__iter__") and iter(dataset) is iter(dataset):
            return Tape(loader, source(), (), (), passes, batches, epoch)
    (one, first), (other, second) = _first_batch(loader), _first_batch(loader)
    if fingerprint(first) == fingerprint(second):
        return None
    return Tape(loader, source(), (one, other), (*first, *second), passes, batches, epoch)


def lives_on(loader: Any) -> bool:
    """Return whether something in a loader moves on with each batch and cannot be put back."""
    copied: list[Any] = []
    if isinstance(loader, DataLoader) and loader.num_workers > 0:
        copied = [loader.dataset, loader.collate_fn]  # each worker has its own
    here = walk(loader, {*map(id, copied)})
    return any(moves_on(part) for part in here) or any(is_shared(part) for part in walk(copied, set()))


def _first_batch(loader: Any) -> tuple[Iterator[Any], list[Any]]:
    """Return a new iterator and the batch that it begins with, if any."""
    with _untouched(loader):
        renew_iterators(loader)
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


def fingerprint(item: Any, depth: int = 8) -> Any:
    """Return a value that is equal for batches of equal content, whatever objects they are made of."""
    if isinstance(item, Tensor):
        bits = item.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return item.dtype, item.shape, bits.numpy().tobytes()
    if isinstance(item, np.ndarray):
        return item.dtype, item.shape, item.tobytes()
    if isinstance(item, ATOMS):
        return repr(item)  # NaN equals NaN
    if isinstance(item, dict):
        return [(repr(key), fingerprint(value, depth - 1)) for key, value in item.items()]
    if isinstance(item, (list, tuple)):
        return [fingerprint(part, depth - 1) for part in item]
    return type(item), fingerprint(vars(item), depth - 1) if depth > 0 and hasattr(item, "__dict__") else None
