"""`PlayedPicture`: what a run has done: its learning rate next to the planned one, and its loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pl_onecycle.pictures.colours import CHOICE, FAINT, SMOOTH
from pl_onecycle.pictures.panels import Panel, put_legend, put_title, running_mean
from pl_onecycle.pictures.sweep import draw_losses

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pl_onecycle.pictures.shown import Played

# A loss this many times the range of nine in ten losses above it counts as that high, or it would squash the rest.
SPIKE = 3


@dataclass(frozen=True)
class PlayedPicture:
    """What the picture of a run shows.

    Attributes:
        played: What the run has done.
        title: Title of the picture.
    """

    played: Played
    title: str

    @property
    def rows(self) -> list[list[Panel]]:
        """One row: the schedule, and the loss."""
        return [[partial(_draw_schedule, picture=self), partial(_draw_loss, played=self.played)]]


def _draw_schedule(ax: Axes, picture: PlayedPicture, is_alone: bool = True) -> None:
    played = picture.played
    put_title(ax, picture.title)
    ax.set(xlabel="optimizer step", ylabel="learning rate")
    if played.plan is not None:
        ax.plot(played.plan.steps, played.plan.lr, color=FAINT, linewidth=6, label="planned")
    ax.plot(played.steps, played.lr, color=SMOOTH, linewidth=1.5, label="played")
    ax.grid(alpha=0.25)
    put_legend(ax, is_alone)


def _draw_loss(ax: Axes, played: Played) -> None:
    put_title(ax, "loss of the run")
    ax.set(xlabel="optimizer step", ylabel="loss")
    loss = np.asarray(played.loss, dtype=np.float64)
    known = np.isfinite(loss)
    if known.any():
        low, high = np.quantile(loss[known], (0.05, 0.95))
        smoothed = running_mean(np.minimum(loss[known], high + SPIKE * (high - low)), 0.01)
        draw_losses(ax, np.asarray(played.steps)[known], loss[known], smoothed)
        bottom, top = ax.get_ylim()
        near = [loss for loss in played.val_loss if 2 * bottom - top <= loss <= 2 * top - bottom]
        ax.set_ylim(min([bottom, *near]), max([top, *near]))
    if len(played.val_loss):
        ax.plot(played.val_steps, played.val_loss, ".-", color=CHOICE, linewidth=1.2, label="validation loss")
    ax.grid(alpha=0.25)
    put_legend(ax)
