"""Checkups: points of a trial at which a monitored value is recorded, and the trial may end.

The life of a step, seen from here: after a batch, `CheckupRecorder.advance` says whether a checkup is due; a due
checkup validates on a few batches, if there are any; then the monitored value, a logged metric or the validation loss,
is recorded as that of the current weights, and `Checkups.should_end` judges the curve so far.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pl_onecycle._lightning import MisconfigurationException, pl
from pl_onecycle.curves import LossCurve, Outcome

# The default name of the validation loss, and the words for validation in its other names: val/loss, valid_loss.
VAL_LOSS = "val_loss"
VALIDATION_WORDS = frozenset({"val", "valid", "validation", "eval", "dev"})
# Words for what should be high. Callbacks have ``mode="min"`` by default, so that theirs is no sign of the contrary.
_GAINS = {
    *("acc", "accuracy", "auc", "auroc", "ap", "map", "f1", "precision", "recall", "iou", "miou", "dice", "kappa"),
    *("mcc", "ndcg", "mrr", "bleu", "rouge", "psnr", "ssim", "r2", "reward", "return", "top1", "top5"),
}


@dataclass(frozen=True)
class Checkups:
    """Which checkups a trial has; without arguments, none.

    Attributes:
        steps: After how many steps, rising.
        val_batches: How many batches of each validation loader to validate on each time, the same ones.
        monitor: Name of the logged metric that is recorded; where it is not logged, the loss that ``validation_step``
            returns is. Where ``"val_loss"`` is not logged, the validation loss may have another name, see
            `_Metric`.
        should_end: Takes the curve so far and returns whether to end the trial.
        outcome: The outcome of a trial that ``should_end`` has ended.
        must_be_logged: Whether only a logged value counts, of a training or a validation step.
        sign: Factor of each value: -1 for a quantity of which more is better.
    """

    steps: Sequence[int] = ()
    val_batches: int = 0
    monitor: str = VAL_LOSS
    should_end: Callable[[LossCurve], bool] | None = None
    outcome: Outcome = "dropped"
    must_be_logged: bool = False
    sign: float = 1.0


class CheckupRecorder:
    """Carries out the checkups of a trial.

    Attributes:
        validates: Whether a checkup validates.
        is_due: Whether a checkup is due after the batch that has just ended.
        ended_at: After how many steps ``should_end`` has ended the trial, or None.
        steps: After how many steps a value was recorded.
        values: The values, means over processes.
    """

    def __init__(self, trainer: pl.Trainer, checkups: Checkups) -> None:
        self.is_due = False
        self.ended_at: int | None = None
        self.steps: list[int] = []
        self.values: list[float] = []
        self.validates = checkups.val_batches > 0 and bool(trainer.enable_validation)
        self._trainer, self._checkups = trainer, checkups
        self._to_come = deque(checkups.steps)
        self._unjudged: list[int] = []  # the steps of checkups at which the losses have not been judged
        self._batch_losses: list[Tensor] = []  # of the validation that is running
        self._logged_in: str | None = None  # the kind of step in which the module logs the metric
        self._metric = _Metric(trainer, checkups.monitor)

    @property
    def outcome(self) -> Outcome:
        """The outcome of a trial that ``should_end`` has ended."""
        return self._checkups.outcome

    def advance(self, step: int) -> None:
        """Note that ``step`` steps are done at the end of a batch."""
        self.is_due = bool(self._to_come) and step >= self._to_come[0]
        while self._to_come and self._to_come[0] <= step:
            self._to_come.popleft()
        if self.is_due and self._checkups.should_end is not None:
            self._unjudged.append(step)
        if self.is_due and not self.steps:
            self._metric.note_training(self._trainer.callback_metrics)

    def add_validation_batch(self, outputs: Any) -> None:
        """Take what ``validation_step`` returned."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._batch_losses.append(loss.detach().float().mean())

    def is_metric_due(self, step: int) -> bool:
        """Whether to record what the training step at the weights after ``step`` steps has logged."""
        is_new = step not in (0, *self.steps[-1:])
        return self._checkups.must_be_logged and step in self._checkups.steps and is_new

    def judge(self, curve: Callable[[int], LossCurve], last: int) -> bool:
        """Return whether one of the checkups since the last call ends the trial.

        Args:
            curve: Takes a number of steps and returns the curve of those before.
            last: Checkups after more steps than this do not count.
        """
        due, self._unjudged = self._unjudged, []
        ends = self._checkups.should_end
        self.ended_at = next((step for step in due if step <= last and ends is not None and ends(curve(step))), None)
        return self.ended_at is not None

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
        if kind == "validation" and not self.steps:
            self._metric.recognize(metrics)
        named = [key for key in metrics if _without_loader(key) == self._metric.name]
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


class _Metric:
    """The monitored metric.

    Attributes:
        name: The name under which the module logs it.
    """

    def __init__(self, trainer: pl.Trainer, asked: str) -> None:
        self.name = asked
        # Read before the trial, which has no callbacks or schedulers of the run.
        self._minimized = _minimized_by_the_run(trainer)
        self._of_training: set[str] = set()

    def note_training(self, logged: Iterable[str]) -> None:
        """Note the names that training steps have logged, before the first validation."""
        self._of_training = {_without_loader(key) for key in logged}

    def recognize(self, logged: Iterable[str]) -> None:
        """Find the name of the validation loss after the first validation, if that logs no ``"val_loss"``.

        First comes a name that consists of a word for validation and "loss", such as ``val/loss`` or ``valid_loss``;
        then what the run itself minimizes: what an EarlyStopping, a ModelCheckpoint or a scheduler's config monitors.
        """
        names = {_without_loader(key) for key in logged}
        if self.name != VAL_LOSS or self.name in names:
            return
        others = sorted(names - self._of_training)
        known = [name for name in others if _is_validation_loss(name)]
        known += [name for name in self._minimized if name in others]
        self.name = known[0] if known else self.name


def validation_loss_in(logged: Iterable[str]) -> str | None:
    """Return the name among logged ones that is the validation loss by its words, or None.

    Example:
        >>> validation_loss_in(["val_acc", "valid/loss"]), validation_loss_in(["train_loss"])
        ('valid/loss', None)
    """
    known = sorted(
        (key for key in logged if _is_validation_loss(_without_loader(key))), key=lambda key: key != VAL_LOSS
    )
    return known[0] if known else None


def _without_loader(key: str) -> str:
    return key.partition("/dataloader_idx_")[0]


def _is_validation_loss(name: str) -> bool:
    """Whether a name consists of a word for validation and "loss" in either order."""
    words = re.split(r"[^a-z]+", name.lower())
    return len(words) == 2 and "loss" in words and not VALIDATION_WORDS.isdisjoint(words)


def _minimized_by_the_run(trainer: pl.Trainer) -> list[str]:
    """Return the names of the metrics that callbacks and schedulers of the run want low."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    kinds = (pl.callbacks.EarlyStopping, pl.callbacks.ModelCheckpoint)
    names = [it.monitor for it in callbacks if isinstance(it, kinds) and it.mode == "min"]
    for config in trainer.lr_scheduler_configs:
        # The config's default monitor belongs to a ReduceLROnPlateau; other schedulers have no mode.
        is_low = getattr(config.scheduler, "mode", None) == "min" or "loss" in (config.monitor or "").lower()
        names += [config.monitor] if is_low else []
    return [name for name in names if name and not _should_be_high(name)]


def _should_be_high(name: str) -> bool:
    """Whether a name says so, as ``val/acc`` does and ``dice_loss`` does not."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return "loss" not in words and not _GAINS.isdisjoint(words)
