"""The frame of the probes: what each candidate is trained with, and how one is chosen."""

import math
import signal
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from pl_onecycle import OneCyclePolicy, WeightDecayProbe, configure_one_cycle
from pl_onecycle.curves import choose
from tests.fits import SENTENCE, LRs, data, same, trainer, weights_of
from tests.probes import PROBES, Net, OneCycle, Staged, Wanting, decay_probe, fit, found, line, lowest_at, replay


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("weight_decays", (), ValueError),
        ("weight_decays", [], ValueError),
        ("weight_decays", (1e-3, 1e-3), ValueError),
        ("weight_decays", (1, 1.0), ValueError),
        ("weight_decays", (1e-3, -1e-4), ValueError),
        ("weight_decays", (math.nan,), ValueError),
        ("weight_decays", (math.inf,), ValueError),
        ("weight_decays", "wide", ValueError),
        ("weight_decays", 1e-3, ValueError),
        ("weight_decays", None, ValueError),
        ("weight_decays", {1e-3, 1e-4}, ValueError),
        ("weight_decays", ("1e-3",), TypeError),
        ("weight_decays", (True,), TypeError),
        ("weight_decays", ((1e-3,),), TypeError),
        ("num_steps", 9, ValueError),
        ("num_steps", 20.0, TypeError),
        ("num_steps", True, TypeError),
        ("mode", "fall", ValueError),
        ("mode", None, ValueError),
        ("max_lr", 0.0, ValueError),
        ("max_lr", 1e-7, ValueError),
        ("max_lr", "0.1", TypeError),
        ("min_lr", 0.0, ValueError),
        ("min_lr", math.nan, ValueError),
        ("refine", 1, TypeError),
        ("early_stop_threshold", 0.0, ValueError),
        ("early_stop_threshold", "4", TypeError),
        ("val_batches", -1, ValueError),
        ("val_batches", 1.5, TypeError),
        ("monitor", None, TypeError),
        ("optimizer", -1, ValueError),
        ("optimizer", "first", TypeError),
        ("apply", "yes", TypeError),
        ("report", 0, TypeError),
    ],
)
def test_bad_arguments_raise_one_sentence(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=SENTENCE.format(name)):
        WeightDecayProbe(**{name: value})


@PROBES
def test_arguments_are_kept_as_they_were(kind: Any) -> None:
    values = [0.5, 0.25]
    probe = kind(values, 33, mode="cycle", max_lr=1, min_lr=0.5, val_batches=0, monitor="accuracy", apply=False)
    assert (probe.weight_decays if kind is WeightDecayProbe else probe.momentums) is values
    assert (probe.num_steps, probe.mode, probe.max_lr, probe.min_lr) == (33, "cycle", 1, 0.5)
    assert (probe.val_batches, probe.monitor, probe.apply) == (0, "accuracy", False)


@pytest.mark.parametrize("lr", [0.0, 1e-7])
@PROBES
def test_an_lr_that_is_no_peak_is_a_clear_error_and_harms_nothing(kind: Any, lr: float) -> None:
    module, lrs = Net(lr=lr), LRs()
    before = weights_of(module)
    with pytest.raises(
        MisconfigurationException,
        match=rf"^{kind.__name__} needs a learning rate above 1e-07 to train with, and the optimizer's is {lr:g}: run"
        r" LRRangeTest in the same fit, or pass `max_lr`\.$",
    ):
        fit(kind(num_steps=10), module, lrs)
    assert lrs.lr == []
    assert same(before, weights_of(module))


def test_an_lr_of_zero_is_no_error_with_an_lr_of_the_probes_own(caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe(max_lr=0.2)
    with caplog.at_level("INFO"):
        fit(probe, Net(lr=0.0))
    assert probe.curves[0.0].lr[-1] == 0.2
    assert line(caplog).splitlines()[-1] == "  2 candidates, 10 steps each, max_lr 0.2"


# ---------------------------------------------------------------------------------------- each candidate really trains
@pytest.mark.parametrize("num_steps", [10, 23])
def test_each_candidate_is_trained_with_its_decay(num_steps: int) -> None:
    module, probe = Net(), decay_probe(0.3, 0.03, 0.0, num_steps=num_steps, val_batches=2, early_stop_threshold=None)
    twin = Net()
    twin.load_state_dict(module.state_dict())
    fit(probe, module)
    assert list(probe.curves) == [0.3, 0.03, 0.0]
    ends = set()
    for decay, curve in probe.curves.items():
        losses, val_losses = replay(twin, decay, 0.1, num_steps, 2)
        assert list(curve.loss) == pytest.approx(losses, rel=1e-6, abs=1e-6)
        assert list(curve.val_loss) == pytest.approx(val_losses, rel=1e-6, abs=1e-6)
        assert curve.outcome == "completed"
        ends.add(round(curve.loss[-1], 5))
    assert len(ends) == 3
    # Tenths of 23 steps: 2.3 -> 2, 4.6 -> 5, 6.9 -> 7, 9.2, 11.5 -> 12, 13.8, 16.1, 18.4, 20.7, 23.
    tenths = {10: list(range(1, 11)), 23: [2, 5, 7, 9, 12, 14, 16, 18, 21, 23]}[num_steps]
    assert {tuple(curve.val_steps) for curve in probe.curves.values()} == {tuple(tenths)}


def test_lr_rises_linearly_from_the_range_tests_start_to_the_peak() -> None:
    probe = decay_probe(1e-4, num_steps=12)
    fit(probe)
    assert list(probe.curves[1e-4].lr) == pytest.approx([1e-7 + (0.1 - 1e-7) * k / 11 for k in range(12)], rel=1e-12)


def test_a_cycle_is_the_runs_own_in_short() -> None:
    """Momenta are seen in the groups; the rates are in the curve."""

    class Seen(OneCycle):
        momenta: list[float] = []  # noqa: RUF012

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.momenta.append(optimizer.param_groups[0]["momentum"])

        def configure_optimizers(self) -> Any:
            optimizer = Net.configure_optimizers(self)
            arguments: Any = {"pct_start": 0.3, "div_factor": 20, "final_div_factor": 100, "base_momentum": 0.8}
            return configure_one_cycle(self, optimizer, **arguments)

    probe, lrs = decay_probe(1e-4, num_steps=40, mode="cycle"), LRs()
    fit(probe, Seen(), lrs)
    short = OneCyclePolicy(0.1, 40, pct_start=0.3, div_factor=20, final_div_factor=100, base_momentum=0.8)
    assert list(probe.curves[1e-4].lr) == [short.lr(step) for step in range(40)]
    assert Seen.momenta[:40] == [short.momentum(step) for step in range(40)]
    whole = OneCyclePolicy(0.1, 8, pct_start=0.3, div_factor=20, final_div_factor=100, base_momentum=0.8)
    assert lrs.lr == [[whole.lr(step)] for step in range(8)]


def test_a_cycle_without_a_scheduler_is_smiths() -> None:
    probe = decay_probe(1e-4, num_steps=20, mode="cycle")
    fit(probe)
    short = OneCyclePolicy(0.1, 20)
    assert list(probe.curves[1e-4].lr) == [short.lr(step) for step in range(20)]


def test_an_exponential_fall_is_as_deep_in_short() -> None:
    class Falling(Net):
        def configure_optimizers(self) -> Any:
            arguments: Any = {"preset": "exp_decay", "rampup_epochs": 2, "exp_decay": 0.9, "steps_per_epoch": 8}
            return configure_one_cycle(self, super().configure_optimizers(), **arguments)

    probe = decay_probe(1e-4, num_steps=20, mode="cycle")
    whole = fit(probe, Falling(), max_epochs=10).lr_scheduler_configs[0].scheduler.policy
    lr = probe.curves[1e-4].lr
    assert whole.total_steps == 80
    assert max(lr) == pytest.approx(0.1)
    # Four steps of the run for each of the probe: the same rate at the same share of the way.
    assert [lr[k] for k in (5, 10, 15)] == pytest.approx([whole.lr(4 * k) for k in (5, 10, 15)], rel=0.02)


def test_momentum_that_the_run_does_not_cycle_stands_still_in_the_probe() -> None:
    class Seen(Net):
        momenta: set[float] = set()  # noqa: RUF012

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.momenta.add(optimizer.param_groups[0]["momentum"])

        def configure_optimizers(self) -> Any:
            return configure_one_cycle(self, super().configure_optimizers(), cycle_momentum=False)

    fit(decay_probe(), Seen())
    assert Seen.momenta == {0.9}


@pytest.mark.parametrize("val_batches", [0, 2])
def test_two_candidates_that_differ_in_name_only_have_the_same_curve(val_batches: int) -> None:
    """Of 1e-30 w nothing is left next to a gradient in float32. Shuffled data, dropout, noise and a batch norm."""

    class Random(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step([batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]], batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            super().validation_step([batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]], batch_idx)

    probe = decay_probe(1e-30, 1e-31, num_steps=20, val_batches=val_batches)
    fit(probe, Random(), train=data(shuffle=True), val=data(96))
    one, other = probe.curves.values()
    assert one == other
    assert len(set(one.loss)) > 10
    assert (found(probe).value, found(probe).margin, found(probe).within_noise) == (1e-30, 0.0, True)


# ---------------------------------------------------------------------------------------------------------- the choice
@pytest.mark.parametrize("best", [1e-1, 1e-2, 1e-3, 0.0])
def test_the_choice_is_that_of_the_pure_function_on_the_curves(best: float) -> None:
    probe = decay_probe(1e-1, 1e-2, 1e-3, 0.0)
    fit(probe, Staged(lowest_at(best)))
    assert probe.suggestion == choose(probe.curves, "weight_decay")
    assert found(probe).value == best
    assert found(probe).judged_by == "validation loss"


def test_the_log_says_that_the_validation_loss_has_decided(caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe(1e-1, 1e-2)
    with caplog.at_level("INFO"):
        fit(probe, Staged(lowest_at(1e-2)))
    assert line(caplog).splitlines() == [
        "Weight decay probe: weight_decay 0 → 0.01 for SGD, 1 group, module.weight_decay",
        f"  {found(probe).reason}",
        "  2 candidates, 10 steps each, max_lr 0.1 (no range test has set it)",
    ]
    assert found(probe).reason.startswith("validation loss lowest with weight_decay 0.01, by ")


def test_if_all_diverge_there_is_no_choice_but_a_reason_and_training_continues(
    caplog: pytest.LogCaptureFixture,
) -> None:
    probe, lrs, module = decay_probe(1e9, 2e9, num_steps=20, max_lr=1.0), LRs(), Net()
    with caplog.at_level("INFO"):
        fit(probe, module, lrs)
    assert probe.suggestion is None
    assert {curve.outcome for curve in probe.curves.values()} == {"diverged"}
    assert lrs.weight_decay == [[0.0]] * 8
    assert module.weight_decay == 0.0
    assert line(caplog).splitlines()[:2] == [
        "Weight decay probe: no suggestion, weight_decay stays 0",
        "  all 2 candidates have diverged",
    ]


def test_a_candidate_that_diverges_is_out_and_its_steps_are_saved(caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe(1e9, 1e-4, num_steps=20, max_lr=1.0)
    with caplog.at_level("INFO"):
        fit(probe)
    assert probe.curves[1e9].outcome == "diverged"
    assert found(probe).value == 1e-4
    lost = 20 - len(probe.curves[1e9])
    assert probe.saved == pytest.approx(lost / 40)
    assert f"{lost / 40:.0%} of the steps saved" in line(caplog)


@pytest.mark.parametrize("good", [1e-4, None], ids=["one of two", "all"])
def test_a_candidate_with_which_the_module_raises_an_exception_has_diverged(
    good: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    class Checked(Net):
        def loss(self, batch: Any) -> Any:
            out = self.net(batch[0])
            if out.abs().max() > 100:
                raise ValueError("activations have exploded")
            return torch.nn.functional.cross_entropy(out, batch[1])

    def weights(*finders: Any) -> dict[str, Any]:
        torch.manual_seed(0)
        module = Checked()
        trainer(finders, max_epochs=1).fit(module, data(), data(64))
        return weights_of(module)

    expected = weights()
    bad = 1e6 if good is None else 1e9
    probe = decay_probe(bad, good or 1e9, num_steps=20, max_lr=1.0, apply=False)
    with pytest.warns(UserWarning, match="^A trial has diverged and ended in ValueError: activations have exploded$"):
        assert same(weights(probe), expected)
    assert probe.curves[bad].outcome == "diverged"
    assert probe.suggestion is None if good is None else found(probe).value == good


def test_a_hopeless_candidate_is_dropped_after_three_checkups_in_a_row() -> None:
    # The first falls by 0.1 a checkup; the second does not, which is hopeless at its checkups 1, 2 and 3.
    def val_loss_of(decay: float, checkup: int) -> float:
        return 2 - 0.1 * checkup if decay == 1e-2 else 2.0

    probe, module = decay_probe(1e-2, 1e-3, num_steps=20), Staged(val_loss_of)
    fit(probe, module)
    dropped = probe.curves[1e-3]
    assert (dropped.outcome, list(dropped.val_steps)) == ("dropped", [2, 4, 6])
    assert len(dropped) == 5  # the loss after a step is seen at the next
    assert found(probe).value == 1e-2
    assert probe.saved == pytest.approx(15 / 40)


def test_the_first_candidate_is_never_dropped() -> None:
    probe = decay_probe(1e-2, 1e-3)
    fit(probe, Staged(lambda decay, checkup: 2.0 if decay == 1e-2 else 2 - 0.1 * checkup))
    assert [curve.outcome for curve in probe.curves.values()] == ["completed", "completed"]
    assert (found(probe).value, probe.saved) == (1e-3, 0.0)


def test_before_it_ran_nothing_is_saved_and_nothing_can_be_drawn() -> None:
    assert decay_probe().saved == 0.0
    with pytest.raises(RuntimeError, match="this WeightDecayProbe has not run yet"):
        decay_probe().plot()


def test_candidates_that_were_asked_for_are_all_that_is_tried() -> None:
    probe = decay_probe(1e-1, 1e-3)
    fit(probe, Net(1e-2))
    assert list(probe.curves) == [1e-1, 1e-3]


def test_apply_false_suggests_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    probe, lrs, module = decay_probe(0.5, apply=False), LRs(), Wanting(1e-4)
    with caplog.at_level("INFO"):
        fit(probe, module, lrs)
    assert (found(probe).value, module.weight_decay) == (0.5, 1e-4)
    assert lrs.weight_decay == [[1e-4]] * 8
    what = "Weight decay probe: suggests weight_decay 0.5 (×5000); not applied, weight_decay stays 0.0001"
    assert line(caplog).splitlines()[0] == what


# -------------------------------------------------------------------------------------------------- left in the middle
class Broken(Exception):
    pass


class Interrupted(Net):
    """Raises, or is interrupted as by Ctrl-C, in the second candidate of a probe."""

    calls = 0  # of the class: an attribute of the module is put back after each trial

    def __init__(self, where: str, how: str) -> None:
        super().__init__(1e-4)
        self.where, self.how = where, how
        Interrupted.calls = 0

    def _call(self, where: str) -> None:
        Interrupted.calls += where == self.where
        if where == self.where and Interrupted.calls == 15:
            if self.how == "exception":
                raise Broken
            signal.raise_signal(signal.SIGINT)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self._call("training_step")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            self._call("validation_step")
        return super().validation_step(batch, batch_idx)


class Randomness(pl.Callback):
    """Keeps the state of the random stream with which the probe begins."""

    state: Tensor

    def on_train_start(self, *_: Any) -> None:
        self.state = torch.get_rng_state()


@pytest.mark.parametrize("where", ["training_step", "validation_step"])
@pytest.mark.parametrize("how", ["exception", "Ctrl-C"])
@PROBES
def test_whatever_ends_it_in_the_middle_leaves_all_as_it_was(kind: Any, where: str, how: str) -> None:
    probe, lrs, module = kind((0.5, 0.25), 10, report=False), LRs(), Interrupted(where, how)
    random = Randomness()
    fitting = trainer([probe, lrs, random], max_epochs=1)
    before = weights_of(module)
    with pytest.raises((Broken, KeyboardInterrupt, SystemExit)):
        fitting.fit(module, data(), data(96))
    assert lrs.lr == []
    assert same(before, weights_of(module))
    assert torch.equal(torch.get_rng_state(), random.state)
    [group] = fitting.optimizers[0].param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 1e-4)
    assert fitting.optimizers[0].state_dict()["state"] == {}
    assert (module.weight_decay, fitting.global_step, fitting.limit_val_batches) == (1e-4, 0, 1.0)
    assert probe in fitting.callbacks  # type: ignore[attr-defined]  # set by a connector
    assert all(weight.grad is None for weight in module.parameters())
