"""Files that are either whole or absent, and reads that say what is wrong.

Every write goes to a temporary name in the same folder, is flushed to the disk, and is renamed over the target:
a crash, a full disk or a kill -9 leaves the old file or the new one, never half of one.
"""
import contextlib
import gzip
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


class UserError(Exception):
    """What a user, a file or the network can cause: one line with the value, what was expected, and the fix."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success fsyncs it and renames it to `path`, else removes it.

    The temporary may be written as a file or made as a directory (then every file in it is fsynced first,
    and an existing directory at `path` is replaced).
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; "
                        "free space or choose another folder with --out") from error
    temporary = scratch / path.name
    try:
        yield temporary
        for file in (*temporary.rglob("*"), temporary):
            _fsync(file)
        if path.is_dir() and temporary.is_dir():
            _swap(temporary, path, scratch / "old")
        else:
            os.replace(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; "
                        "free space or choose another folder with --out") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _swap(new: Path, path: Path, old: Path) -> None:
    """`new` takes the place of the folder `path`, which goes to `old`, and comes back if that fails."""
    os.rename(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.rename(old, path)
        raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Replaces `path` by `data` (text as UTF-8). Raises UserError where the disk does not let it."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, obj: Any) -> None:
    write_atomic(path, json.dumps(obj, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: list[dict]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The file's object. UserError when it is missing or no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged (not JSON: {error}); "
                        "remove it and run the command that made it again") from error


def beside(path: Path) -> Path:
    """`path`, or the same file with .gz behind its name where only that file exists."""
    zipped = path.with_name(path.name + ".gz")
    return zipped if zipped.is_file() and not path.exists() else path


def open_text(path: Path) -> IO[str]:
    """A text file opened for reading; .gz is unpacked on the way."""
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8")


def read_jsonl(path: Path) -> list[dict]:
    """One object per line; also reads `path` + '.gz'. UserError names the file and the line that is wrong."""
    source = beside(Path(path))
    if not source.exists():
        raise UserError(f"{path} does not exist, neither plain nor with .gz")
    rows: list[dict] = []
    number = 0
    try:
        with open_text(source) as lines:
            for line in lines:
                number += 1
                if line.strip():
                    rows.append(json.loads(line))
    except json.JSONDecodeError as error:
        raise UserError(f"{source} is damaged: line {number} is not JSON ({error.msg})") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{source} is damaged after line {number}: {error}") from error
    return rows
