"""The typed records of every topic: what each side may rely on, and nothing else.

Values are msgpack maps. ``v`` is the schema version of the record's type (absent means 1). The record key is the
user id (the item id on ``catalog.items``, the model name on ``models``) and is not repeated in the value; the Kafka
record timestamp is the event time, in milliseconds since 1970-01-01 UTC.

Evolution rule: a field may be added if it has a default; readers ignore fields they do not know. Removing a field,
renaming it, narrowing its type or changing its unit needs a new schema version and an entry in ``codec.UPGRADES``.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Id = Annotated[str, Meta(min_length=1, max_length=200)]
Label = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(max_length=4_000)]
LongText = Annotated[str, Meta(max_length=40_000)]
Milliseconds = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]  # up to the year 9999
Price = Annotated[float, Meta(ge=0, le=1e9)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Number = Annotated[float, Meta(ge=-1e300, le=1e300)]  # finite
Labels = Annotated[list[Label], Meta(max_length=100)]
Attributes = Annotated[dict[Label, Text | Number | bool | Labels], Meta(max_length=100)]
Limits = Annotated[dict[Label, Number], Meta(max_length=100)]
Interval = tuple[Annotated[int, Meta(ge=0, le=1440)], Annotated[int, Meta(ge=0, le=2880)]]
Week = Annotated[list[Annotated[list[Interval], Meta(max_length=8)]], Meta(min_length=7, max_length=7)]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="v", tag=1):
    """A value of a topic. The tag is the schema version."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A map inside a record; it has no version of its own."""


class Location(Part, frozen=True):
    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]


class Item(Record, frozen=True):
    """One thing that can be recommended (``catalog.items``, key: item id). A tombstone removes it."""

    domain: Id
    name: Annotated[str, Meta(max_length=300)]
    categories: Labels = msgspec.field(default_factory=list)
    text: LongText = ""
    location: Location | None = None
    price: Price | None = None  # in the currency of its market; per head, per night, per piece as the domain says
    hours: Week | None = None  # Monday first; minutes since local midnight; closing after midnight is above 1440
    time_zone: Label | None = None  # IANA name for `hours`; the request's time zone where absent
    attributes: Attributes = msgspec.field(default_factory=dict)
    available: bool = True


class Context(Record, frozen=True):
    """What is happening around a user (``users.context``). A partial update: absent fields keep their last value."""

    location: Location | None = None
    weather: Label | None = None
    temperature: Annotated[float, Meta(ge=-90, le=70)] | None = None  # degrees Celsius
    time_zone: Label | None = None  # IANA name
    device: Label | None = None
    company: Label | None = None
    fields: Attributes = msgspec.field(default_factory=dict)  # whatever else the domain pack knows


class Constraints(Part, frozen=True):
    """Hard filters: an item that cannot be shown to satisfy them is not recommended."""

    price_min: Price | None = None
    price_max: Price | None = None
    max_distance: Annotated[float, Meta(gt=0, le=2e7)] | None = None  # metres from the context's location
    open_at: Milliseconds | Literal["now"] | None = None
    categories: Labels = msgspec.field(default_factory=list)  # any of
    attributes: Attributes = msgspec.field(default_factory=dict)  # all of
    at_least: Limits = msgspec.field(default_factory=dict)  # numeric attributes: all of
    exclude_items: Annotated[list[Id], Meta(max_length=1_000)] = msgspec.field(default_factory=list)
    exclude_categories: Labels = msgspec.field(default_factory=list)


class Request(Record, frozen=True):
    """A user asks for a list (``users.requests``)."""

    request_id: Id
    domain: Id
    text: Text = ""
    k: Annotated[int, Meta(ge=1, le=1_000)] = 10
    constraints: Constraints | None = None
    context: Context | None = None  # overrides what `users.context` said, field by field
    session_id: Id | None = None
    deadline: Milliseconds | None = None  # an answer after this moment is useless; None: the stage's own budget
    explain: bool = True  # False leaves the reasons out, for long lists


FeedbackKind = Literal["impression", "click", "booking", "visit", "purchase", "rating", "dismissal"]


class Feedback(Record, frozen=True):
    """What a user did with an item (``users.feedback``)."""

    item_id: Id
    domain: Id
    kind: FeedbackKind
    request_id: Id | None = None
    session_id: Id | None = None
    rating: Fraction | None = None  # 0 worst, 1 best; required when kind is "rating"

    def __post_init__(self) -> None:
        if self.kind == "rating" and self.rating is None:
            raise ValueError("a rating needs `rating`, from 0 to 1")


class Source(Part, frozen=True):
    """Where a record came from."""

    partition: Annotated[int, Meta(ge=0)]
    offset: Annotated[int, Meta(ge=0)]


class History(Part, frozen=True):
    """A user's interactions as of a request, oldest first: columns of one length, indexes into ``JoinedRequest.items``.

    ``session`` numbers the sessions 0, 1, ... in order of appearance; ``older`` counts, per entry of ``older_item``,
    interactions that have left the exact list.
    """

    item: list[int] = msgspec.field(default_factory=list)
    kind: list[int] = msgspec.field(default_factory=list)  # position in `INTERACTION_KINDS`
    time: list[int] = msgspec.field(default_factory=list)  # event time, milliseconds
    session: list[int] = msgspec.field(default_factory=list)
    open_session: int | None = None  # the number of the session the request belongs to, if it is in the list
    older_item: list[int] = msgspec.field(default_factory=list)
    older: list[int] = msgspec.field(default_factory=list)


INTERACTION_KINDS: tuple[FeedbackKind, ...] = ("click", "booking", "visit", "purchase", "rating", "dismissal")
POPULARITY_WINDOWS_HOURS = (1, 24, 24 * 7, 24 * 28)


class Signals(Part, frozen=True):
    """What everybody does, as of a request: columns over ``JoinedRequest.items``.

    ``popularity`` has a column per window of ``POPULARITY_WINDOWS_HOURS`` and a last one for all time;
    ``popularity_total`` is the domain's sum for each. ``followed`` counts how often the entry came right after the
    user's last item; ``followed_total`` is the sum over all items.
    """

    popularity: list[list[int]] = msgspec.field(default_factory=list)
    popularity_total: list[int] = msgspec.field(default_factory=list)
    followed: list[int] = msgspec.field(default_factory=list)
    followed_total: int = 0


class JoinedRequest(Record, frozen=True):
    """A request with the state it saw (``requests.joined``): all that inference, replay and training need."""

    request: Request
    event_time: Milliseconds
    source: Source  # of the request in `users.requests`; this record is in the partition of the same number
    context: Context
    items: list[Id] = msgspec.field(default_factory=list)  # the id table that `history` and `signals` point into
    history: History = History()
    signals: Signals = Signals()
    received_at: Milliseconds = 0  # wall clock when the state stage read the request
    joined_at: Milliseconds = 0


class RecommendedItem(Part, frozen=True):
    item_id: Id
    score: float
    propensity: Annotated[float, Meta(gt=0, le=1)] = 1.0  # probability that the policy shows it at this position
    reasons: dict[Label, float] = msgspec.field(default_factory=dict)  # additive parts; they sum to the score
    why: str = ""  # the strongest parts in the request's language
    name: str = ""  # as in the catalogue; left out, like the reasons, where the request does not ask to explain


class Timings(Part, frozen=True):
    """Wall clock, milliseconds since 1970; not part of the answer and left out when answers are compared."""

    received: Milliseconds = 0
    joined: Milliseconds = 0
    consumed: Milliseconds = 0
    encoded: Milliseconds = 0
    ranked: Milliseconds = 0


class Wish(Part, frozen=True):
    """One thing that was read from a request's words.

    ``low`` and ``high`` bound a price, a rating (in the catalogue's own scale) or a distance (metres); equal bounds
    mean about that much. The ``low`` of ``open`` is a moment in milliseconds, absent for now.
    """

    kind: Literal[
        "price", "cheap", "dear", "rating", "well_rated", "distance", "near", "open", "category", "attribute",
        "landmark", "item",
    ]  # fmt: skip
    words: Text  # as they stand in the text, in lower case and plain letters
    values: Labels = msgspec.field(default_factory=list)  # any of: words of the catalogue that are meant
    low: float | None = None
    high: float | None = None
    avoid: bool = False  # what was said to be avoided
    filters: bool = False  # whether items that do not fit were left out; else they only rank lower
    goal: Annotated[int, Meta(ge=0)] = 0  # wishes of different goals need not be met by one item


class Understood(Part, frozen=True):
    """What was read from a request's words, and what was made of it."""

    wishes: list[Wish]
    phrase: str = ""  # the same in the request's language
    relaxed: bool = False  # whether no item met all limits, so that they only rank


class Recommendation(Record, frozen=True):
    """The answer to one request (``recommendations``)."""

    request_id: Id
    domain: Id
    model: Id  # name@version
    items: list[RecommendedItem]
    source: Source  # of the request in `users.requests`
    degraded: str | None = None  # why the list is a cheaper one, if it is
    understood: Understood | None = None  # what was read from the request's words, if anything
    timings: Timings = Timings()


class Shown(Part, frozen=True):
    item_id: Id
    position: Annotated[int, Meta(ge=0)]
    propensity: Annotated[float, Meta(gt=0, le=1)]
    label: float  # what the user's action was worth; 0: shown and not chosen


class TrainingExample(Record, frozen=True):
    """One list that was shown and what came of it (``retraining``, key: the user's pseudonym).

    ``example_id`` is a function of the request and the action, so an example written twice is recognised.
    """

    example_id: Id
    request_id: Id
    model: Id
    joined: msgspec.Raw  # the JoinedRequest as it was served, without what names the user
    shown: list[Shown]
    action: FeedbackKind | Literal["none"]  # "none": the attribution window closed without one
    item_id: Id | None = None  # what was acted on
    action_time: Milliseconds | None = None
    attribution: Literal["request_id", "last_touch", "none"] = "none"


class ModelVersion(Part, frozen=True):
    """One version of a model and what it does. A model has at most one champion, one canary and one shadow."""

    version: Id
    role: Literal["candidate", "champion", "canary", "shadow", "retired"]
    sha256: Annotated[
        str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)
    ]  # of its manifest, which has that of every file
    location: Text = ""  # the store it was put into, for people: stages fetch from the store they are set to
    share: Fraction = 1.0  # of users, for a canary
    metrics: dict[Label, Number] = msgspec.field(default_factory=dict)


class ModelAnnouncement(Record, frozen=True, tag=2):
    """All roles of one model (``models``, key: model name); the record of the highest generation is what holds."""

    generation: Annotated[int, Meta(ge=1)]  # one more with every change
    versions: Annotated[list[ModelVersion], Meta(max_length=100)]  # changed last, first
    former: Annotated[list[Id], Meta(max_length=100)] = msgspec.field(default_factory=list)  # champions, latest first
    # Canaries that the guardrails took back, latest first, each as often as it was: none again unless it is forced.
    rolled_back: Annotated[list[Id], Meta(max_length=100)] = msgspec.field(default_factory=list)
    reason: Text = ""  # what was changed and why
    figures: dict[Label, Number] = msgspec.field(default_factory=dict)  # that it was decided by


class ModelDecision(Record, frozen=True):
    """What was decided about a model by its figures, not by a person (``models.decisions``, key: model name).

    A canary is promoted or rolled back in the same transaction; on drift, a training follows.
    """

    decision: Literal["promote", "roll back", "train"]
    version: Id  # the canary; where inputs or clicks have drifted, the champion
    reason: Text
    champion: Id | None = None  # that a canary was compared with; None: what stages serve before the first champion
    figures: dict[Label, Number] = msgspec.field(default_factory=dict)  # all that it was decided by
    start: Milliseconds = 0  # event time of the first answer that counted
    end: Milliseconds = 0  # and of the last


class ScoredItem(Part, frozen=True):
    item_id: Id
    score: float
    reasons: dict[Label, float] = msgspec.field(default_factory=dict)  # additive parts of the score


class ShadowComparison(Record, frozen=True):
    """What a shadow model would have answered beside what was (``models.shadow``, key: model name)."""

    request_id: Id
    domain: Id
    model: Id  # name@version that answered
    shadow: Id  # name@version that would have
    answered: list[ScoredItem]
    would_have: list[ScoredItem]


class Erasure(Record, frozen=True):
    """Forget this user (``users.erasure``)."""

    request_id: Id
    reason: Text = ""


class DeadLetter(Record, frozen=True):
    """A record that could not be processed (``deadletters``, key: its user's pseudonym, or its own key).

    Key and value of a record about a user are ``withheld``: they are read, and retried, from where they lie, ``topic``,
    ``partition`` and ``offset``, as long as its retention keeps them. What is found there is the record if it has the
    ``event_time``. Other records' are kept here.
    """

    topic: str
    partition: Annotated[int, Meta(ge=0)]
    offset: Annotated[int, Meta(ge=0)]
    stage: Literal["state", "inference", "trainer"]
    error: str  # class
    reason: str  # sentence
    event_time: int  # the record's own timestamp, as it was
    first_seen: Milliseconds
    model: Id | None = None  # name@version that was to answer it, of a request without an answer
    key: bytes | None = None
    value: bytes | None = None
    payload: Literal["whole", "cut", "withheld"] = "whole"  # of key and value: "cut" has the value's beginning only
