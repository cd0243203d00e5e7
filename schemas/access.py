"""Who may do what: the roles that talk to the cluster and what each needs, and nothing else.

Names are those of ``schemas.topics``, of consumer groups and of transactional ids, before the prefix of the
installation; one that ends with ``*`` stands for all that begin so.
"""

from dataclasses import dataclass

from schemas.topics import (
    CATALOG_ITEMS,
    DEADLETTERS,
    MODELS,
    MODELS_DECISIONS,
    MODELS_SHADOW,
    RECOMMENDATIONS,
    REQUESTS_JOINED,
    RETRAINING,
    USERS_CONTEXT,
    USERS_ERASURE,
    USERS_FEEDBACK,
    USERS_REQUESTS,
)

_USERS = tuple(topic.name for topic in (USERS_CONTEXT, USERS_REQUESTS, USERS_FEEDBACK, USERS_ERASURE))


@dataclass(frozen=True)
class Role:
    """One kind of client."""

    name: str
    purpose: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()  # it may join
    transactions: tuple[str, ...] = ()  # transactional ids it may use
    administers: tuple[str, ...] = ()  # topics that it may create, look into the settings of, change and delete
    watches: tuple[str, ...] = ()  # groups whose members and offsets it may see


ROLES = (
    Role(
        "app", "posts what users do and ask for, shows the lists",
        reads=(RECOMMENDATIONS.name,), writes=_USERS, groups=("app*",),
    ),
    Role("merchant", "keeps the catalogue", writes=(CATALOG_ITEMS.name,)),
    Role(
        "state", "the state stage",
        reads=(CATALOG_ITEMS.name, *_USERS, RECOMMENDATIONS.name, "state-*"),
        writes=(REQUESTS_JOINED.name, RETRAINING.name, DEADLETTERS.name, "state-*"),
        groups=("state",),
    ),
    Role(
        "inference", "the inference stage",
        reads=(CATALOG_ITEMS.name, REQUESTS_JOINED.name, MODELS.name, RECOMMENDATIONS.name),
        writes=(RECOMMENDATIONS.name, MODELS_SHADOW.name, DEADLETTERS.name),
        groups=("inference",),
    ),
    Role(
        "trainer", "the trainer: examples in, models out, canaries judged",
        reads=(
            RETRAINING.name, USERS_ERASURE.name, CATALOG_ITEMS.name, MODELS.name, RECOMMENDATIONS.name,
            DEADLETTERS.name,
        ),
        writes=(MODELS.name, MODELS_DECISIONS.name, DEADLETTERS.name),
        groups=("trainer*",), transactions=("trainer*", "models-*"),
    ),
    Role(
        "backfill", "makes user state and training examples anew and puts them in the place of what is there",
        reads=(
            *_USERS, REQUESTS_JOINED.name, RECOMMENDATIONS.name, RETRAINING.name, DEADLETTERS.name, "state-*",
            "backfill-*",
        ),
        writes=("state-*", RETRAINING.name, "backfill-*"),
        groups=("backfill-*",),
        administers=("backfill-*", RETRAINING.name),  # of that it deletes the records it has replaced
        watches=("state", "trainer*"),
    ),
    Role(
        "ops", "reads everything, retries dead letters, forgets users, announces models, replays under a prefix",
        reads=("*",),
        writes=(*_USERS, CATALOG_ITEMS.name, MODELS.name, f"{DEADLETTERS.name}-*", "replay*"),
        groups=("replay*",), transactions=(f"{DEADLETTERS.name}*", "models-*", "replay*"),
        administers=("*",), watches=("*",),
    ),
)  # fmt: skip
