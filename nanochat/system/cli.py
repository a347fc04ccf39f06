"""The one flag parser. A command names its flags with their defaults; the type of a flag is that of its default.

    args = cli.parse(argv, __doc__, depth=cli.flag(20, "layers", at_least=1), model_tag="", resume=False)

Both spellings work (`--device_batch_size`, `--device-batch-size`), with `=` or a space, and a bare `--` (which torchrun
needs) is accepted anywhere. A misspelt flag, a wrong type or an impossible value ends with one line and exit code 2.
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
from typing import Any, NoReturn

from nanochat.system.files import UserError

# Errors of the machine, not of the program: one line, no traceback. Disks (full, broken), limits (files, processes).
MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE,
                  errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
# Replacements for characters that the terminal's encoding lacks (ISO-8859-1, ASCII); all others become "?".
SPELLINGS = {"−": "-", "–": "-", "→": "->", "≈": "~", "×": "x", "…": "...", "±": "+-", "≤": "<=", "≥": ">=",
             "·": "*", "’": "'", "“": '"', "”": '"', "²": "^2", "½": "1/2"}
DESTRUCTIVE = ("fresh", "overwrite")  # flags that delete results of a run: never suggested for a misspelt flag
DOORS = {"runs": "bash speedrun.sh"}  # modules that users start by another command than `python -m`
exit_code = 0  # the exit code of this program, once it is known; nanochat/system/runtime.py reads it
_can_resume = True  # whether the command has --resume: decides the message after Ctrl-C


@dataclass(frozen=True)
class flag:  # in lower case, because it is used like a function
    """One flag: its default (whose type it takes), a help text, and the values that make sense.

    A default below `at_least`, such as -1, stands for "not given".
    """

    default: Any
    help: str = ""
    choices: Sequence[Any] = ()
    at_least: float | None = None
    at_most: float | None = None
    short: str = ""
    words: dict[str, Any] = field(default_factory=dict)  # words that mean a value: {"auto": -1}
    takes_words: bool = False  # arguments without a flag become this flag's value

    def check(self, name: str, value: Any) -> str:
        """The reason why `value` is impossible, or ""."""
        if self.choices and value not in self.choices:
            known = ", ".join(str(choice) for choice in self.choices if choice != "")
            return f"--{name}={value} is unknown; choose one of {known}"
        if self.at_least is not None and value < self.at_least and value not in (self.default, *self.words.values()):
            return f"--{name}={value} is too small; give at least {self.at_least}"
        if self.at_most is not None and value > self.at_most:
            return f"--{name}={value} is too large; give at most {self.at_most}"
        return ""

    def help_text(self) -> str:
        """The help followed by the default, unless the default stands for "not given"."""
        default = next((word for word, value in self.words.items() if value == self.default), self.default)
        if isinstance(default, bool):
            default = "on" if default else "off"
        is_absent = default == "" or self.at_least is not None and default == self.default < self.at_least
        return (self.help if is_absent else f"{self.help} (default: {default})").strip().replace("%", "%%")


class Args(argparse.Namespace):
    """The values of the flags, as attributes. `given` has the names that the user typed, `defaults` the defaults."""

    # Slots, so that `vars(args)` has the flags and nothing else.
    __slots__ = ("given", "defaults")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _print_error(f"{self.prog}: {message}; see --help")
        raise SystemExit(2)


class _Switch(argparse.Action):
    """`--resume` turns on, `--no_resume` turns off."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        setattr(namespace, self.dest, option_string != f"--no_{self.dest}")


def parse(argv: list[str] | None, doc: str | None, **flags: Any) -> Args:
    """The values of `flags`: keyword = name with underscores, value = the default or `flag(...)`.

    Booleans are switches. With NANOCHAT_PARSE_ONLY=1 it only checks the flags, prints "flags ok" and exits with 0:
    the tests check every documented command in this way.
    """
    global _can_resume
    _can_resume = "resume" in flags
    described = {name: value if isinstance(value, flag) else flag(value) for name, value in flags.items()}
    # Abbreviations are refused: `--dep` would change its meaning with the next new flag.
    parser = _Parser(prog=_command(), description=doc, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, settings in described.items():
        _add(parser, name, settings)
    # torchrun passes on the `--` that separates its own flags from ours.
    words = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv) if word != "--"]
    typed, unknown = parser.parse_known_args(words)
    args = Args(**{name: getattr(typed, name, settings.default) for name, settings in described.items()})
    args.given, args.defaults = set(vars(typed)), {name: settings.default for name, settings in described.items()}
    taker = next((name for name, settings in described.items() if settings.takes_words and name not in args.given), "")
    if taker and unknown and not any(word.startswith("-") for word in unknown):
        setattr(args, taker, " ".join(unknown))
        args.given.add(taker)
    elif unknown:
        known = [f"--{name}" for name in described]
        # A flag that deletes work is never suggested as a correction.
        names = [name for name in described if name not in DESTRUCTIVE]
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        close = difflib.get_close_matches(word.split("=")[0].lstrip("-"), names, n=1, cutoff=0.7)
        hint = f"did you mean --{close[0]}?" if close else f"known: {' '.join(known)}"
        what = "unknown flag {}" if close or word.startswith("-") else "{!r} follows no flag"
        parser.error(f"{what.format(word)}; {hint}")
    for name, settings in described.items():
        if problem := settings.check(name, getattr(args, name)):
            parser.error(problem)
    if os.environ.get("NANOCHAT_PARSE_ONLY"):
        print("flags ok")
        raise SystemExit(0)
    return args


def _command() -> str | None:
    """The command that the user typed; None if Python was not started with -m: then argparse names the file."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else None
    return DOORS.get(module, f"python -m {module}") if module else None


def _with_underscores(word: str) -> str:
    """`--device-batch-size=8` → `--device_batch_size=8`; values and short flags stay as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _add(parser: argparse.ArgumentParser, name: str, settings: flag) -> None:
    names = [f"--{name}"] + ([f"-{settings.short}"] if settings.short else [])
    kind = type(settings.default)
    how: dict[str, Any] = {"type": _reader(kind, settings.words), "metavar": {int: "N", float: "X"}.get(kind, "TEXT")}
    if kind is bool:
        names, how = [*names, f"--no_{name}"], {"action": _Switch, "nargs": 0}
    # SUPPRESS: argparse sets only what the user typed, and `parse` adds the defaults.
    parser.add_argument(*names, dest=name, default=argparse.SUPPRESS, help=settings.help_text(), **how)


def _reader(kind: type, words: dict[str, Any]) -> Callable[[str], Any]:
    """A function that converts a flag's text; it raises ValueError unless the text is a finite value of the type."""
    def read(text: str) -> Any:
        if text in words:
            return words[text]
        if kind is int:  # 2_000_000 and 2e9 are easier to check by eye than 2000000000
            try:
                value = int(text)
            except ValueError:
                if not float(text).is_integer():  # also true for infinity
                    raise
                value = int(float(text))
        else:
            value = kind(text)
        if kind is float and not math.isfinite(value) or kind is int and abs(value) >= 2**63:
            raise ValueError(text)
        return value

    read.__name__ = {int: "whole number", float: "number"}.get(kind, kind.__name__)  # argparse's errors name it
    return read


def run(main: Callable[[], Any]) -> None:
    """Runs a command as a program: an error that the user can fix ends in one line and exit code 1, Ctrl-C in 130."""
    global exit_code
    _repair_streams()
    exit_code = 1  # for our own bugs, whose traceback Python prints
    try:
        main()
        exit_code = 0
        return
    except SystemExit as error:
        exit_code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    except UserError as error:
        message = f"error: {error}"
    except BrokenPipeError:  # if the reader ends (`| head`), the program ends without a message
        message, exit_code = "", 128 + 13  # as if killed by SIGPIPE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        message = f"error: {error.filename or 'the system refuses'}: {error.strerror}"
    except KeyboardInterrupt:
        # A recipe (nanochat/recipe.py sets NANOCHAT_RECIPE) prints its own message about how to continue.
        can_resume = _can_resume and not os.environ.get("NANOCHAT_RECIPE")
        message, exit_code = f"interrupted{': run the same command with --resume to go on' * can_resume}", 130
    if message:
        _print_error(message)
    raise SystemExit(exit_code)


def _repair_streams() -> None:
    """Makes stdin, stdout and stderr usable on every machine."""
    # A closed descriptor (`>&-`, some schedulers) becomes /dev/null: the next file that is opened would get its number,
    # and everything printed would be written into that file.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number: this one
    # No text causes an error because of the locale's encoding.
    codecs.register_error("spelling", _replace_letters)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (open until the program ends)
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace" if mode == "r" else "spelling")


def _replace_letters(error: UnicodeError) -> tuple[str, int]:
    """(replacements for the characters that the encoding lacks, index after them), the result that `codecs` expects."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(SPELLINGS.get(letter, "?") for letter in error.object[error.start:error.end]), error.end


def _print_error(text: str) -> None:
    """Writes one line to stderr, if its reader is still there."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
