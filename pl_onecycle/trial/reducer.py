"""Put the communication of several processes back to where it stood before a trial.

After its first backward pass the reducer of a `DistributedDataParallel` puts the gradients into its buckets in another
order, and a sum over three processes or more depends on the order in its last bits. A reducer can be neither copied nor
restored; but before that first pass it holds nothing that a new one would not, so the wrapper gets a new one.

Private names of torch used here, the same in 2.4.0 and 2.14: ``_check_reducer_finalized``, ``_comm_hooks`` and
``_has_rebuilt_buckets`` of the wrapper, ``_autograd_hook`` and ``_get_zeros_like_grad_buckets`` of its reducer.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import torch
from torch.nn.parallel import DistributedDataParallel


def states_of_communication(strategy: Any) -> list[Any]:
    """Return what counts the steps of all processes: states of hooks, such as PowerSGD's, and averagers of models."""
    hooks = strategy.model._comm_hooks if isinstance(strategy.model, DistributedDataParallel) else []
    averagers = [
        it for it in vars(strategy).values() if type(it).__module__.startswith("torch.distributed.algorithms.")
    ]
    return [*averagers, *(state for _, state in hooks)]


def reducer_renewal(wrapper: Any) -> Callable[[], None]:
    """Return what gives a wrapper a new reducer if it needs one, to be called when all else is restored.

    The wrapper stays the same object, and the processes do not wait for each other. Other wrappers than torch's
    DistributedDataParallel are left as they are, as are those with a mixed precision of torch's own, which has hooks in
    all parameters.
    """
    if not isinstance(wrapper, DistributedDataParallel) or wrapper.mixed_precision is not None:
        return lambda: None
    before = {name: value for name, value in vars(wrapper).items() if name not in ("reducer", "logger")}
    hooks, has_order = [*wrapper._comm_hooks], wrapper._has_rebuilt_buckets
    # Chosen when the module was wrapped; parameters may have been frozen since.
    reduced = set(map(id, _reduced(wrapper)))

    def renew() -> None:
        if has_order and _is_finished(wrapper):
            return
        del wrapper.reducer, wrapper.logger  # first, so that their buckets and the new ones are not held together
        flags = [(weight, weight.requires_grad) for weight in wrapper.module.parameters()]
        for weight, _ in flags:
            weight.requires_grad_(id(weight) in reduced)
        restore: Callable[[dict[str, Any]], None] = wrapper.__setstate__  # as after unpickling, with another reducer
        restore(before | {"_comm_hooks": []})
        for weight, flag in flags:
            weight.requires_grad_(flag)
        for hook, state in hooks:
            wrapper.register_comm_hook(state, hook)

    return renew


def _is_finished(wrapper: DistributedDataParallel) -> bool:
    """Return whether the reducer has finished its last backward pass, which an exception may have ended."""
    try:
        wrapper._check_reducer_finalized()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return True


def finish_backward(wrapper: Any) -> None:
    """Take part in the reductions of a backward pass that an exception has ended in this process.

    The others wait for them within their own backward pass. What is sent does not matter, as the trial ends.
    Collectives of the module itself are not made up for.
    """
    if not isinstance(wrapper, DistributedDataParallel):
        return
    weights, reducer = _reduced(wrapper), cast(Any, wrapper.reducer)
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)

    def mark(_: torch.Tensor) -> None:
        for index in range(len(weights)):
            with suppress(RuntimeError):  # it has been reduced already
                reducer._autograd_hook(index)

    with torch.enable_grad():  # a backward pass of its own, at whose end the reducer waits for the others
        end: Any = torch.zeros(1, device=weights[0].device, requires_grad=True).clone()
        end.register_hook(mark)
        end.backward()


def _reduced(wrapper: DistributedDataParallel) -> list[torch.Tensor]:
    """Return the parameters that the reducer has."""
    return [weight for bucket in wrapper.reducer._get_zeros_like_grad_buckets() for weight in bucket.parameters()]
