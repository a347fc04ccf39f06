"""The chat's tool: right answers, the training data's format, and no input that takes long or much."""

import ast
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from fractions import Fraction

import pytest

from nanochat.sandbox import calculate
from nanochat.sandbox.calculator import MAX_CHARS


@pytest.mark.parametrize("expression,value", [
    ("12*3", "36"), ("48/2", "24"), ("10/1", "10"), ("7/2", "3.5"), ("0.1+0.2", "0.3"), ("1/3", "0.3333333333"),
    (".5*20", "10"), ("1,200*3", "3600"), ("1,234,567+1", "1234568"), ("max(1,200)", "200"), ("-3+5", "2"),
    ("--5", "5"),
    ("2**10", "1024"), ("17 % 5", "2"), ("17//5", "3"), ("123 * 456", "56088"), ("-0.0", "0"), ("1e-7", "0.0000001"),
    ("(1+2)*(3-4)", "-3"), (" 5 ", "5"), ("1e20/1", "100000000000000000000"), ("round(2.567, 2)", "2.57"),
    ("'banana'.count('a')", "3"), ("'abc'.upper()", "ABC"), ("len('hello')", "5"), ("'abc'[::-1]", "cba"),
    ("'abc'[0]", "a"), ("'-'.join('cat')", "c-a-t"), ("'a' + 'b'", "ab"), ("3 * 'ab'", "ababab"),
    ("'aXbX'.replace('X', '')", "ab"), ("'abc'.find('c')", "2"), ("'abc'.startswith('ab')", "True"),
    ("'1,000'", "1,000"),
])
def test_values(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize("expression", [
    "", " ", "a", "1/0", "1+", "(1", "1,2", "1,00", "True", "None", "1 < 2", "[1]", "(1, 2)", "{1: 2}", "x = 1", "1; 2",
    "lambda: 0", "1 if 1 else 2", "not 1", "~1", "f'{1}'", "b'a'", "1j", "(-8)**0.5", "...", "\0", "\ud800", "'abc'[9]",
    "open('/etc/passwd')", "__import__('os')", "().__class__", "'a'.__class__", "'a'.format()", "(1).real", "''.join",
    "eval('1')", "print(1)", "len(5)", "'a' - 'b'", "-'a'", "'%d' % 1", "'a' * 'b'", "'a'.encode()", "int('z')",
    "[x for x in 'a']", "'a'.count(sub='a')", "max(*'ab')", "1 and 2", "'a' in 'abc'", "'x'.zfill(9)",
])
def test_refused(expression):
    assert calculate(expression) is None


HEAVY = [
    "9**9**9", "2**100000", "10**99*10", "'a'*10**9", "'a'.center(1999999999).count('a')", "'%999999999d' % 1",
    "round(5, -10**9)", "(" * 199, "-" * 199, "1" * 200, "int('9'*999)", "'a'*999*999",
    "((('a'*999).replace('a','b'*999)))",
    "'a'.ljust(10**9)", "1e308*10", "9" * 200 + "**9", "99**99**0.5**99", "10.0**99**9", "('a'*999).join('b'*999)",
    "x" * 10**6, "1+" * 10**6, "0.1**10**98", "-10**99 % 7 ** 99", "max('a'*999, 'b'*999)", "str(10**99)*99",
]


@pytest.mark.parametrize("expression", HEAVY, ids=range(len(HEAVY)))
def test_nothing_takes_long_or_much(expression):
    tracemalloc.start()
    started = time.process_time()
    calculate(expression)
    seconds = time.process_time() - started
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 0.5 and peak_bytes < 16 << 20


def exact(node: ast.expr) -> Fraction:
    """The slow twin: fractions."""
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp):
        return -exact(node.operand)
    left, right = exact(node.left), exact(node.right)
    return {ast.Add: lambda: left + right, ast.Sub: lambda: left - right, ast.Mult: lambda: left * right,
            ast.Div: lambda: left / right}[type(node.op)]()


def test_arithmetic_agrees_with_exact_fractions():
    generator = random.Random(4)

    def make(depth: int) -> str:
        if depth == 0 or generator.random() < 0.2:
            return generator.choice(["{}", "{}.5", "{}.25"]).format(generator.randrange(1, 1000))
        return f"({make(depth - 1)} {generator.choice('+-*/')} {make(depth - 1)})"

    compared = 0
    for _ in range(500):
        expression = make(3)
        try:
            value = exact(ast.parse(expression, mode="eval").body)
        except ZeroDivisionError:
            assert calculate(expression) is None
            continue
        answer = calculate(expression)
        assert abs(Fraction(answer) - value) <= abs(value) / 10**9 + Fraction(1, 10**9), expression
        compared += 1
    assert compared > 400


def test_random_text_is_bounded_and_answers_are_text():
    generator = random.Random(5)
    pieces = "'ab' 3 * + ** ( ) .count .replace , [ ] : -1 99 'a'*99 len % max".split()
    started = time.process_time()
    for _ in range(3000):
        answer = calculate("".join(generator.choices(pieces, k=generator.randrange(1, 20)))[:MAX_CHARS])
        assert answer is None or isinstance(answer, str)
    assert time.process_time() - started < 10


def test_it_works_in_any_thread():
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(calculate("123*456"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["56088"] * 20


def test_odd_expressions_print_no_warning():
    program = 'from nanochat import sandbox; print(sandbox.calculate("1or 2"))'
    done = subprocess.run([sys.executable, "-W", "default", "-c", program], capture_output=True, text=True)
    assert done.stdout == "None\n" and done.stderr == ""
