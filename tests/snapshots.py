"""What readers, callbacks and the command line answer on recorded cases, to be compared before and after a change.

``python -m tests.snapshots`` says whether every answer is the recorded one, bit for bit, on the machine that recorded
it; ``--write`` records again. `test_snapshots.py` compares with a tolerance that other machines keep.
"""

import contextlib
import io
import json
import logging
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader

from pl_onecycle import (
    LossCurve,
    LRRangeTest,
    MomentumProbe,
    OneCycleCLI,
    OneCycleTuner,
    WeightDecayProbe,
    configure_one_cycle,
    suggest,
)
from pl_onecycle.curves import (
    METHODS,
    choose,
    coarse_sweep,
    dense_sweep,
    first_explosion,
    has_risen,
    is_hopeless,
    refusal,
    verified,
)
from pl_onecycle.curves.search import has_fallen
from pl_onecycle.policy import RangeTestPolicy
from tests.fits import SmallNet, data, trainer

RECORDED = Path(__file__).with_suffix(".json")
CURVES = 100


class Net(SmallNet):
    """With validation and a one-cycle schedule."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [
            {"params": self.net[0].parameters()},
            {"params": self.net[2].parameters(), "lr": self.lr / 10},
        ]
        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=0.9, weight_decay=1e-4)
        return configure_one_cycle(self, optimizer)


class Data(pl.LightningDataModule):
    """The shared small data, as a command line wants them."""

    def train_dataloader(self) -> DataLoader[Any]:
        return data()


# ---------------------------------------------------------------------------------------------- readers
def random_curves() -> Iterator[LossCurve]:
    """Sweeps that fall and rise, or do not, with more or less noise, offset and explosion."""
    draw = np.random.default_rng(0)
    for k in range(CURVES):
        count = int(draw.integers(3, 130))
        decades = np.linspace(draw.uniform(-8, -3), draw.uniform(-1, 2), count)
        bottom, width, depth = draw.uniform(-3, 0), draw.uniform(0.3, 2), draw.choice([0, 0.1, 1, 2])
        loss = -depth * np.exp(-(((decades - bottom) / width) ** 2)) + draw.choice([0, 2.3, 100])
        loss += draw.choice([0, 3]) * np.maximum(decades - bottom - 1, 0) ** 2
        loss += draw.choice([0, 0.01, 0.1]) * draw.normal(size=count)
        outcome = str(draw.choice(["completed", "diverged", "stopped", "dropped"]))
        if k % 7 == 0:
            loss[-1], outcome = np.nan, "diverged"
        initial = None if k % 3 == 0 else float(loss[0])
        monitored = loss[:: max(count // 5, 1)].tolist() if k % 2 else []
        steps = list(range(1, len(monitored) + 1))
        yield LossCurve((10**decades).tolist(), loss.tolist(), outcome, initial, steps, monitored)  # type: ignore[arg-type]


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts of them, that JSON keeps to the last bit."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def read(curve: LossCurve) -> dict[str, Any]:
    """What each reader of one curve answers."""
    policies = (coarse_sweep([curve], 1e-7, 10.0), dense_sweep([curve]))
    return {
        "suggestions": {method: suggest(curve, method) for method in METHODS},
        "refused": [method for method in METHODS if refusal(curve, method) is not None],
        "smoothed": np.sum(curve.smoothed()),
        "start, noise": [curve.start, curve.noise],
        "explosion": [first_explosion(curve.loss, threshold) for threshold in (1.0, 4.0, None)],
        "risen, fallen": [has_risen(curve), has_fallen(curve)],
        "next sweeps": [
            [it.min_lr, it.max_lr, it.num_steps] if isinstance(it, RangeTestPolicy) else None for it in policies
        ],
    }


def readers() -> dict[str, Any]:
    """What every reader answers, alone and on groups of curves."""
    curves = [*random_curves()]
    groups = [dict(zip((1e-2, 1e-3, 0.0), curves[k : k + 3], strict=True)) for k in range(0, CURVES - 3, 3)]
    found = [suggest(curve) for curve in curves]
    return {
        "one curve": [read(curve) for curve in curves],
        "choices": [_unless_refused(choose(group)) for group in groups],
        "hopeless": [is_hopeless(curves[k], groups[0]) for k in range(CURVES)],
        "verified": [
            _unless_refused(verified(it, {key + 0.1: curve for key, curve in group.items()}))
            for it, group in zip(found, groups, strict=False)
            if it is not None
        ],
    }


def _unless_refused(answer: Any) -> Any:
    return answer if hasattr(answer, "to_dict") else "refused"


# ------------------------------------------------------------------------------------------------- fits
def _fit_with(callback: pl.Callback, folder: Path) -> dict[str, Any]:
    loggers = [CSVLogger(folder, "csv"), TensorBoardLogger(folder, "tensorboard")]
    with _logged() as lines:
        pl.seed_everything(1, verbose=False)
        run = trainer([callback], folder, logger=loggers, precision="64-true", limit_val_batches=3)
        run.fit(Net(), data(), data(64))
    return {"log": _without_paths(lines, folder), "files": _files(folder), "curves": _curves(folder)}


def _tune(folder: Path) -> dict[str, Any]:
    with _logged() as lines, contextlib.redirect_stdout(io.StringIO()):
        pl.seed_everything(1, verbose=False)
        run = trainer((), folder, logger=CSVLogger(folder, "csv"), precision="64-true")
        result = OneCycleTuner(run).tune(Net(), data(), data(64), again=True)
    found = [result.max_lr, result.weight_decay, result.before, result.config(), [*result.reasons]]
    return {"log": _without_paths(lines, folder), "files": _files(folder), "result": found}


def fits() -> dict[str, Any]:
    """Log lines, files and TensorBoard curves of each callback and of `tune`, in real fits."""
    taken: dict[str, Any] = {}
    callbacks: dict[str, pl.Callback] = {
        "range test": LRRangeTest(),
        "verified": LRRangeTest(verify=3, verify_steps=20),
        "refused": LRRangeTest(1e-9, 1e-8, 20),
        "monitored": LRRangeTest(num_steps=60, monitor="val_loss", val_every=5, apply=False),
        "weight decay": WeightDecayProbe(num_steps=40, refine=True),
        "momentum": MomentumProbe(num_steps=20, mode="cycle"),
    }
    for name, callback in callbacks.items():
        with tempfile.TemporaryDirectory() as folder:
            taken[name] = _fit_with(callback, Path(folder))
            taken[name]["state keys"] = [callback.state_key, sorted(callback.state_dict())]
    with tempfile.TemporaryDirectory() as folder:
        taken["tune"] = _tune(Path(folder))
    return taken


@contextlib.contextmanager
def _logged() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield lines
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _without_paths(lines: list[str], folder: Path) -> list[str]:
    ours = ("LR range test", "Weight decay probe", "Momentum probe", "Tuning")
    said = [line.replace(str(folder), "...") for line in lines if line.startswith(ours)]
    return [re.sub(r"[0-9.]+ (s|min|h)\b", "... s", line) for line in said]  # the clock's


def _files(folder: Path) -> dict[str, Any]:
    files: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "result.json":
            content = json.loads(path.read_text())
            del content["versions"]
            content.pop("refusal", None)  # a sentence; the log has it
            content.pop("reasons", None)
            for one in (content, *content.values()):
                if isinstance(one, dict):
                    one.pop("seconds", None)  # the clock's
            files[name] = content
        elif path.suffix == ".csv" and path.name != "metrics.csv":
            files[name] = [[_number(cell) for cell in row.split(",")] for row in path.read_text().splitlines()]
        elif path.suffix == ".yaml" and path.name != "hparams.yaml":
            files[name] = [[_number(word) for word in line.split()] for line in path.read_text().splitlines()]
        elif path.suffix == ".png":
            files[name] = "a picture"
    return files


def _number(cell: str) -> Any:
    with contextlib.suppress(ValueError):
        return float(cell)
    return cell


def _curves(folder: Path) -> dict[str, Any]:
    events = EventAccumulator(str(folder / "tensorboard" / "version_0"))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if "/" in tag]
    return {tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in tags}


# ------------------------------------------------------------------------------------------------- help
HELPS = (["fit", "--help"], ["tune", "--help"], ["tune", "--lr_range_test.help"], ["tune", "--weight_decay_probe.help"])


def helps() -> dict[str, list[str]]:
    """The lines of each help that are about flags of this package: flag, type and default, without the prose."""
    taken = {}
    for arguments in HELPS:
        out = io.StringIO()
        command = mock.patch.object(sys, "argv", ["train.py", *arguments])
        with command, contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            OneCycleCLI(SmallNet, Data)
        taken[" ".join(arguments)] = _flags(out.getvalue())
    return taken


def _flags(text: str) -> list[str]:
    ours = ("one_cycle", "lr_range_test", "weight_decay_probe", "batch_size", "max_batch_size", "again")
    entries = re.split(r"\n\s*(?:ARG: +)?(?=--)", text)
    found = []
    for entry in entries:
        flag = re.match(rf"--({'|'.join(ours)})\b\S*(?: \S+)?", " ".join(entry.split()))
        if flag is not None:
            notes = re.findall(r"\((?:required, )?type: .*\)", " ".join(entry.split()))
            found.append(f"{flag[0]} {notes[-1] if notes else ''}")
    return found


# -------------------------------------------------------------------------------------------------- all
def take() -> dict[str, Any]:
    """Take every snapshot; seeds the random streams."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    taken = {"readers": plain(readers()), "fits": plain(fits()), "help": helps()}
    return {**taken, "jsonargparse": version("jsonargparse")}


def difference(before: Any, now: Any, tolerance: float = 0.0, where: str = "") -> Iterator[str]:
    """Yield where two snapshots differ: numbers by more than ``tolerance`` of their size, all else at all."""
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        for key in before:
            yield from difference(before[key], now[key], tolerance, f"{where}/{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for k, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from difference(one, other, tolerance, f"{where}/{k}")
    elif isinstance(before, float) and isinstance(now, float):
        if not (abs(before - now) <= tolerance * abs(before) or (before != before and now != now)):
            yield f"{where}: {before!r} -> {now!r}"
    elif before != now:
        yield f"{where}: {before!r} -> {now!r}"


def main() -> None:
    """Record, or compare bit for bit."""
    torch.set_num_threads(1)
    with contextlib.redirect_stderr(io.StringIO()):
        now = take()
    if "--write" in sys.argv:
        RECORDED.write_text(json.dumps(now, indent=None) + "\n")
        return
    found = [*difference(json.loads(RECORDED.read_text()), json.loads(json.dumps(now)))]
    print(*(line[:400] for line in found[:40]), f"{len(found)} differences" if found else "identical", sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
