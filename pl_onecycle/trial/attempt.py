"""Try whether a few training steps fit into memory with new train loaders: loaders -> `Attempt`.

The life of an attempt: `prepare` changes what makes the loaders, the user's hooks make them, a few batches train in
isolation, and an error that says that memory is exhausted becomes the answer instead of an exception. Its traceback is
dropped first, as it refers to the tensors of the step.

Where there are several processes, gradients are not synchronized in an attempt, and all meet before and after each
pass: one that runs out of memory, also within the backward pass, leaves none to wait. A module or a strategy that
communicates within a pass (SyncBatchNorm, a sharded model) can still leave the others waiting there.

Private attributes of Lightning used here, the same in 2.4.0 and 2.6.6: ``_combined_loader`` and ``_data_fetcher`` of
the fit loop.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from typing_extensions import override

from pl_onecycle._lightning import (
    MisconfigurationException,
    _FitLoop,
    extract_batch_size,
    garbage_collection_cuda,
    is_oom_error,
    pl,
)
from pl_onecycle.random_state import RandomState
from pl_onecycle.real_step import after_real_step
from pl_onecycle.sentences import in_a_line
from pl_onecycle.trial.agreement import Agreement, TrialFailedElsewhere
from pl_onecycle.trial.isolation import isolated
from pl_onecycle.trial.run import propagate, train
from pl_onecycle.trial.stand_ins import request_loaders, request_val_loaders, tear_down

# Changes what the user's hooks make loaders of.
PrepareLoaders = Callable[[], object]
# An optimizer whose step comes after every few batches, or is left out by a gradient scaler, is waited for so long.
MOST_BATCHES = 20
# What is in memory in a step after the first is there after two batches, also where more are accumulated.
MOST_ACCUMULATED = 2
# Parts of messages that Lightning's `is_oom_error` does not know: other devices, Windows, and shared memory of workers.
_EXHAUSTED = ("out of memory", "not enough memory", "out of shared memory", "can't allocate memory", "ALLOC_FAILED")


@dataclass(frozen=True)
class Attempt:
    """How an attempt has ended.

    Attributes:
        failure: Why the batches cannot be trained with, or None.
        rows: The number of rows in a batch, where the loader does not say it before.
    """

    failure: str | None
    rows: int | None = None


@dataclass(frozen=True)
class Loaded:
    """What train loaders say of their batches.

    Attributes:
        sizes: The batch size of each loader; None where it has none.
        batches: How many an epoch has.
        rows: Of the first batch, where a loader has no size.
        shortage: Why there is no full batch, or an empty string.
    """

    sizes: tuple[int | None, ...] = ()
    batches: float = 0
    rows: int | None = None
    shortage: str = ""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory is exhausted, of any device or of the host.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("MPS backend out of memory"))
        (True, True)
    """
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or is_oom_error(error):
        return True
    says_so = isinstance(error, RuntimeError) and any(part in str(error) for part in _EXHAUSTED)
    return says_so or (error.__cause__ is not None and is_out_of_memory(error.__cause__))


def attempt(trainer: pl.Trainer, prepare: PrepareLoaders, num_steps: int) -> Attempt:
    """Train a few isolated optimizer steps with new loaders.

    Args:
        trainer: A Trainer within ``fit`` whose train loader is set up.
        prepare: Called before the hooks that make the loaders; the caller restores what the isolation does not know.
        num_steps: How many steps to train. It becomes more until every optimizer has stepped twice.

    Raises:
        TrialFailedElsewhere: Another process failed, and not for want of memory.
    """
    is_small = trainer.strategy.root_device.type != "cpu"  # on the host, garbage costs less than collecting it
    if is_small:
        garbage_collection_cuda()
    counter, processes = _Counter(trainer, num_steps), Agreement(trainer)
    ended = _train_some(trainer, prepare, counter)
    if is_small or isinstance(ended, Exception):
        garbage_collection_cuda()  # the frames of the attempt are gone
    try:
        is_error = isinstance(ended, Exception) and not isinstance(ended, TrialFailedElsewhere)
        if processes.anywhere(is_error and not is_out_of_memory(ended)):  # type: ignore[arg-type]
            propagate(ended if isinstance(ended, Exception) else TrialFailedElsewhere())
        if isinstance(ended, TrialFailedElsewhere):
            return Attempt("another process ran out of memory")
        if isinstance(ended, Exception):
            return Attempt(in_a_line(ended))
        return Attempt(ended or None, None if counter.rows is None else processes.least(counter.rows))
    finally:
        del ended


def loaded(trainer: pl.Trainer, prepare: PrepareLoaders) -> Loaded:
    """Return what new train loaders say of their batches; the run keeps its own."""
    with isolated(trainer, pl.Callback()) as loop, _requested(loop, prepare) as found:
        if None not in found.sizes or found.shortage:
            return found
        return replace(found, rows=_rows(next(_batches(loop), None)))


def use_loaders(trainer: pl.Trainer, prepare: PrepareLoaders) -> None:
    """Let the run train and validate with new loaders; what making them draws is drawn from no stream.

    So a run that begins with them draws the same numbers as one that was given them.
    """
    streams = RandomState()
    prepare()
    request_loaders(trainer.fit_loop)
    request_val_loaders(trainer)
    streams.restore()


def _train_some(trainer: pl.Trainer, prepare: PrepareLoaders, counter: "_Counter") -> str | Exception:
    """Return the exception in which the steps have ended, or why there were none, or an empty string."""
    processes = Agreement(trainer)
    with isolated(trainer, counter) as loop:
        try:
            with _requested(loop, prepare) as found, _unsynchronized(trainer):
                if processes.anywhere(found.shortage != ""):
                    return found.shortage or "another process has no full batch"
                counter.begin(asks_rows=None in found.sizes)
                train(trainer, loop, counter)
                if processes.anywhere(counter.step == 0):
                    return "there was no full batch to train with"
            processes.meet()
        except Exception as error:
            if is_out_of_memory(error):
                _drop_frames(error)  # the processes need a little memory to meet
            if not isinstance(error, TrialFailedElsewhere):
                processes.meet(can_continue=False)
            return error
    return ""


def _drop_frames(error: BaseException | None) -> None:
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    garbage_collection_cuda()


def _unsynchronized(trainer: pl.Trainer) -> Any:
    """Let each process have gradients of its own: one that fails within the backward pass keeps none waiting."""
    block = getattr(trainer.strategy, "block_backward_sync", None)
    return nullcontext() if block is None else block()


class _Counter(pl.Callback):
    """Counts batches and optimizer steps, and keeps several processes together."""

    def __init__(self, trainer: pl.Trainer, num_steps: int) -> None:
        self._trainer, self._processes = trainer, Agreement(trainer)
        self._accumulated = min(trainer.accumulate_grad_batches, MOST_ACCUMULATED)
        self._least = num_steps * self._accumulated
        self._steps = [0] * len(trainer.optimizers)
        self._asks_rows = False
        self.step, self.done = 0, False  # batches
        self.rows: int | None = None

    def begin(self, asks_rows: bool) -> None:
        """Count from here on; the isolation restores the optimizers."""
        self._asks_rows = asks_rows
        self._trainer.accumulate_grad_batches = self._accumulated
        for index, optimizer in enumerate(self._trainer.optimizers):
            after_real_step(optimizer, partial(self._count, index))
        self._processes.meet_before_forward()

    def _count(self, index: int) -> None:
        self._steps[index] += 1

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._processes.meet()
        if self._asks_rows and self.rows is None:
            self.rows = _rows(batch)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        self._processes.meet()

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        self._processes.meet()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.step += 1
        has_all = self.step >= self._least and min(self._steps, default=2) >= 2
        self.done = has_all or self.step >= max(self._least, MOST_BATCHES)
        trainer.should_stop = trainer.should_stop or self.done


# ------------------------------------------------------------------------------------------------ loaders
@contextmanager
def _requested(loop: _FitLoop, prepare: PrepareLoaders) -> Iterator[Loaded]:
    """Let an isolated loop ask for its loaders again; say what they are."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those about the loaders were given when the fit began
            prepare()
            try:
                request_loaders(loop)
                found = _described(loop)
            except MisconfigurationException as error:  # fewer batches than a limit of the Trainer asks for
                found = Loaded(shortage=in_a_line(error))
        yield found
    finally:
        if loop._data_fetcher is not None:
            tear_down(loop._data_fetcher)


def _described(loop: _FitLoop) -> Loaded:
    parts = [] if loop._combined_loader is None else loop._combined_loader.flattened
    sizes = tuple(map(_size, parts))
    is_short = all(size is not None and _length(part) < size for part, size in zip(parts, sizes, strict=True))
    shortage = "the data set has no full batch" if is_short or loop.max_batches == 0 else ""
    return Loaded(sizes, loop.max_batches, None, shortage)


def _size(loader: Any) -> int | None:
    """Return the batch size of a loader whose data set has a length, else None."""
    own = getattr(loader, "batch_size", None)
    size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None) if own is None else own
    return size if isinstance(size, int) and _length(loader) < float("inf") else None


def _length(loader: Any) -> float:
    """Return how many rows this process has of a loader's data set; infinite where that is not known."""
    with suppress(Exception):
        return len(loader.sampler)
    return float("inf")


def _batches(loop: _FitLoop) -> Iterator[Any]:
    assert loop._data_fetcher is not None
    return (batch for batch, _, _ in loop._data_fetcher)


def _rows(batch: Any) -> int | None:
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        return int(extract_batch_size(batch))
    return None
