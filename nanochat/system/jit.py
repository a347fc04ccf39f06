"""`njit`: Numba's decorator with a cache on disk that can never stop a program.

Numba's own `cache=True` raises where no folder can be written, where a cached file is damaged (a power cut) and where
the disk is full. It also reuses machine code after an update of another file whose functions were inlined into it. Here
the cache is only an optimisation: a function that cannot be loaded is compiled, a function that cannot be stored is
compiled again next time, and an entry counts only while no file with compiled functions has changed.
"""
import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher

from nanochat.system import log


def njit(**options: Any) -> Callable:
    """`@njit(nogil=True)` is `@numba.njit(nogil=True, cache=True)` with the cache described above."""
    def decorate(function: Callable) -> Callable:
        compiled = numba.njit(**options)(function)
        if isinstance(compiled, Dispatcher):  # with NUMBA_DISABLE_JIT=1 it is the plain function
            with contextlib.suppress(RuntimeError, OSError):  # "no locator available": nothing can be written
                compiled._cache = _Cache(function)
        return compiled

    return decorate


class _Cache(FunctionCache):
    def __init__(self, function: Callable):
        super().__init__(function)
        self._cache_file._source_stamp = (self._cache_file._source_stamp, _digest_of_sources())

    def load_overload(self, sig, target_context):
        stored = None
        try:
            stored = super().load_overload(sig, target_context)
        except Exception:  # damaged bytes can raise anything while they are unpickled
            with contextlib.suppress(Exception):
                self.flush()  # an empty index in place of the damaged one
        if stored is None:
            _announce()
        return stored

    def save_overload(self, sig, data):
        with contextlib.suppress(OSError):  # a full disk, a quota, a folder that has become read-only
            super().save_overload(sig, data)


@functools.cache  # once in a process
def _announce() -> None:
    log.note("compiling for this machine (about 10 seconds, only the first time) …")


@functools.cache
def _digest_of_sources() -> str:
    """One hash over all files of nanochat that compile functions: they inline each other's."""
    sources = (path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py")))
    return hashlib.sha256(b"".join(text for text in sources if b"system.jit import" in text)).hexdigest()
