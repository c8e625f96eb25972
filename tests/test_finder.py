"""When a finder runs in a fit, when it is skipped, and in which order several run."""

import itertools
import json
import math
from collections import UserList, deque
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import lr_scheduler as schedulers

from pl_onecycle import (
    LRRangeTest,
    MomentumProbe,
    OneCyclePolicy,
    OneCycleScheduler,
    WeightDecayProbe,
    configure_one_cycle,
)
from pl_onecycle.sentences import factor
from tests.fits import AllLRs, Fixed, LRs, Momentum, SmallNet, TwoNets, data, line, lines, same, trainer, weights_of
from tests.probes import PROBES, Net, OneCycle, Wanting, decay_probe, fit, momentum_probe
from tests.range_test.made import SCHEDULES, Results, Valley, fit_unchanged, in_valleys, with_milestones


# ------------------------------------------------------------------------------------------------- skipped, or not run
def test_fast_dev_run_skips_the_range_test_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    test, said = fit_unchanged(1.0, caplog, fast_dev_run=True)
    assert test.curve is None
    assert "skipped" in said
    assert "fast_dev_run" in said


@PROBES
def test_fast_dev_run_skips_a_probe_with_one_line(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    probe = kind(num_steps=10)
    with caplog.at_level("INFO"):
        fit(probe, fast_dev_run=True)
    assert probe.curves == {}
    assert probe.suggestion is None
    assert "skipped, as `fast_dev_run` trains too few steps" in line(caplog, probe.title)


@pytest.mark.parametrize("options", [{"limit_train_batches": 0}, {"max_epochs": 0}])
def test_a_fit_without_steps_logs_one_line_of_the_range_test(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    test, said = fit_unchanged(1.0, caplog, **options)
    assert test.curve is None
    assert "not run" in said


@pytest.mark.parametrize("options", [{"limit_train_batches": 0}, {"max_epochs": 0}])
def test_a_fit_without_steps_logs_one_line_of_a_probe(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    probe = decay_probe()
    with caplog.at_level("INFO"):
        fit(probe, **options)
    assert probe.curves == {}
    assert "not run, as the fit had no training step" in line(caplog, probe.title)


@pytest.mark.filterwarnings("ignore:.*Total length of `DataLoader` across ranks is zero.*")
@pytest.mark.filterwarnings("ignore:.*Total length of `CombinedLoader` across ranks is zero.*")
def test_an_empty_loader_logs_one_line_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    test, module = LRRangeTest(), SmallNet()
    before = weights_of(module)
    empty = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(0, 8), torch.zeros(0)), 4)
    with caplog.at_level("INFO"):
        trainer([test]).fit(module, empty)
    assert "not run" in line(caplog)
    assert same(before, weights_of(module))


def test_a_missing_optimizer_is_an_error_and_harms_nothing() -> None:
    module, before = TwoNets(), AllLRs()
    weights = weights_of(module)
    with pytest.raises(
        MisconfigurationException,
        match=r"^There is no optimizer with index 2: `TwoNets\.configure_optimizers` returned 2 optimizers\.$",
    ):
        trainer([LRRangeTest(optimizer=2), before]).fit(module, data())
    assert before.lr == []
    assert same(weights, weights_of(module))


@PROBES
def test_a_missing_optimizer_is_a_clear_error_of_a_probe(kind: Any) -> None:
    with pytest.raises(
        MisconfigurationException,
        match=r"optimizer with index 1[^\n]*`Net\.configure_optimizers` returned 1 optimizer\.$",
    ):
        fit(kind(num_steps=10, optimizer=1))


@PROBES
def test_a_module_without_an_optimizer_is_a_clear_error_of_a_probe(kind: Any) -> None:
    class Untrained(Net):
        def configure_optimizers(self) -> None:
            return None

    untrained = pytest.warns(UserWarning, match="`LightningModule.configure_optimizers` returned `None`")
    with (
        untrained,
        pytest.raises(MisconfigurationException, match=r"`Untrained\.configure_optimizers` returned 0 optimizers\.$"),
    ):
        fit(kind(num_steps=10), Untrained())


# --------------------------------------------------------------------------------------------------------- another fit
def test_a_further_fit_of_the_same_trainer_uses_what_was_found() -> None:
    test, lrs, module = LRRangeTest(num_steps=40), LRs(), Momentum()
    fit = trainer([test, lrs], max_epochs=1)
    fit.fit(module, data())
    assert test.suggestion is not None
    curve = test.curve
    module.lr = 0.01  # as a module would that does not read the attribute
    assert fit.fit_loop.max_epochs == 1
    fit.fit_loop.max_epochs = 2
    fit.fit(module, data())
    assert test.curve is curve
    assert lrs.lr == [[test.suggestion.lr]] * 16


def test_another_module_does_not_get_the_result_of_the_first() -> None:
    test, lrs = LRRangeTest(num_steps=40), LRs()
    fit = trainer([test, lrs], max_epochs=1)
    fit.fit(Momentum(), data())
    fit.fit_loop.max_epochs = 2
    fit.fit(Momentum(lr=1e-4), data())
    assert lrs.lr[8:] == [[1e-4]] * 8


def test_a_fit_of_another_trainer_tests_again() -> None:
    test = LRRangeTest(num_steps=40)
    trainer([test]).fit(Momentum(), data())
    first = test.curve
    trainer([test]).fit(Fixed(1.0), data())
    assert first is not None
    assert test.curve is not None
    assert test.curve.loss == (1.0,) * 40
    assert test.suggestion is None


def test_a_further_fit_of_the_same_module_uses_what_was_found(caplog: pytest.LogCaptureFixture) -> None:
    probe, lrs, module = decay_probe(0.5), LRs(), Wanting(1e-4)
    fitting = trainer([probe, lrs], max_epochs=1)
    fitting.fit(module, data(), data(96))
    curves = probe.curves
    module.weight_decay = 1e-4
    fitting.fit_loop.max_epochs = 2
    fitting.fit(module, data(), data(96))
    assert probe.curves is curves
    assert lrs.weight_decay == [[0.5]] * 16


def test_a_new_fit_probes_again() -> None:
    probe = decay_probe(0.5, 0.0)
    fit(probe, Net())
    first = probe.curves
    fit(probe, Net(lr=0.2))
    assert probe.curves.keys() == first.keys()
    assert probe.curves != first


# ---------------------------------------------------------------------------------------------------------- milestones
def test_at_each_milestone_a_new_cycle_begins_over_the_rest_with_the_peak_found_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        found, lrs, _ = in_valleys(
            with_milestones(2, 4), lambda module, optimizer: OneCycleScheduler(optimizer, None, 48)
        )
    assert (found[0], found[2], found[4]) == (found[1], found[3], found[5])
    # Two epochs of a cycle of 6 * 8 steps, two of one of 4 * 8, and the whole of one of 2 * 8.
    cycles = [OneCyclePolicy(found[0], 48), OneCyclePolicy(found[2], 32), OneCyclePolicy(found[4], 16)]
    assert [lr for [lr] in lrs.lr] == [cycle.lr(step) for cycle in cycles for step in range(16)]
    assert [value for [value] in lrs.momentum] == [cycle.momentum(step) for cycle in cycles for step in range(16)]
    assert lrs.lr[-1] == [found[4] / 10 / 1e4]  # the last of them with its annihilation
    peaks = [0.01, found[0], found[2], found[4]]
    assert [said.splitlines()[0] for said in lines(caplog)] == [
        f"LR range test: max_lr {before:.3g} → {after:.3g}{factor(before, after)} for SGD, 1 group, OneCycleScheduler,"
        " module.lr"
        for before, after in itertools.pairwise(peaks)
    ]


@pytest.mark.parametrize("name", ["no scheduler", "StepLR", "OneCycleLR", "CosineAnnealingLR", "LambdaLR"])
def test_other_schedules_keep_their_place_and_are_scaled_at_a_milestone(name: str) -> None:
    schedules: dict[str, Any] = {
        "no scheduler": None,
        "StepLR": lambda module, optimizer: schedulers.StepLR(optimizer, 8, gamma=0.5),
        "OneCycleLR": lambda module, optimizer: schedulers.OneCycleLR(optimizer, 0.01, total_steps=48, pct_start=0.5),
        "CosineAnnealingLR": lambda module, optimizer: schedulers.CosineAnnealingLR(optimizer, 48),
        "LambdaLR": lambda module, optimizer: schedulers.LambdaLR(optimizer, lambda k: 1 / (1 + k / 8)),
    }
    plain = LRs()
    trainer([plain], max_epochs=6).fit(Momentum(schedules[name]), data())
    found, lrs, module = in_valleys(with_milestones(2, 4), schedules[name])
    assert module.lr == found[-1]
    expected = [lr * found[step // 8] / 0.01 for step, [lr] in enumerate(plain.lr)]
    assert [lr for [lr] in lrs.lr] == pytest.approx(expected, rel=1e-9)
    assert lrs.momentum == plain.momentum
    if name == "StepLR":  # halved after every epoch
        assert lrs.lr[::8] == pytest.approx(np.array([[lr / 2**epoch] for epoch, lr in enumerate(found)]))


def test_milestones_that_only_suggest_change_nothing() -> None:
    plain = LRs()
    schedule = SCHEDULES["OneCycleScheduler"]
    trainer([plain], max_epochs=6).fit(Momentum(schedule), data())
    found, lrs, module = in_valleys(with_milestones(2, 4, apply=False), schedule)
    assert len(set(found)) == 3
    assert (lrs.lr, lrs.momentum) == (plain.lr, plain.momentum)
    assert module.lr == 0.01


@pytest.mark.parametrize("milestones", [(3,), [3], (3, 3), (3, 77), [0 + 3, 1]], ids=repr)
def test_milestones_may_be_a_list_repeat_and_lie_beyond_the_end(milestones: Any) -> None:
    test = LRRangeTest(1e-4, num_steps=40, milestones=milestones, report=False)
    results = Results(test)
    trainer([test, results], max_epochs=4).fit(Valley(1.0, 0.5), data())
    assert test.milestones is milestones
    changed = [epoch for epoch in range(1, 4) if results.curves[epoch] is not results.curves[epoch - 1]]
    assert changed == sorted({epoch for epoch in milestones if epoch < 4})


def test_a_milestone_that_gives_no_suggestion_leaves_the_cycle_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class Flat(Valley):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss if self.current_epoch == 0 else 1 + 0 * loss

    test, lrs = with_milestones(1), LRs()
    with caplog.at_level("INFO"):
        trainer([test, lrs]).fit(Flat(1.0, schedule=SCHEDULES["OneCycleScheduler"]), data())
    [first, second] = lines(caplog)
    peak = max(lr for [lr] in lrs.lr)
    assert f" → {peak:.3g} (" in first
    assert second.splitlines()[:2] == [
        f"LR range test: no suggestion, max_lr stays {peak:.3g}",
        "  the loss does not fall anywhere in the sweep",
    ]
    assert [lr for [lr] in lrs.lr] == [OneCyclePolicy(peak, 16).lr(step) for step in range(16)]
    assert test.suggestion is None


def test_a_backbone_that_is_unfrozen_at_a_milestone_is_in_the_new_cycle() -> None:
    class Backbone(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
            self.net = nn.Sequential(self.backbone, nn.ReLU(), self.head)

        def configure_optimizers(self) -> Any:
            head = [weight for weight in self.parameters() if weight.requires_grad]
            return configure_one_cycle(self, torch.optim.SGD(head, lr=0.1, momentum=0.9))

    finetuning = BackboneFinetuning(1, backbone_initial_ratio_lr=0.5, verbose=False)  # half the lr of the head
    test = with_milestones(1)
    results, lrs = Results(test), LRs()
    trainer([finetuning, test, results, lrs]).fit(Backbone(), data())
    first, second = OneCyclePolicy(results.lr[0], 16), OneCyclePolicy(results.lr[1], 8)
    assert results.lr[0] != results.lr[1]
    assert lrs.lr[:8] == [[first.lr(step)] for step in range(8)]
    assert [head for head, _ in lrs.lr[8:]] == [second.lr(step) for step in range(8)]
    assert [backbone for _, backbone in lrs.lr[8:]] == pytest.approx([second.lr(step) / 2 for step in range(8)])
    assert lrs.momentum[8:] == [[second.momentum(step)] * 2 for step in range(8)]


def test_milestones_find_the_lr_of_one_optimizer_of_several() -> None:
    class TwoValleys(TwoNets):
        """The loss of each is lowest where its lr is 1 in the first epoch, and 0.5 in the second."""

        def __init__(self) -> None:
            super().__init__()
            self.last = [1e-4, 1e-4]

        def loss_of(self, net: nn.Module, batch: Any, optimizer: Any) -> Any:
            index = int(net is self.nets[1])
            before, self.last[index] = self.last[index], optimizer.param_groups[0]["lr"]
            distance = math.log10(before / [1.0, 0.5][self.current_epoch])
            return 1 + distance**2 + 0 * super().loss_of(net, batch, optimizer)

    test, lrs = with_milestones(1, optimizer=1), AllLRs()
    results = Results(test)
    trainer([test, results, lrs]).fit(TwoValleys(), data())
    assert results.lr == pytest.approx([0.1, 0.05], rel=10 ** (5 / 39) - 1)
    cycles = [OneCyclePolicy(results.lr[0], 16), OneCyclePolicy(results.lr[1], 8)]
    assert [second[0] for _, second in lrs.lr] == [cycle.lr(step) for cycle in cycles for step in range(8)]
    assert [first[0] for first, _ in lrs.lr] == [0.01 / 2 ** (step // 4) for step in range(16)]


# ----------------------------------------------------------------------------------------------------- several finders
def test_the_order_in_the_list_does_not_matter_and_the_range_test_comes_first(caplog: pytest.LogCaptureFixture) -> None:
    results, decays = [], (1e-1, 1e-3)
    for turned in (False, True):
        torch.manual_seed(0)
        test, decay = LRRangeTest(1e-4, 10.0, 30, report=False), decay_probe(*decays)
        momentum, lrs = momentum_probe(0.9, 0.97), LRs()
        callbacks: list[pl.Callback] = [test, decay, momentum]
        caplog.clear()
        with caplog.at_level("INFO"):
            first, *others = callbacks[::-1] if turned else callbacks
            fit(first, OneCycle(1e-4), *others, lrs)
        assert [it.partition(": at most ")[0] for it in caplog.messages if ": at most " in it] == [
            "LR range test",
            "Weight decay probe",
            "Momentum probe",
        ]
        assert test.suggestion is not None
        peak = test.suggestion.lr
        how = line(caplog, "Weight decay probe").splitlines()[-1]
        assert how.startswith(f"  2 candidates, 10 steps each, max_lr {peak:.3g}")
        assert "no range test" not in how
        assert {curve.lr[-1] for curve in (*decay.curves.values(), *momentum.curves.values())} == {peak}
        assert max(rates[0] for rates in lrs.lr) == peak
        results.append((test.suggestion, decay.curves, decay.suggestion, momentum.curves, momentum.suggestion, lrs.lr))
    assert results[0] == results[1]


def test_a_range_test_that_only_suggests_leaves_the_probe_the_optimizers_lr(caplog: pytest.LogCaptureFixture) -> None:
    probe = decay_probe()
    with caplog.at_level("INFO"):
        fit(LRRangeTest(1e-4, 10.0, 30, report=False, apply=False), Net(), probe)
    assert probe.curves[0.0].lr[-1] == pytest.approx(0.1)
    how = line(caplog, "Weight decay probe").splitlines()[-1]
    assert how.startswith("  2 candidates, 10 steps each, max_lr 0.1 (no range test has set it)")


def test_a_decay_that_was_found_is_no_found_lr(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(momentum_probe(), Net(), decay_probe())
    how = line(caplog, "Momentum probe").splitlines()[-1]
    assert how.startswith("  2 candidates, 10 steps each, max_lr 0.1 (no range test has set it)")


def test_the_found_decay_is_in_the_trials_of_the_momentum_probe() -> None:
    seen: set[float] = set()

    class Seen(Net):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            seen.add(optimizer.param_groups[0]["weight_decay"])

    fit(momentum_probe(), Seen(), decay_probe(0.5))
    assert seen == {0.5}


@pytest.mark.parametrize("finder", [LRRangeTest, WeightDecayProbe])
def test_before_a_run_there_is_no_reason_to_ask_for(finder: Any) -> None:
    with pytest.raises(RuntimeError, match=f"There is no result: this {finder.__name__} has not run yet"):
        _ = finder().why


@pytest.mark.parametrize("finders", [None, 5, [LRRangeTest(num_steps=10)]], ids=["None", "a number", "a test"])
def test_an_attribute_of_the_users_callback_with_the_name_of_ours_runs_nothing(finders: Any) -> None:
    class Users(pl.Callback):
        def __init__(self) -> None:
            self.finders = finders

    test = LRRangeTest(num_steps=20, report=False)
    trainer([Users(), test]).fit(SmallNet(), data())
    assert test.curve is not None
    assert not isinstance(finders, list) or finders[0].curve is None


# ------------------------------------------------------------------------------------------ arguments of any library
def types_in(value: Any) -> set[type]:
    """The types of a value and of all that it contains."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return {type(value)}.union(*(types_in(item) for item in inside))


numpy: Any = np  # what it makes is of no type that the signatures name
pytorch: Any = torch
PLAIN = {dict, list, tuple, str, int, float, bool, type(None)}
NUMBERS = [1e-2, 1e-3]
MANY: dict[str, Any] = {
    "tuple": tuple,
    "UserList": UserList,  # a sequence that is no list, as omegaconf's ListConfig
    "deque": deque,
    "array": numpy.array,
    "list of float32": lambda numbers: list(numpy.array(numbers, dtype=numpy.float32)),
    "tensor": lambda numbers: pytorch.tensor(numbers, dtype=pytorch.float64),
}
FINDERS_OF = {
    **{f"weight_decays {name}": lambda of=of: WeightDecayProbe(of(NUMBERS), 10) for name, of in MANY.items()},
    **{f"momentums {name}": lambda of=of: MomentumProbe(of([0.5, 0.25]), 10) for name, of in MANY.items()},
    "milestones range": lambda: LRRangeTest(num_steps=20, milestones=range(1, 2)),
    "milestones array": lambda: LRRangeTest(num_steps=20, milestones=numpy.array([1])),
    "milestones UserList": lambda: LRRangeTest(num_steps=20, milestones=UserList([1])),
    "numbers of numpy": lambda: LRRangeTest(
        numpy.float32(1e-5),
        numpy.float64(5.0),
        numpy.int64(30),
        val_batches=numpy.int32(2),
        early_stop_threshold=numpy.float32(4),
    ),
    "numbers of torch": lambda: LRRangeTest(pytorch.tensor(1e-5), pytorch.tensor(5.0), optimizer=pytorch.tensor(0)),
    "numbers of a probe": lambda: WeightDecayProbe(
        NUMBERS, numpy.int64(10), min_lr=numpy.float32(1e-6), max_lr=numpy.float32(0.1)
    ),
}


@pytest.mark.parametrize("make", FINDERS_OF.values(), ids=FINDERS_OF)
def test_arguments_of_any_library_give_plain_settings_state_and_report(make: Any, tmp_path: Path) -> None:
    finder = make()
    fit(finder, Net(1e-4), root=tmp_path, max_epochs=2)
    assert types_in(finder.state_dict()) <= PLAIN
    settings = finder.facts()["settings"]
    assert types_in(settings) <= PLAIN
    folders = [path.parent for path in tmp_path.glob("*/result.json")]
    assert len(folders) == 1 + len(finder.milestones)
    for folder in folders:
        assert len([*folder.glob("*.png")]) == 1
        written = json.loads((folder / "result.json").read_text())["settings"]
        assert written == {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def test_what_is_tried_and_when_is_what_was_given() -> None:
    probe = WeightDecayProbe(numpy.array(NUMBERS), 10, report=False)
    fit(probe, Net(1e-4))
    assert list(probe.curves) == NUMBERS
    assert LRRangeTest(milestones=numpy.array([1, 3])).milestones == [1, 3]
    given = (1, 3)
    assert LRRangeTest(milestones=given).milestones is given


@pytest.mark.parametrize(
    "milestones", [2, "2", b"2", {2}, None, numpy.array(2), numpy.array([[1]]), [1.0], UserList([0])]
)
def test_milestones_that_are_no_epochs_raise(milestones: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^Expected argument `milestones` to be"):
        LRRangeTest(milestones=milestones)


def test_a_value_that_is_used_is_among_the_metrics_that_callbacks_see_also_in_a_further_fit() -> None:
    test, probe = LRRangeTest(1e-4, 10.0, 40), decay_probe()
    t, module = trainer([test, probe], max_epochs=1), OneCycle()
    for epochs in (1, 2):
        t.fit_loop.max_epochs = epochs
        t.fit(module, data(), data(96))
        seen = {name: float(value) for name, value in t.callback_metrics.items() if name.startswith("found/")}
        found = {"found/max_lr": test.value, "found/weight_decay": probe.value}
        assert seen == {name: value for name, value in found.items() if value is not None}
        assert seen


def test_a_value_that_is_only_suggested_is_not_among_the_metrics() -> None:
    test = LRRangeTest(1e-4, 10.0, 40, apply=False)
    t = trainer([test])
    t.fit(OneCycle(), data(), data(96))
    assert not [name for name in t.callback_metrics if name.startswith("found/")]
