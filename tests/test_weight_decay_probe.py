"""`WeightDecayProbe` in real fits: what is tried, what is chosen, and what training then uses."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pl_onecycle import Choice, LossCurve, WeightDecayProbe, configure_one_cycle
from tests.fits import LRs, SavesFirstEpoch, SmallNet, TwoNets, data, same, trainer, weights_of
from tests.probes import (
    KINDS,
    Costly,
    Net,
    Staged,
    Wanting,
    decay_probe,
    fit,
    found,
    grouped,
    line,
    lowest_at,
    search_probe,
)


def test_an_optimizer_without_weight_decay_is_a_clear_error() -> None:
    class Plain(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1)

    with pytest.raises(
        MisconfigurationException,
        match=r"^Expected argument `optimizer` to be an optimizer with weight decay .* but got 'LBFGS'$",
    ):
        fit(decay_probe(), Plain())


@pytest.mark.parametrize("asked", ["search", "around", [0.001, 0.0]], ids=str)
def test_a_command_line_can_name_the_candidates(asked: Any) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(WeightDecayProbe, "probe")
    words = ["--probe.weight_decays", asked if isinstance(asked, str) else str(asked)]
    assert parser.parse_args(words).probe.weight_decays == asked


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1e-4, "wd=1e-04"),
        (3e-5, "wd=3e-05"),
        (0.0, "wd=0"),
        (0.5, "wd=5e-01"),
        (1.5e-3, "wd=1.5e-03"),
        (10, "wd=1e+01"),
    ],
)
def test_a_decay_is_named_by_mantissa_and_exponent(value: float, name: str) -> None:
    probe = decay_probe()
    probe.curves = {value: LossCurve([0.1], [1.0])}
    assert list(probe.labelled()) == [name]


def test_the_decays_of_the_groups_keep_their_ratio_in_a_trial() -> None:
    class Grouped(Net):
        seen: list[list[float]] = []  # noqa: RUF012

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.seen.append([group["weight_decay"] for group in optimizer.param_groups])

        def configure_optimizers(self) -> Any:
            return grouped(self, torch.optim.SGD, 1e-3, 1e-4, 0.0)

    fit(decay_probe(0.5, 0.0, max_lr=0.1), Grouped())
    assert Grouped.seen[:11] == [[0.5, pytest.approx(0.05), 0.0]] * 11
    assert Grouped.seen[11:22] == [[0.0, 0.0, 0.0]] * 11


# ---------------------------------------------------------------------------------------------------------- the search
@pytest.mark.parametrize(
    ("kind", "own", "tried", "chosen"),
    [
        # A harm of v: 20 steps to a level at 19.5 of 19 steps of fall, so that 0.01 costs 1.03% and is the edge. In one
        # epoch 0.6% are tolerated, of which two thirds lie at 0.0039.
        (torch.optim.SGD, 0.0, [0.0, 1e-4, 1e-3, 1e-2, 3.5e-3], 3.5e-3),
        (torch.optim.Adam, 1e-3, [1e-3, 1e-2, 0.0, 3.5e-3], 3.5e-3),
        (torch.optim.SGD, 0.1, [0.1, 1.0, 0.0, 3.5e-3], 3.5e-3),
        (torch.optim.AdamW, 1e-4, [1e-4, 1e-2, 0.0, 2.5e-3, 3.5e-3], 3.5e-3),
        (torch.optim.AdamW, 0.0, [0.0, 1e-2, 3e-3], 3e-3),  # half a decade back
    ],
)
def test_a_search_goes_up_from_the_own_until_one_hurts_and_chooses_below(
    kind: Any, own: float, tried: list[float], chosen: float
) -> None:
    probe, module, lrs = search_probe(20), Costly(lambda decay: min(decay, 0.4), own, kind), LRs()
    fit(probe, module, lrs)
    assert list(probe.curves) == tried
    assert (found(probe).value, probe.before, module.weight_decay) == (chosen, own, chosen)
    assert lrs.weight_decay == [[chosen]] * 8


def test_a_run_of_many_epochs_tolerates_more() -> None:
    values = {}
    for epochs in (1, 10, 40):
        probe = search_probe(20, apply=False)
        fit(probe, Costly(lambda decay: min(decay, 0.4)), max_epochs=epochs, limit_val_batches=0)
        values[epochs] = found(probe).value
    # 3% are tolerated in ten epochs and 5% in forty: two thirds lie at 0.0195 and 0.0325.
    assert values == {1: 3.5e-3, 10: 0.015, 40: 0.03}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("own", [0.0, 1e-3])
def test_on_a_constant_loss_a_search_keeps_the_own(own: float, kind: Any) -> None:
    probe, module, lrs = search_probe(), Costly(lambda decay: 1.0, own, kind), LRs()
    fit(probe, module, lrs)
    assert (found(probe).value, found(probe).within_noise, module.weight_decay) == (own, True, own)
    assert lrs.weight_decay == [[own]] * 8
    assert len(probe.curves) == 6


def test_the_cost_of_a_search_is_logged_before_it_starts_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []

    class Seen(Costly):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            said.extend([] if said else [record.getMessage() for record in caplog.records])
            return super().training_step(batch, batch_idx)

    probe = search_probe(12)
    with caplog.at_level("INFO"):
        fit(probe, Seen(lambda decay: 0.0))
    assert any("72 steps (6 × 12)" in message for message in said)
    assert sum(map(len, probe.curves.values())) == 72
    assert "nothing up to 1 clearly helps or hurts, and the run's own is kept" in caplog.text


@pytest.mark.parametrize("apply", [True, False])
def test_a_run_after_a_search_is_the_one_without_it(apply: bool) -> None:
    """Weights, bit for bit, with shuffled data and dropout."""

    class Random(Net):
        def __init__(self, weight_decay: float) -> None:
            super().__init__(weight_decay)
            self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))

    def trained(decay: float, *callbacks: pl.Callback) -> dict[str, Any]:
        pl.seed_everything(3, verbose=False)
        module = Random(decay)
        fit(callbacks[0], module, train=data(shuffle=True), max_epochs=2)
        return weights_of(module)

    probe = search_probe(apply=apply)
    ended = trained(1.0, probe)
    chosen = found(probe).value
    assert chosen < 1.0
    assert same(ended, trained(chosen if apply else 1.0, pl.Callback()))


def test_a_resumed_fit_continues_with_what_a_search_found(tmp_path: Path) -> None:
    first, second = search_probe(20), search_probe(20)
    trainer([first, SavesFirstEpoch(tmp_path / "a.ckpt")], max_epochs=2).fit(
        Costly(lambda decay: min(decay, 0.4), 0.1), data(), data(64)
    )
    lrs = LRs()
    trainer([second, lrs], max_epochs=2).fit(
        Costly(lambda decay: min(decay, 0.4), 0.1), data(), data(64), ckpt_path=tmp_path / "a.ckpt"
    )
    assert (second.curves, second.answer) == (first.curves, first.answer)
    assert lrs.weight_decay == [[3.5e-3]] * 8


# ------------------------------------------------------------------------------------------------------- the run's own
def test_the_runs_own_decay_is_kept_if_a_search_finds_none_that_is_better() -> None:
    probe, lrs = search_probe(), LRs()
    fit(probe, Staged(lowest_at(1e-2), 1e-2), lrs)
    assert next(iter(probe.curves)) == 1e-2
    assert (found(probe).value, probe.before) == (1e-2, 1e-2)
    assert lrs.weight_decay == [[1e-2]] * 8


def test_the_runs_own_decay_stays_where_all_candidates_diverge() -> None:
    probe, lrs = decay_probe(1e9, num_steps=20, max_lr=1.0), LRs()
    fit(probe, Net(1e-4), lrs)
    assert probe.suggestion is None
    assert lrs.weight_decay == [[1e-4]] * 8


# --------------------------------------------------------------------------------------------------- refine and around
def test_a_tie_is_not_refined() -> None:
    probe = decay_probe(1e-2, 1e-3, refine=True)
    fit(probe, Staged(lambda decay, checkup: 1.0))
    assert list(probe.curves) == [1e-2, 1e-3]


@pytest.mark.parametrize(("best", "neighbours"), [(1e-4, [3e-4, 3e-5]), (1e-2, [3e-2, 3e-3]), (5e-4, [1.5e-3, 1.5e-4])])
def test_refine_tries_the_two_neighbours_of_the_best(best: float, neighbours: list[float]) -> None:
    probe = decay_probe(0.1, best, 0.0, refine=True)
    fit(probe, Staged(lowest_at(best)))
    assert list(probe.curves) == [0.1, best, 0.0, *neighbours]
    assert found(probe).value == best


def test_refine_can_choose_a_neighbour() -> None:
    probe, module = decay_probe(1e-3, 1e-4, 0.0, refine=True), Staged(lowest_at(3e-5))
    fit(probe, module)
    assert list(probe.curves) == [1e-3, 1e-4, 0.0, 3e-4, 3e-5]
    assert (found(probe).value, module.weight_decay) == (3e-5, 3e-5)


def test_zero_has_no_neighbours() -> None:
    probe = decay_probe(1e-3, 0.0, refine=True)
    fit(probe, Staged(lowest_at(0.0)))
    assert list(probe.curves) == [1e-3, 0.0]


def test_a_neighbour_that_is_a_candidate_is_not_tried_twice() -> None:
    tried: list[float] = []  # in no attribute of the module, which would be restored

    def val_loss_of(decay: float, checkup: int) -> float:
        tried.extend([decay] if checkup == 1 else [])
        return lowest_at(1e-3)(decay, checkup)

    probe = decay_probe(1e-3, 3e-4, refine=True)
    fit(probe, Staged(val_loss_of))
    assert list(probe.curves) == [1e-3, 3e-4, 3e-3]
    assert tried[:-1] == [1e-3, 3e-4, 3e-3]  # and once more in training


def test_around_tries_the_optimizers_own_and_its_neighbours() -> None:
    probe, module = WeightDecayProbe("around", 10, report=False), Staged(lowest_at(3e-5), 1e-4)
    fit(probe, module)
    assert list(probe.curves) == [1e-4, 3e-4, 3e-5]
    assert (found(probe).value, probe.before, module.weight_decay) == (3e-5, 1e-4, 3e-5)


def test_there_is_nothing_around_a_decay_of_zero() -> None:
    with pytest.raises(MisconfigurationException, match="no weight decay to search around: the optimizer's is 0"):
        fit(WeightDecayProbe("around", 10))


# -------------------------------------------------------------------------------------------------- what training uses
@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([1e-4], [0.5]),
        ([0.0], [0.5]),
        ([0.0, 1e-4], [0.0, 0.5]),  # biases and norms
        ([1e-3, 1e-4], [0.5, 0.05]),
        ([1e-4, 0.0, 1e-3], [0.05, 0.0, 0.5]),
        ([0.0, 0.0], [0.5, 0.5]),
    ],
    ids=str,
)
def test_what_is_found_is_what_training_uses(optimizer: str, before: list[float], after: list[float]) -> None:
    class Grouped(Wanting):
        def configure_optimizers(self) -> Any:
            kind, arguments = KINDS[optimizer]
            return grouped(self, kind, *before, **arguments)

    probe, lrs = decay_probe(0.5), LRs()
    fit(probe, Grouped(), lrs)
    assert [seen == pytest.approx(after, rel=1e-12) for seen in lrs.weight_decay] == [True] * 8
    assert probe.before == max(before)


def test_hparams_and_the_attribute_of_the_module_follow() -> None:
    class Saved(Wanting):
        def __init__(self, weight_decay: float = 1e-4) -> None:
            super().__init__(weight_decay)
            self.save_hyperparameters()

    module = Saved()
    fit(decay_probe(0.5), module)
    assert (module.weight_decay, module.hparams["weight_decay"]) == (0.5, 0.5)


def test_but_for_the_decay_the_run_is_the_one_without_a_probe() -> None:
    """Weights, bit for bit, with shuffled data and dropout."""

    class Random(Wanting):
        def __init__(self, weight_decay: float) -> None:
            super().__init__(weight_decay)
            self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))

        def configure_optimizers(self) -> Any:
            return configure_one_cycle(self, super().configure_optimizers())

    ends = []
    for callback, decay in ((decay_probe(0.5), 0.01), (pl.Callback(), 0.5)):
        pl.seed_everything(3, verbose=False)
        module = Random(decay)
        fit(callback, module, train=data(shuffle=True), max_epochs=2)
        ends.append(weights_of(module))
    assert same(*ends)


@pytest.mark.parametrize("index", [0, 1])
def test_the_decay_of_one_optimizer_is_found_and_the_other_is_left_alone(
    index: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Two(TwoNets):
        weight_decay = 1e-4

    probe, module = decay_probe(0.5, optimizer=index), Two(scheduled=False)
    with caplog.at_level("INFO"):
        fitted = trainer([probe], max_epochs=1)
        fitted.fit(module, data())
    held = [{group["weight_decay"] for group in optimizer.param_groups} for optimizer in fitted.optimizers]
    assert held[index] == {0.5}
    assert held[1 - index] == {0}
    assert module.weight_decay == 1e-4  # whose of the two would it be
    groups = ["1 group", "2 groups"][index]
    assert line(caplog).splitlines()[0] == f"Weight decay probe: weight_decay 0 → 0.5 for SGD, {groups}"


# -------------------------------------------------------------------------------------- where the right decay is known
class Ridge(pl.LightningModule):
    """Linear regression from zero: its best decay is known.

    y = x w + sigma e with w ~ N(0, 1): the posterior mean minimises sum (y - x w)^2 / (2 sigma^2) + |w|^2 / 2, which is
    n / sigma^2 times mean (y - x w)^2 / 2 + (sigma^2 / n) |w|^2 / 2. So a decay of sigma^2 / n is the best one, in the
    mean over problems, of all that can be done with n samples.
    """

    def __init__(self, weights: int, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.weight = nn.Parameter(torch.zeros(weights))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        errors: Tensor = batch[0] @ self.weight - batch[1]
        return 0.5 * errors.square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)


def regression(seed: int, right: float, samples: int, weights: int, scale: float) -> list[TensorDataset]:
    """Training data and as good as all others, for which ``right`` is the best decay."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(weights, generator=generator)
    parts = []
    for number in (samples, 256):
        x = scale * torch.randn(number, weights, generator=generator)
        noise = math.sqrt(right * samples) * torch.randn(number, generator=generator)
        parts.append(TensorDataset(x, x @ truth + noise))
    return parts


def decay_found(seed: int, decays: Iterable[float], lr: float, mode: Any, num_steps: int, **problem: Any) -> Choice:
    torch.manual_seed(seed)
    train, val = regression(seed, **problem)
    probe = WeightDecayProbe(tuple(decays), num_steps, mode=mode, report=False)
    fitting = trainer([probe], max_steps=1, max_epochs=-1, limit_val_batches=1, num_sanity_val_steps=0)
    fitting.fit(Ridge(problem["weights"], lr), DataLoader(train, 32, shuffle=True), DataLoader(val, 256))
    return found(probe)


@pytest.mark.parametrize(
    ("right", "mode", "num_steps"), [(1e-2, "rise", 100), (1e-3, "cycle", 60)], ids=["1e-2", "1e-3 by cycles"]
)
def test_where_the_right_decay_is_known_it_is_found_for_nine_seeds_of_ten(
    right: float, mode: Any, num_steps: int
) -> None:
    # 64 samples for 96 weights. The data are as strong in each direction as the decay, and lr is in proportion to
    # both: without a decay the weights of all directions are learnt in time, and so is the noise. Of the same four
    # candidates the second is right once, and the third once.
    problem = {"right": right, "samples": 64, "weights": 96, "scale": math.sqrt(right)}
    decays = (1e-1, 1e-2, 1e-3, 0.0)
    choices = [decay_found(seed, decays, 0.01 / right, mode, num_steps, **problem) for seed in range(10)]
    assert sum(choice.value == right and not choice.within_noise for choice in choices) >= 9
    assert {choice.judged_by for choice in choices} == {"validation loss"}


def test_where_the_decay_does_not_matter_the_probe_says_so_and_keeps_the_largest() -> None:
    # 1024 samples for 16 weights, of which 21 batches of 32 see each at most once; with a momentum of 0.95 the largest
    # decay changes a weight of 1 by less than lr * 20 * 20 * 1e-6.
    problem = {"right": 1e-4, "samples": 1024, "weights": 16, "scale": 0.1}
    choices = [decay_found(seed, (1e-6, 1e-7, 0.0), 1.0, "rise", 20, **problem) for seed in range(10)]
    assert all(choice.within_noise and choice.value == 1e-6 for choice in choices)
    assert all(re.match("^within noise: 0, 1e-07 and 1e-06 cannot be told apart", choice.reason) for choice in choices)


def test_a_decay_that_is_a_base_is_scaled_and_so_it_is_in_a_resumed_fit(tmp_path: Path) -> None:
    class Doubled(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.wd = 1e-4

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr, weight_decay=2 * self.wd)

    probe, module = decay_probe(0.5), Doubled()
    trainer([probe, SavesFirstEpoch(tmp_path / "a.ckpt")]).fit(module, data())
    assert (found(probe).value, module.wd) == (0.5, 0.25)
    again, resumed = decay_probe(0.5), Doubled()
    its = trainer([again], max_epochs=3)
    its.fit(resumed, data(), ckpt_path=tmp_path / "a.ckpt")
    assert resumed.wd == 0.25
    assert its.optimizers[0].param_groups[0]["weight_decay"] == 0.5
