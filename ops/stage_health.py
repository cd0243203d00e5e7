"""Whether a stage works, for container health checks: ``python -m ops.stage_health inference`` exits 0 or 1.

A stage works when it is a member of its consumer group, which it joins once it is ready and is expelled from ten
seconds after its last heartbeat.
"""

import asyncio
import sys

from aiokafka.admin import AIOKafkaAdminClient

from streams.kafka import client_options
from streams.settings import Settings, load_settings
from streams.state.changelogs import APPLICATION

GROUPS = {"state": APPLICATION, "inference": "inference"}


async def is_member(settings: Settings, stage: str) -> bool:
    """Return whether this instance of a stage (``settings.instance``) is in its consumer group."""
    group = settings.kafka.prefix + GROUPS[stage]
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()
    try:
        (response,) = await admin.describe_consumer_groups([group])
    finally:
        await admin.close()
    prefix = f"{group}-{settings.instance}-"  # of the member id, which the broker makes from the static instance id
    return any(member[0].startswith(prefix) for *_, members in response.groups for member in members)


if __name__ == "__main__":
    sys.exit(not asyncio.run(is_member(load_settings(), sys.argv[1])))
