"""The house: imports point downward, walls hold, and no function or class grows past what a reader can hold."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pl_onecycle

HOUSE = Path(pl_onecycle.__file__).parent
CONTRIBUTING = HOUSE.parent / "CONTRIBUTING.md"

# room -> (floor, rooms it may import), from the ground up. A pure room imports neither torch nor Lightning, a torch
# room no Lightning, and a Lightning room takes all that it needs of it from `_lightning`. A package stands behind its
# rooms: inside it they import each other, everybody else imports the package.
TABLE: dict[str, tuple[str, set[str]]] = {
    "checks": ("pure", set()),
    "sentences": ("pure", set()),
    "pictures/colours": ("pure", set()),
    "pictures/shown": ("pure", set()),
    "pictures/png": ("pure", set()),
    "pictures/figure": ("pure", {"pictures/png"}),
    "pictures/panels": ("pure", {"checks", "pictures/figure"}),
    "pictures/ends": ("pure", {"pictures/colours", "pictures/panels", "pictures/shown"}),
    "pictures/probe": ("pure", {"pictures/colours", "pictures/ends", "pictures/panels", "pictures/shown"}),
    "pictures/schedule": ("pure", {"pictures/colours", "pictures/panels", "pictures/shown"}),
    "pictures/sweep": (
        "pure",
        {"pictures/colours", "pictures/panels", "pictures/schedule", "pictures/shown", "sentences"},
    ),
    "pictures/played": ("pure", {"pictures/colours", "pictures/panels", "pictures/shown", "pictures/sweep"}),
    "pictures/drawn": (
        "pure",
        {"checks", "pictures/figure", "pictures/panels", "pictures/probe", "pictures/schedule", "pictures/sweep"},
    ),
    "pictures/card": ("pure", {"pictures/png"}),
    "pictures": (
        "pure",
        {"pictures/card", "pictures/drawn", "pictures/panels", "pictures/played", "pictures/png", "pictures/probe"}
        | {"pictures/schedule", "pictures/sweep"},
    ),
    "policy/shapes": ("pure", set()),
    "policy/one_cycle": ("pure", {"checks", "pictures", "policy/shapes"}),
    "policy/sweep": ("pure", {"checks", "policy/shapes"}),
    "policy/presets": ("pure", {"checks", "policy/one_cycle", "policy/shapes"}),
    "policy/clock": ("pure", set()),
    "policy/segment": ("pure", {"policy/clock", "policy/one_cycle", "policy/shapes"}),
    "policy": (
        "pure",
        {"policy/clock", "policy/one_cycle", "policy/presets", "policy/segment", "policy/shapes", "policy/sweep"},
    ),
    "curves/thresholds": ("pure", set()),
    "curves/noise": ("pure", {"curves/thresholds"}),
    "curves/curve": ("pure", {"checks", "curves/noise", "curves/thresholds", "pictures", "sentences"}),
    "curves/refusals": ("pure", set()),
    "curves/trough": ("pure", {"curves/curve", "curves/noise", "curves/thresholds"}),
    "curves/methods": ("pure", {"curves/curve", "curves/noise", "curves/thresholds", "curves/trough"}),
    "curves/suggestion": (
        "pure",
        {"checks", "curves/curve", "curves/methods", "curves/refusals", "curves/thresholds", "pictures"},
    ),
    "curves/search": (
        "pure",
        {"curves/curve", "curves/noise", "curves/refusals", "curves/suggestion", "curves/thresholds", "curves/trough"}
        | {"policy"},
    ),
    "curves/rounds": ("pure", {"curves/curve", "curves/noise", "curves/refusals", "curves/thresholds"}),
    "curves/choice": (
        "pure",
        {"curves/curve", "curves/noise", "curves/refusals", "curves/rounds", "curves/thresholds", "pictures"},
    ),
    "curves/decay_search": (
        "pure",
        {"curves/choice", "curves/curve", "curves/refusals", "curves/rounds", "curves/thresholds"},
    ),
    "curves/verification": (
        "pure",
        {"curves/curve", "curves/refusals", "curves/rounds", "curves/suggestion", "curves/thresholds"},
    ),
    "curves": (
        "pure",
        {"curves/choice", "curves/curve", "curves/decay_search", "curves/methods", "curves/noise", "curves/refusals"}
        | {"curves/rounds", "curves/search", "curves/suggestion", "curves/thresholds", "curves/trough"}
        | {"curves/verification"},
    ),
    "page/results": ("pure", {"curves"}),
    "page/played": ("pure", set()),
    "page/hindsight": ("pure", {"curves", "page/played", "page/results"}),
    "page/traces": ("pure", {"curves", "pictures"}),
    "page/charts": ("pure", {"curves", "page/played", "page/results", "page/traces", "pictures"}),
    "page/markup": ("pure", {"page/charts", "page/hindsight", "page/played", "page/results", "sentences"}),
    "page/found": ("pure", {"curves", "page/markup", "page/results", "sentences"}),
    "page/document": (
        "pure",
        {"page/charts", "page/found", "page/hindsight", "page/markup", "page/played", "page/results"},
    ),
    "page": ("pure", {"page/document", "page/hindsight", "page/played", "page/results"}),
    "optimizer_groups": ("torch", {"checks"}),
    "real_step": ("torch", set()),
    "scheduler": ("torch", {"checks", "optimizer_groups", "pictures", "policy", "real_step"}),
    "copies": ("torch", set()),
    "random_state": ("torch", set()),
    "played_schedule": ("torch", {"copies", "random_state", "sentences"}),
    "module_code": ("torch", set()),
    "module_attributes": ("torch", {"module_code", "optimizer_groups", "sentences"}),
    "apply": (
        "torch",
        {"checks", "module_attributes", "optimizer_groups", "played_schedule", "scheduler", "sentences"},
    ),
    "_lightning": ("Lightning", {"checks"}),
    "run_directory": ("Lightning", {"_lightning"}),
    "run_length": ("Lightning", {"_lightning", "played_schedule", "scheduler", "sentences"}),
    "run_optimizer": (
        "Lightning",
        {"_lightning", "apply", "copies", "module_attributes", "optimizer_groups", "played_schedule", "policy"}
        | {"run_length", "scheduler", "sentences"},
    ),
    "search_cost": ("Lightning", {"_lightning", "run_length", "sentences"}),
    "trial/interrupts": ("pure", set()),
    "trial/memory": ("torch", set()),
    "trial/reducer": ("torch", set()),
    "trial/tapes": ("Lightning", {"_lightning"}),
    "trial/batches": ("Lightning", {"_lightning", "random_state", "trial/memory", "trial/tapes"}),
    "trial/stand_ins": ("Lightning", {"_lightning", "trial/batches", "trial/tapes"}),
    "trial/isolation": (
        "Lightning",
        {"_lightning", "random_state", "trial/batches", "trial/interrupts", "trial/memory", "trial/reducer"}
        | {"trial/stand_ins", "trial/tapes"},
    ),
    "trial/driver": ("torch", {"optimizer_groups", "policy"}),
    "trial/checkups": ("Lightning", {"_lightning", "curves"}),
    "trial/agreement": ("Lightning", {"_lightning", "trial/reducer"}),
    "trial/losses": ("Lightning", {"_lightning", "trial/agreement"}),
    "trial/recorder": (
        "Lightning",
        {"_lightning", "curves", "policy", "real_step", "run_optimizer"}
        | {"trial/agreement", "trial/checkups", "trial/driver", "trial/losses"},
    ),
    "trial/run": (
        "Lightning",
        {"_lightning", "curves", "policy", "run_optimizer", "sentences"}
        | {"trial/agreement", "trial/checkups", "trial/isolation", "trial/recorder"},
    ),
    "trial/attempt": (
        "Lightning",
        {"_lightning", "random_state", "real_step", "sentences", "trial/agreement", "trial/isolation", "trial/run"}
        | {"trial/stand_ins"},
    ),
    "trial": ("Lightning", {"trial/attempt", "trial/checkups", "trial/isolation", "trial/losses", "trial/run"}),
    "report/files": ("Lightning", {"_lightning", "checks", "curves", "pictures"}),
    "report/sinks": ("Lightning", {"_lightning"}),
    "report/loggers": ("Lightning", {"_lightning", "curves", "report/sinks"}),
    "report/progress": ("Lightning", {"_lightning", "sentences"}),
    "report/report": (
        "Lightning",
        {"_lightning", "curves", "pictures", "report/files", "report/loggers", "report/sinks"},
    ),
    "report": ("Lightning", {"report/files", "report/loggers", "report/progress", "report/report"}),
    "settings_callback": ("Lightning", {"_lightning", "checks", "optimizer_groups", "policy", "run_optimizer"}),
    "configure": ("Lightning", {"_lightning", "policy", "run_length", "scheduler", "settings_callback"}),
    "played_run": ("Lightning", {"_lightning", "optimizer_groups", "page", "trial"}),
    "page_writer": ("Lightning", {"_lightning", "page", "pictures", "played_run", "report", "run_optimizer"}),
    "finder": (
        "Lightning",
        {"_lightning", "checks", "curves", "module_attributes", "page_writer", "pictures", "report", "run_directory"}
        | {"run_optimizer", "search_cost", "sentences"},
    ),
    "batch_size_test": (
        "Lightning",
        {"_lightning", "checks", "curves", "finder", "module_attributes", "report", "run_optimizer", "sentences"}
        | {"trial"},
    ),
    "range_test": (
        "Lightning",
        {"_lightning", "checks", "curves", "finder", "pictures", "policy", "report", "run_optimizer", "trial"},
    ),
    "probe": (
        "Lightning",
        {"_lightning", "checks", "curves", "finder", "pictures", "policy", "report", "run_optimizer", "sentences"}
        | {"trial"},
    ),
    "weight_decay_probe": (
        "Lightning",
        {"_lightning", "checks", "curves", "optimizer_groups", "probe", "run_length", "run_optimizer"},
    ),
    "momentum_probe": ("Lightning", {"_lightning", "checks", "optimizer_groups", "policy", "probe", "run_optimizer"}),
    "tune_result": (
        "Lightning",
        {"_lightning", "checks", "module_attributes", "policy", "sentences", "settings_callback"},
    ),
    "finder_queue": (
        "Lightning",
        {"_lightning", "checks", "finder", "momentum_probe", "policy", "probe", "range_test", "run_optimizer"}
        | {"weight_decay_probe"},
    ),
    "tuner": (
        "Lightning",
        {"_lightning", "batch_size_test", "checks", "finder", "finder_queue", "module_attributes", "page_writer"}
        | {
            "pictures",
            "probe",
            "range_test",
            "report",
            "run_directory",
            "sentences",
            "trial",
            "tune_result",
            "weight_decay_probe",
        },
    ),
    "commands": ("Lightning", {"page", "pictures", "report", "sentences"}),
    "cli": (
        "Lightning",
        {"_lightning", "checks", "commands", "configure", "scheduler", "settings_callback", "tune_result", "tuner"},
    ),
}
ORDER = list(TABLE)
# Lightning under its two names, and what belongs to it.
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}

# Private names of others that a room uses, because there is no public way; each is explained where it stands.
PRIVATE: dict[str, set[str]] = {
    "real_step": {"_optimizer_step_post_hooks"},  # of torch's optimizers, whose wrappers may not have them
    "played_schedule": {
        "_schedulers",  # of torch's SequentialLR and ChainedScheduler
        "_scale_fn_custom",  # of torch's CyclicLR
    },
    "_lightning": {
        *("_FitLoop", "_TrainingEpochLoop", "_DataFetcher", "_select_data_fetcher", "_LoggerConnector"),
        *("_MultiProcessingLauncher", "_TunerExitException"),
    },
    "trial/reducer": {
        *("_check_reducer_finalized", "_comm_hooks", "_has_rebuilt_buckets"),  # of torch's DistributedDataParallel
        *("_autograd_hook", "_get_zeros_like_grad_buckets"),  # of its reducer
    },
    "trial/tapes": {"_get_iterator"},  # of torch's DataLoader
    "trial/batches": {
        *("_BaseDataLoaderIter", "_get_iterator", "_index_sampler"),  # of torch's DataLoader
        *("_ConnectionBase", "_Stream"),  # of multiprocessing and tarfile
    },
    "trial/stand_ins": {
        *("_batches_that_stepped", "_combined_loader", "_data_fetcher", "_data_source", "_iterator", "_max_batches"),
        *("_last_train_dl_reload_epoch", "_last_val_dl_reload_epoch", "_num_ready_batches_reached"),
    },
    "trial/isolation": {
        "_logger_connector",
        "_forward_pre_hooks",  # of torch's modules
    },
    "trial/run": {"_data_fetcher"},
    "trial/attempt": {"_combined_loader", "_data_fetcher"},
    "tune_result": {"_orig_mod"},  # of a module that torch has compiled
    "cli": {"_subcommand_method_arguments", "_subcommand_parsers"},
}


def path_of(room: str) -> Path:
    folder = HOUSE / room
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def tree_of(room: str) -> ast.Module:
    return ast.parse(path_of(room).read_text())


def imports(room: str) -> tuple[set[str], set[str], set[str]]:
    """Rooms imported at run time, rooms imported for types, and outside packages of a room."""
    tree = tree_of(room)
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
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "pl_onecycle":
                (types if node in for_types else rooms).add(rest.replace(".", "/"))
            elif node not in for_types:
                outside.add(package)
    return rooms, types, outside


# ------------------------------------------------------------------------------------------------- layers
def test_the_table_names_every_room() -> None:
    paths = {path.relative_to(HOUSE).with_suffix("").as_posix() for path in HOUSE.rglob("*.py")}
    assert {path.removesuffix("/__init__") for path in paths} - {"__init__"} == set(TABLE)


@pytest.mark.parametrize("room", TABLE)
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    rooms, types, _ = imports(room)
    assert rooms | types == TABLE[room][1]


@pytest.mark.parametrize("room", TABLE)
def test_imports_point_downward(room: str) -> None:
    assert all(ORDER.index(other) < ORDER.index(room) for other in TABLE[room][1])


@pytest.mark.parametrize("room", TABLE)
def test_a_package_is_entered_by_its_front_door(room: str) -> None:
    package = room.partition("/")[0]
    assert {other for other in TABLE[room][1] if "/" in other and other.partition("/")[0] != package} == set()


@pytest.mark.parametrize("room", TABLE)
def test_a_room_stays_on_its_floor(room: str) -> None:
    floor, (rooms, _, outside) = TABLE[room][0], imports(room)
    floors = {TABLE[other][0] for other in rooms}
    if floor == "pure":
        assert outside.isdisjoint({"torch", "torchmetrics"})
        assert floors <= {"pure"}
    if floor == "torch":
        assert floors <= {"pure", "torch"}


def test_one_room_imports_lightning() -> None:
    assert [room for room in TABLE if imports(room)[2] & LIGHTNING] == ["_lightning"]


def test_one_room_imports_matplotlib() -> None:
    assert [room for room in TABLE if "matplotlib" in imports(room)[2]] == ["pictures/figure"]


def test_contributing_shows_this_table() -> None:
    assert house_table() in CONTRIBUTING.read_text(), "run `python -m tests.test_architecture` and paste what it prints"


def house_table() -> str:
    """The table as CONTRIBUTING.md shows it; what a room does is the first sentence of its docstring."""
    rows = ["| room | floor | its one job | imports |", "|---|---|---|---|"]
    for room, (floor, others) in TABLE.items():
        name = f"{room}/" if path_of(room).name == "__init__.py" else f"{room}.py"
        job = str(ast.get_docstring(tree_of(room))).splitlines()[0].rstrip(".")
        inside = [other.removeprefix(f"{room.partition('/')[0]}/") for other in sorted(others)]
        rows.append(f"| `{name}` | {floor} | {job.replace('|', '/')} | {', '.join(inside) or '-'} |")
    return "\n".join(rows)


# ------------------------------------------------------------------------------------------ private names
def private_names(room: str) -> tuple[set[str], set[str]]:
    """Private names that a room defines, and those that it uses on any object or imports."""
    defined: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(tree_of(room)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Attribute):
            (defined if _sets_on_itself(node) else used).add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
        elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] != "pl_onecycle":
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"getattr", "hasattr", "setattr"}:
            used |= {str(it.value) for it in node.args[1:2] if isinstance(it, ast.Constant)}
    return {*filter(_is_private, defined)}, {*filter(_is_private, used)}


def _sets_on_itself(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == "self"


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_private_names_of_others_appear_where_they_are_listed_and_nowhere_else() -> None:
    names = {room: private_names(room) for room in TABLE}
    ours = set().union(*(defined for defined, _ in names.values()))
    foreign = {room: used - ours for room, (_, used) in names.items() if used - ours}
    assert foreign == PRIVATE


# -------------------------------------------------------------------------------------------------- sizes
LINES, ATTRIBUTES = 45, 12


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for room in TABLE:
        for node in ast.walk(tree_of(room)):
            if isinstance(node, ast.FunctionDef):
                yield f"{room}.{node.name}", node


def test_no_function_is_longer_than_a_screen() -> None:
    """Its docstring not counted, which says in full what a public one takes, gives and raises."""
    lengths = {}
    for name, node in functions():
        docstring = node.body[0] if ast.get_docstring(node) else None
        own = 0 if docstring is None else int(docstring.end_lineno or 0) - docstring.lineno + 1
        lengths[name] = int(node.end_lineno or 0) - node.lineno + 1 - own
    assert {name: lines for name, lines in lengths.items() if lines > LINES} == {}


def test_no_class_has_more_attributes_than_a_reader_can_hold() -> None:
    """Arguments that a constructor stores as they are do not count: the docstring lists them."""
    numbers = {}
    for room in TABLE:
        for node in ast.walk(tree_of(room)):
            if isinstance(node, ast.ClassDef):
                set_there = {it.attr for it in ast.walk(node) if isinstance(it, ast.Attribute) and _sets_on_itself(it)}
                starts = [it for it in node.body if isinstance(it, ast.FunctionDef) and it.name == "__init__"]
                taken = {arg.arg for it in starts for arg in (*it.args.args, *it.args.kwonlyargs)}
                numbers[f"{room}.{node.name}"] = len(set_there - taken)
    assert {name: number for name, number in numbers.items() if number > ATTRIBUTES} == {}


# ----------------------------------------------------------------------------------------------- packages
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOUSE.parent, check=True)
    assert done.stdout.split() == sorted(pl_onecycle.__all__)


def test_every_public_name_exists_and_is_documented() -> None:
    for name in pl_onecycle.__all__:
        assert getattr(pl_onecycle, name).__doc__


if __name__ == "__main__":
    print(house_table())
