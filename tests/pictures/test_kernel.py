"""What a real kernel shows of a picture, with and without matplotlib's own backend for notebooks."""

from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="the kernel needs it: pip install 'pl-onecycle[dev]'")
nbclient = pytest.importorskip("nbclient", reason="the kernel needs it: pip install 'pl-onecycle[dev]'")
pytest.importorskip("ipykernel", reason="the kernel needs it: pip install 'pl-onecycle[dev]'")

IMPORT = "from pl_onecycle import LossCurve, LRRangeTest\ncurve = LossCurve([0.1, 0.2, 0.4], [3.0, 2.0, 1.0])"
INLINE = "%matplotlib inline\nfrom matplotlib import pyplot\nfigure, ax = pyplot.subplots()"


def shown(*cells: str) -> list[list[list[str]]]:
    """For each cell, the types of each of its outputs; a stream counts as its text."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=120).execute()
    return [[_types(output) for output in cell.outputs] for cell in notebook.cells]


def _types(output: Any) -> list[str]:
    return sorted(output["data"]) if "data" in output else [output.get("text", "")]


@pytest.mark.slow
def test_a_kernel_shows_each_picture_once_and_nothing_at_import() -> None:
    image, html = ["image/png", "text/plain"], ["text/html", "text/plain"]
    cells = {
        IMPORT: [],
        "curve.plot()": [image],
        "curve.plot().show()": [image],
        "picture = curve.plot()": [],
        "curve": [html],
        "LRRangeTest()": [html],
        INLINE + "\ncurve.plot(ax=ax)": [["text/plain"], image],
        "curve.plot(log_lr=False)": [image],
        "curve.plot().show() ": [image],
    }
    assert shown(*cells) == list(cells.values())
