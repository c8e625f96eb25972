"""What every callback of the package must do: construct from defaults, travel, and run twice."""

import copy
import pickle
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from jsonargparse import ArgumentParser

import pl_onecycle
from pl_onecycle.finder import Finder
from tests.fits import SmallNet, data, trainer

CALLBACKS = [
    value
    for name in pl_onecycle.__all__
    if isinstance(value := getattr(pl_onecycle, name), type) and issubclass(value, pl.Callback)
]
FINDERS = [kind for kind in CALLBACKS if issubclass(kind, Finder)]
# An argument of each that is not its default.
OTHERS: dict[str, Any] = {"OneCycleSettings": {"pct_start": 0.25}}


class Net(SmallNet):
    """One with all that a finder can search for."""

    batch_size = 32

    def train_dataloader(self) -> Any:
        return data(64, self.batch_size, shuffle=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4)


def test_every_callback_is_held_to_this() -> None:
    names = {"BatchSizeTest", "LRRangeTest", "MomentumProbe", "OneCycleSettings", "WeightDecayProbe"}
    assert names <= {kind.__name__ for kind in CALLBACKS}
    assert names - {"OneCycleSettings"} <= {kind.__name__ for kind in FINDERS}


def arguments_of(callback: pl.Callback) -> dict[str, Any]:
    """Constructor arguments as the callback has stored them, but sequences, which YAML knows one kind of, as lists."""
    parser = ArgumentParser()
    names = [name.split(".")[-1] for name in parser.add_class_arguments(type(callback), "it")]
    stored = {name: getattr(callback, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in stored.items()}


@pytest.mark.parametrize("kind", CALLBACKS)
def test_defaults_construct(kind: type[pl.Callback]) -> None:
    assert isinstance(kind(), pl.Callback)


@pytest.mark.parametrize("kind", CALLBACKS)
@pytest.mark.parametrize("travel", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
@pytest.mark.parametrize("ran", [False, True], ids=["new", "after a fit"])
def test_copies_are_equal(kind: type[pl.Callback], travel: Any, ran: bool) -> None:
    callback = kind()
    if ran:
        trainer([callback]).fit(Net())
    twin = travel(callback)
    assert arguments_of(twin) == arguments_of(callback)
    assert twin.state_dict() == callback.state_dict()


@pytest.mark.parametrize("kind", CALLBACKS)
def test_yaml_round_trip_keeps_the_arguments_as_they_were(kind: type[pl.Callback]) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(pl.Callback, "callback")
    arguments = OTHERS.get(kind.__name__, {"num_steps": 33})
    asked = {"callback": {"class_path": f"pl_onecycle.{kind.__name__}", "init_args": arguments}}
    config = parser.parse_object(asked)
    again = parser.parse_string(parser.dump(config))
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes  # the older name
    callback = build(again).callback
    assert isinstance(callback, kind)
    assert arguments_of(callback) == arguments_of(kind(**arguments))


@pytest.mark.parametrize("kind", CALLBACKS)
def test_two_fits_of_the_same_seed_find_the_same(kind: type[pl.Callback]) -> None:
    callback, states = kind(), []
    for _ in range(2):
        pl.seed_everything(0, verbose=False)
        trainer([callback]).fit(Net())
        states.append(callback.state_dict())
    assert states[0] == states[1]


@pytest.mark.parametrize("kind", CALLBACKS)
def test_the_state_is_plain_and_makes_a_round_trip(kind: type[pl.Callback], tmp_path: Any) -> None:
    callback, other = kind(), kind()
    other.load_state_dict(callback.state_dict())  # before it ran
    trainer([callback]).fit(Net())
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.state_dict() == callback.state_dict()
    assert (callback.state_dict() != kind().state_dict()) is (kind in FINDERS)


@pytest.mark.parametrize("kind", CALLBACKS)
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_other_stages_are_left_alone(kind: type[pl.Callback], stage: str) -> None:
    class Staged(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.loss(batch)

        test_step = validation_step

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch[0])

    callback = kind()
    getattr(trainer([callback]), stage)(Staged(), data())
    assert callback.state_dict() == kind().state_dict()
