"""`Report`: what a callback has to show, and `save`, which writes and logs it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pl_onecycle._lightning import Logger, rank_zero_warn
from pl_onecycle.pictures import can_draw
from pl_onecycle.report.files import Table, write_folder, write_picture
from pl_onecycle.report.loggers import Loggers, candidate_points, sweep_points
from pl_onecycle.report.sinks import Points

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

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
    """Where a report is, and what of it has not been shown.

    It holds no logger, as a callback that is pickled may hold it.

    Attributes:
        folder: Its directory, or None where none could be written.
        title: Whose result it is, for people.
        tag: What its names in loggers begin with.
        pictures: Functions that draw, by the name of the picture.
        facts: Content of ``result.json`` besides the versions.
        curves: Curves by their tag, for the loggers that get them at the end of a fit.
        failed: Indices of the loggers that have failed.
        drawn: The pictures that have been drawn, as PNG, by their name.
    """

    folder: str | None = None
    title: str = ""
    tag: str = ""
    pictures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)
    failed: frozenset[int] = frozenset()
    drawn: Mapping[str, bytes] = field(default_factory=dict)

    def draw(self, loggers: Sequence[Logger] = ()) -> Saved:
        """Draw, write and log the pictures, if matplotlib is installed; return what then has not been shown.

        A picture that fails costs a warning, not the run.
        """
        its, drawn = Loggers(loggers, self.title, self.failed), dict(self.drawn)
        for name, draw in self.pictures.items():
            if self.folder is None or not can_draw():
                break
            try:
                drawn[name] = write_picture(self.folder, name, draw())
            except Exception as error:
                rank_zero_warn(f"{self.title}: the picture could not be drawn ({error}).")
            else:
                its.log_picture(self.tag if len(self.pictures) == 1 else f"{self.tag}_{name}", _image(drawn[name]))
        return replace(self, pictures={}, failed=its.failed, drawn=drawn)

    def end(self, loggers: Sequence[Logger]) -> None:
        """Log what waits for the end of the fit."""
        Loggers(loggers, self.title, self.failed).log_curves(self.curves, at_end=True)

    def __str__(self) -> str:
        """Return the end of a sentence that says where the report is."""
        if self.folder is None:
            return ""
        is_complete = not self.pictures or can_draw()
        return f"; see {self.folder}" + ("" if is_complete else " (no picture: matplotlib is not installed)")


def save(report: Report, root: str, loggers: Sequence[Logger], failed: frozenset[int] = frozenset()) -> Saved:
    """Write and log a report, except its pictures. What cannot be shown costs a warning, not the run.

    Args:
        report: What to show.
        root: The logger's directory or ``default_root_dir``, local or of any file system that fsspec knows.
        loggers: Of the Trainer.
        failed: Indices of those that have failed.

    Returns:
        Where it is; its `Saved.draw` takes longer than a short range test.
    """
    its, curves = Loggers(loggers, report.title, failed), dict[str, Points]()
    folder, tag = None, report.name
    try:
        tables = {name: rows() for name, rows in report.tables.items()}
        folder = write_folder(root, report.name, report.facts, tables, report.texts)
        tag = folder.rpartition("/")[2]
        curves = {f"{tag}/{name}".rstrip("/"): sweep_points(curve) for name, curve in report.sweeps.items()}
        curves |= {f"{tag}/{name}": candidate_points(curve) for name, curve in report.candidates.items()}
    except Exception as error:  # a full disk, an unknown file system: not worth the run
        rank_zero_warn(f"{report.title}: the report could not be written ({error}).")
    else:
        its.log_curves(curves, at_end=False)
        its.log_folder(tag, folder)
    return Saved(folder, report.title, tag, report.figures, report.facts, curves, its.failed)


def _image(png: bytes) -> Image:
    from PIL import Image  # matplotlib needs it, too

    return Image.open(io.BytesIO(png))
