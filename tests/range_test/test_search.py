"""Which sweeps the range test runs, and what ends them."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from pl_onecycle import LRRangeTest, OneCyclePolicy, OneCycleScheduler, configure_one_cycle, suggest
from pl_onecycle.sentences import factor, short
from tests.fits import LRs, Momentum, SmallNet, data, line, lines, same, trainer, weights_of
from tests.range_test.made import Constant, Valley, Watched, fit_unchanged, one_step, watched, with_milestones


@pytest.mark.parametrize("method", ["trough", "smith", "steepest", "valley", "slide", "minimum"])
def test_the_suggestion_is_that_of_the_pure_function(method: Any) -> None:
    test = LRRangeTest(method=method)
    trainer([test]).fit(Momentum(), data())
    assert test.curve is not None
    assert test.suggestion is not None
    assert test.suggestion == suggest(test.curve, method)


@pytest.mark.parametrize("mode", ["exponential", "linear", "staircase"])
def test_every_mode_sweeps_to_the_end(mode: Any) -> None:
    test = LRRangeTest(1e-3, 0.1, 20, mode=mode, early_stop_threshold=None)
    trainer([test]).fit(SmallNet(), data())
    assert test.curve is not None
    assert (test.curve.lr[0], test.curve.lr[-1]) == (1e-3, 0.1)
    assert len(set(test.curve.lr)) == (10 if mode == "staircase" else 20)


# -------------------------------------------------------------------------------------------------- coarse, then dense
class Rising(Watched):
    """The larger the lr of the step before, the larger its loss."""

    def observed(self, batch: Any) -> Any:
        before = self.lrs[-2] if len(self.lrs) > 1 else 0.0
        return 1.0 + before + 0 * self.loss(batch)


class OnlyNaN(Watched):
    def observed(self, batch: Any) -> Any:
        return math.nan * self.loss(batch)


class Slow(Watched):
    """Begins to learn where others explode."""

    def observed(self, batch: Any) -> Any:
        return 1e-4 * self.loss(batch)


@pytest.mark.parametrize("kind", [Watched, Constant, Rising, OnlyNaN, Slow])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_by_default_no_more_than_150_steps_are_trained(kind: type[Watched], accumulate: int) -> None:
    test = LRRangeTest(apply=False, report=False)
    options = {"accumulate_grad_batches": accumulate, "limit_train_batches": accumulate, "max_steps": -1}
    lrs = one_step(test, watched(kind), **options)
    module_steps = len(lrs) - (accumulate - 1)  # the real step's other micro-batch
    assert module_steps % accumulate == 0
    assert module_steps // accumulate == test.steps
    assert 2 <= test.steps <= 150
    assert test.curve is not None
    assert 1 <= len(test.coarse) <= 2
    assert (test.suggestion is not None) == (kind in (Watched, Slow))


def test_a_default_test_reads_a_dense_sweep_that_follows_a_coarse_one(caplog: pytest.LogCaptureFixture) -> None:
    test = LRRangeTest(apply=False, report=False)
    with caplog.at_level("INFO"):
        lrs = one_step(test, watched())
    [coarse], curve = test.coarse, test.curve
    assert curve is not None
    # Both in the order of the steps, each with one step more than it has points.
    assert lrs[: len(coarse)] == list(coarse.lr)
    assert lrs[len(coarse) + 1 :][: len(curve)] == list(curve.lr)
    assert test.steps == len(lrs) == len(coarse) + 1 + len(curve) + 1
    assert coarse.lr[0] == 1e-7
    density = [(len(it) - 1) / math.log10(it.lr[-1] / it.lr[0]) for it in (coarse, curve)]
    assert density == pytest.approx([6.0, 28.0])
    assert coarse.initial_loss == curve.initial_loss  # of the same weights and batch
    assert test.suggestion == suggest(curve)
    assert test.suggestion is not None
    assert line(caplog).splitlines() == [
        f"LR range test: suggests max_lr {short(test.suggestion.lr)}{factor(0.01, test.suggestion.lr)};"
        " not applied, max_lr stays 0.01",
        f"  trough: {test.suggestion.reason}",
        f"  {len(lrs)} of 150 steps, {curve.outcome}",
    ]


class Jumpy(Watched):
    """Falls up to an lr of 1, but explodes from 1e-3 on where a step is much larger than the one before."""

    def observed(self, batch: Any) -> Any:
        before, last = self.lrs[-3:-1] if len(self.lrs) > 2 else (1e-9, 1e-9)
        jumps = before > 1e-3 and last / before > 1.2
        depth = min(max(math.log10(last) + 4, 0.0), 4.0)
        return (20.0 if jumps else 5.0 - depth) + 0 * self.loss(batch)


def test_a_loss_that_still_falls_at_the_end_of_the_dense_sweep_is_followed_higher(
    caplog: pytest.LogCaptureFixture,
) -> None:
    test = LRRangeTest(apply=False, report=False)
    with caplog.at_level("INFO"):
        lrs = one_step(test, watched(Jumpy))
    [_, below], curve = test.coarse, test.curve
    assert curve is not None
    assert test.suggestion is not None
    assert below.lr[-1] < 0.02 < 0.1 < test.suggestion.lr < 1 < curve.lr[-1]
    assert 150 < test.steps == len(lrs) <= 300
    assert lines(caplog)[0] == (
        "LR range test: the loss still falls at the end of the sweep, so another one goes higher,"
        " at most 300 steps instead of 150"
    )


class Exhausted(Jumpy):
    """Falls as `Jumpy` does in two sweeps, and no longer in the third one."""

    def observed(self, batch: Any) -> Any:
        restarts = sum(after < before for before, after in itertools.pairwise(self.lrs))
        return super().observed(batch) if restarts < 2 else 5.0 + 0 * self.loss(batch)


def test_the_sweep_below_is_read_where_the_higher_one_shows_nothing() -> None:
    test = LRRangeTest(apply=False, report=False)
    one_step(test, watched(Exhausted))
    [_, higher], curve = test.coarse, test.curve
    assert curve is not None
    assert set(higher.loss) == {5.0}
    assert curve.lr[-1] < 0.02 < 0.1 < higher.lr[-1]
    assert test.suggestion == suggest(curve)
    assert test.suggestion is not None


class Drowned(Watched):
    """Falls around an lr of 0.01, by far less than its batches differ by, and explodes from 0.1 on."""

    def observed(self, batch: Any) -> Any:
        before = math.log10(self.lrs[-2]) if len(self.lrs) > 1 else -9.0
        signal = 50.0 * (before + 1) if before > -1 else min((before + 2) ** 2, 1.0)
        return 20.0 * torch.frac(1e3 * batch[0].sum()) + signal + 0 * self.loss(batch)


def test_a_fall_that_noise_hides_is_found_with_the_same_batches_at_an_lr_near_0(
    caplog: pytest.LogCaptureFixture,
) -> None:
    test = LRRangeTest(apply=False, report=False)
    with caplog.at_level("INFO"):
        lrs = one_step(test, watched(Drowned))
    [coarse], curve = test.coarse, test.curve
    assert curve is not None
    assert (len(curve.control), len(coarse.control)) == (len(curve), len(coarse))
    # Coarse, its control, dense, its control; each with one step more than it has points.
    assert test.steps == len(lrs) == 2 * (len(coarse) + 1) + 2 * (len(curve) + 1)
    assert 150 < test.steps <= 300
    first, second = len(coarse) + 1, 2 * (len(coarse) + 1)
    assert lrs[first : second - 1] == pytest.approx([coarse.lr[0] * 1e-6] * len(coarse))
    assert lrs[second : second + len(curve)] == list(curve.lr)
    assert test.suggestion is not None
    assert math.log10(test.suggestion.lr) == pytest.approx(-2.3, abs=0.4)
    said = [record.getMessage() for record in caplog.records if "noise hides the fall" in record.getMessage()]
    assert len(said) == 1
    assert "at most 300 steps instead of 150" in said[0]
    assert any(f"{test.steps} of 300 steps, completed" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("shift", [-2, 2])
def test_a_loss_times_c_moves_the_suggestion_of_a_real_sweep_by_as_much(shift: int) -> None:
    class Scaled(Watched):
        def observed(self, batch: Any) -> Any:
            return 10.0**-shift * self.loss(batch)

    found = []
    for kind in (Watched, Scaled):
        test = LRRangeTest(apply=False, report=False)
        one_step(test, watched(kind))
        assert test.suggestion is not None
        found.append(math.log10(test.suggestion.lr))
    assert found[1] - found[0] == pytest.approx(shift, abs=0.15)


def test_num_steps_asks_for_one_sweep_over_exactly_the_range() -> None:
    test = LRRangeTest(1e-5, 1e-2, num_steps=30, apply=False, report=False)
    lrs = one_step(test, watched())
    assert test.coarse == []
    assert test.steps == 31
    assert lrs[:30] == pytest.approx([1e-5 * 10 ** (3 * k / 29) for k in range(30)])
    assert test.curve is not None
    assert list(test.curve.lr) == lrs[:30]


@pytest.mark.parametrize("mode", ["linear", "staircase"])
def test_stairs_and_linear_ranges_take_one_sweep_of_100_steps(mode: Any) -> None:
    test = LRRangeTest(1e-5, 1e-2, mode=mode, apply=False, report=False, early_stop_threshold=None)
    one_step(test, watched())
    assert test.coarse == []
    assert test.curve is not None
    assert (len(test.curve), test.steps) == (100, 101)


# ------------------------------------------------------------------------------------------------- a sweep that raises
class Explodes(Valley):
    """Its weights are infinite after a step with an lr above 2, and then its loss raises, as many do."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        [weight, *_] = self.parameters()
        if self.last > 2 and weight.isfinite().all():
            with torch.no_grad():
                weight.fill_(math.inf)
        elif self.last > 2:
            nn.functional.binary_cross_entropy(self.net(batch[0]).softmax(1)[:, 0], batch[0][:, 0].sigmoid())
        return loss


def test_a_loss_that_raises_when_it_diverges_ends_the_sweep_and_not_the_fit(caplog: pytest.LogCaptureFixture) -> None:
    test, lrs, module = with_milestones(), LRs(), Explodes(1.0)
    before = weights_of(module)
    said = "^A trial has diverged and ended in RuntimeError: all elements of input"
    with caplog.at_level("INFO"), pytest.warns(UserWarning, match=said):
        trainer([test, lrs]).fit(module, data())
    assert test.curve is not None
    assert test.curve.outcome == "diverged"
    # 1e-4 * 10^(5 k / 39) is above 2 from k = 34 on: 4.3 / 5 * 39 = 33.55.
    assert len(test.curve) == 35
    assert math.isnan(test.curve.loss[-1])
    assert all(math.isfinite(loss) for loss in test.curve.loss[:-1])
    assert test.suggestion is not None
    what, *_, how = line(caplog).splitlines()
    assert what.startswith(f"LR range test: max_lr 0.01 → {short(test.suggestion.lr)} (×")
    assert how == "  35 of 40 steps, diverged"
    assert lrs.lr == [[test.suggestion.lr]] * 16
    assert same(before, weights_of(module))  # of slope zero


def test_an_exception_of_another_cause_ends_the_fit_and_leaves_the_model_as_it_was() -> None:
    class Fails(SmallNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 5:
                raise ValueError("a bad row")
            return super().training_step(batch, batch_idx)

    module, lrs = Fails(), LRs()
    before = weights_of(module)
    with pytest.raises(ValueError, match="a bad row"):
        trainer([LRRangeTest(), lrs]).fit(module, data())
    assert lrs.lr == []
    assert same(before, weights_of(module))


# ------------------------------------------------------------------------------------------------------- no suggestion
def test_a_loss_that_is_nan_from_the_first_step_gives_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    _, said = fit_unchanged(math.nan, caplog)
    assert said.splitlines()[:2] == [
        "LR range test: no suggestion, max_lr stays 0.1",
        "  the loss is not finite from the first step on",
    ]


def test_a_constant_loss_gives_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    _, said = fit_unchanged(1.5, caplog)
    assert said.splitlines()[:2] == [
        "LR range test: no suggestion, max_lr stays 0.1",
        "  the loss does not fall anywhere in the sweep",
    ]


# --------------------------------------------------------------------------------------------------- with what momentum
def one_cycle(**arguments: Any) -> Any:
    return lambda module, optimizer: OneCycleScheduler(optimizer, None, 16, **arguments)


def torch_cycle(kind: Any, **arguments: Any) -> Any:
    return lambda module, optimizer: kind(optimizer, max_lr=0.01, **arguments)


@pytest.mark.parametrize(
    ("schedule", "momentum"),
    [
        (None, 0.9),
        (one_cycle(), (0.85 + 0.95) / 2),
        (one_cycle(base_momentum=0.8, max_momentum=0.9), (0.8 + 0.9) / 2),
        (one_cycle(cycle_momentum=False), 0.9),
        (torch_cycle(schedulers.OneCycleLR, total_steps=16, base_momentum=0.7), (0.7 + 0.95) / 2),
        (torch_cycle(schedulers.OneCycleLR, total_steps=16, cycle_momentum=False), 0.9),
        (torch_cycle(schedulers.CyclicLR, base_lr=1e-3, base_momentum=0.6, max_momentum=0.8), (0.6 + 0.8) / 2),
        (lambda module, optimizer: schedulers.ChainedScheduler([one_cycle()(module, optimizer)]), (0.85 + 0.95) / 2),
        (lambda module, optimizer: schedulers.StepLR(optimizer, 4), 0.9),
    ],
    ids=[
        "none",
        "ours",
        "ours, lower",
        "ours, constant",
        "torch's",
        "torch's, constant",
        "CyclicLR",
        "chain",
        "StepLR",
    ],
)
def test_all_sweeps_train_with_the_mean_momentum_of_the_cycle(schedule: Any, momentum: float) -> None:
    momenta: list[float] = []

    class Seen(Momentum):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            momenta.append(optimizer.param_groups[0]["momentum"])

    torch.manual_seed(0)
    test, lrs = LRRangeTest(apply=False, report=False), LRs()
    trainer([test, lrs], max_epochs=2).fit(Seen(schedule), data())
    real = len(lrs.momentum)
    assert test.steps == len(momenta) - real > 60
    assert set(momenta[:-real]) == {momentum}
    twin = LRs()
    trainer([twin], max_epochs=2).fit(Momentum(schedule), data())
    assert lrs.momentum == twin.momentum  # that of the run is as before


@pytest.mark.parametrize("groups", [([0.9], [0.0]), ([0.9], [0.5])])
def test_groups_without_momentum_have_none_in_the_sweeps_either(groups: tuple[list[float], list[float]]) -> None:
    momenta: list[list[float]] = []

    class TwoGroups(SmallNet):
        def configure_optimizers(self) -> Any:
            first, last = ({"params": self.net[k].parameters(), "momentum": groups[k // 2][0]} for k in (0, 2))
            return configure_one_cycle(self, torch.optim.SGD([first, last], lr=0.01))

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            momenta.append([group["momentum"] for group in optimizer.param_groups])

    test = LRRangeTest(apply=False, report=False)
    trainer([test]).fit(TwoGroups(), data())
    mean = (0.85 + 0.95) / 2
    assert momenta[: test.steps] == [[mean if own[0] else 0.0 for own in groups]] * test.steps


def test_each_group_has_the_mean_of_its_own_cycle_and_other_keys_of_groups_are_left_alone() -> None:
    momenta: list[list[float]] = []

    class TwoGroups(SmallNet):
        def configure_optimizers(self) -> Any:
            sgd = torch.optim.SGD([{"params": self.net[k].parameters()} for k in (0, 2)], lr=0.01, momentum=0.9)
            cycle = schedulers.OneCycleLR(sgd, 0.01, 16, base_momentum=[0.8, 0.4], max_momentum=[0.9, 0.6])
            return {"optimizer": sgd, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            momenta.append([group["momentum"] for group in optimizer.param_groups])

    class OwnKey(TwoGroups):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([{"params": self.parameters(), "max_momentum": 0.99}], lr=0.01, momentum=0.9)

    for net, wanted in ((TwoGroups, pytest.approx([0.85, 0.5])), (OwnKey, [0.9])):
        momenta.clear()
        test = LRRangeTest(apply=False, report=False)
        trainer([test]).fit(net(), data())
        assert momenta[: test.steps] == [wanted] * test.steps


@pytest.mark.parametrize(
    ("schedule", "mean"),
    [
        (one_cycle(pct_start=0.0, base_momentum=0.0), 0.95 / 2),
        (torch_cycle(schedulers.CyclicLR, base_lr=1e-3, base_momentum=0.0, max_momentum=0.8), 0.8 / 2),
    ],
    ids=["ours, begins at its peak", "CyclicLR"],
)
def test_a_cycle_that_stands_at_momentum_0_counts_as_one(schedule: Any, mean: float) -> None:
    momenta: list[float] = []

    class Seen(Momentum):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            momenta.append(optimizer.param_groups[0]["momentum"])

    test = LRRangeTest(apply=False, report=False)
    trainer([test], max_epochs=2).fit(Seen(schedule), data())
    assert momenta[: test.steps] == [mean] * test.steps


def test_keys_of_an_earlier_schedule_are_no_cycle() -> None:
    momenta: list[float] = []

    class Later(Momentum):
        def configure_optimizers(self) -> Any:
            sgd = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
            schedulers.OneCycleLR(sgd, 0.01, 16)
            sgd.param_groups[0]["momentum"] = 0.7
            return sgd

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            momenta.append(optimizer.param_groups[0]["momentum"])

    trainer([LRRangeTest(apply=False, report=False)]).fit(Later(), data())
    assert set(momenta) == {0.7}


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_sweeps_without_a_loss_are_refused_and_the_fit_continues() -> None:
    class NoLoss(SmallNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None

    test = LRRangeTest(report=False)
    fit = trainer([test])
    fit.fit(NoLoss(), data())
    assert test.suggestion is None
    assert "0 finite points" in test.why
    assert fit.state.finished


def test_short_cycles_have_the_momentum_of_their_cycle() -> None:
    momenta: list[float] = []

    class Seen(Momentum):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            momenta.append(optimizer.param_groups[0]["momentum"])

    test = LRRangeTest(1e-4, 1.0, 20, verify=3, verify_steps=10, apply=False, report=False, method="minimum")
    trainer([test]).fit(Seen(one_cycle()), data())
    cycle = OneCyclePolicy(1.0, 9)
    first = momenta[21:31]
    assert len(test.cycles) == 3
    assert first == pytest.approx([cycle.momentum(step) for step in range(10)])
