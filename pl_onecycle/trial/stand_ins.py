"""Stand-ins for the user's loops, loaders, validation batches and loggers in a trial.

The user's own are never touched; `isolation.py` restores them. Private attributes of Lightning used here, the same
in 2.4.0 and 2.6.6: ``_combined_loader``, ``_data_fetcher``, ``_last_train_dl_reload_epoch`` and
``_should_check_val_fx`` of the loops, the ``_combined_loader``, ``_data_source``, ``_max_batches`` and
``_last_val_dl_reload_epoch`` of the ``val_loop``, ``CombinedLoader._iterator`` and ``DataLoader._iterator`` (persistent
workers live there).
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from pl_onecycle._lightning import (
    CombinedLoader,
    DummyExperiment,
    Logger,
    RunningStage,
    _DataFetcher,
    _FitLoop,
    _select_data_fetcher,
    _TrainingEpochLoop,
    pl,
)
from pl_onecycle.trial.batches import renew_iterators, tape_of
from pl_onecycle.trial.tapes import Pass, TakenFirst, Tape, begin, copied


# -------------------------------------------------------------------------------------------------- loops
def trial_loop(trainer: pl.Trainer, is_validation_due: Callable[[], bool] | None = None) -> _FitLoop:
    """Return a fit loop over the same loaders, from their start, that continues the counts of the user's."""
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
    loop.epoch_loop.is_validation_due = is_validation_due
    loop.epoch_loop._batches_that_stepped = users.epoch_loop._batches_that_stepped
    loop._data_source = users._data_source
    loop._combined_loader = train_loader(trainer)
    loop._last_train_dl_reload_epoch = float("inf")  # never reload
    loop.max_batches = users.max_batches
    return loop


def unused_loop(trainer: pl.Trainer) -> _FitLoop:
    """Return a fit loop as in a new Trainer, with the limits of the user's."""
    users = trainer.fit_loop
    loop = _FitLoop(trainer, min_epochs=users.min_epochs, max_epochs=users.max_epochs)
    loop.epoch_loop = _TrainingEpochLoop(trainer, users.min_steps, users.max_steps)
    return loop


class _EndlessEpochLoop(_TrainingEpochLoop):
    """Shows the module the user's ``max_steps`` but does not stop there; validates at each checkup of the trial."""

    is_validation_due: Callable[[], bool] | None = None

    def _broadcast_sigterm_tensor(self) -> None:
        """Let no process wait for the first one here, in case another has failed; SIGTERM counts after the batch."""

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        due = self.is_validation_due
        return due is not None and self.val_loop._combined_loader is not None and due()

    @property
    def _is_training_done(self) -> bool:
        return self._num_ready_batches_reached()

    @property
    def done(self) -> bool:
        """Whether the data are exhausted or the trial has ended."""
        return self._is_training_done or bool(self.trainer.should_stop)


# ------------------------------------------------------------------------------------------------ loaders
def substitute_loaders(loop: _FitLoop, tapes: list[Tape | None]) -> _DataFetcher:
    """Let the loop fetch from the start of the user's loaders.

    The hooks that build loaders are not called again, so hooks that build data sets run once.
    """
    users = loop._combined_loader
    assert users is not None
    loader = copy.copy(users)
    loader._iterator = None
    loader.flattened = [part if tape is None else tape for tape, part in zip(tapes, users.flattened, strict=True)]
    for part, tape in zip(users.flattened, tapes, strict=True):
        if tape is None:
            renew_iterators(part)  # the remembered loader keeps its iterators and workers for the real run
    loop._combined_loader = loader
    loop._data_fetcher = _select_data_fetcher(loop.trainer, RunningStage.TRAINING)
    loop._data_fetcher.setup(loader)
    return loop._data_fetcher


def request_loaders(loop: _FitLoop) -> None:
    """Let a fit loop ask the user's hooks for its train loaders again, and begin with them."""
    if loop._data_fetcher is not None:
        tear_down(loop._data_fetcher)
    loop._combined_loader = None
    loop.setup_data()


def request_val_loaders(trainer: pl.Trainer) -> None:
    """Let a fit ask the user's hooks for its validation loaders again, if it has asked before."""
    val_loop = trainer.fit_loop.epoch_loop.val_loop
    if val_loop._combined_loader is not None:
        val_loop._combined_loader = None
        trainer.validating = True  # the loop reads the stage
        val_loop.setup_data()
        trainer.training = True


def tear_down(fetcher: _DataFetcher) -> None:
    """Tear down the fetcher of the loaders."""
    if fetcher.iterator is not None:  # a fetcher that never began raises an error
        fetcher.teardown()


def tapes_of(trainer: pl.Trainer) -> list[Tape | None]:
    """Return a tape for each train loader that cannot be started over, and None for the others."""
    users = train_loader(trainer)
    assert users._iterator is not None
    has_begun, loop = _has_begun(trainer), trainer.fit_loop
    endless = loop.max_epochs in (None, -1)
    passes = math.inf if endless else max(loop.max_epochs - trainer.current_epoch, 1)  # type: ignore[operator]
    steps = math.inf if loop.max_steps == -1 else loop.max_steps - trainer.global_step
    limits = passes, steps * trainer.accumulate_grad_batches, trainer.current_epoch
    return [
        tape_of(part, partial(Pass, begun) if has_begun else partial(begin, part), *limits)
        for part, begun in zip(users.flattened, users._iterator.iterators, strict=True)
    ]


def _has_begun(trainer: pl.Trainer) -> bool:
    """Return whether the epoch continues with the existing iterators instead of creating new ones."""
    loop = trainer.fit_loop
    return trainer.current_epoch == 0 or loop.epoch_loop.restarting or getattr(loop, "is_resuming", False)


def give_back(trainer: pl.Trainer, tapes: list[Tape | None]) -> None:
    """Return the taken batches to the real run, which begins with them."""
    users = train_loader(trainer)
    assert users._iterator is not None
    _put_first(users, tapes)
    for i, tape in enumerate(tapes):
        if tape is not None and _has_begun(trainer):
            users._iterator.iterators[i] = iter(users.flattened[i])


def _put_first(users: CombinedLoader, tapes: list[Tape | None]) -> None:
    for i, tape in enumerate(tapes):
        if tape is not None:
            tape.end()
            users.flattened[i] = TakenFirst(users.flattened[i], tape)


def loaders_behind_tapes(trainer: pl.Trainer) -> list[TakenFirst]:
    """Return the loaders of a fit, for training and validation, from which a trial has taken batches."""
    loaders = (trainer.fit_loop._combined_loader, trainer.fit_loop.epoch_loop.val_loop._combined_loader)
    parts = [part for loader in loaders if loader is not None for part in loader.flattened]
    return [part.innermost() for part in parts if isinstance(part, TakenFirst)]


def train_loader(trainer: pl.Trainer) -> CombinedLoader:
    """Return the train loaders of the user's fit."""
    loader = trainer.fit_loop._combined_loader
    assert loader is not None  # set up before `on_train_start`
    return loader


# --------------------------------------------------------------------------------------------- validation
class Validation:
    """The first few batches of the user's validation loaders, used by every validation of a trial.

    Args:
        trainer: The user's Trainer.
        count: Batches of each loader; 0 for no validation.
    """

    def __init__(self, trainer: pl.Trainer, count: int) -> None:
        self._users, self._count = trainer.fit_loop.epoch_loop.val_loop, count if trainer.enable_validation else 0
        # None before the first validation of a fit without a sanity check; the trial then sets up the loaders.
        self._loader = self._users._combined_loader if self._count else None
        self.tapes = [tape_of(part, partial(begin, part), passes=1) for part in self.loaders]

    @property
    def loaders(self) -> list[Any]:
        """The user's validation loaders; empty before they are set up."""
        return [] if self._loader is None else self._loader.flattened

    def give_back(self) -> None:
        """Return the taken batches to the real run, which begins with them."""
        if self._loader is not None:
            _put_first(self._loader, self.tapes)

    def set_up(self, trainer: pl.Trainer, loop: _FitLoop) -> None:
        """Let ``loop`` validate on the batches."""
        val_loop = loop.epoch_loop.val_loop
        if self._count == 0:
            return
        limits = self._users._max_batches
        if self._loader is None:
            val_loop._data_source = self._users._data_source
            val_loop.setup_data()
            self._loader, limits = val_loop._combined_loader, val_loop._max_batches
            self.tapes = [None] * len(self.loaders)
        if self._loader is None:
            return
        parts = [part if tape is None else tape for tape, part in zip(self.tapes, self.loaders, strict=True)]
        for part, tape in zip(self.loaders, self.tapes, strict=True):
            if tape is None:
                renew_iterators(part)  # the remembered loader keeps its iterators and workers for the real run
        batches = [_first(part, min(self._count, limit)) for part, limit in zip(parts, limits, strict=True)]
        if trainer.world_size > 1:  # processes that validate on different numbers of batches deadlock
            counts = torch.tensor([len(part) for part in batches], device=trainer.strategy.root_device)
            fewest = trainer.strategy.all_gather(counts).reshape(-1, len(batches)).min(0).values.tolist()
            batches = [part[:fewer] for part, fewer in zip(batches, fewest, strict=True)]
        loader = copy.copy(self._loader)
        loader._iterator = None
        loader.flattened = [_Copies(part) for part in batches]
        val_loop._combined_loader = loader
        val_loop._max_batches = [len(part) for part in batches]
        val_loop._last_val_dl_reload_epoch = float("inf")  # never reload


def _first(loader: Any, count: int | float) -> list[Any]:
    return list(itertools.islice(loader, int(count)))


class _Copies:
    """Batches that are copied in each iteration, as hooks may write into them."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return map(copied, self.batches)


# ------------------------------------------------------------------------------------------------ loggers
class _Mute:
    """Mixin that makes every public method of a logger do nothing."""

    @property
    def experiment(self) -> Any:
        """An object that accepts every call."""
        return DummyExperiment()

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return nothing if callable(value) and name != "experiment" and not name.startswith("_") else value


def nothing(*_: Any, **__: Any) -> None:
    """Accept any arguments and do nothing."""


def muted(logger: Logger) -> Logger:
    """Return a logger of the same class, with the same names, directories and attributes, that writes nothing."""
    if isinstance(logger, _Mute):
        return logger
    mute: Logger = object.__new__(type(f"Muted{type(logger).__name__}", (_Mute, type(logger)), {}))
    vars(mute).update(vars(logger))
    return mute
