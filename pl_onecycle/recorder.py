"""Lead an optimizer through a policy and record the loss of each of its steps."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.parameter import is_lazy
from typing_extensions import override

from pl_onecycle.curve import LossCurve, Outcome, first_explosion
from pl_onecycle.param_groups import has_momentum, peak_lrs, rescale, write, write_momentum
from pl_onecycle.policy import Policy
from pl_onecycle.real_step import after_real_step

logger = logging.getLogger(__name__)

OnStep = Callable[[int, float], None]


@dataclass(frozen=True)
class Looks:
    """Where a sweep is looked at from outside while it lasts.

    Attributes:
        steps: After how many steps, rising.
        val_batches: How many batches of each validation loader to validate on each time, the same ones.
        monitor: Name of the logged metric that is the validation loss; where there is none, what ``validation_step``
            returns is taken.
        is_hopeless: Takes the curve so far and says whether to end the sweep as ``"dropped"``.
        must_be_logged: Whether only the logged value counts, of a training or a validation step; nothing takes its
            place then.
        sign: What a value is multiplied by: -1 for a quantity of which more is better.
    """

    steps: Sequence[int]
    val_batches: int = 0
    monitor: str = "val_loss"
    is_hopeless: Callable[[LossCurve], bool] | None = None
    must_be_logged: bool = False
    sign: float = 1.0


# How many steps pass between two looks at the losses. A look at a loss on an accelerator makes the host wait for
# it; on the CPU it costs nothing.
CHUNK = 10


class TrialFailedElsewhere(RuntimeError):
    """Another process has left the trial by an exception."""


class Recorder(pl.Callback):
    """Writes the policy's values for each step of the optimizer and records the loss of each."""

    def __init__(
        self,
        trainer: pl.Trainer,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        threshold: float | None,
        on_step: OnStep | None = None,
        looks: Looks | None = None,
    ) -> None:
        self.done = False
        self.step = 0  # steps of the optimizer that are done
        self._trainer, self._policy, self._optimizer = trainer, policy, optimizer
        self._threshold, self._on_step = threshold, on_step
        self._looks, self._to_come = looks, list(looks.steps if looks else ())
        self._validates = looks is not None and looks.val_batches > 0 and trainer.enable_validation
        self._due = self._dropped = False
        self._val_batches: list[Tensor] = []  # losses of the validation that is running
        self._val_steps: list[int] = []
        self._val_losses: list[float] = []
        self._logged_in: str | None = None  # the kind of step in which the module logs the metric
        self._begun_at = 0  # the step at whose weights this batch's forward pass is
        self._peaks = peak_lrs(optimizer)
        self._cycled = [has_momentum(group) for group in optimizer.param_groups]
        self._overridden = False  # whether something else set the lr of a step
        self._exploded: int | None = None  # index into the two lists below
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._pending: list[tuple[int, Tensor | None]] = []  # not yet looked at
        self._without = 0  # how many of the last of them have no loss yet
        self._micro: list[Tensor] = []  # losses of the backward passes since an optimizer last set out to step
        # A loss for each time that this one has set out to step since it last did: some evaluate a step several times,
        # and the first time is at the weights that the step before has led to.
        self._tried: list[Tensor] = []

    # ------------------------------------------------------------------------- what is done to the optimizer
    def begin(self) -> None:
        """Take the optimizer over; the isolation gives it back."""
        for optimizer in self._trainer.optimizers:
            after_real_step(optimizer, self._after_step if optimizer is self._optimizer else self._micro.clear)
        model = self._trainer.strategy.model
        if isinstance(model, torch.nn.Module) and model is not self._trainer.lightning_module:
            # A wrapper for several processes, which talk to each other from here on.
            model.register_forward_pre_hook(lambda *_: self.agree(True))
        self._write()

    def _write(self) -> None:
        lr, momentum = self._policy.lr(self.step), self._policy.momentum(self.step)
        for group, peak, cycled in zip(self._optimizer.param_groups, self._peaks, self._cycled, strict=False):
            write(group, "lr", rescale(peak, max(self._peaks), lr))
            if momentum is not None and cycled:
                write_momentum(group, momentum)
        self._written = self._plain_lrs()

    def _plain_lrs(self) -> list[Any]:
        """The groups' lrs; those in tensors are left out, as reading them would make the host wait for the device."""
        groups = self._optimizer.param_groups[: len(self._peaks)]  # not those that join in the trial
        return [group["lr"] for group in groups if not isinstance(group["lr"], Tensor)]

    def _after_step(self) -> None:
        self._overridden |= self._plain_lrs() != self._written
        if self._micro:  # stepped past Lightning
            self._set_out()
        if self.step <= self._policy.total_steps:  # a batch may have more steps than the policy
            self._pending.append((self.step, self._tried[0] if self._tried else None))
            self._without += not self._tried
        self._tried = []
        self.step += 1
        self._write()

    # --------------------------------------------------------------------------------- what is seen of the loss
    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.agree(True)
        self._begun_at = self.step

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self.agree(True)
        loss = loss.detach().to(torch.promote_types(loss.dtype, torch.float32)).mean()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            loss = loss / scaler.scale(torch.ones_like(loss))
        self._micro.append(loss)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if optimizer is self._optimizer:
            self._set_out()
        self._micro.clear()

    def _set_out(self) -> None:
        """Take the losses since an optimizer last set out together."""
        if self._micro:
            losses = torch.stack(self._micro)
            is_automatic = self._trainer.lightning_module.automatic_optimization  # Lightning divides then
            total = losses.mean() * self._trainer.accumulate_grad_batches if is_automatic else losses.sum()
            self._tried.append(total)
            self._micro.clear()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if self._without and isinstance(loss, Tensor):
            loss = loss.detach().float().mean()
            self._pending[-self._without :] = [(step, loss) for step, _ in self._pending[-self._without :]]
        self._without = 0
        is_new = self._begun_at not in (0, *self._val_steps[-1:])  # at weights that have not been seen
        if self._looks is not None and self._looks.must_be_logged and self._begun_at in self._looks.steps and is_new:
            self._see("training", self._begun_at)
        if self._tried and self.step <= self._policy.total_steps:  # left out by the gradient scaler; tried again
            self._pending.append((self.step, self._tried[-1]))
            self._tried = []
        enough = self.step > self._policy.total_steps
        self._due = bool(self._to_come) and self.step >= self._to_come[0]
        self._to_come = [step for step in self._to_come if step > self.step]
        if enough or self._due or trainer.strategy.root_device.type == "cpu" or len(self._pending) >= CHUNK:
            self.look()
        self.done = self.done or enough
        if self._due and not self._validates:
            self._judge()
        trainer.should_stop = trainer.should_stop or self.done

    def look(self) -> None:
        """Fetch the losses that are still on the device and see whether they have exploded."""
        if not self._pending:
            return
        self.agree(True)
        strategy, since = self._trainer.strategy, len(self._losses)
        nothing = torch.zeros((), device=strategy.root_device)
        losses = torch.stack([nothing if loss is None else loss for _, loss in self._pending])
        has_loss = losses.new_tensor([loss is not None for _, loss in self._pending])
        overridden = torch.full_like(losses, self._overridden)
        means = strategy.reduce(torch.stack([losses, has_loss, overridden]), reduce_op="mean").tolist()
        for (step, _), loss, share, others in zip(self._pending, *means, strict=True):
            self._overridden |= others > 0
            if share > 0:
                self._steps.append(step)
                self._losses.append(loss / share)
        self._pending = []
        if self._on_step is not None and self._losses:
            self._on_step(self.step, self._losses[-1])
        self._exploded = first_explosion(self._losses, self._threshold, since)
        # A curve has at least one point, also where the very first loss was not finite, unless its step was left out.
        self.done = self._overridden or (self._exploded is not None and (self._steps[-1] > 0 or self.step == 0))

    # ----------------------------------------------------------------------------- what is seen of validation
    def is_validation_due(self) -> bool:
        """Whether to validate after this batch."""
        # Also at the end, which several steps in one batch may jump over.
        return self._due and self._exploded is None and not self._overridden

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._val_batches.append(loss.detach().float().mean())

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._see("validation", self.step)
        self._judge()
        trainer.should_stop = trainer.should_stop or self.done

    def _see(self, kind: str, step: int) -> None:
        """Take what is monitored, the mean over processes, as that of the weights after ``step`` steps."""
        assert self._looks is not None
        self.agree(True)
        name = self._looks.monitor
        metrics = self._trainer.callback_metrics
        named = [key for key in metrics if key.partition("/dataloader_idx_")[0] == name]  # of several loaders
        is_here = self._logged_in in (None, kind)  # what is logged once stays there
        values = [metrics[key].detach().float().mean() for key in named] if is_here else []
        self._logged_in = kind if values else self._logged_in
        values = values or ([] if self._looks.must_be_logged else self._val_batches)
        self._val_batches = []
        # Together with whether there is one: a module may log its loss in one process only.
        device = self._trainer.strategy.root_device
        mean = torch.stack([value.to(device) for value in values]).mean() if values else torch.zeros((), device=device)
        told = torch.stack([mean, torch.full_like(mean, bool(values))])
        value, share = self._trainer.strategy.reduce(told, reduce_op="mean").tolist()
        if share > 0:
            self._val_steps.append(step)
            self._val_losses.append(self._looks.sign * value / share)

    # ---------------------------------------------------------------------------------- what ends the sweep
    def _judge(self) -> None:
        """Ask whether it is worth going on."""
        if self._looks is not None and self._looks.is_hopeless is not None and not self.done:
            self._dropped = self._looks.is_hopeless(self.curve())
            self.done = self._dropped

    def agree(self, fine: bool) -> None:
        """Tell the other processes whether this one can go on, and raise where another one cannot."""
        if self._trainer.world_size > 1 and not self._trainer.strategy.reduce_boolean_decision(fine) and fine:
            raise TrialFailedElsewhere("Another process failed in the trial; its own error tells why.")

    def is_divergence(self, error: Exception) -> bool:
        """Whether an exception is the doing of the sweep, which is then recorded as a loss that is not finite."""
        if not isinstance(error, TrialFailedElsewhere):
            if self._trainer.world_size > 1:  # told before the others are waited for
                logger.error("A trial failed in process %d.", self._trainer.global_rank, exc_info=error)
            self.agree(False)
        weights = [weight for weight in self._trainer.lightning_module.parameters() if not is_lazy(weight)]
        scaled = getattr(self._trainer.precision_plugin, "scaler", None) is not None  # which lives with infinite ones
        gradients = [weight.grad for weight in weights if weight.grad is not None and not scaled]
        dense = (v.coalesce().values() if v.is_sparse else v for v in (*weights, *gradients))
        diverged = not all(bool(torch.isfinite(v).all()) for v in (*dense, *self._micro, *self._tried))
        alone = self._trainer.world_size == 1
        if not alone:
            diverged = self._trainer.strategy.reduce_boolean_decision(diverged, all=False)
        if not diverged or self.step == 0:
            return False
        if alone:  # others may have come to another number of losses
            self.look()
        if self._exploded is None:
            self._steps.append(self.step)
            self._losses.append(math.nan)
            self._exploded = len(self._losses) - 1
        return True

    def curve(self) -> LossCurve:
        """Pair each loss with the lr of the step before."""
        module = self._trainer.lightning_module
        if self.step > 0 and not self._losses and not module.automatic_optimization:
            raise MisconfigurationException(
                f"The test saw no loss: `{type(module).__name__}.training_step` must pass it to `self.manual_backward`"
                " or return it."
            )
        looks, is_through = self._looks, self.step > self._policy.total_steps
        was_looked_at = looks is not None and len(looks.steps) > 0 and self.step > looks.steps[0] + 1
        if looks is not None and looks.must_be_logged and was_looked_at and not self._val_losses:
            raise MisconfigurationException(
                f"The test saw no `{looks.monitor}`: `{type(module).__name__}` must log it in each training step, with"
                " `on_step=True`, or in its validation steps."
            )
        outcome: Outcome = "completed" if is_through else "stopped"
        losses: dict[int, float] = {}
        for step, loss in zip(self._steps, self._losses, strict=True):
            losses.setdefault(step, loss)  # a step that was left out is tried again, at the same weights
        if self._exploded is not None:
            outcome = "diverged"
            last = max(self._steps[self._exploded], 1)
            losses = {step: loss for step, loss in losses.items() if step <= last}
        if self._dropped:
            outcome = "dropped"
        if self._overridden:
            outcome = "overridden"
        initial = losses.pop(0, None)
        lrs = [self._policy.lr(step - 1) for step in losses]
        return LossCurve(lrs, list(losses.values()), outcome, initial, self._val_steps, self._val_losses)
