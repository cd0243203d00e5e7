"""The command line. A command is imported when it is called, so that an answer does not wait for all the others."""

import importlib
import sys
from typing import Any

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

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - as click has it
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - as click has it
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.Typer):
            group = typer.main.get_group(found)
            group.name = cmd_name
            return group
        alone = typer.Typer(add_completion=False)
        alone.command(cmd_name)(found)
        return typer.main.get_command(alone)


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
