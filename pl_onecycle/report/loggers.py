"""Curves for the loggers of a Trainer.

Only TensorBoard gets them, as each tag has a step axis of its own there. Loggers with one step axis for all are left
alone, so that the rows of a fit stay those of the fit; for a CSVLogger the tables lie next to its ``metrics.csv``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pl_onecycle._lightning import CSVLogger, Logger, TensorBoardLogger

if TYPE_CHECKING:
    from pl_onecycle.curves import LossCurve


def claim_directories(loggers: Sequence[Logger]) -> None:
    """Let loggers choose their directories. Call it before writing into one outside a fit.

    All choose before any directory exists, because a logger would take another's for an earlier run's; a CSVLogger
    later warns that it deletes files if it finds a directory that it has not made.
    """
    for logger in loggers:
        _ = logger.version
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            _ = logger.experiment


def log_sweep(loggers: Sequence[Logger], tag: str, curve: LossCurve) -> None:
    """Log a sweep as ``<tag>/lr``, ``<tag>/loss`` and ``<tag>/smoothed_loss``, from step 0 on."""
    _log(loggers, f"{tag}/lr", enumerate(curve.lr))
    _log(loggers, f"{tag}/loss", enumerate(curve.loss))
    _log(loggers, f"{tag}/smoothed_loss", enumerate(curve.smoothed().tolist()))


def log_candidate(loggers: Sequence[Logger], tag: str, curve: LossCurve) -> None:
    """Log a candidate's curve as ``<tag>/lr``, ``<tag>/train_loss`` and ``<tag>/val_loss``.

    The step is the number of optimizer steps that led to the loss.
    """
    _log(loggers, f"{tag}/lr", enumerate(curve.lr, start=1))
    _log(loggers, f"{tag}/train_loss", enumerate(curve.loss, start=1))
    _log(loggers, f"{tag}/val_loss", zip(curve.val_steps, curve.val_loss, strict=True))


def _log(loggers: Sequence[Logger], tag: str, points: Iterable[tuple[int, float]]) -> None:
    writers = [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
    for step, value in points:
        for writer in writers:
            writer.add_scalar(tag, value, step)
