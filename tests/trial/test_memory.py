"""`Memory` and `RandomState`: what is remembered comes back, in place."""

import array
import io
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from pl_onecycle.random_state import RandomState
from pl_onecycle.trial.memory import Memory


def memory_of(value: Any) -> Memory:
    memory = Memory()
    memory.remember(value)
    return memory


def holder_of(**attributes: Any) -> Any:
    """An object with attributes, as a sampler or a data set is."""
    return SimpleNamespace(**attributes)


def test_containers_come_back_as_the_same_objects() -> None:
    inner = [1, 2]
    value: dict[str, Any] = {
        "list": [inner, "a"],
        "set": {1},
        "deque": deque([1], maxlen=3),
        "ordered": OrderedDict(b=1, a=2),
        "default": defaultdict(list, x=[0]),
        "tuple": (inner, {"deep": [3]}),
    }
    objects = {key: id(item) for key, item in value.items()}
    memory = memory_of(value)
    inner.append(9)
    value["set"].add(2)
    value["deque"].extend([5, 6, 7])
    value["ordered"].move_to_end("b")
    value["default"]["y"].append(1)
    value["tuple"][1]["deep"].clear()
    value["list"] = "replaced"
    value["new"] = 1
    memory.restore()
    assert inner == [1, 2]
    assert {key: id(item) for key, item in value.items()} == objects
    assert value["list"] == [[1, 2], "a"]
    assert value["set"] == {1}
    assert list(value["deque"]) == [1]
    assert list(value["ordered"]) == ["b", "a"]
    assert value["default"] == {"x": [0]}
    assert value["tuple"] == ([1, 2], {"deep": [3]})


def test_tensors_keep_identity_aliases_gradient_and_flags() -> None:
    weight: Any = nn.Parameter(torch.tensor([1.0, 2.0]))
    weight.grad = torch.tensor([3.0, 4.0])
    row = weight.detach()[0:1]  # shares memory
    grad = weight.grad
    memory = memory_of([weight])
    with torch.no_grad():
        weight.mul_(10)
        grad.mul_(10)
    weight.grad = None
    weight.requires_grad_(False)
    memory.restore()
    assert weight.tolist() == [1.0, 2.0]
    assert row.tolist() == [1.0]
    assert weight.grad is grad
    assert grad.tolist() == [3.0, 4.0]
    assert weight.requires_grad


def test_a_parameter_bound_to_other_memory_gets_its_own_back() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    address = weight.data_ptr()
    memory = memory_of(weight)
    weight.data = torch.zeros(5)
    memory.restore()
    assert weight.tolist() == [1.0, 2.0]
    assert weight.data_ptr() == address


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(torch.zeros(1).expand(4), id="expanded"),
        pytest.param(torch.zeros(0), id="empty"),
        pytest.param(torch.tensor(3, dtype=torch.int64), id="integer scalar"),
        pytest.param(torch.zeros(2, 2).to_sparse(), id="sparse"),
        pytest.param(torch.zeros(2, dtype=torch.bfloat16), id="bfloat16"),
    ],
)
def test_unusual_tensors_are_remembered_without_harm(tensor: torch.Tensor) -> None:
    before = tensor.to_dense().clone() if tensor.is_sparse else tensor.clone()
    memory = memory_of({"tensor": tensor})
    memory.restore()
    assert torch.equal(tensor.to_dense() if tensor.is_sparse else tensor, before)


def test_arrays_come_back_and_read_only_ones_are_left() -> None:
    array, frozen = np.arange(3.0), np.arange(3.0)
    frozen.flags.writeable = False
    memory = memory_of([array, frozen])
    array += 5
    memory.restore()
    assert array.tolist() == [0.0, 1.0, 2.0]
    assert frozen.tolist() == [0.0, 1.0, 2.0]


def test_files_stand_where_they_stood(tmp_path: Path) -> None:
    (path := tmp_path / "rows").write_bytes(bytes(range(100)))
    with path.open("rb") as file, path.open("rb", buffering=0) as raw, mmap(-1, 100) as mapped:
        files: list[Any] = [file, raw, mapped, io.BytesIO(path.read_bytes()), io.StringIO("row " * 25)]
        memory = Memory()
        for number, it in enumerate(files):
            it.read(number)
            memory.remember_position(it)
            memory.remember_position(it)  # counts once
            it.read(50)
        memory.restore()
        assert [it.tell() for it in files] == [0, 1, 2, 3, 4]
        assert file.read(1) == b"\0"


def test_a_file_that_cannot_be_put_back_is_warned_of_and_the_others_are() -> None:
    first, second = io.BytesIO(b"rows"), io.BytesIO(b"rows")
    memory = Memory()
    memory.remember_position(first)
    memory.remember_position(second)
    first.read()
    second.close()
    with pytest.warns(UserWarning, match="BytesIO reads could not be set back .* ValueError: I/O operation on closed"):
        memory.restore()
    assert first.tell() == 0


def test_generators_continue_where_they_were() -> None:
    kinds: list[Any] = [
        torch.Generator().manual_seed(0),
        np.random.default_rng(0),
        np.random.RandomState(0),
        random.Random(0),
    ]

    def draw() -> list[float]:
        return [
            float(torch.rand(1, generator=kinds[0])),
            kinds[1].random(),
            kinds[2].random_sample(),
            kinds[3].random(),
        ]

    draw()
    memory = memory_of(kinds)
    expected = draw()
    memory.restore()
    assert draw() == expected


def test_a_module_gets_back_parameters_buffers_flags_hooks_and_attributes() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module.register_buffer("hidden", torch.zeros(2), persistent=False)
    module[1].eval()
    module.seen = 3  # type: ignore[assignment]
    state = {key: value.clone() for key, value in module.state_dict().items()}
    memory = memory_of(module)
    module.train()
    module(torch.randn(8, 2)).sum().backward()
    module.hidden = torch.ones(7)
    module.seen = 4  # type: ignore[assignment]
    module.append(nn.Linear(2, 2))
    module[0].register_forward_hook(lambda *_: None)
    module[0].bias = None  # type: ignore[assignment]
    memory.restore()
    assert list(module.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert module.hidden.tolist() == [0.0, 0.0]
    assert module.seen == 3
    assert [part.training for part in module] == [True, False]
    assert len(module[0]._forward_hooks) == 0
    assert module[0].weight.grad is None


def test_torchmetrics_get_their_state_back() -> None:
    metric = MetricCollection([MulticlassAccuracy(num_classes=3, average="micro")])
    metric.update(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))
    memory = memory_of(metric)
    metric.update(torch.tensor([0, 0, 0]), torch.tensor([1, 1, 1]))
    metric.compute()
    metric.reset()
    memory.restore()
    assert metric.compute()["MulticlassAccuracy"].item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "Adagrad"])
def test_an_optimizer_gets_state_groups_and_counters_back(name: str) -> None:
    weight = nn.Parameter(torch.ones(2))
    options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    optimizer = getattr(torch.optim, name)([weight], lr=0.1, **options)

    def step() -> None:
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()

    step()
    memory = memory_of([optimizer, weight])
    step()
    expected = weight.tolist()
    optimizer.param_groups[0]["lr"] = 7.0
    step()
    memory.restore()
    assert optimizer.param_groups[0]["lr"] == 0.1
    step()
    assert weight.tolist() == expected


def test_bindings_of_a_data_set_come_back_but_its_data_is_not_copied() -> None:
    rows = torch.zeros(3)
    holder = holder_of(rows=rows, epoch=1, generator=np.random.default_rng(0))
    memory = Memory()
    memory.remember_bindings(holder)
    rows.fill_(5)
    holder.epoch = 2
    holder.rows = None
    draw = holder.generator.random()
    memory.restore()
    assert holder.epoch == 1
    assert holder.rows is rows
    assert rows.tolist() == [5.0, 5.0, 5.0]  # by reference only
    assert holder.generator.random() == draw


def test_what_is_to_be_left_alone_is_left_alone() -> None:
    huge = [1, 2, 3]
    holder = holder_of(huge=huge, small=[1])
    memory = Memory()
    memory.leave_alone(huge)
    memory.remember_attributes(holder)
    huge.append(4)
    holder.small.append(2)
    memory.restore()
    assert huge == [1, 2, 3, 4]
    assert holder.small == [1]


def test_objects_that_refer_to_themselves_are_restored() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    memory = memory_of(loop)
    loop.append(2)
    memory.restore()
    assert len(loop) == 2
    assert loop[1] is loop


def test_one_failing_restore_does_not_keep_the_others_from_theirs() -> None:
    class Stubborn(random.Random):
        def setstate(self, state: Any) -> None:
            raise RuntimeError("no")

    first, last = [1], [2]
    memory = memory_of([first, Stubborn(), last])
    first.append(5)
    last.append(5)
    with pytest.raises(RuntimeError, match="no"):
        memory.restore()
    assert (first, last) == ([1], [2])


LAZY: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...], type[nn.Module]]] = {
    # what: (module, shape of a batch, shape of another, what it becomes)
    "LazyLinear": (lambda: nn.LazyLinear(4), (2, 3), (2, 5), nn.Linear),
    "LazyLinear without bias": (lambda: nn.LazyLinear(4, bias=False), (2, 3), (2, 5), nn.Linear),
    "LazyConv2d": (lambda: nn.LazyConv2d(4, 3), (2, 1, 6, 6), (2, 2, 7, 7), nn.Conv2d),
    "LazyBatchNorm1d": (lambda: nn.LazyBatchNorm1d(), (8, 3), (8, 5), nn.BatchNorm1d),
    "LazyInstanceNorm2d": (
        lambda: nn.LazyInstanceNorm2d(affine=True, track_running_stats=True),
        (2, 3, 4, 4),
        (2, 5, 4, 4),
        nn.InstanceNorm2d,
    ),
}


def tensors_of(module: nn.Module) -> dict[str, Any]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def materialised(module: nn.Module, shape: tuple[int, ...]) -> dict[str, list[Any]]:
    """What a module holds after it has seen a first batch, of the same seed at every call, and a step."""
    torch.manual_seed(3)
    module(torch.randn(shape)).square().mean().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    return {name: tensor.tolist() for name, tensor in tensors_of(module).items()}


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in another module"])
@pytest.mark.parametrize("name", LAZY)
def test_a_lazy_module_is_lazy_again(name: str, inside: bool) -> None:
    build, shape, other, becomes = LAZY[name]
    expected = {each: materialised(build(), each) for each in (shape, other)}
    lazy = build()
    module = nn.Sequential(lazy) if inside else lazy
    kind, tensors = type(lazy), tensors_of(lazy)
    kinds = {name: type(tensor) for name, tensor in tensors.items()}
    hooks = (len(lazy._forward_pre_hooks), len(lazy._load_state_dict_pre_hooks))
    memory = memory_of(module)
    materialised(module, shape)
    assert type(lazy) is becomes
    memory.restore()
    assert type(lazy) is kind
    assert all(tensors_of(lazy)[name] is tensor for name, tensor in tensors.items())
    assert {name: type(tensor) for name, tensor in tensors_of(lazy).items()} == kinds
    assert all(parameter.grad is None for parameter in lazy.parameters())
    assert {tensor.data.numel() for tensor in lazy.parameters() if is_lazy(tensor)} == {0}  # holds no memory
    assert (len(lazy._forward_pre_hooks), len(lazy._load_state_dict_pre_hooks)) == hooks
    # As if it had never seen that batch: another shape will do, and gives the values of a new module.
    assert materialised(lazy, other) == expected[other]
    assert type(lazy) is becomes


@pytest.mark.parametrize("name", LAZY)
def test_a_lazy_module_that_stayed_lazy_is_left_as_it_is(name: str) -> None:
    build, shape, *_ = LAZY[name]
    expected, lazy = materialised(build(), shape), build()
    memory = memory_of(lazy)
    memory.restore()
    assert materialised(lazy, shape) == expected


@pytest.mark.parametrize("name", LAZY)
def test_a_lazy_module_that_has_seen_a_batch_before_keeps_its_shape(name: str) -> None:
    build, shape, _, becomes = LAZY[name]
    lazy = build()
    values = materialised(lazy, shape)
    memory = memory_of(lazy)
    materialised(lazy, shape)
    memory.restore()
    assert type(lazy) is becomes
    assert {name: tensor.tolist() for name, tensor in tensors_of(lazy).items()} == values


def test_a_lazy_module_in_an_optimizer_trains_as_if_it_had_not_been_undone() -> None:
    def trained(undone: bool) -> list[Any]:
        lazy = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 1))
        optimizer = torch.optim.AdamW(lazy.parameters(), lr=0.1)

        def steps(features: int) -> None:
            torch.manual_seed(4)
            for _ in range(3):
                optimizer.zero_grad()
                lazy(torch.randn(8, features)).square().mean().backward()
                optimizer.step()

        if undone:
            memory = memory_of([lazy, optimizer])
            steps(7)
            memory.restore()
            assert optimizer.state == {}
        torch.manual_seed(5)
        steps(3)
        return [tensor.tolist() for tensor in lazy.state_dict().values()]

    torch.manual_seed(0)
    expected = trained(undone=False)
    torch.manual_seed(0)
    assert trained(undone=True) == expected


def test_what_is_not_known_is_named() -> None:
    thing, lock = SimpleNamespace(count=0), object()
    memory = memory_of({"a": thing, "b": [lock, thing], "c": (1, "text", None, 2.0, torch.zeros(1))})
    assert list(memory.unknown.values()) == [thing, lock]
    memory.restore()
    assert memory.unknown == {}


def test_what_is_left_alone_is_not_named() -> None:
    thing = SimpleNamespace(count=0)
    memory = Memory()
    memory.leave_alone(thing)
    memory.remember([thing])
    assert memory.unknown == {}


def test_every_global_random_stream_comes_back() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), float(torch.rand(1))

    state = RandomState()
    expected = draw()
    state.restore()
    assert draw() == expected


def test_attributes_in_slots_come_back() -> None:
    class Steps:
        __slots__ = ("count", "seen", "unset")
        count: int
        seen: list[int]

    steps = Steps()
    steps.count, steps.seen = 1, [1]
    seen, memory = steps.seen, Memory()
    memory.remember_attributes(steps)
    steps.count, steps.seen = 2, []
    seen.append(2)
    memory.restore()
    assert (steps.count, steps.seen) == (1, [1])
    assert steps.seen is seen


def sparse() -> torch.Tensor:
    return torch.eye(3).to_sparse()


def expanded() -> torch.Tensor:
    return torch.zeros(1, 4).expand(3, 4)


IN_PLACE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "sparse, multiplied": (sparse, lambda it: it.mul_(3.0)),
    "sparse, other data": (sparse, lambda it: setattr(it, "data", torch.zeros(3, 3).to_sparse())),
    "expanded, one row": (expanded, lambda it: it[0].add_(1.0)),
    "bytearray": (lambda: bytearray(b"abc"), lambda it: it.extend(b"d")),
    "array": (lambda: array.array("d", [1.0, 2.0]), lambda it: it.reverse()),
}


@pytest.mark.parametrize(("make", "change"), IN_PLACE.values(), ids=IN_PLACE)
def test_what_is_changed_in_place_comes_back(make: Callable[[], Any], change: Callable[[Any], Any]) -> None:
    thing, memory = make(), Memory()
    memory.remember([thing])
    change(thing)
    assert repr(thing) != repr(make())
    memory.restore()
    assert repr(thing) == repr(make())


def test_a_set_that_has_not_changed_keeps_its_order() -> None:
    names = {f"name {k}" for k in range(50)}
    names -= {f"name {k}" for k in range(0, 50, 3)}  # filled again, it would have another order
    order, memory = list(names), Memory()
    memory.remember([names])
    memory.restore()
    assert list(names) == order


def test_a_module_with_slots_comes_back() -> None:
    class Slotted(nn.Module):
        __slots__ = ("count",)

        def __init__(self) -> None:
            super().__init__()
            self.count = [1]

    module, memory = Slotted(), Memory()
    memory.remember(module)
    kept = module.count
    module.count.append(2)
    module.count = []
    memory.restore()
    assert module.count is kept
    assert kept == [1]
