"""The figures of a shadow report are what they say."""

import pytest

from models.shadow_report import differences, overlap, rank_correlation
from schemas.records import ScoredItem, ShadowComparison


def comparison(answered, would_have, request="r"):
    def scored(items):
        return [ScoredItem(item_id=item, score=float(score)) for item, score in items]

    return ShadowComparison(
        request_id=request, domain="d", model="m@1", shadow="m@2",
        answered=scored(answered), would_have=scored(would_have),
    )  # fmt: skip


def listed(answered, would_have):
    return comparison([(item, 0) for item in answered], [(item, 0) for item in would_have])


@pytest.mark.parametrize(
    ("answered", "would_have", "share"),
    [("abc", "cba", 1), ("abcd", "abxy", 0.5), ("ab", "xy", 0), ("", "", 1), ("", "a", 0), ("a", "", 0)],
)
def test_overlap_is_the_share_of_answered_items_that_the_shadow_has(answered, would_have, share):
    assert overlap(listed(answered, would_have)) == share


@pytest.mark.parametrize(
    ("answered", "would_have", "correlation"),
    [("abcd", "abcd", 1), ("abcd", "dcba", -1), ("abc", "acb", 0.5), ("axbyc", "abcz", 1), ("ab", "ax", None)],
)
def test_rank_correlation_is_spearmans_over_the_items_in_both_lists(answered, would_have, correlation):
    assert rank_correlation(listed(answered, would_have)) == correlation


def test_a_report_of_several_requests():
    same = comparison([("a", 2), ("b", 1)], [("a", 2), ("b", 1)], "r1")
    turned = comparison([("a", 2), ("b", 1)], [("b", 3), ("a", 1)], "r2")
    (report,) = differences([same, turned, turned])
    assert (report.model, report.shadow, report.requests) == ("m@1", "m@2", 2)
    assert (report.identical, report.reordered, report.same_first, report.overlap) == (0.5, 0.5, 0.5, 1.0)
    assert report.rank_correlation == 0.0
    assert report.score_difference == pytest.approx((0 + 0 + 2 - 1) / 4)
    assert report.examples == (same, turned)


def test_each_pair_of_versions_has_a_report_and_nothing_has_none():
    assert differences([]) == []
    other = ShadowComparison(request_id="r", domain="d", model="m@1", shadow="m@3", answered=[], would_have=[])
    reports = differences([listed("a", "a"), other])
    assert [report.shadow for report in reports] == ["m@2", "m@3"]
    assert (reports[1].identical, reports[1].rank_correlation, reports[1].score_difference) == (1.0, None, None)
