"""`SweepPicture`: a range test, from the coarse sweeps to the suggestion and the cycles that verified it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pl_onecycle.pictures.colours import BLACK, CHOICE, FAINT, RAW, SMOOTH, TROUGH, look_of
from pl_onecycle.pictures.panels import Array, Panel, is_log_spaced, put_legend, put_title
from pl_onecycle.pictures.schedule import SchedulePicture, draw_schedule
from pl_onecycle.sentences import change

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pl_onecycle.pictures.shown import Compared, Curve, Suggested

# Losses this many standard deviations of their noise from the smoothed ones are still in the frame.
NOISES = 4


@dataclass(frozen=True)
class SweepPicture:
    """What the picture of a range test shows.

    Attributes:
        curve: The measured curve.
        suggestion: Marked if there is one.
        label: Name of the quantity on the curve.
        others: Suggestions of other methods, marked thinner.
        title: Title of the picture; an empty string for what the test has found.
        reason: Why there is this suggestion, or none.
        before: The lr before it, if known.
        trough: Lowest and highest lr of the trough that it was read off.
        coarse: Curves of coarse sweeps, drawn behind the curve.
        cycles: Curves of the short cycles that verified it, by their lr.
        ends: The levels at which the cycles end.
        planned: The schedule that training follows, for a panel of its own.
        log_lr: Whether lrs are drawn on a log axis; None for the axis on which the sweep was even.
        skip: Numbers of points left out at the start and at the end.
    """

    curve: Curve
    suggestion: Suggested | None
    label: str = "training loss"
    others: Sequence[Suggested] = ()
    title: str = ""
    reason: str = ""
    before: float | None = None
    trough: tuple[float, float] | None = None
    coarse: Sequence[Curve] = ()
    cycles: Mapping[float, Curve] = field(default_factory=dict)
    ends: Compared | None = None
    planned: SchedulePicture | None = None
    log_lr: bool | None = None
    skip: tuple[int, int] = (0, 0)

    @property
    def rows(self) -> list[list[Panel]]:
        """One row of panels, the main one first."""
        panels: list[Panel] = [partial(draw_sweep, picture=self)]
        panels += [partial(_draw_cycles, picture=self)] if self.cycles else []
        return [panels + ([partial(draw_schedule, picture=self.planned)] if self.planned is not None else [])]

    @property
    def headline(self) -> str:
        """What the test has found, unless there is another title."""
        found = self.suggestion
        return self.title or f"LR range test: {'no suggestion' if found is None else change(self.before, found.lr)}"

    @property
    def is_log(self) -> bool:
        """Whether lrs are drawn on a log axis."""
        return is_log_spaced(self.curve.finite_lr) if self.log_lr is None else self.log_lr


def draw_sweep(ax: Axes, picture: SweepPicture, is_alone: bool = True) -> None:
    """Draw the curve over the lr, with all that was read off it."""
    curve = picture.curve
    put_title(ax, picture.headline, picture.reason)
    ax.set(xlabel="learning rate", ylabel=picture.label, xscale="log" if picture.is_log else "linear")
    shown = slice(picture.skip[0], max(len(curve.finite_loss) - picture.skip[1], 0))
    lr, loss = curve.finite_lr[shown], curve.finite_loss[shown]
    if len(loss):
        draw_losses(ax, lr, loss, curve.smoothed()[shown], curve.noise)
        _draw_end(ax, picture)
    for k, coarse in enumerate(picture.coarse):
        if len(loss):  # behind, in the frame of what decides
            label = "coarse sweep" if k == 0 else None
            ax.plot(coarse.finite_lr, coarse.finite_loss, ".-", color=FAINT, linewidth=1, zorder=1, label=label)
    if picture.trough is not None:
        ax.axvspan(*picture.trough, color=TROUGH, alpha=0.28, linewidth=0, zorder=0.5, label="trough")
    if picture.suggestion is not None:
        _draw_suggestion(ax, picture.suggestion)
    for k, other in enumerate(picture.others):
        look = look_of(k)
        ax.axvline(other.lr, color=look.color, linewidth=1.2, linestyle=":", label=f"{other.lr:.3g} ({other.method})")
    ax.grid(alpha=0.25)
    put_legend(ax, is_alone)


def draw_losses(ax: Axes, lr: Array, loss: Array, smoothed: Array, noise: float = 0.0) -> None:
    """Draw losses in a frame of the smoothed ones, as an explosion must not squash the rest; mark what is beyond."""
    lowest, highest = float(smoothed.min()), float(smoothed.max())
    reach = max((highest - lowest) / 2, NOISES * noise)
    near = loss[(loss >= lowest - reach) & (loss <= highest + reach)]
    lowest, highest = min([lowest, *near]), max([highest, *near])
    room = 0.08 * (highest - lowest) or 0.05 * abs(lowest) or 0.1
    bottom, top = lowest - room, highest + room
    ax.set_ylim(bottom, top)
    left, right = float(lr.min()), float(lr.max())
    if right > left:
        if ax.get_xscale() == "log":
            ax.set_xlim(left / (right / left) ** 0.04, right * (right / left) ** 0.04)
        else:
            ax.set_xlim(left - 0.04 * (right - left), right + 0.04 * (right - left))
    ax.plot(lr, loss, ".", color=RAW, markersize=4, alpha=0.8, label="measured", zorder=2)
    ax.plot(lr, smoothed, color=SMOOTH, linewidth=2, label="smoothed", zorder=3)
    for beyond, edge, marker in ((loss > top, 0.985, "^"), (loss < bottom, 0.015, "v")):
        if beyond.any():
            edges = np.full(int(beyond.sum()), edge)
            words: dict[str, Any] = {"label": "above the frame" if marker == "^" else "below the frame"}
            ax.plot(lr[beyond], edges, marker, transform=ax.get_xaxis_transform(), color=RAW, markersize=5, **words)


def _draw_end(ax: Axes, picture: SweepPicture) -> None:
    """Mark where a sweep has diverged."""
    if picture.curve.outcome == "diverged" and picture.skip[1] == 0:
        lr = picture.curve.lr[-1]
        place: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 5}
        ax.plot([lr], [0.93], "x", color=BLACK, markersize=7, **place, label=f"diverged at {lr:.3g}")


def _draw_suggestion(ax: Axes, suggestion: Suggested) -> None:
    name = f"max_lr {suggestion.lr:.3g}"
    if suggestion.low is not None and suggestion.high is not None:
        name += f" ({suggestion.low:.3g} to {suggestion.high:.3g})"
        ax.axvspan(suggestion.low, suggestion.high, color=CHOICE, alpha=0.22, linewidth=0, zorder=0.6)
    ax.axvline(suggestion.lr, color=CHOICE, linewidth=1.8, linestyle="--", label=name, zorder=4)


def _draw_cycles(ax: Axes, picture: SweepPicture) -> None:
    """Draw the level at which each short cycle ends over its lr."""
    put_title(ax, f"{len(picture.cycles)} short cycles around the suggestion")
    lrs = list(picture.cycles)
    ax.set(xlabel="max_lr of the cycle", xscale="log")
    ax.set_xticks(lrs, [f"{lr:.2g}" for lr in lrs])
    ax.set_xticks([], minor=True)
    ends, failed = picture.ends, lrs
    if ends is not None:
        ax.set_ylabel(f"{ends.kind} at the end")
        noise = [ends.noise[lr] for lr in ends.levels]
        has_noise = any(noise)  # of a single loss, it is not known
        style: dict[str, Any] = {"color": SMOOTH, "capsize": 4, "markersize": 7, "zorder": 3}
        style |= {"yerr": noise, "label": "level ± what may be chance"} if has_noise else {"label": "level"}
        ax.errorbar(list(ends.levels), list(ends.levels.values()), fmt="o", **style)
        failed = [lr for lr in lrs if lr not in ends.levels]
    if failed:
        top = ax.get_xaxis_transform()
        ax.plot(failed, [0.95] * len(failed), "x", transform=top, color=BLACK, markersize=8, label="diverged")
    if picture.suggestion is not None:
        _draw_suggestion(ax, picture.suggestion)
    ax.grid(alpha=0.25)
    put_legend(ax)
