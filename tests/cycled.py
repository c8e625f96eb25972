"""A net whose optimizer follows one cycle, as a user writes it, and what its steps use."""

from typing import Any

import torch

from pl_onecycle.configure import configure_one_cycle
from pl_onecycle.policy import OneCyclePolicy
from tests.fits import SmallNet


class Net(SmallNet):
    """A small net whose optimizer follows one cycle, as a user writes it."""

    def __init__(self, lr: float = 0.1, kind: str = "SGD", **arguments: Any) -> None:
        super().__init__(lr)
        self.kind, self.arguments = kind, arguments

    def configure_optimizers(self) -> Any:
        momentum: dict[str, Any] = {"momentum": 0.9} if self.kind == "SGD" else {}
        optimizer = getattr(torch.optim, self.kind)(self.parameters(), lr=self.lr, **momentum)
        return configure_one_cycle(self, optimizer, **self.arguments)


def curves(policy: OneCyclePolicy, steps: int) -> tuple[list[list[float]], list[list[float | None]]]:
    """What `LRs` records for one group that follows ``policy``."""
    return [[policy.lr(step)] for step in range(steps)], [[policy.momentum(step)] for step in range(steps)]
