"""A character GPT at equal optimizer steps: found values and one cycle against the usual schedule.

Trains ``shakespeare.py``'s net by the same command line, in three ways with each seed:

- usual: AdamW at 3e-4, linear warm-up, then a cosine down to a tenth;
- found, one cycle: ``tune`` finds the peak, ``fit`` trains with it;
- found, cosine: the found peak with the usual schedule, to see what the learning rate does and what the cycle does.

The steps of the search count: a run with a found peak trains for as many steps less. Weight decay is 0.1 in all; its
search would take up to 600 steps. Prints a table, draws the validation loss over the steps, and writes JSON files.

    python examples/compare_shakespeare.py                    # three seeds: under 4 minutes on two cores
    python examples/compare_shakespeare.py --max-steps 5000   # the search is a smaller share of a longer run
    python examples/compare_shakespeare.py --data.root DIR    # the text from there; downloaded by default
    python examples/compare_shakespeare.py --max-steps 5000 --model.width=384 --model.depth=6 --model.heads=6
"""

import argparse
import csv
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
from measured import add_run
from shakespeare import GPT, Shakespeare, ShakespeareCLI
from shakespeare import main as train

USUAL, FOUND_COSINE, FOUND_ONE_CYCLE = "usual, cosine", "found, cosine", "found, one cycle"
COLORS = {USUAL: "#d98e04", FOUND_COSINE: "#54aeff", FOUND_ONE_CYCLE: "#1f6feb"}
FILES = {USUAL: "usual", FOUND_COSINE: "found_cosine", FOUND_ONE_CYCLE: "found_one_cycle"}
LR = "lr-AdamW/pg1"  # as logged, of the matrices; the other group has the same


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        lr: Peak learning rate.
        searched: Optimizer steps of the search for it.
        steps: Of each checkup the optimizer step, those of the search included.
        losses: Validation loss at each.
        lrs: Step and learning rate, as logged.
        seconds: Wall time, that of the search included.
        about: Net and batches.
    """

    lr: float
    searched: int
    steps: list[int]
    losses: list[float]
    lrs: list[tuple[int, float]]
    seconds: float
    about: dict[str, Any]


@dataclass(frozen=True)
class Search:
    """What ``tune`` has found: the file for ``fit``, the peak, and what they cost."""

    file: Path
    lr: float
    steps: int
    seconds: float


def search(common: Sequence[str]) -> Search:
    """Find the peak of one cycle."""
    start = time.perf_counter()
    result = train(["tune", *common, "--weight_decay_probe=false"]).tune_result
    if result is None or result.max_lr is None or result.directory is None:
        raise SystemExit(f"No learning rate found: {result and result.reasons}.")
    saved = json.loads((Path(result.directory) / "result.json").read_text())
    steps = int(saved["lr_range_test"]["steps"])
    return Search(Path(result.directory) / "tuned.yaml", result.max_lr, steps, time.perf_counter() - start)


def fit(words: Sequence[str], lr: float, steps: int, found: Search | None) -> Run:
    """Train within a budget of ``steps``, from which those of a search are taken."""
    searched = 0 if found is None else found.steps
    start = time.perf_counter() - (0 if found is None else found.seconds)
    cli = train(["fit", *words, f"--trainer.max_steps={steps - searched}"])
    cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    loss = float(cli.trainer.callback_metrics["val_loss"])
    seconds = time.perf_counter() - start
    log = read_log(cli)
    checkups = [(int(row["step"]) + 1 + searched, float(row["val_loss"])) for row in log if row.get("val_loss")]
    checkups = [it for it in checkups if it[0] < steps] + [(steps, loss)]
    lrs = [(int(row["step"]) + searched, float(row[LR])) for row in log if row.get(LR)]
    return Run(lr, searched, [step for step, _ in checkups], [it for _, it in checkups], lrs, seconds, describe(cli))


def describe(cli: ShakespeareCLI) -> dict[str, Any]:
    """Return what there is to know of a run's net and batches."""
    net, data, trainer = cli.model, cli.datamodule, cli.trainer
    assert isinstance(net, GPT)
    assert isinstance(data, Shakespeare)
    return {
        "layers": len(net.layers),
        "width": net.head.in_features,
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "block": data.block,
        "batch_size": data.batch_size,
        "accumulated": trainer.accumulate_grad_batches,
        "precision": trainer.precision,
        "weight_decay": net.weight_decay,
    }


def read_log(cli: ShakespeareCLI) -> list[dict[str, str]]:
    """Return the rows that a run has logged."""
    return list(csv.DictReader((Path(str(cli.trainer.log_dir)) / "metrics.csv").read_text().splitlines()))


def run_all(seeds: int, steps: int, usual_lr: float, common: Sequence[str]) -> dict[str, list[Run]]:
    """Train in each way with each seed."""
    runs: dict[str, list[Run]] = {name: [] for name in COLORS}
    for seed in range(seeds):
        words = [*common, f"--seed_everything={seed}"]
        usual = [*words, "--model.schedule=cosine", f"--model.lr={usual_lr}"]
        runs[USUAL].append(fit(usual, usual_lr, steps, None))
        found = search([*words, f"--trainer.max_steps={steps}"])
        its_cosine = [*words, "--model.schedule=cosine", f"--model.lr={found.lr}"]
        runs[FOUND_COSINE].append(fit(its_cosine, found.lr, steps, found))
        runs[FOUND_ONE_CYCLE].append(fit([*words, "-c", str(found.file)], found.lr, steps, found))
    return runs


# ------------------------------------------------------------------------------------------- results
def draw(runs: dict[str, list[Run]], title: str) -> Figure:
    """Draw the validation loss of all runs, and the learning rates of the first seed."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, color in COLORS.items():
        for run in runs[name]:
            left.plot(run.steps, run.losses, color=color, marker=".", alpha=0.8)
        right.plot(*zip(*runs[name][0].lrs, strict=True), color=color, label=name)
    searched = runs[FOUND_ONE_CYCLE][0].searched
    for panel in (left, right):
        panel.axvspan(0, searched, color="#57606a", alpha=0.12, linewidth=0, label="search, before the found runs")
        panel.grid(alpha=0.3)
    left.set(xlabel="optimizer step", ylabel="validation loss, nats per character", title="Each line is a seed")
    right.set(xlabel="optimizer step", ylabel="learning rate", yscale="log", title="Learning rate, seed 0")
    right.set_ylim(bottom=min(of_each[0].lr for of_each in runs.values()) / 30)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=len(COLORS) + 1)
    figure.suptitle(title)
    return figure


def store(runs: dict[str, list[Run]], steps: int, out: Path) -> dict[str, dict[str, Any]]:
    """Write a JSON file for each row, and return their contents."""
    rows = {}
    for name, of_each_seed in runs.items():
        for seed, run in enumerate(of_each_seed):
            numbers = {"lr": run.lr, "searched": run.searched, "val_loss": run.losses[-1], "seconds": run.seconds}
            about = {"run": name, "steps": steps, **run.about}
            rows[name] = add_run(out / f"{FILES[name]}.json", about, {"seed": seed, **numbers})
    return rows


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'':22}{'peak lr':>10}{'search':>10}{'validation loss':>18}{'(min to max)':>20}{'seconds':>10}")
    for name, row in rows.items():
        loss, spread = row["val_loss"], "({min:.3f} to {max:.3f})".format(**row["val_loss"])
        searched = f"{row['runs'][0]['searched']} steps"
        print(f"{name:22}{row['lr']['mean']:>10.2g}{searched:>10}{loss['mean']:>18.3f}{spread:>20}", end="")
        print(f"{row['seconds']['mean']:>10.0f}")
    print("Mean of the seeds; steps and seconds of the search are included. Loss in nats per character.")


def main(seeds: int, max_steps: int, usual_lr: float, out: Path, words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Train in all ways, print the table, and return the contents of the JSON files."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)  # what Lightning says of its devices, once a run
    common = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    common += ["--trainer.enable_checkpointing=false", f"--trainer.logger.init_args.save_dir={out}", *words]
    start = time.perf_counter()
    runs = run_all(seeds, max_steps, usual_lr, common)
    seconds = time.perf_counter() - start
    rows = store(runs, max_steps, out)
    print(f"\nCharacter GPT, {max_steps} optimizer steps, n = {seeds}, {seconds:.0f} s in all")
    show(rows)
    picture = out / "compare.png"
    draw(runs, f"Character GPT on Shakespeare, {max_steps} optimizer steps, n = {seeds}").savefig(picture, dpi=150)
    print(f"picture: {picture}")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-steps", type=int, default=800, help="optimizer steps of each run, search included")
    parser.add_argument("--usual-lr", type=float, default=3e-4, help="peak of the usual schedule")
    parser.add_argument("--out", type=Path, default=Path("demo_runs/shakespeare"), help="folder for logs and pictures")
    options, others = parser.parse_known_args()  # the others are for `shakespeare.py`
    main(**vars(options), words=others)
