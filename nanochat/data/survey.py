"""Looks through a folder of somebody's own files: what is text, what are conversations, what is left out, and why.

    survey(Path("notes"), passed_over=(out,)) → Survey(texts, conversations, exams, left_out, …, fingerprint)

Every file is read to its end before anything is imported or trained, so that a file which breaks in the middle is left
out as a whole and named. What an earlier survey found is kept in `cache` and used for files that did not change since.
A folder with text/*.parquet has the layout of out/data: then text lies in text/, conversations in chat/, and other
files are left out. Elsewhere every file counts, wherever it lies. docs/data.md has the rules with examples.
"""
import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any

from nanochat.data import conversations, rows, shards
from nanochat.data.rows import TEXT_FIELDS
from nanochat.data.shards import MANIFEST, Unreadable
from nanochat.system import files
from nanochat.system.files import UserError

# Files that are taken as they are: each task knows its own (a test compares this list with the tasks).
EXAMS = ("gsm8k/*.jsonl*", "arc/ARC-*.jsonl*", "mmlu/*.jsonl*", "humaneval/*.jsonl*", "kindergarten/*-t*.jsonl*",
         "misc/english_words.txt*", "chat/dolly_15k.jsonl*")
CORE_EXAMS = ("core_tasks.yaml", "core/*.jsonl*")  # where there is a core_tasks.yaml
# Names that hold nothing anybody wrote to be read: programs' own files, and leftovers of file systems and editors.
PASSED_OVER = ("node_modules", "__pycache__", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information",
               "Thumbs.db", "ehthumbs.db", "desktop.ini", "*~", "#*#", "~$*", ".*")
LARGE_PARQUET = 1 << 26  # bytes; of a larger file only the footer is read here
PEEK = 100  # rows that may pass before it is clear what a file holds
LISTED = 20  # files named on the terminal; imported.json has all
IMPORTED = "imported.json"  # in a data folder: where its contents come from
NEITHER = f"expected a document ({', '.join(TEXT_FIELDS)}) or a conversation"


@dataclass(frozen=True)
class Item:
    """A file that is taken. `name` is relative to the folder, `rows` the documents or conversations in it."""

    path: Path
    name: str
    kind: str  # texts, conversations or exams
    num_bytes: int
    sha256: str
    rows: int = 0
    characters: int = 0
    bad_rows: int = 0
    first_bad: str = ""
    column: str = ""  # of a parquet file of text
    is_ready: bool = False  # it is in our own format: it can be linked


@dataclass(frozen=True)
class LeftOut:
    """A file, or several of one kind, that is not taken, and why in one line."""

    name: str
    reason: str
    num_bytes: int = 0
    count: int = 1


@dataclass
class Survey:
    folder: Path
    texts: list[Item] = field(default_factory=list)
    conversations: list[Item] = field(default_factory=list)
    exams: list[Item] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Changes with the names and contents of the files that are read, not with their dates or their place."""
        taken = sorted((item.kind, item.name, item.sha256) for item in (*self.texts, *self.conversations, *self.exams))
        return hashlib.sha256(json.dumps(taken).encode()).hexdigest()

    def as_dict(self) -> dict:
        """For imported.json and the report."""
        keep = ("name", "num_bytes", "rows", "characters", "bad_rows", "first_bad")
        return {"folder": shown(self.folder), "fingerprint": self.fingerprint,
                **{kind: [{name: getattr(item, name) for name in keep} for item in getattr(self, kind)]
                   for kind in ("texts", "conversations", "exams")},
                "left_out": [asdict(item) for item in self.left_out]}

    def table(self) -> str:
        """What is taken and what is left out, in lines for the terminal."""
        lines = []
        for kind in ("texts", "conversations", "exams"):
            if items := getattr(self, kind):
                unit, amount = ("conversation", "rows") if kind == "conversations" else ("character", "characters")
                count = sum(getattr(item, amount) for item in items)
                lines.append(f"  {kind}: {_plural(len(items), 'file')}, {size(sum(item.num_bytes for item in items))}"
                             + (f", {_plural(count, unit)}" if count else ""))
        reasons = [f"    {item.name}: {item.bad_rows:,} of {item.bad_rows + item.rows:,} rows, the first is "
                   f"{item.first_bad}" for item in (*self.texts, *self.conversations) if item.bad_rows]
        reasons += [f"    {item.name}: {item.reason}" for item in self.left_out]
        bad_rows = sum(item.bad_rows for item in (*self.texts, *self.conversations))
        if reasons:
            lines.append(f"  left out: {_plural(sum(item.count for item in self.left_out), 'file')}"
                         + (f" and {_plural(bad_rows, 'single row')}" if bad_rows else ""))
        more = [f"    … and {len(reasons) - LISTED} more, all in imported.json"] if len(reasons) > LISTED else []
        return "\n".join([*lines, *reasons[:LISTED], *more])


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def size(num_bytes: int) -> str:
    """`size(1_234_567)` → "1.2 MB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"


def shown(path: Path | str) -> str:
    """A path that can be printed in one line, whatever bytes its name has."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def survey(folder: Path, passed_over: tuple[Path, ...] = (), cache: Path | None = None) -> Survey:
    """What is to be read of a folder (or of a single file). UserError where there is no such folder.

    `passed_over` are folders that are no part of the data: the run's own. `cache` is a file that this function writes.
    """
    folder = Path(folder).expanduser().absolute()
    if not folder.exists():
        raise UserError(f"--data={folder} does not exist; name a folder or a file of your own")
    if _is_made_by_programs(folder):
        raise UserError(f"--data={folder} is the out folder of a run; its data lie in {folder / 'data'}")
    found, memory = Survey(folder), _Memory(cache)
    paths = _walk(folder, {path.resolve() for path in passed_over}, found.left_out) if folder.is_dir() else [folder]
    names = {path: path.relative_to(folder).as_posix() if folder.is_dir() else path.name for path in paths}
    has_layout = any(re.fullmatch(r"text/[^/]*\.parquet", name, re.IGNORECASE) for name in names.values())
    exams = EXAMS * folder.is_dir() + CORE_EXAMS * ("core_tasks.yaml" in names.values())
    groups: dict[str, list[int]] = {}  # reason: sizes of the files
    for path, name in sorted(names.items(), key=lambda pair: pair[1]):
        if name == f"text/{MANIFEST}":  # it says which shards are for validation
            continue
        num_bytes, is_exam = 0, any(fnmatch(name, pattern) for pattern in exams)
        try:
            num_bytes = path.stat().st_size
            if not is_exam and (reason := _kind_not_read(path, name, has_layout)):
                groups.setdefault(reason, []).append(num_bytes)
                continue
            item = Item(path, shown(name), num_bytes=num_bytes, **memory.verdict(path, is_exam))
            if has_layout and item.kind == "texts" and not name.startswith("text/"):
                raise Unreadable(path, "is text; in this layout text lies in text/")
            getattr(found, item.kind).append(item)
        except (Unreadable, OSError) as error:
            reason = getattr(error, "reason", f"cannot be read ({getattr(error, 'strerror', '')})")
            found.left_out.append(LeftOut(shown(name), reason, num_bytes))
    found.left_out += [LeftOut(_plural(len(sizes), "file"), reason, sum(sizes), len(sizes))
                       for reason, sizes in groups.items()]
    memory.save()
    return found


def _kind_not_read(path: Path, name: str, has_layout: bool) -> str:
    """Why no file of this kind is read, or ""."""
    suffix, packing = rows.suffixes(path)
    if has_layout and not name.startswith(("text/", "chat/")):
        return "outside of text/, chat/ and the exams' folders: only these are read beside text/*.parquet"
    if suffix in (*rows.TEXT, *rows.JSON) or suffix in rows.PARQUET and not packing:
        return ""
    return f"{suffix + packing or 'without a suffix'}: this kind is not read"


def _walk(folder: Path, passed_over: set[Path], left_out: list[LeftOut]) -> list[Path]:
    """The regular files below a folder, each once; what else lies there is named in `left_out`."""
    found: list[Path] = []
    places: dict[tuple[int, int], Path] = {}  # where a file or folder was met first: links may lead to it again
    skipped: Counter[str] = Counter()
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        try:
            status = path.stat()
            entries = sorted(os.scandir(path), key=lambda entry: entry.name) if stat.S_ISDIR(status.st_mode) else []
        except OSError as error:
            lost = path.is_symlink() and not path.exists()
            left_out.append(LeftOut(shown(path.relative_to(folder)), "is a link to nothing" if lost else
                                    f"cannot be read ({error.strerror})"))
            continue
        first = places.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            reason = f"is the same as {shown(first.relative_to(folder))}"
            left_out.append(LeftOut(shown(path.relative_to(folder)), reason))
        elif stat.S_ISREG(status.st_mode):
            found.append(path)
        elif not stat.S_ISDIR(status.st_mode):
            left_out.append(LeftOut(shown(path.relative_to(folder)), "is a pipe, a socket or a device"))
        elif path != folder and (path.resolve() in passed_over or _is_made_by_programs(path)):
            skipped[f"{shown(path.name)}/"] += 1
        else:
            kept = [entry for entry in entries if not any(fnmatch(entry.name, pattern) for pattern in PASSED_OVER)]
            skipped.update(shown(entry.name) for entry in entries if entry not in kept)
            waiting += [path / entry.name for entry in reversed(kept)]
    if skipped:
        names = ", ".join(sorted(skipped)[:8]) + (", …" if len(skipped) > 8 else "")
        left_out.append(LeftOut(_plural(skipped.total(), "name"), f"passed over: {names}", count=skipped.total()))
    return found


def _is_made_by_programs(folder: Path) -> bool:
    """A Python environment, or the out folder of a run."""
    return (folder / "pyvenv.cfg").exists() or (folder / "data" / IMPORTED).exists() or (
        (folder / "stages").is_dir() and (folder / "data" / "text").is_dir())


class _Memory:
    """What was found in files, by path, size and dates, so that a file which did not change is read once only.

    Another version of this code may find something else: then everything is read again.
    """

    def __init__(self, path: Path | None):
        self.path, self.known, self.fresh = path, {}, {}
        self.code = [_digest(Path(module)) for module in (__file__, rows.__file__, conversations.__file__)]
        try:
            content = files.read_json(path) if path and path.exists() else {}
            self.known = content["files"] if content.get("code") == self.code else {}
        except (UserError, KeyError, AttributeError):
            pass  # a damaged cache is as good as none

    def verdict(self, path: Path, is_exam: bool) -> dict:
        """The fields of an Item from `kind` on. Unreadable or OSError where it cannot be taken."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, is_exam]
        kept = self.known.get(shown(path), {})
        if kept.get("stamp") != stamp:
            kept = {"stamp": stamp, "verdict": _examine(path, is_exam)}
        self.fresh[shown(path)] = kept
        return kept["verdict"]

    def save(self) -> None:
        if self.path and self.fresh != self.known:
            files.write_json(self.path, {"code": self.code, "files": self.fresh})


def _examine(path: Path, is_exam: bool) -> dict:
    rows.check_pointer(path)
    if not path.stat().st_size:
        raise Unreadable(path, "is empty")
    digest = {"sha256": _digest(path)}
    if is_exam:
        return {"kind": "exams", **digest}
    if rows.suffixes(path)[0] in rows.PARQUET:
        return {**_examine_parquet(path), **digest}
    if rows.suffixes(path)[0] in rows.JSON:
        return {**_examine_rows(path, rows.rows(path)), **digest}
    characters = sum(0 if piece.isspace() else len(piece) for piece in rows.blocks(path))
    if not characters:
        raise Unreadable(path, "is empty")
    return {"kind": "texts", "characters": characters, **digest}


def _digest(path: Path) -> str:
    """SHA-256 of the content; of a large parquet file that of its footer, which holds sizes and bounds of all pages."""
    with open(path, "rb") as stream:
        size_ = path.stat().st_size
        if size_ <= LARGE_PARQUET or rows.suffixes(path)[0] not in rows.PARQUET:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(-8, os.SEEK_END)
        length = int.from_bytes(stream.read(4), "little") + 8
        stream.seek(-min(length, size_), os.SEEK_END)
        return hashlib.sha256(stream.read() + str(size_).encode()).hexdigest()


def _examine_parquet(path: Path) -> dict:
    shard = shards.open_parquet(path)
    sample = [row for _, row in islice(rows.rows(path), PEEK)]
    if any(conversations.kind(row) == "conversations" for row in sample):
        return _examine_rows(path, rows.rows(path))
    column = rows.text_column(shard.schema_arrow)
    if not column:
        raise Unreadable(path, f"has the columns {', '.join(shard.schema_arrow.names)}; expected a column `text` of "
                         "strings, or conversations")
    is_ready = column == "text" and shard.schema_arrow.names.count("text") == 1
    if is_ready and path.stat().st_size > LARGE_PARQUET:
        groups = [shard.metadata.row_group(number) for number in range(shard.num_row_groups)]
        return {"kind": "texts", "rows": shard.metadata.num_rows, "column": column, "is_ready": True,
                "characters": sum(group.total_byte_size for group in groups)}
    num_rows = characters = 0
    for _, row in rows.rows(path, [column]):
        num_rows, characters = num_rows + bool(row[column]), characters + len(row[column] or "")
    if not characters:
        raise Unreadable(path, "is empty")
    return {"kind": "texts", "rows": num_rows, "characters": characters, "column": column, "is_ready": is_ready}


def _examine_rows(path: Path, found: Iterator[tuple[str, Any]]) -> dict:
    kind, num_rows, characters, bad_rows, first_bad, is_ready = "", 0, 0, 0, "", True
    for number, (place, row) in enumerate(found, 1):
        kind = kind or conversations.kind(row)
        problem = ""
        if kind == "conversations":
            try:
                parsed = conversations.parse(row)
                characters += sum(len(conversations.words(message)) for message in parsed["messages"])
                is_ready = is_ready and isinstance(row, dict) and row.get("messages") == parsed["messages"]
            except ValueError as error:
                problem = str(error)
        elif (text := conversations.text_of(row)) is None:
            problem = row.reason if isinstance(row, rows.Broken) else f"{_fields(row)}; {NEITHER}"
        else:
            characters += len(text)
        num_rows, bad_rows, first_bad = num_rows + (not problem), bad_rows + bool(problem), first_bad or (
            f"{place}: {problem}" if problem else "")
        if not kind and number == PEEK:
            break
    if not num_rows:
        raise Unreadable(path, f"no row can be read: {first_bad}" if first_bad else "is empty")
    packing_fits = rows.suffixes(path) in ((".jsonl", ""), (".jsonl", ".gz"))
    return {"kind": kind, "rows": num_rows, "characters": characters, "bad_rows": bad_rows, "first_bad": first_bad,
            "is_ready": kind == "conversations" and is_ready and not bad_rows and packing_fits}


def _fields(row: object) -> str:
    return f"has the fields {', '.join(map(str, row))[:80]}" if isinstance(row, dict) and row else f"is {row!r:.40}"
