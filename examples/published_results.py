"""Write the tables "theirs / ours" off the JSON files in ``examples/results``.

The published numbers stand here, ours in the files, each with n, hardware and versions. A row without a file reads "not
measured". The page ``docs/published_results.md`` is made as a whole; in ``examples/README.md`` it is the lines between
two markers.

    python examples/published_results.py                   # from what is stored
    python examples/published_results.py --runs demo_runs  # store what the examples have written there, first
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent
RESULTS = EXAMPLES / "results"
PAGE, README = EXAMPLES.parent / "docs" / "published_results.md", EXAMPLES / "README.md"
START, END = "<!-- results -->", "<!-- /results -->"
FOLDERS = ("cifar10", "rock_paper_scissors", "schedules", "finetune", "shakespeare")
KEPT = [f"{folder}/*.{ending}" for folder in FOLDERS for ending in ("json", "png")] + ["schedules/*/*.png"]
Result = Mapping[str, Any]


# ------------------------------------------------------------------------------------------ published
@dataclass(frozen=True)
class Row:
    """A published number and the run that repeats it.

    Attributes:
        what: The run, in words.
        theirs: What was published.
        file: Of our result, without folder and ending.
        metric: Which of its numbers is the published one.
        words: Of the command, after the script.
    """

    what: str
    theirs: str
    file: str
    metric: str = "val_accuracy"
    words: str = ""


FIFTY = "50 epochs, 0.3 → 3, weight decay {}: training accuracy"
CIFAR10 = (
    Row("one cycle, 0.08 → 0.8 → 0.08, momentum 0.95 → 0.8", "91.54 % in 9,310 iterations", "one_cycle"),
    Row("the same with constant momentum 0.9", "91.30 % in 9,310 iterations", "constant_momentum"),
    Row(FIFTY.format("1e-4"), "85.97 %", "fifty_epochs", "train_accuracy"),
    Row(FIFTY.format("1e-3"), "about 60 %", "fifty_epochs_decay_1e-3", "train_accuracy"),
    Row(FIFTY.format("1e-5"), "87.78 %", "fifty_epochs_decay_1e-5", "train_accuracy"),
    Row("stepwise from 0.1, batch 128", "about 64,000 iterations", "stepwise"),
    Row("super-convergence, 0.1 → 3 → 0.1, batch 1,000", "92.4 % in 10,000 iterations", "super_convergence"),
    Row("learning rate and weight decay found by `tune`", "-", "tuned", words=" -c FOUND --result.name=tuned"),
)
ROCK_PAPER_SCISSORS = (
    Row("simple CNN", "77.7 % (0.751)", "simple_CNN"),
    Row("MobileNetV2, frozen", "92.2 % (0.245)", "MobileNetV2"),
    Row("the same with the article's schedule", "91.7 % (0.279)", "MobileNetV2_articles_schedule"),
    Row("`LRRangeTest`, `WeightDecayProbe` and one cycle", "-", "MobileNetV2_found_one_cycle"),
)
SMALL = {  # file: row
    "small_constant_01": "constant, 0.1",
    "small_stepwise_01": "stepwise, 0.1",
    "small_one_cycle_01": "one cycle, peak 0.1",
    "small_one_cycle_found": "one cycle, found peak",
    "small_constant_found": "constant, found",
    "small_stepwise_found": "stepwise, found",
}
SHAKESPEARE = {  # file: row
    "usual": "usual peak, warm-up and cosine",
    "found_cosine": "found peak, warm-up and cosine",
    "found_one_cycle": "found peak, one cycle",
}


# ------------------------------------------------------------------------------------------- reading
def read(name: str) -> dict[str, Any] | None:
    """Return the content of a JSON file in the folder of results, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def store(runs: Path) -> list[Path]:
    """Copy JSON files and pictures of the examples from ``runs``, and return their places."""
    stored = []
    for path in sorted(path for pattern in KEPT for path in runs.glob(pattern)):
        place = RESULTS / path.relative_to(runs)
        place.parent.mkdir(parents=True, exist_ok=True)
        stored.append(Path(shutil.copyfile(path, place)))
    return stored


# ------------------------------------------------------------------------------------------- writing
def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def with_spread(numbers: Mapping[str, float], form: str, unit: str = "", factor: float = 1.0) -> str:
    """Return the mean, with the smallest and largest number where they differ from it."""
    mean, least, most = (format(factor * numbers[name], form) for name in ("mean", "min", "max"))
    return f"{mean}{unit}" if least == most else f"{mean}{unit} ({least} to {most})"


def percent(numbers: Mapping[str, float], digits: int = 1) -> str:
    """Return a share as percent, with its spread."""
    return with_spread(numbers, f".{digits}f", " %", 100)


def machine(result: Result) -> str:
    """Return on how many runs and on what a result was measured."""
    runs = result.get("runs", [result])
    hosts = sorted({run["hardware"] for run in runs})
    return f"n = {result['n']}; {', '.join(hosts)}"


def versions(results: Sequence[Result]) -> str:
    """Return the versions of the packages with which the results were measured."""
    found = {name: set[str]() for name in ("python", "torch", "torchvision", "lightning")}
    for run in (run for result in results for run in result.get("runs", [result])):
        for name, them in found.items():
            them.update({run["versions"][name]} if name in run["versions"] else ())
    return ", ".join(f"{name} {' and '.join(sorted(them))}" for name, them in found.items())


def cifar10_table() -> str:
    """Return the table of ResNet-56."""
    rows = []
    for row in CIFAR10:
        config = "one_cycle" if row.file == "tuned" else row.file
        command = f"`train.py fit -c configs/{config}.yaml{row.words}`"
        result = read(f"cifar10/{row.file}")
        if result is None:
            rows.append([row.what, row.theirs, "not measured", "a GPU for minutes", command])
            continue
        about = result["about"]
        accuracy = f"{percent(result[row.metric], 2)} in {about['iterations']:,} iterations"
        ours = f"{accuracy}, {with_spread(result['seconds'], '.0f')} s, {about['precision']}, {about['copy']} copy"
        rows.append([row.what, row.theirs, "; ".join([ours, *remarks(result)]), machine(result), command])
    return table(["ResNet-56 on CIFAR-10", "theirs", "ours", "n and hardware", "command"], rows)


def searches_table() -> str:
    """Return the table of what the plugin finds for ResNet-56."""
    rows = []
    test, tune = read("cifar10/range_test"), read("cifar10/tune")
    what = ["range test, batch 512", "usable up to about 1; peak 0.8"]
    if test is None:
        rows.append([*what, "not measured", "-", "`range_test.py`"])
    else:
        run = test["runs"][0]
        ours = run["why"]
        if "max_lr" in run:
            trough = f"trough from {run['trough_low']:.2g} to {run['trough_high']:.2g}"
            ours = f"peak {run['max_lr']:.2g} ({run['interval_low']:.2g} to {run['interval_high']:.2g}), {trough}"
        rows.append([*what, f"{ours}, {cost_of(test)}", machine(test), "`range_test.py`"])
    what, command = ["test in 1,000 steps with cycles, and decay", "-"], "`train.py tune -c configs/tune.yaml`"
    if tune is None:
        rows.append([*what, "not measured", "a GPU for minutes", command])
    else:
        run = tune["runs"][0]
        found = [
            f"{name} {run[key]:.2g}" for name, key in (("peak", "max_lr"), ("decay", "weight_decay")) if key in run
        ]
        rows.append([*what, f"{', '.join(found) or 'nothing'}, {cost_of(tune)}", machine(tune), command])
    return table(["ResNet-56 on CIFAR-10", "theirs", "ours", "n and hardware", "command"], rows)


def cost_of(search: Result) -> str:
    """Return the cost of a search, on which copy of the images it ran, and remarks."""
    run = search["runs"][0]
    cost = f"{run['steps']:,} steps, {run['seconds']:.0f} s, {search['about']['copy']} copy"
    return "; ".join([cost, *remarks(search)])


def remarks(result: Result) -> list[str]:
    """Return what the runs of a result say about how they were measured."""
    return sorted({run["remark"] for run in result["runs"] if "remark" in run})


def rock_paper_scissors_table() -> str:
    """Return the table of rock, paper, scissors."""
    rows = []
    for row in ROCK_PAPER_SCISSORS:
        result = read(f"rock_paper_scissors/rock_paper_scissors_{row.file}")
        if result is None:
            rows.append([row.what, row.theirs, "not measured", "-", "-"])
            continue
        ours = f"{percent(result['accuracy'])} ({with_spread(result['loss'], '.3f')})"
        epochs = with_spread(result["epochs_to_90"], ".0f")
        rows.append([row.what, row.theirs, ours, epochs, machine(result)])
    return table(["test accuracy (test loss)", "theirs", "ours", "epochs to 90 % of it", "n and hardware"], rows)


def small_table() -> str:
    """Return the table of ResNet-8 on 5,000 images."""
    rows = []
    for file, name in SMALL.items():
        result = read(f"cifar10/{file}")
        if result is not None:
            cells = [name, with_spread(result["largest_lr"], ".2g"), percent(result["val_accuracy"])]
            rows.append([*cells, with_spread(result["val_loss"], ".2f"), machine(result)])
    return table(["schedule", "largest lr", "test accuracy", "test loss", "n and hardware"], rows)


def finetune_table(result: Result) -> str:
    """Return the table of fine-tuning, one row a seed."""
    rows = []
    for run in result["runs"]:
        peaks = f"{run['peak_frozen']:.2g}, then {run['peak_unfrozen']:.2g}"
        ratio = f"{run['least_ratio']:.4f} to {run['largest_ratio']:.4f}"
        begins = [str(run[name]) for name in ("unfrozen_at", "cycle_begins_at")]
        accuracy = f"{run['accuracy_frozen']:.1%}, then {run['accuracy']:.1%}".replace("%", " %")
        rows.append([str(run["seed"]), peaks, ratio, *begins, accuracy])
    head = ["seed", "peak of the head", "head / backbone, all steps", "unfrozen at step", "second cycle begins at step"]
    return table([*head, "validation accuracy"], rows)


def shakespeare_table() -> str:
    """Return the table of the character GPT."""
    rows = []
    for file, name in SHAKESPEARE.items():
        result = read(f"shakespeare/{file}")
        if result is None:
            rows.append([name, "-", "-", "not measured", "-"])
            continue
        searched = ", ".join(dict.fromkeys(str(run["searched"]) for run in result["runs"]))
        loss = with_spread(result["val_loss"], ".3f")
        rows.append([name, with_spread(result["lr"], ".2g"), searched, loss, machine(result)])
    return table(["character GPT", "peak lr", "steps of the search", "validation loss", "n and hardware"], rows)


def schedules_table(result: Result) -> str:
    """Return the ranking on one task."""
    rows = []
    for place, (name, losses) in enumerate(result["val_loss"].items(), 1):
        best = f"{with_spread(losses['best'], '.3f')} at × {losses['best_factor']:g}"
        rows.append([str(place), name, with_spread(losses["found"], ".3f"), best])
    return table(["", "schedule", "validation loss, found lr", "best lr of the grid"], rows)


def place_of_one_cycle(result: Result) -> str:
    """Return where one cycle stands in both rankings of a task."""
    losses: Mapping[str, Any] = result["val_loss"]
    places = []
    for kind in ("found", "best"):
        order = sorted(losses, key=lambda name: losses[name][kind]["mean"])
        places.append(order.index("one cycle") + 1)
    return f"one cycle is number {places[0]} of {len(losses)} with the found lr, {places[1]} with the best of the grid"


def ahead() -> str:
    """Return how the cycles compare with the other schedules on 5,000 images."""
    accuracy = {
        name: 100 * result["val_accuracy"]["mean"]
        for file, name in SMALL.items()
        if (result := read(f"cifar10/{file}")) is not None
    }
    cycles = [name for name in accuracy if name.startswith("one cycle")]
    sentences = []
    for cycle in cycles:
        parts = []
        for name in accuracy:
            if name not in cycles:
                points = accuracy[cycle] - accuracy[name]
                parts.append(f"{abs(points):.1f} points {'ahead of' if points > 0 else 'behind'} *{name}*")
        sentences.append(f"*{cycle}* is {', '.join(parts)}.".replace("*one", "*One", 1))
    return " ".join(sentences) or "Not measured."


# --------------------------------------------------------------------------------------------- pages
def picture(file: str, text: str) -> Iterator[str]:
    """Yield the line that shows a stored picture, if there is one."""
    if (RESULTS / file).exists():
        yield f"![{text}](../examples/results/{file})\n"


COMMANDS = """```bash
python examples/cifar10/train.py tune -c examples/cifar10/configs/tune.yaml
python examples/cifar10/range_test.py
python examples/cifar10/compare.py
python examples/rock_paper_scissors.py
python examples/compare_schedules.py
python examples/finetune.py
python examples/compare_shakespeare.py
```
"""
ON_A_GPU = """\
The scripts of the first table lie in `examples/cifar10`. Each row has its file in `configs`; `FOUND` is the
`tuned.yaml` that `tune` names in its last line. On a GPU add `--trainer.precision=bf16-mixed
--model.channels_last=true --model.compile=true`, and `--ckpt_path=last` to continue a run that was cut off. For
several seeds, repeat with `--seed_everything=1`. The images are downloaded; `--data.root=FOLDER` names a copy.
A row reads "not measured" where the GPU was not there for long enough; its command was tried at a small size
(`--model.depth=8`).
"""


def page() -> str:
    """Return ``docs/published_results.md``."""
    stored = [json.loads(path.read_text()) for path in sorted(RESULTS.rglob("*.json"))]
    parts = [
        "# Published results\n",
        "Three texts stand at the origin of this project: an article on one cycle with ResNet-56, one on"
        " super-convergence with MobileNetV2, and one that compares learning rate schedules. Here stands what they"
        " claim, and what this plugin measures by the commands in `examples/`. `python examples/published_results.py`"
        " writes this page off the JSON files in `examples/results`, which hold each run.\n",
        f"Numbers are the mean over n seeds (min to max). Versions: {versions(stored)}.\n" if stored else "",
        COMMANDS,
        "## ResNet-56 on CIFAR-10\n",
        ON_A_GPU,
        cifar10_table(),
        searches_table(),
        *picture(
            "cifar10/range_test.png", "The range test of ResNet-56 with our suggestion, and the article's reading"
        ),
        "The default test reads this net far too low: in the few steps after its initialization the loss explodes near "
        "0.1, where a cycle that rises over thousands of steps trains well. A test of a tenth of the run, with short "
        "cycles, sees more: `configs/tune.yaml`.\n",
        "### One cycle, constant and stepwise, small enough for a CPU\n",
        "ResNet-8 on 5,000 images at equal iterations, by `compare.py`; the last two rows by `compare.py --all`. "
        + ahead()
        + "\n",
        small_table(),
        *picture("cifar10/compare.png", "Test accuracy after each epoch and learning rates of the schedules"),
        "## Rock, paper, scissors\n",
        *rock_paper_scissors_section(),
        "## Twelve schedules\n",
        *schedules_section(),
        "## Fine-tuning, and a transformer\n",
        *finetune_section(),
        *shakespeare_section(),
    ]
    return "\n".join(part for part in parts if part)


def rock_paper_scissors_section() -> Iterator[str]:
    """Yield the parts about rock, paper, scissors."""
    result = read("rock_paper_scissors/rock_paper_scissors_MobileNetV2")
    if result is not None:
        about = result["about"]
        yield (
            f"Theirs: 128 x 128 pixels, ImageNet weights. Ours: {about['size']} x {about['size']} pixels, MobileNetV2"
            f" {about['extractor']}, {about['epochs']} epochs, {about['test_images']} test images; so compare the rows"
            " with each other, not with theirs. `python examples/rock_paper_scissors.py`; the article's size is"
            " `--size 128`.\n"
        )
    yield rock_paper_scissors_table()
    yield from picture(
        "rock_paper_scissors/rock_paper_scissors.png", "Test accuracy and loss of the four runs after each epoch"
    )


def schedules_section() -> Iterator[str]:
    """Yield the parts about schedules."""
    yield (
        "The same net, data and steps for each; SGD with momentum 0.9, `python examples/compare_schedules.py`. The lr"
        " is found once by `LRRangeTest`; the best of the grid (× 0.25, 1 and 4) is chosen with the first seed.\n"
    )
    for name in ("digits", "cifar10"):
        result = read(f"schedules/{name}")
        if result is None:
            continue
        low, high = result["trough"]
        yield f"### {result['task']}\n"
        yield (
            f"{result['steps']} steps, {machine(result)}, {result['seconds']:.0f} s in all. Found lr"
            f" {result['lr']:.2g}, trough from {low:.2g} to {high:.2g}; {place_of_one_cycle(result)}.\n"
        )
        yield schedules_table(result)
        yield from picture(f"schedules/{name}/schedules.png", f"Learning rates of the schedules on {name}")
        yield from picture(f"schedules/{name}/losses.png", f"Validation loss over the steps on {name}")
    yield from picture("schedules/presets.png", "Learning rate and momentum of the presets of OneCyclePolicy")


def finetune_section() -> Iterator[str]:
    """Yield the parts about fine-tuning."""
    result = read("finetune/finetune")
    if result is None:
        yield "`python examples/finetune.py`: not measured.\n"
        return
    about = result["about"]
    yield (
        "`python examples/finetune.py`: a small net that knows the digits 0 to 4 learns 5 to 9. For"
        f" {about['head_epochs']} of {about['epochs']} epochs only a new head trains, in one cycle; then"
        " `BackboneFinetuning` adds the backbone with a tenth of the head's learning rate, the range test runs again,"
        f" and a second cycle begins. {machine(result)}.\n"
    )
    yield finetune_table(result)
    refused = [f"seed {run['seed']}: {run['why']}" for run in result["runs"] if run["refused"]]
    if refused:
        yield f"Where the second test suggested nothing, the second cycle has the first peak ({'; '.join(refused)}).\n"
    yield from picture(
        "finetune/finetune.png", "Learning rates of head and backbone, and validation accuracy of fine-tuning"
    )


def shakespeare_section() -> Iterator[str]:
    """Yield the parts about the character GPT."""
    result = read("shakespeare/found_one_cycle")
    if result is not None:
        about = result["about"]
        yield (
            f"`python examples/compare_shakespeare.py`: {about['layers']} layers of width {about['width']},"
            f" {about['parameters']:,} parameters, {about['steps']} optimizer steps of {about['accumulated']} x"
            f" {about['batch_size']} windows of {about['block']} characters, AdamW with weight decay"
            f" {about['weight_decay']:g} on the matrices, {about['precision']}. The steps of the search count: a run"
            " with a found peak trains for as many steps less. The second row has the schedule of the first and the"
            " peak of the third: it shows what the peak does, and the third what the cycle adds, which also ends near 0"
            " and not at a tenth of its peak. 3e-4 is known from larger nets and longer runs; `--usual-lr` sets"
            " another.\n"
        )
    yield shakespeare_table()
    yield from picture("shakespeare/compare.png", "Validation loss and learning rate of the character GPT")


def readme_block() -> str:
    """Return what stands in ``examples/README.md`` between the two markers."""
    return "\n".join([START, cifar10_table(), searches_table(), rock_paper_scissors_table(), small_table() + END])


def with_block(readme: str) -> str:
    """Return the README with the lines between the markers replaced."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{readme_block()}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder in which the examples have written, e.g. demo_runs")
    options = parser.parse_args()
    if options.runs is not None:
        print(f"stored {len(store(options.runs))} files in {RESULTS}")
    PAGE.write_text(page())
    README.write_text(with_block(README.read_text()))
    print(f"wrote {PAGE} and {README}")
