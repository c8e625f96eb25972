"""`LRRangeTest`, the callback: policy -> trial -> curve -> suggestion -> apply -> report."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from pl_onecycle import report
from pl_onecycle.apply import LR_NAMES, set_attributes
from pl_onecycle.checks import expect_number, expect_one_of
from pl_onecycle.curve import LossCurve
from pl_onecycle.finder import Finder
from pl_onecycle.policy import Policy, RangeTestPolicy, SweepMode
from pl_onecycle.progress import progress_bar
from pl_onecycle.schedules import one_cycle_of, peak_of, use_max_lr
from pl_onecycle.suggestion import METHODS, Method, Suggestion, refusal, suggest
from pl_onecycle.trial import run_trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAME = "lr_range_test"


class LRRangeTest(Finder):
    """Find the learning rate at the start of a fit, and again where asked, and train with it.

    Sweeps the learning rate from ``min_lr`` to ``max_lr`` over a few isolated training steps, reads a ``max_lr`` off
    the loss curve and makes it the peak of whatever schedule the optimizer has. Where the curve supports no
    suggestion, the reason is told and training goes on with the user's own lr.

    *Runs at* the first ``on_train_epoch_start`` of a fit that starts from step 0, when the module's ``on_train_start``
    has run, and at that of each epoch in ``milestones``, from the state then. Skipped with ``fast_dev_run``; a resumed
    fit goes on with the result that its checkpoint carries. It runs before other finders of this package, wherever they
    are in the list. List it before callbacks that log the lr at the start of an epoch, and behind those that add
    parameter groups or change the accumulation then.

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

    title = "LR range test"
    rank = 0
    finds_lr = True

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
        super().__init__(optimizer, milestones, apply, report)
        self.min_lr = min_lr
        self.max_lr = max_lr
        self.num_steps = num_steps
        self.mode = mode
        self.num_stairs = num_stairs
        self.method = method
        self.early_stop_threshold = early_stop_threshold
        self.curve: LossCurve | None = None
        self.suggestion: Suggestion | None = None

    # ------------------------------------------------------------------------------------------ state
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
        self._restore_epoch(state_dict.get("epoch"))

    @override
    def _forget(self) -> None:
        self.curve = None

    # ------------------------------------------------------------------------------------------ steps
    @override
    def find(self, trainer: pl.Trainer) -> None:
        """Run the whole line, from the sweep to the report."""
        policy = RangeTestPolicy(self.min_lr, self.max_lr, self.num_steps, self.mode, self.num_stairs)
        with progress_bar(trainer, policy.total_steps, self.title) as advance:
            self.curve = run_trial(
                trainer,
                policy,
                optimizer=self.optimizer,
                early_stop_threshold=self.early_stop_threshold,
                on_step=advance,
            )
        self.suggestion = suggest(self.curve, self.method)
        swept = f"{self.title} ({len(self.curve)} of {self.num_steps} steps, {self.curve.outcome})"
        before = self.before = peak_of(trainer, self.optimizer)
        changed: list[str] = []
        if self.suggestion is None:
            found = f"no suggestion, because {self.why}; training goes on with lr {before:.3g}"
        elif self.apply:
            changed = self._use(trainer)
            found = f"max_lr {before:.3g} -> {self.suggestion.lr:.3g} ({self.why}), set in {', '.join(changed)}"
        else:
            found = f"suggests max_lr {self.suggestion.lr:.3g} ({self.why})"
            found += f"; not applied, training goes on with lr {before:.3g}"
        where = self._write(trainer, changed)
        rank_zero_info(f"{swept}: {found}{where}.")

    @property
    @override
    def why(self) -> str:
        assert self.curve is not None
        if self.suggestion is None:
            return str(refusal(self.curve, self.method))
        return f"{self.suggestion.method}: {self.suggestion.reason}"

    @override
    def _named(self) -> str:
        assert self.suggestion is not None
        return f"max_lr {self.suggestion.lr:.3g}"

    @override
    def _use(self, trainer: pl.Trainer) -> list[str]:
        assert self.suggestion is not None
        return use_max_lr(trainer, self.optimizer, self.suggestion.lr)

    @override
    def _show(self, module: pl.LightningModule) -> list[str]:
        assert self.suggestion is not None
        return set_attributes(module, LR_NAMES, self.suggestion.lr)

    def facts(self) -> dict[str, Any]:
        """Return what the report tells of the test besides its curve."""
        return {
            "suggestion": None if self.suggestion is None else asdict(self.suggestion),
            "refusal": None if self.suggestion is not None else self.why,
            "settings": {name: value for name, value in vars(self).items() if name in _SETTINGS},
        }

    def _write(self, trainer: pl.Trainer, changed: list[str]) -> str:
        """Write the report and return the end of a sentence that says where it is."""
        root = trainer.log_dir or trainer.default_root_dir  # all ranks must ask
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
