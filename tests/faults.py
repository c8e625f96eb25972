"""Ways in which a trial goes wrong, shared like the scenarios that they strike.

A `Fault` strikes at one batch of the trial, never in the real run, or it lasts as long as the fit. On leaving its
``with`` it is mended.
"""

import itertools
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import Dataset

from tests.scenarios import Fit, in_trial


class Broken(Exception):
    """What goes wrong in the middle of a trial."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Attributes:
        strikes: Takes the fit and the number of the trial's batch, or of its call of a hook, from 0.
        ends: With what the fit then ends; None where it continues.
    """

    strikes: Callable[[Fit, int], AbstractContextManager[None]]
    ends: type[BaseException] | tuple[type[BaseException], ...] | None = None


# ------------------------------------------------------------------------------------------------ in a hook
@contextmanager
def in_hook(hook: str, act: Callable[[], object], fit: Fit, at: int) -> Iterator[None]:
    """Act before the ``at``-th call of a hook of the module in the trial."""
    method, calls = getattr(fit.module, hook), itertools.count()

    def struck(*args: Any, **kwargs: Any) -> Any:
        if in_trial(fit.module) and next(calls) == at:
            act()
        return method(*args, **kwargs)

    setattr(fit.module, hook, struck)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        delattr(fit.module, hook)
        signal.signal(signal.SIGINT, interrupt)  # after Ctrl-C, Lightning leaves it ignored


def fails(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


# --------------------------------------------------------------------------------------------- in the data
class Struck(Dataset[Any]):
    """Rows of which one fails."""

    def __init__(self, rows: Any, act: Callable[[], object]) -> None:
        self.rows, self.act = rows, act

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        self.act()
        return self.rows[index]


@contextmanager
def in_data_set(error: Exception, fit: Fit, at: int) -> Iterator[None]:
    """Raise at the sixth row of the ``at``-th batch that the trial takes."""
    rows, calls = fit.loader.dataset, itertools.count()

    def act() -> None:
        if in_trial(fit.module) and next(calls) == at * fit.loader.batch_size + 5:
            raise error

    object.__setattr__(fit.loader, "dataset", Struck(rows, act))  # a DataLoader forbids to set it
    try:
        yield
    finally:
        object.__setattr__(fit.loader, "dataset", rows)


# --------------------------------------------------------------------------------------------- in the loss
@contextmanager
def in_loss(change: Callable[[Tensor], Tensor], lasting: bool, fit: Fit, at: int) -> Iterator[None]:
    """Change the loss of the trial's batch ``at``, and of those after it where that is lasting."""
    step, calls = fit.module.training_step, itertools.count()

    def struck(batch: Any, batch_idx: int) -> Any:
        loss = step(batch, batch_idx)
        call = next(calls) if in_trial(fit.module) else -1
        return change(loss) if call == at or (lasting and call > at) else loss

    fit.module.training_step = struck  # type: ignore[method-assign]
    try:
        yield
    finally:
        del fit.module.training_step


# -------------------------------------------------------------------------------------------- around a fit
@contextmanager
def small_files(fit: Fit, at: int) -> Iterator[None]:
    """Let the disk refuse files above 4 kB, as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_root(fit: Fit, at: int) -> Iterator[None]:
    """Let nobody, not even the superuser, write to the root directory: it lies where a file is."""
    fit.root.rmdir()
    fit.root.touch()
    try:
        yield
    finally:
        fit.root.unlink()
        fit.root.mkdir()


_NO_GPU_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
_HOOKS = ("on_train_batch_start", "on_before_zero_grad", "on_after_backward", "optimizer_step", "on_train_batch_end")

FAULTS = {
    "exception": Fault(partial(in_hook, "training_step", fails(Broken("on purpose"))), Broken),
    "Ctrl-C": Fault(
        partial(in_hook, "training_step", partial(signal.raise_signal, signal.SIGINT)), (SystemExit, KeyboardInterrupt)
    ),
    "exit": Fault(partial(in_hook, "training_step", fails(SystemExit(3))), SystemExit),
    "SIGTERM": Fault(partial(in_hook, "training_step", partial(signal.raise_signal, signal.SIGTERM)), SIGTERMException),
    "out of GPU memory": Fault(partial(in_hook, "training_step", fails(_NO_GPU_MEMORY)), torch.cuda.OutOfMemoryError),
    "out of memory": Fault(
        partial(in_hook, "training_step", partial(torch.empty, 2**60, dtype=torch.uint8)), RuntimeError
    ),
    **{f"exception in {hook}": Fault(partial(in_hook, hook, fails(Broken(hook))), Broken) for hook in _HOOKS},
    "exception in on_train_epoch_start": Fault(
        lambda fit, at: in_hook("on_train_epoch_start", fails(Broken("the only call")), fit, 0), Broken
    ),
    "exception in the data set": Fault(partial(in_data_set, Broken("a row")), Broken),
    "loss is NaN from then on": Fault(partial(in_loss, lambda loss: loss * float("nan"), True)),
    "loss is NaN once": Fault(partial(in_loss, lambda loss: loss + float("nan"), False)),
    "loss is infinite from then on": Fault(partial(in_loss, lambda loss: loss * float("inf"), True)),
    "loss is infinite once": Fault(partial(in_loss, lambda loss: loss + float("inf"), False)),
    "files above 4 kB are refused": Fault(small_files),
    "root directory that cannot be written": Fault(no_root),
}
