"""Arguments win over variables, variables over the file; what is wrong is one sentence that names the setting."""

from pathlib import Path

import pytest

from ops.stages import variables
from streams.settings import (
    ExplorationSettings,
    InferenceSettings,
    KafkaSettings,
    PrivacySettings,
    Settings,
    SettingsError,
    load_settings,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "tablecast.toml").write_text(text, encoding="utf-8")


def test_without_a_file_and_variables_everything_has_a_default():
    settings = load_settings()
    assert settings.kafka.bootstrap is None
    assert settings.kafka.security_protocol == "PLAINTEXT"


def test_arguments_win_over_variables_and_variables_over_the_file(folder, monkeypatch):
    write(folder, '[kafka]\nbootstrap = "file:1"\npartitions = 7\n[state]\ngrace_ms = 5\n')
    monkeypatch.setenv("TABLECAST_KAFKA__BOOTSTRAP", "variable:1")
    settings = load_settings()
    assert (settings.kafka.bootstrap, settings.kafka.partitions, settings.state.grace_ms) == ("variable:1", 7, 5)
    assert Settings(instance="argument").instance == "argument"


def test_a_password_is_not_printed(monkeypatch):
    monkeypatch.setenv("TABLECAST_KAFKA__SASL_PASSWORD", "hunter2")
    settings = load_settings()
    assert "hunter2" not in repr(settings)
    assert settings.kafka.sasl_password.get_secret_value() == "hunter2"


def test_settings_do_not_change_while_a_stage_runs():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().kafka.partitions = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[kafka]\npartitions = 0\n",
            r"setting 'kafka.partitions': .*greater than or equal to 1.*TABLECAST_KAFKA__PART",
        ),
        ("[kafka]\nprefix = 'no spaces'\n", r"setting 'kafka.prefix': .*pattern"),
        ("[kafka]\nbootstap = 'x'\n", r"setting 'kafka.bootstap': there is no such setting"),
        ("[stat]\ngrace_ms = 1\n", r"setting 'stat': there is no such setting"),
        ("[state]\ngrace_ms = 'soon'\n", r"setting 'state.grace_ms': .*integer"),
        ("log_level = 'loud'\n", r"setting 'log_level': .*'debug', 'info'"),
        ("[kafka\n", r"tablecast.toml: "),
    ],
)
def test_what_is_wrong_in_the_file_is_named_in_one_line(folder, text, message):
    write(folder, text)
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TABLECAST_STATE__GRACE_MS", "-1", r"setting 'state.grace_ms': .*TABLECAST_STATE__GRACE_MS"),
        ("TABLECAST_INSTANCE", "a b", r"setting 'instance'"),
        ("TABLECAST_KAFKA__NO_SUCH", "1", r"setting 'kafka.no_such': there is no such setting"),
    ],
)
def test_what_is_wrong_in_a_variable_is_named_too(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        load_settings()


def test_a_child_process_gets_exactly_the_settings_of_its_parent_and_its_secrets(tmp_path, monkeypatch):
    settings = Settings(
        data_dir=tmp_path,
        kafka=KafkaSettings(bootstrap="broker:1", keep_history=True, sasl_password="hunter2"),
        inference=InferenceSettings(exploration={"travel": ExplorationSettings(method="softmax", temperature=0.2)}),
        privacy=PrivacySettings(key="a key of sixteen", training_text=False),
    )
    for name, value in variables(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
