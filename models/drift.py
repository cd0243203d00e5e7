"""Whether inputs, calibration or click rate have moved away from what the model was trained on.

The reference, histograms of the training examples, goes into the training manifest; windows of event time are held
against it. An input's **population stability index** (Siddiqi, "Credit risk scorecards", 2006) is

    PSI = sum over bins of (now - then) * ln(now / then)

Without any drift it is not 0 but about (1/n + 1/N) times a chi-square variable with bins - 1 degrees of freedom
(Yurdakul and Naranjo, "Statistical properties of the population stability index", 2020), so an input has moved when its
PSI is both large and larger than that. Everything is read from the joined request and what was shown: no input is
particular to a domain.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import NormalDist
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import numpy as np

from models.places import distances, unit_vector
from models.shown_lists import ShownList
from models.texts import language_of
from schemas.codec import decode
from schemas.records import Item, JoinedRequest, TrainingExample

Input = str | float

BINS = 10  # of numbers: tenths of the training examples
NEARLY = 0.9  # of a period: the first and the last example are not at its very ends
NAMES = 30  # of words: the most frequent ones; all others are one bin
OTHER = "other"
LARGE = 0.2  # PSI; the field's rule of thumb calls 0.1 a small and 0.25 a large shift, and retraining is not free
CALIBRATION_LARGE = 0.15  # rise of the expected calibration error, relative: 20% clicks were promised and 17% came
CLICK_RATE_LARGE = 0.1  # change of the click rate, relative: less than that comes and goes with the weather
BY_CHANCE = 0.001  # probability with which one check of one window finds something without any drift
LEAST_EXAMPLES = 200  # in a window; below it nothing is said
DAY_MS = 86_400_000
PERIODS_MS = {"hour": DAY_MS, "weekend": 7 * DAY_MS}  # of inputs that come round: less than a whole one says nothing


class Observation(msgspec.Struct, frozen=True):
    """One list that was shown, as drift sees it."""

    time: int  # event time of the request, milliseconds
    inputs: dict[str, list[Input]]  # what the model saw, of some several values
    clicked: list[bool]  # of each item shown
    predicted: list[float] = []  # click probability the model gave each item shown, where it gives any


class Histogram(msgspec.Struct, frozen=True):
    """How an input was distributed: numbers by ``edges``, words by ``names``; the last of ``counts`` is the rest."""

    counts: list[int]
    edges: list[float] = []  # inner edges of the bins, ascending
    names: list[str] = []


class Reference(msgspec.Struct, frozen=True):
    """What a training manifest keeps: JSON through ``msgspec``."""

    examples: int
    inputs: dict[str, Histogram]
    clicks: int
    shown: int
    calibration_error: float | None  # None: the model predicted no probabilities
    span_ms: int = 0  # of event time, from the first example to the last


class Moved(msgspec.Struct, frozen=True):
    """One check of a window."""

    name: str
    value: float  # PSI, calibration error or click rate
    limit: float  # beyond which it has moved; for the click rate, the change that would be too much
    moved: bool
    sentence: str


class DriftReport(msgspec.Struct, frozen=True):
    """What a window of event time looks like beside the training examples, the most moved first."""

    start: int  # event times, milliseconds: from `start`, before `end`
    end: int
    examples: int
    checks: list[Moved]

    @property
    def moved(self) -> bool:
        """Tell whether anything has."""
        return any(check.moved for check in self.checks)


def observation(
    example: TrainingExample | ShownList,
    items: Mapping[str, Item],
    predicted: Sequence[float] = (),
    scores: Sequence[float] = (),
) -> Observation:
    """Return what drift looks at in a training example, or in a list put together from its examples.

    Args:
        example: what was shown and what came of it.
        items: the catalogue, as far as it is known; what is missing is left out.
        predicted: click probability of each item shown, if the model gives any.
        scores: score of each item shown, if they are known.

    """
    joined = decode(JoinedRequest, bytes(example.joined))
    request, context = joined.request, joined.context
    known = [items[shown.item_id] for shown in example.shown if shown.item_id in items]
    inputs: dict[str, list[Input]] = {
        "hour": [str(_local(joined.event_time, context.time_zone).hour)],
        "weekend": [str(_local(joined.event_time, context.time_zone).weekday() >= 5)],
        "domain": [request.domain],
        "language": [language_of(request.text) if request.text.strip() else "no text"],
        "text length": [float(len(request.text.strip()))],
        "places asked for": [float(request.k)],
        "constraints": [str(request.constraints is not None)],
        "history": [float(len(joined.history.item))],
        "location": [str(context.location is not None)],
        "weather": [context.weather or "unknown"],
        "device": [context.device or "unknown"],
        "company": [context.company or "unknown"],
        "shown category": [category for item in known for category in item.categories[:1]],
        "shown price": [item.price for item in known if item.price is not None],
        "score": list(scores),
    }
    if context.location is not None:
        located = [item.location for item in known if item.location is not None]
        points = np.array([unit_vector(location) for location in located]).reshape(-1, 3)
        inputs["shown distance"] = list(distances(points, unit_vector(context.location)).tolist())
    return Observation(
        joined.event_time,
        {name: values for name, values in inputs.items() if values},
        [shown.label > 0 for shown in example.shown],
        list(predicted),
    )


def reference_of(observations: Iterable[Observation]) -> Reference:
    """Return what the observations of the training examples look like, to be kept in the training manifest."""
    seen = list(observations)
    clicked = [clicked for one in seen for clicked in one.clicked]
    calibration = _calibration_of(seen)
    return Reference(
        examples=len(seen),
        inputs={name: _histogram(values) for name, values in _columns(seen).items()},
        clicks=sum(clicked),
        shown=len(clicked),
        calibration_error=calibration.error if calibration else None,
        span_ms=_span(seen),
    )


def windows(observations: Iterable[Observation], length_ms: int) -> dict[int, list[Observation]]:
    """Return the observations by the start of their window of event time, in order of time.

    Whole days are windows that can be compared: an hour always differs from a day in its hours.
    """
    found: dict[int, list[Observation]] = defaultdict(list)
    for one in observations:
        found[one.time // length_ms * length_ms].append(one)
    return dict(sorted(found.items()))


def drift(reference: Reference, observations: Iterable[Observation]) -> DriftReport:
    """Hold a window of observations against the reference."""
    seen = list(observations)
    times = [one.time for one in seen]
    checks: list[Moved] = []
    if len(seen) >= LEAST_EXAMPLES and reference.examples >= LEAST_EXAMPLES:
        columns = _columns(seen)
        checks = [
            _stability(name, histogram, columns.get(name, []), len(seen), reference.examples)
            for name, histogram in reference.inputs.items()
            if min(reference.span_ms, _span(seen)) >= NEARLY * PERIODS_MS.get(name, 0)
        ]
        checks += [check for check in (_calibration(reference, seen), _click_rate(reference, seen)) if check]
        checks.sort(key=lambda check: (not check.moved, -check.value / check.limit))
    return DriftReport(min(times, default=0), max(times, default=-1) + 1, len(seen), checks)


def _span(seen: Sequence[Observation]) -> int:
    return max((one.time for one in seen), default=0) - min((one.time for one in seen), default=0)


def _stability(name: str, histogram: Histogram, values: list[Input], examples: int, reference: int) -> Moved:
    then = np.array(histogram.counts, np.float64)
    now = np.array(_count(histogram, values), np.float64)
    # Half an observation in every bin: an empty one must not make the index infinite.
    before, after = (then + 0.5) / (then.sum() + 0.5 * len(then)), (now + 0.5) / (now.sum() + 0.5 * len(now))
    parts = (after - before) * np.log(after / before)
    value = float(parts.sum())
    # The values of one list are not independent of each other; as many as there are lists count.
    noise = 1 / min(examples, max(now.sum(), 1)) + 1 / min(reference, max(then.sum(), 1))
    limit = max(LARGE, float(_chi_square_quantile(1 - BY_CHANCE, len(then) - 1) * noise))
    worst = int(parts.argmax())
    sentence = f"{name}: {_bin_name(histogram, worst)} went from {before[worst]:.1%} to {after[worst]:.1%}"
    return Moved(name, value, limit, value > limit, sentence)


def _calibration(reference: Reference, seen: Sequence[Observation]) -> Moved | None:
    now, then = _calibration_of(seen), reference.calibration_error
    if now is None or then is None:
        return None
    limit = then + max(CALIBRATION_LARGE * now.expected, now.noise)
    sentence = (
        f"{now.expected:.2%} of what is shown was expected to be clicked, {now.observed:.2%} was; "
        f"predictions are off by {now.error:.2%} on average, {then:.2%} in training"
    )
    return Moved("calibration", now.error, limit, now.error > limit, sentence)


def _click_rate(reference: Reference, seen: Sequence[Observation]) -> Moved | None:
    """Compare clicks per item shown; the noise is that of lists, whose clicks are not independent."""
    clicks = np.array([sum(one.clicked) for one in seen], np.float64)
    shown = np.array([len(one.clicked) for one in seen], np.float64)
    if not shown.sum() or not reference.shown or not reference.clicks:
        return None
    now, then = clicks.sum() / shown.sum(), reference.clicks / reference.shown
    error = float((clicks - now * shown).std() * np.sqrt(1 / len(seen) + 1 / reference.examples) / shown.mean())
    limit = max(CLICK_RATE_LARGE * then, NormalDist().inv_cdf(1 - BY_CHANCE / 2) * error)
    change = abs(float(now - then))
    sentence = f"{now:.2%} of what is shown is clicked, {then:.2%} in training"
    return Moved("click rate", change, limit, change > limit, sentence)


class _Calibrated(NamedTuple):
    error: float  # expected calibration error
    noise: float  # which that of a perfectly calibrated model stays below: few predictions never come quite true
    expected: float  # share of items clicked
    observed: float


def _calibration_of(seen: Sequence[Observation]) -> _Calibrated | None:
    """Return the expected calibration error (Guo et al., "On calibration of modern neural networks", ICML 2017).

    Bins have equal numbers of predictions: click rates are crowded near 0.
    """
    pairs = [pair for one in seen for pair in zip(one.predicted, one.clicked, strict=False)]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: pair[0])  # by nothing else: equals must not be told apart by what came of them
    table = np.array(pairs, np.float64)
    parts = np.array_split(table, min(BINS, len(pairs)))
    share = np.array([len(part) for part in parts]) / len(pairs)
    gap = np.array([abs(part[:, 0].mean() - part[:, 1].mean()) for part in parts])
    deviation = share * np.array([np.sqrt((part[:, 0] * (1 - part[:, 0])).sum()) / len(part) for part in parts])
    # The mean and the variance of the absolute value of a normal variable are 2/pi to the half, and 1 - 2/pi.
    noise = deviation.sum() * np.sqrt(2 / np.pi)
    noise += NormalDist().inv_cdf(1 - BY_CHANCE) * np.sqrt((deviation**2).sum() * (1 - 2 / np.pi))
    expected, observed = table.mean(axis=0).tolist()
    return _Calibrated(float((share * gap).sum()), float(noise), expected, observed)


def _columns(seen: Sequence[Observation]) -> dict[str, list[Input]]:
    columns: dict[str, list[Input]] = defaultdict(list)
    for one in seen:
        for name, values in one.inputs.items():
            columns[name] += values
    return columns


def _histogram(values: Sequence[Input]) -> Histogram:
    if isinstance(values[0], str):
        empty = Histogram([], names=[str(name) for name, _ in Counter(values).most_common(NAMES)])
    else:
        numbers = np.array(values, np.float64)
        empty = Histogram([], edges=np.unique(np.quantile(numbers, np.arange(1, BINS) / BINS)).tolist())
    return msgspec.structs.replace(empty, counts=_count(empty, values))


def _count(histogram: Histogram, values: Sequence[Input]) -> list[int]:
    """Count values into the bins of a histogram; what it has no word for is in the last."""
    if histogram.names:
        number = {name: position for position, name in enumerate(histogram.names)}
        found = Counter(number.get(str(value), len(number)) for value in values)
        return [found[position] for position in range(len(number) + 1)]
    numbers = np.array(values, np.float64)
    counts: list[int] = np.bincount(
        np.searchsorted(histogram.edges, numbers, side="left"), minlength=len(histogram.edges) + 1
    ).tolist()
    return counts


def _bin_name(histogram: Histogram, position: int) -> str:
    if histogram.names:
        return (*histogram.names, OTHER)[position]
    edges = histogram.edges
    low = f"above {edges[position - 1]:g}" if position else ""
    high = f"up to {edges[position]:g}" if position < len(edges) else ""
    return " ".join(part for part in (low, high) if part)


def _chi_square_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of the chi-square distribution, to a few percent (Wilson and Hilferty 1931)."""
    if degrees < 1:
        return 0.0
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + NormalDist().inv_cdf(probability) * math.sqrt(spread)) ** 3)


def _local(time: int, zone: str | None) -> datetime:
    try:
        return datetime.fromtimestamp(time / 1000, ZoneInfo(zone) if zone else UTC)
    except (ZoneInfoNotFoundError, ValueError):
        return datetime.fromtimestamp(time / 1000, UTC)
