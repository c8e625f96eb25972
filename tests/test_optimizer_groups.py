"""Parameter groups: learning rates and momenta are found, rescaled and written where torch keeps them."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import Optimizer

from pl_onecycle.optimizer_groups import (
    check_lrs,
    has_momentum,
    is_decoupled,
    momentum_of,
    peak_lrs,
    rescale,
    weight_decay_of,
    write,
    write_momentum,
    write_weight_decay,
)
from tests.schedules import sgd, weights

many = settings(deadline=None, database=None, derandomize=True, max_examples=150)


class Bare(Optimizer):
    """An optimizer whose groups hold what they are given, right or wrong."""

    def __init__(self, **group: Any) -> None:
        super().__init__(weights(), group)

    def step(self, closure: Any = None) -> Any:
        return None


# ------------------------------------------------------------------------------------------------ write
def test_number_is_replaced() -> None:
    group: dict[str, Any] = {"lr": 0.1}
    write(group, "lr", 0.25)
    assert group == {"lr": 0.25}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "one element"])
def test_tensor_is_filled_in_place(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    lr = torch.full(shape, 0.1, dtype=dtype)
    group: dict[str, Any] = {"lr": lr}
    write(group, "lr", 0.25)
    assert group["lr"] is lr
    assert (float(lr), lr.dtype, lr.shape) == (0.25, dtype, shape)


def test_tensor_lr_of_a_real_optimizer_stays_the_tensor_that_it_steps_with() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    lr = torch.tensor(0.1)
    optimizer = torch.optim.SGD([weight], lr=lr, foreach=False)
    write(optimizer.param_groups[0], "lr", 0.5)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] is lr
    assert weight.item() == 0.5  # 1 - .5 * 1


# ------------------------------------------------------------------------------------------------ peaks
@pytest.mark.parametrize(
    ("group", "peak"),
    [
        ({"lr": 0.1}, 0.1),
        ({"lr": 0.1, "initial_lr": 0.2}, 0.2),
        ({"lr": 0.1, "max_lr": 0.4}, 0.4),
        ({"lr": 0.1, "initial_lr": 0.2, "max_lr": 0.4}, 0.4),
        ({"lr": 0.1, "initial_lr": 0.0}, 0.0),
        ({"lr": torch.tensor(0.5)}, 0.5),
        ({"lr": torch.tensor(0.5), "initial_lr": torch.tensor(0.25)}, 0.25),
    ],
    ids=str,
)
def test_peak_is_max_lr_else_initial_lr_else_lr(group: dict[str, Any], peak: float) -> None:
    assert peak_lrs(Bare(**group)) == [peak]


def test_peaks_are_plain_numbers_in_the_order_of_the_groups() -> None:
    optimizer = sgd(0.1, torch.tensor(0.5), 0.3)
    optimizer.param_groups[2]["max_lr"] = 3
    assert peak_lrs(optimizer) == [0.1, 0.5, 3.0]
    assert all(type(lr) is float for lr in peak_lrs(optimizer))


def test_peak_is_where_any_scheduler_of_torch_started() -> None:
    optimizer = sgd(0.1, 0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.005]
    assert peak_lrs(optimizer) == [0.1, 0.01]
    torch.optim.lr_scheduler.OneCycleLR(optimizer, [0.8, 0.4], total_steps=10)
    assert peak_lrs(optimizer) == [0.8, 0.4]


# ---------------------------------------------------------------------------------------------- rescale
@pytest.mark.parametrize(
    ("value", "old_top", "new_top", "expected"),
    [
        (0.25, 1.0, 0.5, 0.125),
        (1.0, 1.0, 0.5, 0.5),
        (0.0, 1.0, 0.5, 0.0),
        (0.01, 0.1, 3.0, 0.3),  # a tenth stays a tenth
        (0.3, 0.1, 1.0, 3.0),
        (0.0, 0.0, 0.7, 0.7),  # a top of zero has no ratio
        (0.2, 0.0, 0.7, 0.7),
    ],
)
def test_ratio_to_the_top_is_kept(value: float, old_top: float, new_top: float, expected: float) -> None:
    assert rescale(value, old_top, new_top) == pytest.approx(expected, rel=1e-12)


@many
@given(st.lists(st.floats(1e-8, 1e3), min_size=1, max_size=5), st.floats(1e-8, 1e3))
def test_top_is_exact_and_every_ratio_kept_for_any_groups(values: list[float], new_top: float) -> None:
    top = max(values)
    scaled = [rescale(value, top, new_top) for value in values]
    assert max(scaled) == scaled[values.index(top)] == new_top
    assert [lr / new_top for lr in scaled] == pytest.approx([value / top for value in values], rel=1e-9)


# --------------------------------------------------------------------------------------------- momentum
OPTIMIZERS: list[tuple[Any, dict[str, Any], float | None]] = [
    # what, arguments, its momentum
    (torch.optim.SGD, {"momentum": 0.9}, 0.9),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, 0.9),
    (torch.optim.SGD, {"momentum": 0}, 0.0),
    (torch.optim.SGD, {}, 0.0),
    (torch.optim.RMSprop, {"momentum": 0.8}, 0.8),
    (torch.optim.RMSprop, {}, 0.0),
    (torch.optim.Adam, {}, 0.9),
    (torch.optim.Adam, {"betas": (0.0, 0.99)}, 0.0),
    (torch.optim.AdamW, {"betas": (0.8, 0.99)}, 0.8),
    (torch.optim.NAdam, {}, 0.9),
    (torch.optim.Adamax, {}, 0.9),
    (torch.optim.Adagrad, {}, None),
    (torch.optim.Adadelta, {}, None),
    (torch.optim.LBFGS, {}, None),
]


def optimizer_id(value: Any) -> str | None:
    return value.__name__ if isinstance(value, type) else None


@pytest.mark.parametrize(("kind", "arguments", "momentum"), OPTIMIZERS, ids=optimizer_id)
def test_momentum_is_found_and_one_of_zero_counts_as_none(
    kind: Any, arguments: dict[str, Any], momentum: float | None
) -> None:
    group = kind(weights(), lr=0.1, **arguments).param_groups[0]
    assert momentum_of(group) == momentum
    assert has_momentum(group) is (momentum in (0.8, 0.9))


@pytest.mark.parametrize(("kind", "arguments", "momentum"), [o for o in OPTIMIZERS if o[2]], ids=optimizer_id)
def test_momentum_is_written_and_nothing_else(kind: Any, arguments: dict[str, Any], momentum: float) -> None:
    group = kind(weights(), lr=0.1, **arguments).param_groups[0]
    others = {key: value for key, value in group.items() if key not in ("momentum", "betas")}
    second = group["betas"][1] if "betas" in group else None
    for written in (0.7, 0.0, 0.3):  # zero is a value like any other on the way
        write_momentum(group, written)
        assert momentum_of(group) == written != momentum
    assert {key: value for key, value in group.items() if key not in ("momentum", "betas")} == others
    assert (group["betas"][1] if "betas" in group else None) == second


def test_momentum_of_none_counts_as_none() -> None:
    group: dict[str, Any] = {"lr": 0.1, "momentum": None}
    assert momentum_of(group) is None
    assert has_momentum(group) is False


def test_tensor_momentum_is_filled_in_place() -> None:
    momentum = torch.tensor(0.5)
    group: dict[str, Any] = {"momentum": momentum}
    write_momentum(group, 0.25)
    assert group["momentum"] is momentum
    assert momentum_of(group) == 0.25


def test_tensor_betas_of_a_real_optimizer_are_filled_in_place() -> None:
    betas = (torch.tensor(0.5), torch.tensor(0.75))
    optimizer = torch.optim.AdamW(weights(), lr=torch.tensor(0.1), betas=betas, foreach=False, capturable=True)
    group = optimizer.param_groups[0]
    write_momentum(group, 0.25)
    assert group["betas"][0] is betas[0]
    assert group["betas"][1] is betas[1]
    assert [float(beta) for beta in betas] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("betas", "written"),
    [((0.9, 0.999), (0.7, 0.999)), ([0.9, 0.999], [0.7, 0.999]), ((0.9, 0.98, 0.99), (0.7, 0.98, 0.99))],
    ids=["tuple", "list", "three"],
)
def test_betas_keep_their_kind_and_their_number(betas: Any, written: Any) -> None:
    group: dict[str, Any] = {"betas": betas}
    write_momentum(group, 0.7)
    assert group["betas"] == written
    assert type(group["betas"]) is type(betas)


# ----------------------------------------------------------------------------------------- weight decay
DECAYED: dict[str, tuple[Any, float]] = {
    # what, the weight decay of its default
    "SGD": (torch.optim.SGD, 0.0),
    "RMSprop": (torch.optim.RMSprop, 0.0),
    "Adam": (torch.optim.Adam, 0.0),
    "AdamW": (torch.optim.AdamW, 1e-2),
    "NAdam": (torch.optim.NAdam, 0.0),
    "Adagrad": (torch.optim.Adagrad, 0.0),
}


def decayed(*decays: Any, kind: Any = torch.optim.SGD) -> Optimizer:
    """One group for each decay; None for a group that knows none."""
    optimizer: Optimizer = kind([{"params": weights(), "weight_decay": decay or 0.0} for decay in decays], lr=0.1)
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
        if decay is None:
            del group["weight_decay"]
    return optimizer


def decays_of(optimizer: Optimizer) -> list[float | None]:
    return [group.get("weight_decay") for group in optimizer.param_groups]


@pytest.mark.parametrize(("kind", "default"), DECAYED.values(), ids=DECAYED)
def test_weight_decay_is_found_and_written_and_nothing_else(kind: Any, default: float) -> None:
    optimizer = kind(weights(), lr=0.1)
    [group] = optimizer.param_groups
    others = {key: value for key, value in group.items() if key != "weight_decay"}
    assert weight_decay_of(optimizer) == default
    for written in (0.25, 0.0, 0.5):
        assert write_weight_decay(optimizer, written) == 1
        assert group["weight_decay"] == weight_decay_of(optimizer) == written
    assert {key: value for key, value in group.items() if key != "weight_decay"} == others


@pytest.mark.parametrize(
    ("before", "after", "written"),
    [
        ([1e-4], [0.5], 1),
        ([0.0], [0.5], 1),
        ([1e-4, 0.0], [0.5, 0.0], 1),  # biases and norms stay without
        ([1e-4, 1e-3], [0.05, 0.5], 2),  # a tenth stays a tenth
        ([0.0, 1e-4, 1e-3], [0.0, 0.05, 0.5], 2),
        ([0.0, 0.0], [0.5, 0.5], 2),
        ([None, 1e-4], [None, 0.5], 1),
        ([None, 0.0], [None, 0.5], 1),
    ],
    ids=str,
)
def test_the_largest_decay_is_what_is_written(before: list[Any], after: list[Any], written: int) -> None:
    optimizer = decayed(*before)
    assert weight_decay_of(optimizer) == max(decay or 0.0 for decay in before)
    assert write_weight_decay(optimizer, 0.5) == written
    for is_there, wanted in zip(decays_of(optimizer), after, strict=True):
        assert is_there == (None if wanted is None else pytest.approx(wanted, rel=1e-12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_decay_in_a_tensor_is_filled_in_place(dtype: torch.dtype) -> None:
    optimizer = decayed(0.0)
    optimizer.param_groups[0]["weight_decay"] = decay = torch.tensor(0.125, dtype=dtype)
    assert weight_decay_of(optimizer) == 0.125
    write_weight_decay(optimizer, 0.25)
    assert optimizer.param_groups[0]["weight_decay"] is decay
    assert float(decay) == 0.25


@many
@given(st.lists(st.sampled_from([0.0, 1e-5, 3e-4, 1e-2]), min_size=1, max_size=5), st.floats(1e-8, 1.0))
def test_the_ratios_of_any_decays_are_kept(before: list[float], value: float) -> None:
    optimizer = decayed(*before)
    write_weight_decay(optimizer, value)
    top = max(before)
    wanted = [value if top == 0 else value * decay / top for decay in before]
    assert decays_of(optimizer) == pytest.approx(wanted, rel=1e-12)
    assert weight_decay_of(optimizer) == value


@pytest.mark.parametrize("group", [{"lr": 0.1}, {"decay": 1e-4}], ids=str)
def test_an_optimizer_that_knows_no_decay_gets_one_sentence(group: dict[str, Any]) -> None:
    wanted = r"^Expected argument `optimizer` to be an optimizer with weight decay [^\n]+ but got 'Bare'$"
    with pytest.raises(ValueError, match=wanted):
        weight_decay_of(Bare(**group))
    with pytest.raises(LookupError, match=wanted):
        weight_decay_of(Bare(**group), LookupError)
    with pytest.raises(ValueError, match=wanted):
        write_weight_decay(Bare(**group), 0.1)


# --------------------------------------------------------------------------------------- bad optimizers
BAD_LRS: list[Any] = [None, "0.1", -0.1, float("nan"), float("inf"), torch.ones(2), torch.tensor(float("nan"))]


@pytest.mark.parametrize("lr", BAD_LRS, ids=str)
def test_group_without_a_usable_lr_gets_one_sentence_that_says_where(lr: Any) -> None:
    optimizer = Bare(lr=0.1)
    optimizer.add_param_group({"params": weights(), "lr": lr})
    with pytest.raises(ValueError, match=r"^Expected argument `optimizer` to be [^\n]+ but got [^\n]+$") as caught:
        check_lrs(optimizer)
    assert f"Bare with lr={lr!r} in group 1" in str(caught.value)


def test_optimizer_without_an_lr_at_all_is_bad() -> None:
    with pytest.raises(ValueError, match=re.escape("Bare with lr=None in group 0")):
        check_lrs(Bare(step_size=0.1))


def test_optimizer_without_groups_is_bad() -> None:
    optimizer = sgd(0.1)
    optimizer.param_groups.clear()
    with pytest.raises(ValueError, match="SGD without groups"):
        check_lrs(optimizer)


def test_kind_of_error_can_be_chosen() -> None:
    with pytest.raises(LookupError, match="Expected argument `optimizer`"):
        check_lrs(Bare(lr=None), LookupError)


@pytest.mark.parametrize(
    "lr", [0.1, 1, 0.0, torch.tensor(0.1), torch.tensor([0.1]), torch.tensor(0)], ids=lambda lr: repr(lr)
)
def test_any_finite_lr_from_zero_on_is_good_and_left_alone(lr: float | Tensor) -> None:
    optimizer = Bare(lr=lr)
    check_lrs(optimizer)
    assert optimizer.param_groups[0]["lr"] is lr


@pytest.mark.parametrize(
    ("kind", "decoupled"),
    [
        (torch.optim.SGD, False),
        (torch.optim.Adam, False),
        (torch.optim.RMSprop, False),
        (torch.optim.AdamW, True),
        (type("AdamW8bit", (torch.optim.SGD,), {}), True),  # of other packages
        (type("Lion", (torch.optim.SGD,), {}), True),
    ],
)
def test_a_decay_that_shrinks_the_weights_by_itself_is_decoupled(kind: Any, decoupled: bool) -> None:
    assert is_decoupled(kind(weights(), lr=0.1)) is decoupled


@pytest.mark.parametrize("key", ["decoupled_weight_decay", "decouple"])
def test_an_optimizer_that_calls_its_decay_decoupled_is_believed(key: str) -> None:
    optimizer = torch.optim.SGD(weights(), lr=0.1)
    optimizer.param_groups[0][key] = True
    assert is_decoupled(optimizer)
