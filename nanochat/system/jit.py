"""`njit`: Numba's decorator, with a cache on disk that can never stop a program.

Numba's `cache=True` raises an error if no folder can be written, if a cached file is damaged (by a power cut) and if
the disk is full. It also reuses machine code after a change in another file whose functions were inlined into it.
Here the cache is only an optimisation: a function that cannot be loaded is compiled, a function that cannot be stored
is compiled again next time, and an entry is valid only as long as no file with compiled functions has changed.
"""
import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

from nanochat.system import log


def njit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`@njit(nogil=True)` is `@numba.njit(nogil=True, cache=True)` with the cache described above."""
    def decorate(function: Callable[..., Any]) -> Any:
        compiled: Any = numba.njit(**options)(function)
        if hasattr(compiled, "py_func"):  # NUMBA_DISABLE_JIT=1 leaves the plain function
            with contextlib.suppress(RuntimeError, OSError):  # "no locator available": no folder can be written
                compiled._cache = _Cache(function)
        return compiled

    return decorate


class _Cache(FunctionCache):  # type: ignore[misc]  # Numba has no types
    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)
        # Numba compares this stamp with that of the stored entry: date and size of one file, and now our digest.
        self._cache_file._source_stamp = (self._cache_file._source_stamp, _digest_of_sources())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        stored = None
        try:
            stored = super().load_overload(sig, target_context)
        except Exception:  # damaged bytes can raise anything while they are unpickled
            with contextlib.suppress(Exception):
                self.flush()  # replaces the damaged index by an empty one
        if stored is None:
            _announce()
        return stored

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk, a quota, a folder that has become read-only
            super().save_overload(sig, data)


@functools.cache  # once in a process
def _announce() -> None:
    log.note("compiling for this machine (about 10 seconds, only the first time) …")


@functools.cache
def _digest_of_sources() -> str:
    """One hash of all files of nanochat with compiled functions, which inline each other, or with LLVM IR in them."""
    texts = (path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py")))
    return hashlib.sha256(b"".join(
        text for text in texts if b"system.jit import" in text or b"llvmlite" in text)).hexdigest()
