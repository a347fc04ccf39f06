"""Where libraries keep what they compile, on machines where their usual folders cannot be written.

Numba, matplotlib, Triton and huggingface_hub write to the user's cache folder (`~/.cache`). A container often has no
home folder, or one that cannot be written. Then `prepare` sends all of them to one private folder inside the temporary
folder; where there is no such folder either, they keep nothing, and Numba compiles again in every process (about 10
seconds). `import nanochat` calls it, because the libraries read these variables when they are imported.
"""
import contextlib
import functools
import os
import stat
import tempfile
from pathlib import Path

MOVED = {"NUMBA_CACHE_DIR": "numba", "MPLCONFIGDIR": "matplotlib", "TRITON_HOME": "triton"}  # variable → subfolder


def prepare() -> None:
    """Sets the variables that move the caches, if the user's cache folder cannot be written.

    PyTorch's compiler uses the temporary folder anyway, under a name that others can take before us: always moved.
    """
    if (folder := private_folder()) is None:
        return
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    if _can_write(Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))):
        return
    os.environ["XDG_CACHE_HOME"] = str(folder)
    for variable, name in MOVED.items():
        os.environ.setdefault(variable, str(folder / name))


def _can_write(folder: Path) -> bool:
    """Whether this process may write to `folder`, which is made if only it itself is missing."""
    if not folder.is_absolute():  # "~" stays as it is where the user has no home folder
        return False
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        return os.access(folder, os.W_OK | os.X_OK)
    return False


@functools.cache
def private_folder() -> Path | None:
    """A folder inside the temporary folder that belongs to this user alone; None where there can be none.

    Compiled code is loaded from this folder, and everybody can guess its name. Therefore it is used only if it belongs
    to us, gives nobody else any right, and cannot be renamed by others.
    """
    try:
        parent = Path(tempfile.gettempdir())
        folder = parent / f"nanochat-{os.geteuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found, around = folder.lstat(), parent.stat()
    except OSError:  # no temporary folder, or a full or read-only one
        return None
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    others_may_rename = around.st_mode & 0o022 and not around.st_mode & stat.S_ISVTX
    return folder if ours and not others_may_rename and os.access(folder, os.W_OK | os.X_OK) else None
