"""What README and documentation show runs as it stands there, and names what exists."""

import re
import runpy
import sys
import textwrap
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from tests.faults import FAULTS
from tests.pages import DOCS, EXAMPLES, PAGES, ROOT, blocks, commands, is_known, new_side, run_command, run_page
from tests.scenarios import SCENARIOS

pytest.importorskip("sklearn", reason="the data of the pages come from scikit-learn")
SCRIPTS = [page for page in PAGES if blocks(page, "python")]
QUIET = ["--seed_everything=0", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
QUIET += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each page begins with."""
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as for a script
    names = runpy.run_path(str(EXAMPLES / "in_a_fit.py"))
    wanted = ("L", "torch", "Net", "loaders", "LRRangeTest", "configure_one_cycle")
    return {"__name__": "__main__", **{name: names[name] for name in wanted}}


# ---------------------------------------------------------------------------------------------- code
@pytest.mark.slow
@pytest.mark.parametrize("page", SCRIPTS)
def test_the_python_of_a_page_runs(page: str, namespace: dict[str, Any]) -> None:
    if "import optuna" in PAGES[page]:
        pytest.importorskip("optuna", reason="this page needs Optuna: pip install optuna")
    run_page(page, namespace)
    fitted = [it for it in namespace.values() if isinstance(it, pl.Trainer) and it.train_dataloader is not None]
    assert all(trainer.global_step > 0 for trainer in fitted)  # what else a page promises, it asserts itself


@pytest.mark.parametrize("name", ["in_a_fit", "tune_first"])
def test_the_quickstart_is_the_examples(name: str) -> None:
    code = (EXAMPLES / f"{name}.py").read_text().split('"""\n\n', maxsplit=1)[1]
    assert code in [block.text for block in blocks("docs/quickstart.md", "python")]
    assert f"examples/{name}.py" in PAGES["docs/quickstart.md"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["in_a_fit", "tune_first"])
def test_the_quickstart_trains_with_what_it_found(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as for a script
    with caplog.at_level("INFO"):
        names = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    trainer, said = names["trainer"], caplog.text
    assert trainer.global_step == 5 * 45  # 1,438 images in batches of 32
    (group,) = trainer.optimizers[0].param_groups
    if name == "in_a_fit":
        test, probe = trainer.callbacks[:2]
        assert said.index("LR range test: max_lr ") < said.index("Weight decay probe: weight_decay ")
        assert (group["max_lr"], group["weight_decay"]) == (test.suggestion.lr, probe.suggestion.value)
    else:
        result = names["result"]
        assert (group["max_lr"], group["weight_decay"]) == (result.max_lr, result.weight_decay)
        assert "Tuned Net" in capsys.readouterr().out


@pytest.mark.slow
def test_the_change_that_the_readme_shows_trains_with_the_found_learning_rate(namespace: dict[str, Any]) -> None:
    (change,) = blocks("README.md", "diff")
    method, _, rest = new_side(change.text).partition("\ntrainer")
    body = f"class Changed(Net):\n{textwrap.indent(method, '    ')}\ntrainer{rest}"
    exec(compile(body, "README.md", "exec"), namespace)
    trainer = namespace["trainer"]
    trainer.fit(namespace["Changed"](), *namespace["loaders"]())
    (group,) = trainer.optimizers[0].param_groups
    assert group["max_lr"] == trainer.callbacks[0].suggestion.lr


# -------------------------------------------------------------------------------------- command lines
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*will be overridden by")  # `--optimizer` in place of the module's own
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")])
def test_the_commands_of_a_page_run_or_are_known(
    page: str, namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [block for block in blocks(page, "python") if block.caption]
    for block in own:
        Path(block.caption).write_text(block.text)
    count = 0
    for words in commands(page):
        if own and words[0] in ("python", "pl-onecycle") and words[1] != "-m":
            monkeypatch.setitem(sys.modules, "train", None)  # each command is a process of its own
            monkeypatch.delitem(sys.modules, "train")
            run_command([*words, *QUIET], monkeypatch)
        else:
            assert is_known(words), words
        count += 1
    assert count > 0


# --------------------------------------------------------------------------------------- what is named
def test_the_table_of_fits_and_faults_names_all_that_are_tested_and_no_others() -> None:
    page = PAGES["docs/promised.md"]
    start = page.index("| fits, and their tests")
    rows = [row.split("|") for row in page[start:].partition("\n\n")[0].splitlines()[2:]]
    named = [[name.strip() for cell in re.findall(r"\*([^*]+)\*", row[1]) for name in cell.split(";")] for row in rows]
    assert sorted(name for names in named for name in names) == sorted([*SCENARIOS, *FAULTS])
    assert [row[2].strip() for row in rows] == [f"{len(names)} of {len(names)}" for names in named]


def test_every_file_that_a_page_names_exists() -> None:
    text = "\n".join(PAGES.values())
    named = re.findall(r"\b(?:tests|examples|benchmarks|docs)/[\w/]+\.(?:py|yaml|png|ipynb|md)", text)
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_link_of_a_page_leads_to_a_file() -> None:
    links = [
        (page, link)
        for page, text in PAGES.items()
        for link in re.findall(r"\]\(([^)#\s]+)", text)
        if not link.startswith("http")
    ]
    assert len(links) > 30
    assert [it for it in links if not (ROOT / it[0]).parent.joinpath(it[1]).exists()] == []


def test_the_readme_is_one_screen_and_its_picture_and_lines_are_those_of_the_gallery() -> None:
    readme = PAGES["README.md"]
    assert len(readme.split()) <= 900
    (source,) = re.findall(r'^Source = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    raw = source.replace("github.com", "raw.githubusercontent.com")
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", readme)
    assert picture == f"{raw}/main/docs/gallery/demo.png"
    (lines,) = blocks("README.md", "text")
    assert (DOCS / "gallery" / "demo.txt").read_text().startswith(lines.text)


def test_every_picture_of_the_gallery_is_shown() -> None:
    pictures = sorted(path.stem for path in (DOCS / "gallery").glob("*.png"))
    assert sorted(set(re.findall(r"gallery/(\w+)\.png", PAGES["docs/gallery.md"]))) == pictures
