"""Sinks: how each kind of logger records what a search found, its curves, its picture and its files.

A sink makes only calls that its logger or the experiment behind it documents. `Sink` is that of a logger nobody knows
here: it gets the found values by ``log_hyperparams``, which Lightning itself calls in each fit, and nothing else.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from typing_extensions import override

from pl_onecycle._lightning import (
    CometLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
    save_hparams_to_yaml,
)

if TYPE_CHECKING:
    from PIL.Image import Image

# The points of a curve: the step and the values that are known there, by their name.
Points: TypeAlias = Sequence[tuple[int, Mapping[str, float]]]
# Number of metrics that one call of MLflow accepts.
MLFLOW_BATCH = 1000


class Sink:
    """What every logger gets.

    Attributes:
        adds_rows: Whether the points of a curve are rows of the one table that the fit writes, too; they then wait for
            the end of the fit.
    """

    adds_rows: ClassVar[bool] = False

    def log_found(self, logger: Any, group: str, found: Mapping[str, Any]) -> None:
        """Record found values as hyperparameters ``<group>/<name>``."""
        logger.log_hyperparams({group: dict(found)})

    def log_curve(self, logger: Any, tag: str, points: Points) -> None:
        """Record a curve as ``<tag>/<name>``."""

    def log_picture(self, logger: Any, tag: str, picture: Image) -> None:
        """Record a picture as ``<tag>``."""

    def log_folder(self, logger: Any, tag: str, folder: str) -> None:
        """Record the files of a local directory."""


class TensorBoardSink(Sink):
    """Scalars over the step, the picture over the lr, and a text; TensorBoard has no other axis for scalars."""

    @override
    def log_found(self, logger: Any, group: str, found: Mapping[str, Any]) -> None:
        # Empty metrics: TensorBoard reads only the first entry of its HParams page, which Lightning has written.
        logger.log_hyperparams({group: dict(found)}, metrics={})
        rows = [f"| {name} | {value:.6g} |" for name, value in found.items()]
        logger.experiment.add_text(group, "\n".join(["| | value |", "|---|---|", *rows]))
        # `logger.save` writes this file once, before the fit.
        save_hparams_to_yaml(os.path.join(logger.log_dir, logger.NAME_HPARAMS_FILE), logger.hparams)

    @override
    def log_curve(self, logger: Any, tag: str, points: Points) -> None:
        for step, values in points:
            for name, value in values.items():
                logger.experiment.add_scalar(f"{tag}/{name}", value, step)

    @override
    def log_picture(self, logger: Any, tag: str, picture: Image) -> None:
        import numpy as np

        logger.experiment.add_image(tag, np.asarray(picture.convert("RGB")), dataformats="HWC")


class WandbSink(Sink):
    """Rows with the lr as their step metric, and a picture in the next row of the fit.

    All rows of a run have one counter, and a user's ``log(..., step=...)`` is dropped where it lies beyond that step.
    """

    adds_rows = True

    @override
    def log_curve(self, logger: Any, tag: str, points: Points) -> None:
        run = logger.experiment
        lrs = [values["lr"] for _, values in points if "lr" in values]
        axis = "lr" if lrs == sorted(set(lrs)) else "step"  # a whole cycle has each lr twice
        rows = [values if axis == "lr" else {"step": step, **values} for step, values in points]
        run.define_metric(f"{tag}/{axis}")
        for name in sorted({name for row in rows for name in row} - {axis}):  # a pattern would take the picture, too
            run.define_metric(f"{tag}/{name}", step_metric=f"{tag}/{axis}", step_sync=False)
        for row in rows:
            run.log({f"{tag}/{name}": value for name, value in row.items()})

    @override
    def log_picture(self, logger: Any, tag: str, picture: Image) -> None:
        import wandb

        logger.experiment.log({tag: wandb.Image(picture)}, commit=False)


class MLFlowSink(Sink):
    """Metrics over the step, the only axis of MLflow's charts besides time; over the lr the picture, next to the files.

    The rows of ``curve.csv`` lie there, too, which MLflow shows as a table.
    """

    @override
    def log_found(self, logger: Any, group: str, found: Mapping[str, Any]) -> None:
        # A parameter cannot change: another fit of the same run writes a group of its own.
        params = logger.experiment.get_run(logger.run_id).data.params
        names = itertools.chain([group], (f"{group}_{i}" for i in itertools.count(1)))
        super().log_found(logger, next(it for it in names if _can_write(params, it, found)), found)

    @override
    def log_curve(self, logger: Any, tag: str, points: Points) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        tag = re.sub(r"[^\w/. -]", " ", tag)  # all that the name of a metric may have
        metrics = [
            Metric(f"{tag}/{name}", value, now, step) for step, values in points for name, value in values.items()
        ]
        for start in range(0, len(metrics), MLFLOW_BATCH):
            logger.experiment.log_batch(logger.run_id, metrics[start : start + MLFLOW_BATCH])

    @override
    def log_picture(self, logger: Any, tag: str, picture: Image) -> None:
        logger.experiment.log_image(logger.run_id, picture, f"{tag}/{tag}.png")

    @override
    def log_folder(self, logger: Any, tag: str, folder: str) -> None:
        logger.experiment.log_artifacts(logger.run_id, folder, tag)


def _can_write(params: Mapping[str, str], group: str, found: Mapping[str, Any]) -> bool:
    return all(params.get(f"{group}/{name}", str(value)) == str(value) for name, value in found.items())


class CometSink(Sink):
    """Curves over the lr, which are no metrics of the fit, and a picture."""

    @override
    def log_curve(self, logger: Any, tag: str, points: Points) -> None:
        for name in sorted({name for _, values in points for name in values} - {"lr"}):
            seen = [(values["lr"], values[name]) for _, values in points if {"lr", name} <= values.keys()]
            finite = [(lr, value) for lr, value in seen if math.isfinite(value)]  # JSON has no NaN
            if finite:
                logger.experiment.log_curve(f"{tag}/{name}", *zip(*finite, strict=True))

    @override
    def log_picture(self, logger: Any, tag: str, picture: Image) -> None:
        logger.experiment.log_image(picture, tag)


SINKS: dict[type[Logger], Sink] = {
    TensorBoardLogger: TensorBoardSink(),
    WandbLogger: WandbSink(),
    MLFlowLogger: MLFlowSink(),
    CometLogger: CometSink(),
}


def sink_of(logger: Logger) -> Sink:
    """Return the sink for a logger; a CSVLogger keeps its table for the fit, and has the files next to it."""
    return next((sink for kind, sink in SINKS.items() if isinstance(logger, kind)), Sink())
