"""`after_real_step`: a step counts when the weights have really been stepped."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from pl_onecycle.real_step import after_real_step

KINDS: dict[str, Callable[[list[torch.nn.Parameter]], Optimizer]] = {
    "SGD": lambda weights: torch.optim.SGD(weights, lr=0.1),
    "SGD with momentum": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
    "AdamW": lambda weights: torch.optim.AdamW(weights, lr=0.1),
    "fused AdamW": lambda weights: torch.optim.AdamW(weights, lr=0.1, fused=True),
    "fused SGD": lambda weights: torch.optim.SGD(weights, lr=0.1, fused=True),
}


def weight() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(2))


def step_with_scaler(optimizer: Optimizer, scaler: Any, parameter: torch.nn.Parameter, scale: float = 1.0) -> bool:
    """Take one step of fp16 training whose gradient is ``scale``; return whether the weights have moved."""
    before = parameter.detach().clone()
    optimizer.zero_grad()
    scaler.scale((scale * parameter).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    return not torch.equal(parameter, before)


@pytest.mark.parametrize("kind", KINDS)
def test_every_plain_step_calls_once(kind: str) -> None:
    parameter, calls = weight(), []
    optimizer = KINDS[kind]([parameter])
    after_real_step(optimizer, lambda: calls.append(parameter.tolist()))
    for _ in range(3):
        parameter.grad = torch.ones(2)
        optimizer.step()
    assert len(calls) == 3
    assert calls[-1] == parameter.tolist()  # called when the weights have been stepped


@pytest.mark.parametrize("kind", KINDS)
def test_steps_that_the_scaler_skips_do_not_call(kind: str) -> None:
    parameter, scaler = weight(), torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = KINDS[kind]([parameter])
    calls: list[int] = []
    after_real_step(optimizer, lambda: calls.append(1))
    called, moved = [], []
    for scale in (1.0, float("inf"), 1.0, float("nan"), float("inf"), 1.0):
        before = len(calls)
        moved.append(step_with_scaler(optimizer, scaler, parameter, scale))
        called.append(len(calls) - before == 1)
    assert moved == [True, False, True, False, False, True]
    assert called == moved


def test_a_step_after_a_scaler_has_gone_calls() -> None:
    parameter, scaler = weight(), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    calls: list[int] = []
    after_real_step(optimizer, lambda: calls.append(1))
    step_with_scaler(optimizer, scaler, parameter, float("inf"))
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert calls == [1]


def test_a_step_with_a_closure_that_is_called_many_times_is_one_step() -> None:
    parameter = weight()
    optimizer = torch.optim.LBFGS([parameter], lr=0.1, max_iter=5)
    calls: list[int] = []
    evaluations: list[int] = []
    after_real_step(optimizer, lambda: calls.append(1))

    def closure() -> torch.Tensor:
        evaluations.append(1)
        optimizer.zero_grad()
        loss = (parameter**4).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert len(evaluations) > 1
    assert calls == [1]


def test_several_calls_run_in_order() -> None:
    optimizer = torch.optim.SGD([weight()], lr=0.1)
    calls: list[str] = []
    after_real_step(optimizer, lambda: calls.append("first"))
    after_real_step(optimizer, lambda: calls.append("second"))
    optimizer.step()
    optimizer.step()
    assert calls == ["first", "second"] * 2


class Wrapper(Optimizer):
    """Steps another optimizer, and never was one itself: `Optimizer.__init__` has not run."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


def test_a_wrapper_that_is_no_real_optimizer_calls_after_its_steps_and_returns_what_it_did() -> None:
    parameter = weight()
    optimizer = Wrapper(torch.optim.SGD([parameter], lr=0.1))
    calls: list[list[float]] = []
    after_real_step(optimizer, lambda: calls.append(parameter.tolist()))
    parameter.grad = torch.ones(2)
    assert optimizer.step(lambda: 7.0) == 7.0
    assert calls == [pytest.approx([0.9, 0.9])]


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"]
)
def test_a_copy_of_the_optimizer_carries_no_call(duplicate: Callable[[Any], Any]) -> None:
    optimizer = torch.optim.SGD([weight()], lr=0.1)
    calls: list[int] = []
    after_real_step(optimizer, lambda: calls.append(1))
    twin = duplicate(optimizer)
    twin.step()
    assert calls == []
    optimizer.step()
    assert calls == [1]


def test_loading_the_state_of_an_optimizer_keeps_the_call() -> None:
    optimizer, other = (torch.optim.SGD([weight()], lr=0.1) for _ in range(2))
    calls: list[int] = []
    after_real_step(optimizer, lambda: calls.append(1))
    optimizer.load_state_dict(other.state_dict())
    optimizer.step()
    assert calls == [1]


def test_nothing_keeps_the_optimizer_alive() -> None:
    optimizer = torch.optim.SGD([weight()], lr=0.1)
    after_real_step(optimizer, list)
    noted = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert noted() is None
