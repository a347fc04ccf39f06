"""Locales: no command dies of the terminal's encoding, and no file is read or written in it."""
import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def calls_without_encoding(source: str) -> list[int]:
    """Lines of calls that open text in the locale's encoding: open, Path.open, gzip.open, read_text, write_text, and
    subprocesses with text=True."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
        words = {word.arg for word in node.keywords}
        places = [*node.args[:2], *(word.value for word in node.keywords if word.arg == "mode")]
        modes = [part.value for place in places for part in ast.walk(place)  # "ab" if there else "wb"
                 if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        is_text = any("t" in mode for mode in modes) if owner == "gzip" else not any("b" in mode for mode in modes)
        opens = (name in ("read_text", "write_text")
                 or name in ("open", "fdopen", "TextIOWrapper") and owner != "os" and is_text)
        as_text = any(word.arg in ("text", "universal_newlines") and getattr(word.value, "value", False) is True
                      for word in node.keywords)
        if (opens or as_text) and "encoding" not in words:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("source, found", [
    ("open(p)", 1), ("open(p, 'w')", 1), ("open(p, 'rb')", 0), ("open(p, mode='wb')", 0), ("p.read_text()", 1),
    ("p.read_text(encoding='utf-8')", 0), ("p.write_text('b')", 1), ("gzip.open(p, 'rt')", 1), ("gzip.open(p)", 0),
    ("os.open(p, 0)", 0),
    ("p.open('ab' if a else 'wb')", 0), ("subprocess.run(c, text=True)", 1), ("p.open()", 1)])
def test_that_test_can_fail(source, found):
    assert len(calls_without_encoding(source)) == found


def test_every_text_file_is_read_and_written_as_utf_8():
    wrong = [f"{path.relative_to(ROOT)}:{line}" for room in ("nanochat", "tasks", "scripts", "runs")
             for path in sorted((ROOT / room).rglob("*.py"))
             for line in calls_without_encoding(path.read_text(encoding="utf-8"))]
    assert not wrong, f"name encoding='utf-8' in {', '.join(wrong)}"


@pytest.fixture(scope="session")
def narrow_locales(tmp_path_factory):
    """Names of locales and the variables that find them: ISO-8859-1 and a comma as decimal point, made here."""
    if not shutil.which("localedef"):
        pytest.skip("needs localedef to make a locale")
    folder = tmp_path_factory.mktemp("locales")
    for language, encoding in (("en_US", "ISO-8859-1"), ("de_DE", "ISO-8859-1"), ("de_DE", "UTF-8")):
        made = subprocess.run(["localedef", "-i", language, "-f", encoding, folder / f"{language}.{encoding}"],
                              capture_output=True)
        if not (folder / f"{language}.{encoding}").exists():
            pytest.skip(f"localedef cannot make {language}.{encoding}: {made.stderr.decode(errors='replace')}")
    return folder


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("LC_", "LANG", "PYTHON", "NANOCHAT_"))}
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, env={**kept, **environment})


HELP = ["-m", "scripts.chat_cli", "--help"]


@pytest.mark.parametrize("locale, command", [
    *((locale, ["-m", "nanochat.plan"]) for locale in ("en_US.ISO-8859-1", "de_DE.UTF-8", "C", "POSIX", "no_SUCH")),
    ("en_US.ISO-8859-1", HELP), ("de_DE.ISO-8859-1", HELP),
    ("en_US.ISO-8859-1", ["-m", "nanochat.plan", "--depth=−1"])])
def test_commands_speak_in_every_locale(narrow_locales, locale, command):
    done = run(*command, LOCPATH=str(narrow_locales), LC_ALL=locale)
    printed = (done.stdout + done.stderr).decode("utf-8" if "ISO" not in locale else "iso-8859-1")
    assert done.returncode == (2 if command[-1].startswith("--depth") else 0) and "Traceback" not in printed, printed


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "cp1252", "cp437", "utf-8"])
def test_letters_that_the_encoding_lacks_are_spelt(encoding):
    code = ("from nanochat.system import cli\n"
            r"cli.run(lambda: print('a −1 → ≈2 caf\udce9 日'))")
    done = run("-c", code, PYTHONIOENCODING=encoding)
    printed = done.stdout.decode(encoding).strip()
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()
    assert printed == ("a −1 → ≈2 caf? 日" if encoding == "utf-8" else printed)
    assert encoding != "ascii" or printed == "a -1 -> ~2 caf? ?"


def test_bytes_on_stdin_that_are_no_text_are_read(tmp_path):
    code = "import sys\nfrom nanochat.system import cli\ncli.run(lambda: print(len(sys.stdin.read())))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=b"caf\xe9\xff\xfe", capture_output=True)
    assert done.returncode == 0 and done.stdout.strip() in (b"6", b"7")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_and_files_that_would_get_their_numbers(tmp_path, closed):
    """A file that is opened must not become stdout of the program and its children."""
    code = f"""
import os, subprocess, sys
from nanochat.system import cli
def main():
    with open({str(tmp_path / "file")!r}, "w", encoding="utf-8") as file:
        assert file.fileno() > 2, file.fileno()
        print("out", sys.stdin.read(), sys.stdout.isatty())
        print("err", file=sys.stderr)
        subprocess.run(["sh", "-c", "echo child; echo child >&2"], check=True)
cli.run(main)
"""
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", code], cwd=ROOT,
                          stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "file").read_text(encoding="utf-8") == ""
