"""Score the decays that `WeightDecayProbe` chooses by full runs: the points that they lose against the best decay.

The probe runs at the start of a fit of the task's length, and the fit ends after its first step; the score of what it
chose is that of `DecayOracle`, from runs that are stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from suggestion_tasks import Task
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from weight_decay_oracle import DecayOracle
from weight_decay_tasks import DecayTask

from pl_onecycle import WeightDecayProbe, configure_one_cycle
from pl_onecycle.probe import ProbeMode

SMITH = (1e-3, 1e-4, 1e-5, 0.0)  # the candidates of arXiv:1803.09820 for an unknown problem
ALWAYS = 1e-3  # what many use without a search
VAL_BATCH = 128


class Module(pl.LightningModule):
    """A task as a user would write it."""

    def __init__(self, task: Task, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.task, self.net, self.lr = task, net, lr

    def _loss(self, batch: Sequence[Tensor]) -> Tensor:
        return self.task.loss(self.net(batch[0]), batch[1])

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        return configure_one_cycle(self, self.task.optimizer(self.net, self.lr))


class EndsAtOnce(pl.Callback):
    """Ends a fit after its first step."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = True


@dataclass(frozen=True)
class Answer:
    """What the probe chose for a task and a seed, with what steps."""

    task: DecayTask
    oracle: DecayOracle
    decay: float
    steps: int

    @property
    def lost(self) -> float:
        """The points that it loses."""
        return self.oracle.lost(self.decay)

    @property
    def is_worse(self) -> bool:
        """Whether it is worse than the user's own by more than the noise of a run."""
        return self.oracle.is_worse(self.decay, self.task.own)


def ask(
    task: DecayTask,
    oracle: DecayOracle,
    shared: Path | None,
    seed: int,
    mode: ProbeMode = "rise",
    candidates: Sequence[float] = (),
) -> Answer:
    """Run the probe on a task; with ``candidates`` and the own decay instead of the search, if there are any."""
    given = tuple(dict.fromkeys([*candidates, task.own]))
    probe = WeightDecayProbe(given if candidates else "search", mode=mode, report=False)
    pl.seed_everything(100 + seed, verbose=False)
    run = task.at(task.own, shared)
    x, y, x_val, y_val = run.load_data()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_steps=task.steps,
        callbacks=[probe, EndsAtOnce()],
        num_sanity_val_steps=0,
        limit_val_batches=4,  # as many as the probe uses
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train = DataLoader(TensorDataset(x, y), task.batch_size, shuffle=True, drop_last=True)
    trainer.fit(Module(run, run.build_model(), task.lr), train, DataLoader(TensorDataset(x_val, y_val), VAL_BATCH))
    decay = task.own if probe.value is None else probe.value
    return Answer(task, oracle, decay, sum(map(len, probe.curves.values())))


def row(name: str, lost: Sequence[float], worse: int | None = None, steps: float | None = None) -> str:
    """Return a row of the table of scores."""
    cells = [f"{np.mean(lost):.2f}", f"{np.median(lost):.2f}", f"{max(lost):.2f}"]
    cells += ["-" if worse is None else f"{worse} of {len(lost)}", "-" if steps is None else f"{steps:.0f}"]
    return f"{name:<24}{cells[0]:>8}{cells[1]:>8}{cells[2]:>8}{cells[3]:>16}{cells[4]:>8}"


def scores(answers: Sequence[Answer], smith: Sequence[Answer]) -> str:
    """Return the points lost by the user's own decay, by the probe and by others; the best decay loses none."""
    of = [(answer.oracle, answer.task) for answer in answers]
    lines = [f"{'points lost':<24}{'mean':>8}{'median':>8}{'worst':>8}{'worse than own':>16}{'steps':>8}"]
    lines.append(row("own", [oracle.lost(task.own) for oracle, task in of]))
    always = [(oracle.lost(ALWAYS), oracle.is_worse(ALWAYS, task.own)) for oracle, task in of]
    lines.append(row(f"always {ALWAYS:g}", [lost for lost, _ in always], sum(worse for _, worse in always)))
    for name, given in (("Smith's candidates", smith), ("probe", answers)):
        if given:
            steps = float(np.mean([answer.steps for answer in given]))
            lines.append(row(name, [it.lost for it in given], sum(it.is_worse for it in given), steps))
    return "\n".join([*lines, row("best", [0.0])])


def details(answers: Sequence[Answer]) -> str:
    """Return a row for each task: own, chosen and best decay, and the points lost."""
    lines = [f"{'task':<34}{'own':>8}{'lost':>7}{'best':>8}{'noise':>7}   chosen (points lost) for each seed"]
    for name in dict.fromkeys(answer.task.name for answer in answers):
        given = [answer for answer in answers if answer.task.name == name]
        task, oracle = given[0].task, given[0].oracle
        chosen = ", ".join(f"{it.decay:g} ({it.lost:.2f}{', worse' if it.is_worse else ''})" for it in given)
        noise = oracle.in_points(oracle.noise)
        own = f"{task.own:>8g}{oracle.lost(task.own):>7.2f}{oracle.best_decay:>8g}{noise:>7.2f}"
        lines.append(f"{name:<34}{own}   {chosen}")
    return "\n".join(lines)
