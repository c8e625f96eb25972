"""Thresholds: each stands in one place, with its reason, and is used; together they leave room for a dense sweep."""

import ast
import importlib
import math
from pathlib import Path

import pytest

from pl_onecycle.curves import coarse_sweep, thresholds
from pl_onecycle.curves.thresholds import BEYOND, BUDGET, COARSE_STEPS, DENSE_STEPS, MAX_COARSE
from tests.curves.made import swept, valley

HERE = Path(thresholds.__file__)
MODULES = [file for file in HERE.parent.glob("*.py") if file.stem not in ("__init__", "thresholds")]
USERS = [*MODULES, *(HERE.parents[1] / f"{room}.py" for room in ("range_test", "probe"))]


def numbers(module: str) -> dict[str, float]:
    values = vars(importlib.import_module(f"pl_onecycle.curves.{module}"))
    return {name: value for name, value in values.items() if type(value) in (int, float)}


def test_every_threshold_is_used_outside_of_its_module() -> None:
    nodes = [node for file in USERS for node in ast.walk(ast.parse(file.read_text()))]
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert len(numbers("thresholds")) > 30
    assert numbers("thresholds").keys() - read == set()


@pytest.mark.parametrize("module", sorted(file.stem for file in MODULES))
def test_no_other_module_of_the_curves_has_a_number_of_its_own(module: str) -> None:
    assert numbers(module).items() <= numbers("thresholds").items()
    tree = ast.parse((HERE.parent / f"{module}.py").read_text())
    targets = [node for statement in tree.body for node in ast.walk(statement) if isinstance(statement, ast.Assign)]
    assert not {node.id for node in targets if isinstance(node, ast.Name)} & numbers("thresholds").keys()


def test_every_threshold_stands_below_a_comment() -> None:
    lines = HERE.read_text().splitlines()
    for node in ast.parse(HERE.read_text()).body[1:]:
        above = node.lineno - 2
        while above >= 0 and " = " in lines[above] and not lines[above].startswith("#"):  # two that share their reason
            above -= 1
        assert lines[above].startswith("# "), lines[node.lineno - 1]
        assert not lines[above].startswith("# ---"), lines[node.lineno - 1]


def test_the_longest_coarse_sweeps_leave_more_than_a_decade_to_the_dense_sweep() -> None:
    first = coarse_sweep([], 1e-20, 10.0)
    assert first is not None
    assert first.num_steps == MAX_COARSE == 72
    flat = swept(0 * valley(-1.0))
    second = coarse_sweep([flat], 1e-20, 10.0)
    assert second is not None
    assert second.num_steps == math.ceil((1 + BEYOND) * COARSE_STEPS) + 1 == 31
    # Each sweep takes one step more than it has points: 150 - 73 - 32 - 1 = 44 points, which are 43 / 28 decades.
    points = BUDGET - (first.num_steps + 1) - (second.num_steps + 1) - 1
    assert (points - 1) / DENSE_STEPS == pytest.approx(43 / 28)
