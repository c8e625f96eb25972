"""`LRRangeTest`, the callback: policy -> trial -> curve -> suggestion -> apply -> report, once per fit."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from typing_extensions import override

from pl_onecycle import report
from pl_onecycle.apply import apply_max_lr, schedule_peak
from pl_onecycle.checks import expect_bool, expect_number, expect_one_of
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
    """Find the learning rate at the start of a fit and train with it.

    Sweeps the learning rate from ``min_lr`` to ``max_lr`` over a few isolated training steps, reads a ``max_lr`` off
    the loss curve and makes it the peak of whatever schedule the optimizer has. Where the curve supports no
    suggestion, the reason is told and training goes on with the user's own lr.

    *Runs at* the first ``on_train_epoch_start`` of a fit that starts from step 0, when the module's ``on_train_start``
    has run; skipped with ``fast_dev_run`` and in a resumed fit, whose checkpoint carries the result. List it before
    callbacks that log the lr at the start of an epoch.

    *Changes* (with ``apply``) the learning rates of the parameter groups, which keep their ratios, of their schedulers,
    and of the module's ``lr`` or ``learning_rate``, also in ``hparams``.

    *Leaves alone* all else: after the test, weights, buffers, optimizer state, random streams, loaders, metrics,
    loggers and counters are as before it, bit for bit, also after an exception or Ctrl-C. Not owed is what user code
    changes inside objects other than modules, optimizers, tensors, arrays, random generators and containers of them.

    Args:
        min_lr: Learning rate of the first step, > 0.
        max_lr: Learning rate of the last step, > ``min_lr``. The defaults span what SGD and Adam need.
        num_steps: Optimizer steps of the sweep, >= 2. A loader that is shorter starts over.
        mode: ``"exponential"``, ``"linear"`` or ``"staircase"``, see `RangeTestPolicy`.
        num_stairs: Number of stairs in ``"staircase"`` mode.
        method: How the suggestion is read off the curve, see `suggest`.
        early_stop_threshold: > 0: the sweep has diverged once the loss rises by this many times its fall so far, see
            `first_explosion`; None never stops early but at a loss that is not finite. 4 is Lightning's default.
        apply: False only suggests.
        report: False writes no files and no logger curves.

    Attributes:
        curve: After it ran, the `LossCurve`.
        suggestion: After it ran, the `Suggestion`, or None where there is none.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument lies outside its range.
        MisconfigurationException: In ``fit``, where the module has no usable optimizer.

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
        apply: bool = True,
        report: bool = True,
    ) -> None:
        RangeTestPolicy(min_lr, max_lr, num_steps, mode, num_stairs)  # checks its arguments
        expect_one_of("method", method, METHODS)
        if early_stop_threshold is not None:
            expect_number("early_stop_threshold", early_stop_threshold, above=0)
        expect_bool("apply", apply)
        expect_bool("report", report)
        self.min_lr = min_lr
        self.max_lr = max_lr
        self.num_steps = num_steps
        self.mode = mode
        self.num_stairs = num_stairs
        self.method = method
        self.early_stop_threshold = early_stop_threshold
        self.apply = apply
        self.report = report
        self.curve: LossCurve | None = None
        self.suggestion: Suggestion | None = None
        self._asked = False  # whether this fit has come to the point at which the test runs
        self._resumed = False  # whether the result came out of a checkpoint
        self._tested: int | None = None  # id of the module of the result; a reference would travel with every pickle

    # ------------------------------------------------------------------------------------------ hooks
    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._asked = self._resumed = False
        if trainer.global_step == 0:  # a checkpoint's result is loaded later than this
            self.curve = self.suggestion = None

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._asked:
            return
        self._asked = True
        skip = self._reason_to_skip(trainer)
        if skip is None:
            self._tested = id(pl_module)
            self._find(trainer)
            return
        again = self.suggestion is not None and self.apply and not self._resumed and self._tested == id(pl_module)
        if again:  # a further fit of the same Trainer has made its optimizer anew
            assert self.suggestion is not None
            skip += f"; its max_lr {self.suggestion.lr:.3g} is set again in {', '.join(self._use(trainer))}"
        rank_zero_info(f"LR range test: skipped, {skip}.")

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._asked and trainer.global_step == 0:
            rank_zero_info("LR range test: not run, as the fit had no training step (no batches, or no epochs).")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "curve": None if self.curve is None else self.curve.to_dict(),
            "suggestion": None if self.suggestion is None else self.suggestion.to_dict(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        curve, suggestion = state_dict.get("curve"), state_dict.get("suggestion")
        self.curve = None if curve is None else LossCurve(**curve)
        self.suggestion = None if suggestion is None else Suggestion(**suggestion)
        self._resumed = True

    # ------------------------------------------------------------------------------------------ steps
    def _reason_to_skip(self, trainer: pl.Trainer) -> str | None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            return "as `fast_dev_run` trains too few steps for its result to matter"
        if self.curve is not None:
            return "as this run has been tested at its start"
        if trainer.global_step > 0:
            return f"as training is already at step {trainer.global_step}"
        return None

    def _find(self, trainer: pl.Trainer) -> None:
        """Run the whole line, from the sweep to the report."""
        policy = RangeTestPolicy(self.min_lr, self.max_lr, self.num_steps, self.mode, self.num_stairs)
        with progress_bar(trainer, policy.total_steps, "LR range test") as advance:
            self.curve = run_trial(trainer, policy, early_stop_threshold=self.early_stop_threshold, on_step=advance)
        self.suggestion = suggest(self.curve, self.method)
        swept = f"LR range test ({len(self.curve)} of {self.num_steps} steps, {self.curve.outcome})"
        before = schedule_peak(trainer.optimizers[0], *_schedule(trainer))
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
        schedulers, horizon = _schedule(trainer)
        module = trainer.lightning_module
        return apply_max_lr(self.suggestion.lr, trainer.optimizers[0], schedulers, module, horizon)

    def _write(self, trainer: pl.Trainer, changed: list[str]) -> str:
        """Write the report and return the end of a sentence that says where it is."""
        root = trainer.log_dir or trainer.default_root_dir  # all ranks must ask
        if not self.report or not trainer.is_global_zero:
            return ""
        assert self.curve is not None
        facts = {
            "suggestion": None if self.suggestion is None else asdict(self.suggestion),
            "refusal": refusal(self.curve, self.method),
            "changed": changed,
            "settings": {name: value for name, value in vars(self).items() if name in _SETTINGS},
        }
        try:
            figure = self._figure(trainer)
            folder = report.write_report(root, _NAME, facts, self.curve, figure)
            report.log_curve(trainer.loggers, _NAME, self.curve)
        except Exception as error:  # a full disk, an unknown file system, a picture that fails: not worth the run
            rank_zero_warn(f"LR range test: the report could not be written ({error}).")
            return ""
        return f"; see {folder}" + (" (no picture: matplotlib is not installed)" if figure is None else "")

    def _figure(self, trainer: pl.Trainer) -> "Figure | None":
        try:
            return self.plot(planned=_planned(trainer))
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


_SETTINGS = ("min_lr", "max_lr", "num_steps", "mode", "num_stairs", "method", "early_stop_threshold", "apply")


def _schedule(trainer: pl.Trainer) -> tuple[list[Any], int]:
    """The run's schedulers, and how often they are stepped; once where the run is endless."""
    configs = trainer.lr_scheduler_configs
    by_step = any(config.interval == "step" for config in configs)
    times = trainer.estimated_stepping_batches if by_step else trainer.max_epochs or 1
    return [config.scheduler for config in configs], int(times) if 1 <= times < math.inf else 1


def _planned(trainer: pl.Trainer) -> Policy | None:
    schedulers = (config.scheduler for config in trainer.lr_scheduler_configs)
    return next((scheduler.policy for scheduler in schedulers if isinstance(scheduler, OneCycleScheduler)), None)
