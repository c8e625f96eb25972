"""The built wheel is what users get: it imports in a clean place, with its types."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_built_wheel_imports_in_a_clean_place(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "clean"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(place)
    assert "pl_onecycle/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "examples", "benchmarks"))]
    # The clean place comes first on the path, and nothing of the checkout is the working directory.
    code = f"import sys; sys.path.insert(0, {str(place)!r}); import pl_onecycle; print(pl_onecycle.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert Path(done.stdout.strip()).is_relative_to(place)
