"""Let a Trainer train for a while and then be as if it had not.

Isolation by substitution: inside one ``with`` the Trainer gets a fresh fit loop over its own data, a fresh logger
connector, mute loggers and one callback; the user's are never touched. What the two share (module, optimizers,
strategy, random streams, loaders) is kept in memory and put back in place, whichever way the block is left. Nothing is
written to disk.

The only home of saved state. Lightning's private names that it needs, found alike in 2.4.0 and 2.6.6:
``_FitLoop`` with ``_combined_loader``, ``_data_fetcher`` and ``_last_train_dl_reload_epoch`` (there is no public way to
run a second loop), ``_LoggerConnector`` (owns the logged metrics), ``_select_data_fetcher``,
``CombinedLoader._iterator`` and ``DataLoader._iterator`` (persistent workers live there).
"""

import copy
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from lightning.pytorch.loops import _FitLoop
from lightning.pytorch.loops.utilities import _select_data_fetcher
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import CombinedLoader
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pl_onecycle.memory import Memory, RandomState


@contextmanager
def isolated(trainer: pl.Trainer, callback: pl.Callback) -> Iterator[_FitLoop]:
    """Give ``trainer`` a fit loop of its own to train with, and afterwards everything back as it was.

    To be entered while ``trainer`` fits and its train loader is set up. Inside, ``callback`` is the only callback,
    there are no schedulers and no validation, loggers take everything and write nothing, and epochs and steps count on
    from where the fit stands. On the way out, also by an exception or Ctrl-C, all of that is undone: parameters,
    buffers, gradients, flags, torchmetrics states, plain attributes, optimizer and scheduler state, gradient scaler,
    random streams and generators, loaders with their samplers and persistent workers, callbacks, loggers and the
    Trainer's own attributes.

    Args:
        trainer: A Trainer within ``fit``.
        callback: Sees the hooks of the training inside.

    Yields:
        The fit loop, ready to advance.
    """
    with ExitStack() as undo:
        undo.callback(RandomState().restore)
        undo.callback(_remember(trainer).restore)
        loop = _fresh_loop(trainer)
        _substitute_loaders(loop, undo)
        trainer.fit_loop = loop
        trainer._logger_connector = _LoggerConnector(trainer)
        trainer.loggers = [_MuteLogger(logger) for logger in trainer.loggers]
        trainer.callbacks = [callback]  # type: ignore[attr-defined]  # set by a connector
        trainer.strategy.lr_scheduler_configs = []
        trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]
        trainer.limit_val_batches = 0
        trainer.should_stop = False
        fetcher = loop._data_fetcher
        assert fetcher is not None
        iter(fetcher)
        undo.callback(fetcher.teardown)
        yield loop


# ----------------------------------------------------------------------------------- what is remembered
def _remember(trainer: pl.Trainer) -> Memory:
    memory = Memory()
    data = _train_loader(trainer).flattened
    for loader in data:  # first, so that no data set is copied because something else refers to it
        _remember_dataset(memory, getattr(loader, "dataset", None))
    memory.remember_bindings(getattr(trainer, "datamodule", None))
    memory.remember(trainer.lightning_module)
    memory.remember_attributes(trainer)
    memory.remember_attributes(trainer.strategy)
    memory.remember_attributes(trainer.precision_plugin)
    memory.remember_attributes(getattr(trainer.precision_plugin, "scaler", None))
    for config in trainer.lr_scheduler_configs:
        memory.remember_attributes(config.scheduler)
    for loader in data:
        _remember_loader(memory, loader)
    return memory


def _remember_dataset(memory: Memory, dataset: Any) -> None:
    """Numbers and generators of a data set and of those that it wraps, never its data."""
    memory.remember_bindings(dataset)
    for value in list(getattr(dataset, "__dict__", {}).values()):
        for inner in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(inner, Dataset):
                break
            _remember_dataset(memory, inner)


def _remember_loader(memory: Memory, loader: Any) -> None:
    """A loader with its workers and samplers."""
    if not isinstance(loader, DataLoader):
        memory.remember_bindings(loader)
        return
    memory.remember_attributes(loader)
    for sampler in (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)):
        memory.remember_attributes(sampler)


# ---------------------------------------------------------------------------------- what is substituted
def _fresh_loop(trainer: pl.Trainer) -> _FitLoop:
    """A fit loop over the same loaders, from their start, that counts on from the user's."""
    users = trainer.fit_loop
    loop = _FitLoop(trainer, min_epochs=0, max_epochs=users.max_epochs)
    loop.epoch_progress = copy.deepcopy(users.epoch_progress)
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
    return isinstance(dataset, IterableDataset) and iter(dataset) is iter(dataset)


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


class _MuteLogger(DummyLogger):
    """Takes every call and writes nothing; tells the names and directories of the logger it stands for."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._names = {
            key: getattr(logger, key, None) for key in ("name", "version", "save_dir", "log_dir", "root_dir")
        }
        if isinstance(logger, (CSVLogger, TensorBoardLogger)):  # `Trainer.log_dir` asks only these for `log_dir`
            self._names["save_dir"] = self._names["log_dir"]

    @property
    def name(self) -> Any:
        """Name of the experiment."""
        return self._names["name"]

    @property
    def version(self) -> Any:
        """Version of the experiment."""
        return self._names["version"]

    @property
    def save_dir(self) -> Any:
        """Directory in which `Trainer.log_dir` finds itself."""
        return self._names["save_dir"]

    @property
    def log_dir(self) -> Any:
        """Directory of this run."""
        return self._names["log_dir"]

    @property
    def root_dir(self) -> Any:
        """Directory of the experiment."""
        return self._names["root_dir"]
