"""The house is flat and its arrows point downward: the import table, held against the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pl_onecycle

ROOMS = Path(pl_onecycle.__file__).parent

# room -> (floor, rooms it may import). A pure room imports neither torch nor Lightning, a torch room no Lightning.
TABLE: dict[str, tuple[str, set[str]]] = {
    "checks": ("pure", set()),
    "policy": ("pure", {"checks"}),
    "clock": ("pure", set()),
    "presets": ("pure", {"checks", "policy"}),
    "curve": ("pure", {"checks"}),
    "suggestion": ("pure", {"checks", "curve"}),
    "sweeps": ("pure", {"curve", "policy"}),
    "choice": ("pure", {"curve"}),
    "verification": ("pure", {"choice", "curve", "suggestion"}),
    "signals": ("pure", set()),
    "memory": ("torch", set()),
    "param_groups": ("torch", {"checks"}),
    "real_step": ("torch", set()),
    "scheduler": ("torch", {"checks", "clock", "policy", "presets", "param_groups", "real_step"}),
    "apply": ("torch", {"checks", "scheduler", "param_groups"}),
    "sources": ("Lightning", {"memory"}),
    "substitutes": ("Lightning", {"sources"}),
    "isolation": ("Lightning", {"memory", "signals", "sources", "substitutes"}),
    "recorder": ("Lightning", {"curve", "policy", "param_groups", "real_step"}),
    "schedules": ("Lightning", {"apply", "param_groups", "policy", "scheduler"}),
    "trial": ("Lightning", {"curve", "isolation", "policy", "recorder", "schedules"}),
    "progress": ("Lightning", set()),
    "report": ("Lightning", {"curve", "policy", "suggestion"}),  # types only, see below
    "settings": ("Lightning", {"checks", "param_groups", "policy", "presets", "schedules"}),
    "configure": ("Lightning", {"checks", "presets", "scheduler", "settings"}),
    "finder": ("Lightning", {"checks", "schedules"}),
    "range_test": (
        "Lightning",
        {"apply", "checks", "curve", "finder", "policy", "progress", "recorder", "report", "schedules", "suggestion"}
        | {"sweeps", "trial", "verification"},
    ),
    "probe": (
        "Lightning",
        {"checks", "choice", "curve", "finder", "policy", "progress", "recorder", "report", "schedules", "trial"},
    ),
    "weight_decay_probe": ("Lightning", {"apply", "checks", "param_groups", "probe", "schedules"}),
    "momentum_probe": ("Lightning", {"checks", "param_groups", "policy", "probe", "schedules"}),
    "tune_result": ("Lightning", {"apply", "checks", "settings"}),
    "tuner": (
        "Lightning",
        {"apply", "checks", "finder", "isolation", "range_test", "report", "tune_result", "weight_decay_probe"},
    ),
    "cli": ("Lightning", {"checks", "configure", "scheduler", "settings", "tune_result", "tuner"}),
}
ORDER = list(TABLE)


def imports(room: str) -> tuple[set[str], set[str], set[str]]:
    """Rooms imported at run time, rooms imported for types, and outside packages of a room."""
    tree = ast.parse((ROOMS / f"{room}.py").read_text())
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    rooms: set[str] = set()
    types: set[str] = set()
    outside: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [
                f"{node.module}.{alias.name}" if node.module == "pl_onecycle" else node.module for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "pl_onecycle":
                (types if node in for_types else rooms).add(rest.split(".")[0])
            elif node not in for_types:
                outside.add(package)
    return rooms, types, outside


def test_the_table_names_every_room() -> None:
    assert {path.stem for path in ROOMS.glob("*.py")} - {"__init__"} == set(TABLE)


@pytest.mark.parametrize("room", TABLE)
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    rooms, types, _ = imports(room)
    assert rooms | types <= TABLE[room][1]
    if room == "report":
        assert rooms == set()


@pytest.mark.parametrize("room", TABLE)
def test_imports_point_downward(room: str) -> None:
    rooms, _, _ = imports(room)
    assert all(ORDER.index(other) < ORDER.index(room) for other in rooms)


@pytest.mark.parametrize("room", TABLE)
def test_a_room_stays_on_its_floor(room: str) -> None:
    floor, (_, _, outside) = TABLE[room][0], imports(room)
    if floor == "pure":
        assert outside.isdisjoint({"torch", "lightning", "torchmetrics"})
    if floor == "torch":
        assert "lightning" not in outside


def test_only_the_report_imports_matplotlib() -> None:
    assert [room for room in TABLE if "matplotlib" in imports(room)[2]] == ["report"]


def test_private_names_of_lightning_appear_in_three_rooms_only() -> None:
    users = set()
    for room in TABLE:
        for node in ast.walk(ast.parse((ROOMS / f"{room}.py").read_text())):
            private_import = (
                isinstance(node, ast.ImportFrom)
                and str(node.module).startswith("lightning")
                and any(alias.name.startswith("_") for alias in node.names)
            )
            private_attribute = (
                isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
                and getattr(node.value, "id", "") in {"trainer", "loop", "users", "strategy", "pl_module", "module"}
            )
            if private_import or private_attribute:
                users.add(room)
    assert users <= {"substitutes", "isolation", "trial"}


def test_the_package_imports_without_its_optional_packages() -> None:
    # As if they were not installed: torchmetrics, for one, imports matplotlib where its metadata is found.
    code = """if True:
        import importlib.metadata, sys
        hidden = ("matplotlib", "jsonargparse", "torchvision", "scikit-learn", "sklearn")
        found = importlib.metadata.distribution
        def distribution(name):
            if name in hidden:
                raise importlib.metadata.PackageNotFoundError(name)
            return found(name)
        importlib.metadata.distribution = distribution
        sys.modules.update(dict.fromkeys(hidden))
        import pl_onecycle
        print(*sorted(pl_onecycle.__all__))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOMS.parent, check=True)
    assert done.stdout.split() == sorted(pl_onecycle.__all__)


def test_every_public_name_exists_and_is_documented() -> None:
    for name in pl_onecycle.__all__:
        assert getattr(pl_onecycle, name).__doc__
