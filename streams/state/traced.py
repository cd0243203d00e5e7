"""Traces through the state stage: around its handlers, so that nothing is done or asked where tracing is off.

An action may come an hour after the list, from an app that knows nothing of traces. It then goes on with the trace of
its list, which is remembered in memory for the newest lists; a restart forgets them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from schemas.codec import DecodeError, decode
from schemas.records import Recommendation, Source
from schemas.topics import RECOMMENDATIONS
from streams.privacy import without_id
from streams.state.stage import Inbound, StateStage
from streams.tracing import Hop, Tracer

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

MOST_LISTS = 10_000


class StateTraces:
    """The traces of one process of the state stage."""

    def __init__(self, tracer: Tracer, stage: StateStage) -> None:
        self._tracer, self._stage = tracer, stage
        self._lists: dict[Source, SpanContext] = {}  # newest last

    def begin(self, record: Inbound) -> Hop | None:
        """Return the hop of a request; its trace begins here if its app has begun none."""
        return self._tracer.take(record.topic, record.partition, record.offset, record.headers, begins=True)

    def handling(self, handle: Callable[[Inbound], None]) -> Callable[[Inbound], None]:
        """Return a handler of records that does the same, traced."""

        def traced(record: Inbound) -> None:
            hop = self._tracer.take(record.topic, record.partition, record.offset, record.headers)
            written = len(self._stage.outbox)
            try:
                handle(record)
            except Exception as error:
                if hop is not None:
                    hop.failed(error)
                    hop.end()
                raise
            self._go_on(written, hop, f"process {record.topic.name}")
            if hop is not None:
                if record.topic is RECOMMENDATIONS:
                    self._remember(record, hop)
                hop.end()

        return traced

    def expiring(self, expire: Callable[[Mapping[int, int]], None]) -> Callable[[Mapping[int, int]], None]:
        """Return what closes windows, traced."""

        def traced(watermarks: Mapping[int, int]) -> None:
            written = len(self._stage.outbox)
            expire(watermarks)
            self._go_on(written, None, "close window")

        return traced

    def _go_on(self, written: int, hop: Hop | None, name: str) -> None:
        """Have what has been written since then carry the trace of what it comes of, or of the list it is about."""
        for number, outbound in enumerate(self._stage.outbox[written:], written):
            headers = hop.headers if hop is not None else []
            if hop is None and outbound.source in self._lists:
                following = self._tracer.follow(name, self._lists[outbound.source])
                headers = following.headers
                following.end()
            self._stage.outbox[number] = dataclasses.replace(outbound, headers=headers)

    def _remember(self, record: Inbound, hop: Hop) -> None:
        try:
            recommendation = decode(Recommendation, record.value)
        except DecodeError:
            return
        hop.named(without_id(recommendation.request_id, record.key or b"", self._stage.pseudonyms))
        self._lists[recommendation.source] = hop.span.get_span_context()
        if len(self._lists) > MOST_LISTS:
            del self._lists[next(iter(self._lists))]
