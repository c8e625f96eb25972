"""`card`: a result as a notebook shows it: a number, the reason for it, and a small picture."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from pl_onecycle.pictures.png import thumbnail

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def card(title: str, reason: str = "", draw: Callable[[], Figure] | None = None) -> str:
    """Return a result as HTML; all words are escaped.

    Args:
        title: What was found.
        reason: Half a sentence.
        draw: Draws the picture; one that fails is left out.

    Example:
        >>> card("max_lr 0.1", "of <b>")
        '<div><b>max_lr 0.1</b><br>of &lt;b&gt;</div>'
    """
    lines = [f"<b>{escape(title)}</b>", escape(reason), "" if draw is None else thumbnail(draw)]
    return f"<div>{'<br>'.join(filter(None, lines))}</div>"
