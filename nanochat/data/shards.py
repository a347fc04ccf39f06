"""Parquet shards of text, read in slices of at most 1,024 documents.

The shards are in `<data>/text/` and have a column `text`. `manifest.json` in this folder names the validation shards
({"validation": ["shard_00010.parquet"]}). Without a manifest the last shard by name is for validation, so a folder
needs at least two shards.
"""
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.system.numbers import ceil_div

DOCUMENTS_PER_GROUP = 1024  # in the row groups that we write and in the slices that we read
BUFFER_BYTES = 1 << 20  # bytes read from disk at a time; by default Arrow reads the whole column of a row group
MANIFEST = "manifest.json"
NAMED_COLUMNS = 8  # columns that an error lists; some files have thousands
Place = tuple[Path, int, int]  # a slice: (shard, row group, number of the slice in the row group)


class Unreadable(UserError):
    """A file whose content is not what its suffix says. `reason`: the message without the path, a verb and more."""

    def __init__(self, path: Path, reason: str, line: int = 0):
        self.reason = f"line {line}: {reason}" if line else reason
        super().__init__(f"{path}, {self.reason}" if line else f"{path} {reason}")


def train_shards(data_dir: Path | None = None) -> list[Path]:
    """The training shards in order. UserError if the folder has no shards, or lacks a validation shard."""
    return _split(data_dir)[0]


def validation_shards(data_dir: Path | None = None) -> list[Path]:
    """The validation shards in order; the same errors."""
    return _split(data_dir)[1]


def in_folder(text_dir: Path) -> list[Path]:
    """The shards of a folder by name. Hidden files are skipped: macOS writes a file `._x` for each file `x`."""
    if not text_dir.is_dir():
        return []
    return sorted(path for path in text_dir.iterdir()
                  if path.suffix.lower() == ".parquet" and not path.name.startswith("."))


def _split(data_dir: Path | None) -> tuple[list[Path], list[Path]]:
    """(training shards, validation shards)."""
    folder = Path(data_dir or paths.data_dir()) / "text"
    shards = in_folder(folder)
    if not shards:
        nested = next(folder.rglob("*.parquet"), None)  # partitioned data sets have such folders
        hint = (f"{nested.relative_to(folder)} lies in a folder below: put the shards into {folder} itself" if nested
                else "make or fetch some with: python -m nanochat.dataset")
        raise UserError(f"no *.parquet in {folder}; {hint}")
    pinned = _pinned(folder / MANIFEST) if (folder / MANIFEST).exists() else [shards[-1].name]
    # Without this check a lost validation shard would silently change the text on which all results are measured.
    missing = sorted(set(pinned) - {shard.name for shard in shards})
    if missing:
        raise UserError(f"validation shard {missing[0]} is missing in {folder}, which {MANIFEST} names; put it there, "
                        "or run the command again that made the folder")
    train = [shard for shard in shards if shard.name not in pinned]
    if not train:
        raise UserError(f"{folder} has only the validation shard {pinned[0]}; it needs two shards, because one is kept "
                        "for validation: add a shard, or split this one into two files")
    return train, [shard for shard in shards if shard.name in pinned]


def _pinned(manifest: Path) -> list[str]:
    content = files.read_json(manifest)
    names = content.get("validation") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{manifest} names no validation shards; expected {{"validation": ["shard_….parquet"]}}; '
                        "remove it to keep the last shard for validation")
    if not names:  # `claim` writes an empty list before the first shard is there
        raise UserError(f"{manifest} names no validation shard; if a download was interrupted, run the same "
                        "nanochat.dataset command again, else remove the file to keep the last shard for validation")
    return names


def claim(text_dir: Path, origin: str) -> dict[str, Any]:
    """The manifest of a folder for text of this origin, written if the folder is empty. UserError for other text."""
    path = text_dir / MANIFEST
    if not path.exists() and not in_folder(text_dir):
        files.write_json(path, {"origin": origin, "validation": []})  # before any shard: an interrupted run continues
    manifest = files.read_json(path) if path.exists() else {"origin": "another place"}
    if not isinstance(manifest, dict):
        raise UserError(f"{path} is damaged (not an object); remove {text_dir}, or choose another folder with --out")
    present = manifest.get("origin", "kindergarten")  # the kindergarten writes a manifest without an origin
    if present != origin:
        raise UserError(f"{text_dir} holds text from {present}, not {origin}; remove it, or choose another with --out")
    return manifest


def open_parquet(path: Path) -> pq.ParquetFile:
    """The reader of a Parquet file. Unreadable says what the file is instead."""
    try:
        return pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise Unreadable(path, _what_it_is(path, error)) from error


def _what_it_is(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "is a folder; expected a Parquet file: put the files of that folder one folder higher"
    if not path.exists():
        return "does not exist, or is a link to a file that does not exist"
    if is_lfs_pointer(path):
        return "is a Git LFS pointer, not the data; run in the folder it was cloned to: git lfs pull"
    return f"is damaged ({first_line(error)}); remove it, or copy or fetch it again"


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is the short text that git writes in place of a large file when Git LFS is not installed."""
    try:
        with path.open("rb") as stream:
            return stream.read(40).startswith(b"version https://git-lfs.github.com/")
    except OSError:
        return False


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def open_shard(path: Path) -> pq.ParquetFile:
    """The reader of a shard. UserError when the shard is damaged or has no column `text` of strings."""
    shard = open_parquet(path)
    schema = shard.schema_arrow
    if schema.names.count("text") != 1 or not is_text(schema.field("text").type):
        columns = [f"{column.name} {column.type}" for column in islice(schema, NAMED_COLUMNS)]
        more = f" and {len(schema) - NAMED_COLUMNS} more" if len(schema) > NAMED_COLUMNS else ""
        raise UserError(f"shard {path} has columns {', '.join(columns)}{more}; expected one string column `text`")
    return shard


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's strings, or of its bytes: some writers do not mark strings as UTF-8."""
    if kinds.is_dictionary(kind):  # "category" columns of pandas
        kind = kind.value_type
    return kind in (pa.string(), pa.large_string(), pa.string_view(),
                    pa.binary(), pa.large_binary(), pa.binary_view())


def places(path: Path) -> list[Place]:
    """Where the slices of a shard are. An empty row group counts as one slice: states of the loader count it."""
    metadata = open_shard(path).metadata
    return [(path, group, number) for group in range(metadata.num_row_groups)
            for number in range(max(1, ceil_div(metadata.row_group(group).num_rows, DOCUMENTS_PER_GROUP)))]


class Reader:
    """Reads slices. The next slice is read from the open file; for an earlier one the row group is decoded again."""

    def __init__(self) -> None:
        self.path: Path | None = None

    def __reduce__(self) -> tuple[type["Reader"], tuple[()]]:
        return Reader, ()  # an open file cannot be sent to another process

    def read(self, path: Path, group: int, number: int) -> list[str]:
        """The documents of a slice; empty documents are left out. UserError when the shard is damaged."""
        if path != self.path:
            self.shard, self.path, self.group, self.next_slice = open_shard(path), path, -1, 0
        if group != self.group or number < self.next_slice:
            # Slice by slice: a writer may have put the whole file into one row group, which may not fit into memory.
            batches = self.shard.iter_batches(DOCUMENTS_PER_GROUP, [group], ["text"])
            # One stream of documents, because Arrow may make smaller batches than requested.
            self.documents = chain.from_iterable(batch.column("text").to_pylist() for batch in batches)
            self.group, self.next_slice = group, 0
        start = (number - self.next_slice) * DOCUMENTS_PER_GROUP
        self.next_slice = number + 1
        try:
            values = [value for value in islice(self.documents, start, start + DOCUMENTS_PER_GROUP) if value]
            return [value.decode() if isinstance(value, bytes) else value for value in values]
        except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: text that is not UTF-8
            self.path = None  # the iterator is broken: the next read opens the file again
            raise UserError(f"shard {path}, row group {group}, is damaged ({first_line(error)}); "
                            "remove the file, or copy or fetch it again") from error


def iter_texts(shards: Iterable[Path]) -> Iterator[str]:
    """Every document of the shards, in order."""
    reader = Reader()
    for path in shards:
        for place in places(path):
            yield from reader.read(*place)


def write(path: Path, texts: Iterable[str]) -> None:
    """Writes one shard completely or not at all."""
    with files.replacing(path) as temporary:
        pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), temporary,
                       row_group_size=DOCUMENTS_PER_GROUP, compression="zstd")


def write_manifest(text_dir: Path, validation: list[str]) -> None:
    files.write_json(text_dir / MANIFEST, {"validation": validation})
