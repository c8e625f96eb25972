"""The helper in real fits: the length of the run is counted right and each real step uses what the policy says."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from pl_onecycle.configure import configure_one_cycle
from pl_onecycle.policy import OneCyclePolicy, presets
from pl_onecycle.scheduler import OneCycleScheduler
from tests.fits import LRs, SmallNet, data, trainer


class Net(SmallNet):
    """A small net whose optimizer follows one cycle, as a user writes it."""

    def __init__(self, lr: float = 0.1, kind: str = "SGD", **arguments: Any) -> None:
        super().__init__(lr)
        self.kind, self.arguments = kind, arguments

    def configure_optimizers(self) -> Any:
        momentum: dict[str, Any] = {"momentum": 0.9} if self.kind == "SGD" else {}
        optimizer = getattr(torch.optim, self.kind)(self.parameters(), lr=self.lr, **momentum)
        return configure_one_cycle(self, optimizer, **self.arguments)


class Endless(IterableDataset[tuple[Tensor, Tensor]]):
    """Samples without end and without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        features = torch.randn(8, generator=torch.Generator().manual_seed(1))
        while True:
            yield features, features[:3].argmax()


class StopAfter(pl.Callback):
    """Ends the run after so many optimizer steps."""

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


def curves(policy: OneCyclePolicy, steps: int) -> tuple[list[list[float]], list[list[float | None]]]:
    """What `LRs` records for one group that follows ``policy``."""
    return [[policy.lr(step)] for step in range(steps)], [[policy.momentum(step)] for step in range(steps)]


# ------------------------------------------------------------------------------------- how long the run is
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


# ----------------------------------------------------------------------------------------- what is returned
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
    with pytest.raises(error, match=rf"^Expected argument `{name}` to be [^\n]+ but got [^\n]+$"):
        configure_one_cycle(net, optimizer, **({"total_steps": 10} | arguments))


# ------------------------------------------------------------------------------------------ unknown lengths
def test_module_without_trainer_is_told_the_way_out() -> None:
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
def test_run_of_unknown_length_is_told_both_ways_out(loader: Any, arguments: dict[str, Any]) -> None:
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


# ------------------------------------------------------------------------------------------------ whole fits
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


# --------------------------------------------------------------------------------------------------- resume
def checkpointed(recorded: LRs, folder: Path, max_epochs: int) -> pl.Trainer:
    """A Trainer that saves a checkpoint after each epoch."""
    checkpoints = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    return trainer([recorded, checkpoints], max_epochs=max_epochs, enable_checkpointing=True)


@pytest.mark.parametrize("done", [1, 2])
def test_resumed_fit_goes_on_exactly(tmp_path: Path, done: int) -> None:
    whole, rest = LRs(), LRs()
    checkpointed(whole, tmp_path, 3).fit(Net(), data())
    checkpointed(rest, tmp_path, 3).fit(Net(lr=5.0), data(), ckpt_path=str(tmp_path / f"epoch={done - 1}.ckpt"))
    assert (whole.lr, whole.momentum) == curves(OneCyclePolicy(0.1, 24), 24)
    assert (rest.lr, rest.momentum) == (whole.lr[8 * done :], whole.momentum[8 * done :])


def test_resume_in_a_longer_run_stretches_what_is_left(tmp_path: Path) -> None:
    short, rest = LRs(), LRs()
    checkpointed(short, tmp_path, 2).fit(Net(), data())
    longer = checkpointed(rest, tmp_path, 5)
    with pytest.warns(UserWarning, match="saved for 16 steps and is resumed at step 8 in a run of 40, and its"):
        longer.fit(Net(), data(), ckpt_path=str(tmp_path / "epoch=0.ckpt"))
    policy = OneCyclePolicy(0.1, 16)  # seven steps up, seven down, two of annihilation
    assert [lr for [lr] in short.lr] == [policy.lr(step) for step in range(16)]
    assert len(rest.lr) == 32
    # 7 positions are left for 31 steps. The annihilation begins with 14, 6 / 7 of the way: 8 + 27 = 35.
    falling = [policy.lr(8 + 6 * step / 27) for step in range(27)]
    annihilation = [policy.lr(14 + step / 4) for step in range(5)]
    assert [lr for [lr] in rest.lr] == pytest.approx(falling + annihilation, rel=1e-12)
    assert rest.lr[0] == short.lr[8]
    assert rest.momentum[0] == short.momentum[8]
    assert rest.lr[-1] == short.lr[-1] == [0.1 / 10 / 1e4]
    assert rest.momentum[-1] == [0.95]


def test_resume_of_an_ended_run_in_a_longer_one_has_a_new_cycle(tmp_path: Path) -> None:
    short, rest = LRs(), LRs()
    checkpointed(short, tmp_path, 2).fit(Net(), data())
    longer = checkpointed(rest, tmp_path, 3)
    with pytest.warns(UserWarning, match="saved for 16 steps and is resumed at step 16 in a run of 24, at its end"):
        longer.fit(Net(), data(), ckpt_path=str(tmp_path / "epoch=1.ckpt"))
    low = 0.1 / 10 / 1e4
    # Eight steps: four up by a quarter of the way, and three down by a third.
    shares = [0, 1 / 4, 2 / 4, 3 / 4, 1, 2 / 3, 1 / 3, 0]
    assert [lr for [lr] in rest.lr] == pytest.approx([low + (0.1 - low) * share for share in shares], rel=1e-12)
    assert max(rest.lr) == [0.1]
    assert [value for [value] in rest.momentum] == pytest.approx([0.95 - 0.1 * share for share in shares], rel=1e-12)


def test_resume_in_a_shorter_run_still_ends_with_it(tmp_path: Path) -> None:
    long, rest = LRs(), LRs()
    checkpointed(long, tmp_path, 4).fit(Net(), data())
    shorter = checkpointed(rest, tmp_path, 2)
    with pytest.warns(UserWarning, match="saved for 32 steps and is resumed at step 8 in a run of 16, and its"):
        shorter.fit(Net(), data(), ckpt_path=str(tmp_path / "epoch=0.ckpt"))
    assert rest.lr[0] == long.lr[8]
    assert max(rest.lr) == [0.1]  # its peak, at step 14 of 32, was ahead
    assert rest.lr[-1] == long.lr[-1] == [0.1 / 10 / 1e4]


# --------------------------------------------------------------------------------- steps that are none (fp16)
class Overflows(Net):
    """Has gradients that are not finite in some of its batches."""

    def __init__(self, *bad: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.bad, self.batches = bad, 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.batches += 1
        return loss * torch.inf if self.batches - 1 in self.bad else loss

    def configure_optimizers(self) -> Any:
        if self.kind != "fused AdamW":
            return super().configure_optimizers()
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, fused=True)
        return configure_one_cycle(self, optimizer, **self.arguments)


class Moves(pl.Callback):
    """Records of each batch the lr and the momentum, and whether it has moved the weights."""

    def __init__(self) -> None:
        self.lr: list[float] = []
        self.momentum: list[float] = []
        self.moved: list[bool] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        group = trainer.optimizers[0].param_groups[0]
        self.lr.append(group["lr"])
        self.momentum.append(group["betas"][0] if "betas" in group else group["momentum"])
        self.before = {name: weight.clone() for name, weight in pl_module.state_dict().items()}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.moved.append(any(not torch.equal(self.before[name], w) for name, w in pl_module.state_dict().items()))

    def of_real_steps(self) -> tuple[list[float], list[float]]:
        both = [(lr, momentum) for lr, momentum, moved in zip(self.lr, self.momentum, self.moved, strict=True) if moved]
        return [lr for lr, _ in both], [momentum for _, momentum in both]


def fp16(init_scale: float) -> MixedPrecision:
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    return MixedPrecision("16-mixed", "cpu", scaler=scaler)


def test_the_helper_counts_only_real_steps() -> None:
    net = SmallNet()
    returned: Any = configure_one_cycle(net, torch.optim.SGD(net.parameters(), lr=0.1), total_steps=10)
    assert returned["lr_scheduler"]["scheduler"].only_real_steps


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "fused AdamW"])
@pytest.mark.parametrize("bad", [(0, 1), (3, 7, 8, 15), (12,)], ids=str)
def test_real_steps_of_an_fp16_fit_use_the_policy_without_a_gap(bad: tuple[int, ...], kind: str) -> None:
    moves = Moves()
    fit = trainer([moves], max_epochs=4, plugins=[fp16(1024.0)])
    fit.fit(Overflows(*bad, kind=kind), data(128))  # 4 batches an epoch
    scheduler = fit.lr_scheduler_configs[0].scheduler
    policy, real = OneCyclePolicy(0.1, 16), 16 - len(bad)
    assert [batch for batch, moved in enumerate(moves.moved) if not moved] == list(bad)
    assert moves.of_real_steps() == (
        [policy.lr(step) for step in range(real)],
        [policy.momentum(step) for step in range(real)],
    )
    assert scheduler.last_epoch == real


def test_a_scale_that_is_too_large_at_the_start_costs_no_step_of_the_schedule() -> None:
    moves = Moves()
    trainer([moves], max_epochs=4, plugins=[fp16(2.0**24)]).fit(Net(), data(128))
    policy, real = OneCyclePolicy(0.1, 16), sum(moves.moved)
    assert 8 <= real < 16  # each overflow halves the scale
    assert not moves.moved[0]
    assert moves.of_real_steps()[0] == [policy.lr(step) for step in range(real)]


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*")
@pytest.mark.parametrize("kind", ["SGD", "fused AdamW"])
def test_resume_of_an_fp16_fit_goes_on_with_the_next_real_step(tmp_path: Path, kind: str) -> None:
    first, rest = Moves(), Moves()
    saves = ModelCheckpoint(tmp_path, "{step}", every_n_epochs=1, save_top_k=-1)
    whole = trainer([first, saves], max_epochs=4, enable_checkpointing=True, plugins=[fp16(1024.0)])
    whole.fit(Overflows(2, 5, kind=kind), data(128))
    resumed = trainer([rest], max_epochs=4, plugins=[fp16(1024.0)])
    resumed.fit(Overflows(kind=kind), data(128), ckpt_path=str(tmp_path / "step=8.ckpt"))
    policy = OneCyclePolicy(0.1, 16)
    # 8 batches of which 2 were none: step 6 is the next.
    assert rest.lr == [policy.lr(step) for step in range(6, 14)] == first.lr[8:]
    assert rest.momentum == [policy.momentum(step) for step in range(6, 14)] == first.momentum[8:]


# ------------------------------------------------------------------------------------- fine-tuning a backbone
class Backbone(SmallNet):
    """A head that is trained from the start on a backbone that `BackboneFinetuning` adds to the optimizer later."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
        self.net = nn.Sequential(self.backbone, nn.ReLU(), self.head)

    def configure_optimizers(self) -> Any:
        head = [weight for weight in self.parameters() if weight.requires_grad]
        return configure_one_cycle(self, torch.optim.SGD(head, lr=0.1, momentum=0.9))


def test_backbone_that_is_unfrozen_during_the_run_joins_the_cycle() -> None:
    finetuning = BackboneFinetuning(1, backbone_initial_ratio_lr=0.5, verbose=False)  # half the lr of the head
    scheduler, recorded = fitted(Backbone(), data(), callbacks=[finetuning])
    policy = OneCyclePolicy(0.1, 16)
    assert [lr[0] for lr in recorded.lr] == [policy.lr(step) for step in range(16)]
    assert [len(lr) for lr in recorded.lr] == [1] * 8 + [2] * 8
    assert [lr[1] for lr in recorded.lr[8:]] == pytest.approx([0.5 * policy.lr(step) for step in range(8, 16)])
    assert scheduler.max_lrs == pytest.approx([0.1, 0.05])
