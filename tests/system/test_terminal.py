"""Streamed text on a terminal of a given width, and in a file."""
import io

import pytest

from nanochat.system import terminal
from nanochat.system.terminal import DIM, PLAIN, Paper, styled


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def twenty_columns(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(terminal.shutil, "get_terminal_size", lambda: terminal.os.terminal_size((20, 24)))


def written(stream, *pieces):
    paper = Paper(stream)
    for piece in pieces:
        paper.write(*piece) if isinstance(piece, tuple) else paper.write(piece)
    paper.end()
    return stream.getvalue()


@pytest.mark.parametrize("text, lines", [
    ("let me tell you what happened then", ["let me tell you what", "happened then"]),
    ("exactly twenty cols! and on", ["exactly twenty cols!", "and on"]),
    ("one\n\n  two", ["one", "", "  two"]),
    ("x" * 45 + " end of it", ["x" * 45 + " end of it"]),  # the terminal breaks it, after two lines and 5 letters
    ("狐狸 " + "跳" * 12, ["狐狸 " + "跳" * 7, "跳" * 5]),
    ("an emoji 🦊🦊🦊🦊🦊🦊 fox", ["an emoji 🦊🦊🦊🦊🦊", "🦊 fox"]),
])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_words_are_not_broken_however_they_come(text, lines, size):
    pieces = [text[start:start + size] for start in range(0, len(text), size)]
    shown = written(Screen(), *pieces)
    assert [line.rstrip(" ") for line in shown.splitlines()] == lines


def test_a_file_gets_the_text_as_it_is():
    long = "let me tell you what happened then"
    assert written(io.StringIO(), long, ("[1+1", DIM)) == long + "[1+1\n"


@pytest.mark.parametrize("variable, value", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_escape_codes_where_nobody_wants_them(monkeypatch, variable, value):
    assert styled("x", DIM, Screen()) == f"{DIM}x{PLAIN}" == written(Screen(), ("x", DIM)).strip()
    monkeypatch.setenv(variable, value)
    assert styled("x", DIM, Screen()) == "x" == written(Screen(), ("x", DIM)).strip()


def test_control_characters_do_not_steer_the_terminal():
    assert "\x1b" not in written(Screen(), "a\x1b[2Jb\x9b1mc")
