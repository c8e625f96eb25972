"""`Chart`: the interactive pictures of a page, each made of traces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pl_onecycle.curves import LossCurve
from pl_onecycle.page.played import Played
from pl_onecycle.page.results import Result
from pl_onecycle.page.traces import (
    LR,
    STEP,
    axis_limits,
    band,
    colour_of,
    legend_key,
    log_axis,
    plain,
    trace,
    trace_over_steps,
    vertical,
)
from pl_onecycle.pictures import running_mean


@dataclass(frozen=True)
class Chart:
    """One picture.

    Attributes:
        title: What it shows, for people.
        data: Traces of plotly.js.
        layout: Layout of plotly.js.
        is_pictured: Whether the static pictures of its section show the same.
    """

    title: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    is_pictured: bool = True


def charts_of(result: Result) -> list[Chart]:
    """Return the pictures of one result."""
    charts = [] if result.curve is None else [sweep_chart(result)]
    if result.cycles:
        charts.append(_cycles_chart(result))
    if result.candidates:
        charts += [_training_chart(result), *_validation_chart(result)]
    return charts


# ------------------------------------------------------------------------------------------- range tests
def sweep_chart(result: Result) -> Chart:
    """Draw a range test: measured and smoothed loss, the coarse sweeps, trough and suggestion."""
    curve, found = result.curve, result.suggestion
    assert curve is not None
    lr, smoothed = curve.finite_lr.tolist(), curve.smoothed().tolist()
    data = [
        trace(it.finite_lr, it.finite_loss, "coarse sweep", {"color": "@grey:0.5", "width": 1}, showlegend=k == 0)
        for k, it in enumerate(result.coarse)
        if it != curve
    ]
    measured: dict[str, Any] = {"mode": "markers", "marker": {"color": "@grey", "size": 5}}
    data.append(trace(lr, curve.finite_loss, "measured", {}, **measured))
    data.append(trace(lr, smoothed, "smoothed", {"color": "@blue", "width": 3}))
    shapes: list[dict[str, Any]] = []
    if result.trough is not None:
        shapes.append(band(*result.trough, "@orange:0.18"))
        data.append(legend_key("trough", "@orange:0.4"))
    if found is not None:
        if found.low is not None and found.high is not None:
            shapes.append(band(found.low, found.high, "@red:0.18"))
            data.append(legend_key(f"interval {found.low:.3g} to {found.high:.3g}", "@red:0.4"))
        shapes.append(vertical(found.lr, "@red"))
        data.append(legend_key(f"max_lr {found.lr:.3g}", "@red", dash="dash"))
    # A coarse sweep is wide: what matters is around the curve.
    sides = (min(lr) / 10, max(lr) * 10) if lr else (None, None)
    layout = {"xaxis": log_axis(LR, *sides), "yaxis": _loss_axis("loss", smoothed), "shapes": shapes}
    return Chart("Loss over the learning rate", data, layout)


def _loss_axis(title: str, *series: Sequence[float]) -> dict[str, Any]:
    limits, axis = axis_limits(*series), {"title": {"text": title}}
    return axis if limits is None else axis | {"range": [*limits]}


def _cycles_chart(result: Result) -> Chart:
    named = {f"lr {float(name):.3g}": curve for name, curve in _cycles(result)}
    return _steps_chart("Short cycles that verify the suggestion", named, is_pictured=False)


def _steps_chart(title: str, curves: Mapping[str, LossCurve], is_pictured: bool = True) -> Chart:
    """Draw smoothed training losses over their steps, by the name of each line."""
    data = [
        trace_over_steps(curve, name, colour_of(k) | {"width": 1.5}) for k, (name, curve) in enumerate(curves.items())
    ]
    layout = {"xaxis": {"title": {"text": STEP}}, "yaxis": {"title": {"text": "training loss, smoothed"}}}
    return Chart(title, data, layout, is_pictured)


def _cycles(result: Result) -> list[tuple[str, LossCurve]]:
    return sorted(result.cycles.items(), key=lambda item: float(item[0]))


def overlay_chart(results: Mapping[str, Result]) -> Chart:
    """Draw the smoothed curves of several range tests, by the name of their run, relative to their start.

    The losses themselves are drawn where one of them does not start above zero.
    """
    data: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    curves = [(name, it.curve.smoothed(), it) for name, it in results.items() if it.curve and len(it.curve.finite_loss)]
    is_relative = all(loss[0] > 0 for _, loss, _ in curves)
    for k, (name, loss, result) in enumerate(curves):
        assert result.curve is not None
        found = "" if result.value is None else f": {result.value:.3g}"
        y = loss / loss[0] if is_relative else loss
        line = trace(result.curve.finite_lr, y, f"{name}{found}", colour_of(k) | {"width": 2.5})
        data.append(line | {"customdata": plain(loss), "hovertemplate": "lr %{x:.3g}<br>loss %{customdata:.4g}"})
        shapes += [] if result.value is None else [vertical(result.value, colour_of(k)["color"])]
    title = "smoothed loss, relative to its start" if is_relative else "smoothed loss"
    axis = _loss_axis(title, *[line["y"] for line in data])
    return Chart(
        "All range tests over the learning rate", data, {"xaxis": log_axis(LR), "yaxis": axis, "shapes": shapes}
    )


# ------------------------------------------------------------------------------------------------ probes
def _training_chart(result: Result) -> Chart:
    named = {_named(name, curve): curve for name, curve in result.candidates.items()}
    return _steps_chart(f"Training loss of each {result.value_name} tried", named)


def _validation_chart(result: Result) -> list[Chart]:
    data = []
    for k, (name, curve) in enumerate(result.candidates.items()):
        if curve.val_loss:
            lrs = [curve.lr[min(step, len(curve)) - 1] for step in curve.val_steps] if len(curve) else None
            style = {"mode": "lines+markers"}
            data.append(trace(curve.val_steps, curve.val_loss, _named(name, curve), colour_of(k), lrs, **style))
    layout = {"xaxis": {"title": {"text": STEP}}, "yaxis": {"title": {"text": "validation loss"}}}
    values = [value for line in data for value in line["y"][len(line["y"]) // 2 :] if value is not None]
    lowest = [value for line in data for value in line["y"] if value is not None]
    if values and lowest:  # the first losses of a rise may be far above the rest
        room = 0.1 * (max(values) - min(lowest)) or 0.1
        layout["yaxis"]["range"] = [min(lowest) - room, max(values) + 5 * room]  # type: ignore[assignment]
    return [Chart(f"Validation loss of each {result.value_name} tried", data, layout)] if data else []


def _named(name: str, curve: LossCurve) -> str:
    return name if curve.outcome == "completed" else f"{name} ({curve.outcome})"


# ---------------------------------------------------------------------------------------------- schedule
def schedule_charts(played: Played) -> list[Chart]:
    """Draw what was planned and what was played: lr and momentum, and the training loss below."""
    lines = [*_planned_lines(played), *_played_lines(played)]
    layout: dict[str, Any] = {"xaxis": {"title": {"text": STEP}}, "yaxis": {"title": {"text": LR}}}
    if any("yaxis" in line for line in lines):
        second = {"title": {"text": "momentum"}, "overlaying": "y", "side": "right", "showgrid": False}
        layout["yaxis2"] = second | {"tickformat": ".3~f"}
    charts = [Chart("Learning rate and momentum", lines, layout)] if lines else []
    return charts + _loss_chart(played)


def _planned_lines(played: Played) -> list[dict[str, Any]]:
    plan = played.plan
    if plan is None:
        return []
    # Wide and pale, as what is played usually lies on it.
    lr = {"color": "@orange:0.55", "width": 8}
    lines = [trace(plan.steps, plan.lr, "planned lr", lr, hover=f"{STEP} %{{x}}<br>planned lr %{{y:.3g}}")]
    if plan.momentum:
        style, hover = {"color": "@grey:0.45", "width": 6}, f"{STEP} %{{x}}<br>planned momentum %{{y:.3g}}"
        lines.append(trace(plan.steps, plan.momentum, "planned momentum", style, hover=hover, yaxis="y2"))
    return lines


def _played_lines(played: Played) -> list[dict[str, Any]]:
    if not len(played.steps):
        return []
    losses = [f"{loss:.4g}" if math.isfinite(loss) else "not finite or unknown" for loss in played.loss]
    hover = f"{STEP} %{{x}}<br>lr %{{y:.3g}}<br>loss %{{customdata}}"
    lines = [trace(played.steps, played.lr, "played lr", {"color": "@blue", "width": 2.5}, losses, hover)]
    if played.momentum:
        style, hover = {"color": "@green", "width": 1.5}, f"{STEP} %{{x}}<br>momentum %{{y:.3g}}"
        lines.append(trace(played.steps, played.momentum, "played momentum", style, hover=hover, yaxis="y2"))
    return lines


def _loss_chart(played: Played) -> list[Chart]:
    loss = np.asarray(played.loss, dtype=np.float64)
    known = np.isfinite(loss)
    if not known.any():
        return []
    steps, lr = np.asarray(played.steps)[known].tolist(), np.asarray(played.lr)[known].tolist()
    smoothed = running_mean(loss[known], 0.01).tolist()
    data = [
        trace(steps, loss[known].tolist(), "training loss", {"color": "@grey:0.6", "width": 1}, lr),
        trace(steps, smoothed, "smoothed", {"color": "@blue", "width": 2.5}, lr),
    ]
    validated = [value for value in played.val_loss if math.isfinite(value)]
    if validated:
        hover = f"{STEP} %{{x}}<br>validation loss %{{y:.4g}}"
        style, mode = {"color": "@red"}, {"mode": "lines+markers"}
        data.append(trace(played.val_steps, played.val_loss, "validation loss", style, hover=hover, **mode))
    axis = _loss_axis("loss", smoothed, validated)
    return [Chart("Loss of the run", data, {"xaxis": {"title": {"text": STEP}}, "yaxis": axis})]
