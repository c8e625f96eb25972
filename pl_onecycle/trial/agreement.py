"""What the processes of a trial agree on: whether each can continue, and whose fault an exception is.

The life of a step, seen from here: before each forward and each backward pass, and at the end of a batch after which
they communicate, all processes meet in `Agreement.meet`, so that one that fails stops all of them there instead of
leaving them to wait; one that fails within a backward pass first takes part in the reductions that the others wait for.
An exception in a step ends up in `Agreement.is_divergence`: values that are not finite make it the learning rate's
fault. Where they do not, `run.py` repeats the steps, and all processes take part.
"""

import logging
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from pl_onecycle._lightning import pl
from pl_onecycle.trial.reducer import finish_backward

logger = logging.getLogger(__name__)

# The most numbers that processes exchange where they meet. All meetings have this size: one process may fail and come
# to a meeting of its own while the others exchange numbers.
MOST_NUMBERS = 41


class TrialFailedElsewhere(RuntimeError):
    """Another process has left the trial by an exception."""


class Agreement:
    """Keeps the processes of a Trainer together; does nothing where there is one.

    Attributes:
        is_in_backward: Whether this process is in a backward pass, or has left one by an exception.
        meets_before_forward: Whether the processes meet before each forward pass, so that they need not before.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer
        self.is_in_backward = self.meets_before_forward = False

    @property
    def is_alone(self) -> bool:
        """Whether there is one process only."""
        return bool(self._trainer.world_size == 1)

    def meet(self, can_continue: bool = True) -> None:
        """Tell the other processes whether this one can continue.

        Raises:
            TrialFailedElsewhere: This one can, and another one cannot.
        """
        if not self.is_alone:
            self.exchange(torch.empty(0), can_continue)

    def exchange(self, numbers: Tensor, can_continue: bool = True) -> Tensor:
        """Meet, and return the numbers of all processes.

        Args:
            numbers: At most `MOST_NUMBERS`, in one dimension, as many in each process.
            can_continue: See `meet`.

        Returns:
            A tensor of shape (processes, numbers).

        Raises:
            TrialFailedElsewhere: This process can continue, and another one cannot.
        """
        device = self._trainer.strategy.root_device
        has_doubles = device.type in ("cpu", "cuda", "xla")
        sent = torch.zeros(1 + MOST_NUMBERS, device=device, dtype=torch.float64 if has_doubles else torch.float32)
        sent[0], sent[1 : 1 + len(numbers)] = float(not can_continue), numbers
        # Unlike a reduction, which Lightning lets a barrier precede, this makes the processes wait once.
        received = self._trainer.strategy.all_gather(sent).reshape(-1, len(sent))
        if can_continue and bool(received[:, 0].any()):
            raise TrialFailedElsewhere("Another process failed in the trial; its own error says why.")
        return received[:, 1 : 1 + len(numbers)].to(numbers.dtype)

    def meet_before_forward(self) -> None:
        """Let the processes meet before each forward pass of a wrapper, in which they talk to each other."""
        model = self._trainer.strategy.model
        if isinstance(model, torch.nn.Module) and model is not self._trainer.lightning_module:
            model.register_forward_pre_hook(lambda *_: self.meet())
            self.meets_before_forward = True

    def is_divergence(self, error: Exception, losses: Iterable[Tensor]) -> bool:
        """Return whether values that are not finite, in any process, explain an exception.

        Args:
            error: The exception; it is logged where there are several processes.
            losses: Of the step under way.
        """
        if not isinstance(error, TrialFailedElsewhere):
            if not self.is_alone:  # logged before the others are waited for
                logger.error("A trial failed in process %d.", self._trainer.global_rank, exc_info=error)
                if self.is_in_backward:
                    finish_backward(self._trainer.strategy.model)
            self.meet(can_continue=False)
        is_finite = all(bool(torch.isfinite(value).all()) for value in (*self._weights_and_gradients(), *losses))
        return self.anywhere(not is_finite)

    def anywhere(self, flag: bool) -> bool:
        """Return whether ``flag`` is set in any process."""
        return flag if self.is_alone else bool(self._trainer.strategy.reduce_boolean_decision(flag, all=False))

    def least(self, number: int) -> int:
        """Return the lowest ``number`` of all processes."""
        if self.is_alone:
            return number
        strategy = self._trainer.strategy
        return int(strategy.all_gather(torch.tensor(number, device=strategy.root_device)).min())

    def _weights_and_gradients(self) -> Iterable[Tensor]:
        weights = [weight for weight in self._trainer.lightning_module.parameters() if not is_lazy(weight)]
        is_scaled = getattr(self._trainer.precision_plugin, "scaler", None) is not None  # infinite gradients are usual
        gradients = [weight.grad for weight in weights if weight.grad is not None and not is_scaled]
        return (value.coalesce().values() if value.is_sparse else value for value in (*weights, *gradients))
