"""The live view of `tablecast up`: what is asked, what is answered, and how the system is doing."""

import time
from collections import OrderedDict, deque

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ops.simulator.events import Event
from ops.simulator.publish import Statistics
from ops.stages import Stage
from schemas.records import Recommendation, Request

RECENT = 12
REMEMBERED_REQUESTS = 2_000
TRY = 'tablecast request "安静一点的川菜，人均80" --near 31.23,121.47 --weather rain'


class LiveView:
    """Collects what passes by and renders it."""

    def __init__(self, broker: str, stages: list[Stage]) -> None:
        self.statistics = Statistics()
        self.lag: dict[str, int] = {}
        self._broker, self._stages = broker, stages
        self._asked: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._recent: deque[tuple[str, str, str, str, str]] = deque(maxlen=RECENT)
        self._model = "-"
        self._answered: deque[float] = deque(maxlen=1000)
        self.degraded = 0
        self.first_answer: float | None = None
        self._started = time.monotonic()

    def add(self, event: Event) -> None:
        """Note a record that was posted or read."""
        match event.record:
            case Request() as request:
                context = request.context
                self._asked[request.request_id] = (request.text, (context.weather if context else None) or "")
                while len(self._asked) > REMEMBERED_REQUESTS:
                    self._asked.popitem(last=False)
            case Recommendation() as answer:
                if self.first_answer is None:
                    self.first_answer = time.monotonic() - self._started
                self._answered.append(time.monotonic())
                self._model = answer.model
                self.degraded += answer.degraded is not None
                text, _ = self._asked.pop(answer.request_id, ("", ""))
                first = answer.items[0] if answer.items else None
                self._recent.appendleft(
                    (
                        event.key,
                        text or "(no words)",
                        (first.name or first.item_id) if first else "(nothing fits)",
                        first.why if first else "",
                        answer.degraded or "",
                    )
                )

    def line(self) -> str:
        """Return the state as one line, for output that is not a terminal."""
        figures = self.statistics
        return (
            f"requests {figures.requests}  recommendations {figures.recommendations}  "
            f"p50 {_shown(figures.latency_ms(0.5), ' ms')}  p99 {_shown(figures.latency_ms(0.99), ' ms')}  "
            f"click rate {_percent(figures.click_rate)}  lag {sum(self.lag.values())}  model {self._model}"
        )

    def __rich__(self) -> Group:
        """Render the whole view."""
        figures = self.statistics
        now = time.monotonic()
        per_second = sum(1 for moment in self._answered if now - moment < 5) / 5
        numbers = Table.grid(padding=(0, 3))
        rows = [
            ("requests", f"{figures.requests:,}", "latency p50", _shown(figures.latency_ms(0.5), " ms")),
            ("recommendations", f"{figures.recommendations:,}", "latency p99", _shown(figures.latency_ms(0.99), " ms")),
            ("per second", f"{per_second:.1f}", "click rate", _percent(figures.click_rate)),
            ("degraded", f"{self.degraded:,}", "true click rate", _percent(figures.true_click_rate)),
            ("lag", "  ".join(f"{group} {lag}" for group, lag in self.lag.items()) or "-", "model", self._model),
            ("broker", self._broker, "restarts", "  ".join(f"{stage.name} {stage.restarts}" for stage in self._stages)),
        ]
        for row in rows:
            numbers.add_row(Text(row[0], "dim"), row[1], Text(row[2], "dim"), row[3])
        recent = Table("user", "asked", "first recommendation", "because", expand=True, box=None)
        for user, text, item, why, degraded in self._recent:
            recent.add_row(user, text, item, Text(degraded, "yellow") if degraded else why)
        return Group(
            Panel(numbers, title="tablecast · simulated city", title_align="left"),
            Panel(recent, title="just now", title_align="left"),
            Text("Try in another terminal: ", "dim").append(TRY, "default"),
        )


def _shown(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.0f}{unit}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
