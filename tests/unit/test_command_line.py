"""The command line as a whole; what each command does is tested beside what it is about."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from ops.cli import COMMANDS, app
from ops.errors import explained


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert f" {name} " in shown.output.splitlines()[1]


def test_the_help_names_every_command():
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert all(f"│ {name} " in shown.output for name in COMMANDS)


def test_an_unknown_command_is_refused_with_exit_code_2():
    assert CliRunner().invoke(app, ["recomend"]).exit_code == 2


@pytest.mark.parametrize(
    ("path", "sentence"), [("", "Is a directory"), ("gone/page.html", "No such file or directory")]
)
def test_a_file_that_cannot_be_written_is_one_sentence_and_exit_code_2(tmp_path, capsys, path, sentence):
    file = tmp_path / path
    with pytest.raises(typer.Exit) as left, explained():
        file.write_text("page")
    assert left.value.exit_code == 2
    assert capsys.readouterr().err == f"{file}: {sentence}\n"


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(OSError, match="no file is named"), explained():
        raise OSError("no file is named")


@pytest.mark.parametrize("page", ["", "gone/page.html"])
@pytest.mark.parametrize(
    "command", [("train", "data", "--out", "new", "--report"), ("report", "model", "data", "--out")]
)
def test_a_page_that_could_not_be_written_is_refused_before_the_work(tmp_path, monkeypatch, command, page):
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, [*command, str(tmp_path / page)])
    assert told.exit_code == 2
    assert f"{tmp_path / page} can't be written" in told.stderr


def test_a_command_does_not_wait_for_what_others_import():
    code = "import sys, ops.request_command; sys.exit(any(name in sys.modules for name in ('numpy', 'torch', 'faust')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
