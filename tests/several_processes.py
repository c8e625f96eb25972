r"""What each of several processes does for `test_distributed.py`: fits with and without a trial; writes what it saw.

    LOCAL_RANK=0 LOCAL_WORLD_SIZE=2 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... \
        python -m tests.several_processes FOLDER CASE...
    torchrun --nnodes 2 --nproc-per-node 2 ... -m tests.several_processes FOLDER CASE...

Each process has a folder of its own, as on machines without a shared disk.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.utils.data import DataLoader, Dataset

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:  # before torch 2.6
    fully_shard = None  # type: ignore[assignment]

from pl_onecycle import LossCurve, LRRangeTest, OneCycleTuner, WeightDecayProbe, configure_one_cycle
from tests.fits import LRs, data
from tests.scenarios import Fit, Marker, Record, Recording, Scenario, differences, in_trial, plain, shape_of

RANK = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))
DEVICES = int(os.environ.get("LOCAL_WORLD_SIZE", 2))
NODES = int(os.environ.get("WORLD_SIZE", 2)) // DEVICES
STEPS = 15


class Net(Recording):
    """Dropout and BatchNorm, whose buffers DDP sends before each forward pass; keeps the losses of a trial."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.Dropout(0.2))
        self.net.insert(1, nn.BatchNorm1d(16))
        self.trouble: dict[str, Callable[[], None]] = {}
        norm: Any = self.net[1]
        norm.weight.register_hook(lambda grad: self.meet("backward"))  # in the middle of a backward pass

    def meet(self, where: str) -> None:
        if where in self.trouble and in_trial(self):
            self.trouble[where]()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.meet("on_train_batch_start")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.meet("training_step")
        if in_trial(self):
            losses_of_trial.append(float(loss.detach()))
            if "nan" in self.trouble and len(losses_of_trial) > 7:
                return loss * float("nan")
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        self.meet("on_before_backward")

    def on_after_backward(self) -> None:
        self.meet("on_after_backward")

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.meet("on_before_zero_grad")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.meet("on_train_batch_end")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return configure_one_cycle(self, optimizer)


losses_of_trial: list[float] = []


class Checked(Net):
    """Does not accept a large loss: in all processes, or in the second only."""

    def __init__(self, only: bool = False) -> None:
        super().__init__()
        self.is_strict = RANK == 1 or not only

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if self.is_strict and loss.detach() > 10:
            raise FloatingPointError("the loss has exploded")
        return loss


class CheckedInBackward(Checked):
    """Looks at the loss when its gradient comes."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = Net.training_step(self, batch, batch_idx)
        self.is_large = bool(loss.detach() > 10)
        return loss

    def meet(self, where: str) -> None:
        super().meet(where)
        if where == "backward" and self.is_strict and self.is_large:
            raise FloatingPointError("the loss has exploded")


class Validated(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), sync_dist=True)


class Rows(Dataset[tuple[Tensor, ...]]):
    """Rows that may fail to load."""

    def __init__(self) -> None:
        self.rows: Any = data().dataset
        self.fail = iter([False])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if next(self.fail, False):
            raise Broken("no such row")
        return tuple(self.rows[index])


class ByHand(Recording):
    """One optimizer, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


class Gan(Recording):
    """Two optimizers, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.judge = nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        classify, judge = self.optimizers()  # type: ignore[attr-defined]
        for optimizer, loss in ((classify, self.loss(batch)), (judge, self.judge(batch[0]).square().mean())):
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net.parameters(), lr=0.1), torch.optim.Adam(self.judge.parameters(), lr=0.01)]


class Mixed(Recording):
    """Uses its layers in another order than it has them, and freezes one after the wrapping, for two batches."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first, self.never = nn.Linear(24, 3), nn.Linear(8, 24), nn.Linear(8, 8)
        self.never.requires_grad_(False)

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]) + self.last(self.first(batch[0]).relu()), batch[1])

    def on_train_start(self) -> None:
        self.last.bias.requires_grad_(False)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.last.bias.requires_grad_(self.trainer.global_step >= 2)


class Decaying(Recording):
    """Registers a communication hook by hand, whose state counts the backward passes."""

    def on_fit_start(self) -> None:
        model: Any = self.trainer.model
        model.register_comm_hook(Passes(), shrink)


class Passes:
    """A state of a communication hook, in slots as torch's are."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


def shrink(state: Passes, bucket: torch.distributed.GradBucket) -> torch.futures.Future[Tensor]:
    """Reduce a bucket, with less weight after each pass."""
    state.count += 1
    tensor = bucket.buffer().div_(DEVICES * NODES * state.count**0.5)
    return torch.distributed.all_reduce(tensor, async_op=True).get_future().then(lambda it: it.value()[0])


class LocalSteps(Recording):
    """Reduces no gradients after two steps, but averages the weights at every third."""

    def on_fit_start(self) -> None:
        trainer: Any = self.trainer
        trainer.model.register_comm_hook(trainer.strategy._ddp_comm_state, post_localSGD_hook)


class Sharded(Recording):
    """Parameters in shards, one for each process (FSDP2)."""

    def configure_model(self) -> None:
        for layer in (*(part for part in self.net if isinstance(part, nn.Linear)), self.net):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])  # type: ignore[index]

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Broken(Exception):
    """What goes wrong in one process."""


def ddp(strategy: Any = "ddp") -> Callable[[Path], dict[str, Any]]:
    return lambda root: {"devices": DEVICES, "num_nodes": NODES, "strategy": strategy}


SHUFFLED = Scenario(Net, lambda: data(shuffle=True), options=ddp())
VALIDATED = Scenario(Validated, lambda: data(shuffle=True), options=ddp(), val_loader=lambda: data(96))


def fits(scenario: Scenario, test: LRRangeTest, change: Callable[[Fit], None] = lambda fit: None) -> dict[str, Any]:
    """Fit without and with a test and return what differs, with the outcome of the test."""
    folder = Path(f"fits_{len(list(Path().iterdir()))}")
    folder.mkdir()
    expected = Fit(scenario, folder / "without").run().outcome()
    fit = Fit(scenario, folder / "with", test)
    change(fit)
    losses_of_trial.clear()
    outcome = fit.run().outcome()
    assert test.curve is not None
    return {
        "differences": differences(expected, outcome),
        "losses": list(test.curve.loss),
        "initial": test.curve.initial_loss,
        "outcome": test.curve.outcome,
        "suggestion": None if test.suggestion is None else test.suggestion.lr,
        "losses_here": list(losses_of_trial),
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("lr_range_test*/*")),
    }


def quiet(**arguments: Any) -> LRRangeTest:
    return LRRangeTest(1e-4, 1e-1, STEPS, apply=False, **arguments)


def on_one(trouble: str, action: Callable[[], None]) -> Callable[[Fit], None]:
    def change(fit: Fit) -> None:
        assert isinstance(fit.module, Net)
        if RANK == 1:
            fit.module.trouble[trouble] = action

    return change


def nan_on_one() -> dict[str, Any]:
    return fits(SHUFFLED, quiet(), on_one("nan", lambda: None))


def applied() -> dict[str, Any]:
    fit = Fit(SHUFFLED, Path("applied"), LRRangeTest(1e-5, 10.0, 60))
    lrs = LRs()
    fit.trainer.callbacks.append(lrs)  # type: ignore[attr-defined]
    fit.run()
    test: Any = fit.finder
    files = sorted(path.name for path in Path("applied").rglob("lr_range_test*/*"))
    return {"suggestion": test.suggestion.lr, "lrs": lrs.lr, "outcome": test.curve.outcome, "files": files}


def a_probe() -> WeightDecayProbe:
    return WeightDecayProbe((0.1, 0.0), 10, val_batches=1, early_stop_threshold=None)


def seen_in(curves: list[LossCurve]) -> dict[str, Any]:
    return {
        "losses": [loss for curve in curves for loss in (*curve.loss, *curve.val_loss)],
        "initial": [curve.initial_loss for curve in curves],
        "outcome": [curve.outcome for curve in curves],
        "validated": [len(curve.val_loss) for curve in curves],
    }


class ValidatedByOne(Net):
    """Logs its validation loss in the first process only, as Lightning allows."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.loss(batch)
        if RANK == 0:
            self.log("val_loss", loss, rank_zero_only=True)


def a_search() -> WeightDecayProbe:
    return WeightDecayProbe(num_steps=10, val_batches=1)


def probed(module: type[Net] = Validated, make: Callable[[], WeightDecayProbe] = a_probe) -> dict[str, Any]:
    """Fit without and with a probe that validates and whose choice is not applied."""
    scenario = replace(VALIDATED, module=module)
    folder, probe = Path(f"{make.__name__}_{module.__name__}"), make()
    probe.apply = False
    folder.mkdir()
    expected = Fit(scenario, folder / "without").run().outcome()
    fit = Fit(scenario, folder / "with", probe)
    outcome = fit.run().outcome()
    assert probe.suggestion is not None
    return {
        **seen_in([*probe.curves.values()]),
        "differences": differences(expected, outcome),
        "suggestion": probe.suggestion.to_dict(),
        "files": sorted(path.name for path in folder.rglob("weight_decay_probe*/*")),
    }


def tuned() -> dict[str, Any]:
    """Fit without and with `tune` before it, then apply what was found to both, and fit again."""
    folder, probe = Path("tuned"), a_probe()
    folder.mkdir()
    expected = Fit(VALIDATED, folder / "without").run().outcome()
    fit = Fit(VALIDATED, folder / "with")
    test = LRRangeTest(1e-4, 10.0, 30)
    tuner = OneCycleTuner(fit.trainer)
    result = tuner.tune(fit.module, **fit.data(), lr_range_test=test, weight_decay_probe=probe)
    outcome = fit.run().outcome()
    files = sorted(path.name for path in folder.rglob("tune*/*"))
    again, lrs = Fit(VALIDATED, folder / "applied"), LRs()
    again.trainer.callbacks.append(lrs)  # type: ignore[attr-defined]
    result.apply(again.module)
    again.run()
    (optimizer,) = again.trainer.optimizers
    return {
        "differences": differences(expected, outcome),
        "suggestion": [result.max_lr, result.weight_decay, dict(result.before), dict(result.reasons)],
        "lrs": lrs.lr,
        "weight_decay": optimizer.param_groups[0]["weight_decay"],
        "files": files,
        "directory": result.directory,
    }


def raising(where: str, name: str = "", strategy: Any = lambda: "ddp", **given: Any) -> Callable[[], dict[str, Any]]:
    """One process fails in the third batch of the trial; then both fit again with the same Trainer."""

    def run() -> dict[str, Any]:
        folder = Path(f"raising_{where}_{name}")
        folder.mkdir()
        options = lambda root: ddp(strategy())(root) | given  # noqa: E731
        scenario = replace(SHUFFLED, loader=lambda: DataLoader(Rows(), 32, shuffle=True), options=options)
        expected = Fit(scenario, folder / "without").run().outcome()
        fit = Fit(scenario, folder / "with", quiet())
        calls = iter([False, False, True])

        def fail() -> None:
            if next(calls, False):
                raise Broken("on purpose")

        if where == "data set":
            if RANK == 1:
                fit.loader.dataset.fail = iter([False] * 80 + [True])
        else:
            on_one(where, fail)(fit)
        losses_of_trial.clear()
        try:
            fit.run()
            said = "nothing"
        except (Broken, RuntimeError) as error:
            said = f"{type(error).__name__}: {error}"
        steps = len(losses_of_trial)
        callbacks = fit.trainer.callbacks  # type: ignore[attr-defined]
        marker = next(callback for callback in callbacks if isinstance(callback, Marker))
        left_changed = differences(marker.before, shape_of(fit.trainer))
        assert isinstance(fit.module, Net)
        fit.module.trouble.clear()
        fit.loader.dataset.fail = iter([])
        vars(fit.module.record).update(vars(Record()))
        keys = ("weights", "batches", "optimizers", "counters", "streams")
        again = fit.run().outcome()
        different = differences({key: expected[key] for key in keys}, again)
        return {"said": said, "steps": steps, "left changed": left_changed, "differences": different}

    return run


def with_strategy(module: type[Recording], **given: Any) -> dict[str, Any]:
    """Fit without and with a test under a DDP with these arguments."""

    def options(root: Path) -> dict[str, Any]:
        made = {name: value() if callable(value) else value for name, value in given.items()}
        return ddp(DDPStrategy(**made))(root)

    return fits(Scenario(module, lambda: data(shuffle=True), options=options), quiet())


def sharded() -> dict[str, Any]:
    strategy = lambda root: {"devices": DEVICES, "strategy": ModelParallelStrategy()}  # noqa: E731
    return fits(Scenario(Sharded, lambda: data(shuffle=True), options=strategy), quiet())


LOCAL: dict[str, Any] = {
    "ddp_comm_state": lambda: PostLocalSGDState(None, None, start_localSGD_iter=2, post_local_gradient_allreduce=False),
    "model_averaging_period": 3,
}
UNUSED: dict[str, Any] = {"find_unused_parameters": True}
UNDER_DDP: dict[str, tuple[type[Recording], dict[str, Any]]] = {
    "a static graph": (Net, {"static_graph": True}),
    "a static graph, by hand": (ByHand, {"static_graph": True}),
    "unused parameters": (Mixed, UNUSED),
    "small buckets": (Mixed, UNUSED | {"bucket_cap_mb": 0.0005}),
    "gradients as views": (Net, {"gradient_as_bucket_view": True}),
    "a hook by hand": (Decaying, {}),
    "local steps": (LocalSteps, LOCAL),
}
STRATEGIES = {
    f"DDP with {name}": partial(with_strategy, module, **given) for name, (module, given) in UNDER_DDP.items()
}

IN_BACKWARD: dict[str, dict[str, Any]] = {
    "unused parameters": {"strategy": lambda: DDPStrategy(find_unused_parameters=True)},
    "a static graph": {"strategy": lambda: DDPStrategy(static_graph=True)},
    "gradients as views": {"strategy": lambda: DDPStrategy(gradient_as_bucket_view=True)},
    "accumulation": {"accumulate_grad_batches": 2},
    "small buckets": {"strategy": lambda: DDPStrategy(bucket_cap_mb=0.0005)},
}
HOOKS = (
    *("data set", "on_train_batch_start", "training_step", "on_before_backward", "backward", "on_after_backward"),
    "on_before_zero_grad",
    "on_train_batch_end",
)
CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "shuffled, dropout, BatchNorm": lambda: fits(SHUFFLED, quiet()),
    "accumulation": lambda: fits(
        replace(SHUFFLED, options=lambda root: {**ddp()(root), "accumulate_grad_batches": 2}), quiet()
    ),
    "test again in epoch 1": lambda: fits(SHUFFLED, quiet(milestones=(1,))),
    "two optimizers": lambda: fits(
        Scenario(Gan, lambda: data(shuffle=True), options=ddp("ddp_find_unused_parameters_true")), quiet(optimizer=1)
    ),
    **STRATEGIES,
    "NaN in one process": nan_on_one,
    **{
        f"large lr fails in {where}": partial(
            fits,
            replace(SHUFFLED, module=partial(kind, only)),
            LRRangeTest(1e-4, 1e4, 40, apply=False, early_stop_threshold=None),
        )
        for where, kind, only in (
            ("all processes", Checked, False),
            ("one process", Checked, True),
            ("the backward of all processes", CheckedInBackward, False),
            ("the backward of one process", CheckedInBackward, True),
        )
    },
    "applied": applied,
    "weight decay probe, validation": probed,
    "weight decay probe, validation loss in one process": partial(probed, ValidatedByOne),
    "search for a weight decay": partial(probed, make=a_search),
    "tune": tuned,
    **({} if fully_shard is None else {"FSDP2": sharded}),
    **{f"exception in one process, {where}": raising(where) for where in HOOKS},
    **{
        f"exception in one process, backward, {name}": raising("backward", name, **options)
        for name, options in IN_BACKWARD.items()
    },
}


def main(folder: Path, cases: list[str]) -> None:
    folder.mkdir(parents=True)
    os.chdir(folder)
    torch.set_num_threads(1)
    results = {}
    for case in cases:
        results[case] = CASES[case]()
        Path("results.json").write_text(json.dumps(plain(results)))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute() / f"rank{RANK}", sys.argv[2:])
