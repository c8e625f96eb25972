"""Let a Trainer train for a while and then be as if it had not.

Isolation by substitution: inside one ``with`` the Trainer gets a fresh fit loop over its own data, a fresh logger
connector, mute loggers and one callback; the user's are never touched. What the two share (module, optimizers,
strategy, random streams, loaders) is kept in memory and put back in place, whichever way the block is left. Nothing is
written to disk.

The only home of saved state. Lightning's private names that it needs, found alike in 2.4.0 and 2.6.6: ``_FitLoop`` and
``_TrainingEpochLoop`` with ``_combined_loader``, ``_data_fetcher`` and ``_last_train_dl_reload_epoch`` (there is no
public way to run a second loop), ``_LoggerConnector`` (owns the logged metrics), ``_select_data_fetcher``,
``CombinedLoader._iterator`` and ``DataLoader._iterator`` (persistent workers live there).
"""

import copy
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import FrameType, ModuleType
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers.logger import DummyExperiment, Logger
from lightning.pytorch.loops import _FitLoop, _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _select_data_fetcher
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import CombinedLoader
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler

from pl_onecycle.memory import GENERATORS, Memory, RandomState

# A container of more parts holds data, not what makes batches of them.
MOST_PARTS = 100
# Where the search for them ends.
_NO_SOURCE = (type, ModuleType, str, bytes, int, float, type(None), Tensor, np.ndarray, pl.Trainer, pl.LightningModule)


@contextmanager
def isolated(trainer: pl.Trainer, callback: pl.Callback) -> Iterator[_FitLoop]:
    """Give ``trainer`` a fit loop of its own to train with, and afterwards everything back as it was.

    To be entered while ``trainer`` fits and its train loader is set up. Inside, ``callback`` is the only callback,
    schedules stand still, there is no validation, loggers take everything and write nothing, no checkpoint is saved,
    and steps count on from where the fit stands. On the way out, also by an exception or Ctrl-C, all of that is undone:
    parameters, buffers, gradients, flags, torchmetrics states, plain attributes, optimizer and scheduler state,
    gradient scaler, random streams and generators, loaders with their samplers and persistent workers, callbacks,
    loggers and the Trainer's own attributes.

    Args:
        trainer: A Trainer within ``fit``.
        callback: Sees the hooks of the training inside.

    Yields:
        The fit loop, ready to advance.
    """
    with _Signals() as signals, ExitStack() as undo:
        try:
            undo.callback(RandomState().restore)
            undo.callback(_remember(trainer).restore)
            loop = _fresh_loop(trainer)
            _substitute_loaders(loop, undo)
            trainer.fit_loop = loop
            trainer._logger_connector = _LoggerConnector(trainer)
            trainer.loggers = [_muted(logger) for logger in trainer.loggers]
            trainer.callbacks = [callback]  # type: ignore[attr-defined]  # set by a connector
            # Still to be asked by the module, but of no interval at which Lightning steps a schedule.
            trainer.strategy.lr_scheduler_configs = [
                replace(config, interval="") for config in trainer.lr_scheduler_configs
            ]
            trainer.save_checkpoint = lambda *_, **__: None  # type: ignore[method-assign]
            trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]
            trainer.limit_val_batches = 0
            trainer.should_stop = False
            fetcher = loop._data_fetcher
            assert fetcher is not None
            iter(fetcher)
            undo.callback(fetcher.teardown)
            yield loop
        finally:
            signals.wait = True


class _Signals:
    """Ctrl-C and SIGTERM reach their handlers at once, but wait as long as ``wait`` is set.

    So nothing comes between an end and its beginning: a second Ctrl-C cannot cut the way back short.
    """

    def __init__(self) -> None:
        self.wait = False
        self._held: list[tuple[int, FrameType | None]] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():  # others may not set handlers, and get no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wait:
            self._held.append((number, frame))
        else:
            self._handlers[number](number, frame)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for number, frame in self._held[:1]:
            self._handlers[number](number, frame)


# ----------------------------------------------------------------------------------- what is remembered
def _remember(trainer: pl.Trainer) -> Memory:
    memory = Memory()
    data = _train_loader(trainer).flattened
    for loader in data:  # first, so that no data set is copied because something else refers to it
        memory.remember_bindings(getattr(loader, "dataset", None))
    memory.remember_bindings(getattr(trainer, "datamodule", None))
    memory.remember(trainer.lightning_module)
    memory.remember_attributes(trainer)
    memory.remember_attributes(trainer.strategy)
    memory.remember_attributes(trainer.precision_plugin)
    memory.remember_attributes(getattr(trainer.precision_plugin, "scaler", None))
    for config in trainer.lr_scheduler_configs:
        memory.remember_attributes(config.scheduler)
    seen: set[int] = set()
    for loader in data:
        _remember_source(memory, loader, seen)
    return memory


def _remember_source(memory: Memory, source: Any, seen: set[int], depth: int = 4) -> None:
    """Generators, samplers, modules and numbers in what batches are made by; never the data themselves."""
    if id(source) in seen or isinstance(source, _NO_SOURCE):
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
            _remember_source(memory, part, seen, depth - 1)


# ---------------------------------------------------------------------------------- what is substituted
def _fresh_loop(trainer: pl.Trainer) -> _FitLoop:
    """A fit loop over the same loaders, from their start, that counts on from the user's."""
    users = trainer.fit_loop
    loop = _FitLoop(trainer, min_epochs=0, max_epochs=users.max_epochs)
    loop.epoch_progress = copy.deepcopy(users.epoch_progress)
    loop.epoch_loop = _EndlessEpochLoop(trainer, users.min_steps, users.max_steps)
    loop.epoch_loop.batch_progress = copy.deepcopy(users.epoch_loop.batch_progress)
    loop.epoch_loop.automatic_optimization.optim_progress = copy.deepcopy(
        users.epoch_loop.automatic_optimization.optim_progress
    )
    loop.epoch_loop._batches_that_stepped = users.epoch_loop._batches_that_stepped
    loop._data_source = users._data_source
    loop._combined_loader = _train_loader(trainer)
    loop._last_train_dl_reload_epoch = float("inf")  # never reload
    loop.max_batches = users.max_batches
    return loop


class _EndlessEpochLoop(_TrainingEpochLoop):
    """Shows the module the user's ``max_steps``, and does not end by it."""

    @property
    def _is_training_done(self) -> bool:
        return self._num_ready_batches_reached()

    @property
    def done(self) -> bool:
        """Whether the data are through or the trial is."""
        return self._is_training_done or bool(self.trainer.should_stop)


def _substitute_loaders(loop: _FitLoop, undo: ExitStack) -> None:
    """Let the loop fetch from the user's loaders anew.

    The user's loaders are not asked for again, so hooks that build data sets run once. What is taken from those that
    cannot be started anew is given to the real run again.
    """
    users = loop._combined_loader
    assert users is not None
    assert users._iterator is not None
    tapes = [
        _Tape(source) if _gone_once_taken(part) else None
        for part, source in zip(users.flattened, users._iterator.iterators, strict=True)
    ]
    loader = copy.copy(users)
    loader._iterator = None
    loader.flattened = [tape or part for tape, part in zip(tapes, users.flattened, strict=True)]
    for part in loader.flattened:
        if hasattr(part, "_iterator"):
            part._iterator = None  # persistent workers wait for the real run, in the remembered loader
    loop._combined_loader = loader
    loop._data_fetcher = _select_data_fetcher(loop.trainer, RunningStage.TRAINING)
    loop._data_fetcher.setup(loader)
    undo.callback(_give_back, users, tapes)


class _Tape(Iterator[Any]):
    """The user's own iterator over a source that cannot be started anew; remembers what it has given."""

    def __init__(self, source: Iterator[Any]) -> None:
        self.source = source
        self.taken: deque[Any] = deque()

    def __next__(self) -> Any:
        batch = next(self.source)
        self.taken.append(apply_to_collection(batch, Tensor, Tensor.clone))  # training may write into the batch
        return batch


def _gone_once_taken(loader: Any) -> bool:
    """Whether a loader or its data set is an iterator itself, or always hands out the same one."""
    dataset = getattr(loader, "dataset", None)
    if isinstance(loader, Iterator) or isinstance(dataset, Iterator):
        return True
    in_workers = getattr(loader, "num_workers", 0) > 0  # each has a copy of the data set, and knows how to ask it
    return isinstance(dataset, IterableDataset) and not in_workers and iter(dataset) is iter(dataset)


class _TakenFirst:
    """A loader that gives the batches of a tape before its own; an epoch that leaves some leaves them to the next."""

    def __init__(self, loader: Any, taken: deque[Any]) -> None:
        self.loader, self.taken = loader, taken

    def __iter__(self) -> Iterator[Any]:
        return _taken_first(self.taken, iter(self.loader))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _taken_first(taken: deque[Any], source: Iterator[Any]) -> Iterator[Any]:
    while taken:
        yield taken.popleft()
    yield from source


def _give_back(users: CombinedLoader, tapes: list[_Tape | None]) -> None:
    """Let the real run begin with the batches that were taken from it."""
    assert users._iterator is not None
    for i, tape in enumerate(tapes):
        if tape is not None:
            users._iterator.iterators[i] = _taken_first(tape.taken, tape.source)
            users.flattened[i] = _TakenFirst(users.flattened[i], tape.taken)


def _train_loader(trainer: pl.Trainer) -> CombinedLoader:
    loader = trainer.fit_loop._combined_loader
    assert loader is not None  # set up before `on_train_start`
    return loader


class _Mute:
    """What a muted logger does before its own class: nothing, whatever it is told."""

    @property
    def experiment(self) -> Any:
        """An object that takes every call."""
        return DummyExperiment()

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return _nothing if callable(value) and name != "experiment" and not name.startswith("_") else value


def _nothing(*_: Any, **__: Any) -> None:
    """Take everything, do nothing."""


def _muted(logger: Logger) -> Logger:
    """A logger of the same class, with the same names, directories and attributes, that writes nothing."""
    mute: Logger = object.__new__(type(f"Muted{type(logger).__name__}", (_Mute, type(logger)), {}))
    vars(mute).update(vars(logger))
    return mute
