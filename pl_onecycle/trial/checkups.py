"""Checkups: points of a trial at which a monitored value is recorded, and the trial may end.

The life of a step, seen from here: after a batch, `CheckupRecorder.advance` says whether a checkup is due; a due
checkup validates on a few batches, if there are any; then the monitored value, a logged metric or the validation loss,
is recorded as that of the current weights, and `Checkups.should_end` judges the curve so far.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pl_onecycle._lightning import MisconfigurationException, pl
from pl_onecycle.curves import LossCurve, Outcome


@dataclass(frozen=True)
class Checkups:
    """Which checkups a trial has; without arguments, none.

    Attributes:
        steps: After how many steps, rising.
        val_batches: How many batches of each validation loader to validate on each time, the same ones.
        monitor: Name of the logged metric that is recorded; where it is not logged, the loss that ``validation_step``
            returns is.
        should_end: Takes the curve so far and returns whether to end the trial.
        outcome: The outcome of a trial that ``should_end`` has ended.
        must_be_logged: Whether only a logged value counts, of a training or a validation step.
        sign: Factor of each value: -1 for a quantity of which more is better.
    """

    steps: Sequence[int] = ()
    val_batches: int = 0
    monitor: str = "val_loss"
    should_end: Callable[[LossCurve], bool] | None = None
    outcome: Outcome = "dropped"
    must_be_logged: bool = False
    sign: float = 1.0


class CheckupRecorder:
    """Carries out the checkups of a trial.

    Attributes:
        validates: Whether a checkup validates.
        is_due: Whether a checkup is due after the batch that has just ended.
        has_ended: Whether ``should_end`` has ended the trial.
        steps: After how many steps a value was recorded.
        values: The values, means over processes.
    """

    def __init__(self, trainer: pl.Trainer, checkups: Checkups) -> None:
        self.is_due = self.has_ended = False
        self.steps: list[int] = []
        self.values: list[float] = []
        self.validates = checkups.val_batches > 0 and bool(trainer.enable_validation)
        self._trainer, self._checkups = trainer, checkups
        self._to_come = [*checkups.steps]
        self._batch_losses: list[Tensor] = []  # of the validation that is running
        self._logged_in: str | None = None  # the kind of step in which the module logs the metric

    @property
    def outcome(self) -> Outcome:
        """The outcome of a trial that ``should_end`` has ended."""
        return self._checkups.outcome

    def advance(self, step: int) -> None:
        """Note that ``step`` steps are done at the end of a batch."""
        self.is_due = bool(self._to_come) and step >= self._to_come[0]
        self._to_come = [later for later in self._to_come if later > step]

    def add_validation_batch(self, outputs: Any) -> None:
        """Take what ``validation_step`` returned."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._batch_losses.append(loss.detach().float().mean())

    def is_metric_due(self, step: int) -> bool:
        """Whether to record what the training step at the weights after ``step`` steps has logged."""
        is_new = step not in (0, *self.steps[-1:])
        return self._checkups.must_be_logged and step in self._checkups.steps and is_new

    def should_end(self, curve: Callable[[], LossCurve]) -> bool:
        """Return whether the trial should end."""
        ask = self._checkups.should_end
        self.has_ended = ask is not None and ask(curve())
        return self.has_ended

    def expect_metric(self, step: int) -> None:
        """Require that a metric which must be logged has been, once ``step`` steps are past the first checkup.

        Raises:
            MisconfigurationException: It has not.
        """
        checkups = self._checkups
        is_late = len(checkups.steps) > 0 and step > checkups.steps[0] + 1
        if checkups.must_be_logged and is_late and not self.values:
            name = type(self._trainer.lightning_module).__name__
            raise MisconfigurationException(
                f"The test saw no `{checkups.monitor}`: `{name}` must log it in each training step, with"
                " `on_step=True`, or in its validation steps."
            )

    def record(self, kind: str, step: int) -> None:
        """Record the monitored value, the mean over processes, as that of the weights after ``step`` steps.

        Args:
            kind: ``"training"`` or ``"validation"``: the kind of step that has just ended.
            step: How many steps the optimizer has taken.
        """
        metrics = self._trainer.callback_metrics
        named = [key for key in metrics if key.partition("/dataloader_idx_")[0] == self._checkups.monitor]
        is_here = self._logged_in in (None, kind)  # what is logged once stays there
        values = [metrics[key].detach().float().mean() for key in named] if is_here else []
        self._logged_in = kind if values else self._logged_in
        values = values or ([] if self._checkups.must_be_logged else self._batch_losses)
        self._batch_losses = []
        # Together with whether there is one: a module may log its loss in one process only.
        device = self._trainer.strategy.root_device
        mean = torch.stack([value.to(device) for value in values]).mean() if values else torch.zeros((), device=device)
        value_and_share = torch.stack([mean, torch.full_like(mean, bool(values))])
        value, share = self._trainer.strategy.reduce(value_and_share, reduce_op="mean").tolist()
        if share > 0:
            self.steps.append(step)
            self.values.append(self._checkups.sign * value / share)
