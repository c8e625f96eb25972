"""Curves of a known shape, reports of them, and readers for what a report writes."""

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pl_onecycle.curves import LossCurve, Suggestion
from pl_onecycle.pictures import ProbePicture, SweepPicture, draw
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.report import Report, curve_table, curves_table

NAME = "lr_range_test"
DECADES = np.linspace(-7, 1, 50)
LRS = (10**DECADES).tolist()
FOUND = Suggestion(0.0125, "smith", "by hand")
PLANNED = OneCyclePolicy(0.0125, total_steps=40)


def curve(outcome: Any = "completed") -> LossCurve:
    """Falls from 8 to 2 at 0.1."""
    return LossCurve(LRS, (2 + (DECADES + 1) ** 2 / 6).tolist(), outcome)


def diverged() -> LossCurve:
    return LossCurve([0.001, 0.01, 0.1], [2.5, 1 / 3, math.nan], "diverged", 2.75)


def several() -> dict[str, LossCurve]:
    """Four steps of two candidates, of which the second was dropped."""
    return {
        "wd=1e-04": LossCurve([0.1, 0.2, 0.3, 0.4], [4.0, 3.0, 2.0, 1.0], "completed", None, [2, 4], [2.5, 1.5]),
        "wd=0": LossCurve([0.1, 0.2], [4.0, math.nan], "dropped", None, [2], [3.5]),
    }


NOTHING = {"empty": LossCurve([], []), "all nan": LossCurve([0.1], [math.nan], "diverged")}
nothing_measured = pytest.mark.parametrize("measured", NOTHING.values(), ids=NOTHING)


def sweep_report(measured: LossCurve, suggestion: Suggestion | None = None, **facts: Any) -> Report:
    """A range test's report, with a picture."""
    return Report(
        "LR range test",
        NAME,
        facts={**facts, "curve": measured.to_dict()},
        tables={"curve.csv": partial(curve_table, measured)},
        figures={NAME: partial(draw, SweepPicture(measured, suggestion))},
        sweeps={"": measured},
    )


def probe_report(curves: Mapping[str, LossCurve], chosen: str | None = None, **facts: Any) -> Report:
    """A probe's report, with a picture."""
    return Report(
        "Probe",
        "probe",
        facts={**facts, "curves": {series: measured.to_dict() for series, measured in curves.items()}},
        tables={"curves.csv": partial(curves_table, curves)},
        figures={"probe": partial(draw, ProbePicture("Probe", curves, chosen, over_lr=True))},
        candidates=curves,
    )


def parse_json(text: str) -> Any:
    """Parse JSON without the NaN and Infinity that Python's parser accepts."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def events(logger: TensorBoardLogger) -> EventAccumulator:
    logger.experiment.flush()
    reader = EventAccumulator(logger.log_dir)
    reader.Reload()
    return reader
