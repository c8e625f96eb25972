"""A copy of a function or a scheduler is used without a trace in the original."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from pl_onecycle.copies import Copies
from tests.fits import SmallNet, data
from tests.schedules import sgd

CALLS: list[int] = []
NUMBER = 0


def counts_in_a_global_list(step: int) -> float:
    CALLS.append(step)
    return float(len(CALLS))


def counts_in_a_global_number(step: int) -> float:
    global NUMBER
    NUMBER += 1
    return float(NUMBER)


def counts_by_another(step: int) -> float:
    return counts_in_a_global_list(step)


def of_a_closure() -> Callable[[int], float]:
    number = 0

    def factor(step: int) -> float:
        nonlocal number
        number += 1
        return float(number)

    return factor


def of_an_iterator() -> Callable[[int], float]:
    values = iter([1.0, 2.0, 3.0])
    return lambda step: next(values)


def of_a_table(values: list[float]) -> Callable[[int], float]:
    take = values.pop
    return lambda step: take(0)


def counts_in(seen: list[int], step: int) -> float:
    seen.append(step)
    return float(len(seen))


def of_a_default() -> Callable[[int], float]:
    def factor(step: int, seen: list[int] = []) -> float:  # noqa: B006 - it is the kind
        seen.append(step)
        return float(len(seen))

    return factor


class Counts:
    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, step: int) -> float:
        self.calls.append(step)
        return float(len(self.calls))

    def method(self, step: int) -> float:
        return self(step)


class Module(SmallNet):
    number = 0

    def factor(self, step: int) -> float:
        self.number += 1
        return float(self.number)


KINDS: dict[str, Callable[[], Callable[[int], float]]] = {
    "global list": lambda: counts_in_a_global_list,
    "global number": lambda: counts_in_a_global_number,
    "function of a function": lambda: counts_by_another,
    "closure": of_a_closure,
    "iterator": of_an_iterator,
    "default": of_a_default,
    "object": Counts,
    "method": lambda: Counts().method,
    "method of a module": lambda: Module().factor,
    "partial": lambda: functools.partial(counts_in, []),
    "list that is emptied": lambda: of_a_table([1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_copied_function_counts_for_itself(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.CALLS", [])
    monkeypatch.setattr(f"{__name__}.NUMBER", 0)
    function = make()
    copied = Copies().of(function)
    assert [copied(0), copied(1)] == [1.0, 2.0]
    assert function(0) == 1.0  # as if it had never been called


@pytest.mark.parametrize("kind", ["generator", "loader's iterator", "file"])
def test_what_cannot_be_copied_is_refused_and_not_used(kind: str) -> None:
    with Path(__file__).open() as file:
        sources: dict[str, Any] = {
            "generator": (k for k in range(3)),
            "loader's iterator": iter(data()),
            "file": file,
        }
        it = sources[kind]
        with pytest.raises((TypeError, NotImplementedError)):
            Copies().of(lambda step: next(it))
        assert next(it) is not None


def test_a_module_is_copied_without_its_weights_and_data_sets_are_shared() -> None:
    module, loader = Module(), data()
    copies = Copies()
    copied = copies.of(module)
    assert copied is copies.of(module) is not module
    assert copied.net is module.net
    assert copies.of(loader) is loader


def test_a_copied_scheduler_drives_a_stand_in() -> None:
    optimizer = sgd(0.1, torch.tensor(0.2))
    scheduler = schedulers.StepLR(optimizer, 1, gamma=0.5)
    copies = Copies()
    stand_in, copied = copies.of(optimizer), copies.of(scheduler)
    assert copied.optimizer is stand_in
    stand_in.step()
    with warnings.catch_warnings(record=True):  # torch does not count the steps of a stand-in
        warnings.simplefilter("always")
        copied.step()
    assert [float(group["lr"]) for group in stand_in.param_groups] == pytest.approx([0.05, 0.1])
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.1, 0.2])
    assert scheduler.last_epoch == 0


def test_functions_that_refer_to_each_other_are_copied_once() -> None:
    def factor(step: int) -> float:
        return 1.0 if step == 0 else 2 * factor(step - 1)

    copied = Copies().of(factor)
    assert copied is not factor
    assert copied(3) == 8
