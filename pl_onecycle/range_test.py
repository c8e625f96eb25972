"""`LRRangeTest`, the callback: policy -> trial -> curve -> suggestion -> apply -> report."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from pl_onecycle import report
from pl_onecycle.apply import LR_NAMES, set_attributes
from pl_onecycle.checks import expect, expect_integer, expect_number, expect_one_of
from pl_onecycle.curve import LossCurve
from pl_onecycle.finder import Finder
from pl_onecycle.policy import Policy, RangeTestPolicy, SweepMode
from pl_onecycle.progress import Advance, progress_bar
from pl_onecycle.recorder import Looks
from pl_onecycle.schedules import one_cycle_of, peak_of, short_cycle, use_max_lr
from pl_onecycle.suggestion import METHODS, Method, Suggestion, refusal, suggest
from pl_onecycle.sweeps import BUDGET, MIN_LOSSES, coarse_sweep, dense_sweep, has_risen
from pl_onecycle.trial import run_trial
from pl_onecycle.verification import CYCLES, candidates, verified

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAME = "lr_range_test"
TRAIN_LOSS, VAL_LOSS = "train_loss", "val_loss"
# Default number of steps of a linear or staircase sweep.
FIXED = 100


class LRRangeTest(Finder):
    """Find the learning rate at the start of a fit, and again at milestones, and train with it.

    Sweeps the learning rate over a few isolated training steps, reads a ``max_lr`` off the loss curve and makes it the
    peak of the optimizer's schedule, whatever its kind. By default the test takes at most 150 optimizer steps: a coarse
    sweep finds the relevant range, and a dense sweep over this range gives the curve for the suggestion. ``verify``
    adds short cycles at several lrs around the suggestion. If the curve supports no suggestion, the test logs the
    reason and training continues with the user's own lr.

    *Runs at* the first ``on_train_epoch_start`` of a fit that starts from step 0, after the module's
    ``on_train_start``, and at that of each epoch in ``milestones``, from the current state. Skipped with
    ``fast_dev_run``; a resumed fit continues with the result in its checkpoint. The test runs before other finders of
    this package, whatever their order in the list of callbacks. List it before callbacks that log the lr at the start
    of an epoch, and after those that add parameter groups or change the accumulation there.

    *Changes* (with ``apply``) the learning rates of the optimizer's parameter groups, which keep their ratios, and of
    its schedulers; with one optimizer also the module's ``lr`` or ``learning_rate``, and those in ``hparams``. At a
    milestone a `OneCycleScheduler` begins a new cycle over the rest of the run; other schedules keep their position.

    *Restores* everything else: after the test, weights, buffers, optimizer state, random streams, loaders, metrics,
    loggers and counters are as before it, bit for bit, also after an exception or Ctrl-C. Not restored: state that user
    code changes inside objects other than modules, optimizers, tensors, arrays, random generators and containers of
    them; a warning names such objects in the module if their change is visible. If a data source cannot start over, the
    real run gets the batches that the test took, but the random numbers drawn to make them are not drawn again; what
    the workers of a loader take from one queue is lost.

    Args:
        min_lr: Learning rate at the start of the sweep, > 0.
        max_lr: Learning rate at its end, > ``min_lr``. Without ``num_steps`` this range is only the first to be tried;
            the sweep extends it on either side if the loss requires it.
        num_steps: None for as many steps as the curve needs, at most 150; a number for one sweep over exactly this
            range in that number of optimizer steps, >= 2. A shorter loader starts over.
        mode: ``"exponential"``, ``"linear"`` or ``"staircase"``, see `RangeTestPolicy`; the last two take 100 steps
            if ``num_steps`` is None.
        num_stairs: Number of stairs in ``"staircase"`` mode.
        method: Rule that reads the suggestion off the curve, see `suggest`.
        early_stop_threshold: > 0: the sweep has diverged once the loss rises by this many times its fall so far, see
            `first_explosion`; None stops early only at a loss that is not finite. 4 is Lightning's default.
            The coarse sweep has its own rule, see `has_risen`.
        monitor: Quantity of the curve: ``"train_loss"``, the loss of each step; ``"val_loss"``, the mean over the same
            few validation batches; or the name of a metric that the module logs in its training or validation steps.
            The coarse sweep always uses the training loss.
        monitor_mode: ``"min"``, or ``"max"`` for a metric that should be high; the curve then shows its negative.
        val_batches: Number of batches of each validation loader, if ``monitor`` or ``verify`` requires validation.
        val_every: Optimizer steps between two checkups of the monitored quantity in the dense or fixed sweep; each
            validation takes ``val_batches`` batches.
        verify: Verify the suggestion by this number of short cycles, odd, >= 3; True for 5. They start from the same
            state, use the same batches and differ in lr, by steps of a quarter of a decade. They are compared by
            validation loss if there are validation data, else by training loss, and their result replaces the
            suggestion, see `verified`.
        verify_steps: Optimizer steps of each of these cycles, >= 10.
        optimizer: Index of the optimizer whose lr is found, in the order of ``configure_optimizers``; the others keep
            their lr.
        milestones: Epochs >= 1 at whose start the test runs again.
        apply: False only suggests.
        report: False writes no files and no logger curves.

    Attributes:
        curve: After a run, the `LossCurve` that the suggestion was read off.
        suggestion: After a run, its `Suggestion`, or None if there is none.
        coarse: The curves of the coarse sweeps.
        cycles: The curves of the short cycles that verified the suggestion, by their lr.
        steps: Number of optimizer steps of the whole test.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument lies outside its range.
        MisconfigurationException: In ``fit``, if the module has no such optimizer or it is not usable.

    Example:
        >>> trainer = pl.Trainer(max_epochs=30, callbacks=[LRRangeTest()], logger=False, enable_progress_bar=False)

    References:
        arXiv:1506.01186, section 3.3; see also `RangeTestPolicy`, `LossCurve` and `suggest`.
    """

    title = "LR range test"
    rank = 0
    finds_lr = True

    def __init__(
        self,
        min_lr: float = 1e-7,
        max_lr: float = 10.0,
        num_steps: int | None = None,
        *,
        mode: SweepMode = "exponential",
        num_stairs: int = 10,
        method: Method = "trough",
        early_stop_threshold: float | None = 4.0,
        monitor: str = "train_loss",
        monitor_mode: Literal["min", "max"] = "min",
        val_batches: int = 8,
        val_every: int = 1,
        verify: bool | int = False,
        verify_steps: int = 50,
        optimizer: int = 0,
        milestones: Sequence[int] = (),
        apply: bool = True,
        report: bool = True,
    ) -> None:
        RangeTestPolicy(min_lr, max_lr, FIXED if num_steps is None else num_steps, mode, num_stairs)  # checks them
        expect_one_of("method", method, METHODS)
        if early_stop_threshold is not None:
            expect_number("early_stop_threshold", early_stop_threshold, above=0)
        expect(isinstance(monitor, str) and monitor != "", "monitor", "the name of a metric", monitor, TypeError)
        expect_one_of("monitor_mode", monitor_mode, ("min", "max"))
        is_loss = monitor in (TRAIN_LOSS, VAL_LOSS)
        expect(monitor_mode == "min" or not is_loss, "monitor_mode", "'min' where `monitor` is a loss", monitor_mode)
        expect_integer("val_batches", val_batches, minimum=1)
        expect_integer("val_every", val_every, minimum=1)
        if num_steps is not None:
            expect(val_every <= num_steps, "val_every", f"at most `num_steps` ({num_steps})", val_every)
        if not isinstance(verify, bool):
            expect_integer("verify", verify, minimum=3)
            expect(verify % 2 == 1, "verify", "True, False or an odd number", verify)
        expect_integer("verify_steps", verify_steps, minimum=10)
        super().__init__(optimizer, milestones, apply, report)
        self.min_lr = min_lr
        self.max_lr = max_lr
        self.num_steps = num_steps
        self.mode = mode
        self.num_stairs = num_stairs
        self.method = method
        self.early_stop_threshold = early_stop_threshold
        self.monitor = monitor
        self.monitor_mode = monitor_mode
        self.val_batches = val_batches
        self.val_every = val_every
        self.verify = verify
        self.verify_steps = verify_steps
        self.curve: LossCurve | None = None
        self.suggestion: Suggestion | None = None
        self.coarse: list[LossCurve] = []
        self.cycles: dict[float, LossCurve] = {}
        self.steps = 0

    # ------------------------------------------------------------------------------------------ state
    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "curve": None if self.curve is None else self.curve.to_dict(),
            "suggestion": None if self.suggestion is None else self.suggestion.to_dict(),
            "coarse": [curve.to_dict() for curve in self.coarse],
            "cycles": [[lr, curve.to_dict()] for lr, curve in self.cycles.items()],
            "steps": self.steps,
            "epoch": self._epoch,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        curve, suggestion = state_dict.get("curve"), state_dict.get("suggestion")
        self.curve = None if curve is None else LossCurve(**curve)
        self.suggestion = None if suggestion is None else Suggestion(**suggestion)
        self.coarse = [LossCurve(**curve) for curve in state_dict.get("coarse", ())]
        self.cycles = {lr: LossCurve(**curve) for lr, curve in state_dict.get("cycles", ())}
        self.steps = state_dict.get("steps", 0)
        self._restore_epoch(state_dict.get("epoch"))

    @override
    def _forget(self) -> None:
        self.curve = None
        self.coarse, self.cycles, self.steps = [], {}, 0

    # ------------------------------------------------------------------------------------------ steps
    @override
    def check(self, trainer: pl.Trainer) -> None:
        super().check(trainer)
        if self.monitor == VAL_LOSS and not trainer.enable_validation:
            raise MisconfigurationException(
                f"`{type(self).__name__}(monitor='{VAL_LOSS}')` needs validation data and a `validation_step`."
            )

    @override
    def find(self, trainer: pl.Trainer) -> None:
        """Run the whole test, from the sweeps to the report."""
        self._forget()
        budget, count = self._budget, CYCLES if self.verify is True else int(self.verify)
        most = budget + count * self.verify_steps
        if count:
            total = f"{budget} + {count} x {self.verify_steps} = {most}"
            rank_zero_info(f"{self.title}: at most {total} optimizer steps.")
        with progress_bar(trainer, most, self.title) as advance:
            curve, is_to_be_read = self._sweep(trainer, advance)
            # A fixed sweep takes one step more than `num_steps`, to measure the effect of the last one.
            run = self.steps if self._is_adaptive else min(self.steps, budget)
            swept = f"{self.title} ({run} of {budget} steps, {curve.outcome})"
            self.curve, self.suggestion = curve, suggest(curve, self.method) if is_to_be_read else None
            if self.suggestion is not None and count:
                self._try_cycles(trainer, candidates(self.suggestion.lr, count), advance)
                answer = self._verified(self.suggestion)
                self.suggestion = None if isinstance(answer, str) else answer
        before = self.before = peak_of(trainer, self.optimizer)
        changed: list[str] = []
        if self.suggestion is None:
            found = f"no suggestion, because {self.why}; training continues with lr {before:.3g}"
        elif self.apply:
            changed = self._use(trainer)
            found = f"max_lr {before:.3g} -> {self.suggestion.lr:.3g} ({self.why}), set in {', '.join(changed)}"
        else:
            found = f"suggests max_lr {self.suggestion.lr:.3g} ({self.why})"
            found += f"; not applied, training continues with lr {before:.3g}"
        where = self._write(trainer, changed)
        rank_zero_info(f"{swept}: {found}{where}.")

    @property
    def _is_adaptive(self) -> bool:
        return self.num_steps is None and self.mode == "exponential"

    @property
    def _budget(self) -> int:
        """The largest number of optimizer steps of all sweeps."""
        return BUDGET if self._is_adaptive else self.num_steps or FIXED

    def _sweep(self, trainer: pl.Trainer, advance: Advance) -> tuple[LossCurve, bool]:
        """Run the sweeps; return the last curve and whether a suggestion can be read off it."""
        if not self._is_adaptive:
            policy = RangeTestPolicy(self.min_lr, self.max_lr, self._budget, self.mode, self.num_stairs)
            return self._measure(trainer, policy, advance), True
        while (coarse := coarse_sweep(self.coarse, self.min_lr, self.max_lr)) is not None:
            # Each checkup makes the host wait for the accelerator; here this happens at most 72 times per fit.
            looks = Looks(range(MIN_LOSSES, coarse.num_steps), is_hopeless=has_risen)
            self.coarse.append(self._try(trainer, coarse, advance, None, looks))
        dense = dense_sweep(self.coarse)
        return (self.coarse[-1], False) if dense is None else (self._measure(trainer, dense, advance), True)

    def _measure(self, trainer: pl.Trainer, policy: Policy, advance: Advance) -> LossCurve:
        """Run the sweep for the suggestion, and return the curve of the monitored quantity."""
        at = range(self.val_every, policy.total_steps + 1, self.val_every)
        looks = None if self.monitor == TRAIN_LOSS else self._looks(at, self.monitor)
        curve = self._try(trainer, policy, advance, self.early_stop_threshold, looks)
        if self.monitor == VAL_LOSS and not curve.val_loss and len(curve) > self.val_every:
            raise MisconfigurationException(
                f"Validation produced no loss: log `{VAL_LOSS}` in `validation_step`, or return the loss from it."
            )
        return curve if looks is None else curve.monitored()

    def _looks(self, steps: Sequence[int], monitor: str) -> Looks:
        sign = -1.0 if self.monitor_mode == "max" else 1.0
        return Looks(steps, self.val_batches, monitor, must_be_logged=monitor != VAL_LOSS, sign=sign)

    def _try_cycles(self, trainer: pl.Trainer, lrs: Sequence[float], advance: Advance) -> None:
        """Run a short cycle at each lr."""
        for lr in lrs:
            # A trial takes one step more than its policy, to measure the effect of the last one.
            policy = short_cycle(trainer, self.optimizer, lr, self.verify_steps - 1)
            looks = self._looks([policy.total_steps], self._judged_by)
            self.cycles[lr] = self._try(trainer, policy, advance, self.early_stop_threshold, looks)

    @property
    def _judged_by(self) -> str:
        """The quantity by which short cycles are compared, if it exists."""
        return VAL_LOSS if self.monitor == TRAIN_LOSS else self.monitor

    def _verified(self, found: Suggestion) -> Suggestion | str:
        return verified(found, self.cycles, self._judged_by)

    def _try(
        self, trainer: pl.Trainer, policy: Policy, advance: Advance, threshold: float | None, looks: Looks | None
    ) -> LossCurve:
        before = self.steps

        def on_step(step: int, loss: float) -> None:
            self.steps = before + step
            advance(self.steps, loss)

        return run_trial(
            trainer,
            policy,
            optimizer=self.optimizer,
            early_stop_threshold=threshold,
            on_step=on_step,
            looks=looks,
        )

    @property
    @override
    def why(self) -> str:
        assert self.curve is not None
        if self.suggestion is None:
            return self._why_not()
        why = f"{self.suggestion.method}: {self.suggestion.reason}"
        if self.suggestion.is_unsure:
            why += f"; unsure, as it could also be {self.suggestion.low:.2g} to {self.suggestion.high:.2g}"
        return why

    def _why_not(self) -> str:
        assert self.curve is not None
        found = suggest(self.curve, self.method) if self.cycles else None
        if found is not None:
            return str(self._verified(found))
        reason = refusal(self.curve, self.method)
        if reason is not None:
            return reason
        lowest, highest = self.coarse[0].lr[0], self.coarse[-1].lr[-1]  # no coarse sweep has found a relevant range
        return f"the loss neither falls nor rises clearly between lr {lowest:.3g} and {highest:.3g}"

    @override
    def _found_value(self) -> str:
        assert self.suggestion is not None
        return f"max_lr {self.suggestion.lr:.3g}"

    @override
    def _use(self, trainer: pl.Trainer) -> list[str]:
        assert self.suggestion is not None
        return use_max_lr(trainer, self.optimizer, self.suggestion.lr)

    @override
    def _show_on_module(self, module: pl.LightningModule) -> list[str]:
        assert self.suggestion is not None
        return set_attributes(module, LR_NAMES, self.suggestion.lr)

    def facts(self) -> dict[str, Any]:
        """Return the contents of the report other than the curve."""
        return {
            "suggestion": None if self.suggestion is None else asdict(self.suggestion),
            "refusal": None if self.suggestion is not None else self.why,
            "settings": {name: getattr(self, name) for name in _SETTINGS},
            "steps": self.steps,
            "coarse": [curve.to_dict() for curve in self.coarse],
            "cycles": {f"{lr:g}": curve.to_dict() for lr, curve in self.cycles.items()},
        }

    def _write(self, trainer: pl.Trainer, changed: list[str]) -> str:
        """Write the report and return the end of a log line, which names its location."""
        root = trainer.log_dir or trainer.default_root_dir  # all ranks: `log_dir` is broadcast
        if not self.report or not trainer.is_global_zero:
            return ""
        curve, planned = self.curve, one_cycle_of(trainer, self.optimizer)
        assert curve is not None
        name = f"{_NAME}_epoch_{trainer.current_epoch}" if trainer.current_epoch else _NAME
        facts = {**self.facts(), "changed": changed}
        return report.publish(
            self.title,
            lambda: self.plot(planned=None if planned is None else planned.policy),
            lambda figure: report.write_report(root, name, facts, curve, figure),
            lambda tag: report.log_curve(trainer.loggers, tag, curve),
        )

    # ------------------------------------------------------------------------------------------- view
    def plot(self, ax: "Axes | None" = None, *, planned: Policy | None = None, all_methods: bool = False) -> "Figure":
        """Draw raw and smoothed loss over log lr, with the suggestion.

        Args:
            ax: Axes to draw into, instead of a new figure.
            planned: A schedule to draw in the same figure, e.g. ``scheduler.policy``.
            all_methods: True also marks the suggestion of each method of `suggest`.

        Raises:
            RuntimeError: The test has not run.
            ModuleNotFoundError: matplotlib is not installed.
        """
        if self.curve is None:
            raise RuntimeError("There is nothing to plot: this LRRangeTest has not run yet.")
        others = [it for method in METHODS if all_methods and (it := suggest(self.curve, method)) is not None]
        return report.draw_range_test(self.curve, self.suggestion, planned, ax, others=others, label=self.label)

    @property
    def label(self) -> str:
        """The name of the quantity on the curve, for plots."""
        name = "training loss" if self.monitor == TRAIN_LOSS else self.monitor
        return f"-{name}" if self.monitor_mode == "max" else name


_SETTINGS = (
    *("min_lr", "max_lr", "num_steps", "mode", "num_stairs", "method", "early_stop_threshold"),
    *("monitor", "monitor_mode", "val_batches", "val_every", "verify", "verify_steps"),
    *("optimizer", "milestones", "apply"),
)
