"""Show what a probe found: files, figures and logger curves.

A sink: everything flows in, nothing out. The only importer of matplotlib, and only when a picture is asked for.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import fsspec
from lightning.pytorch.loggers import Logger, TensorBoardLogger

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pl_onecycle.curve import LossCurve
    from pl_onecycle.policy import Policy
    from pl_onecycle.suggestion import Suggestion

_RAW, _SMOOTH, _CHOICE, _MOMENTUM = "#9aa5b1", "#1f6feb", "#d1242f", "#1a7f37"


# ----------------------------------------------------------------------------------------------- files
def write_report(root: str, name: str, facts: dict[str, Any], curve: LossCurve, figure: Figure | None) -> str:
    """Write ``result.json``, ``curve.csv`` and, with a figure, ``<name>.png`` into a new directory.

    Args:
        root: The logger's directory or ``default_root_dir``, local or of any file system that fsspec knows.
        name: Directory below ``root``; where it exists already, ``<name>_1`` and so on is taken.
        facts: What goes into the JSON file besides the curve and the versions; NaN becomes null.
        curve: The measured curve.
        figure: The picture, or None.

    Returns:
        The directory.

    Raises:
        OSError: It cannot be written.
    """
    files, base = fsspec.core.url_to_fs(root)
    names = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(1)))
    new = next(new for new in names if not files.exists(f"{base.rstrip('/')}/{new}"))
    folder = f"{base.rstrip('/')}/{new}"
    files.makedirs(folder)
    smoothed = [*curve.smoothed().tolist(), *[math.nan] * (len(curve) - len(curve.finite_loss))]
    with files.open(f"{folder}/curve.csv", "w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["step", "lr", "loss", "smoothed_loss"])
        rows.writerows(zip(range(len(curve)), curve.lr, curve.loss, smoothed, strict=True))
    with files.open(f"{folder}/result.json", "w") as handle:
        content = _json({**facts, "curve": curve.to_dict(), "versions": _versions()})
        json.dump(content, handle, indent=2, allow_nan=False)
    if figure is not None:
        with files.open(f"{folder}/{name}.png", "wb") as handle:
            figure.savefig(handle, dpi=120)
    return f"{root.rstrip('/')}/{new}"


def _json(value: Any) -> Any:
    """JSON knows no NaN and no numpy."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "lightning")}}


# --------------------------------------------------------------------------------------------- loggers
def log_curve(loggers: Sequence[Logger], name: str, curve: LossCurve) -> None:
    """Write the curve to every TensorBoard logger, under tags and a step axis of its own.

    Loggers with one step axis for all are left alone, so that the rows of a fit stay those of the fit; for a
    CSVLogger ``curve.csv`` lies beside its ``metrics.csv``.
    """
    smoothed = curve.smoothed().tolist()
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        for step, (lr, loss) in enumerate(zip(curve.lr, curve.loss, strict=True)):
            logger.experiment.add_scalar(f"{name}/lr", lr, step)
            logger.experiment.add_scalar(f"{name}/loss", loss, step)
            if step < len(smoothed):
                logger.experiment.add_scalar(f"{name}/smoothed_loss", smoothed[step], step)


# --------------------------------------------------------------------------------------------- figures
def draw_range_test(
    curve: LossCurve, suggestion: Suggestion | None, planned: Policy | None = None, ax: Axes | None = None
) -> Figure:
    """Draw raw and smoothed loss over log lr with the suggestion, beside it the planned cycle.

    Args:
        curve: The measured curve.
        suggestion: Marked where there is one.
        planned: The schedule that training follows; without it there is one panel.
        ax: Draw the loss panel here, and nothing else, instead of into a new figure.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Pictures need matplotlib: pip install 'pl-onecycle[plot]'") from error

    if ax is not None:
        _draw_loss(ax, curve, suggestion)
        return ax.figure  # type: ignore[return-value]
    # Not through pyplot: no window, no backend, nothing to close.
    figure = Figure(figsize=(11, 4) if planned is not None else (6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if planned is not None else 1, squeeze=False)[0]
    _draw_loss(axes[0], curve, suggestion)
    if planned is not None:
        _draw_policy(axes[1], planned)
    return figure


def _draw_loss(ax: Axes, curve: LossCurve, suggestion: Suggestion | None) -> None:
    found = curve.outcome if suggestion is not None else f"{curve.outcome}, no suggestion"
    ax.set(title=f"LR range test ({found})", xlabel="learning rate", ylabel="training loss", xscale="log")
    ax.grid(alpha=0.25)
    if len(curve.finite_loss) > 0:
        lr, smoothed = curve.finite_lr, curve.smoothed()
        ax.plot(lr, curve.finite_loss, ".", color=_RAW, markersize=4, label="loss of one step")
        ax.plot(lr, smoothed, color=_SMOOTH, linewidth=2, label="smoothed")
        bottom, top = float(smoothed.min()), float(smoothed.max())
        room = 0.1 * (top - bottom) or 0.1  # an explosion must not squash the rest
        ax.set_ylim(bottom - room, top + room)
    if suggestion is not None:
        label = f"max_lr {suggestion.lr:.3g} ({suggestion.method})"
        ax.axvline(suggestion.lr, color=_CHOICE, linewidth=1.5, linestyle="--", label=label)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best", fontsize="small")


def _draw_policy(ax: Axes, policy: Policy) -> None:
    steps = sorted({round(i * (policy.total_steps - 1) / 500) for i in range(501)})
    ax.set(title="planned cycle", xlabel="optimizer step", ylabel="learning rate")
    ax.grid(alpha=0.25)
    lines = ax.plot(steps, [policy.lr(step) for step in steps], color=_SMOOTH, linewidth=2, label="learning rate")
    momenta = [momentum for step in steps if (momentum := policy.momentum(step)) is not None]
    if momenta:
        right = ax.twinx()
        right.set_ylabel("momentum")
        lines += right.plot(steps, momenta, color=_MOMENTUM, linewidth=1.5, linestyle="--", label="momentum")
    # Below the axes: the curves use every corner.
    ax.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=2, fontsize="small")
