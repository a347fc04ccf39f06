"""The one flag parser. A recipe names its flags with their defaults; the type is that of the default.

    args = cli.parse(argv, __doc__, depth=cli.flag(20, "layers", at_least=1), model_tag="", resume=False)

Both spellings work (`--device_batch_size`, `--device-batch-size`), with `=` or a space, and a bare `--` (needed under
torchrun) is accepted anywhere. A misspelt flag, a wrong type or an impossible value ends with one line and exit code 2.
"""
import argparse
import codecs
import contextlib
import difflib
import errno
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat.system.files import UserError

# Errors of the machine, not of the program: one line, no traceback. Disks (full, broken), limits (files, processes).
MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE,
                  errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
# What the program prints where the terminal's encoding has no such character (ISO-8859-1, ASCII); others become "?".
SPELLINGS = {"−": "-", "–": "-", "→": "->", "≈": "~", "×": "x", "…": "...", "±": "+-", "≤": "<=", "≥": ">=",
             "·": "*", "’": "'", "“": '"', "”": '"', "²": "^2", "½": "1/2"}
_can_resume = True  # until a recipe's flags say otherwise; for what Ctrl-C answers


@dataclass(frozen=True)
class flag:  # noqa: N801 (reads as a word in `parse(..., depth=flag(20, "layers"))`)
    """One flag: its default (whose type it takes), a help text, and what values make sense."""

    default: Any
    help: str = ""
    choices: Sequence[Any] = ()
    at_least: float | None = None
    at_most: float | None = None
    short: str = ""
    words: dict[str, Any] = field(default_factory=dict)  # that stand for a value: {"auto": -1}

    def check(self, name: str, value: Any) -> str:
        """What is wrong with `value`, or ""."""
        if self.choices and value not in self.choices:
            known = ", ".join(str(one) for one in self.choices if one != "")
            return f"--{name}={value} is unknown; choose one of {known}"
        if self.at_least is not None and value < self.at_least and value not in (self.default, *self.words.values()):
            return f"--{name}={value} is too small; give at least {self.at_least}"
        if self.at_most is not None and value > self.at_most:
            return f"--{name}={value} is too large; give at most {self.at_most}"
        return ""


class Args(argparse.Namespace):
    """The flags' values, as attributes. What the user did not type is not among `given`; `defaults` are this code's.

    Slots, so that `vars(args)` has the flags and nothing else.
    """

    __slots__ = ("given", "defaults")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        _complain(f"{self.prog}: {message}; see --help")
        raise SystemExit(2)


def parse(argv: list[str] | None, doc: str | None, **flags: Any) -> Args:
    """The values of `flags`; keyword = name with underscores, value = default or `flag(...)`.

    Booleans are switches: `--resume` turns on, `--no_resume` off. With NANOCHAT_PARSE_ONLY=1 it checks, says so and
    exits 0: the tests use that to hold every documented command to its flags.
    """
    global _can_resume
    _can_resume = "resume" in flags
    described = {name: value if isinstance(value, flag) else flag(value) for name, value in flags.items()}
    caller = sys._getframe(1).f_globals.get("__spec__")
    parser = _Parser(prog=f"python -m {caller.name}" if caller else None, description=doc, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, one in described.items():
        _add(parser, name, one)
    words = [_normal(word) for word in (sys.argv[1:] if argv is None else argv) if word != "--"]
    typed, unknown = parser.parse_known_args(words)
    args = Args(**{name: getattr(typed, name, one.default) for name, one in described.items()})
    args.given, args.defaults = set(vars(typed)), {name: one.default for name, one in described.items()}
    if unknown:
        known = [f"--{name}" for name in described]
        close = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {' '.join(known)}"
        parser.error(f"unknown flag {unknown[0]}; {hint}")
    for name, one in described.items():
        if problem := one.check(name, getattr(args, name)):
            parser.error(problem)
    if os.environ.get("NANOCHAT_PARSE_ONLY"):
        print("flags ok")
        raise SystemExit(0)
    return args


def _normal(word: str) -> str:
    """`--device-batch-size=8` → `--device_batch_size=8`; values and short flags stay as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _add(parser: argparse.ArgumentParser, name: str, one: flag) -> None:
    names = [f"--{name}"] + ([f"-{one.short}"] if one.short else [])
    help_text = (one.help + f" (default: {one.default!r})").replace("%", "%%").strip()
    absent = argparse.SUPPRESS  # the default is filled in later, so that one can tell what was given
    if isinstance(one.default, bool):
        group = parser.add_mutually_exclusive_group()
        group.add_argument(*names, dest=name, action="store_true", default=absent, help=help_text)
        group.add_argument(f"--no_{name}", dest=name, action="store_false", default=absent,
                           help=argparse.SUPPRESS)
        return
    parser.add_argument(*names, dest=name, type=_reader(type(one.default), one.words), default=absent, help=help_text)


def _reader(kind: type, words: dict[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text in words:
            return words[text]
        if kind is int:  # 2_000_000 and 2e9 are easier to check by eye than 2000000000
            try:
                value = int(text)
            except ValueError:
                if not float(text).is_integer():  # neither is infinity
                    raise
                value = int(float(text))
        else:
            value = kind(text)
        if kind is float and not math.isfinite(value) or kind is int and abs(value) >= 2**63:
            raise ValueError(text)
        return value

    read.__name__ = {int: "whole number", float: "number"}.get(kind, kind.__name__)
    return read


exit_code = 0  # what this program ends with, once that is known


def run(main: Callable[[], Any]) -> None:
    """Runs a recipe as a program: what the user can mend ends in one line and exit code 1, Ctrl-C in 130.

    A reader that goes away (`| head`) ends it without a word.
    """
    global exit_code
    _repair_streams()
    try:
        _run(main)
    except BaseException as error:
        exit_code = (error.code or 0) if isinstance(error, SystemExit) else 1
        raise


def _repair_streams() -> None:
    """Makes stdin, stdout and stderr usable on every machine.

    A closed descriptor (`>&-`, some schedulers) becomes /dev/null: the next file that is opened would get its number,
    and everything printed would be written into that file. And no text is refused because of the locale's encoding.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number: this one
    codecs.register_error("spelling", lambda error: (
        "".join(SPELLINGS.get(letter, "?") for letter in error.object[error.start:error.end]), error.end))
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (for the program's life)
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace" if mode == "r" else "spelling")


def _complain(text: str) -> None:
    """One line on stderr, if there is still somebody at its other end."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _run(main: Callable[[], Any]) -> None:
    try:
        main()
    except UserError as error:
        _complain(f"error: {error}")
        raise SystemExit(1) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
        raise SystemExit(128 + 13) from None  # as if killed by SIGPIPE
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        _complain(f"error: {error.filename or 'the system refuses'}: {error.strerror}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _complain(f"interrupted{': run the same command with --resume to go on' * _can_resume}")
        raise SystemExit(130) from None
