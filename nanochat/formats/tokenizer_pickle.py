"""karpathy/nanochat's `tokenizer.pkl`, read without trust.

A pickle is a program for a stack machine, and Python's reader of pickles lets that program call any function. This
reader is a stack machine of its own. It knows the instructions that a tiktoken `Encoding` is written with, and one
name, `tiktoken.core.Encoding`, which it never imports: an instance is the dictionary of its fields. Everything else is
refused.
"""
import pickletools
from pathlib import Path
from typing import Any

from nanochat.formats.foreign import read_bounded
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.bpe import BYTES, PATTERN, SPECIALS

MAX_BYTES = 1 << 25  # a tokenizer of 65,536 tokens has 1.2 MB
MAX_TOKEN = 1 << 10  # bytes of a token; our table of merges grows with the square of it
CLASS = ("tiktoken.core", "Encoding")
LITERALS = {"SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BININT", "BININT1", "BININT2"}
FIELDS = {"name", "pat_str", "mergeable_ranks", "special_tokens"}
_MARK = object()


class Refused(ValueError):
    """The pickle is not that of a tokenizer."""


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in the file. UserError says what is wrong with it; nothing in the file is ever executed."""
    content = read_bounded(path, MAX_BYTES)
    try:
        return _tokenizer(unpickle(content))
    except Refused as error:
        raise UserError(f"{path} is not a tokenizer of nanochat: {error}") from None
    except (ValueError, UnicodeError, OverflowError) as error:  # of pickletools: the file ends early, or is no pickle
        raise UserError(f"{path} is not a pickle, or is damaged: {error}") from None


def unpickle(content: bytes) -> Any:
    """The pickled value, made of dictionaries, strings, bytes and integers only; Refused where it has anything else."""
    stack: list[Any] = []
    memo: list[Any] = []
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                result, = stack
                return result
            _execute(opcode.name, argument, stack, memo)
    except (IndexError, TypeError, AttributeError, ValueError) as error:  # an empty stack, or values of other types
        raise Refused("its instructions do not fit together") from error
    raise Refused("it has no end")


def _execute(name: str, argument: Any, stack: list[Any], memo: list[Any]) -> None:
    if name in ("PROTO", "FRAME"):
        return
    if name in LITERALS:
        stack.append(argument)
    elif name in ("EMPTY_DICT", "EMPTY_TUPLE"):
        stack.append({} if name == "EMPTY_DICT" else ())
    elif name == "MARK":
        stack.append(_MARK)
    elif name == "MEMOIZE":
        memo.append(stack[-1])
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "STACK_GLOBAL":
        named = (stack.pop(-2), stack.pop())
        if named != CLASS:
            raise Refused(f"it names {named[0]!r:.40}.{named[1]!r:.40}, and only {'.'.join(CLASS)} is expected")
        stack.append(CLASS)
    elif name == "NEWOBJ" and stack[-2:] == [CLASS, ()]:
        stack[-2:] = [{}]
    elif name in ("SETITEMS", "SETITEM"):
        start = len(stack) - 1 - stack[::-1].index(_MARK) if name == "SETITEMS" else len(stack) - 3
        items = stack[start + 1:]
        _set_items(stack[start - (name == "SETITEMS")], items)
        del stack[start + (name == "SETITEM"):]
    elif name == "BUILD":
        _set_items(stack[-2], [part for item in stack.pop().items() for part in item])
    else:
        raise Refused(f"it has the instruction {name}, which no tokenizer needs")


def _set_items(target: Any, items: list[Any]) -> None:
    if type(target) is not dict or len(items) % 2 or any(type(key) not in (str, bytes) for key in items[::2]):
        raise Refused("its instructions do not fit together")
    target.update(zip(items[::2], items[1::2]))


def _tokenizer(fields: Any) -> Tokenizer:
    """The tokenizer of these fields, after all checks that encoding relies on."""
    if type(fields) is not dict or set(fields) != FIELDS:
        raise Refused(f"its fields are not {', '.join(sorted(FIELDS))}")
    ranks, specials, pattern = fields["mergeable_ranks"], fields["special_tokens"], fields["pat_str"]
    if not _maps(ranks, bytes) or not _maps(specials, str):
        raise Refused("its tables do not map tokens to ids")
    tokens = sorted(ranks, key=ranks.__getitem__)
    if [ranks[token] for token in tokens] != list(range(len(tokens))) or tokens[:256] != BYTES:
        raise Refused("its first 256 tokens are not the bytes, or an id is missing or given twice")
    if not 1 <= min(map(len, tokens)) <= max(map(len, tokens)) <= MAX_TOKEN:
        raise Refused(f"it has a token of no bytes, or of more than {MAX_TOKEN:,}")
    if specials != {name: len(tokens) + i for i, name in enumerate(SPECIALS)}:
        raise Refused(f"its special tokens are {str(list(specials.items())[:9]):.200}")
    digits = [n for n in range(1, 10) if PATTERN % n == pattern]
    if not digits:
        raise Refused(f"its pattern is {pattern!r:.120}")
    return Tokenizer(tokens, digits[0])


def _maps(table: Any, kind: type) -> bool:
    return type(table) is dict and all(type(key) is kind and type(value) is int for key, value in table.items())
