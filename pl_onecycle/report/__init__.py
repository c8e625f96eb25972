"""Show results to people: files, figures, logger curves and progress bars.

A sink: everything flows in, nothing flows out. `Report` says what there is to show, and `save` shows it.
"""

from pl_onecycle.report.figures import (
    ProbePicture,
    SweepPicture,
    can_draw,
    draw_probe,
    draw_range_test,
    draw_results,
    draw_schedule,
    draw_tuning,
    png_of,
)
from pl_onecycle.report.files import as_saved, curve_table, curves_table, write_page
from pl_onecycle.report.loggers import Loggers
from pl_onecycle.report.progress import Advance, progress_bar
from pl_onecycle.report.report import Report, Saved, save

__all__ = [
    "Advance",
    "Loggers",
    "ProbePicture",
    "Report",
    "Saved",
    "SweepPicture",
    "as_saved",
    "can_draw",
    "curve_table",
    "curves_table",
    "draw_probe",
    "draw_range_test",
    "draw_results",
    "draw_schedule",
    "draw_tuning",
    "png_of",
    "progress_bar",
    "save",
    "write_page",
]
