"""Downloads a file over HTTP: resumes an earlier attempt, checks the file, and waits if the server asks for it."""
# Why not `hf_hub_download`: version 2.4 of huggingface_hub deletes a partial file when the process ends, compares no
# SHA-256, only warns of a full disk, ignores Retry-After when it is a date, and needs an ETag from every server.
import contextlib
import email.utils
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Lock
from typing import Any, TypeVar

from nanochat.data import shards
from nanochat.system import log
from nanochat.system.files import UserError

LISTING_ATTEMPTS = 5  # 15 s: a wrong address must be reported soon
ATTEMPTS = 8  # in a row without a new byte, two minutes: the network may be gone for a moment
BAD_ATTEMPTS = 3  # for a file that arrives complete but wrong: it may have many gigabytes
PAUSE_SECONDS = 1  # after the first failure; it doubles each time
TIMEOUT_SECONDS = 30  # without a byte from the server
LONGEST_WAIT_SECONDS = 900  # limit for the waits that a server asks for, in sum; the hub limits requests per 300 s
T = TypeVar("T")


class HttpError(Exception):
    """The server answered, but did not send the file."""

    def __init__(self, response: Any):
        self.status, self.headers = response.status_code, response.headers
        super().__init__(f"HTTP {self.status} {response.reason_phrase}".strip())


class BadContent(Exception):
    """The server's answer is complete but is not the file; another attempt may get the file."""


class Attempts:
    """Repeats failed requests. The threads of a download share it: if the server asks one thread to wait, all wait.

    As a context manager it tells the threads to stop at its end.
    """

    def __init__(self) -> None:
        self.stop, self._lock, self._not_before = Event(), Lock(), 0.0

    def __enter__(self) -> "Attempts":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()

    def run(self, name: str, request: Callable[[], T], limit: int, size: Callable[[], int] = lambda: 0) -> T:
        """The result of `request`. `limit` counts failures in a row; if `size` grows, the count starts again."""
        failures, waited = 0, 0.0
        while not self.stop.is_set():
            self._pause(self._not_before - time.monotonic())  # another thread may have been asked to wait
            before = size()
            try:
                return request()
            except Exception as error:
                if size() > before:  # the server is alive: a bad line may break off a large file many times
                    failures, waited = 0, 0.0
                if self.stop.is_set() or not may_pass(error):  # repeating would not help
                    raise
                if (seconds := asked_wait(error)) is not None:
                    waited += seconds
                    self._hold(seconds, waited, error)
                    continue  # a wait that the server asks for is not a failure
                failures += 1
                if failures >= (min(limit, BAD_ATTEMPTS) if isinstance(error, BadContent) else limit):
                    raise
                seconds = PAUSE_SECONDS * 2 ** (failures - 1)
                log.say(f"{name}: {shards.first_line(error)}; trying again in {seconds:.0f} s")
                self._pause(seconds)
        raise UserError("interrupted")

    def _hold(self, seconds: float, waited: float, error: Exception) -> None:
        """Makes all threads wait."""
        if waited > LONGEST_WAIT_SECONDS:
            raise UserError(f"the server asks to wait {seconds / 60:.0f} minutes ({error}); run the same command again "
                            "after that: finished files are kept") from error
        with self._lock:
            until = time.monotonic() + seconds
            if until > self._not_before + 1:  # one message, not a message from every thread
                log.say(f"the hub asks to wait {seconds:.0f} s ({error})")
            self._not_before = max(self._not_before, until)

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self.stop.wait(seconds)  # unlike a sleep, it ends immediately when the download stops


def may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed: after an error of the network or the server, not after a refusal."""
    if isinstance(error, HttpError):
        return error.status >= 500 or error.status in (408, 425, 429)  # timeout, too early, too many requests
    names = {kind.__name__ for kind in type(error).__mro__}  # huggingface_hub 1 uses httpx, 2 uses httpx2
    is_network = bool(names & {"TransportError", "ConnectionError", "TimeoutError"})
    return isinstance(error, BadContent) or is_network and not names & {"UnsupportedProtocol", "LocalProtocolError"}


def asked_wait(error: Exception) -> float | None:
    """The seconds that the server asks to wait: Retry-After as a number or a date, or the hub's RateLimit header."""
    if not isinstance(error, HttpError) or error.status not in (429, 503):
        return None
    asked = error.headers.get("Retry-After", "").strip()
    if asked.isdigit():
        return max(1.0, float(asked))
    try:
        now = error.headers.get("Date")  # the server's clock: ours may be wrong
        start = email.utils.parsedate_to_datetime(now).timestamp() if now else time.time()
        return max(1.0, email.utils.parsedate_to_datetime(asked).timestamp() - start)
    except ValueError:
        limit = re.search(r"\bt=(\d+)", error.headers.get("RateLimit", ""))
        return max(1.0, float(limit[1])) if limit else None


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def get(url: str, with_token: bool = True, **settings: Any) -> contextlib.AbstractContextManager[Any]:
    """The response to a GET, whose body is read as a stream. The client takes proxies from the environment, and the
    token from HF_TOKEN or `hf auth login`; other servers than the hub must not get it."""
    from huggingface_hub import get_session  # imported here: a complete folder needs neither it nor a network
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not in __all__
    # No compression: a range counts the bytes of the file.
    headers = {**build_hf_headers(token=None if with_token else False), "Accept-Encoding": "identity",
               **settings.pop("headers", {})}
    response: contextlib.AbstractContextManager[Any] = get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT_SECONDS, **settings)
    return response


def file_size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # not asked beforehand: another thread may rename it in between
        return path.stat().st_size
    return 0


def fetch(url: str, partial: Path, attempts: Attempts, check: Callable[[Path, int], None], num_bytes: int = 0,
          with_token: bool = True) -> None:
    """The file at `url`, complete and checked, as `partial`. `num_bytes` 0 means unknown. `check` gets the file and
    its size as the hub or the server states it, and raises BadContent for a file that is not the announced one."""
    def attempt() -> None:
        have, stated = file_size(partial), 0
        if not num_bytes or have < num_bytes:  # otherwise all bytes are there: a kill came before the renaming
            stated = _append(url, partial, have, attempts.stop, with_token)
        check(partial, num_bytes or stated)

    partial.parent.mkdir(parents=True, exist_ok=True)
    attempts.run(partial.name, attempt, ATTEMPTS, lambda: file_size(partial))


def _append(url: str, partial: Path, have: int, stop: Event, with_token: bool) -> int:
    """Appends the bytes from `have` on; the size that the server states for the whole file, 0 = none.

    Bytes that arrived before an error are kept. A server that knows no ranges sends the whole file again.
    """
    with get(url, with_token, headers={"Range": f"bytes={have}-"} if have else {}) as response:
        start, total = _content_range(response)
        if response.status_code == 416 and total == have > 0:
            return total  # nothing was missing: we only learn the size
        if response.status_code == 416 or response.status_code == 206 and start != have:
            partial.unlink(missing_ok=True)
            raise BadContent(f"the server sent a wrong range (HTTP {response.status_code})")
        if response.status_code not in (200, 206):
            raise HttpError(response)
        if "text/html" in response.headers.get("Content-Type", ""):
            raise BadContent("the server sent a web page, not the file; does the network ask for a login?")
        if response.status_code == 200 and "Content-Encoding" not in response.headers:  # else it is the packed size
            total = int(response.headers.get("Content-Length", 0))
        _write(response.iter_bytes(), partial, response.status_code == 206, stop)
    return total


def _write(chunks: Iterator[bytes], partial: Path, append: bool, stop: Event) -> None:
    with partial.open("ab" if append else "wb") as out:
        for chunk in chunks:
            out.write(chunk)
            if stop.is_set():
                raise UserError("interrupted")


def _content_range(response: Any) -> tuple[int, int]:
    """(first byte, size of the whole file) of `bytes 5-9/10`; −1 and 0 where the server does not say."""
    match = re.match(r"bytes (?:(\d+)-\d*|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not match:
        return -1, 0
    return int(match[1] or -1), int(match[2]) if match[2].isdigit() else 0


def check_parquet(partial: Path, num_bytes: int, sha256: str) -> None:
    """The `check` of a Parquet file; 0 and "" mean unknown. A file that only lacks its end is kept, else removed."""
    size = file_size(partial)
    with partial.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
        if is_parquet and size < num_bytes:  # a beginning that is right is worth keeping
            raise BadContent(f"the connection ended after {size:,} of {num_bytes:,} bytes")
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest() if sha256 else ""
    if shards.is_lfs_pointer(partial):
        problem = "the server sent a Git LFS pointer, not the data; set HF_ENDPOINT to another server"
    elif num_bytes and size != num_bytes or digest != sha256:
        problem = "size or SHA-256 differs from the announcement of the hub"
    else:
        try:
            shards.open_parquet(partial).close()
            return
        except UserError as error:
            problem = f"the server sent a file that is not Parquet ({shards.first_line(error.__cause__ or error)})"
    partial.unlink()  # otherwise the next attempt would append to wrong bytes
    raise BadContent(problem)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds the folder for this process. A second process waits, and then finds every file complete."""
    folder.mkdir(parents=True, exist_ok=True)  # the lock is on the folder itself, so no lock file is left
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # without waiting, so that a wait can be announced
        except BlockingIOError:
            log.say(f"another process is fetching into {folder}; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # NFS and others: no lock on a folder
            pass
        yield
    finally:
        os.close(descriptor)  # this releases the lock, as the end of a killed process does
