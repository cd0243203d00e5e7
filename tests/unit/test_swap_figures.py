"""What swaps did to requests: each is counted where it was posted, and a broken promise is a sentence."""

import pytest

from ops.bench.swaps import Swaps

FAST, SLOW = 0.01, 0.05  # seconds


def swaps(seconds_during):
    """Return one pause, one swap and one that reads the catalogue anew, with ten requests in each and between them."""
    made = Swaps(capacity=100.0, rate=60.0)
    made.pauses, made.swaps, made.swaps_anew = [(0.0, 10.0)], [(20.0, 30.0)], [(40.0, 60.0)]
    for number in range(60):
        request_id, posted = f"r{number}", number + 0.5
        during = any(start <= posted <= end for start, end in made.swaps + made.swaps_anew)
        made.posted[request_id] = posted
        made.answered[request_id] = posted + (seconds_during if during else FAST)
        made.answers[request_id] += 1
    return made


def test_requests_count_where_they_were_posted_and_nowhere_else():
    figures = swaps(SLOW).figures()
    assert (figures["requests"], figures["requests_outside"], figures["requests_during"]) == (60, 10, 30)
    assert (figures["requests_as_trained"], figures["requests_anew"]) == (10, 20)
    assert (figures["seconds_per_swap"], figures["seconds_per_swap_anew"]) == (10, 20)
    assert figures["p99_ms_outside"] == pytest.approx(10)
    assert figures["p99_ratio_during"] == pytest.approx(5)


def test_what_is_lost_answered_twice_or_slow_is_said():
    broken = swaps(SLOW)
    del broken.answers["r1"], broken.answered["r1"]
    broken.answers["r2"] += 1
    assert broken.faults() == [
        "1 requests were not answered",
        "1 requests were answered more than once",
        "p99 during swaps is 5.00 times that outside, allowed 2",
    ]
    assert swaps(FAST).faults() == []
