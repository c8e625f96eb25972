"""Traces: the parts of an interactive picture, as plain data for plotly.js.

A colour is a name of the page's palette after an ``@``, which the page replaces by that of its light or dark scheme;
``@blue:0.2`` is transparent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pl_onecycle.curves import LossCurve
from pl_onecycle.pictures import running_mean

# Of Okabe and Ito, which people who confuse red and green can tell apart; the page has a darker and a lighter set.
COLOURS = ("@blue", "@orange", "@green", "@red", "@purple", "@sky", "@yellow")
DASHES = ("solid", "dash", "dot", "dashdot")
LR, STEP = "learning rate", "optimizer step"


def colour_of(k: int) -> dict[str, Any]:
    """Return colour and dash of the k-th line."""
    return {"color": COLOURS[k % len(COLOURS)], "dash": DASHES[k // len(COLOURS) % len(DASHES)]}


def trace(
    x: Any, y: Any, name: str, line: Mapping[str, Any], lr: Any = None, hover: str = "", **more: Any
) -> dict[str, Any]:
    """Return a line whose points say lr and loss when the mouse is over them.

    Args:
        x: The lr, or the step.
        y: The loss.
        name: In the legend.
        line: Colour, width and dash.
        lr: Of each point, where ``x`` is the step.
        hover: What the points say instead.
        more: Other properties of plotly.js.
    """
    where = "lr %{x:.3g}" if lr is None else f"{STEP} %{{x}}<br>lr %{{customdata:.3g}}"
    data: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": plain(x),
        "y": plain(y),
        "line": dict(line),
        "hovertemplate": hover or f"{where}<br>loss %{{y:.4g}}",
    }
    return data | ({} if lr is None else {"customdata": plain(lr)}) | more


def trace_over_steps(curve: LossCurve, name: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the smoothed training loss of a short cycle over its steps."""
    count = len(curve.finite_loss)
    return trace(range(1, count + 1), running_mean(curve.finite_loss), name, line, curve.finite_lr)


def legend_key(name: str, colour: str, dash: str = "solid") -> dict[str, Any]:
    """Return an entry of the legend for a shape."""
    line = {"color": colour, "width": 10 if dash == "solid" else 2, "dash": dash}
    return {"type": "scatter", "mode": "lines", "name": name, "x": [None], "y": [None], "line": line}


def band(low: float, high: float, colour: str) -> dict[str, Any]:
    """Return a shaded range of lrs."""
    where = {"x0": low, "x1": high, "y0": 0, "y1": 1, "xref": "x", "yref": "paper"}
    return {"type": "rect", **where, "fillcolor": colour, "line": {"width": 0}, "layer": "below"}


def vertical(at: float, colour: str) -> dict[str, Any]:
    """Return a dashed line at an lr."""
    where = {"x0": at, "x1": at, "y0": 0, "y1": 1, "xref": "x", "yref": "paper"}
    return {"type": "line", **where, "line": {"color": colour, "width": 2, "dash": "dash"}}


def log_axis(title: str, lowest: float | None = None, highest: float | None = None) -> dict[str, Any]:
    """Return an axis of lrs, which shows all of them or those between two."""
    axis: dict[str, Any] = {"title": {"text": title}, "type": "log", "exponentformat": "power"}
    return axis if lowest is None or highest is None else axis | {"range": [math.log10(lowest), math.log10(highest)]}


def axis_limits(*series: Sequence[float]) -> tuple[float, float] | None:
    """Return bottom and top of an axis for losses, in which an explosion does not squash the rest.

    The top is at most twice the fall of a series above its start, or its start above that.

    Args:
        series: Finite losses in their order; those of several lines.

    Example:
        >>> axis_limits([1.0, 0.5, 1e25])
        (0.35, 2.15)
    """
    kept = [values for values in series if len(values)]
    if not kept:
        return None
    bottom, top = min(map(min, kept)), max(map(_top, kept))
    room = 0.1 * (top - bottom) or 0.1
    return bottom - room, top + room


def _top(values: Sequence[float]) -> float:
    start = values[0]
    return min(max(values), start + (max(2 * (start - min(values)), abs(start)) or math.inf))


def plain(values: Any) -> list[Any]:
    """Return numbers for JSON, which has no NaN; the tables of the page have all their digits."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    return [_rounded(value) if isinstance(value, float) else value for value in listed]


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
