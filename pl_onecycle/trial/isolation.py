"""Let a Trainer train for a while and restore it afterwards.

Isolation by substitution: inside one ``with`` block the Trainer gets a fresh fit loop over its own data, a fresh logger
connector, mute loggers and one callback; the user's are never touched. What the two share (module, optimizers,
strategy, random streams, loaders) is saved in memory and restored in place, however the block is left. Nothing is
written to disk.

This file decides what is saved; `memory.py` saves it, and `reducer.py` what DDP keeps. Private attribute of Lightning
used here, the same in 2.4.0 and 2.6.6: ``_logger_connector``; `stand_ins.py` and `_lightning.py` list the others.
"""

from collections.abc import Callable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from operator import length_hint
from types import FunctionType
from typing import Any

from torch import nn

from pl_onecycle._lightning import (
    CombinedLoader,
    MisconfigurationException,
    PassThroughProfiler,
    _FitLoop,
    _LoggerConnector,
    _MultiProcessingLauncher,
    _TunerExitException,
    pl,
    rank_zero_warn,
)
from pl_onecycle.random_state import RandomState
from pl_onecycle.trial.batches import NO_SOURCE, leave_data_alone, remember_source, renew_iterators
from pl_onecycle.trial.interrupts import Interrupts
from pl_onecycle.trial.memory import ATOMS, Memory, slots
from pl_onecycle.trial.reducer import reducer_renewal, states_of_communication
from pl_onecycle.trial.stand_ins import (
    Validation,
    give_back,
    loaders_behind_tapes,
    muted,
    nothing,
    substitute_loaders,
    tapes_of,
    tear_down,
    train_loader,
    trial_loop,
    unused_loop,
)
from pl_onecycle.trial.tapes import Tape


@contextmanager
def isolated(
    trainer: pl.Trainer,
    callback: pl.Callback,
    val_batches: int = 0,
    is_validation_due: Callable[[], bool] | None = None,
) -> Iterator[_FitLoop]:
    """Give ``trainer`` a fit loop of its own to train with, and restore everything afterwards.

    Enter it while ``trainer`` fits and its train loader is set up. Inside, ``callback`` is the only callback, schedules
    do not advance, validation runs on a few batches on request, loggers accept everything and write nothing, no
    checkpoint is saved, and step counts continue from those of the fit. On exit, also by an exception or Ctrl-C, all of
    this is restored: parameters, buffers, gradients, flags, torchmetrics states, plain attributes, optimizer and
    scheduler state, gradient scaler, random streams and generators, loaders with their samplers and persistent workers,
    callbacks, loggers and the Trainer's own attributes.

    Args:
        trainer: A Trainer within ``fit``.
        callback: Receives the hooks of the training inside.
        val_batches: How many batches of each validation loader to validate on, the same each time.
        is_validation_due: Called after each train batch; True validates.

    Yields:
        The fit loop, ready to advance.
    """
    with Interrupts() as interrupts, ExitStack() as undo:
        try:
            undo.callback(RandomState().restore)
            tapes, validation = tapes_of(trainer), Validation(trainer, val_batches)
            undo.callback(give_back, trainer, tapes)
            undo.callback(validation.give_back)
            memory = Memory()
            undo.callback(reducer_renewal(trainer.strategy.model))
            undo.callback(memory.restore)
            sources = [*zip(train_loader(trainer).flattened, tapes, strict=True)]
            sources += zip(validation.loaders, validation.tapes, strict=True)
            undo.callback(_warn_of_changes, _remember(trainer, memory, sources))
            loop = trial_loop(trainer, is_validation_due)
            undo.callback(tear_down, substitute_loaders(loop, tapes))
            trainer.fit_loop = loop
            _mute(trainer)
            trainer.callbacks = [callback]  # type: ignore[attr-defined]  # set by a connector
            for config in trainer.lr_scheduler_configs:
                config.scheduler.step = nothing  # type: ignore[method-assign]  # the module may step it by hand
            # The module can still read these, but Lightning steps no schedule at this interval.
            trainer.strategy.lr_scheduler_configs = [
                replace(config, interval="") for config in trainer.lr_scheduler_configs
            ]
            trainer.save_checkpoint = nothing  # type: ignore[method-assign]
            trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]
            validation.set_up(trainer, loop)
            trainer.limit_val_batches = 0
            trainer.should_stop = False
            yield loop
        finally:
            interrupts.hold = True


class _Leave(pl.Callback):
    """Ends a fit before its first step, after the callbacks before it have begun the first epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise _TunerExitException  # Lightning tears down as at the end of a fit, and returns


@contextmanager
def rehearsed(
    trainer: pl.Trainer, model: pl.LightningModule, data: list[Any], callbacks: list[pl.Callback]
) -> Iterator[None]:
    """Let a fit of ``trainer`` end before its first step, and restore everything afterwards.

    Inside, ``trainer.fit(model, ...)`` sets everything up, runs the hooks up to the first ``on_train_epoch_start`` and
    returns; loggers are mute, and there is no sanity validation. On exit, also by an exception or Ctrl-C, the model,
    the attributes of the data module, generators and samplers of the loaders, the random streams, the callbacks of the
    Trainer and its own attributes are restored, and it has not begun to fit. Batches taken from a source that cannot be
    started over are lost, and a warning names their loader.

    Args:
        trainer: A Trainer that is not within ``fit``.
        model: The model to fit.
        data: Its loaders and its data module; each may be None.
        callbacks: The only ones inside. Those that the Trainer did not have before keep their results.

    Raises:
        MisconfigurationException: The Trainer's strategy fits in processes of its own, which return nothing.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise MisconfigurationException(
            "Nothing can be tuned with a strategy that fits in processes of its own, such as `ddp_spawn` or"
            " `ddp_notebook`: their results are not returned. Use `ddp`, or a single device."
        )
    with Interrupts() as interrupts, ExitStack() as undo:
        try:
            undo.callback(RandomState().restore)
            memory = Memory()
            undo.callback(memory.restore)
            loaders = [loader for part in data for loader in CombinedLoader(part).flattened]
            leave_data_alone(memory, loaders)
            seen: set[int] = set()
            for source in loaders:
                remember_source(memory, source, seen)
                renew_iterators(source)  # the end of a fit ends the workers of its loaders
            memory.remember(model)
            _remember_trainer(memory, trainer)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
                memory.remember_attributes(callback)
            trainer.fit_loop = unused_loop(trainer)
            undo.callback(warn_of_lost_batches, trainer)
            _mute(trainer)
            trainer.num_sanity_val_steps = 0
            trainer.callbacks = [*callbacks, _Leave()]  # type: ignore[attr-defined]  # set by a connector
            yield
        finally:
            interrupts.hold = True


def warn_of_lost_batches(trainer: pl.Trainer) -> None:
    """Name the loaders of which a fit has not got the batches that trials have taken."""
    lost = sorted({type(loader.loader).__name__ for loader in loaders_behind_tapes(trainer)})
    if lost:
        rank_zero_warn(
            f"{', '.join(lost)} cannot be started over, and a fit begins after the batches that a trial before it has"
            " taken: give the fit a new one."
        )


def _mute(trainer: pl.Trainer) -> None:
    """Let nothing that is logged reach the user's metrics or loggers."""
    trainer._logger_connector = _LoggerConnector(trainer)
    trainer.loggers = [muted(logger) for logger in trainer.loggers]


# ----------------------------------------------------------------------------------- what is remembered
def _remember(trainer: pl.Trainer, memory: Memory, sources: list[tuple[Any, Tape | None]]) -> dict[int, Any]:
    """Remember everything to be restored; return the module's other objects with their `_fingerprint`, by id.

    ``sources`` are the loaders, each with its tape if it cannot be started over.
    """
    for loader, tape in sources:
        if tape is not None:  # batches taken from it stay taken, so its position is not restored
            memory.leave_alone(loader)
            memory.leave_alone(getattr(loader, "dataset", None))
    can_start_over = [loader for loader, tape in sources if tape is None]
    leave_data_alone(memory, can_start_over)
    memory.remember_bindings(getattr(trainer, "datamodule", None))
    memory.remember(trainer.lightning_module)
    others = {key: (item, _fingerprint(item)) for key, item in memory.unknown.items() if _may_change(item)}
    wrapper = trainer.strategy.model
    if isinstance(wrapper, nn.Module) and wrapper is not trainer.lightning_module:
        # Its attributes belong to a reducer: `reducer.py` restores both.
        memory.leave_alone(wrapper)
        memory.remember(wrapper._forward_pre_hooks)
        memory.remember([*wrapper.parameters(), *wrapper.buffers()])
    _remember_trainer(memory, trainer)
    memory.remember_attributes(getattr(trainer.precision_plugin, "scaler", None))
    for config in trainer.lr_scheduler_configs:
        memory.remember_attributes(config.scheduler)
    seen: set[int] = set()
    for loader in can_start_over:
        remember_source(memory, loader, seen)
    return others


def _remember_trainer(memory: Memory, trainer: pl.Trainer) -> None:
    for part in (trainer, trainer.state, trainer.strategy, trainer.precision_plugin):
        memory.remember_attributes(part)
    for part in states_of_communication(trainer.strategy):
        memory.remember(part)
        memory.remember_attributes(part)


# Objects of these libraries in a module are not checked for changes.
_LIBRARIES = (
    *(
        "torch._C",
        "torch._dynamo",
        "torch.distributed",
        "lightning",
        "pytorch_lightning",
        "lightning_fabric",
        "torchmetrics",
    ),
    *("concurrent", "functools", "logging", "threading"),
)


def _may_change(item: Any) -> bool:
    home = type(item).__module__ + "."
    is_theirs = any(home.startswith(f"{library}.") for library in _LIBRARIES)
    return not is_theirs and not isinstance(item, (*NO_SOURCE, FunctionType))


def _fingerprint(item: Any) -> dict[str, Any]:
    """Return what an object of any type shows without a copy: attributes, their lengths, items still to come."""
    if isinstance(item, Iterator) and not hasattr(item, "__dict__"):
        return {"still to come": length_hint(item, -1)}
    kind: type = type(item)
    kept = {name: getattr(item, name, None) for name in slots(kind)} | getattr(item, "__dict__", {})
    return {name: _fingerprint_of_value(value) for name, value in kept.items()}


def _fingerprint_of_value(value: Any) -> Any:
    return repr(value) if isinstance(value, ATOMS) else (id(value), len(value) if isinstance(value, Sized) else None)


def _has_changed(item: Any, fingerprint: dict[str, Any]) -> bool:
    """Return whether an attribute has changed; new attributes do not count, as they only cache something."""
    now = _fingerprint(item)
    return any(now.get(name) != value for name, value in fingerprint.items())


def _warn_of_changes(others: dict[int, Any]) -> None:
    changed = sorted({type(item).__name__ for item, fingerprint in others.values() if _has_changed(item, fingerprint)})
    if changed:
        rank_zero_warn(
            f"The module holds objects of type {', '.join(changed)} that a trial has changed and that cannot be"
            " restored: only modules, optimizers, tensors, arrays, random generators, numbers, strings and"
            " containers of them can."
        )
