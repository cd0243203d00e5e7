"""A model through its life by `tablecast model`: published, shown, compared, promoted, rolled back, removed."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from models.artefact import write_model
from ops.cli import app
from ops.stages import variables
from streams.settings import KafkaSettings, ModelsSettings, Settings
from streams.topic_admin import apply_topics

pytestmark = pytest.mark.kafka


@pytest.fixture
def folders(tmp_path):
    """Return two models of one name, which differ in their encoder and their metrics."""
    made = []
    for number in (1, 2):
        encoder = tmp_path / f"encoder-{number}"
        encoder.mkdir()
        (encoder / "encoder.json").write_text(json.dumps({"number": number}))
        made.append(tmp_path / f"model-{number}")
        write_model(made[-1], name="tiny", base="bert", encoder=encoder, metrics={"mrr": number / 8})
    return made


@pytest.fixture
def command(bootstrap, topic_prefix, tmp_path, monkeypatch):
    """Return a function that runs `tablecast model`, and returns what it prints as JSON."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = Settings(
        data_dir=tmp_path,
        kafka=KafkaSettings(bootstrap=bootstrap, prefix=topic_prefix),
        models=ModelsSettings(store=str(tmp_path / "store"), keep=1),
    )
    settings = settings.model_copy(update={"inference": settings.inference.model_copy(update={"model_name": "tiny"})})
    asyncio.run(apply_topics(settings.kafka))

    def run(*arguments, code=0):
        done = CliRunner().invoke(app, ["model", *map(str, arguments)], env=variables(settings))
        assert done.exit_code == code, done.output
        return done.output if code or "--json" not in arguments else json.loads(done.stdout)

    return run


def test_versions_are_published_shown_compared_promoted_rolled_back_and_removed(command, folders):
    first, second = (json.loads((folder / "model.json").read_text())["version"] for folder in folders)

    def roles():
        return {row["version"]: row["role"] for row in command("list", "--json")}

    assert roles() == {}
    command("publish", folders[0])
    assert roles() == {first: "candidate"}
    assert command("promote", first[:6], "--json")["generation"] == 2

    published = command("publish", folders[1], "--role", "canary", "--share", "0.25", "--json")
    assert [(each["version"], each["role"]) for each in published["versions"]] == [
        (second, "canary"), (first, "champion"),
    ]  # fmt: skip
    assert published["versions"][0]["share"] == 0.25
    assert json.loads(command("show", second[:8]))["metrics"] == {"mrr": 0.25}
    compared = command("diff", first[:8], second[:8], "--json")
    assert compared["metrics.mrr"] == [0.125, 0.25]
    assert compared.keys() >= {"created", "encoder/encoder.json"}
    assert "base" not in compared, "it is the same"

    assert command("promote", "--json")["reason"] == "promoted by hand", "the canary, if no version is named"
    assert roles() == {first: "retired", second: "champion"}, "the way back stays, whatever models.keep says"
    assert command("rollback", "--reason", "fewer clicks", "--json")["reason"] == "fewer clicks"
    assert roles() == {first: "champion", second: "retired"}
    assert command("decisions", "--json") == [], "people decided"


def test_an_old_version_without_a_role_leaves_the_store_when_a_new_one_comes(command, folders):
    first, second = (json.loads((folder / "model.json").read_text())["version"] for folder in folders)
    command("publish", folders[0])
    assert f"removed {first} from the store" in command("publish", folders[1])
    assert [row["version"] for row in command("list", "--json")] == [second]


def test_what_makes_no_sense_is_told_in_a_sentence(command, folders):
    command("publish", folders[0])
    assert "'ffff' is not a version in the store: see `tablecast model list`" in command("show", "ffff", code=2)
    assert "there is no canary: name the version to promote" in command("promote", code=1)
    assert "there is no champion to roll back from" in command("rollback", code=1)
