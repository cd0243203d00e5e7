"""Pseudonyms: the same for a user everywhere, and nobody's without the key."""

import stat

import msgspec
import pytest

from models.pseudonyms import Pseudonyms
from schemas.codec import decode, encode
from schemas.examples import EXAMPLES
from schemas.records import JoinedRequest
from streams.privacy import KEY_FILE, for_training, load_pseudonyms
from streams.settings import PrivacySettings, Settings, SettingsError

OLD, NEW = b"the key of last year", b"the key of this year"


def test_a_user_has_one_name_under_a_key_and_another_under_another():
    named = Pseudonyms((NEW,)).of(b"ann")
    assert named == Pseudonyms((NEW, OLD)).of(b"ann") != Pseudonyms((OLD,)).of(b"ann")
    assert named != Pseudonyms((NEW,)).of(b"anna")
    assert len(named) == 32
    assert b"ann" not in named


def test_all_names_a_user_ever_had_are_known():
    assert Pseudonyms((NEW, OLD)).names(b"ann") == {
        b"ann",
        Pseudonyms((NEW,)).of(b"ann"),
        Pseudonyms((OLD,)).of(b"ann"),
    }
    assert Pseudonyms((NEW,), keep_raw=True).of(b"ann") == b"ann"


def test_a_key_is_never_printed():
    assert "key of" not in repr(Pseudonyms((NEW,)))


def test_without_a_key_one_is_made_that_only_its_owner_reads_and_every_stage_finds(tmp_path):
    settings = Settings(data_dir=tmp_path / "data")
    first = load_pseudonyms(settings)
    assert first == load_pseudonyms(settings)
    file = tmp_path / "data" / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == [KEY_FILE]
    assert first != load_pseudonyms(Settings(data_dir=tmp_path / "elsewhere"))


def test_a_key_comes_from_the_environment_or_from_a_file_that_may_have_former_ones(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_bytes(NEW.replace(b" ", b"-") + b"\n" + OLD.replace(b" ", b"-") + b"\n")
    file.chmod(0o640)  # a mounted secret is its group's
    assert load_pseudonyms(Settings(privacy=PrivacySettings(key_file=file))).keys == (
        NEW.replace(b" ", b"-"), OLD.replace(b" ", b"-"),
    )  # fmt: skip
    monkeypatch.setenv("TABLECAST_PRIVACY__KEY", NEW.decode())
    settings = Settings()
    assert load_pseudonyms(settings).keys == (NEW,)
    assert NEW.decode() not in repr(settings)


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (None, 0, "can't be read"),
        ("", 0o600, "openssl rand"),
        ("short", 0o600, "at least 16"),
        ("x" * 32, 0o644, "chmod 600"),
    ],
)
def test_a_file_that_will_not_do_is_refused_with_what_to_do(tmp_path, text, mode, message):
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(SettingsError, match=message):
        load_pseudonyms(Settings(privacy=PrivacySettings(key_file=file)))


FULL = EXAMPLES[JoinedRequest].full
PSEUDONYMS = Pseudonyms((NEW,))


def joined(**request: object) -> JoinedRequest:
    return msgspec.structs.replace(FULL, request=msgspec.structs.replace(FULL.request, **request))


def test_a_training_copy_names_nobody_and_keeps_all_that_the_model_sees():
    whole = joined(request_id="ann-17", session_id="ann/1", text="I'm ann, banana bread please")
    copy = decode(JoinedRequest, for_training(encode(whole), b"ann", PSEUDONYMS, text=True))
    name = PSEUDONYMS.of(b"ann").decode()
    assert copy.request.request_id == f"{name}-17"
    assert copy.request.session_id == PSEUDONYMS.of(b"ann/1").decode()
    assert copy.request.text == f"I'm {name}, banana bread please"
    same = {"request_id": "r", "session_id": "s", "text": ""}
    assert msgspec.structs.replace(copy, request=msgspec.structs.replace(copy.request, **same)) == joined(**same)


def test_a_training_copy_has_no_words_where_configuration_says_so():
    copy = for_training(encode(joined()), b"ann", PSEUDONYMS, text=False)
    assert decode(JoinedRequest, copy).request.text == ""


def test_a_training_copy_with_nothing_to_hide_is_the_same_to_the_byte():
    raw = encode(joined(session_id=None))
    assert for_training(raw, b"ann", PSEUDONYMS, text=True) == raw
    raw = encode(joined(session_id="ann"))
    assert for_training(raw, b"ann", Pseudonyms((NEW,), keep_raw=True), text=False) == raw
