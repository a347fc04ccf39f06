"""The course: the project's own code passes every check, the starters pass none, broken versions pass once mended."""
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from course import check
from nanochat.model import attention, gpt
from nanochat.optim import groups
from nanochat.system.files import UserError
from scripts import base_train

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/course").glob("[01]*.md"))
# What is wrong in each broken version, and what it should be, in pairs. Readers of the course: do not read on.
FAULTS = {
    1: ("candidates = [(i, ranks[left + right])", "candidates = [(ranks[left + right], i)", "i, _ = min", "_, i = min"),
    2: (".tril(1)", ".tril()"),
    3: ("        losses.append", "        weights.grad = None\n        losses.append"),
    4: ("matrices.norm()", "matrices.norm(dim=(-2, -1), keepdim=True)"),
    5: ("math.exp(slope * math.log10(new_flops) + intercept)", "10 ** (slope * math.log10(new_flops) + intercept)"),
    6: ("zip(ids[1:], mask[:-1]", "zip(ids[1:], mask[1:]"),
    7: ("identity = problem.text", 'identity = " ".join(problem.signature)'),
    8: ("axis=0", "axis=1"),
    9: (".tril()", ".tril(k.size(2) - num_new)"),
    10: ("repeated = conversations * copies", "repeated = list(conversations)",
         "return repeated[size:], repeated[:size]", "return repeated[size:] * copies, repeated[:size]"),
}
chapters = pytest.mark.parametrize("chapter", FAULTS)


def mended(chapter: int) -> ModuleType:
    """The broken version with its fault replaced."""
    broken = check.chapter_file(chapter, "broken")
    source, replacements = inspect.getsource(broken), FAULTS[chapter]
    for wrong, right in zip(replacements[::2], replacements[1::2], strict=True):
        assert source.count(wrong) == 1, wrong
        source = source.replace(wrong, right)
    module = ModuleType(broken.__name__)
    module.__file__ = broken.__file__
    exec(compile(source, str(broken.__file__), "exec"), vars(module))
    return module


@chapters
def test_the_projects_own_code_passes(chapter):
    assert set(check.grade(chapter, check.chapter_file(chapter, "checks").SOLUTION).values()) == {""}


@chapters
def test_no_check_passes_before_something_is_written(chapter):
    """After `git restore course`: whoever has written the exercises passes them."""
    problems = check.grade(chapter, check.chapter_file(chapter, "exercise"))
    assert set(problems.values()) == {check.NOT_WRITTEN}


@chapters
def test_the_broken_version_fails_until_its_fault_is_mended(chapter):
    problems = check.grade(chapter, check.chapter_file(chapter, "broken"), broken=True)
    assert any(problems.values()) and check.NOT_WRITTEN not in problems.values()
    assert set(check.grade(chapter, mended(chapter), broken=True).values()) == {""}


@chapters
def test_a_page_is_short_and_names_its_parts(chapter):
    [page] = [path for path in PAGES if path.name.startswith(f"{chapter:02}-")]
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert f"python -m course.check {chapter}\n" in text and f"python -m course.check {chapter} --broken" in text
    for named in re.findall(r"`((?:nanochat|scripts|tasks|kindergarten|course|tests|docs|runs)/[\w/.-]*)`", text):
        assert (ROOT / named).exists() or named == "tasks/mine.py", named  # a file that the reader makes


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "course.check", *words], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_the_command_says_what_is_missing_and_ends_with_an_error_code(tmp_path):
    done, failed, unknown = run("1", "--solution"), run("1"), run("11")
    assert done.returncode == 0 and done.stdout.endswith("chapter 1: 6 of 6 checks pass: done\n")
    assert failed.returncode == 1 and check.NOT_WRITTEN in failed.stdout
    assert unknown.returncode == 1 and len(unknown.stderr.splitlines()) == 1 and "1 to 10" in unknown.stderr


def test_an_error_in_what_a_reader_wrote_is_shown_with_its_line(tmp_path):
    def fails(mine: object) -> None:
        raise KeyError("x")

    assert re.fullmatch(r"KeyError: 'x' \(course/test_course.py, line \d+\)", check.problem_of(fails, None))


@pytest.mark.parametrize("module", ["ch01.village", "ch08.bandit"])
def test_what_shows_an_exercise_at_work_runs_with_the_solution(module, capsys, monkeypatch):
    """Those that need a finished model are run by the readers of the course."""
    solution = check.chapter_file(int(module[2:4]), "checks").SOLUTION
    shown = importlib.import_module(f"course.{module}")
    monkeypatch.setattr(shown, "exercise", solution)
    shown.main([])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "0 of them are cut differently" or float(re.search(r"mean reward ([\d.]+)", last)[1]) > 0.9


def test_a_file_that_python_cannot_read_is_named_with_its_line(monkeypatch):
    def unreadable(name: str) -> None:
        raise SyntaxError("'(' was never closed", ("exercise.py", 7, 1, ""))

    monkeypatch.setattr(check.importlib, "import_module", unreadable)
    with pytest.raises(UserError, match="course/ch03/exercise.py, line 7: .* git restore course/ch03"):
        check.chapter_file(3, "exercise")


def test_the_broken_attention_is_for_training_only(monkeypatch):
    """scripts.base_train asks the model for its words while it trains, and the engine brings masks of its own."""
    q, k, v = torch.randn(1, 1, 1, 4), torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4)
    mask = torch.tensor([True, True, False]).view(1, 1, 1, 3)
    got = []
    monkeypatch.setattr(base_train, "main", lambda argv: got.append(gpt.attend(q, k, v, mask)))
    check.chapter_file(2, "broken").main([])
    assert torch.equal(got[0], attention.attend(q, k, v, mask))


@pytest.mark.parametrize("module, patched", [("ch02.broken", lambda: gpt.attend),
                                             ("ch04.without_muon", lambda: groups.RULES["muon"])])
def test_what_a_chapter_exchanges_is_put_back(module, patched, monkeypatch):
    before = patched()
    monkeypatch.setattr(base_train, "main", lambda argv: seen.append(patched()))
    seen = []
    importlib.import_module(f"course.{module}").main([])
    assert seen != [before] and patched() is before
