"""`LossCollector`: one loss for each step of the optimizer, fetched from the device in chunks.

The life of a step, seen from here: each backward pass adds a loss; when the optimizer is about to step, the losses
since its last step become one *attempt*; when it has really stepped, the first attempt is the loss of that step, as it
was computed at the weights that the step before has led to (LBFGS and SAM evaluate a step several times). The loss
stays on the device until the next `fetch`. Losses that another optimizer has stepped with are dropped at the next
backward pass; a step without one in between shares them.
"""

import math
from typing import Any

import torch
from torch import Tensor

from pl_onecycle._lightning import pl
from pl_onecycle.trial.agreement import MOST_NUMBERS, Agreement

# How many losses are exchanged at once, each with whether there is one; one more number is the flag.
MOST_TOGETHER = (MOST_NUMBERS - 1) // 2


class LossCollector:
    """Collects the losses of one optimizer's steps.

    Args:
        trainer: A Trainer within ``fit``.
        processes: Those of the Trainer; without them, where nothing is fetched.
        last_step: Losses of later steps are dropped.

    Attributes:
        steps: The steps whose loss has been fetched; a step that the gradient scaler left out appears twice.
        losses: Their losses, means over processes.
    """

    def __init__(self, trainer: pl.Trainer, processes: Agreement | None = None, last_step: float = math.inf) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []
        self._trainer, self._last_step = trainer, last_step
        self._processes = Agreement(trainer) if processes is None else processes
        self._backward: list[Tensor] = []  # losses of the backward passes whose gradient the next step would use
        self._is_used = False  # whether another optimizer has stepped with them
        self._attempts: list[Tensor] = []  # one for each time that this optimizer began a step since it last finished
        self._waiting: list[tuple[int, Tensor | None]] = []  # steps with their losses, still on the device
        self._without_loss = 0  # how many of the last ones that wait have no loss yet

    @property
    def waiting(self) -> int:
        """How many steps have a loss that is still on the device."""
        return len(self._waiting)

    @property
    def unfinished(self) -> list[Tensor]:
        """Losses of the step that is under way."""
        return [*self._backward, *self._attempts]

    # ------------------------------------------------------------------------------------- on the device
    def add_backward(self, loss: Tensor) -> None:
        """Add the loss of a backward pass, before the gradient scaler."""
        if self._is_used:  # those before belong to the other optimizer
            self._backward.clear()
            self._is_used = False
        loss = loss.detach()
        if loss.dtype is not torch.float32:
            loss = loss.to(torch.promote_types(loss.dtype, torch.float32))
        loss = loss.mean() if loss.dim() else loss.clone()  # a CUDA graph may write the next loss to the same memory
        scaler = getattr(self._trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            loss = loss / scaler.scale(torch.ones_like(loss))
        self._backward.append(loss)

    def begin_step(self) -> None:
        """Combine the losses of the backward passes so far into one attempt."""
        if self._backward:
            is_automatic = self._trainer.lightning_module.automatic_optimization
            scale = self._trainer.accumulate_grad_batches if is_automatic else 1  # Lightning has divided by it
            if len(self._backward) > 1:
                losses = torch.stack(self._backward)
                self._backward = [losses.mean() if is_automatic else losses.sum()]
            self._attempts.append(self._backward[0] * scale if scale > 1 else self._backward[0])
            self._backward.clear()

    def share_backward(self) -> None:
        """Keep the losses of the backward passes so far only up to the next one: another optimizer steps with them."""
        self._is_used = True

    def take_attempt(self) -> Tensor | None:
        """Return the first attempt at the step under way, or None without a loss, and forget the others."""
        self.begin_step()
        attempts, self._attempts = self._attempts, []
        return attempts[0] if attempts else None

    def finish_step(self, step: int) -> None:
        """Take the first attempt as the loss of ``step``, which the optimizer has really taken."""
        loss = self.take_attempt()  # also of a step past Lightning
        if step <= self._last_step:  # a batch may have more steps than the policy
            self._waiting.append((step, loss))
            self._without_loss += loss is None

    def finish_batch(self, step: int, outputs: Any) -> None:
        """Take what ``training_step`` returned for steps without a backward pass, and keep an attempt left out.

        The gradient scaler leaves a step out where gradients are not finite; step ``step`` is then tried again.
        """
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if self._without_loss and isinstance(loss, Tensor):
            loss = loss.detach().float().mean()
            self._waiting[-self._without_loss :] = [(k, loss) for k, _ in self._waiting[-self._without_loss :]]
        self._without_loss = 0
        if self._attempts and step <= self._last_step:
            self._waiting.append((step, self._attempts[-1]))
            self._attempts = []

    # --------------------------------------------------------------------------------------- on the host
    def keep(self, count: int) -> None:
        """Keep only the first ``count`` losses that wait."""
        del self._waiting[count:]

    def fetch(self, flag: bool) -> bool:
        """Fetch the losses that wait on the device, as means over processes; return whether any process has ``flag``.

        Flag and losses are exchanged where the processes meet. Call it only if losses wait, as many in each process.

        Raises:
            TrialFailedElsewhere: Another process failed.
        """
        if self._processes.is_alone:
            losses = [loss for _, loss in self._waiting if loss is not None]
            self.steps += [step for step, loss in self._waiting if loss is not None]
            self.losses += [loss.item() for loss in losses] if len(losses) < 2 else torch.stack(losses).tolist()
            self._waiting = []
            return flag
        while self._waiting:
            together, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
            nothing = torch.zeros((), device=self._trainer.strategy.root_device)
            own = torch.stack([nothing if loss is None else loss for _, loss in together])
            has_loss = own.new_tensor([loss is not None for _, loss in together])
            numbers = torch.cat([own, has_loss, own.new_tensor([flag])])
            *means, flags = self._processes.exchange(numbers).mean(0).tolist()
            flag |= flags > 0
            for (step, _), loss, share in zip(together, means[: len(together)], means[len(together) :], strict=True):
                if share > 0:
                    self.steps.append(step)
                    self.losses.append(loss / share)
        return flag

    def add_nan(self, step: int) -> None:
        """Record that the loss of ``step`` is not finite."""
        self.steps.append(step)
        self.losses.append(math.nan)

    def by_step(self) -> dict[int, float]:
        """Return the loss of each step; of a step that was tried again, the first: it is at the same weights."""
        losses: dict[int, float] = {}
        for step, loss in zip(self.steps, self.losses, strict=True):
            losses.setdefault(step, loss)
        return losses
