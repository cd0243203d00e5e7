"""README.md's section on settings names every setting with its default."""

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from streams.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
(BLOCK,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
WRITTEN = tomllib.loads(BLOCK)
DEFAULTS = Settings.model_construct()  # reads neither file nor environment
SECTIONS = {"": DEFAULTS} | {
    name: value for name, value in DEFAULTS if isinstance(value, BaseModel)
}  # "" is the top of the file


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_named_and_none_that_is_not_there(section):
    text = dict(re.findall(r"^\[(\w+)\]\n(.*?)(?=^\[|\Z)", "[top]\n" + BLOCK, re.DOTALL | re.MULTILINE))
    named = set(re.findall(r"^#? ?([a-z_, ]+?)(?: =.*)?$", text[section or "top"], re.MULTILINE))
    named = {name.strip() for names in named for name in names.split(",")}
    assert named == set(type(SECTIONS[section]).model_fields) - set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_defaults_are_as_printed(section):
    printed = {
        name: value for name, value in (WRITTEN[section] if section else WRITTEN).items() if not isinstance(value, dict)
    }
    for name, value in printed.items():
        default = getattr(SECTIONS[section], name)
        assert Path(str(value)).expanduser() == default if isinstance(default, Path) else value == default
