"""Shows a model's text on a terminal: lines break between words, tool calls are dim, no control characters.

In a file or a pipe the text is neither wrapped nor coloured.
"""
import contextlib
import os
import shutil
import sys
import termios
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

from nanochat.system.log import CLEAR, CONTROL, is_terminal

DIM, BOLD, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"  # ANSI escape codes


def styled(text: str, code: str, stream: TextIO) -> str:
    """`text` between escape codes, if `stream` shows them and the user has not asked for none (NO_COLOR)."""
    return f"{code}{text}{PLAIN}" if text and code and is_terminal(stream) and not os.environ.get("NO_COLOR") else text


def erase_line(stream: TextIO | None) -> None:
    """Clear the current line, in which a temporary message was printed."""
    if stream is not None and is_terminal(stream):
        print(CLEAR, end="", file=stream, flush=True)


@contextlib.contextmanager
def unseen_typing() -> Iterator[None]:
    """Inside this block the terminal does not show typed characters. They are kept, and the next input() shows them."""
    saved: list[Any] = []
    with contextlib.suppress(OSError):  # not every stdin is a file
        saved = termios.tcgetattr(sys.stdin) if is_terminal(sys.stdin) else []
    if saved:
        *others, local_modes, speed_in, speed_out, characters = saved
        termios.tcsetattr(sys.stdin, termios.TCSANOW,
                          [*others, local_modes & ~termios.ECHO, speed_in, speed_out, characters])
    try:
        yield
    finally:
        if saved:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, saved)


def columns(text: str) -> int:
    """The number of columns of a text: East Asian characters and emoji take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(bool(unicodedata.combining(letter)) for letter in text)


class Paper:
    """Writes streamed text. A word is printed when it is complete, since only then its line is known."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.wraps = is_terminal(self.stream)
        self.column, self.word = 0, ""
        self.style = ""

    def write(self, text: str, style: str = "") -> None:
        """Append `text`. A new style begins after the current word."""
        text = CONTROL.sub("\ufffd", text)
        if not self.wraps:
            self.stream.write(text)
        else:
            if style != self.style:
                self.end_word()
                self.style = style
            for letter in text:
                self._put(letter)
        self.stream.flush()

    def _put(self, letter: str) -> None:
        if letter.isspace() or unicodedata.east_asian_width(letter) in "WF":  # a line may break here
            self.end_word()
        if not letter.isspace():
            self.word += letter
        elif letter == "\n":
            self._print("\n", 0)
        elif self.column < self._width():  # otherwise the line ends here anyway
            self._print(" ", self.column + 1)

    def end_word(self) -> None:
        """Print the collected word, on the next line if the current line has too few columns left."""
        size, word, self.word = columns(self.word), self.word, ""
        if self.column and self.column + size > self._width():
            self._print("\n", 0)
        if word:  # the terminal breaks a word that is longer than a line
            column = self.column + size if size <= self._width() else size % self._width()
            self._print(styled(word, self.style, self.stream), column)

    def fresh_line(self) -> None:
        """The next text begins on a new line (on a terminal)."""
        self.end_word()
        if self.column:
            self._print("\n", 0)

    def end(self) -> None:
        """The end of the answer: print the collected word and a line break."""
        self.end_word()
        self.stream.write("\n")
        self.stream.flush()
        self.column = 0

    def _print(self, text: str, column: int) -> None:
        self.stream.write(text)
        self.column = column

    @staticmethod
    def _width() -> int:
        return max(shutil.get_terminal_size().columns, 1)  # asked each time: the window may have another size by now
