"""`png_of`: a figure as the content of a PNG file, or as an image in HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Dots per inch of a file, and of a small picture in HTML, which is half as wide.
DPI, SMALL_DPI = 120, 60


def png_of(figure: Figure, dpi: int = DPI) -> bytes:
    """Return a figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format="png")
    return content.getvalue()


def thumbnail(draw: Callable[[], Figure]) -> str:
    """Return a small picture as an HTML image that needs no other file, or an empty string where none can be drawn."""
    try:
        content = png_of(draw(), SMALL_DPI)
    except Exception:  # what a notebook shows of an object must not fail; without matplotlib there is no picture
        return ""
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
