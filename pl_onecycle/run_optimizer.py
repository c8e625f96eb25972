"""`RunOptimizer`: one optimizer of a Trainer's run, its schedulers, and how found values reach both."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch.optim import Optimizer

from pl_onecycle._lightning import MisconfigurationException, pl, rank_zero_warn
from pl_onecycle.apply import apply_max_lr, apply_momentum, apply_weight_decay, floors_above, schedule_peak
from pl_onecycle.copies import Copies
from pl_onecycle.module_attributes import holds_rate
from pl_onecycle.optimizer_groups import check_lrs, has_momentum, write_momentum
from pl_onecycle.played_schedule import CannotPlay, Moment, has_begun, parts, past_peak, play, users_code
from pl_onecycle.policy import OneCyclePolicy
from pl_onecycle.run_length import accumulation_in, batches_done, steps_left
from pl_onecycle.scheduler import OneCycleScheduler
from pl_onecycle.sentences import counted

# A peak that is played differs by rounding from the one that the groups say.
_ALIKE = 1e-6


@dataclass(frozen=True)
class _Peak:
    """The largest lr of the whole run and of its rest, and why the run may have another, or an empty string."""

    lr: float
    rest: float
    doubt: str = ""


class RunOptimizer:
    """One optimizer of a run. Reads schedulers and peak from the Trainer at each use.

    Args:
        trainer: A Trainer within ``fit``.
        index: Index of the optimizer, in the order of ``configure_optimizers``.
        calls_users_code: Whether functions and schedulers of the user may be called on copies, to learn the peak.

    Attributes:
        trainer: The Trainer.
        optimizer: The optimizer, whose groups all have a usable ``lr``.
        calls_users_code: See above.

    Raises:
        MisconfigurationException: The module has no such optimizer, or the optimizer has no usable lr.
    """

    def __init__(self, trainer: pl.Trainer, index: int, calls_users_code: bool = True) -> None:
        usable = [it for it in trainer.optimizers if it.param_groups]  # Lightning's stand-in has none
        if index >= len(usable):
            name = f"`{type(trainer.lightning_module).__name__}.configure_optimizers`"
            raise MisconfigurationException(
                f"There is no optimizer with index {index}: {name} returned {counted(len(usable), 'optimizer')}."
            )
        self.trainer = trainer
        self.calls_users_code = calls_users_code
        self._known_peak: _Peak | None = None
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
        """The largest lr that the optimizer reaches in the run; if that is not known, the base of its schedule."""
        return self._peak.lr

    @property
    def doubt(self) -> str:
        """Why `peak` may not be that of the run, or an empty string."""
        return self._peak.doubt

    @property
    def momentum_cycles(self) -> list[tuple[float, float] | None]:
        """The smallest and the largest momentum of each group in the run, None where no schedule changes it."""
        inner = [part for scheduler in self.schedulers for part in parts(scheduler)]
        groups = self.optimizer.param_groups
        own = next((it.policy for it in inner if isinstance(it, OneCycleScheduler)), None)
        if own is not None:
            # The schedule marks the groups that had momentum when it began; theirs may be 0 at this moment.
            cycled = [own.cycle_momentum and it.get("cycle_momentum", has_momentum(it)) for it in groups]
            return [(own.base_momentum, own.max_momentum) if is_cycled else None for is_cycled in cycled]
        if not any(getattr(part, "cycle_momentum", False) for part in inner):
            return [None] * len(groups)
        ends = ("base_momentum", "max_momentum")  # where torch's schedulers keep them, also for later ones
        return [(float(it[ends[0]]), float(it[ends[1]])) if it.keys() >= {*ends} else None for it in groups]

    def use_mean_momentum(self, optimizer: Optimizer) -> None:
        """Write the mean momentum of the run's cycle into each group whose momentum is cycled."""
        for group, ends in zip(optimizer.param_groups, self.momentum_cycles, strict=True):
            if ends is not None:
                write_momentum(group, sum(ends) / 2)

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
    def use_max_lr(self, lr: float, attr_name: str = "") -> list[str]:
        """Make ``lr`` the peak of the run from here on, see `apply_max_lr`.

        Returns:
            What changed, and a sentence if the run does not peak at ``lr``, or may not.
        """
        before, module = self._peak, self.trainer.lightning_module if attr_name else self._module
        restart = self.trainer.global_step > 0
        places: dict[str, Any] = {"old_peak": before.lr, "attr_name": attr_name}
        changed = apply_max_lr(lr, self.optimizer, self.schedulers, module, restart, **places)
        self._known_peak = None
        for floor in floors_above(lr, self.schedulers):
            rank_zero_warn(f"The floor {floor} is above the found max_lr {lr:.3g}: lower it, or the lr rises to it.")
        after = self._peak
        plateaus = [type(it.scheduler).__name__ for it in self._configs if it.reduce_on_plateau]
        if plateaus and len(self._configs) > len(plateaus):  # alone, it begins with the peak
            changed.append(f"unless {plateaus[0]} lowers it before its peak, which only the metrics of the run show")
        if after.doubt:
            changed.append(f"as the base of the schedule only, because {after.doubt} and its peak is not known")
        elif f"{after.rest:.3g}" != f"{lr:.3g}":
            changed.append(f"with which the largest lr of the run from here on is {after.rest:.3g}")
        return changed

    def check_attribute(self, attr_name: str) -> None:
        """Raise MisconfigurationException unless the module or its hparams hold a number, or None, by this name."""
        module = self.trainer.lightning_module
        if attr_name and not holds_rate(module, attr_name):
            raise MisconfigurationException(
                f"Expected argument `attr_name` to be the name of a number in {type(module).__name__} or its hparams"
                f" but got {attr_name!r}"
            )

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
    def _peak(self) -> _Peak:
        if self._known_peak is None:
            self._known_peak = self._find_peak()
        return self._known_peak

    def _find_peak(self) -> _Peak:
        """Play the rest of the run, unless the peak is known without."""
        schedulers, said = self.schedulers, schedule_peak(self.optimizer, self.schedulers)
        if not schedulers or any(isinstance(it, OneCycleScheduler) for each in schedulers for it in parts(each)):
            return _Peak(said, said)
        name, hook = users_code(schedulers), self._users_hook
        if hook is not None:
            name = name or "lr_scheduler_step"
        if name and not self.calls_users_code:
            return _Peak(said, said, f"{name} is not called")
        if not self.trainer.lightning_module.automatic_optimization:
            return _Peak(said, said, f"{name} is stepped by hand" if name else "")
        if name and not self._steps_of_run:
            return _Peak(said, said, "the length of the run is not known")
        then, copies = _TrainerThen(self.trainer), Copies()
        copies.use(self.trainer, then)
        try:
            rest = play(self.optimizer, schedulers, self._moments(), copies, partial(_step, then, hook, copies))
            is_begun = self.trainer.global_step > 0 and has_begun(self.optimizer, schedulers)
            past = past_peak(schedulers, copies) if is_begun else rest
        except CannotPlay as error:
            return _Peak(said, said, f"{name or type(schedulers[0]).__name__} {error}")
        whole = max(rest, said if past is None else past)
        whole, rest = (said if math.isclose(it, said, rel_tol=_ALIKE) else it for it in (whole, rest))
        return _Peak(whole, rest)

    @property
    def _users_hook(self) -> Callable[..., Any] | None:
        """The module's own ``lr_scheduler_step``, if it has one."""
        module = self.trainer.lightning_module
        hook: Any = module.lr_scheduler_step
        return None if getattr(hook, "__func__", None) is pl.LightningModule.lr_scheduler_step else hook

    @property
    def _steps_of_run(self) -> int:
        """Optimizer steps of the whole run; 0 where it is endless."""
        if self.trainer.estimated_stepping_batches == math.inf:  # loads the data
            return 0
        return self.trainer.global_step + int(steps_left(self.trainer, batches_done(self.trainer)))

    def _moments(self) -> Iterator[Moment]:
        """Yield when Lightning steps the schedulers, up to the last optimizer step of the run."""
        trainer, configs, total = self.trainer, self._configs, self._steps_of_run
        epoch, step, batches = trainer.current_epoch, trainer.global_step, trainer.num_training_batches
        batch, accumulated = batches_done(trainer), accumulation_in(trainer, epoch)
        can_step = [not it.reduce_on_plateau for it in configs]  # a metric steps the others
        by_step = [k for k, it in enumerate(configs) if can_step[k] and it.interval == "step"]
        by_epoch = [k for k, it in enumerate(configs) if can_step[k] and it.interval == "epoch"]
        while step < total:
            is_last = batch + 1 >= batches
            due: list[int] = []
            if is_last or (batch + 1) % accumulated == 0:
                step += 1
                due += [k for k in by_step if (batch + 1) % configs[k].frequency == 0]
            if is_last:
                due += [k for k in by_epoch if (epoch + 1) % configs[k].frequency == 0]
            if due and step < total:
                yield Moment(epoch, step, tuple(due))
            epoch, batch = (epoch + 1, 0) if is_last else (epoch, batch + 1)
            accumulated = accumulation_in(trainer, epoch)

    @property
    def _module(self) -> pl.LightningModule | None:
        """The module, whose attributes describe this optimizer only if it has no other."""
        return self.trainer.lightning_module if len(self.trainer.optimizers) == 1 else None


class _TrainerThen:
    """The Trainer as user code sees it at a moment of the run that is played."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer
        self.current_epoch, self.global_step = trainer.current_epoch, trainer.global_step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def _step(then: _TrainerThen, hook: Any, copies: Copies, scheduler: Any, moment: Moment) -> None:
    """Step the copy of a scheduler as Lightning steps the original."""
    then.current_epoch, then.global_step = moment.epoch, moment.step
    if hook is None:
        scheduler.step()
    else:
        copies.of(hook)(scheduler, None)
