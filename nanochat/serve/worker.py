"""The thread that owns an engine, and how the event loop talks to it.

The event loop puts jobs into an inbox; the thread drains it, drops what was cancelled, advances all running requests by
one token, and hands each job its new events with `call_soon_threadsafe`. Requests of different clients share every
step (nanochat/infer/engine.py), so none waits for another. What waits for a slow reader is bounded by its max_tokens.
"""

import asyncio
import queue
import threading
import traceback
from collections.abc import AsyncIterator

from nanochat.infer import Engine, Event, EventReader, Request


class Busy(Exception):
    """As many requests are open as the worker takes."""


class Job:
    """One request, seen from the event loop. Whoever submitted it calls `close()`, finished or not."""

    def __init__(self, worker: "Worker", prompt: list[int], settings: dict):
        self.worker, self.prompt, self.settings = worker, prompt, settings
        self.closed = False  # read by the thread before every step
        self._loop, self._batches = asyncio.get_running_loop(), asyncio.Queue()

    async def events(self) -> AsyncIterator[list[Event]]:
        """The events of each step; the last one has a stop_reason. Raises what the engine raised."""
        while True:
            batch = await self._batches.get()
            if isinstance(batch, Exception):
                raise batch
            yield batch
            if batch[-1].stop_reason:
                return

    def close(self) -> None:
        """Give the place back; a request still running is cancelled within a step."""
        self.closed = True
        self.worker.open.discard(self)

    def deliver(self, batch: list[Event] | Exception) -> None:
        """Called by the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._batches.put_nowait, batch)
        except RuntimeError:  # the event loop has closed: nobody is left to read
            self.closed = True


class Worker:
    """One engine and its thread; takes at most `max_waiting` requests beyond those the engine runs at once."""

    def __init__(self, engine: Engine, max_waiting: int = 64):
        self.engine, self.max_open = engine, engine.max_rows + max_waiting
        self.open: set[Job] = set()  # touched by the event loop only
        self.num_tokens = 0  # since the start
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._live: list[tuple[Job, Request, EventReader]] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: list[int], **settings) -> Job:
        """Queue a request (`settings` as in Engine.submit); Busy when too many are open. Call it on the event loop."""
        if len(self.open) >= self.max_open:
            raise Busy(f"{len(self.open)} requests are open already; try again in a moment")
        job = Job(self, prompt, settings)
        self.open.add(job)
        self._inbox.put(job)
        return job

    def stop(self) -> None:
        """End the thread after its current step."""
        self._inbox.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            while not self._live or not self._inbox.empty():  # nothing to do: sleep in get()
                job = self._inbox.get()
                if job is None:
                    return
                request = self.engine.submit(job.prompt, **job.settings)
                self._live.append((job, request, EventReader(self.engine.tokenizer, request)))
            self._advance()

    def _advance(self) -> None:
        """One step for everybody; an exception ends the requests it hit, not the thread."""
        for job, request, _ in self._live:
            if job.closed:
                self.engine.cancel(request)
        try:
            self.num_tokens += len(self.engine.step())
        except Exception as error:  # out of memory, a bug: the clients must hear of it
            traceback.print_exc()
            for job, request, _ in self._live:
                self.engine.cancel(request)
                job.deliver(error)
        for job, _, reader in self._live:
            if events := reader.read():
                job.deliver(events)
        self._live = [entry for entry in self._live if not entry[1].stop_reason]
