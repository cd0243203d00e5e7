"""Which version of a model does what: pure functions over its announcements.

The record of the highest generation holds, and says everything; so it does not matter which were read before it, or in
what order. A change is made from the record that holds and has the next generation.
"""

import hashlib
from collections.abc import Mapping
from typing import Literal

from msgspec.structs import replace

from schemas.errors import ExplainedError
from schemas.records import ModelAnnouncement, ModelVersion

Role = Literal["candidate", "champion", "canary", "shadow", "retired"]

SERVED: tuple[Role, ...] = ("champion", "canary", "shadow")  # one version each
MAX_LISTED = 30  # versions that an announcement tells of; those without a role that were changed longest ago go
MAX_FORMER = 10
MAX_ROLLED_BACK = 100


class RoleError(ExplainedError):
    """A change of roles that makes no sense; the message says what to do instead."""


def newer(current: ModelAnnouncement | None, announced: ModelAnnouncement) -> ModelAnnouncement:
    """Return which of two announcements of one model holds."""
    return announced if current is None or announced.generation > current.generation else current


def holder(announcement: ModelAnnouncement | None, role: Role) -> ModelVersion | None:
    """Return the version that has a role, if any."""
    versions = announcement.versions if announcement is not None else []
    return next((version for version in versions if version.role == role), None)


def in_use(announcement: ModelAnnouncement | None) -> set[str]:
    """Return the versions that must stay in the store: those that are served, and the champion to roll back to."""
    if announcement is None:
        return set()
    served = {version.version for version in announcement.versions if version.role in SERVED}
    return served | set(announcement.former[:1])


def with_role(
    current: ModelAnnouncement | None,
    version: ModelVersion,
    reason: str,
    figures: Mapping[str, float] | None = None,
    *,
    force: bool = False,
) -> ModelAnnouncement:
    """Return the announcement in which a version has the role (and share) it says; who had that role is retired.

    Raises:
        RoleError: it would leave the model without a champion it has, or, unless forced, it would make a canary of a
            version that was rolled back as one.

    """
    if version.role == "canary" and current is not None and version.version in current.rolled_back and not force:
        raise RoleError(
            f"{version.version} was a canary and was rolled back, see `tablecast model decisions`: "
            "--force makes it one once more"
        )
    champion = holder(current, "champion")
    if champion is not None and champion.version == version.version and version.role != "champion":
        raise RoleError(f"{version.version} is the champion: promote another version, or roll back")
    others = [other for other in (current.versions if current else []) if other.version != version.version]
    if version.role in SERVED:
        others = [replace(other, role="retired") if other.role == version.role else other for other in others]
    former = [name for name in (current.former if current else []) if name != version.version]
    if version.role == "champion" and champion is not None and champion.version != version.version:
        former.insert(0, champion.version)
    return _next(current, [version, *others], former, reason, figures)


def promoted(
    current: ModelAnnouncement | None, version: str, reason: str, figures: Mapping[str, float] | None = None
) -> ModelAnnouncement:
    """Return the announcement in which a version that was announced before is the champion.

    Raises:
        RoleError: it was never announced, or is the champion.

    """
    listed = _listed(current, version)
    if listed.role == "champion":
        raise RoleError(f"{version} is the champion already")
    return with_role(current, replace(listed, role="champion", share=1.0), reason, figures)


def canary_rolled_back(
    current: ModelAnnouncement | None, reason: str, figures: Mapping[str, float] | None = None
) -> ModelAnnouncement:
    """Return the announcement in which the canary is retired, and not to be a canary again.

    Raises:
        RoleError: there is none.

    """
    canary = holder(current, "canary")
    if current is None or canary is None:
        raise RoleError("there is no canary to roll back")
    retired = with_role(current, replace(canary, role="retired", share=1.0), reason, figures)
    return replace(retired, rolled_back=[canary.version, *current.rolled_back][:MAX_ROLLED_BACK])


def rolled_back(
    current: ModelAnnouncement | None, reason: str, figures: Mapping[str, float] | None = None
) -> ModelAnnouncement:
    """Return the announcement in which the former champion is back; before the first, stages serve what they came with.

    Raises:
        RoleError: there is no champion to roll back.

    """
    champion = holder(current, "champion")
    if current is None or champion is None:
        raise RoleError("there is no champion to roll back from: stages serve the model of inference.model")
    back = _listed(current, current.former[0]) if current.former else None
    roles: dict[str, Role] = {champion.version: "retired"}
    if back is not None:
        roles[back.version] = "champion"
    versions = [replace(version, role=roles.get(version.version, version.role)) for version in current.versions]
    versions.sort(key=lambda version: version.version not in roles)
    return _next(current, versions, current.former[1:], reason, figures)


def on_canary(user: str, canary: str, share: float) -> bool:
    """Whether a user is among the share of users that a canary version serves.

    Depends on the user and the version alone, whatever partition the user is in. A growing share only adds users;
    another version gets other users.
    """
    digest = hashlib.sha256(f"{canary}\0{user}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _listed(current: ModelAnnouncement | None, version: str) -> ModelVersion:
    for listed in current.versions if current else []:
        if listed.version == version:
            return listed
    raise RoleError(f"{version} has not been announced: `tablecast model publish` does that")


def _next(
    current: ModelAnnouncement | None,
    versions: list[ModelVersion],
    former: list[str],
    reason: str,
    figures: Mapping[str, float] | None,
) -> ModelAnnouncement:
    former = former[:MAX_FORMER]
    bound = {version.version for version in versions if version.role in SERVED} | set(former)
    others = [version.version for version in versions if version.version not in bound]
    kept = bound | set(others[: MAX_LISTED - len(bound)])
    return ModelAnnouncement(
        generation=current.generation + 1 if current else 1,
        versions=[version for version in versions if version.version in kept],
        former=former,
        rolled_back=current.rolled_back if current else [],
        reason=reason,
        figures=dict(figures or {}),
    )
