"""The pages that people read, README and ``docs/``, and the code blocks in them.

A page is one script: its Python blocks run one after the other in one namespace, which begins with what
``examples/in_a_fit.py`` defines, the `Net` and the `loaders` of the quickstart. A block with a caption is a file of
that name. A line of a ``bash`` block is a command.
"""

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pl_onecycle import cli

ROOT = Path(__file__).parents[1]
README, DOCS, EXAMPLES = ROOT / "README.md", ROOT / "docs", ROOT / "examples"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (README, *sorted(DOCS.rglob("*.md")))
    if "_build" not in path.parts
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: ``"python"``, ``"bash"``, ``"diff"``, ...
        caption: Name of the file that the block shows; an empty string for none.
        text: Its lines.
    """

    language: str
    caption: str
    text: str


def blocks(page: str, *languages: str) -> list[Block]:
    """Return the blocks of a page in these languages, in order."""
    fences = r"^```(?:\{code-block\} )?(\w+)\n(?::caption: (\S+)\n\n)?(.*?)^```$"
    found = re.findall(fences, PAGES[page], flags=re.DOTALL | re.MULTILINE)
    return [Block(*parts) for parts in found if parts[0] in languages]


def new_side(diff: str) -> str:
    """Return the text after a change."""
    return "".join(f"{line[1:]}\n" for line in diff.splitlines() if not line.startswith("-"))


# ---------------------------------------------------------------------------------------- to run them
def run_page(page: str, namespace: dict[str, Any]) -> None:
    """Run the Python blocks of a page, and write its files to the working directory."""
    for block in blocks(page, "python", "yaml"):
        if block.caption:
            Path(block.caption).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, page, "exec"), namespace)


def commands(page: str) -> Iterator[list[str]]:
    """Yield the words of each command of a page, without comments."""
    for block in blocks(page, "bash"):
        for line in block.text.splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def is_known(words: list[str]) -> bool:
    """Whether a command installs an extra, makes a target or runs a script of the project, as they are today."""
    if words[:2] == ["pip", "install"]:
        _, _, project = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")
        named = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[2])
        extras = named.group(1).split(",") if named and named.group(1) else []
        return named is not None and {*extras} <= {*re.findall(r"^(\w+) = \[", project, flags=re.MULTILINE)}
    if words[0] == "make":
        return f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
    if words[0] == "python" and words[1].partition("/")[0] in {"examples", "benchmarks", "docs"}:
        script = (ROOT / words[1]).read_text()
        flags = [word for word in words[2:] if word.startswith("--") and "." not in word]
        return all(f'"{flag}"' in script for flag in flags)
    return False


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``pl-onecycle ...`` or ``python FILE ...`` in this process and the working directory."""
    name, *rest = words if words[0] == "pl-onecycle" else words[1:]
    monkeypatch.setattr(sys, "argv", [name, *rest])
    monkeypatch.syspath_prepend(".")
    if name == "pl-onecycle":
        cli.main()
    else:
        runpy.run_path(name, run_name="__main__")
