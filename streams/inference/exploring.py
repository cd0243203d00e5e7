"""Exploration in serving: of a ranking that is long enough, the list that is shown, with its propensities.

What chance decides is a function of the model's version and the request id, both of which stand in the answer: a replay
with the same settings shows the same list again. Only what is shown is varied; a shadow is compared with the ranking.
"""

from dataclasses import replace

from msgspec import structs

from models.exploration import OFF, Exploration, explore
from models.recommender import Answer
from schemas.records import JoinedRequest
from streams.settings import InferenceSettings


class Exploring:
    """The policies of all domains."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._policies = {domain: Exploration(**dict(policy)) for domain, policy in settings.exploration.items()}

    def to_rank(self, joined: JoinedRequest) -> JoinedRequest:
        """Return a request for as many items as may be shown; the request itself where its domain does not explore."""
        policy = self._policy(joined)
        if policy is OFF or joined.request.k >= policy.top:
            return joined
        return structs.replace(joined, request=structs.replace(joined.request, k=policy.top))

    def shown(self, model: str, joined: JoinedRequest, answer: Answer) -> Answer:
        """Return the answer to publish, from a model's (name@version) answer to ``to_rank``."""
        request = joined.request
        items = explore(answer.items, self._policy(joined), f"{model}/{request.request_id}", request.k)
        return replace(answer, items=items)

    def _policy(self, joined: JoinedRequest) -> Exploration:
        return self._policies.get(joined.request.domain, OFF)
