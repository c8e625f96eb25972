"""Remember objects in memory, and restore them in place.

A `Memory` walks over the objects it is given and saves what is needed to undo later changes: tensors by value on their
own device, containers by content, random generators by state, modules and optimizers attribute by attribute. Identity
is preserved: after `Memory.restore` every tensor and container is the same object as before, so aliases stay aliases.
Objects of other types are kept by reference only; changes inside them are not undone.
"""

import random
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
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
        # Closing the stack runs every undo, even if one of them fails.
        self._undo = ExitStack()
        # Also keeps the objects alive, so that an id is never used twice.
        self._seen: dict[int, Any] = {}
        # Visited objects that cannot be restored, by id.
        self.unknown: dict[int, Any] = {}
        self._kinds: tuple[tuple[Any, Callable[[Any], None]], ...] = (
            (Tensor, self._tensor),
            (np.ndarray, self._array),
            (GENERATORS, self._generator),
            (nn.Module, self._module),
            ((Optimizer, LRScheduler, torch.amp.GradScaler), lambda keeper: self.remember(vars(keeper))),
            (dict, self._dict),
            ((list, deque, set), self._collection),
            ((tuple, frozenset), self._items),
        )

    def remember(self, value: Any) -> None:
        """Remember ``value`` and, for containers, modules and optimizers, everything inside."""
        if isinstance(value, ATOMS) or id(value) in self._seen:
            return
        for kinds, keep in self._kinds:
            if isinstance(value, kinds):
                self.leave_alone(value)  # marked as seen first, as it may refer to itself
                keep(value)
                return
        self.unknown[id(value)] = value

    def leave_alone(self, value: Any) -> None:
        """Keep ``value`` by reference only, wherever it occurs."""
        self._seen[id(value)] = value

    def remember_attributes(self, value: Any) -> None:
        """Remember the attributes of any object, as `remember` does for a module."""
        if isinstance(value, ATOMS) or id(value) in self._seen:
            return
        self.leave_alone(value)
        self.remember(getattr(value, "__dict__", None))
        names = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
        for name in names:
            self._undo.callback(setattr, value, name, getattr(value, name))
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
        self._undo.callback(_put_back, bindings, saved)
        for item in saved.values():
            if isinstance(item, GENERATORS):
                self.remember(item)

    def remember_position(self, file: Any) -> None:
        """Remember where a file stands, or anything else with ``tell`` and ``seek``."""
        if id(file) not in self._seen:
            self.leave_alone(file)
            self._undo.callback(_seek, file, file.tell())

    def restore(self) -> None:
        """Undo every change since the objects were remembered. May be called once."""
        try:
            self._undo.close()
        finally:
            self._seen.clear()
            self.unknown.clear()

    # -------------------------------------------------------------------------------------- by type
    def _tensor(self, tensor: Tensor) -> None:
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            self._undo.callback(_empty_again, tensor, type(tensor), tensor.data.device, tensor.data.dtype)
            return
        alias, content = tensor.detach(), tensor.detach().clone()
        strided = alias.layout is torch.strided and not alias.is_nested
        expanded = strided and any(step == 0 < size - 1 for step, size in zip(alias.stride(), alias.shape, strict=True))
        is_leaf, requires_grad = tensor.is_leaf, tensor.requires_grad
        grad = tensor.grad if is_leaf else None
        self.remember(grad)

        def undo() -> None:
            with torch.inference_mode() if alias.is_inference() else torch.no_grad():
                if not expanded:  # an expanded tensor cannot be written to
                    alias.copy_(content)
            if strided and (tensor.data_ptr() != alias.data_ptr() or tensor.shape != alias.shape):
                tensor.data = alias  # `.data` was bound to other memory
            if is_leaf:
                if not tensor.is_leaf:  # an in-place operation gave it a graph
                    tensor.detach_()
                tensor.requires_grad_(requires_grad)
                tensor.grad = grad

        self._undo.callback(undo)

    def _array(self, array: Any) -> None:
        if array.flags.writeable:
            self._undo.callback(array.__setitem__, ..., array.copy())

    def _generator(self, generator: Any) -> None:
        if isinstance(generator, (np.random.Generator, np.random.BitGenerator)):
            bits: Any = getattr(generator, "bit_generator", generator)
            self._undo.callback(setattr, bits, "state", bits.state)
        elif isinstance(generator, random.Random):
            self._undo.callback(generator.setstate, generator.getstate())
        else:
            self._undo.callback(generator.set_state, generator.get_state())

    def _module(self, module: nn.Module) -> None:
        kind = type(module)

        def undo() -> None:
            if type(module) is not kind:  # a lazy module that was materialized
                module.__class__ = kind

        self._undo.callback(undo)
        self.remember(vars(module))
        # Scripted modules do not keep these in `vars`.
        self._items((*module.parameters(recurse=False), *module.buffers(recurse=False), *module.children()))

    def _dict(self, mapping: dict[Any, Any]) -> None:
        saved = dict(mapping)
        self._undo.callback(_put_back, mapping, saved)
        self._items(saved.values())

    def _collection(self, collection: Any) -> None:
        saved = list(collection)

        def undo() -> None:
            collection.clear()
            (collection.update if isinstance(collection, set) else collection.extend)(saved)

        self._undo.callback(undo)
        self._items(saved)

    def _items(self, items: Iterable[Any]) -> None:
        for item in items:
            self.remember(item)


def _slots(kind: type) -> tuple[str, ...]:
    """Return the names of the attributes that a class itself keeps without a dictionary."""
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
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


class RandomState:
    """Save the state of every global random stream: python, numpy, torch and each CUDA device.

    Lightning's `isolate_rng` is not used: it does not restore after an exception.
    """

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        # Reading the CUDA state would initialize CUDA; without that there is no state to lose.
        started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if started else []

    def restore(self) -> None:
        """Restore every stream."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
