"""A matrix of schedules, length changes and optimizers: each run peaks at the found lr, and ends as it should.

Each schedule meets each length change, each schedule each optimizer, and each length change each optimizer.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers

from pl_onecycle import LRRangeTest, OneCycleScheduler, configure_one_cycle
from pl_onecycle.policy import from_preset
from tests.fits import SavesFirstEpoch, SmallNet, data, trainer
from tests.test_played_schedule import by_epoch, by_step, noam
from tests.test_run_length import Rebuilds

pytestmark = [
    # torch 2.4 warns of what its own SequentialLR does.
    pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning"),
    pytest.mark.filterwarnings("ignore:The one-cycle schedule was saved for"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*"),
]
LR = 0.01
EPOCHS, BATCHES, SIZE = 3, 8, 128
STEPS = EPOCHS * BATCHES
# Where functions of the user are asked. A module is never copied, so that copies of the functions write here as well.
THIS = sys.modules[__name__]
ASKED: list[int] = []


# ---------------------------------------------------------------------------------------------------- optimizers
class Signs(Optimizer):
    """A user's own, without momentum and weight decay."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                weight -= 0.1 * group["lr"] * weight.grad.sign()
        return loss


# With the range of lrs that is tested.
OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], tuple[float, float]]] = {
    "SGD": (lambda groups, lr: torch.optim.SGD(groups, lr, momentum=0.9, foreach=True), (1e-3, 10.0)),
    "AdamW": (torch.optim.AdamW, (1e-4, 3.0)),
    "RMSprop": (torch.optim.RMSprop, (1e-4, 1.0)),
    "Adagrad": (torch.optim.Adagrad, (1e-3, 10.0)),
    "a user's own": (Signs, (1e-2, 30.0)),
}


class Recorded(pl.Callback):
    """Records the lr of each group in each step of a run, and each optimizer."""

    def __init__(self) -> None:
        self.optimizers: list[Optimizer] = []
        self.legs: list[list[list[float]]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        if not self.optimizers or self.optimizers[-1] is not optimizer:
            self.optimizers.append(optimizer)
            self.legs.append([])
        self.legs[-1].append([float(group["lr"]) for group in optimizer.param_groups])


class Net(SmallNet):
    """Two groups, the first at a fifth of the lr of the second, and what a function makes of their optimizer.

    Each time, the user takes the run to have the next of ``lengths``, in steps.
    """

    def __init__(self, optimizer: str, schedule: Callable[["Net", Optimizer], Any], lengths: list[int]) -> None:
        super().__init__(LR)
        self.optimizer_name, self.schedule, self.lengths = optimizer, schedule, lengths
        self.configured = 0

    def configure_optimizers(self) -> Any:
        first, last = self.net[0].parameters(), self.net[2].parameters()
        groups = [{"params": first, "lr": self.lr / 5}, {"params": last}]
        optimizer = OPTIMIZERS[self.optimizer_name][0](groups, lr=self.lr)
        self.configured += 1
        return self.schedule(self, optimizer)

    @property
    def steps(self) -> int:
        return self.lengths[self.configured - 1]


# ------------------------------------------------------------------------------------------------ length changes
@dataclass
class Run:
    """What a run was trained with: ``legs`` are the lrs of its cycles, by step and group."""

    make: Callable[[list[int]], Net]
    folder: Path
    test: LRRangeTest
    recorded: Recorded = field(default_factory=Recorded)
    legs: list[list[list[float]]] = field(default_factory=list)
    shortest: int = STEPS  # of the runs that were planned
    nets: list[Net] = field(default_factory=list)

    def net(self, *lengths: int) -> Net:
        self.nets.append(self.make([*lengths]))
        return self.nets[-1]

    def trainer(self, *callbacks: pl.Callback, **arguments: Any) -> pl.Trainer:
        return trainer([self.test, self.recorded, *callbacks], **{"max_epochs": EPOCHS, **arguments})

    def found(self) -> float:
        assert self.test.value is not None, self.test.why
        return self.test.value


def loader(batches: int = BATCHES, size: int = SIZE) -> Any:
    return data(batches * size, size)


def unchanged(run: Run) -> None:
    run.trainer().fit(run.net(STEPS), loader())
    run.legs = run.recorded.legs


def second_fit(run: Run) -> None:
    net, its = run.net(STEPS, 2 * STEPS), run.trainer()
    its.fit(net, loader())
    its.fit_loop.max_epochs = 3 * EPOCHS
    its.fit(net, loader())
    run.legs = run.recorded.legs
    assert [len(leg) for leg in run.legs] == [STEPS, 2 * STEPS]


def more_steps(run: Run) -> None:
    net, its = run.net(10, 30), run.trainer(max_epochs=-1, max_steps=10)
    its.fit(net, loader())
    its.fit_loop.epoch_loop.max_steps = 40
    its.fit(net, loader())
    run.legs, run.shortest = run.recorded.legs, 10
    assert [len(leg) for leg in run.legs] == [10, 30]


class Reloaded(pl.LightningDataModule):
    def __init__(self, *batches: int) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        return loader(self.batches[self.trainer.current_epoch])


def reloaded(*batches: int) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        run.trainer(reload_dataloaders_every_n_epochs=1).fit(run.net(sum(batches)), datamodule=Reloaded(*batches))
        run.legs = run.recorded.legs
        run.shortest = min(sum(batches[:k]) + batches[k] * (EPOCHS - k) for k in range(EPOCHS))
        assert [len(leg) for leg in run.legs] == [sum(batches)]

    return change


def accumulated(scheduling: dict[int, int]) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        callback = GradientAccumulationScheduler(scheduling)
        steps = sum(-(-BATCHES // callback.get_accumulate_grad_batches(epoch)) for epoch in range(EPOCHS))
        run.trainer(callback).fit(run.net(steps), loader())
        run.legs, run.shortest = run.recorded.legs, steps
        assert [len(leg) for leg in run.legs] == [steps]

    return change


def rebuilt(run: Run) -> None:
    run.trainer(Rebuilds(1)).fit(run.net(STEPS, STEPS - BATCHES), loader())
    run.legs, run.shortest = run.recorded.legs[1:], STEPS - BATCHES
    assert [len(leg) for leg in run.legs] == [STEPS - BATCHES]


def resumed(factor: int) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        path = run.folder / "first.ckpt"
        run.trainer(SavesFirstEpoch(path), enable_checkpointing=False).fit(run.net(STEPS), loader())
        more = loader(BATCHES * factor, SIZE // factor)
        run.trainer().fit(run.net(STEPS * factor), more, ckpt_path=path)
        first, second = run.recorded.legs
        run.legs = [[*first[:BATCHES], *second]]
        assert [len(leg) for leg in run.legs] == [BATCHES + (EPOCHS - 1) * BATCHES * factor]

    return change


def timed(run: Run) -> None:
    """The clock ends the run: after 40 steps of a second each, by a clock of its own."""
    seconds = [0.0]

    class Ticks(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            seconds[0] += 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: seconds[0])
        run.trainer(Ticks(), max_epochs=-1, max_time={"seconds": 40}).fit(run.net(40), loader())
    run.legs, run.shortest = run.recorded.legs, 40
    assert [len(leg) for leg in run.legs] == [40]


Change = Callable[[Run], None]
ANY_CHANGES: dict[str, Change] = {
    "unchanged": unchanged,
    "a second fit": second_fit,
    "accumulation grows": accumulated({0: 1, 1: 2}),
    "accumulation shrinks": accumulated({0: 4, 1: 1}),
    "resumed": resumed(1),
}
# To which only a schedule that follows the run can answer.
CHANGES: dict[str, Change] = ANY_CHANGES | {
    "data grow": reloaded(6, 10, 14),
    "data shrink": reloaded(14, 10, 6),
    "resumed with half the batch": resumed(2),
    "more steps": more_steps,
    "rebuilt": rebuilt,
    "the clock": timed,
}


# ------------------------------------------------------------------------------------------------------ schedules
# Arguments of `from_preset`.
ONE_CYCLES: dict[str, dict[str, Any]] = {
    "smith": {"preset": "smith"},
    "plateau": {"preset": "smith", "pct_plateau": 0.2},
    "torch": {"preset": "torch"},
    "three phases": {"preset": "torch_three_phase"},
    "fastai": {"preset": "fastai"},
    "exp_decay": {"preset": "exp_decay", "rampup_epochs": 6, "sustain_epochs": 2, "exp_decay": 0.9},
    "without length": {"preset": "smith"},
}


def configured(schedule: str) -> Callable[[Net, Optimizer], Any]:
    def configure(net: Net, optimizer: Optimizer) -> Any:
        if schedule == "without length":  # and stepped once an epoch, if Lightning had its way
            return [optimizer], [OneCycleScheduler(optimizer)]
        return configure_one_cycle(net, optimizer, **ONE_CYCLES[schedule])

    return configure


def asked(factor: Callable[[int], float]) -> Callable[[int], float]:
    def noted(step: int) -> float:
        THIS.ASKED.append(step)
        return factor(step)

    return noted


class Counts:
    """A factor that depends on how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        THIS.ASKED.append(step)
        self.calls += 1
        return 0.5 + self.calls / 100


def looked_up(opt: Optimizer, steps: int) -> Any:
    table = [1 + k / 10 for k in range(steps)] + [0.0]  # asked once more, after the last step
    return by_step(schedulers.LambdaLR(opt, asked(lambda step: table[step])))


def linear(opt: Optimizer, steps: int) -> Any:
    """As ``get_linear_schedule_with_warmup`` of transformers."""
    warm_up = 4

    def factor(step: int) -> float:
        return step / warm_up if step < warm_up else max(0.0, (steps - step) / (steps - warm_up))

    return by_step(schedulers.LambdaLR(opt, asked(factor)))


def warmed_up(opt: Optimizer, steps: int) -> Any:
    warm = schedulers.LinearLR(opt, 0.1, total_iters=4)
    return by_step(schedulers.SequentialLR(opt, [warm, schedulers.CosineAnnealingLR(opt, steps - 4)], [4]))


def chained(opt: Optimizer, steps: int) -> Any:
    both = [schedulers.ConstantLR(opt, 0.5, steps // 2), schedulers.ExponentialLR(opt, 0.95)]
    return by_step(schedulers.ChainedScheduler(both, opt))


def of_timm(opt: Optimizer, steps: int) -> Any:
    timm = pytest.importorskip("timm.scheduler")
    return by_epoch(timm.CosineLRScheduler(opt, 3 * EPOCHS, warmup_t=1, warmup_lr_init=1e-4))


class StepsTimm(Net):
    first = 0

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step(self.current_epoch + 1 - self.first)

    def on_fit_start(self) -> None:
        self.first = 0 if self.trainer.ckpt_path else self.current_epoch


USERS: dict[str, Callable[[Optimizer, int], Any]] = {
    "constant": lambda opt, steps: [],
    "OneCycleLR": lambda opt, steps: by_step(
        schedulers.OneCycleLR(opt, [group["lr"] for group in opt.param_groups], steps, cycle_momentum=False)
    ),
    "cosine": lambda opt, steps: by_step(schedulers.CosineAnnealingLR(opt, steps)),
    "looked up": looked_up,
    "warmed up": warmed_up,
    "chained": chained,
    "milestones": lambda opt, steps: by_epoch(schedulers.MultiStepLR(opt, [1, 2])),
    "polynomial": lambda opt, steps: by_step(schedulers.PolynomialLR(opt, steps, 2.0)),
    "linear": linear,
    "Noam": lambda opt, steps: by_step(schedulers.LambdaLR(opt, asked(noam))),
    "stateful": lambda opt, steps: by_step(schedulers.LambdaLR(opt, [Counts(), Counts()])),
    "by epoch": lambda opt, steps: by_epoch(schedulers.LambdaLR(opt, asked(lambda epoch: 1 + epoch))),
    "plateau": lambda opt, steps: by_epoch(schedulers.ReduceLROnPlateau(opt, patience=0), monitor="train_loss"),
    "cyclic": lambda opt, steps: by_step(
        schedulers.CyclicLR(
            opt,
            [group["lr"] / 10 for group in opt.param_groups],
            [group["lr"] for group in opt.param_groups],
            step_size_up=3,
            cycle_momentum=False,
        )
    ),
    "timm": of_timm,
}


def cells(schedules: dict[str, Any], changes: dict[str, Change]) -> list[Any]:
    """Each schedule with each change; the optimizers take turns."""
    names = [*OPTIMIZERS]
    return [
        pytest.param(schedule, change, names[(i + j) % len(names)], id=f"{schedule}-{change}-{names[(i + j) % 5]}")
        for i, schedule in enumerate(schedules)
        for j, change in enumerate(changes)
    ]


def played(make: Callable[[list[int]], Net], change: Change, optimizer: str, folder: Path) -> Run:
    low, high = OPTIMIZERS[optimizer][1]
    run = Run(make, folder, LRRangeTest(low, high, num_steps=24, report=False))
    change(run)
    return run


def largest_step(lrs: list[float]) -> float:
    return max(abs(after - before) for before, after in pairwise(lrs))


@pytest.mark.parametrize(("schedule", "change", "optimizer"), cells(ONE_CYCLES, CHANGES))
def test_a_cycle_follows_its_run(schedule: str, change: str, optimizer: str, tmp_path: Path) -> None:
    run = played(lambda them: Net(optimizer, configured(schedule), them), CHANGES[change], optimizer, tmp_path)
    plan = from_preset(max_lr=run.found(), total_steps=run.shortest, **ONE_CYCLES[schedule])
    values = [plan.lr(step) for step in range(run.shortest)]
    annihilates = plan.pct_annihilation > 0 and schedule != "fastai"
    for leg in run.legs:
        lrs = [rates[1] for rates in leg]
        assert max(lrs) == pytest.approx(run.found(), rel=0.05)
        assert [rates[0] for rates in leg] == pytest.approx([lr / 5 for lr in lrs])
        assert lrs[-1] <= 1.001 * values[-1]
        if annihilates:
            assert lrs[-1] == pytest.approx(run.found() / plan.div_factor / plan.final_div_factor)
            assert lrs.count(lrs[-1]) <= 4
        if (schedule, change) != ("exp_decay", "the clock"):  # its rise of six steps was planned for another length
            assert largest_step(lrs) <= 2 * largest_step(values)


@pytest.mark.parametrize(("schedule", "change", "optimizer"), cells(USERS, ANY_CHANGES))
def test_a_schedule_of_the_user_peaks_at_the_found_lr(
    schedule: str, change: str, optimizer: str, tmp_path: Path
) -> None:
    kind = StepsTimm if schedule == "timm" else Net
    ASKED.clear()
    run = played(
        lambda them: kind(optimizer, lambda net, opt: ([opt], USERS[schedule](opt, net.steps)), them),
        ANY_CHANGES[change],
        optimizer,
        tmp_path,
    )
    for leg in run.legs:
        lrs = [rates[1] for rates in leg]
        assert max(lrs) == pytest.approx(run.found(), rel=1e-6)
        assert max(rates[0] for rates in leg) == pytest.approx(run.found() / 5, rel=1e-6)
    assert {*ASKED} <= {*range(max(map(len, run.recorded.legs)) + 1)}
