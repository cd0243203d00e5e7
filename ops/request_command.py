"""``tablecast request``: ask as an app would, and print the answer."""

import asyncio
import json
import logging
import time
import uuid
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition
from rich.table import Table

from ops.cluster import connected
from ops.errors import explained
from ops.progress import progress_bar
from ops.terminal import Terminal
from schemas.codec import decode, encode
from schemas.domains import pack_for
from schemas.errors import BadInputError, ExplainedError
from schemas.records import Constraints, Context, Location, Recommendation, Request
from schemas.topics import RECOMMENDATIONS, USERS_REQUESTS
from streams.kafka import client_options, full_name
from streams.settings import Settings, load_settings
from streams.tracing import tracer

if TYPE_CHECKING:
    from models.word_attributions import TextScore


class NoAnswerError(ExplainedError):
    """Nothing came back in time."""


def request(
    text: Annotated[str, typer.Argument(help="What you are looking for, in any language.")] = "",
    *,
    near: Annotated[str | None, typer.Option(help="Latitude,longitude, such as 31.23,121.47.")] = None,
    weather: Annotated[str | None, typer.Option(help="rain, sunny, hot, cold or snow.")] = None,
    company: Annotated[str | None, typer.Option(help="alone, couple, friends, family or business.")] = None,
    user: Annotated[str, typer.Option(help="Who asks; what a user did before shapes the list.")] = "guest",
    domain: Annotated[str, typer.Option(help="A domain pack: restaurant, travel, shop.")] = "restaurant",
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=1000, help="Length of the list.")] = 10,
    max_price: Annotated[float | None, typer.Option(min=0, help="Nothing dearer than this.")] = None,
    max_distance: Annotated[float | None, typer.Option(min=1, help="Nothing farther, in metres.")] = None,
    open_now: Annotated[bool, typer.Option("--open-now", help="Only what is open.")] = False,
    category: Annotated[list[str] | None, typer.Option(help="Any of these; may be repeated.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 10.0,
    why: Annotated[
        bool, typer.Option("--why", help="Also print which words moved the first item's text score, and how much.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the recommendation as JSON.")] = False,
) -> None:
    """Post one request and print the ranked list with its reasons.

    Example: tablecast request "安静一点的川菜，人均80" --near 31.23,121.47 --weather rain

    Example: tablecast request "somewhere cosy near the river, it's raining" --near 31.23,121.47 --open-now

    Example: tablecast request "安静一点的川菜" --why
    """
    with explained():
        if why and not text.strip():
            raise BadInputError("--why says which words moved a score: give some")
        pack_for(domain)
        constraints = Constraints(
            price_max=max_price,
            max_distance=max_distance,
            open_at="now" if open_now else None,
            categories=category or [],
        )
        asked = Request(
            request_id=uuid.uuid4().hex,
            domain=domain,
            text=text,
            k=k,
            constraints=constraints if constraints != Constraints() else None,
            context=Context(location=_location(near), weather=weather, company=company),
        )
        decode(Request, encode(asked))  # the contract's own limits, before anything is posted
        settings = connected(load_settings())
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what goes wrong is said once, in our own sentence
        answer, milliseconds = asyncio.run(_ask(settings, user, asked, timeout))
        words = _words(settings, asked, answer) if why and answer.items else None
    if as_json:
        told = msgspec.to_builtins(answer)
        if words:
            told["text_score"] = words._asdict() | {"words": [word._asdict() for word in words.words]}
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    _print(answer, milliseconds)
    if words:
        from ops.request_words import shaded

        first = answer.items[0]
        console = Terminal()
        console.print(
            f"text score of {first.name or first.item_id}: {words.score:+.2f}, without words {words.without:+.2f}"
        )
        console.print(shaded(words))


def _words(settings: Settings, asked: Request, answer: Recommendation) -> "TextScore":
    from ops.request_words import catalogue_items, words_that_moved

    items = asyncio.run(catalogue_items(settings, asked.domain, answer.items[0].item_id))
    with progress_bar() as progress:
        task = progress.add_task("reading items", total=None)
        return words_that_moved(
            settings, asked, answer, items, lambda done, of: progress.update(task, completed=done, total=of)
        )


async def _ask(settings: Settings, user: str, asked: Request, timeout: float) -> tuple[Recommendation, float]:
    options = client_options(settings.kafka)
    answers = full_name(settings.kafka, RECOMMENDATIONS)
    producer = AIOKafkaProducer(**options)
    consumer = AIOKafkaConsumer(**options, isolation_level="read_committed")
    spans = tracer(settings, "app")
    hop = spans.begin("ask") if spans is not None else None
    await asyncio.gather(producer.start(), consumer.start())
    try:
        partitions = [TopicPartition(answers, number) for number in sorted(await producer.partitions_for(answers))]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        for partition, offset in ends.items():
            consumer.seek(partition, offset)
        started = time.perf_counter()
        name, headers = full_name(settings.kafka, USERS_REQUESTS), hop.headers if hop is not None else None
        await producer.send_and_wait(name, encode(asked), user.encode(), headers=headers)
        async with asyncio.timeout(timeout):
            async for record in consumer:
                answer = decode(Recommendation, record.value)
                if answer.request_id == asked.request_id:
                    return answer, (time.perf_counter() - started) * 1000
    except TimeoutError as error:
        raise NoAnswerError(
            f"no answer within {timeout:g} s: are the state and inference stages running? (`tablecast up` runs both)"
        ) from error
    finally:
        if hop is not None:
            hop.end()
        # What clients say about a broker that went away meanwhile would hide the sentence above.
        await asyncio.gather(producer.stop(), consumer.stop(), return_exceptions=True)
    raise AssertionError("a consumer without an end has ended")


def _print(answer: Recommendation, milliseconds: float) -> None:
    table = Table("", "item", "score", "why", "parts of the score", title=f"{answer.model}, {milliseconds:.0f} ms")
    for place, item in enumerate(answer.items, 1):
        parts = " ".join(f"{name} {value:+.2f}" for name, value in item.reasons.items())
        table.add_row(str(place), item.name or item.item_id, f"{item.score:.3f}", item.why, parts)
    console = Terminal()
    console.print(table)
    if answer.understood:
        console.print(f"understood: {answer.understood.phrase}")
    if answer.degraded:
        console.print(f"degraded: {answer.degraded}", style="yellow")


def _location(text: str | None) -> Location | None:
    if text is None:
        return None
    try:
        lat, lon = (float(number) for number in text.split(","))
    except ValueError as error:
        raise BadInputError(f"--near takes latitude,longitude such as 31.23,121.47, not {text!r}") from error
    return Location(lat=lat, lon=lon)
