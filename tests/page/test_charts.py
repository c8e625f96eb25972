"""The pictures of a probe show how its candidates differ from the best one, and mark the choice."""

import numpy as np
import pytest

from pl_onecycle.page import read_results
from pl_onecycle.page.charts import charts_of
from tests.page import made


def test_the_pictures_of_a_probe_are_differences_to_the_best_candidate() -> None:
    root, probe, _ = made.probed()
    result = read_results(str(root))[0]
    training, validation = charts_of(result)
    assert result.best is not None
    best = probe.labelled()[result.best]
    assert training.layout["yaxis"]["title"]["text"] == f"training loss above {result.best}"
    assert validation.layout["yaxis"]["title"]["text"] == f"validation loss above {result.best}"
    assert len(validation.data) == len(probe.curves)
    for line, (name, curve) in zip(validation.data, probe.labelled().items(), strict=True):
        shared = len(curve.val_loss)
        assert line["name"].startswith(name)
        assert line["y"] == pytest.approx(np.subtract(curve.val_loss, best.val_loss[:shared]), rel=1e-4, abs=1e-9)
        assert [float(loss) for loss in line["text"]] == pytest.approx(curve.val_loss, rel=1e-3)
    [zero] = [line["y"] for line in training.data if line["name"].startswith(result.best)]
    assert zero == [0.0] * len(best)


def test_the_choice_is_marked_and_a_dropped_candidate_does_not_squash_the_others() -> None:
    root, probe, _ = made.probed()
    for chart in charts_of(read_results(str(root))[0]):
        wide = [line["name"] for line in chart.data if line["line"]["width"] > 2]
        assert wide == [f"{probe.chosen}, chosen"]
        low, high = chart.layout["yaxis"]["range"]
        whole = [line["y"] for line in chart.data if "(" not in line["name"]]
        assert low < min(map(min, whole)) <= max(map(max, whole)) < high
        assert high - low < 1.5 * (max(map(max, whole)) - min(map(min, whole)))


def test_the_picture_of_a_refused_test_shows_all_of_its_noise() -> None:
    [result] = read_results(str(made.refused().root))
    chart = charts_of(result)[0]
    [measured] = [line for line in chart.data if line["name"] == "measured"]
    (low, high), (left, right) = chart.layout["yaxis"]["range"], chart.layout["xaxis"]["range"]
    assert low < min(measured["y"]) < max(measured["y"]) < high
    assert (left, right) == pytest.approx((-9.08, -7.92), abs=0.01)  # a factor of 1.2 around 1e-9 to 1e-8
