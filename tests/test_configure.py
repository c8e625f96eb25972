"""The helper in real fits: the length of the run is counted right and each real step uses what the policy says."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, GradientAccumulationScheduler, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from pl_onecycle.configure import configure_one_cycle
from pl_onecycle.policy import OneCyclePolicy, presets
from pl_onecycle.scheduler import OneCycleScheduler
from tests.cycled import Net, curves
from tests.fits import SENTENCE, Backbone, LRs, SmallNet, data, trainer


class Endless(IterableDataset[tuple[Tensor, Tensor]]):
    """Samples without end and without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        features = torch.randn(8, generator=torch.Generator().manual_seed(1))
        while True:
            yield features, features[:3].argmax()


class StopAfter(pl.Callback):
    """Ends the run after this number of optimizer steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def fitted(net: pl.LightningModule, loader: Any, **arguments: Any) -> tuple[OneCycleScheduler, LRs]:
    """The scheduler after a real fit, and what each of its optimizer steps used."""
    recorded = LRs()
    fit = trainer([recorded, *arguments.pop("callbacks", ())], **arguments)
    fit.fit(net, loader)
    scheduler = fit.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, OneCycleScheduler)
    assert fit.global_step == len(recorded.lr)
    return scheduler, recorded


# ------------------------------------------------------------------------------------------------- how long the run is
LENGTHS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    # what: (loader, Trainer, optimizer steps)
    "epochs": ({}, {"max_epochs": 3}, 24),  # 256 / 32 = 8 batches, 3 epochs
    "one epoch": ({}, {"max_epochs": 1}, 8),
    "partial last batch": ({"samples": 250}, {"max_epochs": 3}, 24),  # 7 whole batches and one of 26
    "dropped last batch": ({"samples": 250, "drop_last": True}, {"max_epochs": 3}, 21),
    "one batch": ({"samples": 5}, {"max_epochs": 1}, 1),
    "accumulation": ({}, {"accumulate_grad_batches": 4}, 4),  # 8 / 4 in 2 epochs
    "accumulation with a partial window": ({}, {"accumulate_grad_batches": 3}, 6),  # 3 + 3 + 2 batches in 2 epochs
    "accumulation over more than an epoch": ({}, {"accumulate_grad_batches": 20}, 2),
    "max_steps before the last epoch": ({}, {"max_steps": 5}, 5),
    "max_steps after the last epoch": ({}, {"max_steps": 100}, 16),
    "max_steps alone": ({}, {"max_steps": 11, "max_epochs": -1}, 11),
    "max_steps and accumulation": ({}, {"max_steps": 5, "accumulate_grad_batches": 3}, 5),
    "limited number of batches": ({}, {"limit_train_batches": 5}, 10),
    "limited share of batches": ({}, {"limit_train_batches": 0.5}, 8),
    "limited and accumulated": ({}, {"limit_train_batches": 5, "accumulate_grad_batches": 2}, 6),  # 2 + 2 + 1
    "overfit_batches": ({}, {"overfit_batches": 2}, 4),
    "fast_dev_run": ({}, {"fast_dev_run": 3}, 3),
}


@pytest.mark.parametrize(("loader", "arguments", "steps"), list(LENGTHS.values()), ids=list(LENGTHS))
def test_schedule_is_as_long_as_the_fit(loader: dict[str, Any], arguments: dict[str, Any], steps: int) -> None:
    scheduler, recorded = fitted(Net(), data(**loader), **arguments)
    assert scheduler.total_steps == steps
    assert len(recorded.lr) == steps
    # Every step used its own value, and the last one the last value.
    assert (recorded.lr, recorded.momentum) == curves(OneCyclePolicy(0.1, steps), steps)


@pytest.mark.parametrize("case", ["epochs", "partial last batch", "accumulation with a partial window"])
def test_fit_never_goes_past_the_end_of_the_schedule(case: str) -> None:
    # The original code counted samples, not batches: its schedule started again 33 steps before the end of the run.
    loader, arguments, steps = LENGTHS[case]
    scheduler, recorded = fitted(Net(), data(**loader), **arguments)
    assert len(recorded.lr) == scheduler.total_steps == steps
    lr = [used[0] for used in recorded.lr]
    after_peak = lr[scheduler.policy.peak_step :]
    assert after_peak == sorted(after_peak, reverse=True)
    assert lr[-1] == min(lr) == 0.1 / 10 / 1e4
    # Lightning steps the scheduler once more after the last step: its value is held, not extrapolated.
    assert scheduler.last_epoch == steps
    assert [group["lr"] for group in scheduler.optimizer.param_groups] == [lr[-1]]


@pytest.mark.parametrize(
    ("scheduling", "arguments", "steps"),
    [
        ({0: 4, 1: 1}, {}, 10),  # 8 / 4 + 8; Lightning's own estimate takes the accumulation of the first epoch for all
        ({0: 1, 1: 4}, {}, 10),
        ({0: 3, 2: 5}, {"max_epochs": 4}, 10),  # 3 + 3 + 2 + 2, partial windows too
        ({0: 4, 1: 1}, {"max_steps": 7}, 7),
        ({0: 4, 1: 1}, {"max_steps": 70}, 10),
        ({0: 4, 1: 1}, {"max_steps": 12, "max_epochs": -1}, 12),
    ],
    ids=str,
)
def test_accumulation_that_changes_during_the_run_is_counted(
    scheduling: dict[int, int], arguments: dict[str, Any], steps: int
) -> None:
    accumulation = GradientAccumulationScheduler(scheduling)
    scheduler, recorded = fitted(Net(), data(), callbacks=[accumulation], **arguments)
    assert scheduler.total_steps == len(recorded.lr) == steps


def test_total_steps_given_wins_over_those_of_the_trainer() -> None:
    scheduler, recorded = fitted(Net(total_steps=10), data())
    assert scheduler.total_steps == 10
    assert (recorded.lr, recorded.momentum) == curves(OneCyclePolicy(0.1, 10), 16)  # held from step 10 on


# ---------------------------------------------------------------------------------------------------- what is returned
def test_returned_dict_steps_the_schedule_after_every_optimizer_step() -> None:
    net = SmallNet()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    returned: Any = configure_one_cycle(net, optimizer, total_steps=10)
    scheduler = returned["lr_scheduler"]["scheduler"]
    assert isinstance(scheduler, OneCycleScheduler)
    assert returned == {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1},
    }
    assert scheduler.optimizer is optimizer


def test_arguments_reach_the_scheduler() -> None:
    net = SmallNet()
    groups: list[dict[str, Any]] = [
        {"params": net.net[0].parameters(), "lr": 0.05},
        {"params": net.net[2].parameters()},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    returned: Any = configure_one_cycle(
        net, optimizer, max_lr=2.0, total_steps=10, preset="torch", pct_start=0.4, div_factor=5.0
    )
    scheduler = returned["lr_scheduler"]["scheduler"]
    assert scheduler.policy == presets.torch_two_phase(2.0, 10, 0.4, div_factor=5.0)
    assert scheduler.max_lrs == [1.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "name", "error"),
    [
        ({"total_steps": 0}, "total_steps", ValueError),
        ({"total_steps": 2.5}, "total_steps", TypeError),
        ({"max_lr": -1.0}, "max_lr", ValueError),
        ({"preset": "smyth"}, "preset", ValueError),
        ({"pct_annihilation": 2}, "pct_annihilation", ValueError),
    ],
    ids=str,
)
def test_bad_argument_gets_one_sentence(arguments: dict[str, Any], name: str, error: type[Exception]) -> None:
    net = SmallNet()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(error, match=SENTENCE.format(name)):
        configure_one_cycle(net, optimizer, **({"total_steps": 10} | arguments))


def test_the_helper_counts_only_real_steps() -> None:
    net = SmallNet()
    returned: Any = configure_one_cycle(net, torch.optim.SGD(net.parameters(), lr=0.1), total_steps=10)
    assert returned["lr_scheduler"]["scheduler"].only_real_steps


# ----------------------------------------------------------------------------------------------------- unknown lengths
def test_error_of_a_module_without_trainer_names_the_way_out() -> None:
    net = SmallNet()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(MisconfigurationException, match=r"the module has none yet: pass `total_steps=`"):
        configure_one_cycle(net, optimizer)
    returned: Any = configure_one_cycle(net, optimizer, total_steps=7)
    assert returned["lr_scheduler"]["scheduler"].total_steps == 7


UNKNOWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "endless epochs": (data(), {"max_epochs": -1}),
    "no length": (DataLoader(Endless(), 4), {"max_epochs": 2}),
    "endless epochs without length": (DataLoader(Endless(), 4), {"max_epochs": -1}),
}


@pytest.mark.parametrize(("loader", "arguments"), list(UNKNOWN.values()), ids=list(UNKNOWN))
def test_error_of_a_run_of_unknown_length_names_both_ways_out(loader: Any, arguments: dict[str, Any]) -> None:
    ways = r"endless.*no length.*`Trainer\(max_steps=\.\.\.\)`.*`total_steps=` to `configure_one_cycle`\.$"
    with pytest.raises(MisconfigurationException, match=ways):
        trainer(**arguments).fit(Net(), loader)


@pytest.mark.parametrize(("loader", "arguments"), list(UNKNOWN.values()), ids=list(UNKNOWN))
def test_total_steps_is_a_way_out_of_an_unknown_length(loader: Any, arguments: dict[str, Any]) -> None:
    scheduler, recorded = fitted(Net(total_steps=12), loader, callbacks=[StopAfter(14)], **arguments)
    assert scheduler.total_steps == 12
    assert (recorded.lr, recorded.momentum) == curves(OneCyclePolicy(0.1, 12), 14)


@pytest.mark.parametrize(("loader", "arguments"), list(UNKNOWN.values()), ids=list(UNKNOWN))
def test_max_steps_is_a_way_out_of_an_unknown_length(loader: Any, arguments: dict[str, Any]) -> None:
    scheduler, recorded = fitted(Net(), loader, **(arguments | {"max_steps": 12}))
    assert scheduler.total_steps == 12
    assert (recorded.lr, recorded.momentum) == curves(OneCyclePolicy(0.1, 12), 12)


@pytest.mark.filterwarnings("ignore:Total length of .* across ranks is zero")
def test_empty_loader_is_named() -> None:
    with pytest.raises(MisconfigurationException, match=r"at least one step, and this run has none.*`total_steps=`"):
        trainer().fit(Net(), data(samples=0))


# ---------------------------------------------------------------------------------------------------------- whole fits
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("preset", ["smith", "torch", "torch_three_phase", "fastai"])
def test_every_real_step_uses_lr_and_momentum_of_the_preset(preset: Any, kind: str) -> None:
    scheduler, recorded = fitted(Net(kind=kind, preset=preset, max_lr=0.05), data(samples=96), max_epochs=5)
    policy = presets.from_preset(preset, 0.05, 15)  # 3 batches, 5 epochs
    assert scheduler.policy == policy
    assert (recorded.lr, recorded.momentum) == curves(policy, 15)


def test_ramp_up_sustain_and_decay_by_epoch_in_a_real_fit() -> None:
    arguments: dict[str, Any] = {"rampup_epochs": 2, "sustain_epochs": 1, "exp_decay": 0.5, "steps_per_epoch": 8}
    _, recorded = fitted(Net(preset="exp_decay", max_lr=2e-3, **arguments), data(), max_epochs=6)
    by_epoch = [lr for [lr] in recorded.lr[::8]]
    # 1e-3 -> 2e-3 in two epochs, held for one, then half the way back in each.
    assert by_epoch == pytest.approx([1e-3, 1.5e-3, 2e-3, 2e-3, 1.5e-3, 1.25e-3], rel=1e-9)
    assert recorded.momentum == [[0.9]] * 48


def test_ratio_of_groups_is_kept_in_a_real_fit() -> None:
    class TwoGroups(SmallNet):
        def configure_optimizers(self) -> Any:
            groups = [
                {"params": self.net[0].parameters(), "lr": 0.01},
                {"params": self.net[2].parameters(), "lr": 0.1, "momentum": 0},
            ]
            return configure_one_cycle(self, torch.optim.SGD(groups, momentum=0.9), max_lr=0.5)

    _, recorded = fitted(TwoGroups(), data())
    policy = OneCyclePolicy(0.5, 16)
    assert [lr for _, lr in recorded.lr] == [policy.lr(step) for step in range(16)]
    assert [lr for lr, _ in recorded.lr] == pytest.approx([policy.lr(step) / 10 for step in range(16)])
    assert recorded.momentum == [[policy.momentum(step), 0] for step in range(16)]


def test_weights_are_those_of_the_same_loop_written_by_hand() -> None:
    net, loader = Net(), data()
    twin = SmallNet()
    twin.load_state_dict(net.state_dict())
    fitted(net, loader)
    policy = OneCyclePolicy(0.1, 16)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for step, batch in enumerate([*loader, *loader]):
        optimizer.param_groups[0].update(lr=policy.lr(step), momentum=policy.momentum(step))
        optimizer.zero_grad()
        twin.loss(batch).backward()
        optimizer.step()
    for name, weight in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], weight, rtol=0, atol=0)


def test_second_fit_of_the_same_module_has_a_whole_cycle_again() -> None:
    net = Net()
    _, first = fitted(net, data())
    _, second = fitted(net, data(), max_epochs=3)
    assert first.lr == curves(OneCyclePolicy(0.1, 16), 16)[0]
    assert second.lr == curves(OneCyclePolicy(0.1, 24), 24)[0]


@pytest.mark.parametrize(("kind", "key"), [("SGD", "lr-SGD"), ("Adam", "lr-Adam")])
def test_learning_rate_monitor_shows_both_curves(tmp_path: Path, kind: str, key: str) -> None:
    logger = CSVLogger(tmp_path)
    monitor = LearningRateMonitor(log_momentum=True)
    fitted(Net(kind=kind), data(), callbacks=[monitor], logger=logger)
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row[key]]
    policy = OneCyclePolicy(0.1, 16)
    assert [int(row["step"]) for row in rows] == list(range(16))
    assert [float(row[key]) for row in rows] == pytest.approx([policy.lr(step) for step in range(16)])
    assert [float(row[f"{key}-momentum"]) for row in rows] == pytest.approx(
        [policy.momentum(step) for step in range(16)]
    )


def test_backbone_that_is_unfrozen_during_the_run_joins_the_cycle() -> None:
    finetuning = BackboneFinetuning(1, backbone_initial_ratio_lr=0.5, verbose=False)  # half the lr of the head
    scheduler, recorded = fitted(Backbone(), data(), callbacks=[finetuning])
    policy = OneCyclePolicy(0.1, 16)
    assert [lr[0] for lr in recorded.lr] == [policy.lr(step) for step in range(16)]
    assert [len(lr) for lr in recorded.lr] == [1] * 8 + [2] * 8
    assert [lr[1] for lr in recorded.lr[8:]] == pytest.approx([0.5 * policy.lr(step) for step in range(8, 16)])
    assert scheduler.max_lrs == pytest.approx([0.1, 0.05])
