"""Measure how the cost of a trial grows with modules, parameters, groups and steps, and how much memory it keeps.

The growth is the slope p of the regression line between logarithms, cost ~ size ** p; 1 is proportional.

- modules: entering an isolated trial in a fit of nets of 300 to 3,000 modules, two thirds of them Linear or ReLU, of
  4 x 4 weights. The floor is a clone of all parameters. Before isolation was made faster (commit 5c2100d), entering
  took 190 times the floor for 1,000 modules, 380 ms.
- parameters: the same for a net of 30 modules with 10 thousand to 10 million parameters.
- groups: a trial of 60 steps with 1,000 parameter groups of as many lrs, against the 61 steps of a fit; the slope from
  10 to 1,000 groups.
- steps: a trial of 100 to 800 steps.
- memory: bytes of the tensors that a trial clones in entering, over those of parameters, buffers and optimizer state,
  for a net with BatchNorm in its second epoch with AdamW. Gradients, of which a fit has none at its start, are
  dropped; a milestone keeps these, too.

    python benchmarks/growth.py --quick

The results stand in docs/measured.md.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from digits_fits import Isolation, Least, Net, fit, loop_seconds, trial_seconds
from measuring import Row, clock, interleaved, main, middle, ratios, slopes
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.utils._python_dispatch import TorchDispatchMode

MODULES, PARAMETERS = (300, 1000, 3000), (10**4, 10**5, 10**6, 10**7)
GROUPS, STEPS = (10, 100, 1000), (100, 200, 400, 800)
GROUP_STEPS = 60
WAS, SHARE = 190, 0.12  # times the floor, and how much of it may be left


class Layered(Net):
    """A net with additional modules that take no part in its training.

    Args:
        pairs: How often there is a `Sequential` of a `Linear` and a `ReLU`.
        width: Inputs and outputs of each `Linear`.
    """

    def __init__(self, pairs: int, width: int) -> None:
        super().__init__()
        layers = (nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(pairs))
        self.layers = nn.ModuleList(layers)


def entering(pairs: int, width: int) -> float:
    """Return the time of entering a trial, in a fit of one step."""
    isolation = Isolation()
    fit(Layered(pairs, width), 1, isolation)
    return isolation.enter


def cloning(pairs: int, width: int) -> float:
    """Return the time of a clone of all parameters."""
    parameters = list(Layered(pairs, width).parameters())
    start = clock()
    _ = [parameter.detach().clone() for parameter in parameters]
    return clock() - start


def module_rows(n: int) -> Iterator[Row]:
    """Measure the isolation of nets of many modules."""
    measures = {f"ours {size}": partial(entering, size // 3, 4) for size in MODULES}
    measures |= {f"floor {size}": partial(cloning, size // 3, 4) for size in MODULES}
    seconds = interleaved(measures, n)
    ours, floor = ([value * 1e3 for value in seconds[f"{name} 1000"]] for name in ("ours", "floor"))
    yield Row.of(
        "isolation of 1,000 modules: entering a trial, against a clone of all parameters",
        ratios(ours, floor),
        WAS * SHARE,
        reference=f"{middle(ours, 'ms')}; floor, the clone: {middle(floor, 'ms')}; {WAS} before it was made faster",
        because=f"the clone takes {middle(floor, 'ms')} of {middle(ours, 'ms')}; the rest walks over the"
        " dictionaries of each module",
    )
    yield Row.of(
        f"isolation: slope of entering over {MODULES[0]} to {MODULES[-1]:,} modules",
        slopes(MODULES, seconds, "ours"),
        1.1,
        reference=f"floor, the clone: {middle(slopes(MODULES, seconds, 'floor'))}",
        because=f"the slope of the clone is {middle(slopes(MODULES, seconds, 'floor'))}",
    )


def parameter_row(n: int) -> Row:
    """Measure the isolation of nets of many parameters."""
    widths = {size: round((size / 10) ** 0.5) for size in PARAMETERS}
    measures = {f"ours {size}": partial(entering, 10, width) for size, width in widths.items()}
    measures |= {f"floor {size}": partial(cloning, 10, width) for size, width in widths.items()}
    seconds = interleaved(measures, n)
    most = PARAMETERS[-1]
    ours, floor = ([value * 1e3 for value in seconds[f"{name} {most}"]] for name in ("ours", "floor"))
    return Row.of(
        f"isolation of {most:,} parameters in 10 layers: entering a trial, against a clone of them",
        ratios(ours, floor),
        reference=f"{middle(ours, 'ms')}; slope over {PARAMETERS[0]:,} to {most:,} parameters"
        f" {middle(slopes(PARAMETERS, seconds, 'ours'))}, that of the clone"
        f" {middle(slopes(PARAMETERS, seconds, 'floor'))}",
    )


# --------------------------------------------------------------------------------------- groups and steps
class Grouped(Net):
    """A net of scalar weights, each of them a parameter group with an lr of its own."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(1)) for _ in range(groups)])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return torch.cat(list(self.weights)).square().mean()

    def configure_optimizers(self) -> Any:
        groups = [{"params": [weight], "lr": 0.1 * 0.995**i} for i, weight in enumerate(self.weights)]
        return SGD(groups, 0.1, momentum=0.9)


def group_rows(n: int) -> Iterator[Row]:
    """Measure trials of many parameter groups."""
    measures = {f"ours {size}": partial(trial_of_groups, size) for size in GROUPS}
    measures |= {f"bare {size}": partial(fit_of_groups, size) for size in GROUPS}
    measures["floor 1000"] = partial(fit_of_groups, 1000, WriteEach)
    seconds = interleaved(measures, n)
    floor = middle(ratios(seconds["floor 1000"], seconds["bare 1000"]))
    yield Row.of(
        f"`run_trial` of {GROUP_STEPS} steps with 1,000 parameter groups of 1,000 lrs, against the same steps of a fit",
        ratios(seconds["ours 1000"], seconds["bare 1000"]),
        1.8,
        reference=f"floor, a callback that writes known values into each group: {floor}; slope over {GROUPS[0]} to"
        f" {GROUPS[-1]:,} groups {middle(slopes(GROUPS, seconds, 'ours'))}, that of the fit"
        f" {middle(slopes(GROUPS, seconds, 'bare'))}",
        because=f"the floor is {floor}",
    )


def trial_of_groups(groups: int) -> float:
    """Return the time of a trial."""
    return trial_seconds(Grouped(groups), GROUP_STEPS)


def fit_of_groups(groups: int, *callbacks: Callable[[], pl.Callback]) -> float:
    """Return the time of the loop of a fit that takes the steps of the trial."""
    return loop_seconds(Grouped(groups), GROUP_STEPS + 1, *(callback() for callback in callbacks))


class WriteEach(Least):
    """Write lr and momentum of each group and fetch the loss, at each step."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"], group["momentum"] = 0.1, 0.9


def step_row(n: int) -> Row:
    """Measure trials of many steps."""
    measures = {f"ours {size}": partial(trial_seconds_of_mlp, size) for size in STEPS}
    measures |= {f"bare {size}": partial(loop_seconds_of_mlp, size + 1) for size in STEPS}
    seconds = interleaved(measures, n)
    bare = middle(slopes(STEPS, seconds, "bare"))
    last = middle(ratios(seconds[f"ours {STEPS[-1]}"], seconds[f"bare {STEPS[-1]}"]))
    return Row.of(
        f"`run_trial`, MLP: slope of its cost over {STEPS[0]} to {STEPS[-1]} steps",
        slopes(STEPS, seconds, "ours"),
        1.02,
        reference=f"a fit: {bare}; at {STEPS[-1]} steps the trial takes {last} times the fit",
        because=f"that of a fit is {bare}",
    )


def trial_seconds_of_mlp(steps: int) -> float:
    """Return the time of a trial."""
    return trial_seconds(Net(), steps)


def loop_seconds_of_mlp(steps: int) -> float:
    """Return the time of the loop of a fit."""
    return loop_seconds(Net(), steps)


# --------------------------------------------------------------------------------------------- memory
class Clones(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Add up the bytes of all clones.

    Attributes:
        bytes: The sum.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.clone.default:
            self.bytes += result.nbytes
        return result


class Kept(Isolation):
    """Measure what a trial keeps in memory in the second epoch.

    Attributes:
        times: Bytes that were cloned, over those of parameters, buffers and optimizer state.
    """

    times = 0.0

    def __init__(self) -> None:
        self.clones = Clones()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            optimizer = trainer.optimizers[0]
            optimizer.zero_grad()
            super().on_train_epoch_start(trainer, pl_module)
            states = (value for state in optimizer.state.values() for value in state.values())
            tensors = [*pl_module.parameters(), *pl_module.buffers(), *states]
            self.times = self.clones.bytes / sum(tensor.nbytes for tensor in tensors)

    def observed(self) -> AbstractContextManager[Any]:
        return self.clones


class Decayed(Net):
    """The net with AdamW, which has the most state."""

    def configure_optimizers(self) -> Any:
        return AdamW(self.parameters(), self.lr)


def kept() -> float:
    """Return what a trial keeps, as a multiple."""
    callback = Kept()
    fit(Decayed("conv"), 60, callback)
    return callback.times


def memory_row() -> Row:
    """Measure what a trial keeps in memory; the numbers of bytes are always the same."""
    return Row.of(
        "memory that a trial keeps, over that of parameters, buffers and optimizer state (AdamW)",
        [kept()],
        1.0,
        because="other tensors are cloned as well",
    )


def rows(quick: bool) -> Iterator[Row]:
    """Measure all."""
    n = 3 if quick else 15
    yield from module_rows(n)
    yield parameter_row(n)
    yield from group_rows(n)
    yield step_row(n)
    yield memory_row()


if __name__ == "__main__":
    main(rows, __doc__)
