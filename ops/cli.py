"""The command line. A command is imported when it is called: ``tablecast request`` answers before it has read the rest."""

import importlib
import sys

import click
import typer
from typer.core import TyperGroup

COMMANDS = {  # in the order of --help; of each, where its function, or its group of commands, is
    "up": "ops.up_command:up",
    "request": "ops.request_command:request",
    "topics": "ops.topics_command:app",
    "state": "ops.stage_commands:state",
    "inference": "ops.stage_commands:inference",
    "trainer": "ops.trainer_command:trainer",
    "model": "ops.model_command:app",
    "import": "ops.import_command:import_dataset",
    "train": "ops.train_command:train",
    "evaluate": "ops.evaluate_command:evaluate",
    "report": "ops.train_command:report",
    "export": "ops.export_command:export",
    "simulate": "ops.simulate_command:simulate",
    "replay": "ops.replay.command:replay",
    "backfill": "ops.backfill_command:backfill",
    "deadletters": "ops.dead_letters.command:app",
    "forget": "ops.forget_command:forget",
    "trace": "ops.trace_command:trace",
    "doctor": "ops.doctor_command:doctor",
    "bench": "ops.bench_command:app",
}


class _Commands(TyperGroup):
    """Imports what is called; all of it for ``--help``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click asks
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as click asks
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        found = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False)
            found.command(cmd_name)(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_Commands,
    help="Tablecast: a streaming real-time recommender driven by a fine-tuned language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _tablecast() -> None:
    """Tablecast: a streaming real-time recommender driven by a fine-tuned language model."""


def main() -> None:
    """Run the command line."""
    sys.exit(app())
