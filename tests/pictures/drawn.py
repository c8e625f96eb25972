"""Readers of what matplotlib has drawn."""

import io
from typing import Any

from matplotlib.figure import Figure


def labels(ax: Any) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def words(ax: Any) -> list[str]:
    """What stands in a panel, besides its axes and its legend."""
    return [text.get_text() for text in ax.texts]


def title(ax: Any) -> str:
    return str(ax.get_title(loc="left"))


def points(line: Any) -> list[list[float]]:
    return [list(point) for point in line.get_xydata().tolist()]


def labelled(ax: Any, label: str) -> Any:
    """The line or band of that name."""
    (found,) = (it for it in (*ax.lines, *ax.patches) if it.get_label() == label)
    return found


def ends(band: Any) -> list[float]:
    """From where to where a band reaches."""
    return [float(band.get_x()), float(band.get_x() + band.get_width())]


def rendered(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return buffer.getvalue()
