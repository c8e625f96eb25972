"""Let a Trainer train for a while and then be as if it had not.

Isolation by substitution: inside one ``with`` the Trainer gets a fresh fit loop over its own data, a fresh logger
connector, mute loggers and one callback; the user's are never touched. What the two share (module, optimizers,
strategy, random streams, loaders) is kept in memory and put back in place, whichever way the block is left. Nothing is
written to disk.

The only home of saved state. Lightning's private names that it needs, found alike in 2.4.0 and 2.6.6:
``_LoggerConnector`` (owns the logged metrics), ``_TunerExitException`` (the one way to leave a fit that is not an error
to Lightning) and ``_MultiProcessingLauncher`` (to know what it does not leave); the others stand in `substitutes.py`.
"""

from collections.abc import Callable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from operator import length_hint
from types import FunctionType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loops import _FitLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException, _TunerExitException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from pl_onecycle.memory import ATOMS, Memory, RandomState
from pl_onecycle.signals import Signals
from pl_onecycle.sources import NO_SOURCE, Tape, leave_data_alone, remember_source
from pl_onecycle.substitutes import (
    Validation,
    fresh_loop,
    give_back,
    muted,
    new_fit_loop,
    nothing,
    substitute_loaders,
    tapes_of,
    tear_down,
    train_loader,
)


@contextmanager
def isolated(
    trainer: pl.Trainer,
    callback: pl.Callback,
    val_batches: int = 0,
    is_validation_due: Callable[[], bool] | None = None,
) -> Iterator[_FitLoop]:
    """Give ``trainer`` a fit loop of its own to train with, and afterwards everything back as it was.

    To be entered while ``trainer`` fits and its train loader is set up. Inside, ``callback`` is the only callback,
    schedules stand still, validation is on a few batches when it is asked for, loggers take everything and write
    nothing, no checkpoint is saved, and steps count on from where the fit stands. On the way out, also by an exception
    or Ctrl-C, all of that is undone: parameters, buffers, gradients, flags, torchmetrics states, plain attributes,
    optimizer and scheduler state, gradient scaler, random streams and generators, loaders with their samplers and
    persistent workers, callbacks, loggers and the Trainer's own attributes.

    Args:
        trainer: A Trainer within ``fit``.
        callback: Sees the hooks of the training inside.
        val_batches: How many batches of each validation loader to validate on, the same each time.
        is_validation_due: Asked after each train batch.

    Yields:
        The fit loop, ready to advance.
    """
    with Signals() as signals, ExitStack() as undo:
        try:
            undo.callback(RandomState().restore)
            tapes, validation = tapes_of(trainer), Validation(trainer, val_batches)
            undo.callback(give_back, trainer, tapes)
            undo.callback(validation.give_back)
            memory = Memory()
            undo.callback(memory.restore)
            sources = [*zip(train_loader(trainer).flattened, tapes, strict=True)]
            sources += zip(validation.loaders, validation.tapes, strict=True)
            undo.callback(_warn_of_changes, _remember(trainer, memory, sources))
            loop = fresh_loop(trainer, is_validation_due)
            undo.callback(tear_down, substitute_loaders(loop, tapes))
            trainer.fit_loop = loop
            trainer._logger_connector = _LoggerConnector(trainer)
            trainer.loggers = [muted(logger) for logger in trainer.loggers]
            trainer.callbacks = [callback]  # type: ignore[attr-defined]  # set by a connector
            for config in trainer.lr_scheduler_configs:
                config.scheduler.step = nothing  # type: ignore[method-assign]  # the module may step it by hand
            # Still to be asked by the module, but of no interval at which Lightning steps a schedule.
            trainer.strategy.lr_scheduler_configs = [
                replace(config, interval="") for config in trainer.lr_scheduler_configs
            ]
            trainer.save_checkpoint = lambda *_, **__: None  # type: ignore[method-assign]
            trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]
            validation.set_up(trainer, loop)
            trainer.limit_val_batches = 0
            trainer.should_stop = False
            yield loop
        finally:
            signals.wait = True


class _Leave(pl.Callback):
    """Ends a fit once the callbacks before it have begun its first epoch, and before its first step."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise _TunerExitException  # Lightning tears down as at a fit's end, and goes on behind it


@contextmanager
def rehearsed(
    trainer: pl.Trainer, model: pl.LightningModule, data: list[Any], callbacks: list[pl.Callback]
) -> Iterator[None]:
    """Let a fit of ``trainer`` end before its first step, and afterwards have everything as it was.

    Inside, ``trainer.fit(model, ...)`` sets all up, runs the hooks as far as the first ``on_train_epoch_start`` and
    leaves; loggers are mute, nothing is checked by a sanity validation. On the way out, also by an exception or Ctrl-C,
    the model, the attributes of the data module, generators and samplers of the loaders, the random streams, the
    callbacks that were there and the Trainer's own attributes are put back, and it has not begun to fit. What was taken
    from a source that cannot be started over is gone.

    Args:
        trainer: A Trainer that is not within ``fit``.
        model: What is fit.
        data: Its loaders and its data module, or None in the place of each.
        callbacks: The only ones inside. Of these, what was not the Trainer's before keeps what it finds.

    Raises:
        MisconfigurationException: The Trainer's strategy fits in processes of its own, from which nothing comes back.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise MisconfigurationException(
            "Nothing can be tuned with a strategy that fits in processes of its own, as `ddp_spawn` and `ddp_notebook`"
            " do: what they find does not come back. Take `ddp`, or a single device."
        )
    with Signals() as signals, ExitStack() as undo:
        try:
            undo.callback(RandomState().restore)
            memory = Memory()
            undo.callback(memory.restore)
            loaders = [loader for part in data for loader in CombinedLoader(part).flattened]
            leave_data_alone(memory, loaders)
            seen: set[int] = set()
            for source in loaders:
                remember_source(memory, source, seen)
            memory.remember(model)
            for part in (trainer, trainer.state, trainer.strategy, trainer.precision_plugin):
                memory.remember_attributes(part)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
                memory.remember_attributes(callback)
            trainer.fit_loop = new_fit_loop(trainer)
            trainer._logger_connector = _LoggerConnector(trainer)
            trainer.loggers = [muted(logger) for logger in trainer.loggers]
            trainer.num_sanity_val_steps = 0
            trainer.callbacks = [*callbacks, _Leave()]  # type: ignore[attr-defined]  # set by a connector
            yield
        finally:
            signals.wait = True


# ----------------------------------------------------------------------------------- what is remembered
def _remember(trainer: pl.Trainer, memory: Memory, sources: list[tuple[Any, Tape | None]]) -> dict[int, Any]:
    """Remember all that is owed back, and return what else the module holds, by id, see `_look_of`.

    ``sources`` are the loaders, each with its tape where it cannot be started over.
    """
    for loader, tape in sources:
        if tape is not None:  # what is taken from it stays taken, so it stays as far as it has come
            memory.leave_alone(loader)
            memory.leave_alone(getattr(loader, "dataset", None))
    can_start_over = [loader for loader, tape in sources if tape is None]
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
    for part in (trainer, trainer.state, trainer.strategy, trainer.precision_plugin):
        memory.remember_attributes(part)
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
