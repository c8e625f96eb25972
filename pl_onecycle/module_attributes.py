"""Find and write the attributes and hparams of a module, or a data module, that hold a value of its training."""

import ast
import inspect
import re
import textwrap
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from types import FunctionType
from typing import Any

import torch

from pl_onecycle.optimizer_groups import rescale
from pl_onecycle.sentences import in_a_line

BATCH_NAMES = ("batch_size",)  # of a module and its data module
# Other names of a learning rate, taken only where the module's own code reads them.
_LR_LIKE = re.compile(r"^(?!.*(min|end|final|eta|decay|warm|stop|floor))((.*_)?lr|blr|(.*_)?learning_rate)$", re.I)

Path = tuple[str, ...]
_LIBRARIES = ("builtins", "abc", "typing", "torch", "lightning", "pytorch_lightning", "lightning_fabric")
# Functions that get the module and read none of its learning rates.
_HARMLESS = ("configure_one_cycle", "super", "isinstance", "type", "len", "id")
_READERS = ("items", "values", "keys", "copy", "get", "pop")  # methods that read a whole mapping
_MISSING = object()


@dataclass(frozen=True)
class Quantity:
    """What attributes and hparams of a module hold.

    Attributes:
        names: Their names.
        like: Pattern of other names, taken only where the module's own code reads them.
    """

    names: tuple[str, ...]
    like: re.Pattern[str] | None = None


LR_NAMES = ("lr", "learning_rate")
LEARNING_RATE = Quantity(LR_NAMES, _LR_LIKE)
WEIGHT_DECAY = Quantity(("weight_decay", "wd"))


@dataclass(frozen=True)
class _Place:
    """One attribute, or key of a mapping, reached from a module by ``path``."""

    root: Any
    path: Path

    @property
    def label(self) -> str:
        return ".".join(self.path if self.path[0] == "hparams" else ("module", *self.path))

    def read(self) -> Any:
        value = self.root
        for name in self.path:
            value = _item(value, name)
            if value is _MISSING:
                break
        return value

    def write(self, value: float) -> None:
        *inner, last = self.path
        holder = _Place(self.root, tuple(inner)).read()
        if _is_mapping(holder):
            holder[last] = value
        else:
            setattr(holder, last, value)


def set_attributes(holder: Any, names: Sequence[str], value: float) -> list[str]:
    """Set those of ``names`` that a module or its hparams hold as a number or None.

    Returns:
        What was set, and what refuses to be written.
    """
    values, refused = _held(_named(holder, names))
    return _written({place: value for place in values}) + refused


def number_of(holder: Any, names: Sequence[str]) -> float | None:
    """Return the number that a module or its hparams hold by one of ``names``, or None."""
    values, _ = _held(reversed(_named(holder, names)))  # an attribute comes before the hparam
    return next((value for value in values.values() if value is not None), None)


@contextmanager
def attributes_kept(holders: Iterable[Any], names: Sequence[str]) -> Iterator[None]:
    """Restore afterwards what modules and their hparams hold by ``names``."""
    kept = [place for holder in holders for place in _held(_named(holder, names))[0].items()]
    try:
        yield
    finally:
        for place, value in kept:
            if place.read() is not value:
                place.write(value)


def scale_attributes(
    module: torch.nn.Module, attr_name: str, old_peak: float, new_peak: float, quantity: Quantity = LEARNING_RATE
) -> list[str]:
    """Scale the learning rates or weight decays that a module and its hparams hold by ``new_peak / old_peak``.

    An attribute that equals ``old_peak``, or is None, becomes exactly ``new_peak``. If an earlier call has changed an
    attribute and the optimizer was created again with the same peak as before it, the optimizer does not follow the
    attribute: its value from before that call is scaled, and none is scaled twice.

    Args:
        module: The module.
        attr_name: Where the learning rate is, with dots, e.g. ``"hparams.optim.lr"`` or ``"optim.lr"``; an empty string
            for ``lr`` and ``learning_rate``, and for what the module's code reads by a similar name. Those that its
            code does not read are left alone.
        old_peak: Peak, or largest weight decay, of the optimizer before.
        new_peak: That from now on.
        quantity: What to scale.

    Returns:
        What was changed, and what refuses to be written.

    Example:
        >>> class Net(torch.nn.Linear):
        ...     lr = 0.5
        >>> net = Net(1, 1)
        >>> scale_attributes(net, "lr", old_peak=0.25, new_peak=0.5), net.lr
        (['module.lr'], 1.0)
    """
    values, refused = _held(_places(module, attr_name, quantity))
    history = _HISTORY.setdefault(module, {})
    targets, begun = {}, {}
    for place, value in values.items():
        own, peak = value, old_peak
        earlier = history.get(place.path)
        if earlier is not None and (earlier.written, earlier.old_peak) == (value, old_peak):
            own, peak = earlier.value, earlier.old_peak
        if own == 0 != peak:  # not what the optimizer trains with
            continue
        targets[place] = new_peak if own is None else rescale(float(own), peak, new_peak)
        begun[place.path] = _Earlier(own, old_peak, targets[place])
    history.update(begun)
    return _written(targets) + refused


def holds_rate(module: torch.nn.Module, attr_name: str) -> bool:
    """Return whether ``attr_name`` leads to a number or None in the module or its hparams."""
    values, refused = _held(_places(module, attr_name, LEARNING_RATE))
    return bool(values or refused)


def values_at(module: torch.nn.Module, labels: Iterable[str]) -> dict[str, float]:
    """Return the numbers that `scale_attributes` has named."""
    places = {label: _at(module, label) for label in labels if label.startswith(("hparams.", "module."))}
    return {label: float(place.read()) for label, place in places.items()}


def restore_values(module: torch.nn.Module, values: dict[str, float]) -> list[str]:
    """Write the numbers that `values_at` has returned, where the module still has such places."""
    held, refused = _held(_at(module, label) for label in values)
    return _written({place: values[place.label] for place in held}) + refused


@dataclass(frozen=True)
class _Earlier:
    """What an attribute held, for which peak of the optimizer, and what was written."""

    value: float | None
    old_peak: float
    written: float


_HISTORY: "weakref.WeakKeyDictionary[torch.nn.Module, dict[Path, _Earlier]]" = weakref.WeakKeyDictionary()


# ------------------------------------------------------------------------------------------------ places
def _named(holder: Any, names: Sequence[str]) -> list[_Place]:
    return [_Place(holder, path) for name in names for path in (("hparams", name), (name,))]


def _at(module: torch.nn.Module, label: str) -> _Place:
    return _Place(module, tuple(label.removeprefix("module.").split(".")))


def _places(module: torch.nn.Module, attr_name: str, quantity: Quantity) -> list[_Place]:
    """Return the places that may hold a quantity."""
    if attr_name:
        path = tuple(attr_name.split("."))
        paths = [path] if path[0] == "hparams" else [("hparams", *path), path]
        return [_Place(module, it) for it in paths]
    reads = _reads(module)
    named = [place for place in _named(module, quantity.names) if _may_be_read(place.path, reads)]
    others = sorted(path for path in reads if path and quantity.like is not None and quantity.like.match(path[-1]))
    return list(dict.fromkeys([*named, *(_Place(module, path) for path in others)]))


def _held(places: Iterable[_Place]) -> tuple[dict[_Place, Any], list[str]]:
    """Return the places that hold a number or None, with it, and a sentence for each that cannot be read."""
    values, refused = {}, []
    for place in places:
        try:
            value = place.read()
        except Exception as error:
            refused.append(f"not in {place.label}, which cannot be read ({in_a_line(error)})")
            continue
        if value is not _MISSING and _is_rate(value):
            values[place] = value
    return values, refused


def _written(targets: dict[_Place, float]) -> list[str]:
    """Write all values; return the names of the places, and a sentence for each that refuses."""
    failed: dict[_Place, str] = {}
    for place, value in targets.items():
        before = place.read()
        try:
            place.write(value)
            if float(place.read()) != value and place.read() == before:
                failed[place] = f"it keeps {before}"
            elif float(place.read()) != value and abs(place.read() - value) > 1e-3 * abs(value):
                failed[place] = f"it made {place.read()} of {value:.3g}"
                place.write(before)
        except Exception as error:
            failed[place] = in_a_line(error)
    return [
        place.label if place not in failed else f"not in {place.label}, which refuses to be written ({failed[place]})"
        for place, value in targets.items()
        if place not in failed or not _follows(place, value)
    ]


def _follows(place: _Place, value: float) -> bool:
    """Return whether the place has the value without being written, as a property that reads another has."""
    try:
        return abs(float(place.read()) - value) <= 1e-9 * abs(value)
    except Exception:
        return False


def _item(holder: Any, name: str) -> Any:
    if _is_mapping(holder):
        return holder[name] if name in holder else _MISSING  # noqa: SIM401 - not every mapping has `get`
    return getattr(holder, name, _MISSING)


def _is_mapping(value: Any) -> bool:
    return hasattr(value, "keys") and hasattr(value, "__getitem__")


def _is_rate(value: Any) -> bool:
    return value is None or (isinstance(value, Real) and not isinstance(value, bool))


# ------------------------------------------------------------------------------- what the module's code reads
def _may_be_read(path: Path, reads: set[Path]) -> bool:
    return any(path[: len(read)] == read or read[: len(path)] == path for read in reads)


def _reads(module: torch.nn.Module) -> set[Path]:
    """Return the paths from the module that its own code reads; the empty path if that cannot be seen."""
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.partition(".")[0] not in _LIBRARIES]
    if "configure_optimizers" in vars(module) or not any("configure_optimizers" in vars(kind) for kind in kinds):
        return {()}
    reads: set[Path] = set()
    kept: set[tuple[str, Path]] = set()
    replaced: set[str] = set()  # methods that a subclass replaces, without a call of the original
    for kind in kinds:
        for function in [it for it in _functions(kind) if it.__name__ not in replaced]:
            try:
                [node] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
            except (OSError, TypeError, SyntaxError, ValueError):
                return {()}
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.args.args:
                visitor = _Reads(node)
                reads |= visitor.reads
                kept |= visitor.kept
                replaced |= set() if visitor.calls_super else {function.__name__}
    return reads | {("hparams", name) for name, path in kept if _may_be_read(path, reads)}


def _functions(kind: type) -> Iterator[FunctionType]:
    """Yield the functions that a class defines."""
    for value in vars(kind).values():
        for part in (value, *(getattr(value, name, None) for name in ("fget", "func", "__func__"))):
            function = inspect.unwrap(part) if callable(part) else None
            if isinstance(function, FunctionType):
                yield function


class _Reads(ast.NodeVisitor):
    """Collects what a method reads from the module.

    Attributes:
        reads: Paths from the module; the empty path where the module itself is handed to a function.
        kept: Arguments of the constructor that it only keeps, each with the path of the attribute.
        calls_super: Whether it may call the method that it replaces.
    """

    def __init__(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        first, *others = [it.arg for it in (*function.args.args, *function.args.kwonlyargs)]
        self._self = first
        self._arguments = set(others) if function.name == "__init__" else set()
        self._begins: dict[str, Path] = {first: ()}  # local names, with the path that they stand for
        self.reads: set[Path] = set()
        self.kept: set[tuple[str, Path]] = set()
        names = {it.id for it in ast.walk(function) if isinstance(it, ast.Name)}
        self.calls_super = "super" in names or f".{function.name}" in ast.unparse(function)
        for statement in function.body:
            self.visit(statement)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.reads |= {self._begins[node.id]} if node.id in self._begins else set()
            self.reads |= {("hparams", node.id)} if node.id in self._arguments else set()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._visit_chain(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self._visit_chain(node)
        self.visit(node.slice)

    def visit_Call(self, node: ast.Call) -> None:
        if _name_of(node.func) in _HARMLESS:
            for part in (*node.args, *node.keywords):
                if getattr(part, "id", "") != self._self:
                    self.visit(part)
        elif not (isinstance(node.func, ast.Attribute) and node.func.attr == "get" and self._visit_chain(node)):
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self._visit_pairs([(target, node.value) for target in node.targets])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._visit_pairs([(node.target, node.value)] if node.value is not None else [])

    def _visit_pairs(self, pairs: list[tuple[ast.expr, ast.expr]]) -> None:
        for target, value in pairs:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs += zip(target.elts, value.elts, strict=False)
                continue
            path, source = self._path(target), self._path(value)
            if isinstance(target, ast.Name) and source and target.id not in self._begins:
                self._begins[target.id] = source
            elif path and isinstance(value, ast.Name) and value.id in self._arguments:
                self.kept.add((value.id, path))
            else:
                self.visit(target)
                self.visit(value)

    def _visit_chain(self, node: ast.expr) -> bool:
        """Note the path that an expression reads, if it begins at the module; return whether it does."""
        path = self._path(node)
        if path is None:
            self.generic_visit(node)
        elif path and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            self.reads.add(path[:-1] if path[-1] in _READERS else path)
        return path is not None

    def _path(self, node: ast.AST) -> Path | None:
        """Return the path of an expression such as ``self.hparams.optim["lr"]``; None if it begins elsewhere."""
        if isinstance(node, ast.Name):
            return self._begins.get(node.id)
        key: Any = None
        if isinstance(node, ast.Attribute):
            inner, key = node.value, node.attr
        elif isinstance(node, ast.Subscript):
            inner, index = node.value, node.slice
            key = index.value if isinstance(index, ast.Constant) else None
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            inner, index = node.func.value, node.args[0]
            key = index.value if isinstance(index, ast.Constant) and node.func.attr == "get" else None
        else:
            return None
        path = self._path(inner)
        return path if path is None or not isinstance(key, str) else (*path, key)


def _name_of(node: ast.expr) -> str:
    return str(getattr(node, "id", getattr(node, "attr", "")))
