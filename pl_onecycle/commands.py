"""`run_command`: the subcommands of ``pl-onecycle`` that show results which are there already, and train nothing.

``pl-onecycle report DIR...`` writes one page for several runs, ``pl-onecycle plot FILE...`` draws results side by side.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pl_onecycle.page import NoResult, Result, page_of_runs, read_results
from pl_onecycle.pictures import ProbePicture, SweepPicture, can_draw, draw_results, png_of
from pl_onecycle.report import write_page
from pl_onecycle.sentences import change


def run_command(arguments: Sequence[str]) -> bool:
    """Run ``report`` or ``plot``; return False where the arguments begin with neither.

    Args:
        arguments: Of the command line, without the name of the program.

    Raises:
        SystemExit: The arguments are wrong, with status 2, or there is nothing to show, with one sentence.
    """
    if not arguments or arguments[0] not in _COMMANDS:
        return False
    name, rest = arguments[0], arguments[1:]
    described, what, where, default, run = _COMMANDS[name]
    parser = argparse.ArgumentParser(f"pl-onecycle {name}", description=described)
    parser.add_argument("paths", nargs="+", metavar=what, help=where)
    parser.add_argument("-o", "--output", help=f"file to write; without it, {default} in the working directory")
    given = parser.parse_args(rest)
    try:
        print(run(_named(given.paths), given.output))
    except (NoResult, OSError, ModuleNotFoundError) as error:
        sys.exit(f"pl-onecycle {name}: {error}")
    return True


def _report(runs: dict[str, list[Result]], output: str | None) -> str:
    """Write a page that overlays runs, and return where it is."""
    pictures = _pictures(runs)
    # One panel more is as wide as the last one: a page shows a few, and its tables show all.
    static = {"all runs": png_of(draw_results(dict([*pictures.items()][:4])))} if pictures and can_draw() else {}
    page = page_of_runs(runs, static)
    if output is None:
        return write_page(os.getcwd(), page)
    return write_page(os.path.dirname(output) or ".", page, output)


def _plot(runs: dict[str, list[Result]], output: str | None) -> str:
    """Draw results side by side, and return where the picture is.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        NoResult: None of them has a curve.
    """
    pictures = _pictures(runs)
    if not pictures:
        raise NoResult("None of these results has a curve to draw.")
    path = output or os.path.join(os.getcwd(), "results.png")
    content = png_of(draw_results(pictures))
    with open(path, "wb") as file:
        file.write(content)
    return path


_COMMANDS = {
    "report": (
        *("Write one page that overlays several runs, from what they have saved.", "DIR"),
        *("a directory that a run has written", "report.html", _report),
    ),
    "plot": (
        *("Draw saved results side by side.", "FILE", "a result.json that a run has written, or a directory of some"),
        *("results.png", _plot),
    ),
}


def _named(paths: Sequence[str]) -> dict[str, list[Result]]:
    """Return the results in each path by the shortest name that differs from all others.

    Raises:
        NoResult: There is none in one of them.
    """
    whole = list(dict.fromkeys(os.path.abspath(path) for path in paths))
    # The directory of a result has the name of its search, and that of a run says little without its parents.
    parts = [path.removesuffix(f"{os.sep}result.json").strip(os.sep).split(os.sep) for path in whole]
    most = max(map(len, parts))
    tails = (["/".join(part[-count:]) for part in parts] for count in range(2, most + 1))
    names = next((tail for tail in tails if len(set(tail)) == len(tail)), ["/".join(part) for part in parts])
    return {name: read_results(path) for name, path in zip(names, whole, strict=True)}


def _pictures(runs: dict[str, list[Result]]) -> dict[str, SweepPicture | ProbePicture]:
    """Return what can be drawn, by run and search."""
    pictures: dict[str, SweepPicture | ProbePicture] = {}
    for name, results in runs.items():
        for result in results:
            found = "no suggestion" if result.value is None else change(result.before, result.value)
            title = f"{name}\n{result.title}: {found}"
            again = sum(1 for other in pictures if other == title or other.startswith(f"{title} ("))
            picture = picture_of(result)
            if picture is not None:
                pictures[f"{title} ({again + 1})" if again else title] = picture
    return pictures


def picture_of(result: Result) -> SweepPicture | ProbePicture | None:
    """Return the picture of a result as its run has drawn it, or None if it has no curve."""
    if result.curve is not None:
        return SweepPicture(
            result.curve,
            result.suggestion,
            reason=result.reason,
            before=result.before,
            trough=result.trough,
            coarse=result.coarse,
        )
    if result.candidates:
        return ProbePicture(
            result.title,
            result.candidates,
            result.chosen,
            over_lr=result.settings.get("mode") == "rise",
            reason=result.reason,
            values=result.candidate_values,
            rounds=result.rounds,
        )
    return None
