"""karpathy/nanochat's `tokenizer.pkl`, read without trust.

A pickle is a program for a stack machine, and Python's reader of pickles lets that program call any function. So only
the instructions that a tiktoken `Encoding` is written with are let through: none of them calls anything. The one name
that they may contain, `tiktoken.core.Encoding`, stands for an empty class here. Everything else is refused.
"""
import io
import pickle
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
# Not BINPUT, whose number may ask for gigabytes: protocols 4 and 5 have MEMOIZE, which takes the next place.
INSTRUCTIONS = {"PROTO", "FRAME", "STOP", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BININT",
                "BININT1", "BININT2", "EMPTY_DICT", "EMPTY_TUPLE", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET",
                "STACK_GLOBAL", "NEWOBJ", "SETITEMS", "SETITEM", "BUILD"}
FIELDS = {"name", "pat_str", "mergeable_ranks", "special_tokens"}


class Refused(ValueError):
    """The pickle is not that of a tokenizer."""


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in the file. UserError says what is wrong with it; nothing in the file is ever executed."""
    content = read_bounded(path, MAX_BYTES)
    try:
        return _tokenizer(unpickle(content))
    except Refused as error:
        raise UserError(f"{path} is not a tokenizer of nanochat: {error}") from None


def unpickle(content: bytes) -> Any:
    """The fields of the pickled `Encoding`; Refused where the pickle has anything else."""
    try:
        unknown = {opcode.name for opcode, *_ in pickletools.genops(content)} - INSTRUCTIONS
    except ValueError as error:
        raise Refused("it is no pickle, or it is damaged") from error
    if unknown:
        raise Refused(f"it has the instruction {min(unknown)}, which no tokenizer needs")
    try:
        return vars(_Reader(io.BytesIO(content)).load())
    except Refused:
        raise
    except Exception as error:  # an empty stack, values of other types: a reader that is fed nonsense raises anything
        raise Refused("its instructions do not fit together") from error


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for: a new and empty class, so that nothing of ours can be changed."""
        if (module, name) != CLASS:
            raise Refused(f"it names {module:.40}.{name:.40}, and only {'.'.join(CLASS)} is expected")
        return type("Encoding", (), {})


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
