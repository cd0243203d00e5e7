"""``tablecast trainer``: the stage that turns feedback into the next model."""

import asyncio
from typing import Annotated

import msgspec
import typer

from ops.cluster import connected
from ops.errors import explained
from ops.terminal import Terminal


def trainer(
    *,
    once: Annotated[bool, typer.Option(help="Train now on the examples there are, and end.")] = False,
    repeat: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Train a version of the store again and say whether it is the same."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --repeat: print the comparison as JSON.")] = False,
) -> None:
    """Run the trainer stage: learns from feedback and announces candidates. One works on a model, others stand by.

    Example: tablecast trainer --once

    Example: tablecast trainer --repeat 3f2a90c1d45b6e78
    """
    from streams.logs import configure_logs
    from streams.privacy import load_pseudonyms
    from streams.process import run_until_signalled
    from streams.settings import load_settings
    from streams.trainer.app import TrainerApp
    from streams.trainer.repeat import repeat as train_again

    with explained():
        settings = connected(load_settings())
        pseudonyms = load_pseudonyms(settings)
        configure_logs("trainer", settings.log_level)
        if repeat is None:
            work = TrainerApp.run_once if once else TrainerApp.run
            run_until_signalled(lambda stop: work(TrainerApp(settings, pseudonyms), stop))
            return
        with Terminal(stderr=True).status(f"training {repeat} again"):
            found = asyncio.run(train_again(settings, pseudonyms, repeat))
    if as_json:
        typer.echo(msgspec.json.encode({**msgspec.structs.asdict(found), "same": found.same}))
    elif found.same:
        Terminal().print(f"{found.range}: the same weights, version {found.version}")
    else:
        Terminal().print(
            f"{found.range}: version {found.repeated} instead of {found.version}; "
            f"{found.erased} examples of users to be forgotten were left out, and the catalogue is "
            + ("the same" if found.same_catalogue else "another: it has been compacted since"),
            style="yellow",
        )
    raise typer.Exit(0 if found.same else 1)
