"""The command line as a whole; what each command does is tested beside what it is about."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ops.cli import COMMANDS, app


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


def test_a_command_does_not_wait_for_what_others_import():
    code = "import sys, ops.request_command; sys.exit(any(name in sys.modules for name in ('numpy', 'torch', 'faust')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
