"""`Probe`: compare candidates for one value of the parameter groups by short cycles.

The base class of `weight_decay_probe.py` and `momentum_probe.py`: one trial per candidate -> curves -> choice. The
subclasses define the value.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch.optim import Optimizer
from typing_extensions import override

from pl_onecycle._lightning import MisconfigurationException, pl
from pl_onecycle.checks import expect, expect_integer, expect_number, expect_one_of, plain
from pl_onecycle.curves import CHECKUPS, Choice, LossCurve, Refusal, choose, is_hopeless, rounds
from pl_onecycle.finder import Finder, finders
from pl_onecycle.pictures import ProbePicture, draw
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.report import Advance, Report, curves_table
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.sentences import counted
from pl_onecycle.trial import Checkups, run_trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ProbeMode = Literal["rise", "cycle"]

# A neighbour within this relative distance of a candidate is not tried.
ALIKE = 0.15


class Probe(Finder[Choice]):
    """Try each candidate in isolated short cycles from the same state with the same batches, and choose one.

    Args:
        candidates: Values to try, none twice; or a word for a way to find them. With the default candidates the run's
            own value is tried, too.
        num_steps: Optimizer steps of each cycle, >= 10.
        mode: ``"rise"``: the lr rises linearly from ``min_lr`` to ``max_lr`` while momentum falls. ``"cycle"``: the
            run's whole cycle, up, down and annihilated, in ``num_steps``.
        max_lr: Peak of the cycle, > 0; None for the peak of the run.
        min_lr: Learning rate at the start of the rise, > 0.
        early_stop_threshold: Rise of the loss, in multiples of its fall so far, at which a candidate has diverged, see
            `first_explosion`.
        val_batches: Number of batches of each validation loader, the same at each of ten checkups; with 0 the training
            loss decides.
        monitor: Name of the logged metric that is the validation loss; if it is not logged, the return value of
            ``validation_step`` is used. In place of ``"val_loss"`` a name such as ``val/loss`` or ``valid_loss`` is
            recognized, and what an EarlyStopping, a ModelCheckpoint or the scheduler's config monitors, if validation
            logs it and it should be low.
        optimizer: See `Finder`.
        apply: See `Finder`.
        report: See `Finder`.
    """

    curve_prefix: ClassVar[str]  # of the names of curves
    accepted_words: ClassVar[tuple[str, ...]] = ()  # that the argument with the candidates accepts
    defaults: ClassVar[tuple[float, ...]] = ()
    settings: ClassVar[tuple[str, ...]] = (
        *("num_steps", "mode", "max_lr", "min_lr", "early_stop_threshold"),
        *("val_batches", "monitor", "apply", "optimizer"),
    )
    curves: dict[float, LossCurve]

    def __init__(
        self,
        candidates: Sequence[float] | str,
        *,
        num_steps: int,
        mode: ProbeMode,
        max_lr: float | None,
        min_lr: float,
        early_stop_threshold: float | None,
        val_batches: int,
        monitor: str,
        optimizer: int,
        apply: bool,
        report: bool,
    ) -> None:
        super().__init__(optimizer=optimizer, milestones=(), apply=apply, report=report)
        self._check_candidates(candidates)
        self.num_steps = plain(num_steps)
        self.mode = mode
        self.max_lr = plain(max_lr)
        self.min_lr = plain(min_lr)
        self.early_stop_threshold = plain(early_stop_threshold)
        self.val_batches = plain(val_batches)
        self.monitor = monitor
        self._check_arguments()
        self._forget()

    def _check_candidates(self, candidates: Sequence[float] | str) -> None:
        if isinstance(candidates, str) and candidates in self.accepted_words:
            return
        are_many = isinstance(candidates, (list, tuple)) and len(candidates) > 0
        wanted = " or ".join(["a sequence of at least one number", *map(repr, self.accepted_words)])
        expect(are_many, self._argument, wanted, candidates)
        for value in candidates:
            self._check_candidate(value)
        are_different = len(set(candidates)) == len(candidates)
        expect(are_different, self._argument, "numbers of which none is repeated", candidates)

    def _check_arguments(self) -> None:
        expect_integer("num_steps", self.num_steps, minimum=CHECKUPS)
        expect_one_of("mode", self.mode, ("rise", "cycle"))
        expect_number("min_lr", self.min_lr, above=0)
        if self.max_lr is not None:
            expect_number("max_lr", self.max_lr, above=self.min_lr)
        if self.early_stop_threshold is not None:
            expect_number("early_stop_threshold", self.early_stop_threshold, above=0)
        expect_integer("val_batches", self.val_batches, minimum=0)
        expect(isinstance(self.monitor, str), "monitor", "the name of a logged metric", self.monitor, TypeError)

    # ------------------------------------------------------------------------- what a subclass defines
    @property
    def _argument(self) -> str:
        """The name of the argument with the candidates."""
        return f"{self.value_name}s"

    @abstractmethod
    def _check_candidate(self, value: Any) -> None:
        """Raise unless ``value`` is a valid candidate."""

    @abstractmethod
    def _candidates(self, optimizer: Optimizer) -> list[float]:
        """Return the candidates; raise MisconfigurationException if the optimizer has no such value."""

    def _neighbours(self, value: float) -> list[float]:
        """Return the values to try if ``value`` is the best."""
        return []

    def _policy(self, run: RunOptimizer, cycle: OneCyclePolicy, value: float) -> OneCyclePolicy:
        """Return the cycle for a candidate."""
        return cycle

    def _choose_among_equals(self, values: Sequence[float]) -> float:
        """Choose one of several values whose difference is within noise."""
        return max(values)

    def _prepare(self, optimizer: Optimizer, value: float) -> None:
        """Write a candidate into the groups of the optimizer in a trial."""

    # ------------------------------------------------------------------------------------------ state
    @override
    def state_dict(self) -> dict[str, Any]:
        curves = [[value, curve.to_dict()] for value, curve in self.curves.items()]
        return {**super().state_dict(), "curves": curves}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curves = {value: LossCurve(**curve) for value, curve in state_dict.get("curves", ())}
        self._load_answer(Choice, state_dict)

    @override
    def _forget(self) -> None:
        self.curves = {}

    # ----------------------------------------------------------------------------------------- search
    @override
    def check(self, trainer: pl.Trainer) -> None:
        super().check(trainer)
        self._candidates(trainer.optimizers[self.optimizer])

    @override
    def _search(self, run: RunOptimizer) -> Choice | Refusal:
        with self._progress(run, self._most(run) * self.num_steps) as advance:
            self._try_each(run, self._first(run), advance)
            answer = self._choose()
            if isinstance(answer, Choice) and not answer.within_noise:  # within noise a finer search is pointless
                near = [it for it in self._neighbours(answer.value) if not self._is_near_another(it)]
                self._try_each(run, near, advance)
                answer = self._choose() if near else answer
        return answer

    def _first(self, run: RunOptimizer) -> list[float]:
        """Return the candidates that are tried in any case."""
        candidates, before = self._candidates(run.optimizer), self.before
        if tuple(candidates) == self.defaults and before and before not in candidates:
            candidates.append(before)  # so that only a value compared with it can replace it
        return candidates

    def _most(self, run: RunOptimizer) -> int:
        """Return the largest number of candidates that may be tried."""
        first = self._first(run)
        return len(first) + len(self._neighbours(first[0]))

    def _try_each(self, run: RunOptimizer, candidates: Sequence[float], advance: Advance) -> None:
        """Run a trial for each candidate that has not been tried."""
        cycle = self._cycle(run)
        for value in candidates:
            if value not in self.curves:
                self.curves[value] = self._try(run, self._policy(run, cycle, value), value, advance)

    def _choose(self) -> Choice | Refusal:
        """Choose one of all candidates that have been tried."""
        return choose(self.curves, self.value_name, self._choose_among_equals)

    def _try(self, run: RunOptimizer, policy: OneCyclePolicy, value: float, advance: Advance) -> LossCurve:
        done = len(self.curves) * self.num_steps
        steps = [round(self.num_steps * (k + 1) / CHECKUPS) for k in range(CHECKUPS)]
        hopeless = partial(is_hopeless, others=dict(self.curves))
        return run_trial(
            run,
            policy,
            early_stop_threshold=self.early_stop_threshold,
            on_step=lambda step, loss: advance(done + step, loss),
            prepare=partial(self._prepare, value=value),
            checkups=Checkups(steps, self.val_batches, self.monitor, should_end=hopeless, outcome="dropped"),
        )

    def _cycle(self, run: RunOptimizer) -> OneCyclePolicy:
        peak = self._peak(run)
        if peak <= self.min_lr:
            raise MisconfigurationException(
                f"{type(self).__name__} needs a learning rate above {self.min_lr:g} to train with, and the optimizer's"
                f" is {peak:g}: run LRRangeTest in the same fit, or pass `max_lr`."
            )
        short = run.short_cycle(peak, self.num_steps)
        if self.mode == "cycle":
            return short
        return OneCyclePolicy(
            peak,
            self.num_steps,
            pct_start=1.0,
            pct_annihilation=0.0,
            div_factor=peak / self.min_lr,
            final_div_factor=1.0,
            cycle_momentum=short.cycle_momentum,
            base_momentum=short.base_momentum,
            max_momentum=short.max_momentum,
        )

    def _peak(self, run: RunOptimizer) -> float:
        return run.peak if self.max_lr is None else self.max_lr

    def _is_near_another(self, value: float) -> bool:
        return any(math.isclose(value, tried, rel_tol=ALIKE) for tried in self.curves)

    # ------------------------------------------------------------------------------------------- show
    @override
    def _cost(self, run: RunOptimizer) -> str:
        most = self._most(run)
        return self._cost_of(run, most * self.num_steps, f"{most} × {self.num_steps}")

    @override
    def _steps_taken(self) -> int:
        return sum(min(len(curve), self.num_steps) for curve in self.curves.values())

    @override
    def _validates(self, trainer: pl.Trainer) -> bool:
        return self.val_batches > 0 and trainer.enable_validation

    @override
    def _description(self, run: RunOptimizer) -> str:
        is_known = self.max_lr is not None or any(map(self._sets_peak, finders(run.trainer)))
        whose = "" if is_known else " (no range test has set it)"
        parts = [
            counted(len(self.curves), "candidate"),
            f"{self.num_steps} steps each",
            f"max_lr {self._peak(run):.3g}{whose}",
        ]
        parts += [f"{self.saved:.0%} of the steps saved"] if self.saved else []
        if not any(curve.val_loss for curve in self.curves.values()):
            there_is = self.val_batches > 0 and run.trainer.enable_validation
            missing = f"validation produces no `{self.monitor}`" if there_is else "there is no validation loss"
            parts.append(f"judged by training loss, as {missing}")
        return ", ".join(parts)

    def _sets_peak(self, finder: Finder[Any]) -> bool:
        """Return whether a finder has set the peak of this optimizer."""
        is_same = finder.optimizer == self.optimizer and finder.value_name == "max_lr"
        return is_same and finder.apply and finder.suggestion is not None

    @property
    @override
    def interval(self) -> tuple[float, float] | None:
        if self.value is None:
            return None
        below, above = ([it for it in self.curves if sign * it > sign * self.value] for sign in (-1, 1))
        return max(below, default=self.value), min(above, default=self.value)

    @property
    def saved(self) -> float:
        """Share of the steps that were not run because their candidate had diverged or become hopeless."""
        return 1 - self._steps_taken() / (len(self.curves) * self.num_steps) if self.curves else 0.0

    @override
    def facts(self) -> dict[str, Any]:
        curves = {series: curve.to_dict() for series, curve in self.labelled().items()}
        return {**super().facts(), "share_of_steps_saved": self.saved, "curves": curves}

    @override
    def _make_report(self, run: RunOptimizer, changed: list[str]) -> Report:
        name, curves = f"{self.value_name}_probe", self.labelled()
        return Report(
            self.title,
            name,
            facts={**self.facts(), "changed": changed},
            tables={"curves.csv": partial(curves_table, curves)},
            figures={name: partial(draw, self.picture())},
            candidates=curves,
        )

    def labelled(self) -> dict[str, LossCurve]:
        """Return the curves under their names in files and loggers."""
        return {self._label(value): self.curves[value] for value in sorted(self.curves, reverse=True)}

    @property
    def chosen(self) -> str | None:
        """The name of the chosen curve, or None."""
        return None if self.suggestion is None else self._label(self.suggestion.value)

    def _label(self, value: float) -> str:
        return f"{self.curve_prefix}={value:g}"

    def plot(
        self, ax: "Axes | None" = None, *, log_lr: bool | None = None, skip_start: int = 0, skip_end: int = 0
    ) -> Any:
        """Draw how the candidates differ in training and validation loss, and the levels at which they end.

        Args:
            ax: Axes for the training loss only, instead of a new figure.
            log_lr: Whether the lr of a rise is on a log axis; None for the axis on which the rise was even.
            skip_start: Number of first training losses to leave out.
            skip_end: Number of last training losses to leave out.

        Returns:
            The figure, which a notebook shows, or ``ax``.

        Raises:
            RuntimeError: The probe has not run.
            ModuleNotFoundError: matplotlib is not installed.
        """
        if not self.curves:
            raise RuntimeError(f"There is nothing to plot: this {type(self).__name__} has not run yet.")
        return draw(replace(self.picture(), log_lr=log_lr, skip=(skip_start, skip_end)), ax)

    @override
    def picture(self) -> ProbePicture:
        """Return what `plot` draws."""
        compared = rounds(self.curves)
        return ProbePicture(
            self.title,
            self.labelled(),
            self.chosen,
            over_lr=self.mode == "rise",
            reason=self.why if self.answer is not None else "",
            values={self._label(value): value for value in self.curves},
            rounds=() if isinstance(compared, Refusal) else compared,
        )
