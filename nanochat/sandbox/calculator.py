"""The chat's tool: arithmetic and a few string methods, evaluated by walking the parsed expression.

`calculate` never calls `eval`. It parses at most 200 characters, walks a short list of node types, and every step checks the
size of what it is about to make: integers stay below 10^100, strings below 1,000 characters. So every input ends within
milliseconds and a few megabytes, from any thread and on every operating system. What is outside the list is refused (None):
names, comparisons, attributes, lists, lambdas, complex numbers, division by zero.
"""

import ast
import math
import operator
import re
from decimal import Decimal

MAX_CHARS = 200       # of an expression; GSM8K's longest is 77
MAX_NUMBER = 10**100  # also bounds the time of every operation
MAX_TEXT = 1000       # characters in any string on the way

Value = int | float | str
METHODS = {"count", "upper", "lower", "title", "capitalize", "swapcase", "strip", "lstrip", "rstrip", "replace", "find",
           "index", "startswith", "endswith", "join", "isalpha", "isdigit", "isupper", "islower"}
FUNCTIONS = {"len": len, "abs": abs, "round": round, "min": min, "max": max, "int": int, "float": float, "str": str}
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
             ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow}


class Refused(ValueError):
    """The expression asks for something the calculator does not do."""


def calculate(expression: str) -> str | None:
    """The value of an expression as text, or None where it is refused.

    >>> calculate("12*3"), calculate("10/1"), calculate("0.1+0.2"), calculate("1,000/3"), calculate("'banana'.count('a')")
    ('36', '10', '0.3', '333.3333333333', '3')
    >>> calculate("9**9**9"), calculate("open('/etc/passwd')"), calculate("1/0")
    (None, None, None)
    """
    text = expression.strip()
    if len(text) > MAX_CHARS:
        return None
    if not re.search("[A-Za-z'\"]", text):  # in max(1,200) the comma separates, in 1,200*3 it groups digits
        text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", lambda match: match[0].replace(",", ""), text)
    try:
        return _format(_evaluate(ast.parse(text, mode="eval").body))
    except (ValueError, TypeError, SyntaxError, ArithmeticError, LookupError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> Value:
    match node:
        case ast.Constant(value=int() | float() | str() as value) if not isinstance(value, bool):
            return _checked(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_evaluate(operand))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _number(_evaluate(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return _binary(op, _evaluate(left), _evaluate(right))
        case ast.Call(func=ast.Attribute(value=owner, attr=name), args=args, keywords=[]) if name in METHODS:
            text = _evaluate(owner)
            if isinstance(text, str):
                return _checked(getattr(text, name)(*map(_evaluate, args)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            values = [_evaluate(arg) for arg in args]
            if name == "round" and len(values) > 1 and abs(values[1]) > 15:
                raise Refused("round(5, -10**9) would make 10^(10^9)")
            return _checked(FUNCTIONS[name](*values))
        case ast.Subscript(value=owner, slice=ast.Slice(lower=lower, upper=upper, step=step)):
            bounds = [part and _evaluate(part) for part in (lower, upper, step)]
            return _checked(_evaluate(owner)[slice(*bounds)])
        case ast.Subscript(value=owner, slice=index):
            return _checked(_evaluate(owner)[_evaluate(index)])
    raise Refused(type(node).__name__)


def _binary(op: ast.operator, left: Value, right: Value) -> Value:
    """One operation, after checking what its result would weigh."""
    if isinstance(left, str) or isinstance(right, str):
        if not isinstance(op, ast.Add | ast.Mult) or (isinstance(op, ast.Mult) and _repeated(left, right) > MAX_TEXT):
            raise Refused("string operation")  # `%` would format: '%999999999d' % 1
    elif isinstance(op, ast.Pow) and abs(right) * math.log10(max(abs(left), 2)) > 100:
        raise Refused("power too large")
    return _checked(OPERATORS[type(op)](left, right))


def _repeated(left: Value, right: Value) -> int:
    """Characters in 'ab' * 3 or 3 * 'ab'."""
    return len(left) * right if isinstance(left, str) else left * len(right)


def _number(value: Value) -> int | float:
    if isinstance(value, str):
        raise Refused("not a number")
    return value


def _checked(value: Value) -> Value:
    """The value if it is a finite number below 10^100 or a short string."""
    small = len(value) <= MAX_TEXT if isinstance(value, str) else isinstance(value, int | float) and abs(value) < MAX_NUMBER
    if not small:
        raise Refused(f"{type(value).__name__} out of bounds")
    return value


def _format(value: Value) -> str:
    """As the training data writes it: 10 and not 10.0, 0.3 and not 0.30000000000000004, never an exponent."""
    if not isinstance(value, float):
        return str(value)
    digits = f"{value:.10g}" if abs(value) < 1 else f"{round(value, 10):.15g}"
    return format(Decimal(digits) + 0, "f")
