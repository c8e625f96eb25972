"""Detect when an optimizer has really stepped.

A call of ``step`` is not enough: the gradient scaler of fp16 skips a step whose gradients are not finite, and a skipped
step counts neither in a schedule nor in a sweep.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch.optim import Optimizer


def after_real_step(optimizer: Optimizer, call: Callable[[], object]) -> None:
    """Call ``call`` after each real step of ``optimizer`` from now on.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> after_real_step(optimizer, lambda: print("stepped"))
        >>> _ = optimizer.step()
        stepped
    """

    def hook(*_: Any) -> None:
        # The scaler always calls fused optimizers, which skip the update themselves if `found_inf` is set.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not found_inf.item():
            call()

    if hasattr(optimizer, "_optimizer_step_post_hooks"):
        optimizer.register_step_post_hook(hook)
        return
    step = optimizer.step  # a wrapper around another optimizer that never called `Optimizer.__init__`

    @wraps(step)
    def stepped(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        hook()
        return result

    optimizer.step = stepped  # type: ignore[method-assign]
