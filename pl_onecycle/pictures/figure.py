"""`Picture`: a matplotlib figure that shows itself. Only this file imports matplotlib; it is imported to draw."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from matplotlib.figure import Figure
from typing_extensions import override

from pl_onecycle.pictures.png import png_of


class Picture(Figure):
    """A figure that is made without pyplot, so that there is no window, no backend and nothing to close.

    A notebook of any kernel shows it by `_repr_png_`, once; under ``%matplotlib inline`` IPython draws it as it draws
    every figure.
    """

    def _repr_png_(self) -> bytes:
        return png_of(self)

    @override
    def show(self, warn: bool = True) -> None:
        """Show the picture: in a notebook below the cell, else in a window of pyplot's backend.

        Args:
            warn: Whether pyplot warns where its backend has no windows.
        """
        display = _display_of_a_notebook()
        if display is not None:
            display(self)
            return
        from matplotlib import pyplot

        own = self.canvas
        # A window belongs to a figure that pyplot has made; it gets this one instead.
        manager: Any = pyplot.figure(figsize=self.get_size_inches()).canvas.manager
        manager.canvas.figure = self
        self.set_canvas(manager.canvas)
        with warnings.catch_warnings():
            if not warn:
                warnings.simplefilter("ignore")
            pyplot.show()
        if not pyplot.isinteractive():  # else the window is still open
            pyplot.close(manager.num)
            self.set_canvas(own)


def _display_of_a_notebook() -> Any:
    """Return IPython's function that shows something, or None outside a notebook."""
    python = sys.modules.get("IPython")  # which is there if it runs
    shell = None if python is None else python.get_ipython()
    if shell is None or type(shell).__name__ == "TerminalInteractiveShell":
        return None
    from IPython.display import display  # type: ignore[import-not-found, unused-ignore]

    return display
