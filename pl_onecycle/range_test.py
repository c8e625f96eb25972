"""`LRRangeTest`, the callback: sweeps -> curve -> suggestion, and short cycles that verify it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from pl_onecycle._lightning import MisconfigurationException, pl, rank_zero_info
from pl_onecycle.checks import expect, expect_integer, expect_number, expect_one_of, plain
from pl_onecycle.curves import (
    BUDGET,
    CYCLES,
    LARGER_BUDGET,
    METHODS,
    MIN_LOSSES,
    LossCurve,
    Method,
    Refusal,
    Suggestion,
    candidates,
    coarse_sweep,
    compared_cycles,
    dense_sweep,
    find_trough,
    has_risen,
    higher_sweep,
    needs_control,
    noise_hides_fall,
    read_curve,
    suggest,
    verified,
)
from pl_onecycle.finder import Finder
from pl_onecycle.pictures import SchedulePicture, SweepPicture, draw
from pl_onecycle.policy import HeldPolicy, Policy, RangeTestPolicy, SweepMode
from pl_onecycle.report import Advance, Report, curve_table
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.trial import Checkups, run_trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAME = "lr_range_test"
TRAIN_LOSS, VAL_LOSS = "train_loss", "val_loss"
# Default number of steps of a linear or staircase sweep.
FIXED_STEPS = 100
# The lr of a control, as a share of the lowest of its sweep: no weight changes in 32 bits.
CONTROL_LR = 1e-6


class LRRangeTest(Finder[Suggestion]):
    """Find the learning rate at the start of a fit, and again at milestones, and train with it.

    Sweeps the learning rate over a few isolated training steps, reads a ``max_lr`` off the loss curve and makes it the
    peak of the optimizer's schedule, whatever its kind. By default the test takes at most 150 optimizer steps: a coarse
    sweep finds the relevant range, and a dense sweep over this range gives the curve for the suggestion. Where noise
    hides the fall of the loss, as with very small batches, each sweep gets a control: the same batches at an lr near 0,
    whose losses are subtracted. Where the loss still falls at the end of the dense sweep, as a very deep net's can,
    another one goes higher. The log says so; either takes 300 steps in all at most. ``verify`` adds short cycles at
    several lrs around the suggestion. On an accelerator a coarse sweep may run up to 7 steps past
    its end, as losses are fetched in chunks; their losses are not used. An exception that only too large an lr causes
    ends a sweep as diverged; to find that out, its batches are repeated twice. If the curve supports no suggestion, the
    test logs the reason and training continues with the user's own lr.

    Where a schedule cycles momentum, the sweeps train with the mean of its smallest and its largest value. The latter,
    with which a cycle begins, makes the steps of SGD so long that the found lr would be too low for the peak.

    *Runs at* the first ``on_train_epoch_start`` of a fit that starts from step 0, after the module's
    ``on_train_start``, and at that of each epoch in ``milestones``, from the current state. Skipped with
    ``fast_dev_run``; a resumed fit continues with the result in its checkpoint. The test runs before other finders of
    this package, whatever their order in the list of callbacks. List it before callbacks that log the lr at the start
    of an epoch, and after those that add parameter groups or change the accumulation there.

    *Changes* (with ``apply``) the learning rates of the optimizer's parameter groups, which keep their ratios, and of
    its schedulers; with one optimizer also the module's ``lr`` or ``learning_rate``, and those in ``hparams``, by the
    same factor, where the module's code uses them. At a milestone a `OneCycleScheduler` begins a new cycle over the
    rest of the run; other schedules keep their position. The peak of a schedule is found on copies of its schedulers,
    stepped as in the run; if that is not possible, the log says so, and the base of the schedule is set.

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
        num_steps: None for as many steps as the curve needs, at most 150, or 300 in these two cases; a number for one
            sweep over exactly this range in that number of optimizer steps, >= 2. A shorter loader starts over.
        mode: ``"exponential"``, ``"linear"`` or ``"staircase"``, see `RangeTestPolicy`; the last two take 100 steps
            if ``num_steps`` is None.
        num_stairs: Number of stairs in ``"staircase"`` mode.
        method: Rule that reads the suggestion off the curve, see `suggest`.
        early_stop_threshold: > 0: the sweep has diverged once the loss rises by this many times its fall so far, see
            `first_explosion`; None stops early only at a loss that is not finite. 4 is Lightning's default.
            The coarse sweep has its own rule, see `has_risen`.
        monitor: Quantity of the curve: ``"train_loss"``, the loss of each step; ``"val_loss"``, the mean over the same
            few validation batches, also where it is logged as ``val/loss``, ``valid_loss`` or the like, or under the
            name that an EarlyStopping, a ModelCheckpoint or the scheduler's config monitors; or the name of a metric
            that the module logs in its training or validation steps.
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
        attr_name: Name of the module's learning rate, with dots, e.g. ``"hparams.optim.lr"`` or ``"optim.lr"``, that
            is scaled as the peak is; an empty string for those that its code uses.
        apply: False only suggests, and calls no function of the user's schedule.
        report: False writes no files, and logs no curves and no picture.

    Attributes:
        curve: After a run, the `LossCurve` that the suggestion was read off.
        suggestion: After a run, its `Suggestion`, or None if there is none.
        answer: The same, or a `Refusal` that says why there is none.
        coarse: The curves of the other sweeps than the one that was read.
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
    value_name = "max_lr"
    result_name = "max_lr"
    rank = 0
    settings = (
        *("min_lr", "max_lr", "num_steps", "mode", "num_stairs", "method", "early_stop_threshold", "monitor"),
        *("monitor_mode", "val_batches", "val_every", "verify", "verify_steps", "optimizer", "milestones"),
        *("attr_name", "apply"),
    )
    curve: LossCurve | None
    coarse: list[LossCurve]
    cycles: dict[float, LossCurve]
    steps: int

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
        attr_name: str = "",
        apply: bool = True,
        report: bool = True,
    ) -> None:
        super().__init__(optimizer=optimizer, milestones=milestones, apply=apply, report=report)
        self.attr_name = attr_name
        self.min_lr = plain(min_lr)
        self.max_lr = plain(max_lr)
        self.num_steps = plain(num_steps)
        self.mode = mode
        self.num_stairs = plain(num_stairs)
        self.method = method
        self.early_stop_threshold = plain(early_stop_threshold)
        self.monitor = monitor
        self.monitor_mode = monitor_mode
        self.val_batches = plain(val_batches)
        self.val_every = plain(val_every)
        self.verify = plain(verify)
        self.verify_steps = plain(verify_steps)
        self._check_arguments()
        self._forget()

    def _check_arguments(self) -> None:
        steps = FIXED_STEPS if self.num_steps is None else self.num_steps
        RangeTestPolicy(self.min_lr, self.max_lr, steps, self.mode, self.num_stairs)  # checks them
        expect_one_of("method", self.method, METHODS)
        if self.early_stop_threshold is not None:
            expect_number("early_stop_threshold", self.early_stop_threshold, above=0)
        is_name = isinstance(self.monitor, str) and self.monitor != ""
        expect(is_name, "monitor", "the name of a metric", self.monitor, TypeError)
        expect_one_of("monitor_mode", self.monitor_mode, ("min", "max"))
        can_be_max = self.monitor not in (TRAIN_LOSS, VAL_LOSS)
        is_fine = self.monitor_mode == "min" or can_be_max
        expect(is_fine, "monitor_mode", "'min' where `monitor` is a loss", self.monitor_mode)
        expect_integer("val_batches", self.val_batches, minimum=1)
        expect_integer("val_every", self.val_every, minimum=1)
        if self.num_steps is not None:
            is_within = self.val_every <= self.num_steps
            expect(is_within, "val_every", f"at most `num_steps` ({self.num_steps})", self.val_every)
        if not isinstance(self.verify, bool):
            expect_integer("verify", self.verify, minimum=3)
            expect(self.verify % 2 == 1, "verify", "True, False or an odd number", self.verify)
        expect_integer("verify_steps", self.verify_steps, minimum=10)
        expect(isinstance(self.attr_name, str), "attr_name", "the name of an attribute", self.attr_name, TypeError)

    # ------------------------------------------------------------------------------------------ state
    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "curve": None if self.curve is None else self.curve.to_dict(),
            "coarse": [curve.to_dict() for curve in self.coarse],
            "cycles": [[lr, curve.to_dict()] for lr, curve in self.cycles.items()],
            "steps": self.steps,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        curve = state_dict.get("curve")
        self.curve = None if curve is None else LossCurve(**curve)
        self.coarse = [LossCurve(**curve) for curve in state_dict.get("coarse", ())]
        self.cycles = {lr: LossCurve(**curve) for lr, curve in state_dict.get("cycles", ())}
        self.steps = state_dict.get("steps", 0)
        self._load_answer(Suggestion, state_dict)

    @override
    def _forget(self) -> None:
        self.curve, self.coarse, self.cycles = None, [], {}
        self.steps = self._sweep_steps = 0
        self._is_extended = False

    # ----------------------------------------------------------------------------------------- search
    @override
    def check(self, trainer: pl.Trainer) -> None:
        super().check(trainer)
        RunOptimizer(trainer, self.optimizer).check_attribute(self.attr_name)
        if self.monitor == VAL_LOSS and not trainer.enable_validation:
            raise MisconfigurationException(
                f"`{type(self).__name__}(monitor='{VAL_LOSS}')` needs validation data and a `validation_step`."
            )

    @override
    def _search(self, run: RunOptimizer) -> Suggestion | Refusal:
        with self._progress(run, self._most_steps) as advance:
            answer = self._sweep(run, advance)
            self._sweep_steps = self.steps
            if isinstance(answer, Suggestion) and self._cycle_count:
                answer = self._verify(run, answer, self._cycle_count, advance)
        return answer

    @property
    def _cycle_count(self) -> int:
        """Number of short cycles that verify the suggestion."""
        return CYCLES if self.verify is True else int(self.verify)

    @property
    def _most_steps(self) -> int:
        """Largest number of optimizer steps of the whole test."""
        most: int = self._budget + self._cycle_count * self.verify_steps
        return most

    @property
    def _is_adaptive(self) -> bool:
        return self.num_steps is None and self.mode == "exponential"

    @property
    def _budget(self) -> int:
        """Largest number of optimizer steps of the sweeps."""
        return BUDGET if self._is_adaptive else self.num_steps or FIXED_STEPS

    def _sweep(self, run: RunOptimizer, advance: Advance) -> Suggestion | Refusal:
        """Run the sweeps and read the last one."""
        policy: RangeTestPolicy | Refusal
        if self._is_adaptive:
            policy = self._search_range(run, advance)
        else:
            policy = RangeTestPolicy(self.min_lr, self.max_lr, self._budget, self.mode, self.num_stairs)
        if isinstance(policy, Refusal):
            self.curve = self.coarse[-1]
            return policy
        self.curve = self._measure(run, policy, advance)
        if self._is_adaptive and self.monitor == TRAIN_LOSS:
            self.curve = self._extended(run, self.curve, advance)
        return read_curve(self.curve, self.method)

    def _extended(self, run: RunOptimizer, curve: LossCurve, advance: Advance) -> LossCurve:
        """Return the curve to read instead of one that ends too low, or is hidden in noise; else the curve itself."""
        if self._is_controlled or noise_hides_fall(curve):
            return self._control(run, curve, advance)
        policy = higher_sweep([*self.coarse, curve])
        if policy is None:
            return curve
        self._extend("the loss still falls at the end of the sweep, so another one goes higher")
        higher = self._measure(run, policy, advance)
        is_refused = isinstance(read_curve(higher, self.method), Refusal)
        self.coarse.append(higher if is_refused else curve)
        return curve if is_refused else higher

    def _extend(self, why: str) -> None:
        """Use the larger budget, and log why."""
        self._is_extended = True
        rank_zero_info(f"{self.title}: {why}, at most {LARGER_BUDGET} steps instead of {BUDGET}")

    @property
    def _is_controlled(self) -> bool:
        """Whether noise hides the fall of a coarse sweep."""
        return any(curve.control for curve in self.coarse)

    def _control(self, run: RunOptimizer, curve: LossCurve, advance: Advance) -> LossCurve:
        """Return a curve with the losses of the same batches at an lr so low that the weights do not change."""
        if not self._is_controlled:
            why = "noise hides the fall of the loss, so the same batches are trained at an lr near 0, too"
            self._extend(why)
        held = HeldPolicy(min(curve.lr) * CONTROL_LR, len(curve))
        control = self._try(run, held, advance, None, None)
        return replace(curve, control=control.loss) if len(control) == len(curve) else curve

    def _search_range(self, run: RunOptimizer, advance: Advance) -> RangeTestPolicy | Refusal:
        """Run coarse sweeps and return the dense one that they ask for."""
        while (policy := coarse_sweep(self.coarse, self.min_lr, self.max_lr)) is not None:
            # A checkup makes the host wait for an accelerator; here that is at most 72 times in a fit.
            checkups = Checkups(range(MIN_LOSSES, policy.num_steps), should_end=has_risen, outcome="risen")
            self.coarse.append(self._try(run, policy, advance, None, checkups))
        if needs_control(self.coarse[-1]):
            self.coarse[-1] = self._control(run, self.coarse[-1], advance)
        return dense_sweep(self.coarse)

    def _measure(self, run: RunOptimizer, policy: Policy, advance: Advance) -> LossCurve:
        """Run a sweep that is read, and return the curve of the monitored quantity."""
        steps = range(self.val_every, policy.total_steps + 1, self.val_every)
        checkups = None if self.monitor == TRAIN_LOSS else self._checkups(steps, self.monitor)
        curve = self._try(run, policy, advance, self.early_stop_threshold, checkups)
        if self.monitor == VAL_LOSS and not curve.val_loss and len(curve) > self.val_every:
            raise MisconfigurationException(
                f"Validation produced no loss: log `{VAL_LOSS}` in `validation_step`, or return the loss from it."
            )
        return curve if checkups is None else curve.monitored()

    def _verify(self, run: RunOptimizer, found: Suggestion, count: int, advance: Advance) -> Suggestion | Refusal:
        """Run a short cycle at each of several lrs around the suggestion and read them."""
        for lr in candidates(found.lr, count):
            # A trial takes one step more than its policy, to see the effect of the last one.
            policy = run.short_cycle(lr, self.verify_steps - 1)
            checkups = self._checkups([policy.total_steps], self._judged_by)
            self.cycles[lr] = self._try(run, policy, advance, self.early_stop_threshold, checkups)
        return verified(found, self.cycles, self._judged_by)

    @property
    def _judged_by(self) -> str:
        """The quantity by which short cycles are compared, if it is available."""
        return VAL_LOSS if self.monitor == TRAIN_LOSS else self.monitor

    def _checkups(self, steps: Sequence[int], monitor: str) -> Checkups:
        sign = -1.0 if self.monitor_mode == "max" else 1.0
        return Checkups(steps, self.val_batches, monitor, must_be_logged=monitor != VAL_LOSS, sign=sign)

    def _try(
        self, run: RunOptimizer, policy: Policy, advance: Advance, threshold: float | None, checkups: Checkups | None
    ) -> LossCurve:
        before = self.steps

        def on_step(step: int, loss: float) -> None:
            self.steps = before + step
            advance(self.steps, loss)

        return run_trial(
            *(run, policy),
            early_stop_threshold=threshold,
            on_step=on_step,
            prepare=run.use_mean_momentum,  # instead of that of the first step; a short cycle writes its own
            checkups=checkups,
        )

    # ------------------------------------------------------------------------------------------- use
    @override
    def _value_before(self, run: RunOptimizer) -> float:
        return run.peak

    @override
    def _use(self, run: RunOptimizer, value: float) -> list[str]:
        return run.use_max_lr(value, self.attr_name)

    @override
    def _label_in(self, run: RunOptimizer) -> str:
        return "base lr" if run.doubt else super()._label_in(run)

    @override
    def _advice(self, run: RunOptimizer) -> list[str]:
        if run.schedulers:
            return []
        name = type(run.optimizer).__name__
        return [f"held constant, as {name} has no scheduler: `configure_one_cycle(self, optimizer)` makes it one cycle"]

    # ------------------------------------------------------------------------------------------- show
    @override
    def _cost(self, run: RunOptimizer) -> str:
        cycles = f"{self._budget} + {self._cycle_count} × {self.verify_steps}" if self._cycle_count else ""
        return self._cost_of(run, self._most_steps, cycles)

    @override
    def _steps_taken(self) -> int:
        return self.steps

    @override
    def _validates(self, trainer: pl.Trainer) -> bool:
        return self.monitor != TRAIN_LOSS or self._cycle_count > 0

    @property
    @override
    def interval(self) -> tuple[float, float] | None:
        found = self.suggestion
        return None if found is None or found.low is None or found.high is None else (found.low, found.high)

    @property
    @override
    def why(self) -> str:
        found = self.suggestion
        if found is None:
            return super().why
        why = f"{found.method}: {found.reason}"
        if found.is_unsure:
            why += f"; unsure, as it could also be {found.low:.2g} to {found.high:.2g}"
        return why

    @override
    def _description(self, run: RunOptimizer) -> str:
        assert self.curve is not None
        # A fixed sweep takes one step more than its number, to see the effect of the last one.
        steps = self._sweep_steps if self._is_adaptive else min(self._sweep_steps, self._budget)
        most = LARGER_BUDGET if self._is_extended else self._budget
        return f"{steps} of {most} steps, {self.curve.outcome}"

    @override
    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "steps": self.steps,
            "coarse": [curve.to_dict() for curve in self.coarse],
            "cycles": {f"{lr:g}": curve.to_dict() for lr, curve in self.cycles.items()},
            "curve": None if self.curve is None else self.curve.to_dict(),
        }

    @override
    def _make_report(self, run: RunOptimizer, changed: list[str]) -> Report:
        assert self.curve is not None
        epoch, cycle = run.trainer.current_epoch, run.one_cycle
        name = f"{_NAME}_epoch_{epoch}" if epoch else _NAME
        return Report(
            self.title,
            name,
            facts={**self.facts(), "changed": changed},
            tables={"curve.csv": partial(curve_table, self.curve)},
            figures={name: partial(draw, self.picture(planned=None if cycle is None else cycle.policy))},
            sweeps={"": self.curve},
        )

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        log_lr: bool | None = None,
        skip_start: int = 0,
        skip_end: int = 0,
        planned: Policy | None = None,
        all_methods: bool = False,
    ) -> Any:
        """Draw raw and smoothed loss over the lr, with the suggestion and what it was read off.

        Args:
            ax: Axes for the sweep only, instead of a new figure.
            log_lr: Whether the lr is on a log axis; None for the axis on which the sweep was even.
            skip_start: Number of first points to leave out.
            skip_end: Number of last points to leave out.
            planned: A schedule to draw in the same figure, e.g. ``scheduler.policy``.
            all_methods: True also marks the suggestion of each method of `suggest`.

        Returns:
            The figure, which a notebook shows, or ``ax``.

        Raises:
            RuntimeError: The test has not run.
            ModuleNotFoundError: matplotlib is not installed.
        """
        if self.curve is None:
            raise RuntimeError("There is nothing to plot: this LRRangeTest has not run yet.")
        picture = self.picture(all_methods, planned)
        return draw(replace(picture, log_lr=log_lr, skip=(skip_start, skip_end)), ax)

    @override
    def picture(self, all_methods: bool = False, planned: Policy | None = None) -> SweepPicture:
        """Return what `plot` draws; to be called after a run."""
        assert self.curve is not None
        found, cycles = self.suggestion, self.cycles
        others = [suggest(self.curve, method) for method in METHODS if all_methods and method != self.method]
        return SweepPicture(
            self.curve,
            found,
            self._curve_label,
            [other for other in others if other is not None],
            reason=self.why,
            before=self.before,
            trough=find_trough(self.curve).ends if found is not None and self.method == "trough" else None,
            coarse=self.coarse if self.curve not in self.coarse else (),
            cycles=cycles,
            ends=compared_cycles(cycles) if cycles else None,
            planned=None if planned is None else SchedulePicture.of(planned),
        )

    @property
    def _curve_label(self) -> str:
        """The name of the quantity on the curve, for plots."""
        name = "training loss" if self.monitor == TRAIN_LOSS else self.monitor
        if self.curve is not None and self.curve.control:
            return f"{name} against a control"
        return f"-{name}" if self.monitor_mode == "max" else name
