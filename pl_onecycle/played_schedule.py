"""Play the schedule of a run on copies of its schedulers, to learn the largest lr that the run reaches."""

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, MultiplicativeLR

from pl_onecycle.copies import Copies
from pl_onecycle.sentences import in_a_line

# Packages whose schedulers run no code of the user, unless they are given a function.
_KNOWN = ("torch", "pl_onecycle", "timm")


class CannotPlay(Exception):
    """The schedule cannot be played without a change to the user's objects; the message says why."""


@dataclass(frozen=True)
class Moment:
    """A point between two optimizer steps at which schedulers are stepped.

    Attributes:
        epoch: The epoch that runs or ends.
        step: Number of optimizer steps taken so far.
        due: Indices of the schedulers that are stepped, in their order.
    """

    epoch: int
    step: int
    due: tuple[int, ...]


def parts(scheduler: Any) -> Iterator[Any]:
    """Yield the scheduler and those inside it (SequentialLR, ChainedScheduler)."""
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from parts(inner)


def users_code(schedulers: Sequence[Any]) -> str:
    """Return the class name of the first scheduler that runs code of the user, or an empty string."""
    for part in (part for scheduler in schedulers for part in parts(scheduler)):
        has_function = isinstance(part, (LambdaLR, MultiplicativeLR))
        has_function |= isinstance(part, CyclicLR) and getattr(part, "_scale_fn_custom", None) is not None
        if has_function or type(part).__module__.partition(".")[0] not in _KNOWN:
            return type(part).__name__
    return ""


def play(
    optimizer: Optimizer,
    schedulers: Sequence[Any],
    moments: Iterable[Moment],
    copies: Copies,
    step: Callable[[Any, Moment], None],
) -> float:
    """Return the largest lr of any group from now to the last moment.

    Args:
        optimizer: The optimizer; not changed.
        schedulers: Its schedulers; not changed.
        moments: When which of them is stepped.
        copies: Makes the copies.
        step: Steps the copy of a scheduler at a moment.

    Raises:
        CannotPlay: A scheduler cannot be copied, or its first step fails.
    """
    with _random_streams_kept():
        try:
            stand_in = copies.of(optimizer)
            played = [copies.of(scheduler) for scheduler in schedulers]
        except Exception as error:
            raise CannotPlay(f"cannot be copied ({in_a_line(error)})") from error
        peak, has_stepped = _largest(stand_in), False
        for moment in moments:
            try:
                for index in moment.due:
                    step(played[index], moment)
            except Exception as error:
                if has_stepped:  # the run itself stops here
                    break
                raise CannotPlay(f"cannot be tried on a copy ({in_a_line(error)})") from error
            peak, has_stepped = max(peak, _largest(stand_in)), True
    return peak


def has_begun(optimizer: Optimizer, schedulers: Sequence[Any]) -> bool:
    """Return whether any of the schedulers has been stepped; where they do not say, whether the optimizer has state."""
    all_parts = [part for scheduler in schedulers for part in parts(scheduler)]
    steps = [part.last_epoch for part in all_parts if isinstance(getattr(part, "last_epoch", None), int)]
    return max(steps) > 0 if steps else bool(optimizer.state)


def past_peak(schedulers: Sequence[Any], copies: Copies) -> float | None:
    """Return the largest lr so far if the schedule is a LambdaLR, whose factors are not kept; else None.

    Raises:
        CannotPlay: Its functions cannot be copied.
    """
    peaks = []
    for part in (part for scheduler in schedulers for part in parts(scheduler)):
        if isinstance(part, LambdaLR):
            with _random_streams_kept():
                try:
                    for base, factor in zip(part.base_lrs, map(copies.of, part.lr_lambdas), strict=True):
                        peaks += [float(base) * float(factor(k)) for k in range(part.last_epoch + 1)]
                except Exception as error:
                    raise CannotPlay(f"cannot be tried on a copy ({in_a_line(error)})") from error
    return max(peaks, default=None)


def _largest(optimizer: Optimizer) -> float:
    return max(float(group["lr"]) for group in optimizer.param_groups)


@contextmanager
def _random_streams_kept() -> Iterator[None]:
    """Restore the random streams that a function draws from, and show none of its warnings."""
    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(tensors)
