"""`Recorder`: the callback that turns a trial into a `LossCurve`.

The life of a step: the `Driver` has written the policy's values; the module's backward passes hand their losses to the
`LossCollector`; the optimizer steps, which the driver counts and the collector notes; at the end of the batch losses
are fetched and judged by an `ExplosionDetector`, and the `CheckupRecorder` carries out a checkup that is due. The
`Agreement` keeps several processes together at each of these points.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pl_onecycle._lightning import MisconfigurationException, pl
from pl_onecycle.curves import ExplosionDetector, LossCurve, Outcome
from pl_onecycle.policy import Policy
from pl_onecycle.real_step import after_real_step
from pl_onecycle.run_optimizer import RunOptimizer
from pl_onecycle.trial.agreement import Agreement
from pl_onecycle.trial.checkups import CheckupRecorder, Checkups
from pl_onecycle.trial.driver import Driver
from pl_onecycle.trial.losses import LossCollector

# How many steps pass between two fetches of losses where a fetch makes the process wait, for an accelerator or other
# processes. Fewer where the losses decide whether to continue: a coarse sweep should not run far beyond the lr at which
# it could end. What comes after that is not part of the curve.
CHUNK, DECIDING_CHUNK = 20, 8

OnStep = Callable[[int, float], None]


def _chunk(trainer: pl.Trainer, decides: bool) -> int:
    """Return how many steps pass between two fetches of losses."""
    if trainer.strategy.root_device.type == "cpu" and trainer.world_size == 1:
        return 1
    return DECIDING_CHUNK if decides else CHUNK


class Recorder(pl.Callback):
    """Drives the optimizer, records the loss of each of its steps and says when the trial is done.

    Args:
        run: The optimizer.
        policy: Its learning rate and momentum.
        threshold: When the trial has diverged, see `first_explosion`.
        on_step: Called with the number of steps done and the last known loss.
        checkups: When to validate.
        most_batches: After how many batches the trial is done, if the policy does not end before.

    Attributes:
        done: Whether the trial has all that it needs.
        batches: How many batches have begun.
    """

    def __init__(
        self,
        run: RunOptimizer,
        policy: Policy,
        threshold: float | None,
        on_step: OnStep | None,
        checkups: Checkups,
        most_batches: float = math.inf,
    ) -> None:
        self.done = False
        self.batches, self._most_batches = 0, most_batches
        self._trainer, self._on_step = run.trainer, on_step
        self._explosions = ExplosionDetector(threshold)
        self._driver = Driver(run.optimizer, policy)
        self._processes = Agreement(run.trainer)
        self._collector = LossCollector(run.trainer, self._processes, self._driver.last_step)
        self._checkups = CheckupRecorder(run.trainer, checkups)
        self._begun_at = 0  # number of steps before this batch
        self._chunk = _chunk(run.trainer, checkups.should_end is not None and not self._checkups.validates)

    @property
    def step(self) -> int:
        """How many steps the optimizer has taken."""
        return self._driver.step

    @property
    def has_exploded(self) -> bool:
        """Whether a loss has exploded, or an exception was recorded as one that has."""
        return self._explosions.index is not None

    def begin(self) -> None:
        """Take the optimizer over; the isolation restores it."""
        for optimizer in self._trainer.optimizers:
            is_ours = optimizer is self._driver.optimizer
            after_real_step(optimizer, self._after_step if is_ours else self._collector.share_backward)
        self._processes.meet_before_forward()
        self._driver.write()

    # ------------------------------------------------------------------------------- hooks, in firing order
    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._processes.meets_before_forward:
            self._processes.meet()
        self.batches += 1
        self._begun_at = self.step

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._processes.meet()
        self._processes.is_in_backward = True
        self._collector.add_backward(loss)

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._processes.is_in_backward = False

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if optimizer is self._driver.optimizer:
            self._collector.begin_step()
        else:
            self._collector.share_backward()

    def _after_step(self) -> None:
        self._collector.finish_step(self.step)
        self._driver.count_step()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._collector.finish_batch(self.step, outputs)
        if self._checkups.is_metric_due(self._begun_at):
            self._processes.meet()
            self._checkups.record("training", self._begun_at)
        self._checkups.advance(self.step)
        validates = self._checkups.is_due and self._checkups.validates
        should_fetch = self._driver.is_through or validates or self._collector.waiting >= self._chunk
        if should_fetch and self._collector.waiting:
            self.fetch_losses()
        elif validates or trainer.is_last_batch:  # before the processes communicate in their own way
            self._processes.meet()
        if not validates and not self._collector.waiting:
            self._judge()
        self.done = self.done or self._driver.is_through or self.batches >= self._most_batches
        trainer.should_stop = trainer.should_stop or self.done

    def is_validation_due(self) -> bool:
        """Whether to validate after this batch."""
        # Also at the end, which several steps in one batch may jump over.
        return self._checkups.is_due and not self.has_exploded and not self._driver.is_overridden

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._checkups.add_validation_batch(outputs)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._processes.meet()
        self._checkups.record("validation", self.step)
        self._judge()
        trainer.should_stop = trainer.should_stop or self.done

    # ------------------------------------------------------------------------------------ what ends a trial
    def fetch_losses(self) -> None:
        """Fetch the losses that are still on the device, where processes meet, and judge whether they have exploded."""
        if not self._collector.waiting:
            return
        since = len(self._collector.losses)
        self._driver.is_overridden = self._collector.fetch(self._driver.is_overridden)
        if self._on_step is not None and self._collector.losses:
            self._on_step(self.step, self._collector.losses[-1])
        self._explosions.add(self._collector.losses[since:])
        # A curve has at least one point, also where the very first loss was not finite, unless its step was left out.
        has_diverged = self.has_exploded and (self._collector.steps[-1] > 0 or self.step == 0)
        self.done = self._driver.is_overridden or has_diverged

    def _judge(self) -> None:
        """Ask at each checkup so far that has not been judged whether the trial should end there."""
        if not self._driver.is_overridden:
            at = self._explosions.index
            last = self._driver.last_step if at is None else self._collector.steps[at]
            self.done = self._checkups.judge(self._curve_before, last) or self.done

    def end(self) -> None:
        """Fetch the last losses, once every process has come to the end."""
        self._processes.meet()
        self.fetch_losses()

    def explains(self, error: Exception) -> bool:
        """Return whether values that are not finite, after a step, explain an exception; to be called in the trial."""
        is_divergence = self._processes.is_divergence(error, self._collector.unfinished)
        return is_divergence and self._processes.least(self.step) > 0

    def record_divergence(self) -> None:
        """Record an exception that the learning rate has caused as a loss that is not finite."""
        self._collector.keep(self._processes.least(self._collector.waiting))
        self.fetch_losses()
        if not self.has_exploded:
            self._collector.add_nan(self._processes.least(self.step))
            self._explosions.add(self._collector.losses[-1:])

    # ----------------------------------------------------------------------------------------- the result
    def curve(self) -> LossCurve:
        """Pair each loss with the lr of the step before.

        Raises:
            MisconfigurationException: The module shows no loss, or not the metric that is monitored.
        """
        module = self._trainer.lightning_module
        if self.step > 0 and not self._collector.losses and not module.automatic_optimization:
            raise MisconfigurationException(
                f"The test saw no loss: `{type(module).__name__}.training_step` must pass it to `self.manual_backward`"
                " or return it."
            )
        self._checkups.expect_metric(self.step)
        return self._curve_before(self.step + 1 if self._checkups.ended_at is None else self._checkups.ended_at)

    def _curve_before(self, end: int) -> LossCurve:
        """Return the curve of the losses of the steps before ``end``."""
        if self._explosions.index is not None:
            end = min(end, max(self._collector.steps[self._explosions.index], 1) + 1)
        losses = {step: loss for step, loss in self._collector.by_step().items() if step < end}
        initial = losses.pop(0, None)
        lrs = [self._driver.lr_before(step) for step in losses]
        monitored = self._checkups.steps, self._checkups.values
        return LossCurve(lrs, list(losses.values()), self._outcome, initial, *monitored)

    @property
    def _outcome(self) -> Outcome:
        if self._driver.is_overridden:
            return "overridden"
        if self._checkups.ended_at is not None:
            return self._checkups.outcome
        if self.has_exploded:
            return "diverged"
        return "completed" if self._driver.is_through else "stopped"
