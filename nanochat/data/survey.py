"""Classifies the files of a user's folder: text, conversations, exams, and files that are left out, with the reason.

    survey(Path("notes"), skipped_folders=(out,)) → Survey(texts, conversations, exams, left_out, …, fingerprint)

Every file is read to its end before anything is imported or trained, so that a file with an error in its middle is
left out as a whole and named. The results are kept in the file `cache`, so that files that have not changed are not
read again. A folder with text/*.parquet has the layout of out/data: then text is read from text/ only, conversations
from chat/, and other files are left out. In other folders every file counts. docs/data.md has the rules with examples.
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

# Files that are linked or copied as they are. A new task must add its paths here: a test compares this list with the
# tasks. `-t*` stands for -train and -test.
EXAMS = ("gsm8k/*.jsonl*", "arc/ARC-*.jsonl*", "mmlu/*.jsonl*", "humaneval/*.jsonl*", "kindergarten/*-t*.jsonl*",
         "kindergarten/suggestions.json", "misc/english_words.txt*", "chat/dolly_15k.jsonl*")
CORE_EXAMS = ("core_tasks.yaml", "core/*.jsonl*")  # only if there is a core_tasks.yaml
# Names of files that are no content: files of programs, leftovers of file systems and editors.
SKIPPED_NAMES = ("node_modules", "__pycache__", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information",
                 "Thumbs.db", "ehthumbs.db", "desktop.ini", "*~", "#*#", "~$*", ".*")
LARGE_PARQUET = 1 << 26  # bytes; of larger parquet files with text only the footer is read
PEEK = 100  # number of rows after which a file is left out if none is text or a conversation
KINDS = ("texts", "conversations", "exams")
LISTED = 20  # files named on the terminal; imported.json has all
IMPORTED = "imported.json"  # in a data folder: where its contents come from
EXPECTED_ROWS = f"expected a document ({', '.join(TEXT_FIELDS)}) or a conversation"


@dataclass(frozen=True)
class Item:
    """A file that is used. `name` is relative to the folder, `rows` counts its documents or conversations."""

    path: Path
    name: str
    kind: str  # texts, conversations or exams
    num_bytes: int
    sha256: str
    rows: int = 0
    characters: int = 0
    bad_rows: int = 0  # rows that cannot be read
    first_bad: str = ""  # where the first of them is, and why
    column: str = ""  # the column with the documents, of a parquet file
    can_be_linked: bool = False  # the file has our own format


@dataclass(frozen=True)
class LeftOut:
    """A file that is not used, or several files of one kind, with the reason in one line."""

    name: str
    reason: str
    num_bytes: int = 0
    count: int = 1


@dataclass
class Survey:
    """The files of a folder, by what they hold."""

    folder: Path
    texts: list[Item] = field(default_factory=list)
    conversations: list[Item] = field(default_factory=list)
    exams: list[Item] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Changes with the names and contents of the files that are read, not with their dates or location."""
        # So a copy of the folder elsewhere counts as the same data.
        taken = sorted((item.kind, item.name, item.sha256) for item in (*self.texts, *self.conversations, *self.exams))
        return hashlib.sha256(json.dumps(taken).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """For imported.json and the report."""
        fields = ("name", "num_bytes", "rows", "characters", "bad_rows", "first_bad", "sha256")
        return {"folder": shown(self.folder), "fingerprint": self.fingerprint,
                **{kind: [{name: getattr(item, name) for name in fields} for item in getattr(self, kind)]
                   for kind in KINDS},
                "left_out": [asdict(item) for item in self.left_out]}

    def changes_since(self, imported: dict[str, Any]) -> str:
        """The files that differ from an earlier import, whose imported.json is given; "" if no file differs."""
        before = {item["name"]: item.get("sha256") for kind in KINDS for item in imported.get(kind, [])}
        now = {item.name: item.sha256 for kind in KINDS for item in getattr(self, kind)}
        changes = [f"{name} is new" for name in now.keys() - before.keys()]
        changes += [f"{name} is gone" for name in before.keys() - now.keys()]
        changes += [f"{name} has changed" for name in now if before.get(name) not in (None, now[name])]
        more = [f"and {len(changes) - LISTED} more"] if len(changes) > LISTED else []
        return ", ".join([*sorted(changes)[:LISTED], *more]) if before else ""

    def table(self) -> str:
        """The files that are used and left out, in lines for the terminal."""
        lines = []
        for kind in KINDS:
            if items := getattr(self, kind):
                unit, amount = ("conversation", "rows") if kind == "conversations" else ("character", "characters")
                count = sum(getattr(item, amount) for item in items)
                num_bytes = sum(item.num_bytes for item in items)
                lines.append(f"  {kind}: {_plural(len(items), 'file')}, {files.size_text(num_bytes)}"
                             + (f", {_plural(count, unit)}" if count else ""))
        reasons = [f"    {item.name}: {item.bad_rows:,} of {item.bad_rows + item.rows:,} rows, first error: "
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


def shown(path: Path | str) -> str:
    """The path in printable characters and in one line, whatever bytes its name has."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def survey(folder: Path, skipped_folders: tuple[Path, ...] = (), cache: Path | None = None) -> Survey:
    """Classifies the files of a folder, or a single file. UserError if the folder does not exist.

    `skipped_folders` are those of the run itself. `cache` is the file that keeps the verdicts for the next call.
    """
    folder = Path(folder).expanduser().absolute()
    if not folder.exists():
        raise UserError(f"--data={folder} does not exist; name a folder or a file of your own")
    if _is_environment_or_run(folder):
        raise UserError(f"--data={folder} is the out folder of a run; its data is in {folder / 'data'}")
    found, verdicts = Survey(folder), _VerdictCache(cache)
    paths = _walk(folder, {path.resolve() for path in skipped_folders}, found.left_out) if folder.is_dir() else [folder]
    names = {path: path.relative_to(folder).as_posix() if folder.is_dir() else path.name for path in paths}
    has_layout = any(re.fullmatch(r"text/[^/]*\.parquet", name, re.IGNORECASE) for name in names.values())
    # A tuple times False is empty: a single file is no exam, and core/ counts only beside core_tasks.yaml.
    exams = EXAMS * folder.is_dir() + CORE_EXAMS * ("core_tasks.yaml" in names.values())
    groups: dict[str, list[int]] = {}  # reason: sizes of the files
    for path, name in sorted(names.items(), key=lambda pair: pair[1]):
        if name == f"text/{MANIFEST}":  # import_texts reads it: it names the validation shards
            continue
        num_bytes, is_exam = 0, any(fnmatch(name, pattern) for pattern in exams)
        try:
            num_bytes = path.stat().st_size
            if not is_exam and (reason := _why_not_read(path, name, has_layout)):
                groups.setdefault(reason, []).append(num_bytes)
                continue
            item = Item(path, shown(name), num_bytes=num_bytes, **verdicts.verdict(path, is_exam))
            if has_layout and item.kind == "texts" and not name.startswith("text/"):
                raise Unreadable(path, "is text outside of text/; beside text/*.parquet only text/ is read for text")
            getattr(found, item.kind).append(item)
        except (Unreadable, OSError) as error:
            reason = getattr(error, "reason", f"cannot be read ({getattr(error, 'strerror', '')})")
            found.left_out.append(LeftOut(shown(name), reason, num_bytes))
    found.left_out += [LeftOut(_plural(len(sizes), "file"), reason, sum(sizes), len(sizes))
                       for reason, sizes in groups.items()]
    verdicts.save()
    return found


def _why_not_read(path: Path, name: str, has_layout: bool) -> str:
    """The reason why no file of this kind is read, or ""."""
    suffix, packing = rows.suffixes(path)
    if has_layout and not name.startswith(("text/", "chat/")):
        return "outside of text/, chat/ and the exams' folders: only these are read beside text/*.parquet"
    if suffix in (*rows.TEXT, *rows.JSON) or suffix in rows.PARQUET and not packing:
        return ""
    return f"{suffix + packing or 'without a suffix'}: this kind is not read"


def _walk(folder: Path, skipped_folders: set[Path], left_out: list[LeftOut]) -> list[Path]:
    """The regular files below a folder, each once. Everything else there is named in `left_out`."""
    found: list[Path] = []
    places: dict[tuple[int, int], Path] = {}  # (device, inode) → the first path there; links may lead there again
    skipped: Counter[str] = Counter()
    waiting = [folder]  # a stack, not recursion: folders may be nested deeper than Python allows calls
    while waiting:
        path = waiting.pop()
        try:
            status = path.stat()
            entries = sorted(os.scandir(path), key=lambda entry: entry.name) if stat.S_ISDIR(status.st_mode) else []
        except OSError as error:
            is_dead = path.is_symlink() and not path.exists()
            reason = "is a link to nothing" if is_dead else f"cannot be read ({error.strerror})"
            left_out.append(LeftOut(shown(path.relative_to(folder)), reason))
            continue
        # A second way to a file would count its text twice; a link to a folder above would never end.
        first = places.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            reason = f"is the same as {shown(first.relative_to(folder))}"
            left_out.append(LeftOut(shown(path.relative_to(folder)), reason))
        elif stat.S_ISREG(status.st_mode):
            found.append(path)
        elif not stat.S_ISDIR(status.st_mode):
            left_out.append(LeftOut(shown(path.relative_to(folder)), "is a pipe, a socket or a device"))
        elif path != folder and (path.resolve() in skipped_folders or _is_environment_or_run(path)):
            skipped[f"{shown(path.name)}/"] += 1
        else:
            names = [entry.name for entry in entries]
            usable = [name for name in names if not any(fnmatch(name, pattern) for pattern in SKIPPED_NAMES)]
            skipped.update(shown(name) for name in names if name not in usable)
            waiting += [path / name for name in reversed(usable)]
    if skipped:
        examples = ", ".join(sorted(skipped)[:8]) + (", …" if len(skipped) > 8 else "")
        left_out.append(LeftOut(_plural(skipped.total(), "name"), f"skipped: {examples}", count=skipped.total()))
    return found


def _is_environment_or_run(folder: Path) -> bool:
    """Whether the folder is a Python environment or the out folder of a run."""
    return (folder / "pyvenv.cfg").exists() or (folder / "data" / IMPORTED).exists() or (
        (folder / "stages").is_dir() and (folder / "data" / "text").is_dir())


class _VerdictCache:
    """The verdicts about files by path, size and dates, so that a file that has not changed is read only once."""

    def __init__(self, path: Path | None):
        self.path = path
        # If this code has changed, its verdicts may change: then every file is read again.
        self.code = [_digest(Path(module)) for module in (__file__, rows.__file__, conversations.__file__)]
        self.old: dict[str, dict[str, Any]] = {}
        self.new: dict[str, dict[str, Any]] = {}
        content = files.read_object(path) if path else {}  # a damaged cache counts as an empty one
        if content.get("code") == self.code:
            self.old = content.get("files", {})

    def verdict(self, path: Path, is_exam: bool) -> dict[str, Any]:
        """The fields of an Item from `kind` on. Unreadable or OSError if the file cannot be used."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, is_exam]
        entry = self.old.get(shown(path), {})
        if entry.get("stamp") != stamp:
            entry = {"stamp": stamp, "verdict": _examine(path, is_exam)}
        self.new[shown(path)] = entry  # only the files of this survey are saved
        return dict(entry["verdict"])

    def save(self) -> None:
        if self.path and self.new != self.old:
            files.write_json(self.path, {"code": self.code, "files": self.new})


def _examine(path: Path, is_exam: bool) -> dict[str, Any]:
    """The verdict about a file. Unreadable or OSError if it cannot be used."""
    rows.refuse_lfs_pointer(path)
    if not path.stat().st_size:
        raise Unreadable(path, "is empty")
    digest = {"sha256": _digest(path)}
    if is_exam:
        return {"kind": "exams", **digest}
    if rows.suffixes(path)[0] in rows.PARQUET:
        return {**_examine_parquet(path), **digest}
    if rows.suffixes(path)[0] in rows.JSON:
        return {**_examine_rows(path, rows.rows(path)), **digest}
    # To the end: an error in the encoding may come late.
    characters = sum(0 if piece.isspace() else len(piece) for piece in rows.blocks(path))
    if not characters:
        raise Unreadable(path, "is empty")
    return {"kind": "texts", "characters": characters, **digest}


def _digest(path: Path) -> str:
    """SHA-256 of the content; of a large parquet file only of its footer, which has sizes and bounds of all pages."""
    with open(path, "rb") as stream:
        num_bytes = path.stat().st_size
        if num_bytes <= LARGE_PARQUET or rows.suffixes(path)[0] not in rows.PARQUET:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(-8, os.SEEK_END)  # a parquet file ends with its footer, the footer's length and "PAR1"
        length = int.from_bytes(stream.read(4), "little") + 8
        stream.seek(-min(length, num_bytes), os.SEEK_END)
        return hashlib.sha256(stream.read() + str(num_bytes).encode()).hexdigest()


def _examine_parquet(path: Path) -> dict[str, Any]:
    shard = shards.open_parquet(path)
    sample = [row for _, row in islice(rows.rows(path), PEEK)]
    if any(conversations.kind(row) == "conversations" for row in sample):  # even if it has a column `text`
        return _examine_rows(path, rows.rows(path))
    column = rows.text_column(shard.schema_arrow)
    if not column:
        raise Unreadable(path, f"has the columns {', '.join(shard.schema_arrow.names)}; expected a column `text` of "
                         "strings, or conversations")
    can_be_linked = column == "text" and shard.schema_arrow.names.count("text") == 1  # as `shards.open_shard` needs
    if can_be_linked and path.stat().st_size > LARGE_PARQUET:
        groups = [shard.metadata.row_group(number) for number in range(shard.num_row_groups)]
        return {"kind": "texts", "rows": shard.metadata.num_rows, "column": column, "can_be_linked": True,
                "characters": sum(group.total_byte_size for group in groups)}
    texts = ((place, row[column]) for place, row in rows.rows(path, [column]) if row[column])
    return {**_examine_rows(path, texts), "column": column, "can_be_linked": can_be_linked}


def _examine_rows(path: Path, places_and_rows: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    kind, num_rows, characters, bad_rows, first_bad, can_be_linked = "", 0, 0, 0, "", True
    for number, (place, row) in enumerate(places_and_rows, 1):
        kind = kind or conversations.kind(row)  # the first row whose kind is clear decides
        try:
            length, is_ours = _measure(row, kind)
        except ValueError as error:
            bad_rows += 1
            first_bad = first_bad or f"{place}: {error}"
        else:
            num_rows += 1
            characters += length
            can_be_linked = can_be_linked and is_ours
        if not kind and number == PEEK:  # with a kind, the file is read to its end, to count its bad rows
            break
    if not num_rows:
        raise Unreadable(path, f"has no row that can be read: {first_bad}" if first_bad else "is empty")
    can_be_linked = can_be_linked and not bad_rows and rows.suffixes(path) in ((".jsonl", ""), (".jsonl", ".gz"))
    return {"kind": kind, "rows": num_rows, "characters": characters, "bad_rows": bad_rows, "first_bad": first_bad,
            "can_be_linked": can_be_linked}


def _measure(row: Any, kind: str) -> tuple[int, bool]:
    """(characters of a row, whether it is a conversation in our own format). ValueError: why it cannot be read."""
    if kind == "conversations":
        messages = conversations.parse(row)["messages"]
        is_ours = isinstance(row, dict) and row.get("messages") == messages
        return sum(len(conversations.words(message)) for message in messages), is_ours
    if isinstance(row, rows.Broken):
        raise ValueError(row.reason)
    if (text := conversations.text_of(row)) is None:
        has_fields = isinstance(row, dict) and row
        content = f"has the fields {', '.join(map(str, row))[:80]}" if has_fields else f"is {row!r:.40}"
        raise ValueError(f"{content}; {EXPECTED_ROWS}")
    return len(text), False
