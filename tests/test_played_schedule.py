"""The peak of a run is that of its schedulers, stepped on copies as Lightning steps them, and nothing is used up."""

import itertools
import logging
import math
import random
from collections.abc import Callable, Generator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers

from pl_onecycle import LRRangeTest, OneCycleSettings, WeightDecayProbe
from pl_onecycle.run_optimizer import RunOptimizer
from tests.fits import LRs, SmallNet, data, line, trainer
from tests.test_run_optimizer import at_step

# torch 2.4 warns of what its own SequentialLR does.
pytestmark = pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
EPOCHS, BATCHES = 4, 8
STEPS = EPOCHS * BATCHES

# From a scheduler of this kind to its configuration for Lightning.
Make = Callable[[Optimizer], list[dict[str, Any]]]


def by_step(scheduler: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"scheduler": scheduler, "interval": "step", **more}]


def by_epoch(scheduler: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"scheduler": scheduler, "interval": "epoch", **more}]


class Within:
    """A factor that is an error outside the steps at which the run asks for it."""

    def __init__(self, last: int, factor: Callable[[int], float]) -> None:
        self.last, self.factor = last, factor

    def __call__(self, step: int) -> float:
        if step > self.last:
            raise IndexError(f"{step} > {self.last}")
        return self.factor(step)


class Triangle(schedulers.LRScheduler):
    """A user's own: up to three times the base in the middle of the run."""

    def get_lr(self) -> list[Any]:
        return [base * (1 + 2 * (1 - abs(self.last_epoch / 16 - 1))) for base in self.base_lrs]


def warm_then_cosine(optimizer: Optimizer) -> list[dict[str, Any]]:
    warm = schedulers.LambdaLR(optimizer, Within(3, lambda k: (k + 1) / 4))  # 4 is beyond its milestone
    rest = schedulers.CosineAnnealingLR(optimizer, STEPS - 4)
    return by_step(schedulers.SequentialLR(optimizer, [warm, rest], [4]))


def late_lambda(optimizer: Optimizer) -> list[dict[str, Any]]:
    flat = schedulers.ConstantLR(optimizer, 0.5, 4)
    rest = schedulers.LambdaLR(optimizer, Within(STEPS - 4, lambda k: 1 + k / 10))
    return by_step(schedulers.SequentialLR(optimizer, [flat, rest], [4]))


def noam(step: int) -> float:
    return float(32**-0.5 * min((step + 1) ** -0.5, (step + 1) * 10**-1.5))


# With the peak of a run that is built with an lr of 0.01.
KINDS: dict[str, tuple[Make, float]] = {
    "warm-up that is not clipped": (warm_then_cosine, 0.01),
    "lambda from a milestone on": (late_lambda, 0.01 * (1 + 2.7)),  # k is 27 in the last step, 31
    "Noam": (lambda opt: by_step(schedulers.LambdaLR(opt, noam)), 0.01 * 320**-0.5),  # at k = 9
    "by epoch": (lambda opt: by_epoch(schedulers.LambdaLR(opt, Within(4, lambda k: 1 + k))), 0.04),
    "every third step": (
        # 8 batches an epoch: after the third and the sixth of each, 8 times in all.
        lambda opt: by_step(schedulers.LambdaLR(opt, Within(8, lambda k: 1 + k)), frequency=3),
        0.09,
    ),
    "every second epoch": (
        lambda opt: by_epoch(schedulers.LambdaLR(opt, Within(2, lambda k: 1 + k)), frequency=2),
        0.02,
    ),
    "two intervals": (
        lambda opt: (
            by_step(schedulers.ConstantLR(opt, 1.0, 1)) + by_epoch(schedulers.LambdaLR(opt, Within(4, lambda k: 1 + k)))
        ),
        0.04,
    ),
    "chained": (
        lambda opt: by_step(
            schedulers.ChainedScheduler(
                [schedulers.ConstantLR(opt, 0.5, 16), schedulers.MultiplicativeLR(opt, Within(32, lambda k: 1.01))],
                optimizer=opt,
            )
        ),
        0.01 * 1.01**31,
    ),
    "multiplied": (lambda opt: by_step(schedulers.MultiplicativeLR(opt, Within(32, lambda k: 1.1))), 0.01 * 1.1**31),
    "constant below its base": (lambda opt: by_step(schedulers.ConstantLR(opt, 0.25, 100)), 0.0025),
    "a user's own": (lambda opt: by_step(Triangle(opt)), 0.03),
    "a user's own shape": (
        lambda opt: by_step(
            schedulers.CyclicLR(
                opt, 0.01, 0.05, step_size_up=8, scale_fn=lambda k: 0.5, scale_mode="cycle", cycle_momentum=False
            )
        ),
        0.03,
    ),
    "OneCycleLR": (lambda opt: by_step(schedulers.OneCycleLR(opt, 0.05, STEPS, pct_start=0.25)), 0.05),
    "OneCycleLR of ten runs": (
        lambda opt: by_step(schedulers.OneCycleLR(opt, 0.05, 10 * STEPS, anneal_strategy="linear")),
        0.05 / 25 + (0.05 - 0.05 / 25) * 31 / 95,
    ),
}
by_kind = pytest.mark.parametrize(("make", "peak"), KINDS.values(), ids=KINDS)


class Scheduled(SmallNet):
    """SGD of two groups under the schedulers that a function makes."""

    def __init__(self, make: Make, lr: float = 0.01) -> None:
        super().__init__(lr)
        self.make = make

    def configure_optimizers(self) -> Any:
        first, last = self.net[0].parameters(), self.net[2].parameters()
        groups: list[dict[str, Any]] = [{"params": first, "lr": self.lr / 10}, {"params": last}]
        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=0.9)
        return [optimizer], self.make(optimizer)


def run_with(module: pl.LightningModule, *callbacks: pl.Callback, **arguments: Any) -> list[float]:
    """Largest lr of each step of a run."""
    lrs = LRs()
    trainer([*callbacks, lrs], **{"max_epochs": EPOCHS, **arguments}).fit(module, data())
    return [max(rates) for rates in lrs.lr]


class Uses(pl.Callback):
    """Makes 0.5 the peak at the start of an epoch."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        self.before, self.after, self.changed = math.nan, math.nan, list[str]()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            run = RunOptimizer(trainer, 0)
            self.before = run.peak
            self.changed = run.use_max_lr(0.5)
            self.after = run.peak


@by_kind
def test_the_peak_is_that_of_the_run(make: Make, peak: float) -> None:
    own = run_with(Scheduled(make))
    use = Uses()
    run = run_with(Scheduled(make), use)
    assert max(own) == pytest.approx(peak, rel=1e-9)
    assert use.before == pytest.approx(max(own), rel=1e-9)
    assert max(run) == pytest.approx(use.after, rel=1e-9) == pytest.approx(0.5, rel=1e-9)
    if peak < 0.5 and "CyclicLR" not in use.changed:
        assert run == pytest.approx([lr * 0.5 / max(own) for lr in own], rel=1e-9)


@by_kind
def test_the_peak_is_that_of_the_whole_run_in_its_middle_too(make: Make, peak: float) -> None:
    use = Uses(epoch=3)
    run = run_with(Scheduled(make), use)
    rest = max(run[3 * BATCHES :])
    said = [it for it in use.changed if it.startswith("with which")]
    if said:  # the peak is over
        assert said == [f"with which the largest lr of the run from here on is {rest:.3g}"]
    else:
        assert rest == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_epochs": 3, "accumulate_grad_batches": 3},
        {"max_epochs": -1, "max_steps": 11},
        {"max_epochs": 9, "max_steps": 20},
        {"max_epochs": 3, "limit_train_batches": 5},
    ],
    ids=["accumulated", "max_steps", "both", "limited"],
)
@pytest.mark.parametrize("interval", [by_step, by_epoch])
@pytest.mark.parametrize("frequency", [1, 2])
def test_the_domain_is_that_of_the_run(arguments: dict[str, Any], interval: Any, frequency: int) -> None:
    asked: list[int] = []

    def grows(step: int) -> float:
        asked.append(step)
        return 1.0 + step

    def make(optimizer: Optimizer) -> list[dict[str, Any]]:
        return interval(schedulers.LambdaLR(optimizer, grows), frequency=frequency)  # type: ignore[no-any-return]

    own, domain = run_with(Scheduled(make), **arguments), {*asked}

    def only(step: int) -> float:
        assert step in domain
        return 1.0 + step

    use = Uses()
    run_with(
        Scheduled(lambda optimizer: interval(schedulers.LambdaLR(optimizer, only), frequency=frequency)),
        use,
        **arguments,
    )
    assert use.before == pytest.approx(max(own), rel=1e-12)


# ------------------------------------------------------------------------------------------- state of the user
@pytest.mark.parametrize("is_applied", [True, False])
@pytest.mark.parametrize(
    "factors",
    [lambda: iter([2.0] * 90), lambda: (2.0 for _ in range(90)), lambda: itertools.repeat(2.0, 90)],
    ids=["list", "generator", "repeat"],
)
def test_values_that_an_iterator_yields_are_left_to_the_run(
    factors: Any, is_applied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    left = []
    for with_test in (False, True):
        values = factors()
        module = Scheduled(
            lambda optimizer, it=values: by_step(schedulers.LambdaLR(optimizer, lambda k: next(it)))  # type: ignore[misc]
        )
        with caplog.at_level(logging.INFO):
            run_with(module, *([LRRangeTest(apply=is_applied, report=False)] if with_test else []))
        left.append(len([*values]))
    assert left == [90 - 2 * (STEPS + 1)] * 2  # of two groups
    if isinstance(factors(), Generator) and is_applied:
        assert "LambdaLR cannot be copied (TypeError: cannot pickle 'generator' object)" in line(caplog)
        assert line(caplog).startswith("LR range test: base lr 0.01 → ")


def test_a_test_that_only_suggests_calls_no_function_of_the_user(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[int] = []

    def factor(step: int) -> float:
        asked.append(step)
        return 0.1

    module = Scheduled(lambda optimizer: by_step(schedulers.LambdaLR(optimizer, factor)))
    with caplog.at_level(logging.INFO):
        run_with(module, LRRangeTest(apply=False, report=False))
    assert asked == [step for step in range(STEPS + 1) for _ in range(2)]  # of two groups
    assert line(caplog).splitlines()[0].endswith("; not applied, base lr stays 0.01")


def test_random_streams_are_as_before() -> None:
    module = Scheduled(lambda optimizer: by_step(schedulers.LambdaLR(optimizer, lambda k: random.uniform(0.5, 1))))

    def drawn(run: RunOptimizer) -> Any:
        before = random.getstate()
        assert 0.005 <= run.peak <= 0.01
        return before == random.getstate()

    assert at_step(drawn, module)


def test_a_schedule_that_is_stepped_by_hand_has_no_known_peak(caplog: pytest.LogCaptureFixture) -> None:
    class ByHand(Scheduled):
        def __init__(self) -> None:
            super().__init__(lambda opt: by_step(schedulers.LambdaLR(opt, Within(EPOCHS, lambda k: (5 - k) ** 0.5))))
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

        def on_train_epoch_end(self) -> None:
            self.lr_schedulers().step()  # type: ignore[union-attr]

    with caplog.at_level(logging.INFO):
        run_with(ByHand(), LRRangeTest(report=False))
    what, note, *_ = line(caplog).splitlines()
    assert what.startswith("LR range test: base lr 0.01 → ")
    assert note == "  as the base of the schedule only, because LambdaLR is stepped by hand and its peak is not known"


def test_a_module_with_its_own_step_is_asked_on_a_copy() -> None:
    class Own(Scheduled):
        asked = 0

        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            self.asked += 1
            scheduler.step(self.current_epoch + 1)

    module = Own(lambda opt: by_epoch(schedulers.LambdaLR(opt, Within(4, lambda k: 1 + k))))
    use = Uses()
    run = run_with(module, use)
    assert use.before == pytest.approx(0.04)
    assert max(run) == pytest.approx(0.5)
    assert module.asked == EPOCHS


# ----------------------------------------------------------------------------------------- floors and users of the peak
@pytest.mark.parametrize(
    ("make", "floor"),
    [
        (
            lambda opt: by_step(schedulers.CosineAnnealingLR(opt, STEPS, eta_min=0.9)),
            r"eta_min=0\.9 of CosineAnnealingLR",
        ),
        (
            lambda opt: by_epoch(schedulers.ReduceLROnPlateau(opt, min_lr=0.9), monitor="train_loss"),
            r"min_lrs=0\.9 of ReduceLROnPlateau",
        ),
        (
            lambda opt: by_step(
                schedulers.SequentialLR(
                    opt,
                    [
                        schedulers.LinearLR(opt, 0.1, total_iters=4),
                        schedulers.CosineAnnealingWarmRestarts(opt, 8, eta_min=0.9),
                    ],
                    [4],
                )
            ),
            r"eta_min=0\.9 of CosineAnnealingWarmRestarts",
        ),
    ],
    ids=["cosine", "plateau", "in a sequence"],
)
def test_a_floor_above_the_found_peak_is_warned_of(make: Make, floor: str) -> None:
    use = Uses()
    with pytest.warns(UserWarning, match=rf"^The floor {floor} is above the found max_lr 0\.5: "):
        run = run_with(Scheduled(make), use)
    if max(run) > 0.51:
        assert f"with which the largest lr of the run from here on is {max(run):.3g}" in use.changed


def test_a_plateau_alone_peaks_where_it_begins() -> None:
    use = Uses()
    run = run_with(
        Scheduled(lambda opt: by_epoch(schedulers.ReduceLROnPlateau(opt, patience=0), monitor="train_loss")), use
    )
    assert use.before == 0.01
    assert max(run) == 0.5
    assert use.changed == ["2 parameter groups", "ReduceLROnPlateau", "module.lr"]


def test_a_plateau_after_a_warm_up_may_end_it_early_and_the_log_says_so() -> None:
    use = Uses()

    def make(opt: Optimizer) -> list[dict[str, Any]]:
        plateau = by_epoch(schedulers.ReduceLROnPlateau(opt, patience=99), monitor="train_loss")
        return by_step(schedulers.LinearLR(opt, 0.1, total_iters=STEPS // 2)) + plateau

    run = run_with(Scheduled(make), use)
    assert max(run) == pytest.approx(0.5)
    assert use.changed == [
        *("2 parameter groups", "LinearLR", "ReduceLROnPlateau", "module.lr"),
        "unless ReduceLROnPlateau lowers it before its peak, which only the metrics of the run show",
    ]


def test_probes_and_settings_know_the_peak_of_the_run(caplog: pytest.LogCaptureFixture) -> None:
    make, peak = KINDS["Noam"]
    with caplog.at_level(logging.INFO):
        run_with(Scheduled(make), WeightDecayProbe([1e-3, 1e-4], 10, report=False))
    assert f"max_lr {peak:.3g}" in line(caplog, "Weight decay probe")
    assert max(run_with(Scheduled(make), OneCycleSettings(max_lr=0.5))) == pytest.approx(0.5, rel=1e-9)


# --------------------------------------------------------------------------------------------- other packages
def test_schedulers_of_timm_peak_at_the_found_lr() -> None:
    timm = pytest.importorskip("timm.scheduler")

    class Timm(Scheduled):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.step(epoch=self.current_epoch + 1)

    def make(optimizer: Optimizer) -> list[dict[str, Any]]:
        return by_epoch(timm.CosineLRScheduler(optimizer, EPOCHS, warmup_t=2, warmup_lr_init=1e-4))

    own, use = run_with(Timm(make)), Uses()
    run = run_with(Timm(make), use)
    assert use.before == max(own)
    assert run == pytest.approx([lr * 0.5 / max(own) for lr in own], rel=1e-9)
