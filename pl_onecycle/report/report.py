"""`Report`: what a callback has to show, and `save`, which writes and logs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pl_onecycle._lightning import Logger, rank_zero_warn
from pl_onecycle.report.figures import can_draw
from pl_onecycle.report.files import Table, write_folder, write_picture
from pl_onecycle.report.loggers import log_candidate, log_sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pl_onecycle.curves import LossCurve


@dataclass(frozen=True)
class Report:
    """What there is to show of a result.

    Attributes:
        title: Whose result it is, for people.
        name: Name of the directory, and the first part of the names of logger curves.
        facts: Content of ``result.json`` besides the versions.
        tables: Functions that return rows, by the name of their CSV file; the first row names the columns.
        figures: Functions that draw, by the name of the picture.
        texts: Contents of further files by their name.
        sweeps: Curves for loggers, by their name below ``name``; ``""`` for `name` itself.
        candidates: The same for curves of candidates.
    """

    title: str
    name: str
    facts: Mapping[str, Any]
    tables: Mapping[str, Callable[[], Table]]
    figures: Mapping[str, Callable[[], Figure]]
    texts: Mapping[str, str] = field(default_factory=dict)
    sweeps: Mapping[str, LossCurve] = field(default_factory=dict)
    candidates: Mapping[str, LossCurve] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    """Where a report is, and its pictures as long as they are not drawn.

    Attributes:
        folder: Its directory, or None where none could be written.
        title: Whose result it is, for people.
        pictures: Functions that draw, by the name of the picture.
        facts: Content of ``result.json`` besides the versions.
    """

    folder: str | None = None
    title: str = ""
    pictures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def draw(self) -> dict[str, bytes]:
        """Draw the pictures, if matplotlib is installed, and return the files as PNG by the name of the picture.

        A picture that fails costs a warning, not the run.
        """
        drawn: dict[str, bytes] = {}
        for name, draw in self.pictures.items():
            if self.folder is None or not can_draw():
                return drawn
            try:
                drawn[name] = write_picture(self.folder, name, draw())
            except Exception as error:
                rank_zero_warn(f"{self.title}: the picture could not be drawn ({error}).")
        return drawn

    def __str__(self) -> str:
        """Return the end of a sentence that says where the report is."""
        if self.folder is None:
            return ""
        is_complete = not self.pictures or can_draw()
        return f"; see {self.folder}" + ("" if is_complete else " (no picture: matplotlib is not installed)")


def save(report: Report, root: str, loggers: Sequence[Logger]) -> Saved:
    """Write and log a report, except its pictures. What cannot be shown costs a warning, not the run.

    Args:
        report: What to show.
        root: The logger's directory or ``default_root_dir``, local or of any file system that fsspec knows.
        loggers: Of the Trainer.

    Returns:
        Where it is; its `Saved.draw` takes longer than a short range test.
    """
    folder = None
    try:
        tables = {name: rows() for name, rows in report.tables.items()}
        folder = write_folder(root, report.name, report.facts, tables, report.texts)
        tag = folder.rpartition("/")[2]
        for name, curve in report.sweeps.items():
            log_sweep(loggers, f"{tag}/{name}".rstrip("/"), curve)
        for name, curve in report.candidates.items():
            log_candidate(loggers, f"{tag}/{name}", curve)
    except Exception as error:  # a full disk, an unknown file system: not worth the run
        rank_zero_warn(f"{report.title}: the report could not be written ({error}).")
    return Saved(folder, report.title, report.figures, report.facts)
