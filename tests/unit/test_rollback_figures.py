"""What is told of canaries that were pushed past the gate by hand."""

import msgspec
import pytest

from ops.bench.rollback import Judged
from schemas.records import ModelDecision

HOUR = 3_600_000


def decision(version, what):
    return ModelDecision(
        decision=what,
        version=version,
        reason="not clicked: 97% of 300 answers against 91% of 700",
        figures={"not clicked: canary answers": 300.0},
        start=10 * HOUR,
        end=int(12.5 * HOUR),
    )


def test_a_canary_is_told_by_its_own_decision_and_in_event_time():
    judged = Judged("spoilt", "b" * 16, wanted="roll back")
    judged.look_at([decision("a" * 16, "promote")])
    assert judged.figures()["decision"] == "none"
    judged.look_at([decision("a" * 16, "promote"), decision("b" * 16, "roll back")])
    figures = judged.figures()
    assert (figures["decision"], figures["hours_of_event_time"]) == ("roll back", 2.5)
    assert figures["users_judged_by_their_clicks"] == 300


def test_users_count_once_and_click_rates_are_means_of_each_side():
    judged = Judged("spoilt", "b" * 16, wanted="roll back")
    judged.users |= {"u1", "u2"}
    judged.users |= {"u1"}
    judged.true_click_rates[True] += [0.1, 0.2]
    figures = judged.figures()
    assert figures["users_who_saw_it"] == 2
    assert figures["true_click_rate_canary"] == pytest.approx(0.15)
    assert figures["true_click_rate_champion"] is None
    assert msgspec.json.decode(msgspec.json.encode(figures)) == figures
