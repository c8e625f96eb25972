"""What takes the place of the user's in a trial: loops, loaders, validation batches, loggers.

The user's own are never touched; `isolation.py` puts them back. Lightning's private names that are needed here, found
alike in 2.4.0 and 2.6.6: ``_FitLoop`` and ``_TrainingEpochLoop`` with ``_combined_loader``, ``_data_fetcher``,
``_last_train_dl_reload_epoch`` and ``_should_check_val_fx`` (there is no public way to run a second loop), the
``_combined_loader``, ``_data_source``, ``_max_batches`` and ``_last_val_dl_reload_epoch`` of its ``val_loop``,
``_select_data_fetcher``, ``CombinedLoader._iterator`` and ``DataLoader._iterator`` (persistent workers live there).
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers.logger import DummyExperiment, Logger
from lightning.pytorch.loops import _FitLoop, _TrainingEpochLoop
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.utilities import _select_data_fetcher
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import CombinedLoader

from pl_onecycle.sources import TakenFirst, Tape, copied, tape_of


# -------------------------------------------------------------------------------------------------- loops
def fresh_loop(trainer: pl.Trainer, is_validation_due: Callable[[], bool] | None = None) -> _FitLoop:
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
    loop.epoch_loop.is_validation_due = is_validation_due
    loop.epoch_loop._batches_that_stepped = users.epoch_loop._batches_that_stepped
    loop._data_source = users._data_source
    loop._combined_loader = train_loader(trainer)
    loop._last_train_dl_reload_epoch = float("inf")  # never reload
    loop.max_batches = users.max_batches
    return loop


def new_fit_loop(trainer: pl.Trainer) -> _FitLoop:
    """A fit loop as a new Trainer has it, with the limits of the user's."""
    users = trainer.fit_loop
    loop = _FitLoop(trainer, min_epochs=users.min_epochs, max_epochs=users.max_epochs)
    loop.epoch_loop = _TrainingEpochLoop(trainer, users.min_steps, users.max_steps)
    return loop


class _EndlessEpochLoop(_TrainingEpochLoop):
    """Shows the module the user's ``max_steps``, and does not end by it; validates when the trial asks for it."""

    is_validation_due: Callable[[], bool] | None = None

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        due = self.is_validation_due
        return due is not None and self.val_loop._combined_loader is not None and due()

    @property
    def _is_training_done(self) -> bool:
        return self._num_ready_batches_reached()

    @property
    def done(self) -> bool:
        """Whether the data are through or the trial is."""
        return self._is_training_done or bool(self.trainer.should_stop)


# ------------------------------------------------------------------------------------------------ loaders
def substitute_loaders(loop: _FitLoop, tapes: list[Tape | None]) -> _DataFetcher:
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


def tear_down(fetcher: _DataFetcher) -> None:
    """Let go of what fetches from the loaders."""
    if fetcher.iterator is not None:  # one that never began has nothing to end, and says so by an error
        fetcher.teardown()


def tapes_of(trainer: pl.Trainer) -> list[Tape | None]:
    """One for each train loader that cannot be started over."""
    users = train_loader(trainer)
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


def give_back(trainer: pl.Trainer, tapes: list[Tape | None]) -> None:
    """Let the real run begin with the batches that were taken from it."""
    users = train_loader(trainer)
    assert users._iterator is not None
    _put_first(users, tapes)
    for i, tape in enumerate(tapes):
        if tape is not None and _has_begun(trainer):
            users._iterator.iterators[i] = iter(users.flattened[i])


def _put_first(users: CombinedLoader, tapes: list[Tape | None]) -> None:
    for i, tape in enumerate(tapes):
        if tape is not None:
            users.flattened[i] = TakenFirst(users.flattened[i], tape)


def train_loader(trainer: pl.Trainer) -> CombinedLoader:
    """The train loaders of the user's fit."""
    loader = trainer.fit_loop._combined_loader
    assert loader is not None  # set up before `on_train_start`
    return loader


# --------------------------------------------------------------------------------------------- validation
class Validation:
    """The first few batches of the user's validation loaders, to be validated on again and again.

    Args:
        trainer: The user's.
        count: Batches of each loader; 0 for no validation.
    """

    def __init__(self, trainer: pl.Trainer, count: int) -> None:
        self._users, self._count = trainer.fit_loop.epoch_loop.val_loop, count if trainer.enable_validation else 0
        # None before the first validation of a fit without a sanity check; the loaders are then asked for in the trial.
        self._loader = self._users._combined_loader if self._count else None
        self.tapes = [tape_of(part, partial(iter, part)) for part in self.loaders]

    @property
    def loaders(self) -> list[Any]:
        """The user's loaders, as far as they are set up."""
        return [] if self._loader is None else self._loader.flattened

    def give_back(self) -> None:
        """Let the real run begin with the batches that were taken from it."""
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
        parts = [tape or part for tape, part in zip(self.tapes, self.loaders, strict=True)]
        batches = [_first(part, min(self._count, limit)) for part, limit in zip(parts, limits, strict=True)]
        if trainer.world_size > 1:  # processes that validate on different numbers of batches wait for ever
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
    if hasattr(loader, "_iterator"):
        loader._iterator = None  # persistent workers wait for the real run, in the remembered loader
    return list(itertools.islice(loader, int(count)))


class _Copies:
    """Batches that hooks may write into."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return map(copied, self.batches)


# ------------------------------------------------------------------------------------------------ loggers
class _Mute:
    """What a muted logger does before its own class: nothing, whatever it is told."""

    @property
    def experiment(self) -> Any:
        """An object that takes every call."""
        return DummyExperiment()

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return nothing if callable(value) and name != "experiment" and not name.startswith("_") else value


def nothing(*_: Any, **__: Any) -> None:
    """Take everything, do nothing."""


def muted(logger: Logger) -> Logger:
    """A logger of the same class, with the same names, directories and attributes, that writes nothing."""
    if isinstance(logger, _Mute):
        return logger
    mute: Logger = object.__new__(type(f"Muted{type(logger).__name__}", (_Mute, type(logger)), {}))
    vars(mute).update(vars(logger))
    return mute
