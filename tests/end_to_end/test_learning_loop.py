"""Two arms of the learning loop live on a cluster: the same until something was learned, and everybody is answered."""

import pytest

from ops.bench.learning import Plan, lives
from streams.settings import KafkaSettings, Settings

pytestmark = pytest.mark.kafka


async def test_both_arms_live_the_same_days_and_one_is_trained_after_each(broker, tmp_path):
    settings = Settings(kafka=KafkaSettings(bootstrap=broker.bootstrap))
    plan = Plan(seed=3, days=2, first_training=1, shift_after=1, requests=120, users=60, restaurants=60)

    lived = await lives(settings, plan, lambda _: None)

    (frozen, learning) = lived["frozen"], lived["learning"]
    assert [day.requests for day in frozen] == [day.requests for day in learning]
    assert frozen[0].model == learning[0].model
    # What others did in the same portion may be known to one arm's request and not to the other's.
    assert frozen[0].clicks == pytest.approx(learning[0].clicks, rel=0.1)
    assert 0 < frozen[0].clicks < frozen[0].best
    assert [day.training for day in frozen] == ["", ""]
    assert learning[0].training.startswith("trained on")
    assert "; refused: " in learning[0].training, "so few lists let the gate judge nothing"
    assert learning[1].model == learning[0].model
    assert frozen[0].examples > 20
