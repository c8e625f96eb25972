"""`RunOptimizer`: what a real fit's Trainer says of one of its optimizers, and how found values reach it."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import lr_scheduler as schedulers

from pl_onecycle import OneCyclePolicy, OneCycleScheduler, configure_one_cycle
from pl_onecycle.run_optimizer import RunOptimizer
from tests.fits import AllLRs, LRs, Momentum, SmallNet, TwoNets, data, trainer


class AtStep(pl.Callback):
    """Calls a function with one optimizer of the run before a step of it, and keeps what it returns."""

    def __init__(self, call: Callable[[RunOptimizer], Any], step: int = 0, index: int = 0) -> None:
        self.call, self.step, self.index = call, step, index
        self.returned: Any = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.returned = self.call(RunOptimizer(trainer, self.index))


def at_step(call: Callable[[RunOptimizer], Any], module: pl.LightningModule, step: int = 0, index: int = 0) -> Any:
    """What ``call`` returns in a fit of 16 steps."""
    callback = AtStep(call, step, index)
    trainer([callback]).fit(module, data())
    return callback.returned


class Cycled(SmallNet):
    """With a weight decay, under one cycle of 16 steps."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.weight_decay, self.arguments = 1e-3, arguments

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)
        return configure_one_cycle(self, sgd, **self.arguments)


def step_lr(module: SmallNet, optimizer: Any) -> Any:
    return schedulers.StepLR(optimizer, 4, gamma=0.5)


def rises(module: SmallNet, optimizer: Any) -> Any:
    return schedulers.LambdaLR(optimizer, lambda step: step + 1.0)


def in_a_chain(module: SmallNet, optimizer: Any) -> Any:
    return schedulers.ChainedScheduler([OneCycleScheduler(optimizer, 0.5, 16)], optimizer=optimizer)


# ------------------------------------------------------------------------------------------- schedules
@pytest.mark.parametrize(
    ("schedule", "kinds", "peak"),
    [
        (None, [], 0.01),
        (step_lr, [schedulers.StepLR], 0.01),
        (rises, [schedulers.LambdaLR], 0.16),  # 16 times as large in the last of 16 steps
        (lambda module, optimizer: OneCycleScheduler(optimizer, 0.5, 16), [OneCycleScheduler], 0.5),
        (in_a_chain, [schedulers.ChainedScheduler], 0.5),
    ],
    ids=["none", "StepLR", "LambdaLR", "OneCycleScheduler", "in a chain"],
)
@pytest.mark.parametrize("step", [0, 11])
def test_schedulers_and_peak_are_those_of_the_whole_run(
    schedule: Any, kinds: list[type], peak: float, step: int
) -> None:
    def read(run: RunOptimizer) -> Any:
        return run.trainer.optimizers[0] is run.optimizer, [*map(type, run.schedulers)], run.one_cycle, run.peak

    is_the_trainers, found, one_cycle, found_peak = at_step(read, Momentum(schedule), step)
    assert is_the_trainers
    assert found == kinds
    assert found_peak == pytest.approx(peak, rel=1e-12)
    assert (one_cycle is not None) == (kinds == [OneCycleScheduler])


def test_each_of_two_optimizers_has_its_own_schedulers_and_peak() -> None:
    def read(run: RunOptimizer) -> Any:
        return [*map(type, run.schedulers)], run.one_cycle is not None, run.peak

    first, second = (at_step(read, TwoNets(), index=index) for index in (0, 1))
    assert first == ([schedulers.StepLR], False, 0.01)
    assert second == ([OneCycleScheduler], True, 0.02)


@pytest.mark.parametrize(
    ("module", "policy"),
    [
        (lambda: Momentum(), OneCyclePolicy(0.5, 20)),
        (lambda: Momentum(step_lr), OneCyclePolicy(0.5, 20)),
        (
            lambda: Cycled(pct_start=0.25, div_factor=5.0, max_momentum=0.97),
            OneCyclePolicy(0.5, 20, pct_start=0.25, div_factor=5.0, max_momentum=0.97),
        ),
    ],
    ids=["no schedule", "StepLR", "one cycle"],
)
def test_a_short_cycle_has_the_shape_of_the_run_or_of_the_default(module: Any, policy: OneCyclePolicy) -> None:
    assert at_step(lambda run: run.short_cycle(0.5, 20), module()) == policy


def test_a_short_decay_falls_as_deep_as_the_run() -> None:
    arguments: dict[str, Any] = {"preset": "exp_decay", "rampup_epochs": 0, "exp_decay": 0.5, "steps_per_epoch": 8}
    whole, short = at_step(lambda run: (run.one_cycle, run.short_cycle(0.5, 4)), Cycled(**arguments))
    assert (short.max_lr, short.total_steps) == (0.5, 4)
    assert short.decay == pytest.approx(whole.policy.decay**4, rel=1e-12)  # each of 4 steps stands for 4 of 16


# ---------------------------------------------------------------------------------------- found values
@pytest.mark.parametrize("step", [0, 6])
def test_a_found_lr_is_the_peak_of_the_cycle_or_of_a_new_one_over_the_rest(step: int) -> None:
    module, lrs, own = Cycled(), LRs(), OneCyclePolicy(0.01, 16)
    use = AtStep(lambda run: run.use_max_lr(0.5), step)
    trainer([use, lrs]).fit(module, data())
    assert use.returned == ["1 parameter group", "OneCycleScheduler", "module.lr"]
    assert module.lr == 0.5
    found = OneCyclePolicy(0.5, 16 - step)
    assert [lr for [lr] in lrs.lr] == [own.lr(k) for k in range(step)] + [found.lr(k) for k in range(16 - step)]


def test_a_found_weight_decay_is_trained_with_from_there_on() -> None:
    module, lrs = Cycled(), LRs()
    use = AtStep(lambda run: run.use_weight_decay(0.1), step=6)
    trainer([use, lrs]).fit(module, data())
    assert use.returned == ["1 parameter group", "module.weight_decay"]
    assert module.weight_decay == 0.1
    assert lrs.weight_decay == [[1e-3]] * 6 + [[0.1]] * 10


@pytest.mark.parametrize("step", [0, 6])
def test_a_found_momentum_is_the_largest_of_the_cycle_from_there_on(step: int) -> None:
    lrs, own, found = LRs(), OneCyclePolicy(0.01, 16), OneCyclePolicy(0.01, 16, max_momentum=0.99)
    use = AtStep(lambda run: run.use_momentum(0.99), step)
    trainer([use, lrs]).fit(Cycled(), data())
    assert use.returned == ["1 parameter group", "OneCycleScheduler"]
    assert [value for [value] in lrs.momentum] == [(own if k < step else found).momentum(k) for k in range(16)]
    assert [lr for [lr] in lrs.lr] == [own.lr(k) for k in range(16)]


@pytest.mark.parametrize("index", [0, 1])
def test_of_two_optimizers_only_the_asked_one_and_no_attribute_changes(index: int) -> None:
    class Two(TwoNets):
        weight_decay = 1e-4

    def use(run: RunOptimizer) -> Any:
        return run.use_max_lr(0.4), run.use_weight_decay(0.5), run.use_momentum(0.97)

    module, callback, lrs, own = Two(), AtStep(use, index=index), AllLRs(), AllLRs()
    fit = trainer([callback, lrs])
    fit.fit(module, data())
    trainer([own]).fit(Two(), data())
    groups = ["1 parameter group", "2 parameter groups"][index]
    schedule, cycle = [(["StepLR"], []), (["OneCycleScheduler"], ["OneCycleScheduler"])][index]
    assert callback.returned == ([groups, *schedule], [groups], [groups, *cycle])
    assert (module.lr, module.weight_decay) == (0.01, 1e-4)
    assert [both[1 - index] for both in lrs.lr] == [both[1 - index] for both in own.lr]
    assert max(max(both[index]) for both in lrs.lr) == pytest.approx(0.4, rel=1e-12)
    decays = [{group["weight_decay"] for group in optimizer.param_groups} for optimizer in fit.optimizers]
    assert (decays[index], decays[1 - index]) == ({0.5}, {0})
    momenta = [{group["momentum"] for group in optimizer.param_groups} for optimizer in fit.optimizers]
    assert momenta == [[{0.97}, {0.95}], [{0.9}, {0.97}]][index]


# --------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(("module", "index", "number"), [(Momentum, 1, "1 optimizer"), (TwoNets, 2, "2 optimizers")])
def test_an_index_without_an_optimizer_is_an_error(module: type[pl.LightningModule], index: int, number: str) -> None:
    name = module.__name__
    said = rf"^There is no optimizer with index {index}: `{name}\.configure_optimizers` returned {number}\.$"
    with pytest.raises(MisconfigurationException, match=said):
        at_step(lambda run: run, module(), index=index)


def test_an_optimizer_without_a_usable_lr_is_an_error() -> None:
    class Broken(SmallNet):
        def on_train_start(self) -> None:
            self.trainer.optimizers[0].param_groups[0]["lr"] = None

    with pytest.raises(
        MisconfigurationException, match=r"a finite numeric `lr` >= 0 but got 'SGD with lr=None in group 0'"
    ):
        at_step(lambda run: run, Broken())
