"""Remember objects in memory, and restore them in place.

A `Memory` walks over the objects it is given and saves what is needed to undo later changes: tensors by value on their
own device, containers by content, random generators by state, modules and optimizers attribute by attribute. Identity
is preserved: after `Memory.restore` every tensor and container is the same object as before, so aliases stay aliases.
Objects of other types are kept by reference only; changes inside them are not undone.
"""

import random
import warnings
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

ATOMS = (type(None), bool, int, float, complex, str, bytes)
GENERATORS = (torch.Generator, np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random)


class Memory:
    """Save the state of objects and restore it.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> before = layer.weight.item()
        >>> memory = Memory()
        >>> memory.remember(layer)
        >>> layer.weight.data.fill_(7.0); layer.note = "new"
        tensor([[7.]])
        >>> memory.restore()
        >>> layer.weight.item() == before, hasattr(layer, "note")
        (True, False)
    """

    def __init__(self) -> None:
        # Functions that undo a change, with their arguments. Flat, as the garbage collector walks over it.
        self._undo: list[tuple[Any, ...]] = []
        # Also keeps the objects alive, so that an id is never used twice.
        self._seen: dict[int, Any] = {}
        # Visited objects that cannot be restored, by id.
        self.unknown: dict[int, Any] = {}
        self._keepers: dict[type, Callable[[Any], None] | None] = {}  # by type
        self._kinds: tuple[tuple[Any, Callable[[Any], None]], ...] = (
            (Tensor, self._tensor),
            (np.ndarray, self._array),
            (GENERATORS, self._generator),
            (nn.Module, self._module),
            ((Optimizer, LRScheduler, torch.amp.GradScaler), lambda keeper: self.remember(vars(keeper))),
            (dict, self._dict),
            ((list, deque, set), self._collection),
            ((bytearray, array), self._buffer),
            ((tuple, frozenset), self._items),
        )

    def remember(self, value: Any) -> None:
        """Remember ``value`` and, for containers, modules and optimizers, everything inside."""
        if isinstance(value, ATOMS) or id(value) in self._seen:
            return
        kind = type(value)
        keep = self._keepers[kind] if kind in self._keepers else self._keeper_of(value)
        if keep is None:
            self.unknown[id(value)] = value
            return
        self._seen[id(value)] = value  # marked as seen first, as it may refer to itself
        keep(value)

    def _keeper_of(self, value: Any) -> Callable[[Any], None] | None:
        """Return what keeps values of this type, None for one that cannot be restored."""
        keep = next((keep for kinds, keep in self._kinds if isinstance(value, kinds)), None)
        if value.__class__ is type(value):  # else it poses as another type
            self._keepers[type(value)] = keep
        return keep

    def leave_alone(self, value: Any) -> None:
        """Keep ``value`` by reference only, wherever it occurs."""
        self._seen[id(value)] = value

    def remember_attributes(self, value: Any) -> None:
        """Remember the attributes of any object, as `remember` does for a module."""
        if isinstance(value, ATOMS) or id(value) in self._seen:
            return
        self.leave_alone(value)
        self.remember(getattr(value, "__dict__", None))
        self._slots_of(value)

    def _slots_of(self, value: Any) -> None:
        for name in slots(value.__class__):
            if not hasattr(value, name):
                continue
            self._undo.append((setattr, value, name, getattr(value, name)))
            self.remember(getattr(value, name))

    def remember_bindings(self, value: Any) -> None:
        """Remember to what the attributes of ``value`` are bound, and the state of the random generators among them.

        For objects that may be huge (data sets): numbers and strings are restored, the content of containers
        and tensors is neither copied nor restored.
        """
        known = id(value) in self._seen
        self.leave_alone(value)
        if known or not hasattr(value, "__dict__"):
            return
        bindings, saved = vars(value), dict(vars(value))
        self._undo.append((_put_back, bindings, saved))
        for item in saved.values():
            if isinstance(item, GENERATORS):
                self.remember(item)

    def remember_position(self, file: Any) -> None:
        """Remember where a file stands, or anything else with ``tell`` and ``seek``."""
        if id(file) not in self._seen:
            self.leave_alone(file)
            self._undo.append((_seek, file, file.tell()))

    def restore(self) -> None:
        """Undo every change since the objects were remembered. May be called once."""
        error: BaseException | None = None
        while self._undo:
            undo, *arguments = self._undo.pop()
            try:
                undo(*arguments)
            except BaseException as failure:  # the others are undone as well
                error = error or failure
        self._seen.clear()
        self.unknown.clear()
        if error is not None:
            raise error

    # -------------------------------------------------------------------------------------- by type
    def _tensor(self, tensor: Tensor) -> None:
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            self._undo.append((_empty_again, tensor, type(tensor), tensor.data.device, tensor.data.dtype))
            return
        alias = tensor.detach()
        grad = tensor.grad if tensor.is_leaf else None
        self.remember(grad)
        requires_grad = tensor.requires_grad if tensor.is_leaf else None
        self._undo.append((_restore_tensor, tensor, alias, _writable(alias).clone(), requires_grad, grad))

    def _array(self, values: Any) -> None:
        if values.flags.writeable:
            self._undo.append((values.__setitem__, ..., values.copy()))

    def _generator(self, generator: Any) -> None:
        if isinstance(generator, (np.random.Generator, np.random.BitGenerator)):
            bits: Any = getattr(generator, "bit_generator", generator)
            self._undo.append((setattr, bits, "state", bits.state))
        elif isinstance(generator, random.Random):
            self._undo.append((generator.setstate, generator.getstate()))
        else:
            self._undo.append((generator.set_state, generator.get_state()))

    def _module(self, module: nn.Module) -> None:
        self._undo.append((_restore_class, module, type(module)))
        self.remember(vars(module))
        self._slots_of(module)
        if isinstance(module, torch.jit.ScriptModule):  # does not keep these in `vars`
            self._items((*module.parameters(recurse=False), *module.buffers(recurse=False), *module.children()))

    def _dict(self, mapping: dict[Any, Any]) -> None:
        if not mapping:  # as are most of those of a module
            self._undo.append((_clear, mapping))
            return
        saved = dict(mapping)
        self._undo.append((_put_back, mapping, saved))
        self._items(saved.values())

    def _collection(self, collection: Any) -> None:
        if not collection:
            self._undo.append((_clear, collection))
            return
        saved = list(collection)
        self._undo.append((_refill, collection, saved))
        self._items(saved)

    def _buffer(self, buffer: Any) -> None:
        self._undo.append((buffer.__setitem__, slice(None), buffer[:]))

    def _items(self, items: Iterable[Any]) -> None:
        for item in items:
            if not isinstance(item, ATOMS):
                self.remember(item)


def _restore_tensor(tensor: Tensor, alias: Tensor, content: Tensor, requires_grad: bool | None, grad: Any) -> None:
    """Restore values, memory and gradient; ``requires_grad`` is None for a tensor that is no leaf."""
    strided = alias.layout is torch.strided and not alias.is_nested
    with torch.inference_mode() if alias.is_inference() else torch.no_grad():
        if strided or alias.is_nested:
            _writable(alias).copy_(content)
        else:  # the alias of a sparse tensor has indices and values of its own
            tensor.data = content
    if strided and (tensor.data_ptr() != alias.data_ptr() or tensor.shape != alias.shape):
        tensor.data = alias  # `.data` was bound to other memory
    if requires_grad is not None:
        if not tensor.is_leaf:  # an in-place operation gave it a graph
            tensor.detach_()
        tensor.requires_grad_(requires_grad)
        tensor.grad = grad


def _writable(tensor: Tensor) -> Tensor:
    """Return a view of a tensor that has each element once, where dimensions are expanded."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return tensor
    dimensions = zip(tensor.stride(), tensor.shape, strict=True)
    return tensor[tuple(slice(1) if step == 0 < size - 1 else slice(None) for step, size in dimensions)]


def _restore_class(module: nn.Module, kind: type) -> None:
    if type(module) is not kind:  # a lazy module that was materialized
        module.__class__ = kind


def _clear(container: Any) -> None:
    if container:
        container.clear()


def _refill(collection: Any, saved: list[Any]) -> None:
    if [*map(id, collection)] == [*map(id, saved)]:  # a set that is filled again may have another order
        return
    collection.clear()
    (collection.update if isinstance(collection, set) else collection.extend)(saved)


@cache
def slots(kind: type) -> tuple[str, ...]:
    """Return the names of the attributes that objects of a class keep without a dictionary."""
    own = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    names = [name for some in own for name in ((some,) if isinstance(some, str) else some)]
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _empty_again(tensor: Any, kind: type, device: torch.device, dtype: torch.dtype) -> None:
    """Undo ``materialize`` of a lazy parameter or buffer."""
    if type(tensor) is not kind:
        tensor.grad = None
        tensor.data = torch.empty(0, device=device, dtype=dtype)
        tensor.__class__ = kind


def _put_back(mapping: dict[Any, Any], saved: dict[Any, Any]) -> None:
    # Compare keys by identity, as `==` of tensors gives no single bool.
    if [*map(id, mapping)] == [*map(id, saved)]:  # the same keys: none is missing at any moment
        for key, item in saved.items():
            if mapping[key] is not item:
                mapping[key] = item
        return
    mapping.clear()
    mapping.update(saved)


def _seek(file: Any, position: Any) -> None:
    try:
        file.seek(position)
    except (OSError, ValueError) as error:
        warnings.warn(
            f"The file that {type(file).__name__} reads could not be set back to where it stood before a trial:"
            f" {type(error).__name__}: {error}",
            stacklevel=2,
        )
