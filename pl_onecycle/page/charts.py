"""`Chart`: the interactive pictures of a page, as plain data for plotly.js.

A colour is a name of the page's palette after an ``@``, which the page replaces by that of its light or dark scheme;
``@blue:0.2`` is transparent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pl_onecycle.curves import Array, LossCurve
from pl_onecycle.page.played import Played
from pl_onecycle.page.results import Result

# Of Okabe and Ito, which people who confuse red and green can tell apart; the page has a darker and a lighter set.
COLOURS = ("@blue", "@orange", "@green", "@red", "@purple", "@sky", "@yellow")
DASHES = ("solid", "dash", "dot", "dashdot")
LR, STEP = "learning rate", "optimizer step"


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


def colour_of(k: int) -> dict[str, Any]:
    """Return colour and dash of the k-th line."""
    return {"color": COLOURS[k % len(COLOURS)], "dash": DASHES[k // len(COLOURS) % len(DASHES)]}


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
        _line(it.finite_lr, it.finite_loss, "coarse sweep", {"color": "@grey:0.5", "width": 1}, showlegend=k == 0)
        for k, it in enumerate(result.coarse)
        if it != curve
    ]
    measured = {"mode": "markers", "marker": {"color": "@grey", "size": 5}}
    data.append(_line(lr, curve.finite_loss, "measured") | measured)
    data.append(_line(lr, smoothed, "smoothed", {"color": "@blue", "width": 3}))
    shapes: list[dict[str, Any]] = []
    if result.trough is not None:
        shapes.append(_band(*result.trough, "@orange:0.18"))
        data.append(_key("trough", "@orange:0.4"))
    if found is not None:
        if found.low is not None and found.high is not None:
            shapes.append(_band(found.low, found.high, "@red:0.18"))
            data.append(_key(f"interval {found.low:.3g} to {found.high:.3g}", "@red:0.4"))
        shapes.append(_vertical(found.lr, "@red"))
        data.append(_key(f"max_lr {found.lr:.3g}", "@red", dash="dash"))
    layout: dict[str, Any] = {"xaxis": _log_axis(LR), "yaxis": {"title": {"text": "loss"}}, "shapes": shapes}
    limits = _limits(smoothed)
    if limits:
        layout["yaxis"]["range"] = limits
    return Chart("Loss over the learning rate", data, layout)


def _cycles_chart(result: Result) -> Chart:
    data = [
        _steps_line(curve, f"lr {float(name):.3g}", colour_of(k) | {"width": 1.5})
        for k, (name, curve) in enumerate(_cycles(result))
    ]
    layout = {"xaxis": {"title": {"text": STEP}}, "yaxis": {"title": {"text": "training loss, smoothed"}}}
    return Chart("Short cycles that verify the suggestion", data, layout, is_pictured=False)


def _cycles(result: Result) -> list[tuple[str, LossCurve]]:
    return sorted(result.cycles.items(), key=lambda item: float(item[0]))


def overlay_chart(results: Mapping[str, Result]) -> Chart:
    """Draw the smoothed curves of several range tests, by the name of their run, relative to their start."""
    data: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    for k, (name, result) in enumerate(results.items()):
        curve, line = result.curve, colour_of(k)
        if curve is None or len(curve.finite_loss) == 0:
            continue
        found = "" if result.value is None else f": {result.value:.3g}"
        data.append(_line(curve.finite_lr, curve.smoothed(), f"{name}{found}", line | {"width": 2.5}))
        shapes += [] if result.value is None else [_vertical(result.value, line["color"])]
    layout = {"xaxis": _log_axis(LR), "yaxis": {"title": {"text": "smoothed loss"}}, "shapes": shapes}
    return Chart("All range tests over the learning rate", data, layout)


# ------------------------------------------------------------------------------------------------ probes
def _training_chart(result: Result) -> Chart:
    data = [
        _steps_line(curve, _named(name, curve), colour_of(k) | {"width": 1.5})
        for k, (name, curve) in enumerate(result.candidates.items())
    ]
    layout = {"xaxis": {"title": {"text": STEP}}, "yaxis": {"title": {"text": "training loss, smoothed"}}}
    return Chart(f"Training loss of each {result.value_name} tried", data, layout)


def _validation_chart(result: Result) -> list[Chart]:
    data = []
    for k, (name, curve) in enumerate(result.candidates.items()):
        if curve.val_loss:
            lrs = [curve.lr[min(step, len(curve)) - 1] for step in curve.val_steps]
            line = _line(curve.val_steps, curve.val_loss, _named(name, curve), colour_of(k), lrs, mode="lines+markers")
            data.append(line)
    layout = {"xaxis": {"title": {"text": STEP}}, "yaxis": {"title": {"text": "validation loss"}}}
    values = [value for trace in data for value in trace["y"][len(trace["y"]) // 2 :] if value is not None]
    lowest = [min(value for value in trace["y"] if value is not None) for trace in data if any(trace["y"])]
    if values and lowest:  # the first losses of a rise may be far above the rest
        room = 0.1 * (max(values) - min(lowest)) or 0.1
        layout["yaxis"]["range"] = [min(lowest) - room, max(values) + 5 * room]  # type: ignore[assignment]
    return [Chart(f"Validation loss of each {result.value_name} tried", data, layout)] if data else []


def _named(name: str, curve: LossCurve) -> str:
    return name if curve.outcome == "completed" else f"{name} ({curve.outcome})"


# ---------------------------------------------------------------------------------------------- schedule
def schedule_charts(played: Played) -> list[Chart]:
    """Draw what was planned and what was played: lr and momentum, and the training loss below."""
    plan, charts = played.plan, []
    lines: list[dict[str, Any]] = []
    if plan is not None:
        lines.append(_line(plan.steps, plan.lr, "planned lr", {"color": "@orange", "dash": "dash", "width": 2}))
        if plan.momentum:
            style = {"color": "@green", "dash": "dash", "width": 1.5}
            lines.append(_line(plan.steps, plan.momentum, "planned momentum", style) | {"yaxis": "y2"})
    if len(played.steps):
        hover = [_shown(loss) for loss in played.loss]
        text = f"{STEP} %{{x}}<br>lr %{{y:.3g}}<br>loss %{{customdata}}"
        lr = _line(played.steps, played.lr, "played lr", {"color": "@blue", "width": 2.5}, hover)
        lines.append(lr | {"hovertemplate": text})
        if played.momentum:
            style = {"color": "@green", "width": 1.5}
            lines.append(_line(played.steps, played.momentum, "played momentum", style) | {"yaxis": "y2"})
    second = {"title": {"text": "momentum"}, "overlaying": "y", "side": "right", "showgrid": False}
    second["tickformat"] = ".2~f"
    layout: dict[str, Any] = {"xaxis": {"title": {"text": STEP}}, "yaxis": {"title": {"text": LR}}}
    has_momentum = bool(played.momentum) or (plan is not None and bool(plan.momentum))
    if lines:
        layout |= {"yaxis2": second} if has_momentum else {}
        charts.append(Chart("Learning rate and momentum", lines, layout))
    charts += _loss_chart(played)
    return charts


def _loss_chart(played: Played) -> list[Chart]:
    loss = np.asarray(played.loss, dtype=np.float64)
    known = np.isfinite(loss)
    if not known.any():
        return []
    steps, lr = np.asarray(played.steps)[known].tolist(), np.asarray(played.lr)[known].tolist()
    smoothed = running_mean(loss[known], 0.01).tolist()
    data = [
        _line(steps, loss[known].tolist(), "training loss", {"color": "@grey:0.6", "width": 1}, lr),
        _line(steps, smoothed, "smoothed", {"color": "@blue", "width": 2.5}, lr),
    ]
    if len(played.val_loss):
        line = _line(played.val_steps, played.val_loss, "validation loss", {"color": "@red"}, mode="lines+markers")
        data.append(line | {"hovertemplate": f"{STEP} %{{x}}<br>validation loss %{{y:.4g}}"})
    layout: dict[str, Any] = {"xaxis": {"title": {"text": STEP}}, "yaxis": {"title": {"text": "loss"}}}
    limits = _limits([*smoothed, *(value for value in played.val_loss if math.isfinite(value))])
    if limits:
        layout["yaxis"]["range"] = limits
    return [Chart("Loss of the run", data, layout)]


# ------------------------------------------------------------------------------------------------- parts
def _line(
    x: Any, y: Any, name: str, line: Mapping[str, Any] | None = None, lr: Any = None, **more: Any
) -> dict[str, Any]:
    """Return a trace whose points say lr and loss when the mouse is over them; ``lr`` where x is the step."""
    where = "lr %{x:.3g}" if lr is None else f"{STEP} %{{x}}<br>lr %{{customdata:.3g}}"
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": _plain(x),
        "y": _plain(y),
        "line": dict(line or {}),
        "hovertemplate": f"{where}<br>loss %{{y:.4g}}",
    }
    return trace | ({} if lr is None else {"customdata": _plain(lr)}) | more


def _steps_line(curve: LossCurve, name: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the smoothed training loss of a short cycle over its steps."""
    count = len(curve.finite_loss)
    return _line(range(1, count + 1), running_mean(curve.finite_loss), name, line, curve.finite_lr)


def running_mean(loss: Array, width: float = 0.03) -> Array:
    """Return the mean over a Gaussian window; its standard deviation is the share ``width`` of all points."""
    sigma = max(width * len(loss), 1e-9)
    reach = min(math.ceil(4 * sigma), len(loss))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    middle = slice(reach, reach + len(loss))
    mean: Array = np.convolve(loss, weights)[middle] / np.convolve(np.ones(len(loss)), weights)[middle]
    return mean


def _key(name: str, colour: str, dash: str = "solid") -> dict[str, Any]:
    """Return an entry of the legend for a shape."""
    band = dash == "solid"
    line = {"color": colour, "width": 10 if band else 2, "dash": dash}
    return {"type": "scatter", "mode": "lines", "name": name, "x": [None], "y": [None], "line": line}


def _band(low: float, high: float, colour: str) -> dict[str, Any]:
    where = {"x0": low, "x1": high, "y0": 0, "y1": 1, "xref": "x", "yref": "paper"}
    return {"type": "rect", **where, "fillcolor": colour, "line": {"width": 0}, "layer": "below"}


def _vertical(at: float, colour: str) -> dict[str, Any]:
    where = {"x0": at, "x1": at, "y0": 0, "y1": 1, "xref": "x", "yref": "paper"}
    return {"type": "line", **where, "line": {"color": colour, "width": 2, "dash": "dash"}}


def _log_axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title}, "type": "log", "exponentformat": "power"}


def _limits(values: Sequence[float]) -> list[float] | None:
    """Return the range of an axis in which an explosion does not squash the rest."""
    if not values:
        return None
    bottom, top = min(values), max(values)
    room = 0.1 * (top - bottom) or 0.1
    return [bottom - room, top + room]


def _shown(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "unknown"


def _plain(values: Any) -> list[Any]:
    """Return numbers for JSON, which has no NaN; the tables of the page have all their digits."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    return [_rounded(value) if isinstance(value, float) else value for value in listed]


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
