"""Grades an exercise of the course (docs/course/): one line for every check, and why a check fails.

    python -m course.check 3               course/ch03/exercise.py, the file in which you write
    python -m course.check 3 --broken      course/ch03/broken.py: is the fault mended?
    python -m course.check 3 --solution    the project's own code, which passes
    python -m course.check                 a line for each chapter

The checks of chapter 3 are the functions of course/ch03/checks.py: `check_…` for the exercise, `mended_…` for the
broken version, or the same `check_…` where there are none.
"""
import importlib
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from nanochat.system import cli
from nanochat.system.cli import flag
from nanochat.system.files import UserError

CHAPTERS = range(1, 11)
COURSE = str(Path(__file__).resolve().parent)
NOT_WRITTEN = "not written yet"
WRITTEN = ("exercise.py", "broken.py")  # the files in which readers write
Check = Callable[[Any], None]


def chapter_file(chapter: int, name: str) -> ModuleType:
    """A module of a chapter: "exercise", "broken" or "checks". UserError where Python cannot read the file."""
    try:
        return importlib.import_module(f"course.ch{chapter:02}.{name}")
    except Exception as error:  # whatever a first attempt can contain
        line = error.lineno if isinstance(error, SyntaxError) else place_of(error).lineno
        reason = error.msg if isinstance(error, SyntaxError) else f"{type(error).__name__}: {error}"
        raise UserError(f"course/ch{chapter:02}/{name}.py, line {line}: {reason}; mend it, or start again with: "
                        f"git restore course/ch{chapter:02}") from error


def place_of(error: Exception) -> traceback.FrameSummary:
    """The last line of the course's own files that was running; the first frame is this file's and does not count."""
    frames = list(traceback.extract_tb(error.__traceback__))[1:]
    return ([frame for frame in frames if frame.filename.startswith(COURSE)] or frames)[-1]


def checks_of(chapter: int, broken: bool = False) -> dict[str, Check]:
    """The checks of a chapter by what they hold, which is the first line of their docstring."""
    functions = vars(chapter_file(chapter, "checks"))
    names = [name for name in functions if name.startswith("mended_")] if broken else []
    names = names or [name for name in functions if name.startswith("check_")]
    return {(functions[name].__doc__ or name).splitlines()[0]: functions[name] for name in names}


def problem_of(check: Check, written: Any) -> str:
    """Why `written` (a module, or the names it would have) fails the check; "" if it passes."""
    try:
        check(written)
    except NotImplementedError:
        return NOT_WRITTEN
    except AssertionError as error:
        return str(error) or "it does not hold"
    except Exception as error:  # whatever a first attempt can raise
        place, call = place_of(error), call_of(error)
        reason = f"{type(error).__name__}: {error} ({'/'.join(Path(place.filename).parts[-2:])}, line {place.lineno})"
        return f"{reason} in {call}" if call else f"the check cannot use what your function returned: {reason}"
    return ""


def call_of(error: Exception) -> str:
    """The call of the reader's function that raised the error: "learning_rate(step=0, steps=4)". "" if the error came
    only after the function had returned."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if Path(code.co_filename).name in WRITTEN:
            names = [name for name in code.co_varnames[:code.co_argcount] if name != "self"]
            return f"{code.co_name}({', '.join(f'{name}={shown(frame.f_locals.get(name))}' for name in names)})"
    return ""


def shown(value: Any) -> str:
    """A short text for a value; a tensor by its shape, a long value by its type."""
    if shape := getattr(value, "shape", ()):
        return f"{type(value).__name__}{tuple(shape)}"
    text = repr(value)
    return text if len(text) <= 40 and " at 0x" not in text else f"a {type(value).__name__}"


def grade(chapter: int, written: Any, broken: bool = False) -> dict[str, str]:
    """What each check holds, and why it fails ("" if it passes)."""
    return {title: problem_of(check, written) for title, check in checks_of(chapter, broken).items()}


def show(chapter: int, problems: dict[str, str]) -> bool:
    """Prints a line for each check; returns whether all pass."""
    for title, problem in problems.items():
        print(f"  {'no' if problem else 'ok'}  {title}" + (f"\n      {problem}" if problem else ""))
    passed = list(problems.values()).count("")
    done = passed == len(problems)
    print(f"chapter {chapter}: {passed} of {len(problems)} checks pass{': done' if done else ''}")
    return done


def number_of(text: str) -> int:
    """The chapter that a user names; UserError names the chapters."""
    if not text.isdecimal() or int(text) not in CHAPTERS:
        raise UserError(f"there is no chapter {text!r}; give a number from 1 to 10, e.g. python -m course.check 3")
    return int(text)


def overview() -> None:
    for chapter in CHAPTERS:
        lines = []
        for name in ("exercise", "broken"):
            problems = grade(chapter, chapter_file(chapter, name), name == "broken")
            lines.append(f"{name} {list(problems.values()).count('')} of {len(problems)}")
        print(f"chapter {chapter:2}: {', '.join(lines)}")


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, chapter=flag("", "1 to 10; without it: all chapters", takes_words=True),
        broken=flag(False, "check the broken version that you have mended"),
        solution=flag(False, "check the project's own code instead"))
    if not args.chapter:
        return overview()
    chapter = number_of(args.chapter)
    name = "broken" if args.broken else "exercise"
    written = chapter_file(chapter, "checks").SOLUTION if args.solution else chapter_file(chapter, name)
    if not show(chapter, grade(chapter, written, args.broken)):
        raise SystemExit(1)


if __name__ == "__main__":
    cli.run(main)
