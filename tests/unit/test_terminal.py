"""What other people wrote is printed as it is: it styles nothing, and steers no terminal."""

import io

import pytest
from rich.table import Table

from ops.request_command import _print
from ops.terminal import Terminal, harmless
from schemas.records import Recommendation, RecommendedItem, Source, Understood


def printed(*renderables) -> str:
    terminal = Terminal(file=io.StringIO(), width=80)
    for renderable in renderables:
        terminal.print(renderable)
    return terminal.file.getvalue()


@pytest.mark.parametrize(
    "name", ["[/]", "[/red]", "[bold]Bar", "[link=file:///etc/passwd]x[/link]", ":cat: Café", "\\[x]"]
)
def test_brackets_and_colons_are_only_letters(name):
    table = Table("item", title=name)
    table.add_row(name)
    assert printed(name) == f"{name}\n"
    assert printed(table).count(name) == 2


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\x08", "\r", "\x00", "\x7f", "\x9b", "\u202e", "\u2066"])
def test_what_steers_a_terminal_is_shown_as_a_mark(character):
    table = Table("item")
    table.add_row(f"a{character}b")
    assert "a\ufffdb" in printed(table)
    assert printed(f"a{character}b") == "a\ufffdb\n"


@pytest.mark.parametrize("text", ["plain", "川菜馆 🍜", "مطعم", "two\nlines", "a\ttab", "👨‍👩‍👧"])
def test_all_else_stays(text):
    assert harmless(text) == text


def test_an_answer_with_a_hostile_name_is_printed(capsys):
    item = RecommendedItem(item_id="i", score=1.0, reasons={"text": 1.0}, why="[/why]", name="[/b]\x1b]0;owned\x07")
    answer = Recommendation(
        request_id="r", domain="restaurant", model="m@[1]", items=[item], source=Source(partition=0, offset=0),
        understood=Understood(wishes=[], phrase="[red]no"), degraded="[late]",
    )  # fmt: skip
    _print(answer, 1.0)
    shown = capsys.readouterr().out
    assert "[red]no" in shown
    assert "[late]" in shown
    assert "\x07" not in shown
    assert "\x1b]" not in shown
