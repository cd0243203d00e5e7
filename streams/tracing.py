"""Traces: a request's way through all stages, told by OpenTelemetry spans and W3C headers of its records.

Without the setting ``tracing.export`` nothing is traced, and no header looked at. Whether a request is traced is
settled once: by the app that begins a trace, else by the state stage, for a share of them. What is not traced carries
no header. Spans name no users, and a request by its id without the user's.

Headers: https://www.w3.org/TR/trace-context/, names of attributes: OpenTelemetry's semantic conventions for messaging.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.topics import Topic
from streams.settings import Settings, SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanContext
    from opentelemetry.trace import Tracer as SpanMaker

REQUEST_ID = "tablecast.request_id"
MOST_LINKS = 100  # of a training run to the traces of its examples

Headers = Sequence[tuple[str, bytes]]


def tracer(settings: Settings, stage: str) -> "Tracer | None":
    """Return what makes the spans of this process; None: nothing is traced.

    Raises:
        SettingsError: the file can't be written.

    """
    return Tracer(settings, stage) if settings.tracing.export else None


def span_file(settings: Settings) -> Path | None:
    """Return the file that spans are written to; None: there is none."""
    export = settings.tracing.export
    return None if export is None or export.startswith(("http://", "https://")) else Path(export).expanduser()


class Tracer:
    """Makes the spans of one process and sends them away in the background."""

    def __init__(self, settings: Settings, stage: str) -> None:
        from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        provider = TracerProvider(
            # Training runs are few, and each is the end of many traces.
            sampler=ParentBased(TraceIdRatioBased(1.0 if stage == "trainer" else settings.tracing.share)),
            resource=Resource({SERVICE_NAME: f"tablecast-{stage}", SERVICE_INSTANCE_ID: settings.instance}),
        )
        provider.add_span_processor(BatchSpanProcessor(_exporter(settings)))  # the rest of them when the process ends
        self._spans = provider.get_tracer("tablecast")
        self._prefix = settings.kafka.prefix
        self._propagator = TraceContextTextMapPropagator()

    def take(
        self, topic: Topic, partition: int, offset: int, headers: Headers, *, begins: bool = False
    ) -> "Hop | None":
        """Return the hop of a record that was read; None: it is not traced.

        ``begins`` says that a trace may begin here, of a record whose producer has begun none.
        """
        from opentelemetry.trace import SpanKind, get_current_span

        if not headers and not begins:
            return None
        context = self._propagator.extract(_carrier(headers))
        if not begins and not get_current_span(context).get_span_context().is_valid:
            return None
        span = self._spans.start_span(
            f"process {topic.name}",
            context,
            SpanKind.CONSUMER,
            {
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.destination.name": self._prefix + topic.name,
                "messaging.destination.partition.id": str(partition),
                "messaging.kafka.offset": offset,
            },
        )
        return Hop(self._spans, span) if span.is_recording() else None

    def begin(self, name: str) -> "Hop":
        """Return the first hop of a new trace; the headers of one that is left out say so to those behind."""
        from opentelemetry.context import Context

        return Hop(self._spans, self._spans.start_span(name, Context()))

    def follow(self, name: str, before: "SpanContext") -> "Hop":
        """Return a hop that comes of an earlier one, whose record carried no header."""
        from opentelemetry.trace import NonRecordingSpan, set_span_in_context

        return Hop(self._spans, self._spans.start_span(name, set_span_in_context(NonRecordingSpan(before))))

    def link(self, hop: "Hop", records: Iterable[Headers]) -> None:
        """Say that a hop has made use of the records with these headers."""
        from opentelemetry.trace import get_current_span

        for headers in records:
            context = get_current_span(self._propagator.extract(_carrier(headers))).get_span_context()
            if context.is_valid:
                hop.span.add_link(context)


class Hop:
    """One record's way through one process: a span, and within it one for each phase, one after the other."""

    def __init__(self, spans: "SpanMaker", span: "Span") -> None:
        self._spans, self.span = spans, span
        self._since = time.time_ns()

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """What the records carry that come of it."""
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(self.span))
        return [(name, value.encode()) for name, value in carrier.items()]

    def named(self, request_id: str) -> None:
        """Say which request it is about; the id must not name the user."""
        self.span.set_attribute(REQUEST_ID, request_id)

    def reached(self, phase: str) -> None:
        """Note the end of a phase, which began where the last one ended."""
        from opentelemetry.trace import set_span_in_context

        now = time.time_ns()
        self._spans.start_span(phase, set_span_in_context(self.span), start_time=self._since).end(now)
        self._since = now

    def failed(self, error: BaseException) -> None:
        """Note an error: its class alone, as its text may quote a user."""
        from opentelemetry.trace import StatusCode

        self.span.set_attribute("error.type", type(error).__name__)
        self.span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        """End here."""
        self.span.end()


def _carrier(headers: Headers) -> dict[str, str]:
    return {name: value.decode("ascii", "replace") for name, value in headers if name in ("traceparent", "tracestate")}


def _exporter(settings: Settings) -> "SpanExporter":
    file = span_file(settings)
    if file is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(settings.tracing.export)
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Line by line at its end: all processes of a machine may share it.
        lines = file.open("a", encoding="utf-8", buffering=1)  # open as long as the process lives
    except OSError as error:
        raise SettingsError(f"tracing.export {file} can't be written: {error.strerror}") from error
    return ConsoleSpanExporter(out=lines, formatter=lambda span: span.to_json(indent=None) + "\n")
