"""Writes that leave a complete file or none, and reads whose errors name the fault of a file.

Every write goes to a temporary name in the same folder, is flushed to the disk, and is renamed over the target: a
crash, a full disk or a kill -9 leaves the old file or the new file, never half a file.

Some file systems refuse fsync (FUSE, network folders), hard links or symbolic links (FAT, SMB), or the renaming of a
folder that came with a container image (overlay). Each of these operations has a substitute here.
"""
import contextlib
import errno
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
    """An error that a user, a file or the network can cause: one line with the value, the expectation and the fix."""


def size_text(num_bytes: float) -> str:
    """`size_text(24_600_000)` → "24.6 MB", `size_text(830)` → "830 bytes"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`. On success it is flushed and renamed to `path`, otherwise removed.

    The caller may make a file there or a directory, which replaces a directory at `path`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, because files cannot be renamed from one disk to another.
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:100]}."))
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = scratch / path.name
    try:
        yield temporary
        for file in (*temporary.rglob("*"), temporary):  # before the renaming, or a power cut leaves an empty file
            _fsync(file)
        if path.is_dir() and not path.is_symlink() and temporary.is_dir():
            _swap(temporary, path, scratch / "old")  # no system call replaces a folder that is not empty
        else:
            os.replace(temporary, path)
        _fsync(path.parent)  # so that the renaming itself is on the disk
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror or error}; "
                     "free space, or set NANOCHAT_BASE_DIR to another folder")


def _swap(new: Path, path: Path, old: Path) -> None:
    """Moves the folder `path` to `old` and `new` to `path`. If the second step fails, the folder comes back."""
    _move(path, old)
    try:
        os.replace(new, path)
    except OSError:
        _move(old, path)
        raise


def _move(folder: Path, target: Path) -> None:
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(folder, target, symlinks=True)  # an overlay cannot rename the folders of the container's image
        shutil.rmtree(folder)


def _fsync(path: Path) -> None:
    """Flushes a file or folder to the disk, if the file system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # "this is not supported", not an error of the disk (EIO, ENOSPC, EDQUOT)
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EBADF):
            raise


def link_or_copy(source: Path, target: Path) -> None:
    """Makes the file `source` available as `target` too, without a copy if the file system has links."""
    source = Path(source).resolve()  # a symbolic link must not depend on the folder in which it is made
    with replacing(target) as temporary:
        for make in (os.link, os.symlink):  # a hard link first: it survives when `source` is removed
            with contextlib.suppress(OSError):
                make(source, temporary)
                return
            temporary.unlink(missing_ok=True)
        shutil.copyfile(source, temporary)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Replaces `path` by `data` (text as UTF-8). UserError if the file cannot be written."""
    with replacing(path) as temporary:
        # A file name that is not UTF-8 has characters that cannot be encoded. In JSON they are written as "\\udc80".
        temporary.write_bytes(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


def write_json(path: Path, obj: Any) -> None:
    write_atomic(path, json.dumps(obj, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The object in a file. UserError if the file is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged (not JSON: {error}); "
                        "remove it and run the command that made it again") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if the file is missing or damaged."""
    try:
        content = read_json(path)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def beside(path: Path) -> Path:
    """`path`, or `path` + ".gz" if only that file exists."""
    zipped = path.with_name(path.name + ".gz")
    return zipped if zipped.is_file() and not path.exists() else path


def open_text(path: Path) -> IO[str]:
    """A text file opened for reading; .gz is decompressed."""
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects in the lines of `path` or `path` + ".gz". UserError names the file and the wrong line."""
    source = beside(Path(path))
    if not source.exists():
        raise UserError(f"{path} does not exist, neither plain nor with .gz")
    rows: list[dict[str, Any]] = []
    number = 0  # line number, for errors
    try:
        with open_text(source) as lines:
            for line in lines:
                number += 1
                rows += [json.loads(line)] if line.strip() else []
    except json.JSONDecodeError as error:
        raise UserError(f"{source} is damaged: line {number} is not JSON ({error.msg})") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{source} is damaged after line {number}: {error}") from error
    return rows
