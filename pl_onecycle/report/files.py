"""Files of a report: one directory with ``result.json``, CSV tables, pictures and texts."""

from __future__ import annotations

import csv
import itertools
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

import fsspec

from pl_onecycle._lightning import DISTRIBUTION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pl_onecycle.curves import LossCurve

Table: TypeAlias = "Sequence[Sequence[Any]]"


def write_folder(
    root: str,
    name: str,
    facts: Mapping[str, Any],
    tables: Mapping[str, Table],
    pictures: Mapping[str, Figure],
    texts: Mapping[str, str],
) -> str:
    """Write ``result.json`` and other files into a new directory.

    Args:
        root: The logger's directory or ``default_root_dir``, local or of any file system that fsspec knows.
        name: Directory below ``root``; where it exists already, ``<name>_1`` and so on is taken.
        facts: What goes into the JSON file besides the versions; NaN becomes null.
        tables: Rows by the name of their CSV file.
        pictures: By their name, without ``.png``.
        texts: Contents by the name of their file.

    Returns:
        The directory.

    Raises:
        OSError: It cannot be written.
    """
    files, base = fsspec.core.url_to_fs(root)
    names = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(1)))
    new = next(new for new in names if not files.exists(f"{base.rstrip('/')}/{new}"))
    folder = f"{base.rstrip('/')}/{new}"
    files.makedirs(folder)
    for file, rows in tables.items():
        with files.open(f"{folder}/{file}", "w", newline="") as handle:
            csv.writer(handle).writerows(rows)
    for file, text in {"result.json": _json_text(facts), **texts}.items():
        with files.open(f"{folder}/{file}", "w") as handle:
            handle.write(text)
    for file, figure in pictures.items():
        with files.open(f"{folder}/{file}.png", "wb") as handle:
            figure.savefig(handle, dpi=120)
    return f"{root.rstrip('/')}/{new}"


def curve_table(curve: LossCurve) -> Table:
    """Return the rows of a curve, the first one with the names of the columns."""
    smoothed = [*curve.smoothed().tolist(), *[math.nan] * (len(curve) - len(curve.finite_loss))]
    rows = zip(range(len(curve)), curve.lr, curve.loss, smoothed, strict=True)
    return [("step", "lr", "loss", "smoothed_loss"), *rows]


def curves_table(curves: Mapping[str, LossCurve]) -> Table:
    """Return the rows of several curves one after the other; ``step`` is the number of steps that led to the loss."""
    table: list[Sequence[Any]] = [("series", "step", "lr", "train_loss", "val_loss")]
    for series, curve in curves.items():
        trained = dict(enumerate(zip(curve.lr, curve.loss, strict=True), start=1))
        validated = dict(zip(curve.val_steps, curve.val_loss, strict=True))
        steps = sorted({*trained, *validated})  # the loss after the last step may not have been seen
        table += [(series, step, *trained.get(step, ("", "")), validated.get(step, "")) for step in steps]
    return table


def _json_text(facts: Mapping[str, Any]) -> str:
    text = json.dumps(_plain({**facts, "versions": _versions()}), indent=2, allow_nan=False)
    # A curve is for machines; each of its lists on one line leaves the rest readable for people.
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda found: " ".join(found[0].split()), text)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no numpy."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": version("torch"), "lightning": version(DISTRIBUTION)}
