"""Measure whether `WeightDecayProbe` chooses the right weight decay, and reports noise where none matters.

- runs: twenty-four tasks on real data, see ``weight_decay_tasks.py``, in three groups of eight. What the probe chooses
  for three seeds is judged by full one-cycle runs over a grid of eight decays with four seeds, stored in
  ``weight_decay_oracle.json``: the points of accuracy, or per cent of the best loss, that it loses against the best
  decay of the grid, and whether it is worse than the user's own by more than the standard deviation of a run. Smith's
  candidates are given to the probe together with the user's own.
- right: linear regression with few samples and many weights, where the right decay is known. Targets are
  y = x w + noise with w from N(0, 1), so the problem is a ridge regression, and the decay with the smallest expected
  loss is the variance of the noise over the number of samples. 64 samples, 96 weights, x from N(0, 0.1^2), SGD
  with lr 0.5 and momentum 0.9, batches of 32, 200 steps, candidates from ten times the right one down to a hundredth,
  and 0; by validation loss on 512 samples.
- alike: a small convolutional net on scikit-learn's digits, candidates 1e-5, 1.01e-5, 0.99e-5 and 0, which are
  equivalent over its 200 steps. Such runs drift apart by chance, and the probe should prefer none. The drift is the
  difference of the levels of two candidates in standard errors (root mean square), and as a share of the span of the
  curve.

    python benchmarks/weight_decay.py --shared FOLDER_OF_DATA
    python benchmarks/weight_decay.py --quick

Result of runs (torch 2.14.1, lightning 2.6.6, Python 3.11, 2 cores of a shared x86 server with other work on them,
n = 24 in each group, 3 minutes a group; the stored runs took 34 minutes). The rule was chosen on A and B, and C was
measured once with it:

    points lost: mean / worst (worse than own)
    group    own              Smith's candidates         probe                     best
    A         7.9 /  36.2      6.9 / 30.9  (0 of 24)     2.3 / 14.4  (0 of 24)     0
    B        35.8 / 172.6     22.6 / 65.6  (3 of 24)     7.1 / 23.2  (6 of 24)     0
    C        18.4 / 133.2     13.3 / 84.3  (0 of 24)     4.1 / 19.7  (0 of 24)     0

Most is lost where labels are noisy, and where a run overfits long after the probe's steps: a short cycle does not show
what a large decay is good for there.

Result of the others (torch 2.15.0, lightning 2.6.6, Python 3.11, 2 cores of a shared x86 server with other work on
them, n = 10, 6 minutes):

    right decay   mode        chosen   called sure  wrong and sure
    0.1           rise      10 of 10            10               0
    0.1           cycle     10 of 10            10               0
    0.01          rise      10 of 10            10               0
    0.01          cycle     10 of 10            10               0
    0.001         rise      10 of 10             0               0
    0.001         cycle      8 of 10             1               0

    alike         mode      within noise  drift in errors  share of span
    digits        rise          10 of 10             26.2           1.6%
    digits        cycle         10 of 10              2.7           0.1%
"""

import argparse
import itertools
import logging
import math
import platform
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pl_onecycle import WeightDecayProbe, configure_one_cycle
from pl_onecycle.curves.noise import noise_of
from pl_onecycle.probe import ProbeMode

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import weight_decay_oracle
from digits import ConvNet, Digits
from weight_decay_oracle import DecayOracle
from weight_decay_runs import SMITH, ask, details, scores
from weight_decay_tasks import TASKS

SAMPLES, WEIGHTS, SCALE = 64, 96, 0.1
STEPS = 200


class Ridge(pl.LightningModule):
    """Linear regression, starting from weights 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WEIGHTS, 1, bias=False)
        nn.init.zeros_(self.layer.weight)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return 0.5 * nn.functional.mse_loss(self.layer(batch[0])[:, 0], batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9))


class SmallConvNet(ConvNet):
    """The net of ``examples/digits.py`` at a learning rate that trains it."""

    def __init__(self) -> None:
        super().__init__(lr=0.1)


def regression(right: float, seed: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return loaders of training and validation samples for which ``right`` is the right decay."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(WEIGHTS, generator=generator)

    def draw(samples: int) -> TensorDataset:
        x = SCALE * torch.randn(samples, WEIGHTS, generator=generator)
        return TensorDataset(x, x @ weights + math.sqrt(right * SAMPLES) * torch.randn(samples, generator=generator))

    return DataLoader(draw(SAMPLES), 32, shuffle=True), DataLoader(draw(512), 128)


def probed(seed: int, model: Callable[[], pl.LightningModule], probe: WeightDecayProbe, *data: Any) -> WeightDecayProbe:
    """Run ``probe`` at the start of a fit of one step."""
    pl.seed_everything(seed, verbose=False)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_steps=1, callbacks=[probe], enable_model_summary=False, **quiet)
    trainer.fit(model(), *data)
    return probe


def right(decay: float, mode: ProbeMode, seeds: int) -> tuple[int, int, int]:
    """Count the seeds whose choice is right, those that are sure, and those that are wrong and sure."""
    candidates = (10 * decay, decay, decay / 10, decay / 100, 0.0)
    hits = sure = wrong = 0
    for seed in range(seeds):
        probe = WeightDecayProbe(candidates, STEPS, mode=mode, report=False)
        choice = probed(seed, Ridge, probe, *regression(decay, seed)).suggestion
        assert choice is not None
        hits += choice.value == decay
        sure += not choice.within_noise
        wrong += choice.value != decay and not choice.within_noise
    return hits, sure, wrong


def alike(mode: ProbeMode, seeds: int) -> tuple[int, float, float]:
    """Count the seeds within noise; also the drift in standard errors, and as a share of the span."""
    within, errors, shares = 0, list[float](), list[float]()
    for seed in range(seeds):
        probe = WeightDecayProbe((1e-5, 1.01e-5, 0.99e-5, 0.0), STEPS, mode=mode, report=False)
        probed(seed, SmallConvNet, probe, Digits())
        assert probe.suggestion is not None
        within += probe.suggestion.within_noise
        losses = [np.asarray(curve.loss) for curve in probe.curves.values()]
        end = STEPS // 5
        for one, other in itertools.combinations(losses, 2):
            difference = one - other
            margin = abs(float(difference[-end:].mean()))
            errors.append(margin / (noise_of(difference[-2 * end :]) / math.sqrt(end)))
            shares.append(margin / float(np.ptp(one)))
    return within, float(np.sqrt(np.mean(np.square(errors)))), float(np.sqrt(np.mean(np.square(shares))))


def known(seeds: int) -> None:
    """Print the tables where the right decay is known, and where none matters."""
    modes: tuple[ProbeMode, ...] = ("rise", "cycle")
    print(f"\n{'right decay':<14}{'mode':<8}{'chosen':>10}{'called sure':>14}{'wrong and sure':>16}")
    for decay, mode in itertools.product((1e-1, 1e-2, 1e-3), modes):
        hits, sure, wrong = right(decay, mode, seeds)
        print(f"{decay:<14g}{mode:<8}{f'{hits} of {seeds}':>10}{sure:>14}{wrong:>16}")
    print(f"\n{'alike':<14}{'mode':<8}{'within noise':>14}{'drift in errors':>17}{'share of span':>15}")
    for mode in modes:
        within, errors, share = alike(mode, seeds)
        print(f"{'digits':<14}{mode:<8}{f'{within} of {seeds}':>14}{errors:>17.1f}{share:>15.1%}")


def runs(group: str, shared: Path | None, seeds: int, mode: ProbeMode, smith: bool) -> None:
    """Print the points that the probe's decays lose in full runs."""
    stored = weight_decay_oracle.load()
    tasks = [task for task in TASKS if task.group == group and task.has_data(shared) and task.name in stored]
    oracles = {task.name: DecayOracle(stored[task.name]) for task in tasks}
    asked = [(task, oracles[task.name], shared, seed, mode) for task in tasks for seed in range(seeds)]
    answers = [ask(*it) for it in asked]
    print(f"\ngroup {group}, mode {mode}: {len(tasks)} tasks, n = {len(answers)}\n{details(answers)}\n")
    print(scores(answers, [ask(*it, SMITH) for it in asked] if smith else []), flush=True)


def main(arguments: argparse.Namespace) -> None:
    """Run the measurements and print their tables."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    shared = None if arguments.shared is None else Path(arguments.shared)
    groups = ["A", "B", "C"] if arguments.group == "all" else [arguments.group]
    if arguments.oracle:
        chosen = [task for task in TASKS if task.group in groups and task.has_data(shared)]
        weight_decay_oracle.compute(chosen, shared)
        return
    print(f"torch {version('torch')}, lightning {version('lightning')}, Python {platform.python_version()}")
    for group in groups if arguments.group != "none" else []:
        runs(group, shared, 1 if arguments.quick else arguments.seeds, arguments.mode, not arguments.quick)
    if not arguments.quick and arguments.known_seeds:
        known(arguments.known_seeds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", choices=("A", "B", "C", "all", "none"), default="all", help="group of tasks")
    parser.add_argument("--shared", metavar="FOLDER", help="folder of the data that scikit-learn does not have")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each task")
    parser.add_argument("--known-seeds", type=int, default=10, help="seeds where the right decay is known; 0 for none")
    parser.add_argument("--mode", choices=("rise", "cycle"), default="rise", help="mode of the probe")
    parser.add_argument("--quick", action="store_true", help="one seed, and only the search")
    parser.add_argument("--oracle", action="store_true", help="only recompute the stored runs")
    main(parser.parse_args())
