"""Pictures of range tests, probes and tuning. Only this file imports matplotlib, and only to draw."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pl_onecycle.page import axis_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pl_onecycle.curves import Array, LossCurve, Suggestion
    from pl_onecycle.page import Played
    from pl_onecycle.policy import Policy

Panel: TypeAlias = "Callable[[Axes], None]"

_RAW, _SMOOTH, _CHOICE, _MOMENTUM = "#9aa5b1", "#1f6feb", "#d1242f", "#1a7f37"


@dataclass(frozen=True)
class SweepPicture:
    """What the picture of a range test shows.

    Attributes:
        curve: The measured curve.
        suggestion: Marked if there is one.
        label: Name of the quantity on the curve.
        others: Suggestions of other methods, marked thinner.
    """

    curve: LossCurve
    suggestion: Suggestion | None
    label: str = "training loss"
    others: Sequence[Suggestion] = ()


@dataclass(frozen=True)
class ProbePicture:
    """What the picture of a probe shows.

    Attributes:
        title: Title of the picture.
        curves: Curves by the name of their series.
        chosen: The series that is drawn thicker.
        over_lr: Whether the training loss is drawn over the lr instead of over the steps.
    """

    title: str
    curves: Mapping[str, LossCurve]
    chosen: str | None
    over_lr: bool

    @property
    def is_validated(self) -> bool:
        """Whether any candidate has a validation loss."""
        return any(curve.val_loss for curve in self.curves.values())


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_range_test(picture: SweepPicture, planned: Policy | None = None, ax: Axes | None = None) -> Figure:
    """Draw raw and smoothed loss over log lr with the suggestion, and next to it the planned cycle.

    Args:
        picture: What to draw.
        planned: The schedule that training follows; without it there is one panel.
        ax: Axes for the loss only, instead of a new figure.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if ax is not None:
        _draw_sweep(ax, picture)
        return ax.figure  # type: ignore[return-value]
    return _draw_panels(
        [partial(_draw_sweep, picture=picture)] + ([partial(_draw_policy, policy=planned)] if planned else [])
    )


def draw_probe(picture: ProbePicture, ax: Axes | None = None) -> Figure:
    """Draw the training loss of several curves, smoothed, and next to it their validation loss.

    Args:
        picture: What to draw.
        ax: Axes for the training loss only, instead of a new figure.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if ax is not None:
        _draw_train(ax, picture)
        return ax.figure  # type: ignore[return-value]
    return draw_tuning(None, [picture])


def draw_tuning(sweep: SweepPicture | None, probes: Sequence[ProbePicture]) -> Figure:
    """Draw a range test and probes, as far as there are any, side by side.

    Args:
        sweep: The range test, or None.
        probes: The probes.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    panels: list[Panel] = [] if sweep is None else [partial(_draw_sweep, picture=sweep)]
    for probe in probes:
        panels += [partial(_draw_train, picture=probe)] if probe.curves else []
        panels += [partial(_draw_val, picture=probe)] if probe.is_validated else []
    return _draw_panels(panels)


def _draw_panels(panels: Sequence[Panel]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Pictures need matplotlib: pip install 'pl-onecycle[plot]'") from error
    # Not through pyplot: no window, no backend, nothing to close.
    number = max(len(panels), 1)
    figure = Figure(figsize=(5.5 * number + 0.5 * (number == 1), 4), layout="constrained")
    for draw, ax in zip(panels, figure.subplots(1, number, squeeze=False)[0], strict=False):
        draw(ax)
    return figure


def _draw_train(ax: Axes, picture: ProbePicture) -> None:
    name = "learning rate" if picture.over_lr else "optimizer step"
    ax.set(title=picture.title, xlabel=name, ylabel="training loss, smoothed")
    for series, curve in picture.curves.items():
        x = curve.finite_lr if picture.over_lr else range(1, len(curve.finite_loss) + 1)
        ax.plot(x, _running_mean(curve.finite_loss), **_line_style(series, curve, picture.chosen))
    _finish(ax)


def _draw_val(ax: Axes, picture: ProbePicture) -> None:
    ax.set(title="on the same few batches", xlabel="optimizer step", ylabel="validation loss")
    for series, curve in picture.curves.items():
        ax.plot(curve.val_steps, curve.val_loss, marker=".", **_line_style(series, curve, picture.chosen))
    losses = [[loss for loss in curve.val_loss if math.isfinite(loss)] for curve in picture.curves.values()]
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


def _line_style(series: str, curve: LossCurve, chosen: str | None) -> dict[str, Any]:
    label = series if curve.outcome == "completed" else f"{series} ({curve.outcome})"
    if series == chosen:  # visible beneath others that coincide with it
        return {"label": f"{label}, chosen", "linewidth": 5, "alpha": 0.45, "zorder": 1}
    return {"label": label, "linewidth": 1.2, "zorder": 2}


def _running_mean(loss: Array, width: float = 0.03) -> Array:
    """Return the mean over a Gaussian window; its standard deviation is the share ``width`` of all points."""
    at = np.arange(len(loss))
    weights = np.exp(-0.5 * ((at[:, None] - at) / max(width * len(loss), 1e-9)) ** 2)
    mean: Array = weights @ loss / weights.sum(1)
    return mean


def _draw_sweep(ax: Axes, picture: SweepPicture) -> None:
    curve, suggestion = picture.curve, picture.suggestion
    found = curve.outcome if suggestion is not None else f"{curve.outcome}, no suggestion"
    ax.set(title=f"LR range test ({found})", xlabel="learning rate", ylabel=picture.label, xscale="log")
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
    for k, other in enumerate(picture.others):
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


# ------------------------------------------------------------------------------------------ of a page
def draw_schedule(played: Played) -> Figure:
    """Draw the planned and the played lr of a run, and next to it its loss.

    Args:
        played: What the run did.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    return _draw_panels([partial(_draw_played, played=played), partial(_draw_loss, played=played)])


def _draw_played(ax: Axes, played: Played) -> None:
    ax.set(title=f"schedule of {played.optimizer}", xlabel="optimizer step", ylabel="learning rate")
    if played.plan is not None:
        ax.plot(played.plan.steps, played.plan.lr, color=_RAW, linewidth=6, alpha=0.5, label="planned")
    ax.plot(played.steps, played.lr, color=_SMOOTH, linewidth=1.5, label="played")
    _finish(ax)


def _draw_loss(ax: Axes, played: Played) -> None:
    ax.set(title="loss of the run", xlabel="optimizer step", ylabel="loss")
    loss = np.asarray(played.loss, dtype=np.float64)
    known = np.isfinite(loss)
    if known.any():
        smoothed = _running_mean(loss[known], 0.01)
        steps = np.asarray(played.steps)[known]
        ax.plot(steps, loss[known], color=_RAW, linewidth=0.7, label="training loss")
        ax.plot(steps, smoothed, color=_SMOOTH, linewidth=2, label="smoothed")
        ax.set_ylim(axis_limits(smoothed.tolist(), [*filter(math.isfinite, played.val_loss)]))
    if len(played.val_loss):
        ax.plot(played.val_steps, played.val_loss, ".-", color=_CHOICE, linewidth=1.2, label="validation loss")
    _finish(ax)


def draw_results(pictures: Mapping[str, SweepPicture | ProbePicture]) -> Figure:
    """Draw several results side by side.

    Args:
        pictures: What to draw, by the title of its panel.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    return _draw_panels([partial(_draw_titled, title=title, picture=it) for title, it in pictures.items()])


def _draw_titled(ax: Axes, title: str, picture: SweepPicture | ProbePicture) -> None:
    if isinstance(picture, SweepPicture):
        _draw_sweep(ax, picture)
    else:
        _draw_train(ax, picture)
    ax.set_title(title, fontsize="medium", wrap=True)


def png_of(figure: Figure) -> bytes:
    """Return a picture as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    return content.getvalue()
