"""`PageWriter`: what a finder adds to the page of its run, ``report.html``, which all finders of the run share.

The life of a page: a search adds its result; after the first batch the page is written; while the fit trains, a
`PlayedRun` records it; at the end, also after an exception, the page is written once more, with the hindsight.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pl_onecycle._lightning import pl, rank_zero_info, rank_zero_warn
from pl_onecycle.page import Plan, Played, Result, RunPage, page_of_run, planned, results_in, summary
from pl_onecycle.pictures import PlayedPicture, can_draw, draw, png_of
from pl_onecycle.played_run import PlayedRun
from pl_onecycle.report import Saved, as_saved, write_page
from pl_onecycle.run_optimizer import RunOptimizer


class PageWriter:
    """The part of one finder in the page of its run.

    Attributes:
        results: Of its searches.
        is_due: Whether a result is on no page yet.
        is_open: Whether the page is to be written at the end of the fit.
        played: Records the optimizer during the fit, if no other finder's does.
        shown: What it has recorded, after the fit.
    """

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.is_due = self.is_open = False
        self.played: PlayedRun | None = None
        self.shown: Played | None = None
        self._root = ""
        self._path: str | None = None
        self._has_failed = False

    def add(self, root: str, saved: Saved) -> None:
        """Add the result of a search, in the first process."""
        self._add(root, Result(as_saved(saved.facts), saved.folder or ""))

    def add_earlier(self, root: str, facts: dict[str, Any]) -> None:
        """Add a result from a checkpoint, of which a page of another run may show more."""
        self._add(root, Result(as_saved(facts)))

    def _add(self, root: str, result: Result) -> None:
        self._root = root
        self.results.append(result)
        self.is_due = True

    def add_pictures(self, pictures: Mapping[str, bytes]) -> None:
        """Add the pictures of the last result."""
        self.results[-1] = replace(self.results[-1], pictures=pictures)

    # ------------------------------------------------------------------------------------------ the run
    def record(self, run: RunOptimizer, writers: "Sequence[PageWriter]") -> None:
        """Record the optimizer from here on, unless one of the run's writers does, and keep what is planned now."""
        index = run.trainer.optimizers.index(run.optimizer)
        plan = None if run.one_cycle is None else planned(run.one_cycle.policy, _offset(run))
        self.is_open = True
        for writer in writers:
            if writer.played is not None and writer.played.index == index:
                writer.played.plan = _joined(writer.played.plan, plan)
                return
        self.played = PlayedRun(run.trainer, index, plan)

    def note(self, event: str, *arguments: Any) -> None:
        """Call a method of `played`; where that fails, the fit is no longer recorded."""
        try:
            getattr(self.played, event)(*arguments)
        except Exception as error:
            self.played = None
            rank_zero_warn(f"The run is not recorded for its page ({error}).")

    def _end(self, ended: str) -> None:
        if self.played is not None and ended:
            self.shown, self.played = self.played.played(ended), None

    @property
    def _seen(self) -> list[Played]:
        now = self.shown if self.played is None else self.played.played()
        return [] if now is None else [now]

    # ---------------------------------------------------------------------------------------- the file
    @staticmethod
    def write(trainer: pl.Trainer, writers: "Sequence[PageWriter]", ended: str = "") -> None:
        """Write the page that the writers share. One that cannot be written costs a warning, not the run.

        Args:
            trainer: Of the run.
            writers: Of its finders, in their order.
            ended: How the fit ended, if it has.
        """
        used = [writer for writer in writers if writer.results]
        if used and not any(writer._has_failed for writer in used):
            try:
                PageWriter._write(trainer, used, ended)
            except Exception as error:
                for writer in used:
                    writer._has_failed, writer.played = True, None
                rank_zero_warn(f"The page of this run could not be written ({error}).")
        for writer in used:
            writer.is_due, writer.is_open = False, writer.is_open and not ended
            writer.played = None if ended else writer.played

    @staticmethod
    def _write(trainer: pl.Trainer, used: "Sequence[PageWriter]", ended: str) -> None:
        for writer in used:
            writer._end(ended)
        path = next((writer._path for writer in used if writer._path is not None), None)
        played = [seen for writer in used for seen in writer._seen]
        results = [result for writer in used for result in writer.results]
        run = RunPage(type(trainer.lightning_module).__name__, results, played, _about(trainer))
        schedule = _picture_of(played[0]) if ended and played and can_draw() else None
        path = write_page(used[-1]._root, page_of_run(run, schedule), path)
        for writer in used:
            writer._path = path
        if ended:
            said = f" {summary(run)}" if played else ""
            rank_zero_info(f"The page of this run is {path}.{said}")


def _picture_of(played: Played) -> bytes:
    return png_of(draw(PlayedPicture(played, f"schedule of {played.optimizer}")))


def write_page_of(saved: Saved, name: str) -> None:
    """Write the page of several results that are saved together, next to them. A failure costs a warning.

    Args:
        saved: The results, drawn.
        name: Of the page, for people.
    """
    results = results_in(as_saved(saved.facts), saved.folder or "")
    if saved.folder is None or not results:
        return
    try:
        results[0] = replace(results[0], pictures=saved.drawn)
        write_page(saved.folder, page_of_run(RunPage(name, results)))
    except Exception as error:
        rank_zero_warn(f"The page of the results could not be written ({error}).")


def _offset(run: RunOptimizer) -> int:
    """Return at which step of the run the policy of its schedule begins; one that began again has an offset."""
    cycle = run.one_cycle
    return 0 if cycle is None else max(cycle.total_steps - cycle.policy.total_steps, 0)


def _joined(before: Plan | None, after: Plan | None) -> Plan | None:
    """Return a plan that another one replaces from its first step on."""
    if before is None or after is None or not after.steps or after.steps[0] <= before.steps[0]:
        return after
    count = sum(step < after.steps[0] for step in before.steps)
    has_momentum = len(before.momentum) > 0 and len(after.momentum) > 0
    momentum = [*before.momentum[:count], *after.momentum] if has_momentum else []
    return Plan([*before.steps[:count], *after.steps], [*before.lr[:count], *after.lr], momentum)


def _about(trainer: pl.Trainer) -> dict[str, Any]:
    """Return what else is needed to repeat a run."""
    module = trainer.lightning_module
    about: dict[str, Any] = {
        "model": type(module).__name__,
        "parameters": sum(weight.numel() for weight in module.parameters() if _has_size(weight)),
        "optimizers": ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers),
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "batches per epoch": trainer.num_training_batches,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "precision": str(trainer.precision),
        "device": trainer.strategy.root_device.type,
        "processes": trainer.world_size,
        "seed": os.environ.get("PL_GLOBAL_SEED", "none"),
    }
    return about


def _has_size(weight: Any) -> bool:
    return not hasattr(weight, "materialize")  # a lazy one has none before the first batch
