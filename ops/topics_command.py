"""``tablecast topics``: create the topics, see what differs."""

import asyncio
import json
import logging
from typing import Annotated, NoReturn

import typer
from rich.table import Table

from ops.dead_letters.letters import DECISIONS
from ops.errors import explained
from ops.terminal import Terminal
from schemas.access import ROLES
from schemas.topics import TOPICS
from streams.acls import ANY_HOST, Pattern, acls_of, apply_acls
from streams.kafka import full_name
from streams.settings import Settings, SettingsError, load_settings
from streams.state.changelogs import CHANGELOGS
from streams.topic_admin import ExistingTopic, Plan, TopicsError, apply_topics, existing_topics

app = typer.Typer(help="Create the topics and compare them with the contract.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("apply")
def apply_command(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Also change topics that exist and differ from the contract.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create missing topics; refuse to shrink or silently change one.

    Example: tablecast topics apply --dry-run
    """
    settings = _settings()
    try:
        todo = asyncio.run(
            apply_topics(settings.kafka, extra=(*CHANGELOGS, DECISIONS), dry_run=dry_run, allow_changes=allow_changes)
        )
    except TopicsError as error:
        _fail(str(error))
    if as_json:
        typer.echo(json.dumps(_plan_as_json(todo), ensure_ascii=False))
    elif todo.changes:
        table = Table("topic", "would be done" if dry_run else "done")
        for change in todo.changes:
            table.add_row(change.name, str(change))
        Terminal().print(table)
    else:
        typer.echo("every topic is as the contract says")
    if todo.refusals:
        _fail("; ".join(todo.refusals))


@app.command("list")
def list_command(*, as_json: AsJson = False) -> None:
    """Show every topic of the contract and what the cluster has of it.

    Example: tablecast topics list --json
    """
    kafka = _settings().kafka
    names = {topic: full_name(kafka, topic) for topic in TOPICS}
    try:
        existing = asyncio.run(existing_topics(kafka, names.values()))
    except TopicsError as error:
        _fail(str(error))
    if as_json:
        rows = [
            {
                "topic": name,
                "record": topic.record.__name__,
                "key": topic.key,
                "cleanup": topic.cleanup,
                "partitions": topic.partitions(kafka.partitions),
                "existing_partitions": existing[name].partitions if name in existing else None,
            }
            for topic, name in names.items()
        ]
        typer.echo(json.dumps(rows))
        return
    table = Table("topic", "carries", "record", "key", "cleanup", "on the cluster")
    for topic, name in names.items():
        on_cluster = _described(existing.get(name))
        table.add_row(name, topic.purpose, topic.record.__name__, topic.key, topic.cleanup, on_cluster)
    Terminal().print(table)


@app.command("acls")
def acls_command(
    *,
    role: Annotated[list[str] | None, typer.Option(help="Only these roles; may be repeated.")] = None,
    user: Annotated[str | None, typer.Option(help="Who has the role, with one --role; else each role's name.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Give the permissions, as a user who may alter ACLs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the permissions that each role needs, and with --apply give them; none is ever taken away.

    Example: tablecast topics acls --role app --user shop-frontend --apply
    """
    known = {entry.name: entry for entry in ROLES}
    chosen = role or list(known)
    if unknown := sorted(set(chosen) - set(known)):
        _fail(f"no role {', '.join(unknown)}: the roles are {', '.join(known)}")
    if user is not None and len(chosen) != 1:
        _fail("--user names the user of one role: give --role once with it")
    kafka = _settings().kafka
    acls = [acl for name in chosen for acl in acls_of(kafka, known[name], user or name)]
    if apply:
        with explained():
            asyncio.run(apply_acls(kafka, acls))
    if as_json:
        rows = [
            {
                "principal": acl.principal,
                "resource": acl.resource.name,
                "pattern": acl.pattern.name,
                "name": acl.name,
                "operation": acl.operation.name,
                "permission": "ALLOW",
                "host": ANY_HOST,
            }
            for acl in acls
        ]
        typer.echo(json.dumps(rows))
        return
    table = Table("who", "may", "on", title="given" if apply else "needed; --apply gives them")
    for acl in acls:
        name = f"{acl.name}*" if acl.pattern is Pattern.PREFIXED else acl.name
        table.add_row(
            acl.principal,
            acl.operation.name.lower().replace("_", " "),
            f"{acl.resource.name.lower().replace('_', ' ')} {name}",
        )
    Terminal().print(table)


def _described(topic: ExistingTopic | None) -> str:
    if topic is None:
        return "missing"
    return f"{topic.partitions} partition{'s' if topic.partitions != 1 else ''}"


def _plan_as_json(todo: Plan) -> dict[str, list[dict[str, str]] | list[str]]:
    return {
        "changes": [{"topic": change.name, "change": str(change)} for change in todo.changes],
        "refusals": list(todo.refusals),
    }


def _settings() -> Settings:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what goes wrong is said once, in our own sentence
    try:
        return load_settings()
    except SettingsError as error:
        _fail(str(error))


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(2)
