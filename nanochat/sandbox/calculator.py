"""The chat's tool: arithmetic and a few string methods, computed by a walk over the parsed expression, without `eval`.

At most 200 characters are parsed, few node types are known, and each step checks the size of its result before it is
computed: numbers stay below 10^100, strings below 1,000 characters. So every input takes milliseconds and megabytes at
most, in any thread and on every system. Everything else is refused (None): names, comparisons, lists, 1/0.
"""
import ast
import math
import operator
import re
import warnings
from collections.abc import Callable
from decimal import Decimal
from typing import Any

MAX_CHARS, MAX_NUMBER, MAX_TEXT = 200, 10**100, 1000  # GSM8K's longest expression has 77 characters
Value = int | float | str
METHODS = """count upper lower title capitalize swapcase strip lstrip rstrip replace find index startswith endswith join
    isalpha isdigit isupper islower""".split()
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": len, "abs": abs, "round": round, "min": min, "max": max, "int": int, "float": float, "str": str}
OPERATORS: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow}
# Inputs like "1or 2" cause SyntaxWarnings. Set at import, because warnings.catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", category=SyntaxWarning, module="<calculator>")
GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")  # a number with commas between groups of 3 digits


def calculate(expression: str) -> str | None:
    """The value of an expression as text, or None if it is refused.

    >>> calculate("12*3"), calculate("10/1"), calculate("0.1+0.2"), calculate("1,000/3"), calculate("'noon'.count('o')")
    ('36', '10', '0.3', '333.3333333333', '2')
    >>> calculate("9**9**9"), calculate("open('/etc/passwd')"), calculate("1/0")
    (None, None, None)
    """
    text = expression.strip()
    if len(text) > MAX_CHARS:
        return None
    if not re.search("[A-Za-z'\"]", text):  # in max(1,200) the comma separates, in 1,200*3 it groups digits
        text = GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    try:
        return _format(_evaluate(ast.parse(text, "<calculator>", mode="eval").body))
    except (ValueError, TypeError, SyntaxError, ArithmeticError, LookupError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> Any:
    """The value of a node. If the types of operands do not fit, Python's TypeError lets `calculate` refuse it."""
    match node:
        case ast.Constant(value=int() | float() | str() as value) if not isinstance(value, bool):
            return _checked(value)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _evaluate(operand) + 0  # a string has no sign
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            values = _evaluate(left), _evaluate(right)
            _check_size(op, *values)
            return _checked(OPERATORS[type(op)](*values))
        case ast.Call(func=ast.Attribute(value=owner, attr=name), args=args, keywords=[]) if name in METHODS:
            return _checked(getattr(str, name)(_evaluate(owner), *map(_evaluate, args)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            arguments = [_evaluate(arg) for arg in args]
            if name == "round" and len(arguments) > 1 and abs(arguments[1]) > 15:
                raise ValueError("round(5, -10**9) would make 10^(10^9)")
            return _checked(FUNCTIONS[name](*arguments))
        case ast.Subscript(value=owner, slice=ast.Slice(lower=lower, upper=upper, step=step)):
            bounds = [bound and _evaluate(bound) for bound in (lower, upper, step)]
            return _checked(_evaluate(owner)[slice(*bounds)])
        case ast.Subscript(value=owner, slice=index):
            return _checked(_evaluate(owner)[_evaluate(index)])
    raise ValueError(f"the calculator has no {type(node).__name__}")


def _check_size(op: ast.operator, left: Any, right: Any) -> None:
    """Raises ValueError if the result of an operation would be large. Called before the result is computed."""
    texts = [value for value in (left, right) if isinstance(value, str)]
    numbers = [value for value in (left, right) if not isinstance(value, str)]
    if texts and not isinstance(op, ast.Add | ast.Mult):
        raise ValueError("'%999999999d' % 1 would make a string of 10^9 characters")
    if texts and isinstance(op, ast.Mult) and len(texts[0]) * max(numbers, default=0) > MAX_TEXT:
        raise ValueError("too long")
    if isinstance(op, ast.Pow) and abs(right) * math.log10(max(abs(left), 2)) > 100:
        raise ValueError("too large")


def _checked(value: Any) -> Value:
    """The value, if it is a real number below 10^100 or a short string."""
    is_small = len(value) <= MAX_TEXT if isinstance(value, str) else abs(value) < MAX_NUMBER
    if not is_small or not isinstance(value, Value):  # for example a complex number: (-8)**0.5
        raise ValueError("out of bounds")
    return value


def _format(value: Value) -> str:
    """The value as the training data writes it: 10, not 10.0; 0.3, not 0.30000000000000004; never an exponent."""
    if not isinstance(value, float):
        return str(value)
    return format(Decimal(f"{value:.10g}" if abs(value) < 1 else f"{round(value, 10):.15g}") + 0, "f")
