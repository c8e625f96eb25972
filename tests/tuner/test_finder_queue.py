"""Which finders `tune` runs, with whose settings, and when the range test runs again."""

import json
from pathlib import Path
from typing import Any

import pytest

from pl_onecycle import LRRangeTest, MomentumProbe, OneCycleTuner, WeightDecayProbe
from pl_onecycle.finder_queue import finders_to_run
from tests.fits import data, line, trainer
from tests.tuner.made import ALLOWED, Cycled, a_probe, a_test, tune

pytestmark = ALLOWED


def test_the_users_own_settings_in_the_trainer_are_taken_and_his_callbacks_are_left_alone() -> None:
    own, probe = LRRangeTest(1e-4, 5.0, 30, apply=False), WeightDecayProbe((0.5, 0.0), 12, val_batches=0)
    users = trainer([own, probe])
    callbacks = list(users.callbacks)  # type: ignore[attr-defined]
    states = own.state_dict(), probe.state_dict()
    result = OneCycleTuner(users).tune(Cycled(), data(), lr_range_test=True, weight_decay_probe=True)
    assert (own.state_dict(), probe.state_dict()) == states
    assert [id(it) for it in users.callbacks] == [id(it) for it in callbacks]  # type: ignore[attr-defined]
    assert result.max_lr is None  # it only suggests
    assert result.weight_decay in (0.5, 0.0, 1e-3)  # the last is the module's own
    facts = json.loads((Path(str(result.directory)) / "result.json").read_text())
    assert facts["lr_range_test"]["settings"]["num_steps"] == 30
    assert facts["weight_decay_probe"]["settings"]["num_steps"] == 12
    assert not own.apply


def test_an_asked_finder_comes_before_that_of_the_trainer_and_is_left_as_it_is() -> None:
    asked = LRRangeTest(1e-4, 5.0, 20, apply=False)
    result = tune(on=trainer([LRRangeTest(num_steps=30)]), lr_range_test=asked, weight_decay_probe=False)
    facts = json.loads((Path(str(result.directory)) / "result.json").read_text())
    assert facts["lr_range_test"]["settings"]["num_steps"] == 20
    assert asked.curve is None
    assert (asked.apply, asked.report, asked.milestones) == (False, True, ())


@pytest.mark.parametrize("apply", [True, False])
def test_a_test_that_only_suggests_changes_neither_probe_nor_result(
    apply: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        result = tune(lr_range_test=a_test(apply=apply), on=trainer(root=tmp_path))
    facts = json.loads((tmp_path / "tune" / "result.json").read_text())
    suggested = facts["lr_range_test"]["suggestion"]["lr"]
    assert result.max_lr == (suggested if apply else None)
    assert ("max_lr" in result.config()["one_cycle"]) == apply
    peak = f"{suggested if apply else 0.01:.3g}"  # of the module
    assert f"max_lr {peak}" in line(caplog, "Weight decay probe")
    why = str(result.reasons["max_lr"])
    assert why.startswith("not applied, only suggested: ") != apply
    assert apply or f"{suggested:.3g}" in why


def test_probes_that_only_suggest_give_no_value_and_no_second_test(tmp_path: Path) -> None:
    on = trainer([MomentumProbe((0.5, 0.9), 10, val_batches=0, apply=False)], tmp_path)
    probe = WeightDecayProbe((1e-2,), 10, val_batches=0, apply=False)  # larger than the module's
    result = tune(weight_decay_probe=probe, again=True, on=on)
    assert (result.weight_decay, result.max_momentum) == (None, None)
    assert result.reasons["weight_decay"].startswith("not applied, only suggested: 0.01 (")
    assert result.config()["one_cycle"].keys() == {"max_lr", "tuned_for"}
    assert not (tmp_path / "tune" / "lr_range_test_again.csv").exists()


@pytest.mark.parametrize("silent", [{"lr_range_test"}, {"weight_decay_probe"}, {"lr_range_test", "weight_decay_probe"}])
def test_a_finder_without_a_report_is_in_no_file_or_picture_but_in_the_result(silent: set[str], tmp_path: Path) -> None:
    test, probe = a_test(report="lr_range_test" not in silent), a_probe(report="weight_decay_probe" not in silent)
    result = tune(lr_range_test=test, weight_decay_probe=probe, on=trainer(root=tmp_path))
    assert result.max_lr is not None
    assert result.weight_decay is not None
    shown = {"lr_range_test", "weight_decay_probe"} - silent
    files = {path.name for path in (tmp_path / "tune").iterdir()}
    picture = {"tune.png", "report.html"} if shown else set()
    assert files == {"tuned.yaml", "result.json"} | {f"{name}.csv" for name in shown} | picture
    facts = json.loads((tmp_path / "tune" / "result.json").read_text())
    assert facts.keys() & {"lr_range_test", "weight_decay_probe"} == shown
    assert facts["config"]["one_cycle"]["max_lr"] == result.max_lr


@pytest.mark.parametrize("milestones", [(1,), [2, 3], range(1, 3)])
def test_milestones_of_an_asked_test_are_refused_and_those_of_the_trainer_are_the_fits(milestones: Any) -> None:
    test, untouched = a_test(milestones=milestones), trainer()
    said = (
        r"^Expected argument `lr_range_test\.milestones` to be empty, as `tune` trains no epoch to test again in, but"
    )
    with pytest.raises(ValueError, match=said):
        tune(lr_range_test=test, on=untouched)
    assert untouched.global_step == 0
    assert tune(lr_range_test=True, weight_decay_probe=False, on=trainer([test])).max_lr is not None
    assert test.milestones == list(milestones) or test.milestones is milestones


def test_again_runs_the_range_test_a_second_time_with_the_weight_decay_that_was_chosen(tmp_path: Path) -> None:
    model = Cycled()
    probe = WeightDecayProbe((1e-2,), 10, val_batches=0)  # in ten steps as good as the module's, and larger
    once = tune(model, weight_decay_probe=probe, on=trainer(root=tmp_path))
    twice = tune(model, weight_decay_probe=probe, again=True, on=trainer(root=tmp_path))
    assert once.weight_decay == twice.weight_decay == 1e-2
    folder = Path(str(twice.directory))
    assert (folder / "lr_range_test.csv").read_text() != (folder / "lr_range_test_again.csv").read_text()
    facts = json.loads((folder / "result.json").read_text())
    assert facts["lr_range_test_again"]["suggestion"]["lr"] == twice.max_lr
    assert facts["lr_range_test"]["suggestion"]["lr"] == once.max_lr


def test_again_does_not_run_it_where_the_weight_decay_stays(tmp_path: Path) -> None:
    probe = WeightDecayProbe((1e-3,), 10, val_batches=0)
    result = tune(weight_decay_probe=probe, again=True, on=trainer(root=tmp_path))
    assert result.weight_decay == result.before["weight_decay"] == 1e-3
    assert not (Path(str(result.directory)) / "lr_range_test_again.csv").exists()


def test_finders_of_different_optimizers_are_an_error() -> None:
    said = "^Expected `lr_range_test` and `weight_decay_probe` to be for the same optimizer"
    with pytest.raises(ValueError, match=said):
        tune(lr_range_test=a_test(optimizer=1))


def test_an_asked_finder_of_the_wrong_kind_is_named() -> None:
    with pytest.raises(TypeError, match=r"^Expected argument `weight_decay_probe` to be True, False or of type Weight"):
        finders_to_run(trainer(), True, a_test())  # type: ignore[arg-type]


def test_finders_are_copies_in_the_order_in_which_they_run() -> None:
    momentum = MomentumProbe(apply=False)
    test, probe = a_test(apply=False), a_probe(report=False)
    queued = finders_to_run(trainer([momentum]), test, probe)
    assert list(queued) == ["lr_range_test", "weight_decay_probe", "momentum_probe"]
    assert [type(it) for it in queued.values()] == [LRRangeTest, WeightDecayProbe, MomentumProbe]
    assert {id(it) for it in queued.values()}.isdisjoint({id(test), id(probe), id(momentum)})
    assert [(it.apply, it.report) for it in queued.values()] == [(False, True), (True, False), (False, True)]
    assert [*finders_to_run(trainer(), False, True)] == ["weight_decay_probe"]
