"""`LRRangeTest`, the callback: policy -> trial -> curve -> suggestion -> apply -> report."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from typing_extensions import override

from pl_onecycle import report
from pl_onecycle.apply import apply_max_lr, schedule_peak, set_attributes
from pl_onecycle.checks import expect, expect_bool, expect_integer, expect_number, expect_one_of
from pl_onecycle.curve import LossCurve
from pl_onecycle.policy import Policy, RangeTestPolicy, SweepMode
from pl_onecycle.progress import progress_bar
from pl_onecycle.scheduler import OneCycleScheduler
from pl_onecycle.suggestion import METHODS, Method, Suggestion, refusal, suggest
from pl_onecycle.trial import run_trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAME = "lr_range_test"


class LRRangeTest(pl.Callback):
    """Find the learning rate at the start of a fit, and again where asked, and train with it.

    Sweeps the learning rate from ``min_lr`` to ``max_lr`` over a few isolated training steps, reads a ``max_lr`` off
    the loss curve and makes it the peak of whatever schedule the optimizer has. Where the curve supports no
    suggestion, the reason is told and training goes on with the user's own lr.

    *Runs at* the first ``on_train_epoch_start`` of a fit that starts from step 0, when the module's ``on_train_start``
    has run, and at that of each epoch in ``milestones``, from the state then. Skipped with ``fast_dev_run``; a resumed
    fit goes on with the result that its checkpoint carries. List it before callbacks that log the lr at the start of an
    epoch, and behind those that add parameter groups or change the accumulation then.

    *Changes* (with ``apply``) the learning rates of the optimizer's parameter groups, which keep their ratios, and of
    its schedulers; with one optimizer also the module's ``lr`` or ``learning_rate``, and those in ``hparams``. At a
    milestone a `OneCycleScheduler` begins a new cycle over what is left of the run; other schedules keep their place.

    *Leaves alone* all else: after the test, weights, buffers, optimizer state, random streams, loaders, metrics,
    loggers and counters are as before it, bit for bit, also after an exception or Ctrl-C. Not owed is what user code
    changes inside objects other than modules, optimizers, tensors, arrays, random generators and containers of them; of
    such objects in the module a change that can be seen is warned of. Batches of a source that cannot be started over
    go to the real run, but the random numbers drawn in making them are not drawn again; what the workers of a
    loader take from one queue is lost.

    Args:
        min_lr: Learning rate of the first step, > 0.
        max_lr: Learning rate of the last step, > ``min_lr``. The defaults span what SGD and Adam need.
        num_steps: Optimizer steps of the sweep, >= 2. A loader that is shorter starts over.
        mode: ``"exponential"``, ``"linear"`` or ``"staircase"``, see `RangeTestPolicy`.
        num_stairs: Number of stairs in ``"staircase"`` mode.
        method: How the suggestion is read off the curve, see `suggest`.
        early_stop_threshold: > 0: the sweep has diverged once the loss rises by this many times its fall so far, see
            `first_explosion`; None never stops early but at a loss that is not finite. 4 is Lightning's default.
        optimizer: Index of the optimizer whose lr is found, in the order of ``configure_optimizers``; the others keep
            theirs.
        milestones: Epochs >= 1 at whose start to test again.
        apply: False only suggests.
        report: False writes no files and no logger curves.

    Attributes:
        curve: After it ran, the `LossCurve` of the last test.
        suggestion: After it ran, its `Suggestion`, or None where there is none.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument lies outside its range.
        MisconfigurationException: In ``fit``, where the module has no such optimizer, or not a usable one.

    Example:
        >>> trainer = pl.Trainer(max_epochs=30, callbacks=[LRRangeTest()], logger=False, enable_progress_bar=False)

    References:
        arXiv:1506.01186, section 3.3; see also `RangeTestPolicy`, `LossCurve` and `suggest`.
    """

    def __init__(
        self,
        min_lr: float = 1e-7,
        max_lr: float = 10.0,
        num_steps: int = 100,
        *,
        mode: SweepMode = "exponential",
        num_stairs: int = 10,
        method: Method = "smith",
        early_stop_threshold: float | None = 4.0,
        optimizer: int = 0,
        milestones: Sequence[int] = (),
        apply: bool = True,
        report: bool = True,
    ) -> None:
        RangeTestPolicy(min_lr, max_lr, num_steps, mode, num_stairs)  # checks its arguments
        expect_one_of("method", method, METHODS)
        if early_stop_threshold is not None:
            expect_number("early_stop_threshold", early_stop_threshold, above=0)
        expect_integer("optimizer", optimizer, minimum=0)
        are_many = isinstance(milestones, Sequence) and not isinstance(milestones, str)
        expect(are_many, "milestones", "a sequence of epochs", milestones, TypeError)
        for epoch in milestones:
            expect_integer("milestones", epoch, minimum=1)
        expect_bool("apply", apply)
        expect_bool("report", report)
        self.min_lr = min_lr
        self.max_lr = max_lr
        self.num_steps = num_steps
        self.mode = mode
        self.num_stairs = num_stairs
        self.method = method
        self.early_stop_threshold = early_stop_threshold
        self.optimizer = optimizer
        self.milestones = milestones
        self.apply = apply
        self.report = report
        self.curve: LossCurve | None = None
        self.suggestion: Suggestion | None = None
        self._asked = False  # whether this fit has come to the point at which the test runs
        self._begun: int | None = None  # the epoch that has been announced last
        self._resumed = False  # whether the result came out of a checkpoint
        self._epoch: int | None = None  # of the last test
        self._tested: int | None = None  # id of the module of the result; a reference would travel with every pickle

    # ------------------------------------------------------------------------------------------ hooks
    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._asked = self._resumed = False
        self._begun = None
        if trainer.global_step == 0:  # a checkpoint's result is loaded later than this
            self.curve = self.suggestion = self._epoch = None

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._resumed and self.curve is not None:  # a fit that is resumed within an epoch does not start one
            self._asked = True
            self._skip(trainer, f"as this run was tested in epoch {self._epoch}")

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # A fit that is resumed from a checkpoint of an epoch's last batch does not announce the next epoch.
        if batch_idx == 0 and trainer.current_epoch != self._begun:
            self.on_train_epoch_start(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = trainer.current_epoch
        is_first, self._asked = not self._asked, True
        skip = self._reason_to_skip(trainer)
        if skip is None:
            self._tested = id(pl_module)
            self._find(trainer)
        elif is_first:
            self._skip(trainer, skip)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._asked and trainer.global_step == 0:
            rank_zero_info("LR range test: not run, as the fit had no training step (no batches, or no epochs).")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "curve": None if self.curve is None else self.curve.to_dict(),
            "suggestion": None if self.suggestion is None else self.suggestion.to_dict(),
            "epoch": self._epoch,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        curve, suggestion = state_dict.get("curve"), state_dict.get("suggestion")
        self.curve = None if curve is None else LossCurve(**curve)
        self.suggestion = None if suggestion is None else Suggestion(**suggestion)
        self._epoch = state_dict.get("epoch")
        self._resumed = True

    # ------------------------------------------------------------------------------------------ steps
    def _reason_to_skip(self, trainer: pl.Trainer) -> str | None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            return "as `fast_dev_run` trains too few steps for its result to matter"
        if trainer.current_epoch in self.milestones and trainer.current_epoch != self._epoch:
            return None
        if self.curve is not None:
            return f"as this run was tested in epoch {self._epoch}"
        if trainer.global_step > 0:
            return f"as training is already at step {trainer.global_step}"
        return None

    def _skip(self, trainer: pl.Trainer, reason: str) -> None:
        """Go on with the result of an earlier test, if there is one, and tell."""
        module, changed = trainer.lightning_module, list[str]()
        if self.suggestion is not None and self.apply:
            if self._resumed:  # optimizer and schedulers come from the checkpoint
                changed = set_attributes(module, self.suggestion.lr) if len(trainer.optimizers) == 1 else []
            elif self._tested == id(module):  # a further fit of the same Trainer has made its optimizer anew
                changed = self._use(trainer)
            reason += f"; its max_lr {self.suggestion.lr:.3g} is set again in {', '.join(changed)}" if changed else ""
        rank_zero_info(f"LR range test: skipped, {reason}.")

    def _find(self, trainer: pl.Trainer) -> None:
        """Run the whole line, from the sweep to the report."""
        policy = RangeTestPolicy(self.min_lr, self.max_lr, self.num_steps, self.mode, self.num_stairs)
        with progress_bar(trainer, policy.total_steps, "LR range test") as advance:
            self.curve = run_trial(
                trainer,
                policy,
                optimizer=self.optimizer,
                early_stop_threshold=self.early_stop_threshold,
                on_step=advance,
            )
        self._epoch = trainer.current_epoch
        self.suggestion = suggest(self.curve, self.method)
        swept = f"LR range test ({len(self.curve)} of {self.num_steps} steps, {self.curve.outcome})"
        before = schedule_peak(trainer.optimizers[self.optimizer], *self._schedule(trainer))
        changed: list[str] = []
        if self.suggestion is None:
            found = f"no suggestion, because {refusal(self.curve, self.method)}; training goes on with lr {before:.3g}"
        elif self.apply:
            changed = self._use(trainer)
            found = f"max_lr {before:.3g} -> {self._told()}, set in {', '.join(changed)}"
        else:
            found = f"suggests max_lr {self._told()}; not applied, training goes on with lr {before:.3g}"
        where = self._write(trainer, changed)
        rank_zero_info(f"{swept}: {found}{where}.")

    def _told(self) -> str:
        assert self.suggestion is not None
        return f"{self.suggestion.lr:.3g} ({self.suggestion.method}: {self.suggestion.reason})"

    def _use(self, trainer: pl.Trainer) -> list[str]:
        assert self.suggestion is not None
        schedulers, horizon = self._schedule(trainer)
        module = trainer.lightning_module if len(trainer.optimizers) == 1 else None
        optimizer, restart = trainer.optimizers[self.optimizer], trainer.global_step > 0
        return apply_max_lr(self.suggestion.lr, optimizer, schedulers, module, horizon, restart)

    def _schedule(self, trainer: pl.Trainer) -> tuple[list[Any], int]:
        """The optimizer's schedulers, and how often they are stepped; once where the run is endless."""
        optimizer = trainer.optimizers[self.optimizer]
        configs = [
            config
            for config in trainer.lr_scheduler_configs
            if getattr(config.scheduler, "optimizer", optimizer) is optimizer
        ]
        by_hand = not trainer.lightning_module.automatic_optimization
        by_step = by_hand or any(config.interval == "step" for config in configs)
        times = trainer.estimated_stepping_batches if by_step else trainer.max_epochs or 1
        return [config.scheduler for config in configs], int(times) if 1 <= times < math.inf else 1

    def _write(self, trainer: pl.Trainer, changed: list[str]) -> str:
        """Write the report and return the end of a sentence that says where it is."""
        root = trainer.log_dir or trainer.default_root_dir  # all ranks must ask
        if not self.report or not trainer.is_global_zero:
            return ""
        assert self.curve is not None
        name = f"{_NAME}_epoch_{self._epoch}" if self._epoch else _NAME
        facts = {
            "suggestion": None if self.suggestion is None else asdict(self.suggestion),
            "refusal": refusal(self.curve, self.method),
            "changed": changed,
            "settings": {name: value for name, value in vars(self).items() if name in _SETTINGS},
        }
        try:
            figure = self._figure(trainer)
            folder = report.write_report(root, name, facts, self.curve, figure)
            report.log_curve(trainer.loggers, name, self.curve)
        except Exception as error:  # a full disk, an unknown file system, a picture that fails: not worth the run
            rank_zero_warn(f"LR range test: the report could not be written ({error}).")
            return ""
        return f"; see {folder}" + (" (no picture: matplotlib is not installed)" if figure is None else "")

    def _figure(self, trainer: pl.Trainer) -> "Figure | None":
        try:
            schedulers, _ = self._schedule(trainer)
            cycles = (scheduler.policy for scheduler in schedulers if isinstance(scheduler, OneCycleScheduler))
            return self.plot(planned=next(cycles, None))
        except ModuleNotFoundError:
            return None

    # ------------------------------------------------------------------------------------------- view
    def plot(self, ax: "Axes | None" = None, *, planned: Policy | None = None) -> "Figure":
        """Draw raw and smoothed loss over log lr, with the suggestion.

        Args:
            ax: Draw here instead of into a new figure.
            planned: A schedule to draw beside it, e.g. ``scheduler.policy``.

        Raises:
            RuntimeError: The test has not run.
            ModuleNotFoundError: matplotlib is not installed.
        """
        if self.curve is None:
            raise RuntimeError("There is nothing to plot: this LRRangeTest has not run yet.")
        return report.draw_range_test(self.curve, self.suggestion, planned, ax)


_SETTINGS = (
    *("min_lr", "max_lr", "num_steps", "mode", "num_stairs", "method", "early_stop_threshold"),
    *("optimizer", "milestones", "apply"),
)
