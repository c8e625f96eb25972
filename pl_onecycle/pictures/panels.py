"""`Panel`: a function that draws into axes; and figures of one or more rows of them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pl_onecycle.pictures.figure import Picture

# Takes axes; one that may stand alone also takes ``is_alone``, see `put_legend`.
Panel: TypeAlias = "Callable[..., None]"
Array: TypeAlias = npt.NDArray[np.float64]

# Inches of a panel: small, so that the words can be read where a page shows two of them side by side.
WIDTH, HEIGHT = 5.2, 4.0
# Characters of a line above axes of this width in inches; a word longer than that is broken.
FULL_WIDTH, TITLE_CHARACTERS, LINE_CHARACTERS = 3.2, 46, 62
# Distance of a legend from the axes above it, in heights of its letters: the room of the axis' numbers and name.
BELOW = 4.4
# Entries of a legend in a row below the axes.
COLUMNS = 3


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_panels(rows: Sequence[Sequence[Panel]]) -> Picture:
    """Draw panels in rows; the panels of a row share its width.

    Args:
        rows: Panels; empty rows are left out, and without any there is one empty panel.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from pl_onecycle.pictures.figure import Picture
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Pictures need matplotlib: pip install 'pl-onecycle[plot]'") from error
    full: list[Sequence[Panel]] = [row for row in rows if row] or [[lambda ax: None]]
    width = max(map(len, full))
    picture = Picture(figsize=(WIDTH * width + 0.4 * (width == 1), HEIGHT * len(full)), layout="constrained")
    grid = picture.add_gridspec(len(full), 1)
    for k, row in enumerate(full):
        columns = grid[k].subgridspec(1, len(row))
        for n, draw in enumerate(row):
            draw(picture.add_subplot(columns[n]))
    return picture


def put_title(ax: Axes, title: str, reason: str = "") -> None:
    """Write a title above axes, and half a sentence below it, both in as many lines as they need."""
    inches = ax.get_window_extent().width / ax.figure.get_dpi()
    share = min(inches / FULL_WIDTH, 1.0)  # axes of a user may be narrow
    lines = textwrap.wrap(reason, max(int(share * LINE_CHARACTERS), 10))
    title = "\n".join(textwrap.fill(line, max(int(share * TITLE_CHARACTERS), 10)) for line in title.splitlines())
    ax.set_title(title, fontsize="large", loc="left", pad=8 + 10.5 * len(lines))
    if lines:
        place: dict[str, Any] = {"xy": (0, 1), "xytext": (0, 4), "textcoords": "offset points"}
        ax.annotate("\n".join(lines), xycoords="axes fraction", **place, fontsize="small", color="#404040", va="bottom")


def put_legend(ax: Axes, is_alone: bool = True, handles: Sequence[Any] | None = None) -> None:
    """Add a legend, if there is anything to name, below the axes, where it hides nothing.

    Args:
        ax: The axes.
        is_alone: False for axes of a user, who may have something below them: there it stands within.
        handles: What to name; None for all that has a label.
    """
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    if not handles:
        return
    if not is_alone:
        ax.legend(handles=handles, loc="best", fontsize="x-small")
        return
    # Right below the name of the axis, whatever the height of the panel.
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": BELOW}
    names = [str(handle.get_label()) for handle in handles]
    columns = COLUMNS if max(map(len, names)) < 20 else COLUMNS - 1
    ax.legend(handles=handles, **below, ncols=columns, fontsize="small", frameon=False, columnspacing=1.2)


def is_log_spaced(lr: Array) -> bool:
    """Return whether steps of one factor describe learning rates better than steps of one size do."""
    if len(lr) < 3:
        return True
    even = np.linspace(0, 1, len(lr))
    misfits = [float(np.abs((x - x[0]) / ((x[-1] - x[0]) or 1) - even).max()) for x in (np.log(lr), lr)]
    return misfits[0] <= misfits[1]


def running_mean(loss: Array, width: float = 0.03) -> Array:
    """Return the mean over a Gaussian window; its standard deviation is the share ``width`` of all points."""
    if not len(loss):
        return loss
    sigma = max(width * len(loss), 1e-9)
    reach = min(math.ceil(4 * sigma), len(loss))  # what lies further away does not matter
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    middle = slice(reach, reach + len(loss))
    mean: Array = np.convolve(loss, weights)[middle] / np.convolve(np.ones(len(loss)), weights)[middle]
    return mean
