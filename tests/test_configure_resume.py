"""The helper in fits that are resumed, and in fits of which fp16 skips steps."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision

from pl_onecycle.configure import configure_one_cycle
from pl_onecycle.policy import OneCyclePolicy
from tests.cycled import Net, curves
from tests.fits import LRs, data, trainer


def checkpointed(recorded: LRs, folder: Path, max_epochs: int) -> pl.Trainer:
    """A Trainer that saves a checkpoint after each epoch."""
    checkpoints = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    return trainer([recorded, checkpoints], max_epochs=max_epochs, enable_checkpointing=True)


@pytest.mark.parametrize("done", [1, 2])
def test_resumed_fit_continues_exactly(tmp_path: Path, done: int) -> None:
    whole, rest = LRs(), LRs()
    checkpointed(whole, tmp_path, 3).fit(Net(), data())
    checkpointed(rest, tmp_path, 3).fit(Net(lr=5.0), data(), ckpt_path=str(tmp_path / f"epoch={done - 1}.ckpt"))
    assert (whole.lr, whole.momentum) == curves(OneCyclePolicy(0.1, 24), 24)
    assert (rest.lr, rest.momentum) == (whole.lr[8 * done :], whole.momentum[8 * done :])


def test_resume_in_a_longer_run_stretches_what_is_left(tmp_path: Path) -> None:
    short, rest = LRs(), LRs()
    checkpointed(short, tmp_path, 2).fit(Net(), data())
    longer = checkpointed(rest, tmp_path, 5)
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
    shorter.fit(Net(), data(), ckpt_path=str(tmp_path / "epoch=0.ckpt"))
    assert rest.lr[0] == long.lr[8]
    assert max(rest.lr) == [0.1]  # its peak, at step 14 of 32, was ahead
    assert rest.lr[-1] == long.lr[-1] == [0.1 / 10 / 1e4]


# ----------------------------------------------------------------------------------------------- steps that fp16 skips
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


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "fused AdamW"])
@pytest.mark.parametrize("bad", [(0, 1), (3, 7, 8, 15), (12,)], ids=str)
def test_real_steps_of_an_fp16_fit_use_the_policy_without_a_gap(bad: tuple[int, ...], kind: str) -> None:
    moves = Moves()
    fit = trainer([moves], max_epochs=4, plugins=[fp16(1024.0)])
    fit.fit(Overflows(*bad, kind=kind, total_steps=16), data(128))  # 4 batches an epoch; a given length stays
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
    trainer([moves], max_epochs=4, plugins=[fp16(2.0**24)]).fit(Net(total_steps=16), data(128))
    policy, real = OneCyclePolicy(0.1, 16), sum(moves.moved)
    assert 8 <= real < 16  # each overflow halves the scale
    assert not moves.moved[0]
    assert moves.of_real_steps()[0] == [policy.lr(step) for step in range(real)]


def test_steps_that_are_skipped_do_not_keep_the_cycle_from_ending_with_the_run() -> None:
    moves = Moves()
    trainer([moves], max_epochs=4, plugins=[fp16(1024.0)]).fit(Overflows(1, 2, 4, 6, 7), data())  # 8 batches an epoch
    lrs, _ = moves.of_real_steps()
    assert len(lrs) == 32 - 5
    assert max(lrs) == pytest.approx(0.1, rel=0.02)
    assert lrs[-1] == pytest.approx(0.1 / 10 / 1e4)


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*")
@pytest.mark.parametrize("kind", ["SGD", "fused AdamW"])
def test_resume_of_an_fp16_fit_continues_with_the_next_real_step(tmp_path: Path, kind: str) -> None:
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
