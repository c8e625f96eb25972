"""Argument checks: each raises one sentence for a bad argument.

Pure Python. Constructors call these before anything else, so a wrong argument never costs
a training step.
"""

import math
import operator
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any


def expect(condition: bool, name: str, wanted: str, value: Any, error: type[Exception] = ValueError) -> None:
    """Raise ``error`` with one sentence unless ``condition`` is true.

    Example:
        >>> expect(False, "num_steps", "an integer >= 2", 1)
        Traceback (most recent call last):
        ...
        ValueError: Expected argument `num_steps` to be an integer >= 2 but got 1
    """
    if not condition:
        raise error(f"Expected argument `{name}` to be {wanted} but got {value!r}")


def expect_integer(name: str, value: Any, minimum: int) -> None:
    """Require an integer >= ``minimum``; a bool is rejected."""
    wanted = f"an integer >= {minimum}"
    expect(isinstance(value, Integral) and not isinstance(value, bool), name, wanted, value, TypeError)
    expect(value >= minimum, name, wanted, value)


def expect_number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    below: float = math.inf,
) -> None:
    """Require a finite number with ``above < value < below`` and ``minimum <= value <= maximum``."""
    bounds = [f"> {above:g}"] if above > -math.inf else []
    bounds += [f">= {minimum:g}"] if minimum > -math.inf else []
    bounds += [f"<= {maximum:g}"] if maximum < math.inf else []
    bounds += [f"< {below:g}"] if below < math.inf else []
    wanted = " ".join(["a finite number", " and ".join(bounds)]).rstrip()
    expect(isinstance(value, Real) and not isinstance(value, bool), name, wanted, value, TypeError)
    expect(math.isfinite(value) and above < value < below and minimum <= value <= maximum, name, wanted, value)


def expect_one_of(name: str, value: Any, choices: Collection[str]) -> None:
    """Require one of ``choices``."""
    expect(isinstance(value, str) and value in choices, name, f"one of {sorted(choices)}", value)


def expect_bool(name: str, value: Any) -> None:
    """Require True or False."""
    expect(isinstance(value, bool), name, "True or False", value, TypeError)


def plain(value: Any) -> Any:
    """Return numbers and sequences of any library as numbers and lists of Python.

    Constructors store arguments in this form, which every file and checkpoint can hold: numpy's and torch's arrays and
    scalars, ranges and the lists of config libraries such as omegaconf. What is plain already is the same object.

    Example:
        >>> plain(range(2, 8, 2)), plain((1e-3, 1e-4))
        ([2, 4, 6], (0.001, 0.0001))
    """
    if value is None or isinstance(value, (bool, bytes)) or type(value) in (int, float, str):
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        items = [plain(item) for item in value]
        is_plain = type(value) in (list, tuple) and all(map(operator.is_, items, value))
        return value if is_plain else items
    return value
