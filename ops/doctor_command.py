"""``tablecast doctor``: what is wrong, and what to do about it."""

import asyncio
import contextlib
import dataclasses
import json
import logging
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ops.cluster import connected
from ops.terminal import Terminal
from schemas.errors import ExplainedError
from streams.settings import SettingsError, load_settings

COLOURS = {"good": "green", "warning": "yellow", "wrong": "red"}


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """Check settings, packages, disk, model files, broker, topics, clocks and lag, and say what to fix.

    Changes nothing. Exit code 1 when something is wrong; warnings alone give 0.

    Example: tablecast doctor --json
    """
    from ops.doctor import Finding, examine

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what goes wrong is said once, in our own sentence
    try:
        settings = load_settings()
    except SettingsError as error:
        findings = [Finding("settings", "wrong", str(error), "correct it; README.md lists all settings")]
    else:
        findings = [Finding("settings", "good", "every setting is known and within its limits")]
        with contextlib.suppress(ExplainedError):  # without a cluster the broker's check says so
            settings = connected(settings)
        with Terminal(stderr=True).status("looking"):
            findings += asyncio.run(examine(settings))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], ensure_ascii=False))
    else:
        table = Table("check", "state", "found", "what to do")
        for finding in findings:
            table.add_row(finding.check, Text(finding.state, COLOURS[finding.state]), finding.found, finding.fix)
        Terminal().print(table)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)
