"""Signals that ask a training run to stop: it finishes the step, saves it and ends, so that no work is lost.

    with Stop() as stop:
        …
        if stop.asked: …

A signal that is ignored from the start stays ignored: nohup does so with SIGHUP, a shell with the
SIGINT of a background job.
"""
import signal
import sys
import time

from nanochat.system import log

# SIGHUP: the terminal was closed. SIGUSR1, SIGXCPU: a batch system's warning that the time is nearly over.
NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGXCPU")
# A launcher passes on what the terminal has sent to everybody already, so that a signal often comes twice at once.
SAME_REQUEST_SECONDS = 1.0


class Stop:
    def __enter__(self) -> "Stop":
        self.asked, self.asked_at = False, 0.0
        self.terminals = [stream for stream in (sys.stdout, sys.stderr) if stream and stream.isatty()]
        known = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        self.previous = {number: signal.signal(number, self._ask) for number in known
                         if signal.getsignal(number) != signal.SIG_IGN}
        return self

    def _ask(self, number: int, _: object) -> None:
        for stream in self.terminals:
            if not stream.isatty():  # closed since: writing to it would fail
                log.silence(stream)
        if self.asked and time.monotonic() - self.asked_at > SAME_REQUEST_SECONDS:  # the user does not want to wait
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.asked_at = True, time.monotonic()

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
