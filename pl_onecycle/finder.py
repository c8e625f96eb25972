"""`Finder`: when a test runs in a fit, and what becomes of its result in the next one.

The frame of the callbacks that find something by trials: it knows the hooks, skips, resumes and the order of several;
what is tried and how it is used is theirs.
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
    """Find something at the start of a fit, and again where asked, and train with it.

    *Runs at* the first ``on_train_epoch_start`` of a fit that starts from step 0, when the module's ``on_train_start``
    has run, and at that of each epoch in ``milestones``. Several on one Trainer run in the order of their `rank`,
    whatever their order in its list. Skipped with ``fast_dev_run``; a resumed fit goes on with the result that its
    checkpoint carries.

    Args:
        optimizer: Index of the optimizer, in the order of ``configure_optimizers``.
        milestones: Epochs >= 1 at whose start to run again.
        apply: False only suggests.
        report: False writes no files and no logger curves.

    Attributes:
        before: After it ran, the value that the run had without it.
        suggestion: What was found, or None.
    """

    title: ClassVar[str]  # for people
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
        self._asked = False  # whether this fit has come to the point at which the test runs
        self._begun: int | None = None  # the epoch that has been announced last
        self._resumed = False  # whether the result came out of a checkpoint
        self._epoch: int | None = None  # of the last test
        self._tested: int | None = None  # id of the module of the result; a reference would travel with every pickle

    # ------------------------------------------------------------------------------ what each of them does
    @abstractmethod
    def find(self, trainer: pl.Trainer) -> None:
        """Try, choose, use and report, whatever has been found before; within ``fit``."""

    def check(self, trainer: pl.Trainer) -> None:
        """Raise MisconfigurationException where `find` could not run, before any of several has cost a step."""
        optimizer_of(trainer, self.optimizer)

    @property
    @abstractmethod
    def why(self) -> str:
        """After it ran, why the suggestion is what it is, or why there is none."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop the result."""

    @abstractmethod
    def _named(self) -> str:
        """What has been found and is set again, e.g. ``"max_lr 0.1"``."""

    @abstractmethod
    def _use(self, trainer: pl.Trainer) -> list[str]:
        """Write the suggestion to optimizer, schedulers and module; return what has changed."""

    @abstractmethod
    def _show(self, module: pl.LightningModule) -> list[str]:
        """Write the suggestion to the module alone; return what has changed."""

    # ------------------------------------------------------------------------------------------ hooks
    @property
    @override
    def state_key(self) -> str:
        """Under which a checkpoint has the result; Lightning takes no two callbacks with one key."""
        return f"{super().state_key}{{'optimizer': {self.optimizer}}}" if self.optimizer else super().state_key

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._asked = self._resumed = False
        self._begun = None
        if trainer.global_step == 0:  # a checkpoint's result is loaded later than this
            self._forget()
            self.suggestion = self.before = self._epoch = None

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._resumed and self._epoch is not None:  # a fit that is resumed within an epoch does not start one
            self._asked = True
            self._skip(trainer, f"as this run was tested in epoch {self._epoch}")

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # A fit that is resumed from a checkpoint of an epoch's last batch does not announce the next epoch.
        if batch_idx == 0:
            self.on_train_epoch_start(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The first to be asked answers for all.
        due = [finder for finder in finders(trainer) if finder._begun != trainer.current_epoch]
        for finder in due:
            if finder._reason_to_skip(trainer) is None:
                finder.check(trainer)
        for finder in due:
            finder._begin_epoch(trainer)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._asked and trainer.global_step == 0:
            rank_zero_info(f"{self.title}: not run, as the fit had no training step (no batches, or no epochs).")

    # ------------------------------------------------------------------------------------------ steps
    def _begin_epoch(self, trainer: pl.Trainer) -> None:
        self._begun = trainer.current_epoch
        is_first, self._asked = not self._asked, True
        skip = self._reason_to_skip(trainer)
        if skip is None:
            self._tested = id(trainer.lightning_module)
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
        """Go on with the result of an earlier test, if there is one, and tell."""
        module, changed = trainer.lightning_module, list[str]()
        if self.suggestion is not None and self.apply:
            if self._resumed:  # optimizer and schedulers come from the checkpoint
                changed = self._show(module) if len(trainer.optimizers) == 1 else []
            elif self._tested == id(module):  # a further fit of the same Trainer has made its optimizer anew
                changed = self._use(trainer)
            reason += f"; its {self._named()} is set again in {', '.join(changed)}" if changed else ""
        rank_zero_info(f"{self.title}: skipped, {reason}.")

    def _restore_epoch(self, epoch: int | None) -> None:
        """Take over from a checkpoint when the result that it carries was found."""
        self._epoch = epoch
        self._resumed = True


def finders(trainer: pl.Trainer) -> list[Finder]:
    """Return the Trainer's finders in the order in which they run."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    return sorted((it for it in callbacks if isinstance(it, Finder)), key=lambda finder: finder.rank)
