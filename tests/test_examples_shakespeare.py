"""The character GPT: which parameters decay, its usual schedule, its command line, and the comparison."""

import csv
import json
import math
import re
import runpy
import string
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("torchvision", reason="the examples need torchvision: pip install 'pl-onecycle[examples]'")
pytest.importorskip("jsonargparse", reason="the command line needs it: pip install 'pl-onecycle[cli]'")
pytest.importorskip("matplotlib", reason="the comparison draws: pip install 'pl-onecycle[plot]'")

from pl_onecycle.policy import OneCyclePolicy
from tests.test_examples import EXAMPLES

pytestmark = [  # as `main` of the example ignores them
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings(r"ignore:.*`isinstance\(treespec, LeafSpec\)` is deprecated.*"),
]
SMALL = ["--model.width=16", "--model.depth=1", "--model.heads=2", "--data.block=16", "--data.batch_size=4"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
QUIET += ["--trainer.enable_checkpointing=false", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]


@pytest.fixture
def shakespeare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, as a script finds it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "shakespeare", raising=False)
    import shakespeare

    return shakespeare


@pytest.fixture
def data(tmp_path: Path) -> str:
    """The argument that names a text of 13,000 characters, in which each letter follows the one before."""
    (tmp_path / "tinyshakespeare.txt").write_text(string.ascii_lowercase * 500)
    return f"--data.root={tmp_path}"


def test_matrices_decay_and_biases_norms_and_embeddings_do_not(shakespeare: ModuleType) -> None:
    net = shakespeare.GPT(width=16, depth=1, heads=2, block=8)
    decayed, rest = net._groups()
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0)
    names = {weight: name for name, weight in net.named_parameters()}
    layer = "layers.0."
    matrices = [f"{layer}self_attn.in_proj_weight", f"{layer}self_attn.out_proj.weight"]
    matrices += [f"{layer}linear1.weight", f"{layer}linear2.weight", "head.weight"]
    assert [names[weight] for weight in decayed["params"]] == matrices
    assert sorted(names[weight] for weight in rest["params"]) == sorted(set(names.values()) - set(matrices))


def test_the_usual_schedule_rises_in_a_twentieth_of_the_steps_and_falls_to_a_tenth(shakespeare: ModuleType) -> None:
    adam = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = shakespeare.cosine(adam, 100)
    rates = []
    for _ in range(100):
        rates.append(adam.param_groups[0]["lr"])
        adam.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.3 * k / 5 for k in (1, 2, 3, 4, 5)])
    fall = [0.03 + 0.27 * (1 + math.cos(math.pi * step / 95)) / 2 for step in range(95)]
    assert rates[5:] == pytest.approx(fall)


def test_no_place_sees_the_characters_after_it(shakespeare: ModuleType) -> None:
    net = shakespeare.GPT(width=16, depth=2, heads=2, block=8).eval()
    first = torch.arange(8)[None]
    second = first.clone()
    second[0, 5:] = 40
    before, after = net(first), net(second)
    torch.testing.assert_close(before[0, :5], after[0, :5])
    assert not torch.allclose(before[0, 5:], after[0, 5:])


def test_a_window_and_what_follows_each_of_its_characters(shakespeare: ModuleType, data: str, tmp_path: Path) -> None:
    text = shakespeare.Shakespeare(str(tmp_path), block=10, val_windows=7)
    text.setup("fit")
    assert len(text.train) == 11_700 // 10 - 1  # nine tenths; the last character has no next one
    characters, following = text.train[0]
    assert "".join(shakespeare.CHARACTERS[it] for it in characters) == "abcdefghij"
    assert "".join(shakespeare.CHARACTERS[it] for it in following) == "bcdefghijk"
    assert sum(len(batch[0]) for batch in text.val_dataloader()) == 7


@pytest.mark.slow
def test_fit_trains_with_what_tune_has_found_and_only_the_matrices_decay(
    shakespeare: ModuleType, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"--trainer.logger.init_args.save_dir={tmp_path / 'out'}"
    words = [data, place, *SMALL, *QUIET, "--trainer.max_steps=20"]
    shakespeare.main(["tune", *words, "--lr_range_test.num_steps=40", "--weight_decay_probe.num_steps=10"])
    (named,) = re.findall(r"^Tuned values: (.*)$", capsys.readouterr().out, flags=re.MULTILINE)
    tuned = yaml.safe_load(Path(named).read_text())["one_cycle"]
    cli = shakespeare.main(["fit", *words, "-c", named])
    assert (cli.trainer.precision, cli.trainer.accumulate_grad_batches) == ("bf16-mixed", 2)
    rows = rows_of(Path(str(cli.trainer.log_dir)))
    policy = OneCyclePolicy(tuned["max_lr"], 20)
    for group in ("pg1", "pg2"):
        rates = [float(row[f"lr-AdamW/{group}"]) for row in rows if row[f"lr-AdamW/{group}"]]
        assert rates[::2] == pytest.approx([policy.lr(step) for step in range(20)])  # of two batches a step
    decays = [group["weight_decay"] for group in cli.trainer.optimizers[0].param_groups]
    assert decays == [tuned["weight_decay"], 0]


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Return the rows that a run has logged."""
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


@pytest.mark.slow
def test_the_comparison_takes_the_steps_of_the_search_from_the_run(
    shakespeare: ModuleType,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    short = tmp_path / "short.yaml"
    short.write_text("lr_range_test: {num_steps: 40}\n")
    words = ["--seeds=1", "--max-steps=60", "--out", str(out), data, *SMALL, "-c", str(short)]
    monkeypatch.setattr(sys, "argv", ["compare_shakespeare.py", *words])
    names = runpy.run_path(str(EXAMPLES / "compare_shakespeare.py"), run_name="__main__")
    files = {name: json.loads((out / f"{file}.json").read_text()) for name, file in names["FILES"].items()}
    searched = {name: file["runs"][0]["searched"] for name, file in files.items()}
    assert searched.pop(names["USUAL"]) == 0
    (steps,) = set(searched.values())
    assert 20 <= steps <= 41
    lines = capsys.readouterr().out.splitlines()
    for name, file in files.items():
        assert (file["n"], file["about"]["steps"], file["about"]["width"]) == (1, 60, 16)
        (line,) = [line for line in lines if line.startswith(name)]
        assert f"{file['val_loss']['mean']:.3f}" in line
    assert files[names["USUAL"]]["lr"]["mean"] == 3e-4
    assert files[names["FOUND_COSINE"]]["lr"] == files[names["FOUND_ONE_CYCLE"]]["lr"]
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_ends_with_the_budget(shakespeare: ModuleType, data: str, tmp_path: Path) -> None:
    names: dict[str, Any] = runpy.run_path(str(EXAMPLES / "compare_shakespeare.py"))
    words = [data, *SMALL, *QUIET, f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.val_check_interval=10"]
    found = names["Search"](Path("unused"), 1e-3, 8, 2.0)
    run = names["fit"](words, 1e-3, 20, found)
    assert run.steps == [13, 18, 20]  # 8 of the search; a validation each 5 steps, and at the end
    assert [step for step, _ in run.lrs][::2] == list(range(8, 20))
    assert run.seconds > 2
