"""`configure_one_cycle`: return an optimizer and its one-cycle schedule in the format of ``configure_optimizers``."""

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from typing_extensions import Unpack

from pl_onecycle._lightning import (
    GradientAccumulationScheduler,
    MisconfigurationException,
    OptimizerLRSchedulerConfig,
    expect_module,
    pl,
)
from pl_onecycle.policy import PolicyArguments, Preset
from pl_onecycle.scheduler import OneCycleScheduler
from pl_onecycle.settings_callback import settings_of


def configure_one_cycle(
    module: pl.LightningModule,
    optimizer: Optimizer,
    *,
    max_lr: float | Sequence[float] | None = None,
    total_steps: int | None = None,
    preset: Preset = "smith",
    **arguments: Unpack[PolicyArguments],
) -> OptimizerLRSchedulerConfig:
    """Return the value for ``configure_optimizers``: ``optimizer`` with a one-cycle schedule, stepped every step.

    ``max_lr`` is each group's own lr until an `LRRangeTest` finds a better one; ratios between groups stay. The
    schedule is as long as the run, in optimizer steps, which the Trainer knows: epochs, ``max_steps``,
    ``limit_train_batches``, accumulation and devices all count. Only lr and momentum of ``optimizer`` change.
    `OneCycleSettings` of the Trainer, e.g. from a command line, override the arguments given here.

    Args:
        module: The LightningModule, attached to its Trainer, as it is in ``configure_optimizers``.
        optimizer: Any torch optimizer whose groups have an ``lr``.
        max_lr: Peak learning rate, see `OneCycleScheduler`.
        total_steps: Optimizer steps of the run, >= 1, instead of the Trainer's; required if the run is endless.
        preset: Schedule whose defaults are used, see `from_preset`.
        arguments: Arguments of the preset, e.g. ``pct_annihilation`` or ``div_factor``.

    Returns:
        ``{"optimizer": ..., "lr_scheduler": {"scheduler": OneCycleScheduler, "interval": "step", ...}}``

    Raises:
        MisconfigurationException: The length of the run is unknown and ``total_steps`` is not given.
        TypeError: An argument is of the wrong type.
        ValueError: An argument lies outside its range.

    Example:
        >>> class Net(pl.LightningModule):
        ...     def configure_optimizers(self):
        ...         optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        ...         return configure_one_cycle(self, optimizer)
    """
    wanted = "the LightningModule whose `configure_optimizers` calls this function"
    expect_module(module, wanted)
    if total_steps is None:
        total_steps = _trainer_steps(module)
    settings = settings_of(module).policy_arguments
    # Alone, it may lie below the smallest momentum of the cycle, which then is lowered.
    max_momentum = settings.pop("max_momentum", None) if "base_momentum" not in settings else None
    requested: Any = {"preset": preset, **arguments, **settings}
    scheduler = OneCycleScheduler(optimizer, max_lr, total_steps, only_real_steps=True, **requested)
    if max_momentum is not None:
        scheduler.set_max_momentum(max_momentum)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1}}


def _trainer_steps(module: pl.LightningModule) -> int:
    """Return the number of optimizer steps of the whole run that is about to train ``module``."""
    way_out = "pass `total_steps=` to `configure_one_cycle`"
    try:
        trainer = module.trainer
    except RuntimeError as error:
        raise MisconfigurationException(
            f"The one-cycle schedule takes its length from the Trainer, but the module has none yet: {way_out}."
        ) from error
    steps = _estimated_steps(trainer)
    if steps == math.inf or steps < 0:  # an endless run; Lightning returns -1 for a loader without length
        raise MisconfigurationException(
            "The one-cycle schedule needs the length of the run, but this run is endless or its train loader"
            f" has no length: set `Trainer(max_steps=...)` or {way_out}."
        )
    if steps == 0:
        raise MisconfigurationException(
            "The one-cycle schedule needs at least one step, and this run has none (no batches, `max_steps=0` or"
            f" `limit_train_batches=0`): give it data or {way_out}."
        )
    return int(steps)


def _estimated_steps(trainer: pl.Trainer) -> float:
    """Return Lightning's estimate, corrected if a callback changes the accumulation during the run."""
    if trainer.limit_train_batches == 0:  # Lightning then loads no data and reports an unknown length
        return 0
    steps = trainer.estimated_stepping_batches
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    changes = next((c for c in callbacks if isinstance(c, GradientAccumulationScheduler)), None)
    epochs, batches = trainer.max_epochs, trainer.num_training_batches
    if changes is None or epochs is None or epochs < 0 or not math.isfinite(batches):
        return steps
    steps = sum(math.ceil(batches / changes.get_accumulate_grad_batches(epoch)) for epoch in range(epochs))
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
