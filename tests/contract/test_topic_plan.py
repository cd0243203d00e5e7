"""What may be done to topics that exist, decided without a cluster."""

from dataclasses import replace

import pytest

from schemas.topics import CATALOG_ITEMS, DEADLETTERS, TOPICS, USERS_CONTEXT, Topic
from streams.settings import KafkaSettings
from streams.topic_admin import AddPartitions, CreateTopic, ExistingTopic, Plan, SetConfig, plan, wanted_topics

KAFKA = KafkaSettings(partitions=4, prefix="p.")
WANTED = wanted_topics(KAFKA)
AS_WANTED = {
    topic.name: ExistingTopic(topic.partitions, topic.replication, topic.config, topic.config) for topic in WANTED
}
CONTEXT = "p." + USERS_CONTEXT.name
ONLY_WITH = "existing topics are changed only with --allow-changes"


def _with(**changes):
    return {**AS_WANTED, CONTEXT: replace(AS_WANTED[CONTEXT], **changes)}


def _with_config(**entries):
    config = {**AS_WANTED[CONTEXT].config, **{key.replace("_", "."): value for key, value in entries.items()}}
    return {"config": config, "own_config": {**config, "segment.ms": "1000"}}


def test_user_topics_share_the_partition_count_and_the_others_have_one_partition():
    counts = {topic.name: topic.partitions for topic in WANTED}
    for topic in TOPICS:
        assert counts["p." + topic.name] == (4 if topic.key in {"user id", "pseudonym"} else 1)


def test_an_empty_cluster_gets_every_topic():
    todo = plan({}, WANTED)
    assert todo == Plan(tuple(CreateTopic(topic) for topic in WANTED))
    assert str(todo.changes[0]) == "create with 1 partition, cleanup compact"


def test_topics_as_wanted_need_nothing():
    assert plan(AS_WANTED, WANTED) == Plan()
    assert plan(AS_WANTED, WANTED, allow_changes=True) == Plan()


def test_extra_topics_are_planned_like_the_contract_s_own():
    changelog = Topic("state.changelog", USERS_CONTEXT.record, "rows", "user id", "compact")
    todo = plan(AS_WANTED, wanted_topics(KAFKA, extra=[changelog]))
    assert [(change.name, change.topic.partitions) for change in todo.changes] == [("p.state.changelog", 4)]


@pytest.mark.parametrize("allow_changes", [False, True])
@pytest.mark.parametrize("written", [False, True])
def test_partitions_are_never_removed(allow_changes, written):
    todo = plan(_with(partitions=8, written=written), WANTED, allow_changes=allow_changes)
    assert todo.refusals[0].startswith(f"topic {CONTEXT}: 8 partitions, wanted 4: Kafka can't remove partitions")


@pytest.mark.parametrize("allow_changes", [False, True])
def test_a_topic_with_records_never_gets_more_partitions(allow_changes):
    todo = plan(_with(partitions=2), WANTED, allow_changes=allow_changes)
    (refusal,) = todo.refusals
    assert refusal.startswith(f"topic {CONTEXT}: 2 partitions with records in them, wanted 4")


def test_a_topic_never_written_to_gets_more_partitions_when_changes_are_allowed():
    current = _with(partitions=2, written=False)
    assert plan(current, WANTED).refusals == (
        f"topic {CONTEXT}: not as the contract says (partitions 2 -> 4): {ONLY_WITH}",
    )
    assert plan(current, WANTED, allow_changes=True) == Plan((AddPartitions(CONTEXT, 2, 4),))


@pytest.mark.parametrize("allow_changes", [False, True])
def test_the_cleanup_policy_of_a_topic_with_records_is_never_changed(allow_changes):
    todo = plan(_with(**_with_config(cleanup_policy="compact")), WANTED, allow_changes=allow_changes)
    (refusal,) = todo.refusals
    assert refusal.startswith(f"topic {CONTEXT}: cleanup.policy compact and records in the topic, wanted delete")


def test_a_setting_is_changed_only_when_allowed_and_the_topic_s_other_settings_stay():
    current = _with(**_with_config(retention_ms="1000"))
    wanted = str(USERS_CONTEXT.retention_ms)
    assert plan(current, WANTED).refusals == (
        f"topic {CONTEXT}: not as the contract says (retention.ms 1000 -> {wanted}): {ONLY_WITH}",
    )
    (change,) = plan(current, WANTED, allow_changes=True).changes
    assert isinstance(change, SetConfig)
    assert change.changed == {"retention.ms": ("1000", wanted)}
    assert change.whole == {**AS_WANTED[CONTEXT].config, "segment.ms": "1000"}


def test_a_setting_that_the_broker_does_not_know_is_left_alone():
    config = {k: v for k, v in AS_WANTED[CONTEXT].config.items() if k != "message.timestamp.after.max.ms"}
    assert plan(_with(config=config), WANTED) == Plan()


def test_more_replicas_than_wanted_are_fine_and_fewer_are_refused():
    assert plan(_with(replication=3), WANTED) == Plan()
    wanted = wanted_topics(KafkaSettings(partitions=4, prefix="p.", replication=3))
    (refusal,) = plan(AS_WANTED, wanted, allow_changes=True).refusals
    assert refusal.startswith(f"topics {', '.join(AS_WANTED)}: replication factor 1, wanted 3")


def test_every_reason_of_every_topic_is_listed_at_once():
    current = {
        **_with(partitions=2),
        "p." + CATALOG_ITEMS.name: replace(AS_WANTED["p." + CATALOG_ITEMS.name], partitions=3),
    }
    assert [refusal.split(":")[0] for refusal in plan(current, WANTED).refusals] == [
        "topic p.catalog.items",
        f"topic {CONTEXT}",
    ]


def test_keeping_history_switches_retention_off_and_changes_nothing_else():
    for topic in TOPICS:
        usual, kept = topic.config(), topic.config(keep_history=True)
        assert kept["retention.ms"] == "-1"
        assert {**usual, "retention.ms": "-1"} == kept


def test_a_dead_letter_has_room_for_the_largest_record_that_a_user_topic_takes():
    assert DEADLETTERS.max_bytes > max(topic.max_bytes for topic in TOPICS if topic.name.startswith("users."))
