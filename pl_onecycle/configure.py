"""`configure_one_cycle`: return an optimizer and its one-cycle schedule in the format of ``configure_optimizers``."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from typing_extensions import Unpack

from pl_onecycle._lightning import (
    MisconfigurationException,
    OptimizerLRSchedulerConfig,
    expect_module,
    pl,
)
from pl_onecycle.policy import PolicyArguments, Preset
from pl_onecycle.run_length import FollowsRun, steps_left, timer_of
from pl_onecycle.scheduler import OneCycleScheduler
from pl_onecycle.settings_callback import settings_of

# Planned where only the clock ends the run, until the pace has been measured.
UNMEASURED_STEPS = 1000


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
    schedule is as long as the run, in optimizer steps, which the Trainer knows: epochs, ``max_steps``, ``max_time``,
    ``limit_train_batches``, accumulation and devices all count. It follows the run: if its length changes while it
    runs, or an optimizer that is stepped by hand has another pace, the rest is replanned without a jump. Only lr and
    momentum of ``optimizer`` change.
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
    follows_run = total_steps is None
    if total_steps is None:
        total_steps = _steps_of(_trainer_of(module), "configure_one_cycle")
    settings = settings_of(module).policy_arguments
    # Alone, it may lie below the smallest momentum of the cycle, which then is lowered.
    max_momentum = settings.pop("max_momentum", None) if "base_momentum" not in settings else None
    requested: Any = {"preset": preset, **arguments, **settings}
    scheduler = OneCycleScheduler(optimizer, max_lr, total_steps, only_real_steps=True, **requested)
    if follows_run:
        _follow(scheduler, module.trainer)
    scheduler.takes_settings = True
    if max_momentum is not None:
        scheduler.set_max_momentum(max_momentum)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1}}


def _trainer_of(module: pl.LightningModule) -> pl.Trainer:
    try:
        return module.trainer
    except RuntimeError as error:
        raise MisconfigurationException(
            "The one-cycle schedule takes its length from the Trainer, but the module has none yet: pass"
            " `total_steps=` to `configure_one_cycle`."
        ) from error


def _follow_fit(scheduler: OneCycleScheduler) -> int:
    """Let a scheduler follow the run of the fit that builds it, and return the steps of this run.

    Lightning has no public way to ask for the current Trainer, and a scheduler is given nothing but its optimizer. But
    a fit calls ``configure_optimizers``, so its Trainer is on the call stack, for each strategy and precision.
    """
    frame = inspect.currentframe()
    while frame is not None:
        first = frame.f_locals.get(frame.f_code.co_varnames[0]) if frame.f_code.co_argcount else None
        if isinstance(first, pl.Trainer):
            _follow(scheduler, first)
            return _steps_of(first, "OneCycleScheduler")
        frame = frame.f_back
    raise MisconfigurationException(
        "A OneCycleScheduler without `total_steps` takes its length from the run, but no fit of a Trainer builds it:"
        " build it in `configure_optimizers`, or pass `total_steps=`."
    )


OneCycleScheduler.follow_run = _follow_fit


def _steps_of(trainer: pl.Trainer, caller: str) -> int:
    """Return the number of optimizer steps of the whole run that is about to begin."""
    way_out = f"pass `total_steps=` to `{caller}`"
    steps = _steps_to_plan(trainer)
    if steps == math.inf or steps < 0:  # an endless run; Lightning's -1 stands for a loader without length
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


def _steps_to_plan(trainer: pl.Trainer) -> float:
    """Return the optimizer steps of the run, or those that are left of one that has begun."""
    if trainer.limit_train_batches == 0:  # Lightning sets up no data then and calls the length unknown
        return 0
    estimated = trainer.estimated_stepping_batches  # sets up the data
    is_finite = math.isfinite(trainer.num_training_batches) or trainer.max_steps != -1
    steps = steps_left(trainer) if is_finite and trainer.ckpt_path is None else estimated
    is_endless = steps == math.inf or steps < 0
    return UNMEASURED_STEPS if is_endless and timer_of(trainer) is not None else steps


def _follow(scheduler: OneCycleScheduler, trainer: pl.Trainer) -> None:
    """Let the schedule follow the run, by one callback for all of them."""
    scheduler.follows_run = True
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    if not any(isinstance(callback, FollowsRun) for callback in callbacks):
        callbacks.append(FollowsRun())
