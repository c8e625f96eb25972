"""`Probe`: compare candidates for one value of the parameter groups by short cycles.

The base class of `weight_decay_probe.py` and `momentum_probe.py`: policy -> one trial per candidate -> curves ->
choice -> apply -> report. The subclasses define the value.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.optim import Optimizer
from typing_extensions import override

from pl_onecycle import report
from pl_onecycle.checks import expect, expect_integer, expect_number, expect_one_of
from pl_onecycle.choice import TIMES, Choice, choose, is_hopeless
from pl_onecycle.curve import LossCurve
from pl_onecycle.finder import Finder, finders
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.progress import progress_bar
from pl_onecycle.recorder import Looks
from pl_onecycle.schedules import peak_of, short_cycle
from pl_onecycle.trial import run_trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ProbeMode = Literal["rise", "cycle"]

# A neighbour within this relative distance of a candidate is not tried.
ALIKE = 0.15


class Probe(Finder):
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
            ``validation_step`` is used.
        optimizer: See `Finder`.
        apply: See `Finder`.
        report: See `Finder`.
    """

    name: ClassVar[str]  # of the group value
    short: ClassVar[str]  # in the names of curves
    words: ClassVar[tuple[str, ...]] = ()  # that the argument with the candidates accepts
    defaults: ClassVar[tuple[float, ...]]

    def __init__(
        self,
        candidates: Sequence[float] | str,
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
        if not (isinstance(candidates, str) and candidates in self.words):
            are_many = isinstance(candidates, Sequence) and not isinstance(candidates, str) and len(candidates) > 0
            wanted = " or ".join(["a sequence of at least one number", *map(repr, self.words)])
            expect(are_many, self._argument, wanted, candidates)
            for value in candidates:
                self._check(value)
            are_different = len(set(candidates)) == len(candidates)
            expect(are_different, self._argument, "numbers of which none is repeated", candidates)
        expect_integer("num_steps", num_steps, minimum=TIMES)
        expect_one_of("mode", mode, ("rise", "cycle"))
        expect_number("min_lr", min_lr, above=0)
        if max_lr is not None:
            expect_number("max_lr", max_lr, above=min_lr)
        if early_stop_threshold is not None:
            expect_number("early_stop_threshold", early_stop_threshold, above=0)
        expect_integer("val_batches", val_batches, minimum=0)
        expect(isinstance(monitor, str), "monitor", "the name of a logged metric", monitor, TypeError)
        super().__init__(optimizer, (), apply, report)
        self.num_steps = num_steps
        self.mode = mode
        self.max_lr = max_lr
        self.min_lr = min_lr
        self.early_stop_threshold = early_stop_threshold
        self.val_batches = val_batches
        self.monitor = monitor
        self.curves: dict[float, LossCurve] = {}
        self.suggestion: Choice | None = None

    # ------------------------------------------------------------------------- what a subclass defines
    @property
    def _argument(self) -> str:
        """The name of the argument with the candidates."""
        return f"{self.name}s"

    @abstractmethod
    def _check(self, value: Any) -> None:
        """Raise unless ``value`` is a valid candidate."""

    @abstractmethod
    def _candidates(self, optimizer: Optimizer) -> list[float]:
        """Return the candidates; raise MisconfigurationException if the optimizer has no such value."""

    @abstractmethod
    def _value_before(self, trainer: pl.Trainer) -> float:
        """Return the value of the run without the probe."""

    def _neighbours(self, value: float) -> list[float]:
        """Return the values to try if ``value`` is the best."""
        return []

    def _policy(self, trainer: pl.Trainer, cycle: OneCyclePolicy, value: float) -> OneCyclePolicy:
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
        return {
            "curves": [[value, curve.to_dict()] for value, curve in self.curves.items()],
            "suggestion": None if self.suggestion is None else self.suggestion.to_dict(),
            "epoch": self._epoch,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        suggestion = state_dict.get("suggestion")
        self.curves = {value: LossCurve(**curve) for value, curve in state_dict.get("curves", ())}
        self.suggestion = None if suggestion is None else Choice(**suggestion)
        self._restore_epoch(state_dict.get("epoch"))

    @override
    def _forget(self) -> None:
        self.curves = {}

    # ------------------------------------------------------------------------------------------ steps
    @override
    def check(self, trainer: pl.Trainer) -> None:
        super().check(trainer)
        self._candidates(trainer.optimizers[self.optimizer])

    @override
    def find(self, trainer: pl.Trainer) -> None:
        """Run the whole probe, from the trials to the report."""
        candidates, cycle = self._candidates(trainer.optimizers[self.optimizer]), self._cycle(trainer)
        before = self.before = self._value_before(trainer)
        if tuple(candidates) == self.defaults and before > 0 and before not in candidates:
            candidates.append(before)  # so that only a value compared with it can replace it
        self.curves = {}
        most = len(candidates) + len(self._neighbours(candidates[0]))
        with progress_bar(trainer, most * self.num_steps, self.title) as advance:
            self._try_all(trainer, cycle, candidates, advance)
            best = self._choose()
            if isinstance(best, Choice) and not best.within_noise:  # within noise a finer search is pointless
                near = [it for it in self._neighbours(best.value) if not self._is_near_another(it)]
                self._try_all(trainer, cycle, near, advance)
        answer = self._choose()
        self.suggestion = answer if isinstance(answer, Choice) else None
        changed: list[str] = []
        if self.suggestion is None:
            found = f"no choice, because {self.why}; training continues with {self.name} {before:.3g}"
        elif self.apply:
            changed = self._use(trainer)
            found = f"{self.name} {before:.3g} -> {self.suggestion.value:.3g} ({self.why}), set in {', '.join(changed)}"
        else:
            found = f"suggests {self.name} {self.suggestion.value:.3g} ({self.why})"
            found += f"; not applied, training continues with {before:.3g}"
        where = self._write(trainer, changed)
        rank_zero_info(f"{self.title} ({self._description(trainer, cycle)}): {found}{where}.")

    def _cycle(self, trainer: pl.Trainer) -> OneCyclePolicy:
        peak = peak_of(trainer, self.optimizer) if self.max_lr is None else self.max_lr
        if peak <= self.min_lr:
            raise MisconfigurationException(
                f"{type(self).__name__} needs a learning rate above {self.min_lr:g} to train with, and the optimizer's"
                f" is {peak:g}: run LRRangeTest in the same fit, or pass `max_lr`."
            )
        whole = short_cycle(trainer, self.optimizer, peak, self.num_steps)
        if self.mode == "cycle":
            return whole
        return OneCyclePolicy(
            peak,
            self.num_steps,
            pct_start=1.0,
            pct_annihilation=0.0,
            div_factor=peak / self.min_lr,
            final_div_factor=1.0,
            cycle_momentum=whole.cycle_momentum,
            base_momentum=whole.base_momentum,
            max_momentum=whole.max_momentum,
        )

    def _try_all(self, trainer: pl.Trainer, cycle: OneCyclePolicy, candidates: Sequence[float], advance: Any) -> None:
        for value in candidates:
            if value in self.curves:
                continue
            done = len(self.curves) * self.num_steps
            steps = [round(self.num_steps * (k + 1) / TIMES) for k in range(TIMES)]
            self.curves[value] = run_trial(
                trainer,
                self._policy(trainer, cycle, value),
                optimizer=self.optimizer,
                early_stop_threshold=self.early_stop_threshold,
                on_step=lambda step, loss, done=done: advance(done + step, loss),  # type: ignore[misc]
                prepare=partial(self._prepare, value=value),
                looks=Looks(steps, self.val_batches, self.monitor, partial(is_hopeless, others=dict(self.curves))),
            )

    def _is_near_another(self, value: float) -> bool:
        return any(math.isclose(value, tried, rel_tol=ALIKE) for tried in self.curves)

    def _choose(self) -> Choice | str:
        return choose(self.curves, self.name, self._choose_among_equals)

    def _description(self, trainer: pl.Trainer, cycle: OneCyclePolicy) -> str:
        """Describe the trials for the log line."""
        known = self.max_lr is not None or any(
            it.finds_lr and it.suggestion and it.apply for it in self._others(trainer)
        )
        whose = "" if known else " of the optimizer, as no range test has set another"
        parts = [
            f"{len(self.curves)} candidate{'' if len(self.curves) == 1 else 's'}",
            f"{self.num_steps} steps each",
            f"max_lr {cycle.max_lr:.3g}{whose}",
        ]
        parts += [f"{self.saved:.0%} of the steps saved"] if self.saved else []
        if not any(curve.val_loss for curve in self.curves.values()):
            there_is = self.val_batches > 0 and trainer.enable_validation
            missing = f"validation produces no `{self.monitor}`" if there_is else "there is no validation loss"
            parts.append(f"judged by the training loss, as {missing}")
        return ", ".join(parts)

    def _others(self, trainer: pl.Trainer) -> list[Finder]:
        """Return all finders of this optimizer."""
        return [it for it in finders(trainer) if it.optimizer == self.optimizer]

    @property
    def saved(self) -> float:
        """Share of the steps that were not run because their candidate had diverged or become hopeless."""
        run = sum(min(len(curve), self.num_steps) for curve in self.curves.values())
        return 1 - run / (len(self.curves) * self.num_steps) if self.curves else 0.0

    @override
    def _found_value(self) -> str:
        assert self.suggestion is not None
        return f"{self.name} {self.suggestion.value:.3g}"

    @property
    @override
    def why(self) -> str:
        return str(self._choose()) if self.suggestion is None else self.suggestion.reason

    def facts(self) -> dict[str, Any]:
        """Return the contents of the report other than the curves."""
        settings = ("num_steps", "mode", "max_lr", "min_lr", "early_stop_threshold", "val_batches", "monitor", "apply")
        return {
            "suggestion": None if self.suggestion is None else self.suggestion.to_dict(),
            "refusal": None if self.suggestion is not None else self.why,
            "share_of_steps_saved": self.saved,
            "settings": {name: getattr(self, name) for name in (*settings, "optimizer", self._argument)},
        }

    def _write(self, trainer: pl.Trainer, changed: list[str]) -> str:
        """Write the report and return the end of a log line, which names its location."""
        root = trainer.log_dir or trainer.default_root_dir  # all ranks: `log_dir` is broadcast
        if not self.report or not trainer.is_global_zero:
            return ""
        name, facts = f"{self.name}_probe", {**self.facts(), "changed": changed}
        curves = self.labelled()
        return report.publish(
            self.title,
            self.plot,
            lambda figure: report.write_curves(root, name, facts, curves, figure),
            lambda tag: report.log_curves(trainer.loggers, tag, curves),
        )

    # ------------------------------------------------------------------------------------------- view
    def labelled(self) -> dict[str, LossCurve]:
        """Return the curves under their names in files and loggers."""
        return {self._label(value): self.curves[value] for value in sorted(self.curves, reverse=True)}

    @property
    def chosen(self) -> str | None:
        """The name of the chosen curve, or None."""
        return None if self.suggestion is None else self._label(self.suggestion.value)

    def _label(self, value: float) -> str:
        return f"{self.short}={value:g}"

    def plot(self, ax: "Axes | None" = None) -> "Figure":
        """Draw the training loss of all candidates over the lr or the steps, and next to it their validation loss.

        Args:
            ax: Axes for the training loss only, instead of a new figure with both losses.

        Raises:
            RuntimeError: The probe has not run.
            ModuleNotFoundError: matplotlib is not installed.
        """
        if not self.curves:
            raise RuntimeError(f"There is nothing to plot: this {type(self).__name__} has not run yet.")
        return report.draw_curves(self.title, self.labelled(), self.chosen, self.mode == "rise", ax)
