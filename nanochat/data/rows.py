"""Reads users' data files: bytes → text → rows. All commands that take data follow these rules (docs/data.md).

The suffix decides how a file is read: `.txt` and `.md` are text; `.jsonl`, `.json` and `.parquet` hold rows; `.gz` and
`.zst` are unpacked. Text must be UTF-8. Files are read in blocks, so memory grows with the longest row of a file, not
with the file. nanochat/data/conversations.py decides what a row means.
"""
import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from nanochat.data import shards
from nanochat.data.shards import Unreadable, first_line, is_lfs_pointer, is_text

TEXT, JSON, PARQUET = (".txt", ".text", ".md", ".markdown"), (".jsonl", ".ndjson", ".json"), (".parquet",)
PACKED = (".gz", ".zst")
TEXT_FIELDS = ("text", "content", "document")  # fields that hold a row's document; the first of them counts
BLOCK = 1 << 20  # bytes
BEGINNING = re.compile(r"[^\s,]")  # first character of a JSON value: anything except whitespace and commas
# Byte-order marks. UTF-32 comes first, because its little-endian mark begins with that of UTF-16.
FOREIGN_MARKS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
                 (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))


@dataclass(frozen=True)
class Broken:
    """Placeholder for a row that cannot be read."""

    reason: str


def suffixes(path: Path) -> tuple[str, str]:
    """(the suffix that decides how to read the file, the suffix of its compression or "").

    >>> suffixes(Path("a/Notes.TXT.gz")), suffixes(Path("v1.2.jsonl"))
    (('.txt', '.gz'), ('.jsonl', ''))
    """
    packing = path.suffix.lower() if path.suffix.lower() in PACKED else ""
    return Path(path.stem if packing else path.name).suffix.lower(), packing


def stem(path: Path) -> str:
    """The name without these suffixes: `stem(Path("a/my.v2.jsonl.gz"))` → "my.v2"."""
    kind, packing = suffixes(path)
    return path.name[:len(path.name) - len(kind + packing)]


def refuse_lfs_pointer(path: Path) -> None:
    """Raises Unreadable for a file that Git LFS has not fetched yet."""
    if is_lfs_pointer(path):
        raise Unreadable(path, "is a Git LFS pointer, not the file itself; fetch it with: git lfs pull")


def _unpacked(path: Path) -> Any:
    """The file as a stream of bytes, decompressed."""
    packing = suffixes(path)[1]
    if packing == ".gz":
        return gzip.open(path, "rb")
    if packing == ".zst":
        if not pa.Codec.is_available("zstd"):
            raise Unreadable(path, "cannot be unpacked by this pyarrow; unpack it with: zstd -d FILE")
        return pa.CompressedInputStream(pa.PythonFile(open(path, "rb")), "zstd")
    return open(path, "rb")


def blocks(path: Path) -> Iterator[str]:
    """The text of a file in pieces of about a megabyte, without byte-order marks, with newlines as line ends."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    line = 1
    try:
        refuse_lfs_pointer(path)
        with _unpacked(path) as stream:
            block = stream.read(BLOCK)
            # Other encodings are refused, not guessed: a wrong guess would be learnt as noise.
            if name := next((name for mark, name in FOREIGN_MARKS if block.startswith(mark)), ""):
                raise Unreadable(path, f"not UTF-8 but {name}; save it as UTF-8: iconv -f {name} -t UTF-8 FILE", 1)
            while block:
                _refuse_nul(block, path, line)
                text = decoder.decode(block)
                yield text.replace("\ufeff", "")  # also in the middle, where files were joined
                line += text.count("\n")
                block = stream.read(BLOCK)
            decoder.decode(b"", final=True)  # raises if the file ends in the middle of a character
    except UnicodeDecodeError as error:
        place = line + _newlines(error.object[:error.start])
        raise Unreadable(path, f"not UTF-8 (byte 0x{error.object[error.start]:02x}); save it as UTF-8, e.g. with: "
                         "iconv -f WINDOWS-1252 -t UTF-8 FILE", place) from None
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise Unreadable(path, f"cannot be read ({getattr(error, 'strerror', '') or first_line(error)})") from error


def _refuse_nul(block: bytes, path: Path, line: int) -> None:
    """Unreadable if the block has a NUL byte. `line` is the number of the line in which the block begins."""
    if (at := block.find(0)) >= 0:
        raise Unreadable(path, "has a NUL byte: it is not UTF-8 text but binary, or UTF-16 without a mark; save it as "
                         "UTF-8 or remove it", line + _newlines(block[:at]))


def _newlines(data: bytes) -> int:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n")


def lines(pieces: Iterable[str]) -> Iterator[str]:
    """The lines of a text that comes in pieces, without their newlines."""
    pending: list[str] = []
    for piece in pieces:
        first, *others = piece.split("\n")
        pending.append(first)  # joined only at the end of the line: a line may have many pieces
        for other in others:
            yield "".join(pending)
            pending = [other]
    yield "".join(pending)


def rows(path: Path, columns: list[str] | None = None) -> Iterator[tuple[str, Any]]:
    """(place, row) of every row of a JSON or parquet file; a row that is not JSON is `Broken`.

    The rows of a JSON file are its lines, or the elements of its array, or its only object. A list of messages is a
    single row. Raises Unreadable where reading cannot continue.
    """
    if suffixes(path)[0] in PARQUET:
        yield from _parquet_rows(path, columns)
        return
    for place, value in _json_values(path):  # a line may be an array of rows
        if isinstance(value, list) and value and not is_message(value[0]):
            yield from ((f"{place}, element {number}", element) for number, element in enumerate(value, 1))
        else:
            yield place, value


def is_message(value: object) -> bool:
    """Whether a value is a message of a conversation. (`from` and `text` do not suffice: e-mails have these fields.)"""
    names = {str(name).lower() for name in value} if isinstance(value, dict) else set()
    return {"role", "content"} <= names or {"from", "value"} <= names


def _json_values(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of each value in a JSON file. Its beginning decides how the rest is read."""
    pieces = blocks(path)
    line, head = 1, ""
    for piece in pieces:
        head = piece.lstrip()
        line += piece[:len(piece) - len(head)].count("\n")
        if head:
            break
    first_line, newline, _ = head.partition("\n")
    # A value over several lines, as pretty printers write it: its first line alone is not JSON.
    is_multiline = bool(newline) and isinstance(_parsed(first_line), Broken) and (
        suffixes(path)[0] == ".json" or first_line.strip() in ("{", "["))
    is_array, holds_messages = head.startswith("["), is_message(_first_value(head[1:]))
    if is_array and holds_messages and is_multiline:  # one conversation; on one line it may be the first of many
        yield "element 1", [message for _, message in _stream(path, chain([head[1:]], pieces), in_array=True)]
    elif is_array and not holds_messages:
        yield from _stream(path, chain([head[1:]], pieces), in_array=True)
    elif is_multiline:
        yield from _stream(path, chain([head], pieces), in_array=False)
    else:
        yield from ((f"line {number}", _parsed(text)) for number, text in enumerate(lines(chain([head], pieces)), line)
                    if text.strip())


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:  # brackets nested thousands deep
        return Broken("not JSON that can be read (nested too deeply)")
    except ValueError as error:
        return Broken(f"not JSON ({getattr(error, 'msg', error)})")


def _first_value(text: str) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text.lstrip())[0]
    except (ValueError, RecursionError):
        return None


def _stream(path: Path, pieces: Iterator[str], in_array: bool) -> Iterator[tuple[str, Any]]:
    """The values of an array whose `[` has been read, or of a sequence, each decoded as soon as its text is there."""
    text, number, retry_length = "", 0, 0
    for piece in chain(pieces, [None]):  # None: the end of the file
        text += piece or ""
        if piece is not None and len(text) < retry_length:
            continue
        at = 0
        while match := BEGINNING.search(text, at):
            at = match.start()
            if in_array and text[at] == "]":
                _check_nothing_follows(path, text[at + 1:] + "".join(islice(pieces, 1)), number)
                return
            decoded = _decoded(path, text, at, number + 1, is_last=piece is None)
            if decoded is None:
                break
            number, at = number + 1, decoded[1]
            yield f"element {number}", decoded[0]
        text = text[at:]
        retry_length = 2 * len(text)  # decode an unfinished element again when it has doubled: linear time
    if in_array:
        raise Unreadable(path, f"has an array that is not closed after element {number}")


def _check_nothing_follows(path: Path, rest: str, number: int) -> None:
    if rest.strip():
        raise Unreadable(path, f"has text after its array of {number} elements; expected one array, or one object "
                         "per line")


def _decoded(path: Path, text: str, at: int, number: int, is_last: bool) -> tuple[Any, int] | None:
    """(the value at position `at`, its end); None if more text may complete it. Unreadable if it is not JSON."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        # More text may complete the value if the error is near the end of the text (where a literal or an escape may be
        # cut), or in a string that has no end yet.
        if not is_last and isinstance(error, json.JSONDecodeError) and (
                error.pos > len(text) - 20 or error.msg.startswith("Unterminated string")):
            return None
        raise Unreadable(path, f"has an element {number} that is not JSON ({getattr(error, 'msg', error)})") from None
    return None if end == len(text) and not is_last else (value, end)  # a number at the end may continue


def _parquet_rows(path: Path, columns: list[str] | None) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        for batch in shards.open_parquet(path).iter_batches(256, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", _as_text(row) if columns else row
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: text that is not UTF-8
        raise Unreadable(path, f"is damaged after row {number} ({first_line(error)})") from error


def _as_text(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its text columns as strings: some writers store text as bytes."""
    return {name: text.decode() if isinstance(text, bytes) else text for name, text in row.items()}


def text_column(schema: pa.Schema) -> str:
    """The column that holds the documents: `text`, `content`, `document`, or the only column of strings; else ""."""
    strings = [field.name for field in schema if is_text(field.type)]
    named = [name for name in TEXT_FIELDS if name in strings]
    return (named or (strings if len(strings) == 1 else []) or [""])[0]
