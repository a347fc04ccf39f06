"""Files that are either whole or absent, and reads that say what is wrong.

Every write goes to a temporary name in the same folder, is flushed to the disk, and is renamed over the target:
a crash, a full disk or a kill -9 leaves the old file or the new one, never half of one.

Not every file system can do everything: some refuse fsync (FUSE, network folders), hard links or symbolic links (FAT,
SMB), or the renaming of a folder that came with a container image (overlay). Here each has its second way.
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
    """What a user, a file or the network can cause: one line with the value, what was expected, and the fix."""


def size_text(num_bytes: float) -> str:
    """`size_text(24_600_000)` → "24.6 MB", `size_text(830)` → "830 bytes"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success fsyncs it and renames it to `path`, else removes it.

    The temporary may be written as a file or made as a directory (then every file in it is fsynced first,
    and an existing directory at `path` is replaced).
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:100]}."))
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = scratch / path.name
    try:
        yield temporary
        for file in (*temporary.rglob("*"), temporary):
            _fsync(file)
        if path.is_dir() and not path.is_symlink() and temporary.is_dir():
            _swap(temporary, path, scratch / "old")
        else:
            os.replace(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror or error}; "
                     "free space, or set NANOCHAT_BASE_DIR to another folder")


def _swap(new: Path, path: Path, old: Path) -> None:
    """`new` takes the place of the folder `path`, which goes to `old`, and comes back if that fails."""
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
    """Flushes a file or folder to the disk, where the file system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # an error of the disk (EIO, ENOSPC, EDQUOT) is not among these
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EBADF):
            raise


def link_or_copy(source: Path, target: Path) -> None:
    """Makes the file `source` readable as `target` as well, without a copy where the file system has links.

    A hard link is tried first (it stays when `source` is removed), then a symbolic link (another disk), then a copy.
    """
    source = Path(source).resolve()
    with replacing(target) as temporary:
        for make in (os.link, os.symlink, shutil.copyfile):
            try:
                return make(source, temporary)
            except OSError:  # of the copy: the last way
                temporary.unlink(missing_ok=True)
                if make is shutil.copyfile:
                    raise


def write_atomic(path: Path, data: str | bytes) -> None:
    """Replaces `path` by `data` (text as UTF-8). Raises UserError where the disk does not let it."""
    with replacing(path) as temporary:
        # A name of a file that is not UTF-8 has letters that cannot be encoded; JSON has "\\udc80" for them.
        temporary.write_bytes(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


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
