"""What schemas/README.md tells producers is true."""

import json
import re
from pathlib import Path

import msgpack
import pytest

import schemas
from schemas.codec import decode
from schemas.documents import ROLES
from schemas.records import Context, Feedback, Request
from schemas.topics import DAY_MS, TOPICS

TEXT = (Path(schemas.__file__).parent / "README.md").read_text("utf-8")


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_the_table_says_what_the_topic_is(topic):
    (row,) = re.findall(rf"^\| `{re.escape(topic.name)}` \|(.*)\|$", TEXT, re.MULTILINE)
    record, key, partitions, cleanup, kept, writers = (cell.strip() for cell in row.split("|"))
    assert f"`{topic.record.__name__}`" in record
    assert topic.key in key
    assert partitions == (str(topic.fixed_partitions) if topic.fixed_partitions else "common")
    assert cleanup == topic.cleanup
    assert kept == ("newest per key" if cleanup == "compact" else f"{topic.retention_ms // DAY_MS} days")
    roles = [role for role, actions in ROLES.items() if topic.name in actions.get("send", ())]
    assert all(role in writers for role in roles) or (writers == "every stage" and len(roles) == 3)


def test_the_examples_are_valid_records():
    (request,) = re.findall(r"```json\n(.*?)\n```", TEXT, re.DOTALL)
    context, feedback = (part.replace("…", "x") for part in re.findall(r'`(\{"v": 1.*?\})`', TEXT, re.DOTALL))
    assert decode(Context, msgpack.packb(json.loads(context))).company == "couple"
    assert decode(Feedback, msgpack.packb(json.loads(feedback))).kind == "booking"
    namespace = {}
    (program,) = re.findall(r"```python\n(from.*?)\n```", TEXT, re.DOTALL)
    exec(program, namespace)
    assert decode(Request, msgpack.packb(json.loads(request))) == namespace["request"]
