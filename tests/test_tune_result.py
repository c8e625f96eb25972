"""`TuneResult`: the found values applied to a model, as a table and as a config."""

import builtins
import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pl_onecycle import OneCycleSettings, TuneResult, configure_one_cycle
from tests.fits import LRs, SavesFirstEpoch, data, trainer
from tests.tuner.made import Cycled

# A fit without validation data is enough here.
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


# --------------------------------------------------------------------------------------------------- the applied model
class Other(Cycled):
    """Another model."""


def test_values_for_another_model_are_refused() -> None:
    model = Other()
    said = "These values were tuned for Cycled, and this model is Other: tune it, or leave them out."
    with pytest.raises(ValueError, match=said):
        TuneResult(0.1, 1e-4, None, "Cycled").apply(model)
    assert model.lr == 0.01
    assert "configure_callbacks" not in vars(model)


def test_a_batch_size_that_nobody_takes_is_an_error() -> None:
    with pytest.raises(ValueError, match="Expected argument `datamodule` to be one with a `batch_size`"):
        TuneResult(None, None, 64, Cycled.__qualname__).apply(Cycled())


def test_groups_keep_their_ratios_and_those_without_weight_decay_stay_without() -> None:
    class Net(Cycled):
        def configure_optimizers(self) -> Any:
            slow = {"params": self.net[0].parameters(), "lr": 0.001, "weight_decay": 0.0}
            fast = {"params": self.net[-1].parameters(), "lr": 0.01, "weight_decay": 1e-3}
            return configure_one_cycle(self, torch.optim.SGD([slow, fast], momentum=0.9))

    model = Net()
    TuneResult(0.5, 0.1, None, Net.__qualname__).apply(model)
    lrs = LRs()
    trainer([lrs]).fit(model, data())
    assert [max(lr) for lr in zip(*lrs.lr, strict=True)] == pytest.approx([0.05, 0.5], rel=1e-12)
    assert lrs.weight_decay == [[0.0, 0.1]] * 16


def peak(model: pl.LightningModule) -> float:
    lrs = LRs()
    trainer([lrs], max_epochs=1).fit(model, data())
    return max(lr for (lr,) in lrs.lr)


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_a_model_travels_with_what_was_applied(travel: Callable[[Any], Any]) -> None:
    model = Cycled()
    TuneResult(0.3, 1e-4, None, "Cycled").apply(model)
    twin = travel(model)
    assert peak(twin) == pytest.approx(0.3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), Cycled.parameters(model), strict=True))
    twin_parameters = {id(parameter) for parameter in twin.parameters()}
    assert twin_parameters.isdisjoint(map(id, model.parameters()))


class Starts(Cycled):
    started: int | None = None

    def on_fit_start(self) -> None:
        self.started = id(self)


def test_the_users_own_on_fit_start_still_runs_and_that_of_a_copy_is_the_copys() -> None:
    model = Starts()
    TuneResult(0.3, None, None, "Starts").apply(model)
    twin = copy.deepcopy(model)
    assert [peak(twin), twin.started, model.started] == [pytest.approx(0.3), id(twin), None]
    assert [peak(model), model.started] == [pytest.approx(0.3), id(model)]


def test_settings_of_the_trainer_still_count_after_apply() -> None:
    model = Cycled()
    TuneResult(0.3, None, None, "Cycled").apply(model)
    its = trainer([OneCycleSettings(preset="torch", div_factor=10.0)], max_epochs=1)
    its.fit(model, data())
    (config,) = its.lr_scheduler_configs
    policy = config.scheduler.policy  # type: ignore[union-attr]
    assert (policy.max_lr, policy.anneal_strategy, policy.div_factor) == (0.3, "cos", 10.0)


def test_applied_twice_the_last_counts() -> None:
    model = Cycled()
    TuneResult(0.3, 1e-1, None, "Cycled").apply(model)
    TuneResult(0.2, None, None, "Cycled").apply(model)
    lrs = LRs()
    trainer([lrs], max_epochs=1).fit(model, data())
    assert max(lrs.lr) == [0.2]
    assert lrs.weight_decay == [[1e-3]] * 8


def test_what_was_applied_holds_for_every_fit_of_the_model_and_for_no_other_model() -> None:
    model, same = Cycled(), Cycled()
    TuneResult(0.3, None, None, "Cycled").apply(model)
    assert [peak(model), peak(model), peak(same)] == pytest.approx([0.3, 0.3, 0.01])


def test_the_checkpoint_of_an_applied_run_continues_with_its_values(tmp_path: Path) -> None:
    model = Cycled()
    TuneResult(0.3, 1e-2, None, "Cycled").apply(model)
    whole = LRs()
    trainer([whole, SavesFirstEpoch(tmp_path / "first.ckpt")]).fit(model, data())
    lrs = LRs()
    trainer([lrs]).fit(Cycled(), data(), ckpt_path=tmp_path / "first.ckpt")
    assert lrs.weight_decay == [[1e-2]] * 8
    assert lrs.lr == whole.lr[8:]


# ------------------------------------------------------------------------------------------------------- what is shown
RESULT = TuneResult(
    0.125,
    1e-4,
    256,
    "Net",
    {"batch_size": 32, "max_lr": 0.01, "weight_decay": 0.0},
    {"batch_size": "as much as fits", "max_lr": "smith: the loss rose", "weight_decay": "the largest of three"},
    "runs/tune",
)


def test_a_result_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        RESULT.max_lr = 0.1  # type: ignore[misc]


def test_a_printed_result_is_a_table_of_what_was_what_is_and_why() -> None:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in str(RESULT).splitlines() if "│" in line]
    assert rows == [
        ["batch_size", "32", "256", "as much as fits"],
        ["max_lr", "0.01", "0.125", "smith: the loss rose"],
        ["weight_decay", "0", "0.0001", "the largest of three"],
    ]
    assert "Tuned Net" in str(RESULT)
    assert "runs/tune" in str(RESULT)


def test_a_large_batch_size_is_shown_as_the_number_that_it_is() -> None:
    result = TuneResult(None, None, 4096, "Net", {"batch_size": 2048}, {"batch_size": "up to 8192"})
    assert "2048" in str(result)
    assert "4096" in str(result)


def test_a_value_that_was_not_found_is_a_dash_and_says_why() -> None:
    result = TuneResult(None, None, None, "Net", {"max_lr": 0.1}, {"max_lr": "the loss never fell"})
    (row,) = [line for line in str(result).splitlines() if "max_lr" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["max_lr", "0.1", "-", "the loss never fell"]


class ZMQInteractiveShell:
    """What rich takes for a notebook."""


def test_a_notebook_shows_the_table_and_str_is_the_same_there(monkeypatch: pytest.MonkeyPatch) -> None:
    table: Any = RESULT
    html, shown = table._repr_mimebundle_((), ())["text/html"], str(RESULT)
    assert all(word in html for word in ("Tuned Net", "max_lr", "0.125", "smith: the loss rose", "│"))
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    assert str(RESULT) == shown != ""


@pytest.mark.parametrize(
    ("result", "space"),
    [
        (TuneResult(0.06, None, 64, "Net"), {"max_lr": (0.02, 0.18, True)}),
        (TuneResult(0.06, None, None, "Net", intervals={"max_lr": (0.05, 0.3)}), {"max_lr": (0.02, 0.3, True)}),
        (TuneResult(0.06, None, None, "Net", intervals={"max_lr": (0.001, 0.1)}), {"max_lr": (0.001, 0.18, True)}),
        (
            TuneResult(None, 1e-3, None, "Net", intervals={"weight_decay": (1e-4, 1e-3)}),
            {"weight_decay": (1e-4, 3e-3, True)},
        ),
        # Its next smaller candidate is 0, to which a logarithm does not reach.
        (
            TuneResult(None, 3e-5, None, "Net", intervals={"weight_decay": (0.0, 3e-4)}),
            {"weight_decay": (1e-5, 3e-4, True)},
        ),
        (
            TuneResult(None, 0.0, None, "Net", intervals={"weight_decay": (0.0, 1e-5)}),
            {"weight_decay": (0.0, 1e-5, False)},
        ),
        (TuneResult(None, 0.0, None, "Net"), {}),
        (TuneResult(None, None, None, "Net", max_momentum=0.9), {"max_momentum": (0.8, 0.95, False)}),
        (
            TuneResult(None, None, None, "Net", max_momentum=0.9, intervals={"max_momentum": (0.5, 0.97)}),
            {"max_momentum": (0.5, 0.97, False)},
        ),
        (TuneResult(None, None, None, "Net", max_momentum=0.2), {"max_momentum": (0.0, 0.6, False)}),
        (TuneResult(None, None, None, "Net"), {}),
    ],
    ids=lambda value: "",
)
def test_the_search_space_reaches_a_third_to_thrice_and_as_far_as_the_interval(
    result: TuneResult, space: dict[str, tuple[float, float, bool]]
) -> None:
    found = {name: (it["low"], it["high"], it["log"]) for name, it in result.search_space().items()}
    assert found.keys() == space.keys()
    for name, (low, high, is_log) in space.items():
        assert found[name][:2] == pytest.approx((low, high), rel=1e-12)
        assert found[name][2] is is_log


def test_what_a_sweep_draws_goes_to_the_settings_by_its_names() -> None:
    drawn = {name: it["high"] for name, it in RESULT.search_space().items()}
    assert [OneCycleSettings(**drawn).max_lr, OneCycleSettings(**drawn).weight_decay] == pytest.approx([0.375, 3e-4])


@pytest.mark.parametrize(
    ("result", "config"),
    [
        (
            RESULT,
            {"one_cycle": {"max_lr": 0.125, "weight_decay": 1e-4, "tuned_for": "Net"}, "model": {"batch_size": 256}},
        ),
        (TuneResult(None, 0.0, None, "Net"), {"one_cycle": {"weight_decay": 0.0, "tuned_for": "Net"}}),
        (
            TuneResult(0.1, None, 8, "Net", on_data=True),
            {"one_cycle": {"max_lr": 0.1, "tuned_for": "Net"}, "data": {"batch_size": 8}},
        ),
    ],
    ids=["all", "weight decay 0", "batch size of the data"],
)
def test_the_config_has_what_was_found_and_nothing_else(result: TuneResult, config: dict[str, Any]) -> None:
    assert result.config() == config
    assert yaml.safe_load(yaml.safe_dump(result.config())) == config


@pytest.mark.parametrize("name", ["optim.base", "hparams.optim.base"])
def test_the_named_learning_rate_is_scaled_where_the_result_is_applied(name: str) -> None:
    class Net(Cycled):
        def __init__(self, optim: Any) -> None:
            super().__init__()
            self.save_hyperparameters()

        def configure_optimizers(self) -> Any:
            base = vars(self)["_hparams"]["optim"]["base"]
            return configure_one_cycle(self, torch.optim.SGD(self.parameters(), lr=2 * base, momentum=0.9))

    model, result = Net({"base": 0.01}), TuneResult(0.3, None, None, Net.__qualname__, attr_name=name)
    assert result.config()["one_cycle"]["attr_name"] == name
    result.apply(model)
    for _ in range(2):
        assert peak(model) == pytest.approx(0.3)
        assert model.hparams["optim"]["base"] == pytest.approx(0.15)
    assert model.lr == 0.01


def test_a_name_that_the_model_does_not_have_is_an_error() -> None:
    model = Cycled()
    TuneResult(0.3, None, None, "Cycled", attr_name="optim.base").apply(model)
    with pytest.raises(MisconfigurationException, match="Expected argument `attr_name` to be the name of a number in"):
        trainer().fit(model, data())
    with pytest.raises(TypeError, match=r"^Expected argument `attr_name` to be the name of an attribute but got 3$"):
        OneCycleSettings(0.3, attr_name=3)  # type: ignore[arg-type]
