"""Tables: what they do with long text, narrow terminals and colours."""

from __future__ import annotations

import json

import pytest
from rich.text import Text

from opyard.cli.output import print_devices, print_json, print_table, print_text, state_text
from opyard.testing import NullDevice

COLUMNS = ["name", "state", "reason"]
SENTENCE = (
    "the driver of this device is older than the one that its library needs; install version 12 or later"
)
ROWS = [["first", "ok", ""], ["second", "failed", SENTENCE]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Prints a table at a width (None: to a file) and gives the lines."""

    def show(width: int | None, rows=ROWS, columns=COLUMNS, **options: str) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width)) if width else monkeypatch.delenv("COLUMNS", raising=False)
        print_table(columns, rows, **options)
        return capsys.readouterr().out.splitlines()

    return show


def test_in_a_file_every_row_is_one_line(lines):
    long = "x" * 5000
    assert lines(None, [["a", "ok", long], ["b", "ok", SENTENCE]]) == [
        "name  state  reason",
        f"a     ok     {long}",
        f"b     ok     {SENTENCE}",
    ]


def test_a_sentence_wraps_beside_its_row_where_there_is_room(lines):
    assert lines(70) == [
        "name    state   reason",
        "first   ok",
        "second  failed  the driver of this device is older than the one that",
        "                its library needs; install version 12 or later",
    ]


def test_a_sentence_goes_below_its_row_where_there_is_none(lines):
    assert lines(50) == [
        "name    state   reason",
        "first   ok",
        "second  failed",
        "    the driver of this device is older than the",
        "    one that its library needs; install version 12",
        "    or later",
    ]


@pytest.mark.parametrize("width", [1, 5, 20, 40, 80, 200])
def test_nothing_is_lost_at_any_width(lines, width: int):
    words = " ".join(lines(width)).split()
    if width >= 20:
        assert [word for word in words if word in SENTENCE.split()] == SENTENCE.split()
    assert "".join(SENTENCE.split()) in "".join(words)


def test_text_is_no_markup(lines):
    assert (
        lines(80, [["[bold]x[/bold]", ":smile:", "float32[2, 3]"]])[1]
        == "[bold]x[/bold]  :smile:  float32[2, 3]"
    )


def test_a_table_without_rows_is_its_heading(lines):
    assert lines(80, [], title="Nothing:\n") == ["Nothing:", "", "name  state  reason"]


def test_wide_characters_keep_the_columns(lines):
    table = lines(80, [["日本", "ok", "a"], ["b", "ok", "c"]], ["n", "s", "r"])
    assert table == ["n     s   r", "日本  ok  a", "b     ok  c"]


def test_colours_are_for_terminals(lines, monkeypatch):
    rows = [["first", state_text("ok"), "fine"], ["second", state_text("failed"), "not"]]
    assert "\x1b" not in "".join(lines(80, rows))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = "".join(lines(80, rows))
    assert "\x1b[32mok" in coloured
    assert "\x1b[31mfailed" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    plain = "".join(lines(80, rows))
    assert "\x1b[3" not in plain
    assert "failed" in plain


def test_a_styled_cell_keeps_its_style_in_the_last_column(lines, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32mok" in "".join(lines(80, [["a", "b", Text("ok", style="green")]]))


def test_long_descriptions_of_devices_are_shortened(capsys):
    device = NullDevice("null:0")
    device.description = "Vendor  " + "of a device " * 30
    print_devices([device])
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("null:0  accelerator  null:0  Vendor of a device")
    assert line.endswith(" ...")
    assert len(line) < 130


def test_sentences_wrap(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    print_text(SENTENCE)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 30


def test_text_wraps_below_its_line_and_nowhere_but_in_a_terminal(capsys, monkeypatch):
    text = "row: one two three four five six\n    lower: one two three four five six\n\nlast"
    monkeypatch.setenv("COLUMNS", "24")
    print_text(text, hanging=6)
    assert capsys.readouterr().out.splitlines() == [
        "row: one two three",
        "      four five six",
        "    lower: one two",
        "          three four",
        "          five six",
        "",
        "last",
    ]
    monkeypatch.delenv("COLUMNS")
    print_text(text, hanging=6)
    assert capsys.readouterr().out == f"{text}\n"


def test_json_is_plain(capsys):
    print_json({"a": [1, None, "é"]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None, "é"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"seconds": float("inf")})
