"""`Finder`: decide when a test runs in a fit, and how the next fit uses its result.

The base class of the callbacks that find a value by trials. It handles the hooks, skips, resumed fits and the order of
several finders; the subclasses define what is tried and how the result is used.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from pl_onecycle.checks import expect, expect_bool, expect_integer
from pl_onecycle.schedules import optimizer_of


class Finder(pl.Callback):
    """Find a value at the start of a fit, and again at milestones, and train with it.

    *Runs at* the first ``on_train_epoch_start`` of a fit that starts from step 0, after the module's
    ``on_train_start``, and at that of each epoch in ``milestones``. Several finders on one Trainer run in the order of
    their `rank`, whatever their order in the list of callbacks. Skipped with ``fast_dev_run``; a resumed fit continues
    with the result in its checkpoint.

    Args:
        optimizer: Index of the optimizer, in the order of ``configure_optimizers``.
        milestones: Epochs >= 1 at whose start the test runs again.
        apply: False only suggests.
        report: False writes no files and no logger curves.

    Attributes:
        before: After a run, the value that training had before it.
        suggestion: The value found, or None.
    """

    title: ClassVar[str]  # in log lines and plots
    rank: ClassVar[int]
    finds_lr: ClassVar[bool] = False

    def __init__(self, optimizer: int, milestones: Sequence[int], apply: bool, report: bool) -> None:
        expect_integer("optimizer", optimizer, minimum=0)
        are_many = isinstance(milestones, Sequence) and not isinstance(milestones, str)
        expect(are_many, "milestones", "a sequence of epochs", milestones, TypeError)
        for epoch in milestones:
            expect_integer("milestones", epoch, minimum=1)
        expect_bool("apply", apply)
        expect_bool("report", report)
        self.optimizer = optimizer
        self.milestones = milestones
        self.apply = apply
        self.report = report
        self.before: float | None = None
        self.suggestion: Any = None
        self._reached_start = False  # whether this fit has reached the point at which the test runs
        self._begun: int | None = None  # the last epoch that has begun
        self._resumed = False  # whether the result comes from a checkpoint
        self._epoch: int | None = None  # of the last test
        self._tested_module: int | None = None  # its id; a reference would be pickled with the callback

    # ------------------------------------------------------------------------- what a subclass defines
    @abstractmethod
    def find(self, trainer: pl.Trainer) -> None:
        """Try, choose, apply and report within ``fit``, regardless of earlier results."""

    def check(self, trainer: pl.Trainer) -> None:
        """Raise MisconfigurationException if `find` cannot run; called before any finder takes a step."""
        optimizer_of(trainer, self.optimizer)

    @property
    @abstractmethod
    def why(self) -> str:
        """After a run, the reason for the suggestion, or the reason why there is none."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop the result."""

    @abstractmethod
    def _found_value(self) -> str:
        """Return name and value of the suggestion for a log line, e.g. ``"max_lr 0.1"``."""

    @abstractmethod
    def _use(self, trainer: pl.Trainer) -> list[str]:
        """Write the suggestion to optimizer, schedulers and module; return what changed."""

    @abstractmethod
    def _show_on_module(self, module: pl.LightningModule) -> list[str]:
        """Write the suggestion to the module only; return what changed."""

    # ------------------------------------------------------------------------------------------ hooks
    @property
    @override
    def state_key(self) -> str:
        """The key of the result in a checkpoint; Lightning requires a different key for each callback."""
        return f"{super().state_key}{{'optimizer': {self.optimizer}}}" if self.optimizer else super().state_key

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._reached_start = self._resumed = False
        self._begun = None
        if trainer.global_step == 0:  # a checkpoint's result is loaded after this hook
            self._forget()
            self.suggestion = self.before = self._epoch = None

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._resumed and self._epoch is not None:  # a fit resumed within an epoch does not start one
            self._reached_start = True
            self._skip(trainer, f"as this run was tested in epoch {self._epoch}")

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Lightning calls no `on_train_epoch_start` for the next epoch in a fit resumed from an epoch's last batch.
        if batch_idx == 0:
            self.on_train_epoch_start(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The first finder whose hook is called runs all finders.
        due = [finder for finder in finders(trainer) if finder._begun != trainer.current_epoch]
        for finder in due:
            if finder._reason_to_skip(trainer) is None:
                finder.check(trainer)
        for finder in due:
            finder._begin_epoch(trainer)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._reached_start and trainer.global_step == 0:
            rank_zero_info(f"{self.title}: not run, as the fit had no training step (no batches, or no epochs).")

    # ------------------------------------------------------------------------------------------ steps
    def _begin_epoch(self, trainer: pl.Trainer) -> None:
        self._begun = trainer.current_epoch
        is_first, self._reached_start = not self._reached_start, True
        skip = self._reason_to_skip(trainer)
        if skip is None:
            self._tested_module = id(trainer.lightning_module)
            self.find(trainer)
            self._epoch = trainer.current_epoch
        elif is_first:
            self._skip(trainer, skip)

    def _reason_to_skip(self, trainer: pl.Trainer) -> str | None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            return "as `fast_dev_run` trains too few steps for its result to matter"
        if trainer.current_epoch in self.milestones and trainer.current_epoch != self._epoch:
            return None
        if self._epoch is not None:
            return f"as this run was tested in epoch {self._epoch}"
        if trainer.global_step > 0:
            return f"as training is already at step {trainer.global_step}"
        return None

    def _skip(self, trainer: pl.Trainer, reason: str) -> None:
        """Apply the result of an earlier test, if there is one, and log why the test is skipped."""
        module, changed = trainer.lightning_module, list[str]()
        if self.suggestion is not None and self.apply:
            if self._resumed:  # optimizer and schedulers come from the checkpoint
                changed = self._show_on_module(module) if len(trainer.optimizers) == 1 else []
            elif self._tested_module == id(module):  # another fit of the same Trainer has created a new optimizer
                changed = self._use(trainer)
            reason += f"; its {self._found_value()} is set again in {', '.join(changed)}" if changed else ""
        rank_zero_info(f"{self.title}: skipped, {reason}.")

    def _restore_epoch(self, epoch: int | None) -> None:
        """Restore from a checkpoint the epoch in which its result was found."""
        self._epoch = epoch
        self._resumed = True


def finders(trainer: pl.Trainer) -> list[Finder]:
    """Return the Trainer's finders in the order in which they run."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    return sorted((it for it in callbacks if isinstance(it, Finder)), key=lambda finder: finder.rank)
