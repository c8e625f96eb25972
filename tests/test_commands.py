"""``pl-onecycle report`` and ``pl-onecycle plot`` show what runs have saved, and say in a sentence what is wrong."""

import json
import sys
from pathlib import Path

import pytest

from pl_onecycle import commands
from pl_onecycle.commands import run_command
from tests.page import made

PNG = b"\x89PNG\r\n"


def test_report_writes_a_page_of_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", str(made.good().root), str(made.diverged().root), "-o", str(tmp_path / "all.html")])
    assert capsys.readouterr().out == f"{tmp_path / 'all.html'}\n"
    page = (tmp_path / "all.html").read_text()
    for run in (made.good(), made.diverged()):
        assert f"{run.result['suggestion']['lr']:.4g}" in page
        assert run.root.name in page
    assert 'src="data:image/png;base64,iVBOR' in page


def test_report_without_an_output_overwrites_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("report.html", "report_1.html"):
        run_command(["report", str(made.refused().root)])
        assert capsys.readouterr().out == f"{Path.cwd() / name}\n"
        assert Path(name).exists()


def test_runs_of_the_same_name_are_told_apart_by_their_parents(tmp_path: Path) -> None:
    for run in ("a", "b"):
        (folder := tmp_path / run / "version_0" / "lr_range_test").mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(made.refused().result))
    run_command(["report", *(str(tmp_path / run / "version_0") for run in ("a", "b")), "-o", "report.html"])
    page = Path("report.html").read_text()
    assert "a/version_0" in page
    assert "b/version_0" in page


def test_plot_draws_files_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from matplotlib.image import imread

    files = [str(run.root / "lr_range_test" / "result.json") for run in (made.good(), made.refused(), made.diverged())]
    widths = []
    for count in (1, 2, 3):
        run_command(["plot", *files[:count], "-o", str(tmp_path / f"{count}.png")])
        widths.append(imread(tmp_path / f"{count}.png").shape[1])
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{count}.png") for count in (1, 2, 3)]
    assert widths == [672, 1248, 1872]  # 5.2 inches a panel at 120 dots, 5.6 for a single one


def test_plot_writes_to_the_working_directory(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(["plot", str(made.good().root)])
    assert Path("results.png").read_bytes().startswith(PNG)
    assert capsys.readouterr().out == f"{Path.cwd() / 'results.png'}\n"


@pytest.mark.parametrize("command", ["report", "plot"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "There is no file or directory"),
        ("{", "is not a result.json of pl_onecycle"),
        ('{"loss": 1}', "is not a result.json of pl_onecycle"),
    ],
    ids=["no file", "half", "foreign"],
)
def test_bad_input_is_one_sentence_and_no_file(
    command: str, content: str | None, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "result.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit) as raised:
        run_command([command, str(made.good().root), str(file)])
    assert str(raised.value).startswith(f"pl-onecycle {command}: ")
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("command", ["report", "plot"])
def test_no_path_is_a_wrong_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        run_command([command])
    assert raised.value.code == 2
    assert "the following arguments are required" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in ("report", "plot"):
        with pytest.raises(SystemExit, match=f"^pl-onecycle {command}: "):
            run_command([command, str(made.good().root), "-o", str(tmp_path / "file" / "x")])


def test_without_matplotlib_a_report_has_no_picture_and_plot_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "pl_onecycle.pictures.figure", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(commands, "can_draw", lambda: False)
    run_command(["report", str(made.good().root)])
    assert "<img" not in Path("report.html").read_text()
    with pytest.raises(SystemExit, match=r"^pl-onecycle plot: Pictures need matplotlib"):
        run_command(["plot", str(made.good().root)])


def test_results_without_a_curve_have_nothing_to_plot(tmp_path: Path) -> None:
    content = {**made.refused().result, "curve": None}
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=r"^pl-onecycle plot: None of these results has a curve to draw.$"):
        run_command(["plot", str(tmp_path)])


@pytest.mark.parametrize("arguments", [[], ["fit"], ["--report"], ["tune", "report"]])
def test_other_command_lines_are_left_to_others(arguments: list[str]) -> None:
    assert not run_command(arguments)
