"""The catalogue is followed while requests are answered."""

import pytest

from ops.bench.catalogue_live import catalogue_live

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]


async def test_changes_of_the_catalogue_show_within_a_second_and_nothing_gone_is_recommended(deployment):
    report = await catalogue_live(deployment, items=10)

    assert report.faults == []
