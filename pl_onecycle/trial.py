"""Train a few isolated steps under a policy and record the loss: policy -> `LossCurve`.

The steps are real ones, with the module's hooks, precision, strategy, clipping and accumulation of the fit in
which they run; afterwards model, optimizer and Trainer are as before.
"""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from typing_extensions import override

from pl_onecycle.curve import LossCurve, Outcome, first_explosion
from pl_onecycle.isolation import isolated
from pl_onecycle.param_groups import check_lrs, has_momentum, peak_lrs, rescale, write, write_momentum
from pl_onecycle.policy import Policy

OnStep = Callable[[int, float], None]

# How many steps pass between two looks at the losses. A look at a loss on an accelerator makes the host wait for
# it; on the CPU it costs nothing.
CHUNK = 10


def run_trial(
    trainer: pl.Trainer,
    policy: Policy,
    *,
    early_stop_threshold: float | None = 4.0,
    on_step: OnStep | None = None,
) -> LossCurve:
    """Train ``policy.total_steps`` optimizer steps in isolation and return the loss after each.

    The group with the largest lr follows the policy, the others keep their ratio to it. One more step than the policy
    has is run, because the loss of step k + 1 is what shows the effect of the lr of step k. A train loader that is
    shorter starts over; ``max_epochs`` and ``max_steps`` of the Trainer do not count.

    Args:
        trainer: A Trainer within ``fit``, with its train loader set up.
        policy: Learning rate, and momentum if not None, of each step.
        early_stop_threshold: When the sweep has diverged, see `first_explosion`; None never stops early
            but at a loss that is not finite.
        on_step: Called with the number of steps done and the last known loss.

    Returns:
        The curve, with one point for each step after which a loss was measured.

    Raises:
        MisconfigurationException: The module has no usable optimizer, several, or manual optimization.
    """
    optimizer = _only_optimizer(trainer)
    recorder = _Recorder(policy, optimizer, early_stop_threshold, on_step)
    with isolated(trainer, recorder) as loop:
        try:
            loop.on_advance_start()
            # One long epoch: hooks that count epochs must not run past the end of the user's. Where the data begin
            # again without giving a batch, they have run out.
            before = -1
            while not recorder.done and not trainer.should_stop and recorder.batches > before:
                if before >= 0 and trainer.current_epoch == 0:  # from the second epoch on the loop does it itself
                    iter(loop._data_fetcher)  # type: ignore[arg-type]  # set up
                before = recorder.batches
                loop.advance()
        except StopIteration as error:  # would end the user's fit without a word
            raise RuntimeError("A hook of the module raised StopIteration in a trial.") from error
        recorder.look(trainer)
    return recorder.curve()


def _only_optimizer(trainer: pl.Trainer) -> torch.optim.Optimizer:
    module = trainer.lightning_module
    name = type(module).__name__
    if not module.automatic_optimization or len(trainer.optimizers) > 1:
        raise MisconfigurationException(
            f"The test needs automatic optimization with one optimizer, and {name} optimizes by itself or has several."
        )
    if not trainer.optimizers or not trainer.optimizers[0].param_groups:
        raise MisconfigurationException(
            f"The test needs an optimizer, and `{name}.configure_optimizers` returned none."
        )
    check_lrs(trainer.optimizers[0], MisconfigurationException)
    return trainer.optimizers[0]


class _Recorder(pl.Callback):
    """Writes the policy's values before each optimizer step and records the loss of each."""

    def __init__(
        self, policy: Policy, optimizer: torch.optim.Optimizer, threshold: float | None, on_step: OnStep | None
    ) -> None:
        self.done = False
        self.overridden = False  # whether something else set the lr of a step
        self.batches = 0
        self._policy, self._optimizer, self._threshold, self._on_step = policy, optimizer, threshold, on_step
        self._peaks = peak_lrs(optimizer)
        self._cycled = [has_momentum(group) for group in optimizer.param_groups]
        self._step = 0  # optimizer steps done
        self._exploded: int | None = None  # index into the two lists below
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._pending: list[tuple[int, Tensor]] = []  # not yet looked at
        self._window: list[Tensor] = []  # losses of the micro-batches since the last step

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        lr, momentum = self._policy.lr(self._step), self._policy.momentum(self._step)
        for group, peak, cycled in zip(self._optimizer.param_groups, self._peaks, self._cycled, strict=False):
            write(group, "lr", rescale(peak, max(self._peaks), lr))
            if momentum is not None and cycled:
                write_momentum(group, momentum)
        self._steps_before = trainer.global_step
        self._written = self._plain_lrs()

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.overridden |= self._plain_lrs() != self._written

    def _plain_lrs(self) -> list[Any]:
        """The groups' lrs; those in tensors are left out, as reading them would make the host wait for the device."""
        return [group["lr"] for group in self._optimizer.param_groups if not isinstance(group["lr"], Tensor)]

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):  # Lightning divides it by the accumulation
            loss = loss.detach().to(torch.promote_types(loss.dtype, torch.float32)).mean()
            self._window.append(loss * trainer.accumulate_grad_batches)
        if trainer.global_step == self._steps_before:
            return
        if self._window:
            self._pending.append((self._step, torch.stack(self._window).mean()))
            self._window = []
        self._step += 1
        self.done = self._step > self._policy.total_steps or self.overridden
        if self.done or trainer.strategy.root_device.type == "cpu" or len(self._pending) >= CHUNK:
            self.look(trainer)
        if self.done:
            trainer.should_stop = True

    def look(self, trainer: pl.Trainer) -> None:
        """Fetch the losses that are still on the device and see whether they have exploded."""
        if not self._pending:
            return
        losses = trainer.strategy.reduce(torch.stack([loss for _, loss in self._pending]), reduce_op="mean")
        since = len(self._losses)
        self._steps += [step for step, _ in self._pending]
        self._losses += losses.tolist()
        self._pending = []
        if self._on_step is not None:
            self._on_step(self._step, self._losses[-1])
        self._exploded = first_explosion(self._losses, self._threshold, since)
        # A curve has at least one point, also where the very first loss was not finite.
        if self._exploded is not None and self._steps[-1] > 0:
            self.done = True

    def curve(self) -> LossCurve:
        """Pair each loss with the lr of the step before."""
        outcome: Outcome = "completed" if self._step > self._policy.total_steps else "stopped"
        losses = dict(zip(self._steps, self._losses, strict=True))
        if self._exploded is not None:
            outcome = "diverged"
            last = max(self._steps[self._exploded], 1)
            losses = {step: loss for step, loss in losses.items() if step <= last}
        if self.overridden:
            outcome = "overridden"
        initial = losses.pop(0, None)
        return LossCurve([self._policy.lr(step - 1) for step in losses], list(losses.values()), outcome, initial)
