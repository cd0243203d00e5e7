"""The command line as a whole; what each command does is tested beside what it is about."""

import os
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


@pytest.mark.parametrize("command", [["request", "sushi"], ["topics", "list"], ["forget", "ann"]], ids=" ".join)
def test_a_cluster_that_is_not_there_is_one_sentence_and_exit_code_2(tmp_path, command):
    settings = {"TABLECAST_KAFKA__BOOTSTRAP": "127.0.0.1:1", "TABLECAST_DATA_DIR": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-m", "ops", *command], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert "Kafka can't be reached: 127.0.0.1:1 does not listen" in told.stderr
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize("bootstrap", ["host:port", "host:99999", "host:0", ":9092", "a:1,", "[::1"])
def test_a_cluster_that_has_no_address_is_one_sentence_and_exit_code_2(monkeypatch, bootstrap):
    monkeypatch.setenv("TABLECAST_KAFKA__BOOTSTRAP", bootstrap)
    told = CliRunner().invoke(app, ["topics", "list"])
    assert told.exit_code == 2
    assert f"kafka.bootstrap is {bootstrap!r}: write host:port" in told.stderr


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
