"""Two examples of every record type: the least and the most a producer can say. Documents and golden bytes use them."""

from typing import NamedTuple

import msgspec

from schemas.codec import encode
from schemas.records import (
    Constraints,
    Context,
    DeadLetter,
    Erasure,
    Feedback,
    History,
    Item,
    JoinedRequest,
    Location,
    ModelAnnouncement,
    ModelDecision,
    ModelVersion,
    Recommendation,
    RecommendedItem,
    Record,
    Request,
    ScoredItem,
    ShadowComparison,
    Shown,
    Signals,
    Source,
    Timings,
    TrainingExample,
    Understood,
    Wish,
)


class Examples(NamedTuple):
    """A record with nothing but what is required, and one with every field set."""

    minimal: Record
    full: Record


_FRIDAY_EVENING = 1_767_353_400_000  # 2026-01-02 19:30 in Shanghai

_CONTEXT = Context(
    location=Location(lat=31.23, lon=121.47),
    weather="rain",
    temperature=6.5,
    time_zone="Asia/Shanghai",
    device="phone",
    company="couple",
    fields={"occasion": "纪念日", "party_size": 2.0, "first_visit": True, "tags": ["安静", "靠窗"]},
)
_REQUEST = Request(
    request_id="request-2",
    domain="restaurant",
    text="安静一点的川菜，人均80",
    k=5,
    constraints=Constraints(
        price_min=20.0,
        price_max=80.0,
        max_distance=3000.0,
        open_at="now",
        categories=["川菜"],
        attributes={"包间": True},
        at_least={"rating": 4.5},
        exclude_items=["item-9"],
        exclude_categories=["火锅"],
    ),
    context=_CONTEXT,
    session_id="session-1",
    deadline=_FRIDAY_EVENING + 2000,
    explain=False,
)
_MINIMAL_REQUEST = Request(request_id="request-1", domain="restaurant")
_MINIMAL_JOINED = JoinedRequest(
    request=_MINIMAL_REQUEST, event_time=_FRIDAY_EVENING, source=Source(partition=0, offset=0), context=Context()
)

EXAMPLES: dict[type[Record], Examples] = {
    Item: Examples(
        Item(domain="restaurant", name="Noodle Bar"),
        Item(
            domain="restaurant",
            name="巷子里·川菜馆",
            categories=["川菜", "中餐"],
            text="安静的小院，招牌是水煮鱼和夫妻肺片。",
            location=Location(lat=31.2304, lon=121.4737),
            price=80.0,
            hours=[[(660, 840), (1020, 1320)] for _ in range(5)] + [[(660, 1500)], []],
            time_zone="Asia/Shanghai",
            attributes={"包间": True, "rating": 4.5, "music": "none", "parking": ["street", "mall"]},
            available=False,
        ),
    ),
    Context: Examples(Context(), _CONTEXT),
    Request: Examples(_MINIMAL_REQUEST, _REQUEST),
    Feedback: Examples(
        Feedback(item_id="item-1", domain="restaurant", kind="click"),
        Feedback(
            item_id="item-1",
            domain="restaurant",
            kind="rating",
            request_id="request-2",
            session_id="session-1",
            rating=0.75,
        ),
    ),
    Erasure: Examples(Erasure(request_id="erasure-1"), Erasure(request_id="erasure-2", reason="用户注销账号")),
    JoinedRequest: Examples(
        _MINIMAL_JOINED,
        JoinedRequest(
            request=_REQUEST,
            event_time=_FRIDAY_EVENING,
            source=Source(partition=3, offset=4_294_967_296),
            context=_CONTEXT,
            items=["item-1", "item-2"],
            history=History(
                item=[0, 1],
                kind=[0, 2],
                time=[_FRIDAY_EVENING - 86_400_000, _FRIDAY_EVENING - 60_000],
                session=[0, 1],
                open_session=1,
                older_item=[0],
                older=[7],
            ),
            signals=Signals(
                popularity=[[1, 5, 20, 60, 300], [0, 2, 9, 31, 120]],
                popularity_total=[40, 900, 6_000, 24_000, 100_000],
                followed=[3, 0],
                followed_total=17,
            ),
            received_at=_FRIDAY_EVENING + 4,
            joined_at=_FRIDAY_EVENING + 254,
        ),
    ),
    Recommendation: Examples(
        Recommendation(
            request_id="request-1",
            domain="restaurant",
            model="tablecast@1",
            items=[],
            source=Source(partition=0, offset=0),
        ),
        Recommendation(
            request_id="request-2",
            domain="restaurant",
            model="tablecast@2",
            items=[
                RecommendedItem(
                    item_id="item-1",
                    score=2.5,
                    propensity=0.9,
                    reasons={"text": 1.75, "near": 0.5, "popular": 0.25},
                    why="符合您的要求、距您600米",
                ),
                RecommendedItem(
                    item_id="item-2", score=-0.5, propensity=0.1, reasons={"text": -0.5}, why="最近很受欢迎"
                ),
            ],
            source=Source(partition=3, offset=4_294_967_296),
            degraded="deadline",
            understood=Understood(
                wishes=[
                    Wish(kind="price", words="100-150元", low=100.0, high=150.0, filters=True, goal=1),
                    Wish(kind="category", words="火锅", values=["火锅", "hot pot"], avoid=True),
                ],
                phrase="已理解：人均100到150、不要火锅",
                relaxed=True,
            ),
            timings=Timings(
                received=_FRIDAY_EVENING + 4,
                joined=_FRIDAY_EVENING + 254,
                consumed=_FRIDAY_EVENING + 256,
                encoded=_FRIDAY_EVENING + 270,
                ranked=_FRIDAY_EVENING + 272,
            ),
        ),
    ),
    TrainingExample: Examples(
        TrainingExample(
            example_id="example-1",
            request_id="request-1",
            model="tablecast@1",
            joined=msgspec.Raw(encode(_MINIMAL_JOINED)),
            shown=[],
            action="none",
        ),
        TrainingExample(
            example_id="example-2",
            request_id="request-1",
            model="tablecast@1",
            joined=msgspec.Raw(encode(_MINIMAL_JOINED)),
            shown=[
                Shown(item_id="item-1", position=0, propensity=0.9, label=1.0),
                Shown(item_id="item-2", position=1, propensity=0.1, label=0.0),
            ],
            action="visit",
            item_id="item-1",
            action_time=_FRIDAY_EVENING + 3_600_000,
            attribution="request_id",
        ),
    ),
    ModelAnnouncement: Examples(
        ModelAnnouncement(generation=1, versions=[]),
        ModelAnnouncement(
            generation=7,
            versions=[
                ModelVersion(
                    version="89ab89ab89ab89ab",
                    role="canary",
                    sha256="0123456789abcdef" * 4,
                    location="s3://bucket/models",
                    share=0.05,
                    metrics={"acc@1": 0.31, "ndcg@10": 0.44},
                ),
                ModelVersion(version="0123012301230123", role="champion", sha256="0" * 64),
            ],
            former=["4567456745674567"],
            rolled_back=["fedcfedcfedcfedc"],
            reason="canary to 5% of users",
            figures={"click_rate": 0.12},
        ),
    ),
    ModelDecision: Examples(
        ModelDecision(decision="train", version="0123012301230123", reason="drift: weather"),
        ModelDecision(
            decision="roll back",
            version="89ab89ab89ab89ab",
            champion="0123012301230123",
            reason="not clicked: 91.20% of 340 answers against 86.10% of 3,100: worse than the champion",
            figures={"not clicked: canary": 0.912, "not clicked: champion": 0.861},
            start=_FRIDAY_EVENING,
            end=_FRIDAY_EVENING + 3_600_000,
        ),
    ),
    ShadowComparison: Examples(
        ShadowComparison(
            request_id="r1", domain="restaurant", model="tablecast@1", shadow="tablecast@2", answered=[], would_have=[]
        ),
        ShadowComparison(
            request_id="r1",
            domain="restaurant",
            model="tablecast@1",
            shadow="tablecast@2",
            answered=[
                ScoredItem(item_id="a", score=1.5, reasons={"near": 0.5, "text": 1.0}),
                ScoredItem(item_id="b", score=1.0),
            ],
            would_have=[ScoredItem(item_id="b", score=1.25)],
        ),
    ),
    DeadLetter: Examples(
        DeadLetter(
            topic="users.context",
            partition=0,
            offset=0,
            stage="state",
            error="DecodeError",
            reason="the record has no key; it must be the id of the user (or item) it is about",
            event_time=-1,
            first_seen=_FRIDAY_EVENING,
        ),
        DeadLetter(
            topic="catalog.items",
            partition=3,
            offset=42,
            stage="state",
            error="DecodeError",
            reason="not msgpack: Input data was truncated",
            event_time=_FRIDAY_EVENING,
            first_seen=_FRIDAY_EVENING + 4,
            key=b"item-1",
            value=bytes.fromhex("82a17601ff"),
            model="tablecast@89ab89ab89ab89ab",
            payload="cut",
        ),
    ),
}
