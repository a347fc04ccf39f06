"""Parquet shards of text: one string column `text`, row groups of 1,024 documents.

A folder's shards lie in `<data>/text/`. Which ones are for validation stands in `manifest.json` beside them
({"validation": ["shard_00010.parquet"]}); a folder without one keeps its last shard by name for validation, and then
needs at least two.
"""
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.system import files, paths
from nanochat.system.files import UserError

DOCUMENTS_PER_GROUP = 1024
MANIFEST = "manifest.json"


def train_shards(data_dir: Path | None = None) -> list[Path]:
    """The training shards in order. UserError where there are none."""
    return _split(data_dir)[0]


def validation_shards(data_dir: Path | None = None) -> list[Path]:
    return _split(data_dir)[1]


def _split(data_dir: Path | None) -> tuple[list[Path], list[Path]]:
    folder = Path(data_dir or paths.data_dir()) / "text"
    shards = sorted(folder.glob("*.parquet"))
    if not shards:
        raise UserError(f"no *.parquet in {folder}; make or fetch some with: python -m nanochat.dataset")
    pinned = _pinned(folder / MANIFEST) if (folder / MANIFEST).exists() else [shards[-1].name]
    missing = sorted(set(pinned) - {shard.name for shard in shards})
    if missing:
        raise UserError(f"validation shard {missing[0]} is missing in {folder}; "
                        "fetch it again: python -m nanochat.dataset")
    train = [shard for shard in shards if shard.name not in pinned]
    if not train:
        raise UserError(f"{folder} has only the validation shard {pinned[0]}; "
                        "fetch another: python -m nanochat.dataset -n 2")
    return train, [shard for shard in shards if shard.name in pinned]


def _pinned(manifest: Path) -> list[str]:
    content = files.read_json(manifest)
    names = content.get("validation") if isinstance(content, dict) else None
    if not isinstance(names, list):
        raise UserError(f'{manifest} names no validation shards; expected {{"validation": ["shard_….parquet"]}}; '
                        "remove it and run: python -m nanochat.dataset")
    return names


def open_shard(path: Path) -> pq.ParquetFile:
    """The shard's reader. UserError when it is damaged or has no string column `text`."""
    try:
        shard = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"shard {path} is damaged ({error}); remove it and run: python -m nanochat.dataset") from error
    columns = {column.name: column.type for column in shard.schema_arrow}
    if columns.get("text") not in (pa.string(), pa.large_string()):
        raise UserError(f"shard {path} has columns {', '.join(f'{name} {kind}' for name, kind in columns.items())}; "
                        "expected a string column `text`")
    return shard


def read_group(shard: pq.ParquetFile, group: int, path: Path) -> list[str]:
    """The documents of one row group; empty ones are left out."""
    try:
        texts = shard.read_row_group(group, columns=["text"]).column("text").to_pylist()
    except (OSError, ValueError) as error:  # Arrow's errors are these; so is text that is no UTF-8
        raise UserError(f"shard {path}, row group {group}, is damaged ({error}); "
                        "remove the file and run: python -m nanochat.dataset") from error
    return [text for text in texts if text]


def iter_texts(shards: Iterable[Path]) -> Iterator[str]:
    """Every document of the shards, in order."""
    for path in shards:
        shard = open_shard(path)
        for group in range(shard.num_row_groups):
            yield from read_group(shard, group, path)


def write(path: Path, texts: Iterable[str]) -> None:
    """One shard, whole or not at all."""
    with files.replacing(path) as temporary:
        pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), temporary,
                       row_group_size=DOCUMENTS_PER_GROUP, compression="zstd")


def write_manifest(text_dir: Path, validation: list[str]) -> None:
    files.write_json(text_dir / MANIFEST, {"validation": validation})
