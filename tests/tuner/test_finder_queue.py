"""Which finders `tune` runs, with whose settings, and when the range test runs again."""

import json
from pathlib import Path

import pytest

from pl_onecycle import LRRangeTest, MomentumProbe, OneCycleTuner, WeightDecayProbe
from pl_onecycle.finder_queue import finders_to_run
from tests.fits import data, trainer
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
    assert result.weight_decay in (0.5, 0.0, 1e-3)  # the last is the module's own
    facts = json.loads((Path(str(result.directory)) / "result.json").read_text())
    assert facts["lr_range_test"]["settings"]["num_steps"] == 30
    assert facts["weight_decay_probe"]["settings"]["num_steps"] == 12
    assert not own.apply


def test_an_asked_finder_comes_before_that_of_the_trainer_and_is_left_as_it_is() -> None:
    asked = LRRangeTest(1e-4, 5.0, 20, apply=False, milestones=(1,))
    result = tune(on=trainer([LRRangeTest(num_steps=30)]), lr_range_test=asked, weight_decay_probe=False)
    facts = json.loads((Path(str(result.directory)) / "result.json").read_text())
    assert facts["lr_range_test"]["settings"]["num_steps"] == 20
    assert asked.curve is None
    assert (asked.apply, asked.report, asked.milestones) == (False, True, (1,))


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
    test, probe = a_test(apply=False, milestones=(1,)), a_probe()
    queued = finders_to_run(trainer([momentum]), test, probe)
    assert list(queued) == ["lr_range_test", "weight_decay_probe", "momentum_probe"]
    assert [type(it) for it in queued.values()] == [LRRangeTest, WeightDecayProbe, MomentumProbe]
    assert {id(it) for it in queued.values()}.isdisjoint({id(test), id(probe), id(momentum)})
    assert all((it.apply, it.report, it.milestones) == (True, False, ()) for it in queued.values())
    assert [*finders_to_run(trainer(), False, True)] == ["weight_decay_probe"]
