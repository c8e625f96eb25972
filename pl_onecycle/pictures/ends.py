"""`End`: the level at which a candidate ends, with what of its margin above the best may be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pl_onecycle.pictures.colours import BLACK, GREY, Look
from pl_onecycle.pictures.panels import put_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pl_onecycle.pictures.shown import Compared

# A margin this many times the typical one, or the noise, is marked at the edge, so that it does not squash the others.
FAR = 6.0


@dataclass(frozen=True)
class End:
    """Where one candidate ended.

    Attributes:
        name: Of its row.
        look: How it looks.
        compared: The round that decided.
        value: The candidate in it.
        state: Why it is not in it, or an empty string.
        is_chosen: Whether it is the choice.
    """

    name: str
    look: Look
    compared: Compared
    value: float
    state: str
    is_chosen: bool

    @property
    def margin(self) -> float:
        """How far it ends above the best."""
        levels = self.compared.levels
        return levels[self.value] - min(levels.values())

    @property
    def noise(self) -> float:
        """What of the margin may be chance, or is too small to matter."""
        return self.compared.noise[self.value]


def draw_ends(ax: Axes, ends: Sequence[End]) -> None:
    """Draw one row a candidate: its margin above the best as a dot, and what may be chance as whiskers."""
    compared = ends[0].compared
    there = [end for end in ends if not end.state]
    limit = _limit(there)
    rows = {end.name: row for row, end in enumerate(reversed(ends))}  # the first one on top
    for end in ends:
        row, style = rows[end.name], _style(end)
        if end.state:
            _note(ax, row, end.state)
        elif end.margin > limit:
            ax.plot([0.97], [row], ">", transform=ax.get_yaxis_transform(), **style)
            _note(ax, row, f"{end.margin:.2g}", at=0.93)
        else:
            ax.errorbar([end.margin], [row], xerr=[end.noise], fmt="o", capsize=5, **style)
    ax.axvline(0, color=GREY, linewidth=1, zorder=0)
    put_title(ax, f"{compared.kind} at the end", "whiskers: margins that may be chance or do not matter")
    ax.set(xlabel=f"above the best, which is {min(compared.levels.values()):.4g}", ylim=(-0.6, len(ends) - 0.4))
    names = {rows[end.name]: f"{end.name} ✓" if end.is_chosen else end.name for end in ends}
    ax.set_yticks(list(names), list(names.values()))
    for label, end in zip(ax.get_yticklabels(), ends, strict=True):
        label.set(color=end.look.color, fontweight="bold" if end.is_chosen else "normal")
    ax.grid(alpha=0.25, axis="x")


def _style(end: End) -> dict[str, Any]:
    size = 10 if end.is_chosen else 7
    edge = BLACK if end.is_chosen else end.look.color
    return {"color": end.look.color, "markerfacecolor": end.look.fill, "markeredgecolor": edge, "markersize": size}


def _limit(there: Sequence[End]) -> float:
    """Return the largest margin that is drawn to scale."""
    margins = [end.margin for end in there if end.margin > 0]
    return FAR * max([float(np.median(margins)) if margins else 0.0, *(end.noise for end in there)])


def _note(ax: Axes, row: int, words: str, at: float = 0.97) -> None:
    ax.text(at, row, words, transform=ax.get_yaxis_transform(), ha="right", va="center", fontsize="small", color=GREY)
