"""The schedules that a Trainer's run has for one of its optimizers, and how found values reach them."""

import math
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from pl_onecycle.apply import apply_max_lr, apply_momentum, apply_weight_decay, schedule_peak
from pl_onecycle.param_groups import check_lrs
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.scheduler import OneCycleScheduler


def optimizer_of(trainer: pl.Trainer, index: int) -> Optimizer:
    """Return an optimizer of the module, checked.

    Raises:
        MisconfigurationException: The module has no such optimizer, or it has no usable lr.
    """
    usable = [optimizer for optimizer in trainer.optimizers if optimizer.param_groups]  # Lightning's stand-in has none
    if index >= len(usable):
        name = f"`{type(trainer.lightning_module).__name__}.configure_optimizers`"
        raise MisconfigurationException(f"There is no optimizer with index {index}: {name} returned {len(usable)}.")
    check_lrs(trainer.optimizers[index], MisconfigurationException)
    return trainer.optimizers[index]


def schedulers_of(trainer: pl.Trainer, index: int) -> tuple[list[Any], int]:
    """Return the schedulers of an optimizer, and how often they are stepped in the run; once where it is endless."""
    optimizer = trainer.optimizers[index]
    configs = [
        config
        for config in trainer.lr_scheduler_configs
        if getattr(config.scheduler, "optimizer", optimizer) is optimizer
    ]
    by_hand = not trainer.lightning_module.automatic_optimization
    by_step = by_hand or any(config.interval == "step" for config in configs)
    times = trainer.estimated_stepping_batches if by_step else trainer.max_epochs or 1
    return [config.scheduler for config in configs], int(times) if 1 <= times < math.inf else 1


def one_cycle_of(trainer: pl.Trainer, index: int) -> OneCycleScheduler | None:
    """Return the `OneCycleScheduler` of an optimizer, if it has one."""
    schedulers, _ = schedulers_of(trainer, index)
    return next((it for it in schedulers if isinstance(it, OneCycleScheduler)), None)


def short_cycle(trainer: pl.Trainer, index: int, max_lr: float, num_steps: int) -> OneCyclePolicy:
    """Return the cycle that an optimizer has in the run, or the default one, with another peak and in few steps."""
    own = one_cycle_of(trainer, index)
    if own is None:
        return OneCyclePolicy(max_lr, num_steps)
    whole = own.policy
    # One step of the fall stands for several of the run's; it is asked to be above 0.
    decay = None if whole.decay is None else max(whole.decay ** (whole.total_steps / num_steps), 1e-300)
    return replace(whole, max_lr=max_lr, total_steps=num_steps, decay=decay)


def peak_of(trainer: pl.Trainer, index: int) -> float:
    """Return the largest lr that an optimizer reaches in the run."""
    return schedule_peak(trainer.optimizers[index], *schedulers_of(trainer, index))


def use_max_lr(trainer: pl.Trainer, index: int, lr: float) -> list[str]:
    """Make ``lr`` the peak of an optimizer's run from here on, see `apply_max_lr`."""
    schedulers, horizon = schedulers_of(trainer, index)
    restart = trainer.global_step > 0
    return apply_max_lr(lr, trainer.optimizers[index], schedulers, _only_module(trainer), horizon, restart)


def use_weight_decay(trainer: pl.Trainer, index: int, weight_decay: float) -> list[str]:
    """Train with ``weight_decay`` from here on, see `apply_weight_decay`."""
    return apply_weight_decay(weight_decay, trainer.optimizers[index], _only_module(trainer))


def use_momentum(trainer: pl.Trainer, index: int, momentum: float) -> list[str]:
    """Train with ``momentum`` at most from here on, see `apply_momentum`."""
    schedulers, _ = schedulers_of(trainer, index)
    return apply_momentum(momentum, trainer.optimizers[index], schedulers)


def _only_module(trainer: pl.Trainer) -> pl.LightningModule | None:
    """The module, whose attributes speak of its optimizer where it has one only."""
    return trainer.lightning_module if len(trainer.optimizers) == 1 else None
