"""Where libraries cache compiled code on machines where their usual folders cannot be written.

Numba, Triton and huggingface_hub write to the user's cache folder (`~/.cache`). A container often has no writable home
folder. Then `prepare` sends all of them to one private folder inside the temporary folder. If there is no such folder
either, nothing is cached, and Numba compiles again in every process (about 10 seconds).
`import nanochat` calls `prepare`, because the libraries read these variables when they are imported.
"""
import contextlib
import functools
import os
import stat
import tempfile
from pathlib import Path

MOVED = {"NUMBA_CACHE_DIR": "numba", "TRITON_HOME": "triton"}  # variable → subfolder


def prepare() -> None:
    """Sets the variables that move the caches, if the user's cache folder cannot be written."""
    if (folder := private_folder()) is None:
        return
    # Always moved: its default name in the temporary folder may exist already and belong to another user.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    # If the user's cache folder can be written, it is used: other programs share its content.
    if _can_write(Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))):
        return
    os.environ["XDG_CACHE_HOME"] = str(folder)
    for variable, name in MOVED.items():
        os.environ.setdefault(variable, str(folder / name))


def _can_write(folder: Path) -> bool:
    """Whether this process may write to `folder`. Makes the folder if its parent exists."""
    if not folder.is_absolute():  # "~" is not expanded if the user has no home folder
        return False
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        return os.access(folder, os.W_OK | os.X_OK)  # making files in a folder needs both rights
    return False


@functools.cache
def private_folder() -> Path | None:
    """A folder inside the temporary folder that belongs to this user alone; None if it cannot be made."""
    try:
        parent = Path(tempfile.gettempdir())
        folder = parent / f"nanochat-{os.geteuid()}"  # the number, because a user in a container may have no name
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status, parent_status = folder.lstat(), parent.stat()
    except OSError:  # no temporary folder, or a full or read-only one
        return None
    # Compiled code is loaded from this folder, and everybody can guess its name. Therefore it is used only if it is
    # ours, gives nobody else any right, and cannot be renamed by others.
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
    # In a folder with the sticky bit, such as /tmp, only the owner of an entry may rename the entry.
    others_may_rename = parent_status.st_mode & 0o022 and not parent_status.st_mode & stat.S_ISVTX
    return folder if is_ours and not others_may_rename and os.access(folder, os.W_OK | os.X_OK) else None
