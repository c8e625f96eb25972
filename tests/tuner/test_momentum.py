"""`tune` also runs a `MomentumProbe` that is among the Trainer's callbacks; a later fit trains with what it finds."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from pl_onecycle import MomentumProbe, OneCyclePolicy, OneCycleSettings, TuneResult
from tests.fits import LRs, data, trainer
from tests.tuner.made import ALLOWED, Cycled, Scheduled, tune

pytestmark = ALLOWED
CANDIDATES = (0.97, 0.99)


def tuned_with_momentum(model: Cycled, root: Path) -> tuple[TuneResult, MomentumProbe]:
    """The result, and the probe of the Trainer, which is only copied."""
    probe = MomentumProbe(CANDIDATES, 10, val_batches=1)
    return tune(model, on=trainer([probe], root)), probe


@pytest.mark.parametrize("schedule", Scheduled.kinds)
def test_after_apply_the_found_momentum_is_the_largest_of_the_run(schedule: str, tmp_path: Path) -> None:
    model = Scheduled(schedule)
    result, _ = tuned_with_momentum(model, tmp_path)
    assert result.max_lr is not None
    assert result.max_momentum is not None
    assert result.max_momentum in CANDIDATES
    assert result.before["max_momentum"] == {"configure_one_cycle": 0.95, "OneCycleLR": 0.95, "none": 0.9}[schedule]
    result.apply(model)
    lrs = LRs()
    trainer([lrs]).fit(model, data())
    assert max(lr for [lr] in lrs.lr) == pytest.approx(result.max_lr, rel=1e-12)
    assert lrs.weight_decay == [[result.weight_decay]] * 16
    momenta = [momentum for [momentum] in lrs.momentum]
    if schedule == "none":
        assert momenta == [result.max_momentum] * 16
    elif schedule == "configure_one_cycle":
        policy = OneCyclePolicy(result.max_lr, 16, max_momentum=result.max_momentum)
        assert momenta == [policy.momentum(step) for step in range(16)]
    else:  # torch's peak of the lr, where its momentum is smallest, is at 0.25 * 16 - 1
        assert (momenta[0], momenta[3], momenta[-1]) == pytest.approx((result.max_momentum, 0.85, result.max_momentum))
        assert max(momenta) == pytest.approx(result.max_momentum)


def test_the_momentum_is_in_the_table_and_in_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, probe = tuned_with_momentum(Cycled(), tmp_path)
    value, reason = result.max_momentum, result.reasons["max_momentum"]
    assert list(result.reasons) == ["max_lr", "weight_decay", "max_momentum"]
    [row] = [line for line in str(result).splitlines() if "max_momentum" in line]
    assert [cell.strip() for cell in row.split("│")[1:4]] == ["max_momentum", "0.95", f"{value:.3g}"]
    assert row.split("│")[4].strip()[:20] == reason[:20]  # the rest may be on another line
    assert "max_momentum" in capsys.readouterr().out

    folder = Path(str(result.directory))
    tuned = yaml.safe_load((folder / "tuned.yaml").read_text())
    assert tuned["one_cycle"]["max_momentum"] == value
    assert tuned == result.config()
    facts = json.loads((folder / "result.json").read_text())
    assert facts["config"]["one_cycle"]["max_momentum"] == value
    assert (facts["before"]["max_momentum"], facts["reasons"]["max_momentum"]) == (0.95, reason)
    assert facts["momentum_probe"]["suggestion"]["value"] == value
    assert facts["momentum_probe"]["suggestion"]["reason"] == reason
    assert facts["momentum_probe"]["settings"]["momentums"] == list(CANDIDATES)
    with (folder / "momentum_probe.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["series"] for row in rows] == ["momentum=0.99"] * 10 + ["momentum=0.97"] * 10
    assert all(row["val_loss"] for row in rows)  # each of ten steps is a checkup
    assert (probe.curves, probe.suggestion) == ({}, None)


def test_without_a_momentum_probe_there_is_no_momentum_to_apply() -> None:
    result = tune()
    assert result.max_momentum is None
    assert "max_momentum" not in {**result.reasons, **result.before, **result.config()["one_cycle"]}


def test_a_momentum_below_the_smallest_of_the_cycle_reaches_a_run_by_both_ways(tmp_path: Path) -> None:
    probe = MomentumProbe((0.5,), 10, val_batches=1)
    result = tune(Cycled(), on=trainer([probe], tmp_path))
    assert result.max_momentum is not None
    assert result.max_momentum == 0.5
    momenta = []
    for settings in ([], [OneCycleSettings(**result.config()["one_cycle"])]):
        model, lrs = Cycled(), LRs()
        if not settings:
            result.apply(model)
        trainer([*settings, lrs]).fit(model, data())
        momenta.append(lrs.momentum)
    assert momenta[0] == momenta[1] == [[0.5]] * 16
