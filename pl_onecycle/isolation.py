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
from collections.abc import Iterator, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from operator import length_hint
from types import FunctionType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers.logger import DummyExperiment, Logger
from lightning.pytorch.loops import _FitLoop, _TrainingEpochLoop
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.utilities import _select_data_fetcher
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from pl_onecycle.memory import ATOMS, Memory, RandomState
from pl_onecycle.signals import Signals
from pl_onecycle.sources import NO_SOURCE, TakenFirst, Tape, leave_data_alone, remember_source, tape_of


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
    with Signals() as signals, ExitStack() as undo:
        try:
            undo.callback(RandomState().restore)
            tapes = _tapes(trainer)
            undo.callback(_give_back, trainer, tapes)
            memory = Memory()
            undo.callback(memory.restore)
            undo.callback(_warn_of_changes, _remember(trainer, memory, tapes))
            loop = _fresh_loop(trainer)
            undo.callback(_tear_down, _substitute_loaders(loop, tapes))
            trainer.fit_loop = loop
            trainer._logger_connector = _LoggerConnector(trainer)
            trainer.loggers = [_muted(logger) for logger in trainer.loggers]
            trainer.callbacks = [callback]  # type: ignore[attr-defined]  # set by a connector
            for config in trainer.lr_scheduler_configs:
                config.scheduler.step = _nothing  # type: ignore[method-assign]  # the module may step it by hand
            # Still to be asked by the module, but of no interval at which Lightning steps a schedule.
            trainer.strategy.lr_scheduler_configs = [
                replace(config, interval="") for config in trainer.lr_scheduler_configs
            ]
            trainer.save_checkpoint = lambda *_, **__: None  # type: ignore[method-assign]
            trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]
            trainer.limit_val_batches = 0
            trainer.should_stop = False
            yield loop
        finally:
            signals.wait = True


# ----------------------------------------------------------------------------------- what is remembered
def _remember(trainer: pl.Trainer, memory: Memory, tapes: list[Tape | None]) -> dict[int, Any]:
    """Remember all that is owed back, and return what else the module holds, by id, see `_look_of`."""
    data = _train_loader(trainer).flattened
    for loader, tape in zip(data, tapes, strict=True):
        if tape is not None:  # what is taken from it stays taken, so it stays as far as it has come
            memory.leave_alone(loader)
            memory.leave_alone(getattr(loader, "dataset", None))
    can_start_over = [loader for loader, tape in zip(data, tapes, strict=True) if tape is None]
    leave_data_alone(memory, can_start_over)
    memory.remember_bindings(getattr(trainer, "datamodule", None))
    memory.remember(trainer.lightning_module)
    others = {key: (item, _look_of(item)) for key, item in memory.unknown.items() if _may_change(item)}
    wrapper = trainer.strategy.model
    if isinstance(wrapper, nn.Module) and wrapper is not trainer.lightning_module:
        # What it keeps belongs to a reducer whose own state goes on.
        memory.leave_alone(wrapper)
        memory.remember(wrapper._forward_pre_hooks)
        memory.remember([*wrapper.parameters(), *wrapper.buffers()])
    memory.remember_attributes(trainer)
    memory.remember_attributes(trainer.strategy)
    memory.remember_attributes(trainer.precision_plugin)
    memory.remember_attributes(getattr(trainer.precision_plugin, "scaler", None))
    for config in trainer.lr_scheduler_configs:
        memory.remember_attributes(config.scheduler)
    seen: set[int] = set()
    for loader in can_start_over:
        remember_source(memory, loader, seen)
    return others


# What these keep in a module is theirs to look after.
_LIBRARIES = (
    *("torch._C", "torch._dynamo", "torch.distributed", "lightning", "torchmetrics"),
    *("concurrent", "functools", "logging", "threading"),
)


def _may_change(item: Any) -> bool:
    home = type(item).__module__ + "."
    is_theirs = any(home.startswith(f"{library}.") for library in _LIBRARIES)
    return not is_theirs and not isinstance(item, (*NO_SOURCE, FunctionType))


def _look_of(item: Any) -> dict[str, Any]:
    """What can be seen of an object of any type without a copy: attributes, their lengths, items still to come."""
    if isinstance(item, Iterator) and not hasattr(item, "__dict__"):
        return {"still to come": length_hint(item, -1)}
    return {name: _look_of_value(value) for name, value in getattr(item, "__dict__", {}).items()}


def _look_of_value(value: Any) -> Any:
    return repr(value) if isinstance(value, ATOMS) else (id(value), len(value) if isinstance(value, Sized) else None)


def _has_changed(item: Any, look: dict[str, Any]) -> bool:
    """Whether what was there is another now; what has come is no more than something kept for later use."""
    now = _look_of(item)
    return any(now.get(name) != value for name, value in look.items())


def _warn_of_changes(others: dict[int, Any]) -> None:
    changed = sorted({type(item).__name__ for item, look in others.values() if _has_changed(item, look)})
    if changed:
        rank_zero_warn(
            f"The module holds objects of type {', '.join(changed)} that its training has changed in a trial, and which"
            " cannot be put back: only modules, optimizers, tensors, arrays, random generators, numbers, strings and"
            " containers of them can."
        )


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
    loop.epoch_loop.manual_optimization.optim_step_progress = copy.deepcopy(
        users.epoch_loop.manual_optimization.optim_step_progress
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


def _substitute_loaders(loop: _FitLoop, tapes: list[Tape | None]) -> _DataFetcher:
    """Let the loop fetch from the user's loaders anew.

    The user's loaders are not asked for again, so hooks that build data sets run once.
    """
    users = loop._combined_loader
    assert users is not None
    loader = copy.copy(users)
    loader._iterator = None
    loader.flattened = [tape or part for tape, part in zip(tapes, users.flattened, strict=True)]
    for part in loader.flattened:
        if hasattr(part, "_iterator"):
            part._iterator = None  # persistent workers wait for the real run, in the remembered loader
    loop._combined_loader = loader
    loop._data_fetcher = _select_data_fetcher(loop.trainer, RunningStage.TRAINING)
    loop._data_fetcher.setup(loader)
    return loop._data_fetcher


def _tear_down(fetcher: _DataFetcher) -> None:
    if fetcher.iterator is not None:  # one that never began has nothing to end, and says so by an error
        fetcher.teardown()


def _tapes(trainer: pl.Trainer) -> list[Tape | None]:
    """One for each loader that cannot be started over."""
    users = _train_loader(trainer)
    assert users._iterator is not None
    has_begun = _has_begun(trainer)
    return [
        tape_of(part, partial(iter, begun if has_begun else part))
        for part, begun in zip(users.flattened, users._iterator.iterators, strict=True)
    ]


def _has_begun(trainer: pl.Trainer) -> bool:
    """Whether the epoch goes on with the iterators that there are, and does not ask for new ones."""
    loop = trainer.fit_loop
    return trainer.current_epoch == 0 or loop.epoch_loop.restarting or getattr(loop, "is_resuming", False)


def _give_back(trainer: pl.Trainer, tapes: list[Tape | None]) -> None:
    """Let the real run begin with the batches that were taken from it."""
    users = _train_loader(trainer)
    assert users._iterator is not None
    for i, tape in enumerate(tapes):
        if tape is not None:
            users.flattened[i] = TakenFirst(users.flattened[i], tape)
            if _has_begun(trainer):
                users._iterator.iterators[i] = iter(users.flattened[i])


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
