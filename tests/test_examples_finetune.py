"""The example of fine-tuning keeps the ratio of its groups, and begins its second cycle at the unfreeze."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="the examples need scikit-learn: pip install 'pl-onecycle[examples]'")
pytest.importorskip("torchvision", reason="the examples need torchvision: pip install 'pl-onecycle[examples]'")

from pl_onecycle.policy import OneCyclePolicy
from tests.test_examples import EXAMPLES

pytestmark = [  # as `main` of the example ignores them
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*have no `validation_step`.*"),
    pytest.mark.filterwarnings(r"ignore:.*`isinstance\(treespec, LeafSpec\)` is deprecated.*"),
]
STEPS = 23  # an epoch: 716 images of the digits 5 to 9 in batches of 32


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the script defines."""
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as for a script
    return runpy.run_path(str(EXAMPLES / "finetune.py"))


@pytest.mark.slow
def test_the_second_cycle_begins_at_the_unfreeze_with_both_groups(names: dict[str, Any]) -> None:
    run = names["fine_tune"](head_epochs=1, epochs=3, seed=0)
    assert (run.unfrozen_at, run.cycle_begins_at, len(run.lrs)) == (STEPS, STEPS, 3 * STEPS)
    frozen, unfrozen = run.peaks
    assert [len(lrs) for lrs in run.lrs] == [1] * STEPS + [2] * 2 * STEPS
    alone = OneCyclePolicy(frozen, STEPS)
    assert [lrs[0] for lrs in run.lrs[:STEPS]] == pytest.approx([alone.lr(step) for step in range(STEPS)])
    # From the end of the first cycle, a tenth and then 1e-4 of its peak, up to the second peak and back.
    shape = OneCyclePolicy(unfrozen, 2 * STEPS, div_factor=1e5, final_div_factor=1.0, pct_annihilation=0.0)
    whole = [shape.lr(step) for step in range(2 * STEPS)]
    assert [lrs[0] for lrs in run.lrs[STEPS:]] == pytest.approx(whole)
    assert [lrs[1] for lrs in run.lrs[STEPS:]] == pytest.approx([lr / 10 for lr in whole])
    assert run.ratios == pytest.approx([10] * 2 * STEPS)


@pytest.mark.slow
def test_the_pretrained_layers_stay_until_the_unfreeze_and_train_after_it(names: dict[str, Any]) -> None:
    pretrained = names["pretrain"](1, 0)
    before = pretrained.net[0].weight.detach().clone()
    model = names["FineTuned"](pretrained, head_epochs=1)
    assert model.backbone[0] is pretrained.net[0]
    unfreezes = names["Unfreezes"](1, backbone_initial_ratio_lr=0.1)
    callbacks = [unfreezes, names["BeginsSecondCycle"]()]
    names["fit"](model, 5, 1, [names["Unfreezes"](1)], 0)
    assert (model.backbone[0].weight == before).all()
    names["fit"](model, 5, 2, callbacks, 0)
    assert (model.backbone[0].weight != before).any()


def test_each_half_has_its_five_classes(names: dict[str, Any]) -> None:
    for first, count in ((0, 721), (5, 716)):
        half = names["HalfOfDigits"](first)
        half.setup("fit")
        assert len(half.train) == count
        assert sorted(set(half.train.tensors[1].tolist())) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_it_prints_stores_and_draws_what_the_run_has_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    words = ["--head-epochs=1", "--epochs=2", "--seeds=1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words])
    runpy.run_path(str(EXAMPLES / "finetune.py"), run_name="__main__")
    result = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert (result["n"], result["about"]["steps"], result["about"]["ratio"]) == (1, 2 * STEPS, 10)
    (run,) = result["runs"]
    assert (run["unfrozen_at"], run["cycle_begins_at"]) == (STEPS, STEPS)
    assert (run["least_ratio"], run["largest_ratio"]) == pytest.approx((10, 10))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("seed 0")]
    assert f"{run['accuracy_frozen']:.1%}, then {run['accuracy']:.1%}" in line
    assert f"{run['peak_frozen']:.3g}, then {run['peak_unfrozen']:.3g}" in line
    assert (tmp_path / "out" / "finetune.png").read_bytes().startswith(b"\x89PNG")
