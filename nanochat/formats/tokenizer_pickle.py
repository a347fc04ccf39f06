"""karpathy/nanochat's `tokenizer.pkl`, read without trust.

A pickle is a program for a stack machine, and Python's unpickler lets this program call any function. So we allow only
the instructions that a pickled tiktoken `Encoding` consists of: none of them calls a function. The only name that they
may contain, `tiktoken.core.Encoding`, becomes an empty class here. Everything else is refused.
"""
import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from nanochat.formats.foreign import read_bounded
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer

MAX_BYTES = 1 << 25  # a tokenizer of 65,536 tokens has 1.2 MB
MAX_TOKEN = 1 << 10  # bytes of a token; our table of merges grows with its square
CLASS = ("tiktoken.core", "Encoding")
# Not BINPUT, whose index may make the reader allocate gigabytes: protocols 4 and 5 have MEMOIZE, the next index.
INSTRUCTIONS = {"PROTO", "FRAME", "STOP", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BININT",
                "BININT1", "BININT2", "EMPTY_DICT", "EMPTY_TUPLE", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET",
                "STACK_GLOBAL", "NEWOBJ", "SETITEMS", "SETITEM", "BUILD"}
FIELDS = {"name", "pat_str", "mergeable_ranks", "special_tokens"}


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in the file. UserError names its fault; nothing in the file is ever executed."""
    content = read_bounded(path, MAX_BYTES)
    try:
        return _tokenizer(unpickle(content))
    except ValueError as error:
        raise UserError(f"{path} is not a tokenizer of nanochat: {error}") from None


def unpickle(content: bytes) -> Any:
    """The fields of the pickled `Encoding`; ValueError if the pickle has anything else."""
    try:
        unknown = {opcode.name for opcode, *_ in pickletools.genops(content)} - INSTRUCTIONS
    except ValueError as error:
        raise ValueError("it is no pickle, or it is damaged") from error
    if unknown:
        raise ValueError(f"it has the instruction {min(unknown)}, which no tokenizer needs")
    try:
        return vars(_Reader(io.BytesIO(content)).load())
    except Exception as error:  # an empty stack, wrong types: with bad input the unpickler may raise any error
        raise ValueError(f"its instructions do not fit together ({error!r:.160})") from error


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The object for a name in the pickle: a new and empty class, so that none of our objects can be changed."""
        if (module, name) != CLASS:
            raise ValueError(f"it names {module:.40}.{name:.40}, and only {'.'.join(CLASS)} is expected")
        return type("Encoding", (), {})


def _tokenizer(fields: Any) -> Tokenizer:
    """The tokenizer made of these fields, after all checks that encoding needs."""
    if type(fields) is not dict or set(fields) != FIELDS:
        raise ValueError(f"its fields are not {', '.join(sorted(FIELDS))}")
    ranks, specials, pattern = fields["mergeable_ranks"], fields["special_tokens"], fields["pat_str"]
    if not _maps(ranks, bytes) or not _maps(specials, str):
        raise ValueError("its tables do not map tokens to ids")
    if not 1 <= min(map(len, ranks), default=0) <= max(map(len, ranks)) <= MAX_TOKEN:
        raise ValueError(f"it has a token of no bytes, or of more than {MAX_TOKEN:,}")
    return Tokenizer.checked(ranks, specials, pattern)


def _maps(table: Any, kind: type) -> bool:
    return type(table) is dict and all(type(key) is kind and type(value) is int for key, value in table.items())
