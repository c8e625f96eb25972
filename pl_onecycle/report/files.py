"""Files of a report: one directory with ``result.json``, CSV tables, texts and pictures."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeAlias

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pl_onecycle._lightning import DISTRIBUTION
from pl_onecycle.checks import plain
from pl_onecycle.pictures import png_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pl_onecycle.curves import LossCurve

Table: TypeAlias = "Sequence[Sequence[Any]]"


def write_folder(
    root: str,
    name: str,
    facts: Mapping[str, Any],
    tables: Mapping[str, Table],
    texts: Mapping[str, str],
) -> str:
    """Write ``result.json`` and other files into a new directory, texts first.

    All contents are made before the directory is: where one cannot be made, nothing is written.

    Args:
        root: The logger's directory or ``default_root_dir``, local or of any file system that fsspec knows.
        name: Directory below ``root``; where it exists already, ``<name>_1`` and so on is taken.
        facts: What goes into the JSON file besides the versions; NaN becomes null.
        tables: Rows by the name of their CSV file.
        texts: Contents by the name of their file.

    Returns:
        The directory.

    Raises:
        OSError: It cannot be written.
    """
    contents = {file: text.encode() for file, text in texts.items()}
    contents["result.json"] = _json_text(facts).encode()
    contents |= {file: _csv_text(rows).encode() for file, rows in tables.items()}
    files, base = fsspec.core.url_to_fs(root)
    new = _claimed(files, base, name)
    folder = f"{base.rstrip('/')}/{new}"
    for file, content in contents.items():
        with files.open(f"{folder}/{file}", "wb") as handle:
            handle.write(content)
    return f"{root.rstrip('/')}/{new}"


def write_picture(folder: str, name: str, figure: Figure) -> bytes:
    """Write ``<name>.png`` into a directory that `write_folder` has made, or nothing; return its content.

    Raises:
        OSError: It cannot be written.
    """
    content = png_of(figure)
    _write_whole(f"{folder}/{name}.png", content)
    return content


def write_page(root: str, page: str, path: str | None = None) -> str:
    """Write a page as ``report.html``, or as ``report_1.html`` and so on where another run's is.

    Args:
        root: The directory, local or of any file system that fsspec knows.
        page: The page.
        path: Where the same run has written its page before, which is replaced.

    Returns:
        Where it is.

    Raises:
        OSError: It cannot be written.
    """
    files, base = fsspec.core.url_to_fs(root)
    files.makedirs(base, exist_ok=True)
    if path is None:
        path = f"{root.rstrip('/')}/{_claimed(files, base, 'report', '.html')}"
    _write_whole(path, page.encode())
    return path


def _claimed(files: Any, base: str, stem: str, ending: str = "") -> str:
    """Return the first of ``stem``, ``stem_1`` and so on, each with its ending, that does not exist below ``base``.

    What has that name then exists, so that another process takes the next one: a directory, or with an ending, on a
    local disk, an empty file.
    """
    names = itertools.chain([stem], (f"{stem}_{i}" for i in itertools.count(1)))
    for path, name in ((f"{base.rstrip('/')}/{name}{ending}", f"{name}{ending}") for name in names):
        if files.exists(path):
            continue
        try:
            if not ending:
                files.makedirs(path)
            elif isinstance(files, LocalFileSystem):
                files.open(path, "xb").close()
        except FileExistsError:
            if not files.exists(path):  # what is above it is a file
                raise
        else:
            return name
    raise AssertionError  # the names never end


def _write_whole(where: str, content: bytes) -> None:
    files, path = fsspec.core.url_to_fs(where)
    opened = files.open(path, "wb")  # where that fails, what has the name is left alone
    try:
        with opened as handle:
            handle.write(content)
    except OSError:
        with suppress(OSError):  # half a picture or page is worse than none
            files.rm(path)
        raise


def curve_table(curve: LossCurve) -> Table:
    """Return the rows of a curve, the first one with the names of the columns; its control has one if there is one."""
    smoothed = [*curve.smoothed().tolist(), *[math.nan] * (len(curve) - len(curve.finite_loss))]
    columns = {"step": range(len(curve)), "lr": curve.lr, "loss": curve.loss, "smoothed_loss": smoothed}
    columns |= {"control_loss": curve.control} if curve.control else {}
    return [tuple(columns), *zip(*columns.values(), strict=True)]


def curves_table(curves: Mapping[str, LossCurve]) -> Table:
    """Return the rows of several curves one after the other; ``step`` is the number of steps that led to the loss."""
    table: list[Sequence[Any]] = [("series", "step", "lr", "train_loss", "val_loss")]
    for series, curve in curves.items():
        trained = dict(enumerate(zip(curve.lr, curve.loss, strict=True), start=1))
        validated = dict(zip(curve.val_steps, curve.val_loss, strict=True))
        steps = sorted({*trained, *validated})  # the loss after the last step may not have been seen
        table += [(series, step, *trained.get(step, ("", "")), validated.get(step, "")) for step in steps]
    return table


def _csv_text(rows: Table) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def as_saved(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ``result.json`` with these facts says when it is read."""
    content: dict[str, Any] = json.loads(_json_text(facts))
    return content


def _json_text(facts: Mapping[str, Any]) -> str:
    facts = _without_nan(plain({**facts, "versions": _versions()}))
    text = json.dumps(facts, indent=2, allow_nan=False, default=str)
    # A curve is for machines; each of its lists on one line leaves the rest readable for people.
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda found: " ".join(found[0].split()), text)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": version("torch"), "lightning": version(DISTRIBUTION)}
    with suppress(PackageNotFoundError):  # imported from a folder, without an installation
        found["pl_onecycle"] = version("pl_onecycle")
    return found
