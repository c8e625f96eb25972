"""`Copies`: copies of schedulers and of the functions they call, whose use leaves no trace in the originals.

``copy.deepcopy`` takes a function as it is, with the counters and iterators that it closes over. Here a function is
copied with its closure, its defaults and the global values that it names.
"""

import copy
import functools
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

_SHARED = (
    type(None),
    int,
    float,
    complex,
    str,
    bytes,
    type,
    ModuleType,
    torch.dtype,
    torch.device,
    DataLoader,
    Dataset,
)


class Copies:
    """Copies that belong together: an object is copied once.

    A module is copied with its own attributes, without its parts. Loaders and data sets are not copied.

    Example:
        >>> calls = []
        >>> def factor(k):
        ...     calls.append(k)
        ...     return 1 / (len(calls) + k)
        >>> Copies().of(factor)(1), calls
        (0.5, [])
    """

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._originals: list[Any] = []  # kept alive, as their ids are the keys

    def use(self, original: Any, stand_in: Any) -> Any:
        """Let ``stand_in`` be the copy of ``original``, and return it."""
        self._made[id(original)] = stand_in
        self._originals.append(original)
        return stand_in

    def of(self, value: Any) -> Any:
        """Return the copy of ``value``; raise what its type raises where it cannot be copied, as a generator's."""
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, _SHARED):
            return value
        for kind, make in _MAKERS.items():
            if isinstance(value, kind):
                return make(self, value)
        return self._object(value) if _is_plain(type(value)) else copy.deepcopy(value, self._made)

    def _function(self, function: FunctionType) -> FunctionType:
        names = _names(function.__code__)
        scope = function.__globals__
        cells = tuple(CellType() for _ in function.__closure__ or ())
        seen = dict(scope)
        made = FunctionType(function.__code__, seen, function.__name__, None, cells or None)
        self.use(function, made)
        for cell, own in zip(cells, function.__closure__ or (), strict=True):
            try:
                own_contents = own.cell_contents
            except ValueError:  # not filled yet
                continue
            cell.cell_contents = self.of(own_contents)
        for name in names & scope.keys():
            value = scope[name]
            is_elsewhere = isinstance(value, FunctionType) and value.__globals__ is not scope
            seen[name] = value if is_elsewhere else self.of(value)
        made.__defaults__ = self.of(function.__defaults__)
        made.__kwdefaults__ = self.of(function.__kwdefaults__)
        made.__dict__.update(self.of(vars(function)))
        return made

    def _method(self, method: MethodType) -> MethodType:
        return MethodType(self.of(method.__func__), self.of(method.__self__))

    def _builtin(self, function: BuiltinFunctionType) -> Any:
        owner = function.__self__
        return (
            function if owner is None or isinstance(owner, ModuleType) else getattr(self.of(owner), function.__name__)
        )

    def _partial(self, value: "functools.partial[Any]") -> Any:
        return self.use(
            value, functools.partial(self.of(value.func), *map(self.of, value.args), **self.of(value.keywords))
        )

    def _tensor(self, value: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.use(value, value.detach().cpu().clone())
        return made

    def _optimizer(self, optimizer: Optimizer) -> Optimizer:
        made: Optimizer = self.use(optimizer, StandIn())
        made.param_groups = [
            {key: value if key == "params" else self.of(value) for key, value in group.items()}
            for group in optimizer.param_groups
        ]
        made.defaults = self.of(optimizer.defaults)
        return made

    def _module(self, module: torch.nn.Module) -> torch.nn.Module:
        made: torch.nn.Module = self.use(module, type(module).__new__(type(module)))
        for name, value in vars(module).items():
            is_part = name in ("_parameters", "_buffers", "_modules")
            try:
                vars(made)[name] = dict(value) if is_part else self.of(value)
            except Exception:  # missed only by a function that reads it, which then fails
                continue
        return made

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        made: dict[Any, Any] = self.use(value, copy.copy(value))
        for key, item in value.items():
            dict.__setitem__(made, key, self.of(item))
        return made

    def _list(self, value: list[Any]) -> list[Any]:
        made: list[Any] = self.use(value, copy.copy(value))
        made[:] = map(self.of, value)
        return made

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if type(value) is not tuple:
            return copy.deepcopy(value, self._made)
        return tuple(map(self.of, value))

    def _object(self, value: Any) -> Any:
        made = self.use(value, object.__new__(type(value)))
        for name, item in vars(value).items():
            vars(made)[name] = self.of(item)
        return made


_MAKERS: dict[type, Callable[[Copies, Any], Any]] = {
    FunctionType: Copies._function,
    MethodType: Copies._method,
    BuiltinFunctionType: Copies._builtin,
    functools.partial: Copies._partial,
    torch.Tensor: Copies._tensor,
    Optimizer: Copies._optimizer,
    torch.nn.Module: Copies._module,
    dict: Copies._dict,
    list: Copies._list,
    tuple: Copies._tuple,
}


class StandIn(Optimizer):
    """An optimizer with groups, for schedulers to write to, that changes no parameter."""

    def __init__(self) -> None:
        self.param_groups: list[dict[str, Any]] = []
        self.defaults: dict[str, Any] = {}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


def _is_plain(kind: type) -> bool:
    """Return whether an object of this class is no more than its ``__dict__``, without a way of its own to copy it."""
    if any(hasattr(kind, name) for name in ("__deepcopy__", "__next__", "__slots__")) or not kind.__dictoffset__:
        return False
    names = ("__reduce__", "__reduce_ex__", "__getstate__")
    return all(getattr(kind, name, None) is getattr(object, name, None) for name in names)


def _names(code: CodeType) -> set[str]:
    """Return the global names in a function and in those inside it."""
    inner = (it for it in code.co_consts if isinstance(it, CodeType))
    return set(code.co_names).union(*map(_names, inner))
