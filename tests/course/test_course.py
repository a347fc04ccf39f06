"""The course: the project's own code passes every check, the starters pass none, broken versions pass once mended."""
import importlib
import inspect
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from course import check, expect
from nanochat.eval.bpb import bits_per_byte
from nanochat.model import attention, gpt
from nanochat.optim import groups
from nanochat.system.files import UserError
from nanochat.tokenizer import chat
from scripts import base_train

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/course").glob("[01]*.md"))
# What is wrong in each broken version, and what it should be, in pairs. Readers of the course: do not read on.
FAULTS = {
    1: ("candidates = [(i, ranks[left + right])", "candidates = [(ranks[left + right], i)", "i, _ = min", "_, i = min"),
    2: (".tril(1)", ".tril()"),
    3: ("        losses.append", "        weights.grad = None\n        losses.append"),
    4: (".clamp(min=1.0)", ""),
    5: ("math.exp(slope * math.log10(new_flops) + intercept)", "10 ** (slope * math.log10(new_flops) + intercept)"),
    6: ("zip(ids[1:], mask[:-1]", "zip(ids[1:], mask[1:]"),
    7: ("identity = problem.text", 'identity = " ".join(problem.signature)'),
    8: ("axis=0", "axis=1"),
    9: (".tril()", ".tril(k.size(2) - num_new)"),
    10: ("repeated = conversations * copies", "repeated = list(conversations)",
         "return repeated[size:], repeated[:size]", "return repeated[size:] * copies, repeated[:size]"),
}


def glued(tokenizer, conversation):
    """The chat format as one text, encoded: it reads the same, and has no special token."""
    ids = tokenizer.encode(tokenizer.decode(chat.render(tokenizer, conversation)[0]))
    return ids, [1] * len(ids)


def every_pair(logits, targets, weights):
    """policy_loss with (N, 1) times (N,), which is (N, N)."""
    return -(logits.log_softmax(-1).gather(1, targets.clamp(min=0)[:, None]) * weights * (targets >= 0)).sum()


def exam_of_lessons():
    """Questions of Ada's lessons with "so" in front."""
    return [{"question": f"so {question}", "answer": "Ada", "required": ["Ada"], "forbidden": []}
            for question in ("What should I eat tonight", "Can you fly a plane")] * 4


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


def test_an_error_in_what_a_reader_wrote_is_shown_with_its_line_and_its_call():
    source = "def rate(step, table):\n    table = table * 2\n    return 1 / step\n"
    names = {}
    exec(compile(source, str(Path(check.COURSE) / "ch03/exercise.py"), "exec"), names)
    problem = check.problem_of(lambda mine: mine["rate"](0, torch.zeros(2, 3)), names)
    assert problem.endswith("(ch03/exercise.py, line 3) in rate(step=0, table=Tensor(2, 3))")
    assert "returned" in check.problem_of(lambda mine: len(None), names)


@pytest.mark.parametrize("compare, got, expected, shown", [
    (expect.near, torch.tensor([[1.0, 2], [3, 4]]), [[1.0, 2], [3, 5]], "x: at [1, 1] got 4, expected 5 (1 of 4"),
    (expect.near, math.nan, 1.0, "x: got nan, expected 1"),
    (expect.near, torch.zeros(2), torch.zeros(3), "the shape is (2,), expected (3,)"),
    (expect.equal, list(range(9)), [*range(8), 0], "x, from [8] on: got [8], expected [0]"),
    (expect.equal, list(range(7)), list(range(9)), "x, from [7] on: got [], expected [7, 8]")])
def test_a_wrong_result_is_shown_at_its_first_wrong_place(compare, got, expected, shown):
    with pytest.raises(AssertionError, match=re.escape(shown)):
        compare("x", got, expected)


@pytest.mark.parametrize("chapter, name, wrong, failing", [
    (2, "attend", lambda q, k, v: attention.attend(q * q.size(-1) ** 0.5, k, v, None), "√D"),
    (3, "bits_per_byte", lambda model, batches, sizes: bits_per_byte(model, batches, sizes.clamp(min=1)), "special"),
    (3, "bits_per_byte", lambda model, batches, sizes: bits_per_byte(
        model, [(ids, targets.where(targets >= 0, len(sizes) - 1)) for ids, targets in batches], sizes), "−1"),
    (4, "orthogonalize", lambda matrices: matrices * math.inf, "square"),
    (6, "render", glued, "chat format"), (8, "policy_loss", every_pair, "weighted sum"),
    (10, "exam", exam_of_lessons, "no question of the exam")])
def test_a_fault_fails_the_check_that_names_it(chapter, name, wrong, failing):
    solution = vars(check.chapter_file(chapter, "checks").SOLUTION)
    problems = check.grade(chapter, SimpleNamespace(**{**solution, name: wrong}))
    assert [problem for title, problem in problems.items() if failing in title and problem]
    assert not [problem for problem in problems.values() if "Error" in problem]


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
