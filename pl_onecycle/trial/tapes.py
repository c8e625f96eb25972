"""Batches of a source that cannot be started over: keep those that a trial takes, and give them to the real run.

The life of such a batch: a `Tape` stands before the source in the trial, passes each batch on and keeps a copy, one
`Pass` for each iteration. Afterwards `TakenFirst` stands before the source in the real run: its first iteration gives
the batches of the first pass and continues with the iterator that the trial has left there, and so on. The tape takes
no more than the run itself would take; a longer trial repeats the batches that it has.

What the source has drawn from the global random streams for a batch is drawn again when the real run gets it, if the
streams then stand where they stood in the trial.
"""

import copy
import itertools
import math
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pl_onecycle._lightning import rank_zero_warn


# --------------------------------------------------------------------------------------- random numbers
class Draw:
    """What a source draws from the global random streams of the CPU between construction and `end`."""

    _STREAMS: tuple[tuple[Any, Any], ...] = (
        (random.getstate, random.setstate),
        (np.random.get_state, np.random.set_state),
        (torch.get_rng_state, torch.set_rng_state),
    )

    def __init__(self) -> None:
        self._changes: list[tuple[Any, Any]] = [(get(), None) for get, _ in self._STREAMS]

    def end(self) -> "Draw":
        """Note where the streams stand now."""
        self._changes = [(before, get()) for (before, _), (get, _) in zip(self._changes, self._STREAMS, strict=True)]
        self._changes = [change if not _equal(*change) else (None, None) for change in self._changes]
        return self

    def repeat(self) -> bool:
        """Move each stream as the source did; return whether all stood where they stood then."""
        stood = True
        for (before, after), (get, put) in zip(self._changes, self._STREAMS, strict=True):
            if after is not None and _equal(before, get()):
                put(after)
            elif after is not None:
                stood = False
        return stood


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else all(map(np.array_equal, one, other))


# ----------------------------------------------------------------------------------------------- batches
@dataclass
class Pass:
    """One iteration over a source.

    Attributes:
        source: The iterator; it stands behind the taken batches.
        begun: What its creation has drawn.
        taken: The batches that a trial has taken from it, each with what it has drawn.
    """

    source: Iterator[Any]
    begun: Draw | None = None
    taken: deque[tuple[Any, Draw | None]] = field(default_factory=deque)


class Tape:
    """The batches of a source that cannot be started over; keeps those it has given.

    Args:
        loader: The source.
        first: The iteration with which the run would continue.
        peeked: Iterators that were asked for one batch each. They are kept, as a generator that is dropped may close
            its source.
        seen: Those batches; they come first.
        passes: How many more iterations the run has, this one included.
        batches: How many more batches the run has.
        epoch: Of the run, as its samplers know it; each pass after the first is one of the next epochs.
    """

    def __init__(
        self,
        loader: Any,
        first: Pass,
        peeked: Sequence[Iterator[Any]] = (),
        seen: Iterable[Any] = (),
        passes: float = math.inf,
        batches: float = math.inf,
        epoch: int = 0,
    ) -> None:
        first.source = itertools.chain(seen, first.source)
        self.loader, self.peeked, self._epoch = loader, peeked, epoch
        self.passes: list[Pass] = []
        self.first, self._passes_left, self._batches_left = first, passes, batches

    def __len__(self) -> int:
        return len(self.loader)  # raises TypeError for a source without one, as the source does

    def __iter__(self) -> Iterator[Any]:
        if len(self.passes) >= self._passes_left or self._batches_left <= 0:
            return self._repeated()
        if self.passes:
            _set_epoch(self.loader, self._epoch + len(self.passes))  # as Lightning does before each epoch
        self.passes.append(begin(self.loader) if self.passes else self.first)
        return self._recorded(self.passes[-1])

    def end(self) -> None:
        """Give the samplers of the source the epoch of the run again."""
        if len(self.passes) > 1:
            _set_epoch(self.loader, self._epoch)

    def _recorded(self, current: Pass) -> Iterator[Any]:
        while self._batches_left > 0:
            draw = Draw()
            try:
                batch = next(current.source)
            except StopIteration:
                current.source = iter(())  # persistent workers use one iterator for the next pass, too
                return
            current.taken.append((copied(batch), draw.end()))
            self._batches_left -= 1
            yield batch

    def _repeated(self) -> Iterator[Any]:
        return (copied(batch) for current in self.passes for batch, _ in current.taken)


def begin(loader: Any) -> Pass:
    """Begin an iteration over a source."""
    draw = Draw()
    return Pass(iter(loader), draw.end())


def _set_epoch(loader: Any, epoch: int) -> None:
    sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    inside = getattr(batch_sampler, "sampler", None)
    for part in [sampler] if inside is sampler else [sampler, inside]:
        set_epoch = getattr(part, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)


def copied(batch: Any) -> Any:
    """Return a copy of a batch, as training may write into it; return the batch itself if it cannot be copied."""
    with suppress(Exception):
        return copy.deepcopy(batch)
    return batch


class TakenFirst:
    """A loader that gives the batches of a tape before its own; batches that one epoch leaves go to the next."""

    def __init__(self, loader: Any, tape: Tape) -> None:
        self.loader = loader
        # Nothing else keeps the iterators of the passes, so that their workers end with them.
        self._to_come, self._peeked = deque(tape.passes or [tape.first]), tape.peeked
        self._left: deque[tuple[Any, Draw | None]] = deque()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if self._to_come:
            current = self._to_come.popleft()
            if current.begun is not None and not current.begun.repeat():
                _draw_as(self.loader)
        else:
            current = Pass(iter(self.loader))
        current.taken.extendleft(reversed(self._left))
        self._left = current.taken
        return _given(current, self.loader)

    def innermost(self) -> "TakenFirst":
        """Return the one that stands before the user's loader, as each trial adds one."""
        return self.loader.innermost() if isinstance(self.loader, TakenFirst) else self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __setattr__(self, name: str, value: Any) -> None:  # Lightning forgets the workers of a loader after a fit
        if name in ("loader", "_to_come", "_peeked", "_left"):
            super().__setattr__(name, value)
        else:
            setattr(self.loader, name, value)


def _given(current: Pass, loader: Any) -> Iterator[Any]:
    while current.taken:
        batch, draw = current.taken.popleft()
        if draw is not None and not draw.repeat():
            _warn(loader)
        yield batch
    yield from current.source


def _draw_as(loader: Any) -> None:
    """Draw what an iteration over a loader begins with."""
    loader = _users(loader)
    if iterates_as_torch(loader) and loader.num_workers == 0:
        iter(loader)  # draws one number, and asks for no batch
    else:
        _warn(loader)


def _users(loader: Any) -> Any:
    return loader.innermost().loader if isinstance(loader, TakenFirst) else loader


def iterates_as_torch(loader: Any) -> bool:
    """Return whether a loader is a DataLoader that makes its iterators as torch does, a new one each time."""
    kind = type(loader)
    return (
        isinstance(loader, DataLoader)
        and kind.__iter__ is DataLoader.__iter__
        and kind._get_iterator is DataLoader._get_iterator
    )


def _warn(loader: Any) -> None:
    rank_zero_warn(
        f"{type(_users(loader)).__name__} cannot be started over: the run trains with the batches that a trial has"
        " taken from it, but the trial's random numbers made them, so that their order or noise may differ from a run"
        " without."
    )
