"""Signals that ask a training run to stop: the run finishes the step, saves it and ends, so that no work is lost.

    with Stop() as stop:
        …
        if stop.asked: …

A signal that is ignored at the start stays ignored: nohup ignores SIGHUP, a shell the SIGINT of a background job.
"""
import signal
import sys
import time
from types import FrameType

from nanochat.system import log

# SIGHUP: the terminal was closed. SIGUSR1, SIGXCPU: a batch system's warning that the time is nearly over.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
# The terminal sends a signal to all processes and a launcher sends it again, so one request often arrives twice.
SAME_REQUEST_SECONDS = 1.0


class Stop:
    """Handles these signals inside its `with` block; a second request ends the process immediately."""

    def __enter__(self) -> "Stop":
        self.asked, self.asked_at = False, 0.0
        self.terminals = [stream for stream in (sys.stdout, sys.stderr) if stream and stream.isatty()]
        self.previous = {number: signal.signal(number, self._ask) for number in SIGNALS
                         if signal.getsignal(number) != signal.SIG_IGN}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        for stream in self.terminals:
            if not stream.isatty():  # the terminal was closed, so writing to it would fail
                log.silence(stream)
        if self.asked and time.monotonic() - self.asked_at > SAME_REQUEST_SECONDS:  # the second Ctrl-C
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.asked_at = True, time.monotonic()

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
