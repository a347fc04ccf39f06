"""How much a reader has to read, held by limits: lines, the files behind each command, comments, shapes of functions.

`python -m pytest tests/test_budgets.py -s` prints the figures. A limit is lowered when the code shrinks. Raising it is
a decision that docs/LOG.md records with its reason.
"""
import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("nanochat", "tasks", "scripts", "runs")  # the product; kindergarten/ is data, course/ is exercises
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMMANDS = sorted(f"{room}.{path.stem}" for room in ("scripts", "runs") for path in (ROOT / room).glob("[!_]*.py"))
LIMITS = {"lines": 20_330, "statement lines": 13_810, "comment share": 0.085, "README lines": 180}
CLOSURE = (70, 9_090)  # files and lines of the largest command
TRAINING = ("scripts.base_train", "scripts.mid_train", "scripts.chat_sft")
NOT_FOR_TRAINING = ("nanochat.infer", "nanochat.plan", "nanochat.tokenizer.train", "nanochat.formats.transformers")


def python_files(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def comment_lines(text: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def docstring_lines(module: ast.Module) -> set[int]:
    documented = [node for node in ast.walk(module) if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Module))
                  and ast.get_docstring(node) is not None]
    return {line for node in documented for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)}


def statement_lines(text: str) -> int:
    """Lines that are not blank, not a comment alone, and not part of a docstring."""
    documented = docstring_lines(ast.parse(text))
    return sum(1 for number, line in enumerate(text.splitlines(), 1)
               if line.strip() and not line.lstrip().startswith("#") and number not in documented)


def depth(node: ast.AST, level: int = 0) -> int:
    """How many blocks stand inside each other below a node; `elif` is not deeper than its `if`."""
    deepest = level
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.ClassDef)):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth(child, level + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, FUNCTIONS))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
           for path in python_files(*ROOMS, "kindergarten")}


@cache
def imported(module: str) -> frozenset[str]:
    """The modules of the project that a module imports, with the packages around them."""
    names = set()
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parents = {name.rsplit(".", depth)[0] for name in names for depth in range(name.count(".") + 1)}
    return frozenset(parents & MODULES.keys())


def closure(module: str) -> set[str]:
    """Everything one has to read to know a command completely."""
    reached, waiting = set(), [module]
    while waiting:
        if (name := waiting.pop()) not in reached:
            reached.add(name)
            waiting += imported(name)
    return {name for name in reached if line_count(MODULES[name]) > 1}  # an __init__ of one line is nothing to read


def show(capsys: pytest.CaptureFixture[str], *lines: str) -> None:
    with capsys.disabled():
        print("", *lines, sep="\n")


def test_the_product_stays_small(capsys: pytest.CaptureFixture[str]) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in python_files(*ROOMS)}
    figures = {"lines": sum(map(line_count, texts)), "statement lines": sum(map(statement_lines, texts.values())),
               "README lines": line_count(ROOT / "README.md")}
    comments = sum(len(comment_lines(text)) for text in texts.values()) / figures["lines"]
    rooms = "  ".join(f"{room} {sum(map(line_count, python_files(room))):,}" for room in (*ROOMS, "kindergarten"))
    show(capsys, "  ".join(f"{name} {value:,} of {LIMITS[name]:,}" for name, value in figures.items()),
         f"comments {comments:.1%} of the lines, at least {LIMITS['comment share']:.1%}", rooms)
    assert not [name for name, value in figures.items() if value > LIMITS[name]]
    assert comments >= LIMITS["comment share"]


def test_what_one_command_imports_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {name: (len(closure(name)), sum(line_count(MODULES[module]) for module in closure(name)))
             for name in COMMANDS}
    show(capsys, *(f"{name:24} {files:3} files {lines:6,} lines" for name, (files, lines) in sizes.items()))
    assert max(files for files, _ in sizes.values()) <= CLOSURE[0]
    assert max(lines for _, lines in sizes.values()) <= CLOSURE[1]
    for name in TRAINING:
        assert not [module for module in closure(name) if module.startswith(NOT_FOR_TRAINING)], name


def test_functions_and_files_stay_short() -> None:
    faults = [f"{path.relative_to(ROOT)}: {line_count(path)} lines, at most 400"
              for path in python_files(*ROOMS, "kindergarten", "course", "bench", "tests") if line_count(path) > 400]
    product = python_files(*ROOMS, "kindergarten", "course")
    parts = [(path, function) for path in (*product, *python_files("bench", "tests")) for function in functions(path)]
    for path, function in parts:
        measures = [(depth(function), 3, "blocks inside each other")]
        if path in product:
            lines = function.end_lineno - function.lineno + 1
            measures += [(lines, 60, "lines"), (parameters(function), 10, "parameters")]
        faults += [f"{path.relative_to(ROOT)} {function.name}: {value} {unit}, at most {limit}"
                   for value, limit, unit in measures if value > limit]
    assert not faults, "\n".join(faults)


def test_the_measures_can_fail() -> None:
    source = ('def f(self, a, b):\n    """Two\n    lines."""\n    # alone\n    for x in a:\n        if x:\n'
              '            while b:\n                with x:\n                    if b: pass  # beside\n'
              '        elif a: pass\n')
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert (depth(function), parameters(function)) == (5, 2)
    assert (statement_lines(source), comment_lines(source)) == (7, {4, 9})
    assert len(closure("scripts.base_train")) > 20 and "nanochat.model.gpt" in closure("scripts.base_train")


def test_no_file_outside_the_repository_is_cited() -> None:
    outside = re.compile(r"\bFACTS\b|\bHOUSE\.md|shared/(?:notes|data)|strangers-cases|\.\./shared")
    cited = [f"{path.relative_to(ROOT)}: {match[0]}" for path in (
        *python_files(*ROOMS, "kindergarten", "course", "bench"), *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
        if (match := outside.search(path.read_text(encoding="utf-8")))]
    assert not cited, "\n".join(cited)
