"""`Driver`: drive one optimizer along a policy.

The life of a step, seen from here: before step k the groups hold the policy's values of step k; the optimizer steps;
`Driver.count_step` notices whether somebody else has changed the lr, counts the step and writes the values of step
k + 1.
"""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from pl_onecycle.optimizer_groups import has_momentum, peak_lrs, rescale, write, write_momentum
from pl_onecycle.policy import Policy


class Driver:
    """Writes the policy's learning rate and momentum for each step of an optimizer, and counts the steps.

    The group with the largest lr follows the policy; the others keep their ratio to it. Groups that join later are
    left alone.

    Attributes:
        step: How many steps the optimizer has taken.
        is_overridden: Whether something else has set the lr of a step, in this process or another.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy) -> None:
        self.step = 0
        self.is_overridden = False
        self.optimizer, self._policy = optimizer, policy
        self._peaks = peak_lrs(optimizer)
        self._top, self._distinct = max(self._peaks), set(self._peaks)
        self._cycled = [has_momentum(group) for group in optimizer.param_groups]
        self._lrs: list[float] = []  # the policy's, one for each step

    @property
    def last_step(self) -> int:
        """The last step of a trial: one more than the policy has, as the loss of step k + 1 shows the effect of k."""
        return self._policy.total_steps

    @property
    def is_through(self) -> bool:
        """Whether the last step is done."""
        return self.step > self.last_step

    def lr_before(self, step: int) -> float:
        """Return the lr whose effect the loss of ``step`` >= 1 shows."""
        return self._lrs[step - 1]

    def write(self) -> None:
        """Write the values of the next step."""
        lr, momentum = self._policy.lr(self.step), self._policy.momentum(self.step)
        self._lrs.append(lr)
        rates = {peak: rescale(peak, self._top, lr) for peak in self._distinct}
        for group, peak, cycled in zip(self.optimizer.param_groups, self._peaks, self._cycled, strict=False):
            write(group, "lr", rates[peak])
            if momentum is not None and cycled:
                write_momentum(group, momentum)
        self._written = self._plain_lrs()

    def count_step(self) -> None:
        """Count a step that the optimizer has really taken, and write the values of the next one."""
        self.is_overridden |= self._plain_lrs() != self._written
        self.step += 1
        self.write()

    def _plain_lrs(self) -> list[Any]:
        """The groups' lrs without those in tensors, as reading these would make the host wait for the device."""
        groups = self.optimizer.param_groups[: len(self._peaks)]  # not those that join in the trial
        return [group["lr"] for group in groups if not isinstance(group["lr"], Tensor)]
