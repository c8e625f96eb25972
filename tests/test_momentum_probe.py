"""`MomentumProbe` in real fits: what is tried, what is chosen, and what training then uses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pl_onecycle import MomentumProbe, OneCyclePolicy, configure_one_cycle
from tests.fits import SENTENCE, LRs
from tests.probes import KINDS, Net, OneCycle, Wanting, fit, found, momentum_probe


@pytest.mark.parametrize(
    ("momentums", "error"),
    [
        ((), ValueError),
        ((0.9, 0.9), ValueError),
        ((1.0,), ValueError),
        ((-0.1,), ValueError),
        (("0.9",), TypeError),
        ("around", ValueError),
        (0.9, ValueError),
    ],
)
def test_bad_momentums_raise_one_sentence(momentums: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format("momentums")):
        MomentumProbe(momentums)


@pytest.mark.parametrize(
    "optimizer",
    [lambda weights: torch.optim.SGD(weights, 0.1), lambda weights: torch.optim.Adagrad(weights, 0.1)],
    ids=["SGD", "Adagrad"],
)
def test_an_optimizer_without_momentum_is_a_clear_error(optimizer: Callable[[Any], Any]) -> None:
    class Plain(Net):
        def configure_optimizers(self) -> Any:
            return optimizer(self.parameters())

    with pytest.raises(
        MisconfigurationException,
        match=r"^MomentumProbe needs an optimizer that trains with momentum, and (SGD|Adagrad) has none\.$",
    ):
        fit(momentum_probe(), Plain())


# ------------------------------------------------------------------------------------------------------- what is tried
@pytest.mark.parametrize("cycled", [True, False], ids=["cycle", "constant"])
def test_the_momentum_of_a_candidate_is_where_its_cycle_begins_or_all_of_it(cycled: bool) -> None:
    momenta: list[float] = []

    class Seen(Net):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            momenta.append(optimizer.param_groups[0]["momentum"])

        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return configure_one_cycle(self, optimizer) if cycled else optimizer

    fit(momentum_probe(0.99, 0.9, 0.5, early_stop_threshold=None, val_batches=0), Seen())
    rises = [momenta[11 * k : 11 * k + 10] for k in range(3)]
    if cycled:  # down to Smith's 0.85, which gives way to what is below it
        assert rises[0] == pytest.approx([0.99 - 0.14 * k / 9 for k in range(10)])
        assert rises[1] == pytest.approx([0.9 - 0.05 * k / 9 for k in range(10)])
        assert rises[2] == pytest.approx([0.5] * 10)
    else:
        assert rises == [[0.99] * 10, [0.9] * 10, [0.5] * 10]


def test_the_runs_own_momentum_is_tried_with_the_defaults() -> None:
    class Heavy(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.8)

    probe = momentum_probe(*MomentumProbe.defaults)
    fit(probe, Heavy())
    assert list(probe.curves) == [0.9, 0.95, 0.97, 0.99, 0.8]
    assert probe.before == 0.8


@pytest.mark.parametrize(("kind", "own"), [(Net, 0.9), (OneCycle, 0.95)])
def test_momenta_that_were_asked_for_are_all_that_is_tried(kind: type[Net], own: float) -> None:
    probe = momentum_probe(0.5, 0.6)
    fit(probe, kind())
    assert list(probe.curves) == [0.5, 0.6]
    assert probe.before == own


# -------------------------------------------------------------------------------------------------- what training uses
class WantingCycle(Wanting):
    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, super().configure_optimizers())


def test_the_found_momentum_is_the_largest_of_the_cycle() -> None:
    probe, lrs = momentum_probe(0.97, 0.9), LRs()
    scheduler = fit(probe, WantingCycle(), lrs).lr_scheduler_configs[0].scheduler
    policy = OneCyclePolicy(0.1, 8, max_momentum=0.97)
    assert scheduler.policy == policy
    assert lrs.momentum == [[policy.momentum(step)] for step in range(8)]
    assert (list(probe.curves), probe.before) == ([0.97, 0.9], 0.95)


@pytest.mark.parametrize(("momentums", "kept"), [((0.9, 0.95, 0.99), 0.9), ((0.8, 0.99), 0.8)], ids=["own", "smallest"])
def test_of_momenta_within_noise_the_runs_own_stays_or_the_smallest_is_taken(
    momentums: tuple[float, ...], kept: float
) -> None:
    class Blind(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return 0 * super().training_step(batch, batch_idx)

    probe, lrs = momentum_probe(*momentums), LRs()
    fit(probe, Blind(), lrs)
    assert (found(probe).value, found(probe).within_noise) == (kept, True)
    assert lrs.momentum == [[kept]] * 8


@pytest.mark.parametrize("betas", [False, True], ids=["SGD", "AdamW"])
def test_without_a_cycle_the_found_momentum_is_that_of_the_groups(betas: bool) -> None:
    class Plain(Wanting):
        def configure_optimizers(self) -> Any:
            kind, arguments = KINDS["AdamW" if betas else "SGD"]
            return kind(self.parameters(), lr=0.01, **arguments)

    probe, lrs = momentum_probe(0.97), LRs()
    fitted = fit(probe, Plain(), lrs)
    assert lrs.momentum == [[0.97]] * 8
    if betas:
        assert fitted.optimizers[0].param_groups[0]["betas"] == (0.97, 0.999)


def test_the_found_momentum_is_the_largest_of_torchs_cycle_too() -> None:
    class Torch(Wanting):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    probe, lrs = momentum_probe(0.97, 0.9), LRs()
    fit(probe, Torch(), lrs)
    assert (found(probe).value, probe.before) == (0.97, 0.95)
    momenta = [momentum for [momentum] in lrs.momentum]
    assert [momenta[0], momenta[-1]] == pytest.approx([0.97, 0.97])
    assert 0.85 <= min(momenta) < 0.87
