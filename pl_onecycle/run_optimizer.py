"""`RunOptimizer`: one optimizer of a Trainer's run, its schedulers, and how found values reach both."""

import math
from dataclasses import replace
from typing import Any

from torch.optim import Optimizer

from pl_onecycle._lightning import MisconfigurationException, pl
from pl_onecycle.apply import apply_max_lr, apply_momentum, apply_weight_decay, schedule_peak
from pl_onecycle.optimizer_groups import check_lrs
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.scheduler import OneCycleScheduler


class RunOptimizer:
    """One optimizer of a run. Reads schedulers and peak from the Trainer at each use.

    Args:
        trainer: A Trainer within ``fit``.
        index: Index of the optimizer, in the order of ``configure_optimizers``.

    Attributes:
        trainer: The Trainer.
        optimizer: The optimizer, whose groups all have a usable ``lr``.

    Raises:
        MisconfigurationException: The module has no such optimizer, or the optimizer has no usable lr.
    """

    def __init__(self, trainer: pl.Trainer, index: int) -> None:
        usable = [it for it in trainer.optimizers if it.param_groups]  # Lightning's stand-in has none
        if index >= len(usable):
            name = f"`{type(trainer.lightning_module).__name__}.configure_optimizers`"
            number = f"{len(usable)} optimizer{'' if len(usable) == 1 else 's'}"
            raise MisconfigurationException(f"There is no optimizer with index {index}: {name} returned {number}.")
        self.trainer = trainer
        self.optimizer: Optimizer = trainer.optimizers[index]
        check_lrs(self.optimizer, MisconfigurationException)

    # ---------------------------------------------------------------------------------------- schedules
    @property
    def schedulers(self) -> list[Any]:
        """The schedulers of the optimizer."""
        return [config.scheduler for config in self._configs]

    @property
    def one_cycle(self) -> OneCycleScheduler | None:
        """Its `OneCycleScheduler`, if it has one."""
        return next((it for it in self.schedulers if isinstance(it, OneCycleScheduler)), None)

    @property
    def peak(self) -> float:
        """The largest lr that the optimizer reaches in the run."""
        return schedule_peak(self.optimizer, self.schedulers, self._scheduler_steps)

    def short_cycle(self, max_lr: float, num_steps: int) -> OneCyclePolicy:
        """Return the cycle of the run, or the default one, with another peak and in few steps."""
        own = self.one_cycle
        if own is None:
            return OneCyclePolicy(max_lr, num_steps)
        whole = own.policy
        # One step of the fall stands for several of the run's; it must be above 0.
        decay = None if whole.decay is None else max(whole.decay ** (whole.total_steps / num_steps), 1e-300)
        return replace(whole, max_lr=max_lr, total_steps=num_steps, decay=decay)

    # --------------------------------------------------------------------------------------- found values
    def use_max_lr(self, lr: float) -> list[str]:
        """Make ``lr`` the peak of the run from here on, see `apply_max_lr`; return what changed."""
        restart = self.trainer.global_step > 0
        return apply_max_lr(lr, self.optimizer, self.schedulers, self._module, self._scheduler_steps, restart)

    def use_weight_decay(self, weight_decay: float) -> list[str]:
        """Train with ``weight_decay`` from here on, see `apply_weight_decay`; return what changed."""
        return apply_weight_decay(weight_decay, self.optimizer, self._module)

    def use_momentum(self, momentum: float) -> list[str]:
        """Train with ``momentum`` at most from here on, see `apply_momentum`; return what changed."""
        return apply_momentum(momentum, self.optimizer, self.schedulers)

    @property
    def _configs(self) -> list[Any]:
        configs = self.trainer.lr_scheduler_configs
        return [it for it in configs if getattr(it.scheduler, "optimizer", self.optimizer) is self.optimizer]

    @property
    def _scheduler_steps(self) -> int:
        """How often the schedulers are stepped in the run; once where the run is endless."""
        by_hand = not self.trainer.lightning_module.automatic_optimization
        by_step = by_hand or any(config.interval == "step" for config in self._configs)
        times = self.trainer.estimated_stepping_batches if by_step else self.trainer.max_epochs or 1
        return int(times) if 1 <= times < math.inf else 1

    @property
    def _module(self) -> pl.LightningModule | None:
        """The module, whose attributes describe this optimizer only if it has no other."""
        return self.trainer.lightning_module if len(self.trainer.optimizers) == 1 else None
