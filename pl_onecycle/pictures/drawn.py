"""`draw`: any picture in a new figure, or its main panel in given axes; and pictures of several results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pl_onecycle.pictures.panels import Panel, draw_panels
from pl_onecycle.pictures.probe import ProbePicture
from pl_onecycle.pictures.schedule import SchedulePicture
from pl_onecycle.pictures.sweep import SweepPicture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pl_onecycle.pictures.figure import Picture


class Drawable(Protocol):
    """What can be drawn."""

    @property
    def rows(self) -> list[list[Panel]]:
        """Rows of panels, the main one first."""


@dataclass(frozen=True)
class TuningPicture:
    """What the picture of tuning shows.

    Attributes:
        sweep: The range test, or None.
        probes: The probes.
        planned: The schedule that training would follow, or None.
    """

    sweep: SweepPicture | None = None
    probes: Sequence[ProbePicture] = ()
    planned: SchedulePicture | None = None

    @property
    def rows(self) -> list[list[Panel]]:
        """The range test and the planned cycle in a row, and each probe in a row below them."""
        planned = [] if self.planned is None else self.planned.rows
        first = planned if self.sweep is None else replace(self.sweep, planned=self.planned).rows
        return [*first, *(row for probe in self.probes for row in probe.rows)]


def draw(picture: Drawable, ax: Axes | None = None) -> Any:
    """Draw a picture.

    Args:
        picture: What to draw.
        ax: Axes for its main panel, instead of a new figure.

    Returns:
        The figure, or ``ax``: its figure is its owner's to show, and a notebook would show it twice.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if ax is None:
        return draw_panels(picture.rows)
    picture.rows[0][0](ax, is_alone=False)
    return ax


def draw_results(pictures: Mapping[str, SweepPicture | ProbePicture]) -> Picture:
    """Draw several results side by side, the main panel of each.

    Args:
        pictures: What to draw, by the title of its panel.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    return draw_panels([[partial(_draw_titled, title=title, picture=it) for title, it in pictures.items()]])


def _draw_titled(ax: Axes, title: str, picture: SweepPicture | ProbePicture) -> None:
    found = picture.headline if isinstance(picture, SweepPicture) else picture.reason
    replace(picture, title=title, reason=found).rows[0][0](ax)
