"""Pictures are made without pyplot, show themselves, and stand in notebooks with a few words."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import pyplot
from matplotlib.image import imread

import pl_onecycle
from pl_onecycle.curves import Choice, LossCurve, Suggestion
from pl_onecycle.pictures import SweepPicture, card, draw, png_of
from tests.report.made import FOUND, PLANNED, curve

PNG = b"\x89PNG\r\n"


def test_drawing_does_not_import_pyplot() -> None:
    # torchmetrics imports pyplot whether or not somebody draws, so it is forgotten before.
    script = """
import sys
from pl_onecycle.curves import LossCurve
for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
    del sys.modules[name]
figure = LossCurve([0.1, 0.2], [2.0, 1.0]).plot()
figure.savefig("figure.png")
print("matplotlib.figure" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert result.stdout.split() == ["True", "False"], result.stderr
    assert imread("figure.png").std() > 0


def test_a_missing_matplotlib_raises_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pl_onecycle.pictures.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"^Pictures need matplotlib: pip install 'pl-onecycle\[plot\]'$"):
        draw(SweepPicture(curve(), None))
    assert "<img" not in curve()._repr_html_()


def test_a_picture_is_a_png_for_a_notebook() -> None:
    picture = PLANNED.plot()
    assert picture._repr_png_()[:6] == png_of(picture)[:6] == PNG


def test_a_picture_shows_itself_in_a_window_and_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.extend(pyplot.figure(it) for it in pyplot.get_fignums()))
    before = pyplot.get_fignums()
    picture = PLANNED.plot()
    own = picture.canvas
    picture.show()
    assert shown == [picture]
    assert (pyplot.get_fignums(), picture.canvas) == (before, own)


def test_a_curve_says_in_a_notebook_what_it_is_and_shows_a_small_picture() -> None:
    html = curve("stopped")._repr_html_()
    assert repr(curve("stopped")) == "LossCurve(50 points, lr 1e-07 to 10, stopped)"
    assert "<b>50 points, lr 1e-07 to 10, stopped</b>" in html
    (image,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert base64.b64decode(image)[:6] == PNG
    assert len(html) < 40_000


def test_a_suggestion_and_a_choice_are_short_and_say_their_reason_in_a_notebook() -> None:
    found = Suggestion(0.0746, "trough", "the <middle>", 0.05, 0.1)
    assert repr(found) == "Suggestion(lr=0.0746, 0.05 to 0.1, 'trough')"
    assert repr(FOUND) == "Suggestion(lr=0.0125, 'smith')"
    assert found._repr_html_() == "<div><b>max_lr 0.0746 (0.05 to 0.1)</b><br>trough: the &lt;middle&gt;</div>"
    choice = Choice(0.001, "training loss", 0.1, 0.2, True, "within noise")
    assert repr(choice) == "Choice(0.001, by training loss, within noise)"
    assert choice._repr_html_() == "<div><b>0.001</b><br>within noise</div>"


def test_a_picture_that_fails_leaves_the_words() -> None:
    def fails() -> None:
        raise RuntimeError

    assert card("max_lr", "why", fails) == "<div><b>max_lr</b><br>why</div>"  # type: ignore[arg-type]


def test_the_curve_of_nothing_is_drawn_too() -> None:
    assert LossCurve([], []).plot()._repr_png_()[:6] == PNG


def test_all_public_results_draw_themselves() -> None:
    drawing = {name for name in pl_onecycle.__all__ if hasattr(getattr(pl_onecycle, name), "plot")}
    probes = {"LRRangeTest", "WeightDecayProbe", "MomentumProbe"}
    assert drawing == probes | {"LossCurve", "OneCyclePolicy", "OneCycleScheduler", "TuneResult"}
