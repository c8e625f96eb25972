"""Log found values, curves and pictures to the loggers of a Trainer, each by its sink.

A logger that fails costs one warning a search: it is not asked again, and the others get theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pl_onecycle._lightning import Logger, rank_zero_warn
from pl_onecycle.report.sinks import Points, Sink, sink_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from pl_onecycle.curves import LossCurve


class Loggers:
    """The loggers of a Trainer, as one search logs to them.

    Args:
        loggers: Of the Trainer.
        title: Whose result is logged, for people.
        failed: Indices of those that have failed.

    Attributes:
        failed: Indices of those that have failed by now.
    """

    def __init__(self, loggers: Sequence[Logger], title: str, failed: frozenset[int] = frozenset()) -> None:
        self._loggers = loggers
        self._title = title
        self.failed = failed

    def log_found(self, group: str, found: Mapping[str, Any]) -> None:
        """Log found values as hyperparameters ``<group>/<name>``."""
        self._each(lambda sink, logger: sink.log_found(logger, group, found))

    def log_curves(self, curves: Mapping[str, Points], *, at_end: bool) -> None:
        """Log curves by their tag, to the loggers that get them at the end of a fit, or to all others."""

        def log(sink: Sink, logger: Logger) -> None:
            for tag, points in curves.items() if sink.adds_rows == at_end else ():
                sink.log_curve(logger, tag, points)

        self._each(log)

    def log_picture(self, tag: str, picture: Image) -> None:
        """Log a picture."""
        self._each(lambda sink, logger: sink.log_picture(logger, tag, picture))

    def log_folder(self, tag: str, folder: str) -> None:
        """Log the files of a directory, if it is a local one."""
        if os.path.isdir(folder):
            self._each(lambda sink, logger: sink.log_folder(logger, tag, folder))

    def _each(self, log: Callable[[Sink, Logger], None]) -> None:
        for index, logger in enumerate(self._loggers):
            if index in self.failed:
                continue
            try:
                log(sink_of(logger), logger)
            except Exception as error:  # a server that is away: not worth the run
                self.failed |= {index}
                rank_zero_warn(f"{self._title}: the result could not be logged to {type(logger).__name__} ({error}).")


def sweep_points(curve: LossCurve) -> Points:
    """Return ``lr``, ``loss`` and ``smoothed_loss`` of a sweep, from step 0 on."""
    points = [{"lr": lr, "loss": loss} for lr, loss in zip(curve.lr, curve.loss, strict=True)]
    for point, smoothed in zip(points, curve.smoothed().tolist(), strict=False):  # none for a NaN at the end
        point["smoothed_loss"] = smoothed
    return [*enumerate(points)]


def candidate_points(curve: LossCurve) -> Points:
    """Return ``lr``, ``train_loss`` and ``val_loss`` of a candidate.

    The step is the number of optimizer steps that led to the loss.
    """
    trained = [{"lr": lr, "train_loss": loss} for lr, loss in zip(curve.lr, curve.loss, strict=True)]
    points: dict[int, dict[str, float]] = dict(enumerate(trained, start=1))
    for step, loss in zip(curve.val_steps, curve.val_loss, strict=True):
        points.setdefault(step, {})["val_loss"] = loss
    return sorted(points.items())
