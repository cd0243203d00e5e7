"""What each role may do, and that nobody else may do it."""

import fnmatch
import json

import pytest
from typer.testing import CliRunner

from ops.cli import app
from schemas.access import ROLES, Role
from schemas.topics import DEADLETTERS, MODELS_DECISIONS, MODELS_SHADOW, RECOMMENDATIONS, RETRAINING, TOPICS
from streams.acls import Acl, Operation, Pattern, Resource, acls_of
from streams.settings import KafkaSettings
from streams.state.changelogs import CHANGELOGS

BY_NAME = {role.name: role for role in ROLES}
KAFKA = KafkaSettings(prefix="p.")


def readers(name: str) -> set[str]:
    return {role.name for role in ROLES if any(fnmatch.fnmatch(name, pattern) for pattern in role.reads)}


def writers(name: str) -> set[str]:
    return {role.name for role in ROLES if any(fnmatch.fnmatch(name, pattern) for pattern in role.writes)}


def test_every_topic_has_a_writer_and_a_reader():
    for topic in (*TOPICS, *CHANGELOGS):
        assert writers(topic.name), topic.name
        assert readers(topic.name) - {"ops"} or topic in (DEADLETTERS, MODELS_SHADOW, MODELS_DECISIONS), topic.name


def test_what_a_stage_answers_or_learns_from_nobody_writes_but_a_backfill():
    assert writers(RECOMMENDATIONS.name) == {"inference"}
    assert writers(RETRAINING.name) == {"state", "backfill"}
    for changelog in CHANGELOGS:
        assert writers(changelog.name) == {"state", "backfill"}
        assert readers(changelog.name) == {"state", "backfill", "ops"}
    assert readers(RETRAINING.name) == {"trainer", "backfill", "ops"}


def test_a_replay_and_a_backfill_may_write_topics_of_their_own_and_apps_may_not_even_see_them():
    for role in ("ops", "backfill"):
        own = f"{'replay' if role == 'ops' else role}-1f."
        for topic in (*TOPICS, *CHANGELOGS):
            assert writers(own + topic.name) == {role}
            assert readers(own + topic.name) <= {role, "ops"}


def test_names_carry_the_prefix_and_a_star_means_all_that_begin_so():
    role = Role("r", "", reads=("a", "b*", "*"), groups=("g*",), transactions=("t",))
    acls = acls_of(KAFKA, role, "ann")
    assert {(acl.resource, acl.pattern, acl.name, acl.operation) for acl in acls} == {
        (Resource.TOPIC, Pattern.LITERAL, "p.a", Operation.READ),
        (Resource.TOPIC, Pattern.PREFIXED, "p.b", Operation.READ),
        (Resource.TOPIC, Pattern.PREFIXED, "p.", Operation.READ),
        (Resource.GROUP, Pattern.PREFIXED, "p.g", Operation.READ),
        (Resource.TRANSACTIONAL_ID, Pattern.LITERAL, "p.t", Operation.WRITE),
        (Resource.TRANSACTIONAL_ID, Pattern.LITERAL, "p.t", Operation.DESCRIBE),
    }
    assert {acl.principal for acl in acls} == {"User:ann"}
    without_prefix = acls_of(KafkaSettings(), Role("r", "", reads=("*",)), "ann")
    assert without_prefix == [Acl("User:ann", Resource.TOPIC, Pattern.LITERAL, "*", Operation.READ)]


def run(*arguments: str):
    return CliRunner().invoke(app, ["topics", "acls", *arguments])


def test_the_command_prints_what_a_role_needs():
    printed = run("--role", "app", "--user", "shop", "--json")
    assert printed.exit_code == 0
    rows = json.loads(printed.stdout)
    assert {row["principal"] for row in rows} == {"User:shop"}
    assert {row["name"] for row in rows if row["operation"] == "READ"} == {"recommendations", "app"}
    assert "User:merchant" in run().stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--role", "king"), "the roles are app, merchant"), (("--user", "ann"), "give --role once")],
)
def test_a_role_that_is_none_is_refused(arguments, message):
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr
