"""Read from the code of a module which of its attributes and hparams it uses."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import torch

Path = tuple[str, ...]
_LIBRARIES = ("builtins", "abc", "typing", "torch", "lightning", "pytorch_lightning", "lightning_fabric")
# Functions that get the module and read none of its learning rates.
_HARMLESS = ("configure_one_cycle", "super", "isinstance", "type", "len", "id")
_READERS = ("items", "values", "keys", "copy", "get", "pop")  # methods that read a whole mapping


def may_be_read(path: Path, reads: set[Path]) -> bool:
    """Return whether code that reads the paths ``reads`` may read ``path``, as part of it or with it inside."""
    return any(path[: len(read)] == read or read[: len(path)] == path for read in reads)


def reads_of(module: torch.nn.Module) -> set[Path]:
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
    return reads | {("hparams", name) for name, path in kept if may_be_read(path, reads)}


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
