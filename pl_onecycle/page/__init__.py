"""One page a run: results and what was played -> HTML that needs nothing but itself.

Pure: a page is made of what ``result.json`` says, and so it is the same for a run that has just ended and for one of
last year.
"""

from pl_onecycle.page.document import RunPage, page_of_run, page_of_runs, summary
from pl_onecycle.page.hindsight import Hindsight, hindsight
from pl_onecycle.page.played import Plan, Played, planned
from pl_onecycle.page.results import NoResult, Result, read_results, results_in

__all__ = [
    "Hindsight",
    "NoResult",
    "Plan",
    "Played",
    "Result",
    "RunPage",
    "hindsight",
    "page_of_run",
    "page_of_runs",
    "planned",
    "read_results",
    "results_in",
    "summary",
]
