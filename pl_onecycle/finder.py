"""`Finder`: the frame of the callbacks that find a value by trials.

It decides when a search runs in a fit and how the next fit uses its result, and it holds the one line that every
search follows: search -> apply -> save -> log. Subclasses say what is tried and how the value is used.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from typing_extensions import override

from pl_onecycle._lightning import expect_trainer, pl, rank_zero_info
from pl_onecycle.checks import expect, expect_bool, expect_integer, plain
from pl_onecycle.curves import Refusal
from pl_onecycle.module_attributes import restore_values, values_at
from pl_onecycle.page_writer import PageWriter
from pl_onecycle.pictures import Drawable, card, draw
from pl_onecycle.report import Advance, Loggers, Report, Saved, progress_bar, save
from pl_onecycle.run_directory import run_directory
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.search_cost import SearchCost
from pl_onecycle.sentences import change, duration, factor, in_a_line, short


class Answer(Protocol):
    """What a search finds."""

    @property
    def value(self) -> float:
        """The value to train with."""

    @property
    def reason(self) -> str:
        """Half a sentence for people."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, as saved in checkpoints."""


Found = TypeVar("Found", bound=Answer)


class Finder(pl.Callback, Generic[Found], ABC):
    """Find a value at the start of a fit, and again at milestones, and train with it.

    *Runs at* the first ``on_train_epoch_start`` of a fit that starts from step 0, after the module's
    ``on_train_start``, and at that of each epoch in ``milestones``. Several finders on one Trainer run in the order of
    their `rank`, whatever their order in the list of callbacks. Skipped with ``fast_dev_run``; a resumed fit continues
    with the result in its checkpoint. ``trainer.callback_metrics`` has the value that is used, as ``found/max_lr``,
    ``found/weight_decay`` or ``found/max_momentum``, with ``_1`` for an optimizer of index 1. The Trainer's loggers get
    it as a hyperparameter, ``one_cycle/max_lr`` with ``one_cycle/max_lr_before``, and that of a search at a milestone
    as ``one_cycle_epoch_3/max_lr``.

    Args:
        optimizer: Index of the optimizer, in the order of ``configure_optimizers``.
        milestones: Epochs >= 1 at whose start the search runs again.
        apply: False only suggests.
        report: False writes no files, logs no curves and no picture, and does not record the run for its page.

    Attributes:
        before: After a run, the value that training had before it.
        answer: After a run, what was found, or a `Refusal`.
        seconds: Wall time of the search, or None; a checkpoint does not keep it.
    """

    title: ClassVar[str]  # in log lines and plots
    value_name: ClassVar[str]  # of the value that is found
    result_name: ClassVar[str]  # of the value in a `TuneResult`
    rank: ClassVar[int]
    settings: ClassVar[tuple[str, ...]]  # names of the arguments that a report lists

    def __init__(self, *, optimizer: int, milestones: Sequence[int], apply: bool, report: bool) -> None:
        optimizer, milestones, apply, report = map(plain, (optimizer, milestones, apply, report))
        expect_integer("optimizer", optimizer, minimum=0)
        are_many = isinstance(milestones, (list, tuple))
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
        self.answer: Found | Refusal | None = None
        self.seconds: float | None = None
        self._pace: float | None = None  # seconds of a step of the last search
        self._reached_start = False  # whether this fit has reached the point at which the search runs
        self._begun_epoch: int | None = None  # the last epoch that has begun
        self._is_resumed = False  # whether the result comes from a checkpoint
        self._search_epoch: int | None = None  # of the last search
        self._saved: list[Saved] = []  # the reports of this fit that are not shown in full
        self._page = PageWriter()
        self._attributes: dict[str, float] = {}  # of the module, as the result has set them
        self._module_id: int | None = None  # of the result; a reference would be pickled with the callback

    @property
    def suggestion(self) -> Found | None:
        """What was found, or None."""
        return None if isinstance(self.answer, Refusal) else self.answer

    @property
    def value(self) -> float | None:
        """The value that was found, or None."""
        return None if self.suggestion is None else self.suggestion.value

    @property
    def used(self) -> float | None:
        """The value that was found and applied, or None."""
        return self.value if self.apply else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Between which values others lie that could be as good as the one found, or None."""
        return None

    @property
    def why(self) -> str:
        """After a run, the reason for the suggestion, or the reason why there is none.

        Raises:
            RuntimeError: There was no run.
        """
        if self.answer is None:
            raise RuntimeError(f"There is no result: this {type(self).__name__} has not run yet.")
        return self.answer.reason

    def picture(self) -> Drawable | None:
        """Return what a notebook shows of a result, or None for words only."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._outcome})"

    def _repr_html_(self) -> str:
        title, picture = f"{self.title}: {self._outcome}", None if self.answer is None else self.picture()
        if picture is None:
            return card(title, "" if self.answer is None else self.why)
        return card(title, self.why, partial(draw, picture))

    @property
    def _outcome(self) -> str:
        """What was found, in a few words."""
        if self.answer is None:
            return "not run yet"
        return "no suggestion" if self.value is None else f"{self.value_name} {change(self.before, self.value)}"

    # --------------------------------------------------------------------------- what each subclass says
    @abstractmethod
    def _search(self, run: RunOptimizer) -> Found | Refusal:
        """Run trials and return what they show."""

    @abstractmethod
    def _value_before(self, run: RunOptimizer) -> float:
        """Return the value of the run without the search."""

    @abstractmethod
    def _use(self, run: RunOptimizer, value: float) -> list[str]:
        """Write a value to optimizer, schedulers and module; return what changed."""

    @abstractmethod
    def _description(self, run: RunOptimizer) -> str:
        """Describe the trials for the log."""

    @abstractmethod
    def _cost(self, run: RunOptimizer) -> str:
        """Return what the search costs at most, for the log."""

    @abstractmethod
    def _steps_taken(self) -> int:
        """Return the number of optimizer steps of the last search; 0 if they have no common pace."""

    def _validates(self, trainer: pl.Trainer) -> bool:
        """Return whether the search validates, too, so that its pace is not that of another one."""
        return False

    def _advice(self, run: RunOptimizer) -> list[str]:
        """Return sentences for the log about how the value found is used."""
        return []

    @abstractmethod
    def _make_report(self, run: RunOptimizer, changed: list[str]) -> Report:
        """Return what there is to show."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop the curves of the last search."""

    def reset(self) -> None:
        """Drop the result of the last search."""
        self._forget()
        self.answer = self.before = self.seconds = self._pace = self._search_epoch = None
        self._attributes = {}
        self._page = PageWriter()

    # ---------------------------------------------------------------------------------------- the find line
    def check(self, trainer: pl.Trainer) -> None:
        """Raise MisconfigurationException if `find` cannot run; called before any finder takes a step."""
        RunOptimizer(trainer, self.optimizer)

    def find(self, trainer: pl.Trainer, saves: bool = True) -> None:
        """Search, apply, save if asked to, and log within ``fit``, regardless of earlier results."""
        run = RunOptimizer(trainer, self.optimizer, calls_users_code=self.apply)
        self._forget()
        self._attributes = {}
        self.before = self._value_before(run)
        rank_zero_info(f"{self.title}: at most {self._cost(run)}")
        started = time.monotonic()
        self.answer = self._search(run)
        self.seconds = time.monotonic() - started
        self._pace = self.seconds / steps if (steps := self._steps_taken()) else None
        outcome, changed = self._apply_answer(run, self.before)
        if self._page.is_due:  # the last search of this finder has not been drawn
            self._draw(trainer)
        saved = self._save(run, changed) if saves else Saved()
        self._saved.append(saved)
        how = f"{self._description(run)}, {duration(self.seconds)}{saved}"
        rank_zero_info("\n  ".join([f"{self.title}: {outcome[0]}", *outcome[1:], self.why, how]))
        if self not in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
            self._show_rest(trainer)  # no hook will

    def _apply_answer(self, run: RunOptimizer, before: float) -> tuple[list[str], list[str]]:
        """Apply what was found, unless `apply` is False; return the first lines for the log, and what changed."""
        name, value, label = self.value_name, self.value, self._label_in(run)
        if value is None:
            return [f"no suggestion, {label} stays {short(before)}"], []
        if not self.apply:
            found = f"{name} {short(value)}{factor(before, value)}"
            return [f"suggests {found}; not applied, {label} stays {short(before)}"], []
        changed = self._train_with(run, value)
        # A place is named or counted; what else there is to say is a sentence.
        places = [it for it in changed if " " not in it or it[0].isdigit()]
        notes = [it for it in changed if it not in places]
        from_what = "stays" if value == before else f"{short(before)} →"
        found = f"{self._label_in(run)} {from_what} {short(value)}{factor(before, value)}"
        return [f"{found} {self._where(run, places)}", *notes, *self._advice(run)], changed

    def _where(self, run: RunOptimizer, places: list[str]) -> str:
        """Return where a value was written, for the log."""
        return f"for {type(run.optimizer).__name__}, {', '.join(places).replace('parameter group', 'group')}"

    def _cost_of(self, run: RunOptimizer, steps: int, made_of: str = "") -> str:
        """Return what a number of steps costs, for the log."""
        return str(SearchCost.of(run.trainer, steps, self._known_pace(run.trainer), made_of))

    def _known_pace(self, trainer: pl.Trainer) -> float | None:
        """Return the seconds of a step that an earlier search has measured, or None if none has."""
        others = [] if self._validates(trainer) else [it for it in finders(trainer) if not it._validates(trainer)]
        return next((it._pace for it in (self, *others) if it._pace is not None), None)

    def _progress(self, run: RunOptimizer, total: int) -> AbstractContextManager[Advance]:
        """Show how far the search is; say how long it takes, where that was not known before."""
        return progress_bar(run.trainer, total, self.title, says_time=self._known_pace(run.trainer) is None)

    def _train_with(self, run: RunOptimizer, value: float) -> list[str]:
        """Write a value to optimizer, schedulers and module, and keep what the module then holds for a resumed run."""
        changed = self._use(run, value)
        self._attributes = values_at(run.trainer.lightning_module, changed)
        return changed

    def _label_in(self, run: RunOptimizer) -> str:
        """Return what the value is in the run, for the log."""
        return self.value_name

    def facts(self) -> dict[str, Any]:
        """Return the contents of the report other than the curves."""
        found = self.suggestion
        return {
            "title": self.title,
            "value_name": self.value_name,
            "before": self.before,
            "suggestion": None if found is None else found.to_dict(),
            "refusal": self.why if found is None else None,
            "seconds": self.seconds,
            "settings": {name: getattr(self, name) for name in self.settings},
        }

    def _save(self, run: RunOptimizer, changed: list[str]) -> Saved:
        failed = self._log_found(run.trainer, run.trainer.current_epoch)
        if not self.report:
            return Saved()
        root = run_directory(run.trainer)
        if not run.trainer.is_global_zero:
            return Saved()
        saved = save(self._make_report(run, changed), root, run.trainer.loggers, failed)
        if saved.folder is not None:
            self._page.add(root, saved)
            if self in run.trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
                self._page.record(run, self._pages(run.trainer))
        return saved

    def _log_found(self, trainer: pl.Trainer, epoch: int | None) -> frozenset[int]:
        """Log the values that are used as hyperparameters; return the indices of the loggers that have failed."""
        if self.used is None or not trainer.is_global_zero:
            return frozenset()
        found: dict[str, Any] = {}
        for finder in self._all(trainer):  # as most loggers replace the whole group
            found |= finder._found
        loggers = Loggers(trainer.loggers, self.title)
        loggers.log_found(f"one_cycle_epoch_{epoch}" if epoch else "one_cycle", plain(found))
        return loggers.failed

    @property
    def _found(self) -> dict[str, Any]:
        """The value that is used and the one before it, by their names for loggers."""
        values = {"": self.used, "_before": self.before}
        return {f"{self._key}{end}": value for end, value in values.items() if None not in (self.used, value)}

    @property
    def _key(self) -> str:
        """The name of the value for loggers and other callbacks."""
        return f"{self.result_name}_{self.optimizer}" if self.optimizer else self.result_name

    def _all(self, trainer: pl.Trainer) -> list["Finder[Any]"]:
        """Return the Trainer's finders, and this one even if it is none of them."""
        return list(dict.fromkeys([*finders(trainer), self]))

    def _pages(self, trainer: pl.Trainer) -> list[PageWriter]:
        """Return the parts of all finders in the page of the run."""
        return [finder._page for finder in self._all(trainer)]

    def _draw(self, trainer: pl.Trainer) -> None:
        """Draw what no finder has drawn yet, as nobody should wait for it before the first batch."""
        due = [finder for finder in self._all(trainer) if finder._page.is_due]
        for finder in due:
            finder._saved = [saved.draw(trainer.loggers) for saved in finder._saved]
            if finder._saved:
                finder._page.add_pictures(finder._saved[-1].drawn)
        if due:
            PageWriter.write(trainer, self._pages(trainer))

    def _show_rest(self, trainer: pl.Trainer) -> None:
        """Show what has not been shown."""
        self._draw(trainer)
        for saved in self._saved:
            saved.end(trainer.loggers)
        self._saved = []

    def _end(self, trainer: pl.Trainer, ended: str) -> None:
        """Show the rest at the end of a fit; the first finder whose hook is called writes the page for all."""
        self._show_rest(trainer)
        pages = self._pages(trainer)
        if any(page.is_open for page in pages):
            PageWriter.write(trainer, pages, ended)

    def _continue_page(self, trainer: pl.Trainer) -> None:
        """Begin or continue the page of a run whose search was in an earlier fit; all processes must call it."""
        root = run_directory(trainer)
        if not trainer.is_global_zero or self.answer is None:
            return
        if not self._page.results:
            self._page.add_earlier(root, self.facts())
        self._page.record(RunOptimizer(trainer, self.optimizer), self._pages(trainer))

    # ------------------------------------------------------------------------------------------ hooks
    @property
    @override
    def state_key(self) -> str:
        """The key of the result in a checkpoint; Lightning requires a different key for each callback."""
        return f"{super().state_key}{{'optimizer': {self.optimizer}}}" if self.optimizer else super().state_key

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        expect_trainer(trainer)
        if stage != "fit":
            return
        self._reached_start = self._is_resumed = False
        self._begun_epoch = None
        if trainer.global_step == 0:  # a checkpoint's result is loaded after this hook
            self.reset()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.report and self._search_epoch is not None:
            self._continue_page(trainer)
        if self._is_resumed and self._search_epoch is not None:  # resumed within an epoch, so none starts
            self._reached_start = True
            self._skip(trainer, f"as this run was tested in epoch {self._search_epoch}")

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
        due = [finder for finder in finders(trainer) if finder._begun_epoch != trainer.current_epoch]
        for finder in due:
            if finder._reason_to_skip(trainer) is None:
                finder.check(trainer)
        for finder in due:
            finder._begin_epoch(trainer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._page.is_due:
            self._draw(trainer)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        if self._page.played is not None:
            self._page.note("add_backward", loss)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self._page.played is not None:
            self._page.note("begin_step", optimizer)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._page.played is not None and not trainer.sanity_checking:
            self._page.note("add_validation")

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end(trainer, in_a_line(exception))

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer, "completed")
        if not self._reached_start and trainer.global_step == 0:
            rank_zero_info(f"{self.title}: not run, as the fit had no training step (no batches, or no epochs).")

    # --------------------------------------------------------------------------------------- when it runs
    def _begin_epoch(self, trainer: pl.Trainer) -> None:
        self._begun_epoch = trainer.current_epoch
        is_first, self._reached_start = not self._reached_start, True
        reason = self._reason_to_skip(trainer)
        if reason is None:
            self._module_id = id(trainer.lightning_module)
            self.find(trainer)
            self._search_epoch = trainer.current_epoch
        elif is_first:
            self._skip(trainer, reason)
        self._show(trainer)

    def _show(self, trainer: pl.Trainer) -> None:
        """Add a value that is used to the metrics that other callbacks see, such as those that report to Ray."""
        if self.used is not None:
            trainer.callback_metrics[f"found/{self._key}"] = torch.tensor(self.used, dtype=torch.float64)

    def _reason_to_skip(self, trainer: pl.Trainer) -> str | None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            return "as `fast_dev_run` trains too few steps for its result to matter"
        if trainer.current_epoch in self.milestones and trainer.current_epoch != self._search_epoch:
            return None
        if self._search_epoch is not None:
            return f"as this run was tested in epoch {self._search_epoch}"
        if trainer.global_step > 0:
            return f"as training is already at step {trainer.global_step}"
        return None

    def _restore_attributes(self, trainer: pl.Trainer) -> list[str]:
        """Write what the checkpoint of a resumed run says that the module held; return what changed."""
        return restore_values(trainer.lightning_module, self._attributes)

    def _skip(self, trainer: pl.Trainer, reason: str) -> None:
        """Apply the result of an earlier search, if there is one, and log why the search is skipped."""
        module, value, changed = trainer.lightning_module, self.value, list[str]()
        if value is not None and self.apply:
            if self._is_resumed:  # optimizer and schedulers come from the checkpoint
                changed = self._restore_attributes(trainer) if len(trainer.optimizers) == 1 else []
            elif self._module_id == id(module):  # another fit of the same Trainer has created a new optimizer
                changed = self._train_with(RunOptimizer(trainer, self.optimizer), value)
            if self._is_resumed or changed:
                self._log_found(trainer, self._search_epoch)
            set_again = f"; its {self.value_name} {short(value)} is set again in {', '.join(changed)}"
            reason += set_again if changed else ""
        rank_zero_info(f"{self.title}: skipped, {reason}.")

    # ------------------------------------------------------------------------------------------- state
    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "suggestion": None if self.suggestion is None else self.suggestion.to_dict(),
            "refusal": self.answer.reason if isinstance(self.answer, Refusal) else None,
            "epoch": self._search_epoch,
            "attributes": self._attributes,
        }

    def _load_answer(self, kind: type[Found], state: dict[str, Any]) -> None:
        """Restore what was found, of type ``kind``, and in which epoch."""
        found, self._search_epoch = state.get("suggestion"), state.get("epoch")
        self._attributes = state.get("attributes", {})
        self.answer = None
        if found is not None:
            self.answer = kind(**found)
        elif self._search_epoch is not None:  # a checkpoint from before version 0.1 has no reason
            self.answer = Refusal(state.get("refusal") or "its checkpoint does not say why")
        self._is_resumed = True


class RunsFinders(pl.Callback, ABC):
    """A callback that runs finders which are no callbacks of the Trainer."""

    @property
    @abstractmethod
    def finders(self) -> list[Finder[Any]]:
        """The finders in the order in which they run."""


def finders(trainer: pl.Trainer) -> list[Finder[Any]]:
    """Return the Trainer's finders in the order in which they run, including those that another callback runs."""
    found: list[Finder[Any]] = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
        found += callback.finders if isinstance(callback, RunsFinders) else []
        found += [callback] if isinstance(callback, Finder) else []
    return sorted(found, key=lambda finder: finder.rank)
