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


# Private names of others that a room uses, because there is no public way; each is explained where it stands.
PRIVATE: dict[str, set[str]] = {
    "real_step": {"_optimizer_step_post_hooks"},  # of torch's optimizers, whose wrappers may not have them
    "apply": {"_schedulers"},  # of torch's SequentialLR and ChainedScheduler
    "substitutes": {
        *("_FitLoop", "_TrainingEpochLoop", "_DataFetcher", "_select_data_fetcher", "_iterator"),
        *("_batches_that_stepped", "_combined_loader", "_data_fetcher", "_data_source", "_max_batches"),
        *("_last_train_dl_reload_epoch", "_last_val_dl_reload_epoch", "_num_ready_batches_reached"),
    },
    "isolation": {
        *("_FitLoop", "_LoggerConnector", "_logger_connector", "_MultiProcessingLauncher", "_TunerExitException"),
        "_forward_pre_hooks",  # of torch's modules
    },
    "trial": {"_FitLoop", "_data_fetcher"},
    "tune_result": {"_orig_mod"},  # of a module that torch has compiled
    "cli": {"_subcommand_method_arguments", "_subcommand_parsers"},
}


def private_names(room: str) -> tuple[set[str], set[str]]:
    """Private names that a room defines, and those that it uses on any object or imports."""
    defined: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(ast.parse((ROOMS / f"{room}.py").read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Attribute):
            (defined if _is_own(node) else used).add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("pl_onecycle"):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"getattr", "hasattr", "setattr"}:
            used |= {it.value for it in node.args[1:2] if isinstance(it, ast.Constant)}
    return {*filter(_is_private, defined)}, {*filter(_is_private, used)}


def _is_own(node: ast.Attribute) -> bool:
    """Whether an object sets an attribute on itself."""
    return isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == "self"


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_private_names_of_others_appear_where_they_are_listed_and_nowhere_else() -> None:
    names = {room: private_names(room) for room in TABLE}
    ours = set().union(*(defined for defined, _ in names.values()))
    foreign = {room: used - ours for room, (_, used) in names.items() if used - ours}
    assert foreign == PRIVATE


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
