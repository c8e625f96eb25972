"""The notebook of the examples runs, and shows what it shows when it is stored.

``python -m tests.test_notebook`` runs it and stores what it shows.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebook needs it: pip install 'pl-onecycle[dev]'")
nbclient = pytest.importorskip("nbclient", reason="the notebook needs it: pip install 'pl-onecycle[dev]'")
pytest.importorskip("ipykernel", reason="the notebook needs it: pip install 'pl-onecycle[dev]'")
pytest.importorskip("sklearn", reason="the notebook's data come from scikit-learn")
pytest.importorskip("matplotlib", reason="the notebook draws")

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def executed(folder: Path) -> Any:
    """The notebook after a run in a folder."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def shown(notebook: Any) -> list[str]:
    """Kind and types of each output, and its cell."""
    outputs = [(cell["id"], output) for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = [(name, output["output_type"], sorted(output.get("data", []))) for name, output in outputs]
    return list(dict.fromkeys(map(str, kinds)))  # a stream may come in several parts


def text_of(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_shows_when_stored(tmp_path: Path) -> None:
    stored, notebook = nbformat.read(NOTEBOOK, as_version=4), executed(tmp_path)
    assert shown(notebook) == shown(stored)
    guess, found = map(float, re.findall(r"validation accuracy with .*: ([0-9.]+)%", text_of(notebook)))
    assert guess < 80 < 90 < found
    assert re.search(r"LR range test: max_lr 0\.0001 → 0\.\d+ \(×\d+\) for AdamW, 1 group, OneCycle", text_of(notebook))
    assert "Tuned Net" in text_of(notebook)
    assert (tmp_path / "tune" / "tuned.yaml").is_file()


def main() -> None:
    """Run the notebook and store what it shows."""
    folder = Path(tempfile.gettempdir(), "quickstart")
    os.makedirs(folder, exist_ok=True)
    notebook = executed(folder)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
