"""`OneCycleSettings`: values from outside that reach a module which does not know of them."""

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pl_onecycle import LRRangeTest, OneCycleScheduler, OneCycleSettings, WeightDecayProbe, configure_one_cycle
from pl_onecycle.policy.presets import PolicyArguments, from_preset
from pl_onecycle.settings_callback import check_model, settings_of
from tests.fits import LRs, SavesFirstEpoch, SmallNet, data, trainer


class Cycled(SmallNet):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-3)
        return configure_one_cycle(self, optimizer, div_factor=5.0)


class Grouped(SmallNet):
    """Three groups: a slow one, one without weight decay, one with less of it."""

    def configure_optimizers(self) -> Any:
        first, last = self.net[0], self.net[-1]
        groups: list[dict[str, Any]] = [
            {"params": [first.weight], "lr": 0.01, "weight_decay": 0.1},
            {"params": [first.bias, last.bias], "lr": 0.1, "weight_decay": 0.0},
            {"params": [last.weight], "lr": 0.1, "weight_decay": 0.05},
        ]
        return configure_one_cycle(self, torch.optim.SGD(groups, momentum=0.9))


class Two(SmallNet):
    """Two optimizers, the second with a schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        both: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        for optimizer in both:
            optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        for optimizer in both:
            optimizer.step()
        schedule.step()

    def configure_optimizers(self) -> Any:
        plain = torch.optim.SGD(self.net[0].parameters(), lr=0.01, momentum=0.9)
        cycled = torch.optim.SGD(self.net[-1].parameters(), lr=0.1, momentum=0.9)
        return {"optimizer": plain}, configure_one_cycle(self, cycled)


def fit(model: pl.LightningModule, *callbacks: pl.Callback, **options: Any) -> tuple[LRs, pl.Trainer]:
    lrs = LRs()
    its = trainer([*callbacks, lrs], **options)
    its.fit(model, data())
    return lrs, its


# ---------------------------------------------------------------------------------- policy arguments

OF_SMITH: dict[str, Any] = {
    "pct_start": 0.25,
    "pct_plateau": 0.2,
    "pct_annihilation": 0.3,
    "div_factor": 7.0,
    "final_div_factor": 33.0,
    "anneal_strategy": "exponential",
    "cycle_momentum": False,
    "base_momentum": 0.6,
    "max_momentum": 0.9,
}
OF_EXP_DECAY: dict[str, Any] = {"rampup_epochs": 0.5, "sustain_epochs": 0.25, "exp_decay": 0.5, "steps_per_epoch": 8}


def scheduler_of(its: pl.Trainer) -> OneCycleScheduler:
    (config,) = its.lr_scheduler_configs
    assert isinstance(config.scheduler, OneCycleScheduler)
    return config.scheduler


def test_every_argument_of_the_policy_is_among_those_that_are_tried() -> None:
    assert OF_SMITH.keys() | OF_EXP_DECAY.keys() == set(PolicyArguments.__annotations__)


@pytest.mark.parametrize("name", OF_SMITH)
def test_each_argument_of_the_policy_reaches_the_schedule_and_changes_the_run(name: str) -> None:
    plain, _ = fit(Cycled())
    asked = {name: OF_SMITH[name]}
    lrs, its = fit(Cycled(), OneCycleSettings(**asked))
    expected = from_preset("smith", 0.01, 16, **({"div_factor": 5.0} | asked))
    policy = scheduler_of(its).policy
    assert lrs.lr == [[pytest.approx(expected.lr(step))] for step in range(16)]
    assert [policy.lr(step) for step in range(16)] == pytest.approx([expected.lr(step) for step in range(16)])
    assert (lrs.lr, lrs.momentum) != (plain.lr, plain.momentum)
    momenta = [expected.momentum(step) for step in range(16)]
    assert lrs.momentum == [[0.9 if momentum is None else pytest.approx(momentum)] for momentum in momenta]


@pytest.mark.parametrize("name", OF_EXP_DECAY)
def test_each_argument_of_another_preset_reaches_the_schedule(name: str) -> None:
    class Net(SmallNet):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
            return configure_one_cycle(self, optimizer, preset="exp_decay", **(OTHERS | {"steps_per_epoch": 4}))

    asked = {name: OF_EXP_DECAY[name]}
    lrs, _ = fit(Net(), OneCycleSettings(**asked))
    expected = from_preset("exp_decay", 0.01, 16, **(OTHERS | {"steps_per_epoch": 4} | asked))
    assert lrs.lr == [[pytest.approx(expected.lr(step))] for step in range(16)]


OTHERS: dict[str, Any] = {"rampup_epochs": 1.0, "sustain_epochs": 1.0, "exp_decay": 0.8}


@pytest.mark.parametrize("preset", ["smith", "torch", "torch_three_phase", "fastai"])
def test_the_preset_reaches_the_schedule(preset: Any) -> None:
    _, its = fit(Cycled(), OneCycleSettings(preset=preset))
    assert scheduler_of(its).policy == from_preset(preset, 0.01, 16, div_factor=5.0)


def test_arguments_of_the_module_that_are_not_asked_for_stay() -> None:
    lrs, _ = fit(Cycled(), OneCycleSettings(pct_annihilation=0.0))
    assert lrs.lr[0] == [pytest.approx(0.01 / 5.0)]


def test_settings_of_none_change_nothing() -> None:
    lrs, _ = fit(Cycled(), OneCycleSettings())
    plain, _ = fit(Cycled())
    assert (lrs.lr, lrs.momentum, lrs.weight_decay) == (plain.lr, plain.momentum, plain.weight_decay)


def test_a_module_without_a_trainer_has_settings_that_change_nothing() -> None:
    assert settings_of(Cycled()).policy_arguments == {}


# ------------------------------------------------------------------------------ max_lr, weight decay


def test_max_lr_and_weight_decay_reach_the_run_and_groups_keep_their_ratios() -> None:
    lrs, _ = fit(Grouped(), OneCycleSettings(max_lr=0.5, weight_decay=0.01))
    assert [max(lr) for lr in zip(*lrs.lr, strict=True)] == pytest.approx([0.05, 0.5, 0.5], rel=1e-12)
    assert [decays == [0.01, 0.0, pytest.approx(0.005)] for decays in lrs.weight_decay] == [True] * 16


@pytest.mark.parametrize("schedule", ["none", "OneCycleLR", "StepLR"])
def test_max_lr_needs_no_schedule_of_this_package(schedule: str) -> None:
    class Net(SmallNet):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
            if schedule == "none":
                return optimizer
            if schedule == "StepLR":
                return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=16, pct_start=0.25)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    lrs, _ = fit(Net(), OneCycleSettings(max_lr=0.2, weight_decay=0.1))
    assert max(lrs.lr) == [pytest.approx(0.2, rel=1e-12)]
    assert lrs.weight_decay == [[0.1]] * 16


def test_the_modules_attributes_follow() -> None:
    class Net(Cycled):
        def __init__(self) -> None:
            super().__init__()
            self.weight_decay = 1e-3

        def configure_optimizers(self) -> Any:
            decay: Any = {"weight_decay": self.weight_decay}
            return configure_one_cycle(self, torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, **decay))

    model = Net()
    fit(model, OneCycleSettings(max_lr=0.2, weight_decay=0.1))
    assert (model.lr, model.weight_decay) == (0.2, 0.1)


def test_a_weight_decay_of_zero_is_a_value() -> None:
    lrs, _ = fit(Cycled(), OneCycleSettings(weight_decay=0.0))
    assert lrs.weight_decay == [[0.0]] * 16


def test_only_the_asked_optimizer_changes() -> None:
    seen: dict[int, list[float]] = {0: [], 1: []}

    class Peaks(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            for k, optimizer in enumerate(trainer.optimizers):
                seen[k].append(optimizer.param_groups[0]["lr"])

    trainer([OneCycleSettings(max_lr=0.7, pct_annihilation=0.0, optimizer=1), Peaks()]).fit(Two(), data())
    assert set(seen[0]) == {0.01}
    assert max(seen[1]) == pytest.approx(0.7)


def test_what_is_found_in_the_fit_comes_after_the_settings() -> None:
    test = LRRangeTest(1e-4, 10.0, 25, report=False)
    probe = WeightDecayProbe((0.2, 0.02), 10, val_batches=0, report=False)
    lrs, _ = fit(Cycled(), test, probe, OneCycleSettings(max_lr=0.3, weight_decay=0.1))
    assert (test.before, probe.before) == (0.3, 0.1)
    assert test.suggestion is not None
    assert max(lrs.lr) == [pytest.approx(test.suggestion.lr)]
    assert lrs.weight_decay[0][0] in (0.2, 0.02)


def test_what_is_set_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(Cycled(), OneCycleSettings(max_lr=0.25, weight_decay=0.1))
    said = [record.getMessage() for record in caplog.records if "One-cycle settings" in record.getMessage()]
    assert said == [
        "One-cycle settings: max_lr 0.25 in 1 parameter group, OneCycleScheduler, module.lr;"
        " weight_decay 0.1 in 1 parameter group."
    ]


# ---------------------------------------------------------------------------------------- resumed runs


@pytest.mark.parametrize("again", [False, True], ids=["without settings", "with other settings"])
def test_a_resumed_run_keeps_the_values_of_its_checkpoint(tmp_path: Path, again: bool) -> None:
    file = tmp_path / "first.ckpt"
    asked: dict[str, Any] = {"max_lr": 0.3, "weight_decay": 0.1, "pct_annihilation": 0.3}
    whole, _ = fit(Cycled(), OneCycleSettings(**asked), SavesFirstEpoch(file))
    lrs = LRs()
    others = [OneCycleSettings(max_lr=0.7, weight_decay=0.5)] if again else []
    trainer([*others, lrs]).fit(Cycled(), data(), ckpt_path=file)
    assert lrs.lr == whole.lr[8:]
    assert lrs.momentum == whole.momentum[8:]
    assert lrs.weight_decay == whole.weight_decay[8:] == [[0.1]] * 8


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"max_lr": 0.0}, ValueError, "Expected argument `max_lr` to be"),
        ({"max_lr": -1.0}, ValueError, "Expected argument `max_lr` to be"),
        ({"max_lr": float("nan")}, ValueError, "Expected argument `max_lr` to be"),
        ({"max_lr": "0.1"}, TypeError, "Expected argument `max_lr` to be"),
        ({"weight_decay": -1e-4}, ValueError, "Expected argument `weight_decay` to be"),
        ({"weight_decay": True}, TypeError, "Expected argument `weight_decay` to be"),
        ({"optimizer": -1}, ValueError, "Expected argument `optimizer` to be"),
        ({"optimizer": 0.0}, TypeError, "Expected argument `optimizer` to be"),
        ({"tuned_for": Cycled}, TypeError, "Expected argument `tuned_for` to be the name of a class"),
    ],
    ids=str,
)
def test_the_constructor_refuses_bad_arguments(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        OneCycleSettings(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pct_start": 1.5}, "Expected argument `pct_start` to be"),
        ({"preset": "fastest"}, "Expected argument `preset` to be"),
        ({"preset": "torch", "rampup_epochs": 1.0}, "rampup_epochs"),
    ],
    ids=str,
)
def test_bad_arguments_of_the_policy_raise_at_the_latest_where_the_fit_begins(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        fit(Cycled(), OneCycleSettings(**arguments))


def test_arguments_of_a_policy_need_a_one_cycle_schedule() -> None:
    said = (
        r"The one-cycle settings \['div_factor', 'pct_start'\] have no schedule to change:"
        r" `SmallNet.configure_optimizers` does not use `configure_one_cycle`."
    )
    with pytest.raises(MisconfigurationException, match=said):
        fit(SmallNet(), OneCycleSettings(max_lr=0.1, pct_start=0.3, div_factor=10.0))


def test_a_missing_optimizer_is_an_error() -> None:
    said = r"^There is no optimizer with index 1: `Cycled\.configure_optimizers` returned 1 optimizer\.$"
    with pytest.raises(MisconfigurationException, match=said):
        fit(Cycled(), OneCycleSettings(max_lr=0.1, optimizer=1))


def test_an_optimizer_without_weight_decay_is_an_error() -> None:
    class Plain(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 0.1})

        def step(self, closure: Any = None) -> Any:
            return closure()

    class Net(SmallNet):
        def configure_optimizers(self) -> Any:
            return Plain(self.parameters())

    with pytest.raises((MisconfigurationException, ValueError), match="weight decay"):
        fit(Net(), OneCycleSettings(weight_decay=0.1))


def test_values_that_were_tuned_for_another_model_are_refused_before_anything_is_trained() -> None:
    model = Cycled()
    said = "These values were tuned for Other, and this model is Cycled: tune it, or leave them out."
    with pytest.raises(MisconfigurationException, match=said):
        fit(model, OneCycleSettings(max_lr=0.1, tuned_for="Other"))
    assert model.lr == 0.01


@pytest.mark.parametrize("tuned_for", [None, "Cycled"])
def test_values_for_this_model_or_for_any_are_taken(tuned_for: str | None) -> None:
    lrs, _ = fit(Cycled(), OneCycleSettings(max_lr=0.1, tuned_for=tuned_for))
    assert max(lrs.lr) == [0.1]
    check_model(Cycled(), tuned_for)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_other_stages_are_left_alone(stage: str) -> None:
    class Net(Cycled):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.loss(batch)

        test_step = validation_step

    model = Net()
    getattr(trainer([OneCycleSettings(max_lr=0.1, tuned_for="Other")]), stage)(model, data(), verbose=False)
    assert model.lr == 0.01


# --------------------------------------------------------------------------------------------- robustness
@pytest.mark.parametrize(
    "arguments",
    [{"max_momentum": 0.8, "base_momentum": None}, {"pct_start": 0.95, "pct_annihilation": None}, {"pct_start": None}],
    ids=["max_momentum", "pct_start", "all None"],
)
def test_an_argument_of_none_is_one_that_is_not_given(arguments: dict[str, Any]) -> None:
    given = {name: value for name, value in arguments.items() if value is not None}
    assert OneCycleSettings(**arguments).policy_arguments == OneCycleSettings(**given).policy_arguments == given


@pytest.mark.parametrize("name", ["decay", "total_steps", "pct_anihilation"])
@pytest.mark.parametrize("value", [None, 0.5])
def test_an_unknown_argument_is_an_error_whatever_its_value(name: str, value: float | None) -> None:
    with pytest.raises(TypeError, match=f"OneCycleSettings got an unexpected keyword argument '{name}'"):
        OneCycleSettings(**{name: value})  # type: ignore[arg-type]


def test_a_largest_momentum_below_the_smallest_of_the_cycle_lowers_that() -> None:
    lrs, its = fit(Cycled(), OneCycleSettings(max_momentum=0.5))
    assert [momentum for [momentum] in lrs.momentum] == [0.5] * 16
    policy = its.lr_scheduler_configs[0].scheduler.policy  # type: ignore[union-attr]
    assert (policy.base_momentum, policy.max_momentum, policy.div_factor) == (0.5, 0.5, 5.0)


class Plain(SmallNet):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Constant(Plain):
    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, super().configure_optimizers(), cycle_momentum=False)


@pytest.mark.parametrize("model", [Plain, Constant])
def test_where_no_momentum_is_cycled_the_largest_is_the_constant_one(model: type[SmallNet]) -> None:
    lrs, _ = fit(model(), OneCycleSettings(max_momentum=0.97))
    assert [momentum for [momentum] in lrs.momentum] == [0.97] * 16


def test_a_schedule_that_is_not_there_is_an_error_and_a_momentum_without_one_is_not() -> None:
    with pytest.raises(MisconfigurationException, match=r"settings \['max_momentum', 'pct_start'\] have no schedule"):
        fit(SmallNet(), OneCycleSettings(max_momentum=0.97, pct_start=0.2))
    with pytest.raises(MisconfigurationException, match=r"settings \['max_momentum'\] have no schedule"):
        fit(SmallNet(), OneCycleSettings(max_momentum=0.97))  # SGD without momentum
