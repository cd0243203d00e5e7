"""``tablecast model``: versions in the store, and what each of them does."""

import asyncio
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
import typer
from rich.table import Table

from ops.cluster import connected
from ops.errors import explained
from ops.moments import shown
from ops.terminal import Terminal
from schemas.errors import BadInputError
from streams.logs import configure_logs
from streams.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from models.artefact import ModelManifest
    from schemas.records import ModelAnnouncement, Record, ScoredItem
    from schemas.topics import Topic

app = typer.Typer(help="Store model versions, and say which one answers whom.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Reason = Annotated[str, typer.Option(help="Why; it stays with the announcement.")]
Version = Annotated[str, typer.Argument(help="A version: as many of its digits as are needed to tell it from others.")]
Role = Literal["candidate", "canary", "shadow", "retired"]
R = TypeVar("R", bound="Record")


@app.command("list")
def list_command(*, as_json: AsJson = False) -> None:
    """Show the versions in the store with their roles, newest first.

    Example: tablecast model list
    """
    with explained():
        settings, store = _prepare()
        roles = asyncio.run(_roles(settings))
        rows = [_row(manifest, roles.get(manifest.name)) for manifest in store.versions()]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("model", "version", "role", "created", "parent", "metrics")
    for row in rows:
        share = f" {row['share']:.0%}" if row["role"] == "canary" else ""
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in row["metrics"].items())
        role = "rolled back" if row["rolled_back"] and row["role"] == "retired" else row["role"] or ""
        created = shown(row["created"])
        table.add_row(row["name"], row["version"], f"{role}{share}", created, row["parent"] or "", metrics)
    Terminal().print(table)


@app.command()
def show(version: Version) -> None:
    """Print a version's manifest: files, metrics, how it was trained.

    Example: tablecast model show 3f9a
    """
    with explained():
        _, store = _prepare(with_cluster=False)
        typer.echo(msgspec.json.format(msgspec.json.encode(_find(store.versions(), version)), indent=2).decode())


@app.command()
def publish(
    model: Annotated[str, typer.Argument(help="A model's folder, or a version in the store.")],
    *,
    role: Annotated[Role, typer.Option(help="What it is to do; retired ends a canary or a shadow.")] = "candidate",
    share: Annotated[float, typer.Option(min=0, max=1, help="Of users, for a canary.")] = 0.05,
    force: Annotated[bool, typer.Option("--force", help="Also what was rolled back as a canary before.")] = False,
    reason: Reason = "published by hand",
    as_json: AsJson = False,
) -> None:
    """Put a model into the store and announce its role. Old versions without a role are removed (models.keep).

    Example: tablecast model publish models/nyc --role canary --share 0.05
    """
    from models.roles import in_use, with_role
    from schemas.records import ModelVersion

    with explained():
        settings, store = _prepare()
        is_folder = Path(model).is_dir()
        version = store.put(Path(model)) if is_folder else _find(store.versions(), model).version
        manifest, sha256 = store.manifest(version)
        announced = ModelVersion(
            version=version,
            role=role,
            sha256=sha256,
            location=store.url,
            share=share if role == "canary" else 1.0,
            metrics=manifest.metrics,
        )
        held = _change(settings, manifest.name, lambda current: with_role(current, announced, reason, force=force))
        removed = store.prune(manifest.name, settings.models.keep, in_use(held) | {version})
    _print(manifest.name, held, as_json=as_json)
    for old in removed:
        typer.echo(f"removed {old} from the store", err=True)


@app.command()
def promote(
    version: Annotated[str | None, typer.Argument(help="A version; by default the canary.", show_default=False)] = None,
    *,
    reason: Reason = "promoted by hand",
    as_json: AsJson = False,
) -> None:
    """Make a version the champion, after checking it; the one before is retired, and kept for a rollback.

    Example: tablecast model promote 3f9a
    """
    from models.roles import RoleError, holder, promoted, with_role
    from schemas.records import ModelAnnouncement, ModelVersion

    with explained():
        settings, store = _prepare()
        name = settings.inference.model_name
        if version is None:
            canary = holder(asyncio.run(_roles(settings)).get(name), "canary")
            if canary is None:
                raise RoleError("there is no canary: name the version to promote")
            version = canary.version
        manifest = _find(store.versions(), version)
        sha256 = store.manifest(manifest.version)[1]
        store.fetch(manifest.version, sha256)  # what can't be fetched is not promoted

        def change(current: ModelAnnouncement | None) -> ModelAnnouncement:
            if current is not None and any(listed.version == manifest.version for listed in current.versions):
                return promoted(current, manifest.version, reason)
            announced = ModelVersion(
                version=manifest.version,
                role="champion",
                sha256=sha256,
                location=store.url,
                metrics=manifest.metrics,
            )
            return with_role(current, announced, reason)

        held = _change(settings, manifest.name, change)
    _print(manifest.name, held, as_json=as_json)


@app.command()
def rollback(*, reason: Reason = "rolled back by hand", as_json: AsJson = False) -> None:
    """Bring the former champion back; before the first, stages serve what they came with (inference.model).

    Example: tablecast model rollback --reason "click rate fell"
    """
    from models.roles import rolled_back

    with explained():
        settings, _ = _prepare()
        name = settings.inference.model_name
        held = _change(settings, name, lambda current: rolled_back(current, reason))
    _print(name, held, as_json=as_json)


@app.command()
def decisions(*, as_json: AsJson = False) -> None:
    """Show what was decided by figures alone: canaries promoted or rolled back, and trainings because of drift.

    Example: tablecast model decisions --json
    """
    from schemas.records import ModelDecision
    from schemas.topics import MODELS_DECISIONS

    with explained():
        settings, _ = _prepare()
        found = asyncio.run(_everything(settings, MODELS_DECISIONS, ModelDecision))
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    table = Table("decided", "version", "beside", "from", "to", "because")
    for one in found:
        since, until = (shown(time) if time else "" for time in (one.start, one.end))
        table.add_row(one.decision, one.version, one.champion or "", since, until, one.reason)
    Terminal().print(table)


@app.command()
def diff(first: Version, second: Version, *, as_json: AsJson = False) -> None:
    """Compare two versions: metrics, how they were trained, and which files differ.

    Example: tablecast model diff 3f9a 77c0
    """
    with explained():
        _, store = _prepare(with_cluster=False)
        versions = store.versions()
        rows = differing(_find(versions, first), _find(versions, second))
    if as_json:
        typer.echo(json.dumps({name: list(values) for name, values in rows.items()}))
        return
    table = Table("", first, second)
    for name, values in rows.items():
        table.add_row(name, *("" if value is None else str(value) for value in values))
    Terminal().print(table)


@app.command("shadow-report")
def shadow_report(*, as_json: AsJson = False) -> None:
    """Show how the shadow's lists differ from those that were answered, over what `models.shadow` keeps.

    Example: tablecast model shadow-report --json
    """
    from models.shadow_report import differences
    from schemas.records import ShadowComparison
    from schemas.topics import MODELS_SHADOW

    with explained():
        settings, _ = _prepare()
        reports = differences(asyncio.run(_everything(settings, MODELS_SHADOW, ShadowComparison)))
        if not reports:
            raise BadInputError("nothing has been compared: `tablecast model publish MODEL --role shadow` begins that")
    if as_json:
        typer.echo(msgspec.json.encode([asdict(report) for report in reports]).decode())
        return
    for report in reports:
        table = Table("", "", title=f"{report.shadow} beside {report.model}", show_header=False)
        for name, value in asdict(report).items():
            if name not in {"model", "shadow", "examples"}:
                table.add_row(name.replace("_", " "), "" if value is None else f"{value:,.4g}")
        Terminal().print(table)
        for example in report.examples:
            places = Table("answered", "because", "would have", "because", title=example.request_id)
            for answered, would_have in itertools.zip_longest(example.answered[:5], example.would_have[:5]):
                places.add_row(*_scored(answered), *_scored(would_have))
            Terminal().print(places)


def _scored(item: "ScoredItem | None") -> tuple[str, str]:
    """Return an item with its score, and the parts of the score that weigh most."""
    if item is None:
        return "", ""
    strongest = sorted(item.reasons.items(), key=lambda part: -abs(part[1]))[:3]
    return f"{item.item_id} {item.score:.2f}", " ".join(f"{name} {part:+.2f}" for name, part in strongest)


def differing(first: "ModelManifest", second: "ModelManifest") -> dict[str, tuple[Any, Any]]:
    """Return what differs between two manifests, by name: the value in each."""
    flat = [
        {
            "base": manifest.base,
            "parent": manifest.parent,
            "created": manifest.created,
            **{f"metrics.{name}": value for name, value in manifest.metrics.items()},
            **{f"training.{name}": value for name, value in manifest.training.items()},
            **{path: f"{file.size} bytes, {file.sha256[:12]}" for path, file in manifest.files.items()},
        }
        for manifest in (first, second)
    ]
    names = list(dict.fromkeys([*flat[0], *flat[1]]))
    return {name: (flat[0].get(name), flat[1].get(name)) for name in names if flat[0].get(name) != flat[1].get(name)}


def _prepare(*, with_cluster: bool = True) -> tuple[Settings, Any]:
    from models.store import ModelStore

    configure_logs("model", "warning")
    settings = load_settings()
    return connected(settings) if with_cluster else settings, ModelStore(settings.model_store)


async def _roles(settings: Settings) -> "Mapping[str, ModelAnnouncement]":
    from streams.model_roles import read_roles

    return await read_roles(settings.kafka)


def _change(
    settings: Settings, name: str, change: "Callable[[ModelAnnouncement | None], ModelAnnouncement]"
) -> "ModelAnnouncement":
    from streams.model_roles import change_roles

    held = asyncio.run(change_roles(settings.kafka, name, change))
    assert held is not None
    return held


async def _everything(settings: Settings, topic: "Topic", kind: "type[R]") -> "list[R]":
    """Return all records that a topic keeps."""
    from schemas.codec import decode
    from streams.follower import Follower

    found: list[R] = []

    async def on_records(records: Any) -> None:
        found.extend(decode(kind, record.value) for record in records)

    follower = Follower(settings.kafka, topic, on_records)
    try:
        await follower.start()
        await follower.wait_until_caught_up()
    finally:
        await follower.stop()
    return found


def _find(versions: "list[ModelManifest]", version: str) -> "ModelManifest":
    """Return the one version that begins so.

    Raises:
        BadInputError: there is none, or more than one.

    """
    found = [manifest for manifest in versions if manifest.version.startswith(version)]
    if len(found) != 1:
        what = "is not a version in the store" if not found else f"could be any of {len(found)} versions"
        raise BadInputError(f"{version!r} {what}: see `tablecast model list`")
    return found[0]


def _row(manifest: "ModelManifest", announcement: "ModelAnnouncement | None") -> dict[str, Any]:
    listed = next(
        (entry for entry in (announcement.versions if announcement else []) if entry.version == manifest.version), None
    )
    return {
        "name": manifest.name,
        "version": manifest.version,
        "role": listed.role if listed else None,
        "rolled_back": announcement is not None and manifest.version in announcement.rolled_back,
        "share": listed.share if listed else None,
        "created": manifest.created,
        "parent": manifest.parent,
        "base": manifest.base,
        "metrics": manifest.metrics,
    }


def _print(name: str, held: "ModelAnnouncement", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"name": name, **msgspec.to_builtins(held)}))
        return
    table = Table("version", "role", "share", title=f"{name}, generation {held.generation}")
    for version in held.versions:
        table.add_row(version.version, version.role, f"{version.share:.0%}" if version.role == "canary" else "")
    Terminal().print(table)
