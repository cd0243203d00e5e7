"""The topics: names, partition rule, cleanup, retention and which record each carries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.records import (
    Context,
    DeadLetter,
    Erasure,
    Feedback,
    Item,
    JoinedRequest,
    ModelAnnouncement,
    ModelDecision,
    Recommendation,
    Record,
    Request,
    ShadowComparison,
    TrainingExample,
)

DAY_MS = 24 * 3600 * 1000
MIB = 1024 * 1024
FOREVER_MS = 2**63 - 1


@dataclass(frozen=True)
class Topic:
    """One topic of the contract.

    Topics without ``fixed_partitions`` share one partition count, and a user's records are in the partition of one
    number on all of them, so that every join is local; also where the key is the user's pseudonym.
    """

    name: str
    record: type[Record]
    purpose: str
    key: Literal["user id", "pseudonym", "item id", "model name", "pseudonym or original key", "row key"]
    cleanup: Literal["compact", "delete"]
    retention_ms: int = -1
    max_bytes: int = 2 * MIB
    fixed_partitions: int | None = None

    @property
    def keyed_by_user(self) -> bool:
        """Whether the topic has the common partition count."""
        return self.fixed_partitions is None

    @property
    def personal(self) -> bool:
        """Whether keys are the ids of users and values are what they did or said."""
        return self.key == "user id"

    def partitions(self, user_partitions: int) -> int:
        """Return the partition count, given the common one of the user topics."""
        return self.fixed_partitions or user_partitions

    def config(self, *, keep_history: bool = False) -> Mapping[str, str]:
        """Return the topic's Kafka configuration.

        ``keep_history`` switches retention off: replayed and imported records carry old event times as their record
        timestamps, and retention would delete them at once.
        """
        return {
            "cleanup.policy": self.cleanup,
            "retention.ms": "-1" if keep_history or self.cleanup == "compact" else str(self.retention_ms),
            "max.message.bytes": str(self.max_bytes),
            # One clock that runs ahead must not fail its producer's whole batch: the state stage sets it aside.
            "message.timestamp.after.max.ms": str(FOREVER_MS),
        }


CATALOG_ITEMS = Topic("catalog.items", Item, "what can be recommended", "item id", "compact", fixed_partitions=1)
USERS_CONTEXT = Topic("users.context", Context, "what is happening around a user", "user id", "delete", 7 * DAY_MS)
USERS_REQUESTS = Topic("users.requests", Request, "what users ask for", "user id", "delete", 7 * DAY_MS)
USERS_FEEDBACK = Topic("users.feedback", Feedback, "what users do", "user id", "delete", 30 * DAY_MS)
USERS_ERASURE = Topic("users.erasure", Erasure, "users to forget", "user id", "delete", 365 * DAY_MS)
REQUESTS_JOINED = Topic(
    "requests.joined", JoinedRequest, "requests with the state they saw", "user id", "delete", 7 * DAY_MS
)
RECOMMENDATIONS = Topic("recommendations", Recommendation, "ranked lists with reasons", "user id", "delete", 7 * DAY_MS)
RETRAINING = Topic(
    "retraining", TrainingExample, "lists that were shown and what came of them", "pseudonym", "delete", 180 * DAY_MS,
    max_bytes=3 * MIB,
)  # fmt: skip
MODELS = Topic(
    "models", ModelAnnouncement, "model versions and their roles", "model name", "compact", fixed_partitions=1
)
MODELS_DECISIONS = Topic(
    "models.decisions", ModelDecision, "what was decided about models by their figures", "model name", "delete",
    365 * DAY_MS, fixed_partitions=1,
)  # fmt: skip
MODELS_SHADOW = Topic(
    "models.shadow", ShadowComparison, "what a shadow model would have answered", "model name", "delete", 7 * DAY_MS,
    fixed_partitions=1,
)  # fmt: skip
DEADLETTERS = Topic(
    "deadletters", DeadLetter, "records that could not be processed", "pseudonym or original key", "delete",
    30 * DAY_MS, max_bytes=4 * MIB, fixed_partitions=1,
)  # fmt: skip

TOPICS = (
    CATALOG_ITEMS, USERS_CONTEXT, USERS_REQUESTS, USERS_FEEDBACK, USERS_ERASURE,
    REQUESTS_JOINED, RECOMMENDATIONS, RETRAINING, MODELS, MODELS_DECISIONS, MODELS_SHADOW, DEADLETTERS,
)  # fmt: skip
