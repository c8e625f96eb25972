"""`ProbePicture`: the candidates of a probe: how they differ on the way, and where they end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pl_onecycle.pictures.colours import Look, look_of
from pl_onecycle.pictures.ends import End, draw_ends
from pl_onecycle.pictures.panels import Array, Panel, is_log_spaced, put_legend, put_title, running_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pl_onecycle.pictures.shown import Compared, Curve

TRAINING, VALIDATION = "training loss", "validation loss"
# A legend of more candidates would be larger than what it explains; the names at their ends have the same colours.
MOST_NAMED = 6
# Losses at most this many times the range of the later half beyond it are in the frame.
REACH = 4


@dataclass(frozen=True)
class ProbePicture:
    """What the picture of a probe shows.

    Attributes:
        title: Title of the picture.
        curves: Curves by the name of their series.
        chosen: The series that is marked.
        over_lr: Whether the training loss is drawn over the lr instead of over the steps.
        reason: Why it was chosen, or why none was.
        values: The candidates, by the name of their series.
        rounds: How they were compared; the last round has decided.
        log_lr: Whether lrs are drawn on a log axis; None for the axis on which they are even.
        skip: Numbers of training losses left out at the start and at the end.
    """

    title: str
    curves: Mapping[str, Curve]
    chosen: str | None
    over_lr: bool
    reason: str = ""
    values: Mapping[str, float] | None = None
    rounds: Sequence[Compared] = ()
    log_lr: bool | None = None
    skip: tuple[int, int] = (0, 0)

    @property
    def rows(self) -> list[list[Panel]]:
        """One row of panels, of which none is empty, the main one first."""
        panels: list[Panel] = [partial(draw_training, picture=self)] if self.curves else []
        panels += [partial(_draw_validation, picture=self)] if self._has_validation else []
        return [panels + ([partial(draw_ends, ends=self.ends)] if len(self.ends) > 1 else [])]

    @property
    def _has_validation(self) -> bool:
        return any(curve.val_loss for curve in self.curves.values())

    @property
    def is_log(self) -> bool:
        """Whether lrs are drawn on a log axis."""
        longest = max((curve.finite_lr for curve in self.curves.values()), key=len)
        return is_log_spaced(longest) if self.log_lr is None else self.log_lr

    @property
    def best(self) -> str | None:
        """The series that ended lowest where it was decided, from which the others are drawn; None for one alone."""
        if len(self.curves) < 2 or not self.rounds or self.values is None:
            return None
        lowest = next(iter(self.rounds[-1].levels))
        return next(series for series, value in self.values.items() if value == lowest)

    @property
    def ends(self) -> list[End]:
        """Where each candidate ended, in the order of the curves; empty where none could be compared."""
        if not self.rounds or self.values is None:
            return []
        last = self.rounds[-1]
        return [
            End(series, self.look(series), last, self.values[series], self._state(series), series == self.chosen)
            for series in self.curves
        ]

    def _state(self, series: str) -> str:
        """Return why a candidate has no level in the round that decided, or an empty string."""
        assert self.values is not None
        value, outcome = self.values[series], self.curves[series].outcome
        if value in self.rounds[-1].levels:
            return ""
        worse = [f"clearly worse by {it.kind}" for it in self.rounds if value in it.levels]
        return (worse or ([] if outcome in ("completed", "stopped") else [outcome]) or ["not all losses known"])[0]

    def look(self, series: str) -> Look:
        """Return how a series looks in all panels."""
        return look_of(list(self.curves).index(series))

    def line(self, series: str) -> dict[str, Any]:
        """Return how the line of a series looks."""
        look, curve = self.look(series), self.curves[series]
        label = series if curve.outcome == "completed" else f"{series} ({curve.outcome})"
        style: dict[str, Any] = {"color": look.color, "linestyle": look.linestyle}
        if series == self.chosen:  # visible beneath others that coincide with it
            return {**style, "label": f"{label}, chosen", "linewidth": 5, "alpha": 0.5, "zorder": 1.5}
        return {**style, "label": label, "linewidth": 1.5, "zorder": 2}


def draw_training(ax: Axes, picture: ProbePicture, is_alone: bool = True) -> None:
    """Draw the smoothed training losses, as differences to the best candidate."""
    put_title(ax, picture.title, picture.reason)
    best = picture.best
    reference = None if best is None else picture.curves[best].finite_loss
    ax.set(xlabel="learning rate" if picture.over_lr else "optimizer step", ylabel=_difference_to(TRAINING, best))
    if picture.over_lr and picture.is_log:
        ax.set_xscale("log")
    shown: dict[str, Array] = {}
    for series, curve in picture.curves.items():
        loss = curve.finite_loss
        if reference is not None:
            loss = loss[: len(reference)] - reference[: len(loss)]
        at = curve.finite_lr[: len(loss)] if picture.over_lr else np.arange(1, len(loss) + 1)
        part = slice(picture.skip[0], max(len(loss) - picture.skip[1], 0))
        smoothed = running_mean(loss)[part]
        ax.plot(at[part], smoothed, **picture.line(series))
        shown[series] = smoothed
    _frame(ax, picture, shown)
    _finish(ax, picture, is_alone)


def _draw_validation(ax: Axes, picture: ProbePicture) -> None:
    best = picture.best
    known = {} if best is None else _validation_of(picture.curves[best])
    best = best if known else None  # the best by training loss may have none
    put_title(ax, "on the same few validation batches")
    ax.set(xlabel="optimizer step", ylabel=_difference_to(VALIDATION, best))
    shown: dict[str, Array] = {}
    for series, curve in picture.curves.items():
        losses = _validation_of(curve)
        steps = [step for step in losses if best is None or step in known]
        values = np.asarray([losses[step] - known.get(step, 0.0) for step in steps])
        ax.plot(steps, values, marker=".", **picture.line(series))
        shown[series] = values
    _frame(ax, picture, shown)
    _finish(ax, picture)


def _difference_to(kind: str, best: str | None) -> str:
    return kind if best is None else f"{kind} above {best}"


def _validation_of(curve: Curve) -> dict[int, float]:
    """Return the finite validation losses by step."""
    pairs = zip(curve.val_steps, curve.val_loss, strict=True)
    return {step: loss for step, loss in pairs if math.isfinite(loss)}


def _frame(ax: Axes, picture: ProbePicture, shown: Mapping[str, Array]) -> None:
    """Frame the candidates that came to their end, as explosions must not squash the rest: those of others or early."""
    whole = {series for series, curve in picture.curves.items() if curve.outcome in ("completed", "stopped")}
    # Where all have exploded, what they were before is worth seeing.
    lines = [losses for series, losses in shown.items() if series in whole] or [it[::-1] for it in shown.values()]
    values = np.concatenate([*lines, np.zeros(0)])
    if not len(values):
        return
    later = np.concatenate([losses[len(losses) // 2 :] for losses in lines])
    reach = REACH * float(np.ptp(later))
    values = values[(values >= later.min() - reach) & (values <= later.max() + reach)]
    low, high = float(values.min()), float(values.max())
    room = 0.08 * (high - low) or 0.05 * abs(low) or 0.1
    ax.set_ylim(low - room, high + room)


def _finish(ax: Axes, picture: ProbePicture, is_alone: bool = True) -> None:
    ax.grid(alpha=0.25)
    if len(picture.curves) <= MOST_NAMED or not picture.rounds or not is_alone:
        put_legend(ax, is_alone)
