"""Show what a probe found: files, figures and logger curves.

A sink: everything flows in, nothing out. The only importer of matplotlib, and only when a picture is asked for.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pl_onecycle.curve import Array, LossCurve
    from pl_onecycle.policy import Policy
    from pl_onecycle.suggestion import Suggestion

_RAW, _SMOOTH, _CHOICE, _MOMENTUM = "#9aa5b1", "#1f6feb", "#d1242f", "#1a7f37"


# ---------------------------------------------------------------------------------------------- publish
def publish(
    title: str, draw: Callable[[], Figure], write: Callable[[Figure | None], str], log: Callable[[str], None]
) -> str:
    """Draw, write and log a result, and return the end of a sentence that says where it is.

    What cannot be shown is warned of and costs no run.

    Args:
        title: Who shows it.
        draw: Returns the picture.
        write: Takes the picture, or None without matplotlib, and returns the directory that it has written.
        log: Takes the directory's own name, under which loggers keep the curves.
    """
    try:
        try:
            figure = draw()
        except ModuleNotFoundError:
            figure = None
        folder = write(figure)
        log(folder.rpartition("/")[2])
    except Exception as error:  # a full disk, an unknown file system, a picture that fails: not worth the run
        rank_zero_warn(f"{title}: the report could not be written ({error}).")
        return ""
    return f"; see {folder}" + (" (no picture: matplotlib is not installed)" if figure is None else "")


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
    content = {**facts, "curve": curve.to_dict()}
    return write_folder(root, name, content, {"curve.csv": curve_table(curve)}, {name: figure})


def write_curves(
    root: str, name: str, facts: dict[str, Any], curves: Mapping[str, LossCurve], figure: Figure | None
) -> str:
    """Write ``result.json``, ``curves.csv`` and, with a figure, ``<name>.png`` into a new directory.

    Args:
        root: As for `write_report`, and so are the others.
        name: Directory below ``root``.
        facts: What goes into the JSON file.
        curves: By the name of their series, which is the first column of the table.
        figure: The picture, or None.

    Returns:
        The directory.

    Raises:
        OSError: It cannot be written.
    """
    content = {**facts, "curves": {series: curve.to_dict() for series, curve in curves.items()}}
    return write_folder(root, name, content, {"curves.csv": curves_table(curves)}, {name: figure})


def write_folder(
    root: str,
    name: str,
    facts: dict[str, Any],
    tables: Mapping[str, Iterable[Sequence[Any]]],
    figures: Mapping[str, Figure | None],
    texts: Mapping[str, str] | None = None,
) -> str:
    """Write ``result.json`` and other files into a new directory.

    Args:
        root: As for `write_report`.
        name: Directory below ``root``; where it exists already, ``<name>_1`` and so on is taken.
        facts: What goes into the JSON file besides the versions.
        tables: Rows by the name of their CSV file.
        figures: Pictures by their name; None is left out.
        texts: Contents by the name of their file.

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
    for file, rows in tables.items():
        with files.open(f"{folder}/{file}", "w", newline="") as handle:
            csv.writer(handle).writerows(rows)
    with files.open(f"{folder}/result.json", "w") as handle:
        text = json.dumps(_json({**facts, "versions": _versions()}), indent=2, allow_nan=False)
        # A curve is for machines; each of its lists on one line leaves the rest to be read by people.
        handle.write(re.sub(r"\[[^\[\]{}\"]*\]", lambda found: " ".join(found[0].split()), text))
    for file, text in (texts or {}).items():
        with files.open(f"{folder}/{file}", "w") as handle:
            handle.write(text)
    for file, figure in figures.items():
        if figure is not None:
            with files.open(f"{folder}/{file}.png", "wb") as handle:
                figure.savefig(handle, dpi=120)
    return f"{root.rstrip('/')}/{new}"


def curve_table(curve: LossCurve) -> list[Sequence[Any]]:
    """Return the rows of a curve, the first one with the names of the columns."""
    smoothed = [*curve.smoothed().tolist(), *[math.nan] * (len(curve) - len(curve.finite_loss))]
    rows = zip(range(len(curve)), curve.lr, curve.loss, smoothed, strict=True)
    return [("step", "lr", "loss", "smoothed_loss"), *rows]


def curves_table(curves: Mapping[str, LossCurve]) -> list[Sequence[Any]]:
    """Return the rows of several curves one after the other; ``step`` is the number of steps that led to the loss."""
    table: list[Sequence[Any]] = [("series", "step", "lr", "train_loss", "val_loss")]
    for series, curve in curves.items():
        trained = dict(enumerate(zip(curve.lr, curve.loss, strict=True), start=1))
        validated = dict(zip(curve.val_steps, curve.val_loss, strict=True))
        steps = sorted({*trained, *validated})  # the loss after the last step may not have been seen
        table += [(series, step, *trained.get(step, ("", "")), validated.get(step, "")) for step in steps]
    return table


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
def claim_directories(loggers: Sequence[Logger]) -> None:
    """Let loggers choose their directories, to be called before something is written into one outside a fit.

    All choose before the first of them has a directory, which others would take for that of an earlier run; a CSVLogger
    later says that it deletes files if it finds one that it has not made.
    """
    for logger in loggers:
        _ = logger.version
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            _ = logger.experiment


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


def log_curves(loggers: Sequence[Logger], name: str, curves: Mapping[str, LossCurve]) -> None:
    """Write each curve to every TensorBoard logger, as ``<name>/<series>/train_loss``, ``.../val_loss`` and ``.../lr``.

    The others are left alone, see `log_curve`.
    """
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        for series, curve in curves.items():
            for step, (lr, loss) in enumerate(zip(curve.lr, curve.loss, strict=True), start=1):
                logger.experiment.add_scalar(f"{name}/{series}/lr", lr, step)
                logger.experiment.add_scalar(f"{name}/{series}/train_loss", loss, step)
            for step, loss in zip(curve.val_steps, curve.val_loss, strict=True):
                logger.experiment.add_scalar(f"{name}/{series}/val_loss", loss, step)


# --------------------------------------------------------------------------------------------- figures
def draw_range_test(
    curve: LossCurve,
    suggestion: Suggestion | None,
    planned: Policy | None = None,
    ax: Axes | None = None,
    *,
    others: Sequence[Suggestion] = (),
    label: str = "training loss",
) -> Figure:
    """Draw raw and smoothed loss over log lr with the suggestion, beside it the planned cycle.

    Args:
        curve: The measured curve.
        suggestion: Marked where there is one.
        planned: The schedule that training follows; without it there is one panel.
        ax: Draw the loss panel here, and nothing else, instead of into a new figure.
        others: Suggestions of other methods, to be marked thinner.
        label: What the curve is of.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if ax is not None:
        _draw_loss(ax, curve, suggestion, others, label)
        return ax.figure  # type: ignore[return-value]
    figure, axes = _panels(1 if planned is None else 2)
    _draw_loss(axes[0], curve, suggestion, others, label)
    if planned is not None:
        _draw_policy(axes[1], planned)
    return figure


def draw_curves(
    title: str, curves: Mapping[str, LossCurve], chosen: str | None, over_lr: bool, ax: Axes | None = None
) -> Figure:
    """Draw the training loss of several curves, smoothed, and beside it their validation loss.

    Args:
        title: Of the picture.
        curves: By the name of their series.
        chosen: The series that is drawn thicker.
        over_lr: Draw the training loss over the lr instead of over the steps.
        ax: Draw the training loss here, and nothing else, instead of into a new figure.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if ax is not None:
        _draw_train(ax, title, curves, chosen, over_lr)
        return ax.figure  # type: ignore[return-value]
    return draw_tuning(None, None, title, curves, chosen, over_lr)


def draw_tuning(
    sweep: LossCurve | None,
    suggestion: Suggestion | None,
    title: str,
    curves: Mapping[str, LossCurve],
    chosen: str | None,
    over_lr: bool,
    label: str = "training loss",
) -> Figure:
    """Draw a range test and the curves of a probe, as far as there are any, side by side.

    Args:
        sweep: The curve of the range test, or None.
        suggestion: What it suggests.
        title: As for `draw_curves`, and so are the others.
        curves: Of the probe; empty without one.
        chosen: The series that is drawn thicker.
        over_lr: Draw the training loss over the lr.
        label: What the range test's curve is of.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    draw: list[Callable[[Axes], None]] = []
    if sweep is not None:
        draw.append(lambda ax: _draw_loss(ax, sweep, suggestion, label=label))
    if curves:
        draw.append(lambda ax: _draw_train(ax, title, curves, chosen, over_lr))
    if any(curve.val_loss for curve in curves.values()):
        draw.append(lambda ax: _draw_val(ax, curves, chosen))
    figure, axes = _panels(max(len(draw), 1))
    for fill, ax in zip(draw, axes, strict=False):
        fill(ax)
    return figure


def _draw_train(ax: Axes, title: str, curves: Mapping[str, LossCurve], chosen: str | None, over_lr: bool) -> None:
    ax.set(title=title, xlabel="learning rate" if over_lr else "optimizer step", ylabel="training loss, smoothed")
    for series, curve in curves.items():
        x = curve.finite_lr if over_lr else range(1, len(curve.finite_loss) + 1)
        ax.plot(x, _running_mean(curve.finite_loss), **_look(series, curve, chosen))
    _finish(ax)


def _draw_val(ax: Axes, curves: Mapping[str, LossCurve], chosen: str | None) -> None:
    ax.set(title="on the same few batches", xlabel="optimizer step", ylabel="validation loss")
    for series, curve in curves.items():
        ax.plot(curve.val_steps, curve.val_loss, marker=".", **_look(series, curve, chosen))
    losses = [[loss for loss in curve.val_loss if math.isfinite(loss)] for curve in curves.values()]
    later = [loss for some in losses for loss in some[len(some) // 2 :]]
    if later:  # the first losses of a rise may be far above the rest, and must not squash it
        low, top = min(map(min, filter(None, losses))), max(later)
        room = 0.1 * (top - low) or 0.1
        ax.set_ylim(low - room, top + 5 * room)
    _finish(ax)


def _finish(ax: Axes) -> None:
    ax.grid(alpha=0.25)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best", fontsize="small")


def _look(series: str, curve: LossCurve, chosen: str | None) -> dict[str, Any]:
    label = series if curve.outcome == "completed" else f"{series} ({curve.outcome})"
    if series == chosen:  # seen beneath others that it coincides with
        return {"label": f"{label}, chosen", "linewidth": 5, "alpha": 0.45, "zorder": 1}
    return {"label": label, "linewidth": 1.2, "zorder": 2}


def _running_mean(loss: Array, width: float = 0.03) -> Array:
    """Mean over a Gaussian window whose standard deviation is a share of all points, at the ends over what there is."""
    at = np.arange(len(loss))
    weights = np.exp(-0.5 * ((at[:, None] - at) / max(width * len(loss), 1e-9)) ** 2)
    mean: Array = weights @ loss / weights.sum(1)
    return mean


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Pictures need matplotlib: pip install 'pl-onecycle[plot]'") from error
    # Not through pyplot: no window, no backend, nothing to close.
    figure = Figure(figsize=(5.5 * number + 0.5 * (number == 1), 4), layout="constrained")
    return figure, list(figure.subplots(1, number, squeeze=False)[0])


def _draw_loss(
    ax: Axes,
    curve: LossCurve,
    suggestion: Suggestion | None,
    others: Sequence[Suggestion] = (),
    label: str = "training loss",
) -> None:
    found = curve.outcome if suggestion is not None else f"{curve.outcome}, no suggestion"
    ax.set(title=f"LR range test ({found})", xlabel="learning rate", ylabel=label, xscale="log")
    if len(curve.finite_loss) > 0:
        lr, smoothed = curve.finite_lr, curve.smoothed()
        ax.plot(lr, curve.finite_loss, ".", color=_RAW, markersize=4, label="measured")
        ax.plot(lr, smoothed, color=_SMOOTH, linewidth=2, label="smoothed")
        bottom, top = float(smoothed.min()), float(smoothed.max())
        room = 0.1 * (top - bottom) or 0.1  # an explosion must not squash the rest
        ax.set_ylim(bottom - room, top + room)
    if suggestion is not None:
        name = f"max_lr {suggestion.lr:.3g} ({suggestion.method})"
        ax.axvline(suggestion.lr, color=_CHOICE, linewidth=1.5, linestyle="--", label=name)
        if suggestion.low is not None and suggestion.high is not None:
            ax.axvspan(suggestion.low, suggestion.high, color=_CHOICE, alpha=0.12, linewidth=0)
    for k, other in enumerate(others):
        name = f"{other.lr:.3g} ({other.method})"
        ax.axvline(other.lr, color=f"C{k}", linewidth=1, linestyle=":", label=name)
    _finish(ax)


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
