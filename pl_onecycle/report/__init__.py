"""Show results to people: files, pictures in them, logger curves and progress bars.

A sink: everything flows in, nothing flows out. `Report` says what there is to show, and `save` shows it.
"""

from pl_onecycle.report.files import as_saved, curve_table, curves_table, write_page
from pl_onecycle.report.loggers import Loggers
from pl_onecycle.report.progress import Advance, progress_bar
from pl_onecycle.report.report import Report, Saved, save

__all__ = [
    "Advance",
    "Loggers",
    "Report",
    "Saved",
    "as_saved",
    "curve_table",
    "curves_table",
    "progress_bar",
    "save",
    "write_page",
]
