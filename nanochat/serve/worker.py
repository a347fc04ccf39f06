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

from nanochat.infer import Engine, Event, Request


class Failed(Exception):
    """Why a job got no (whole) answer: an HTTP status, and OpenAI's code."""

    def __init__(self, status: int, message: str, code: str):
        super().__init__(message)
        self.status, self.code = status, code


class Job:
    """`samples` answers to each of `prompts`, seen from the event loop; whoever submitted it calls `close()`."""

    def __init__(self, worker: "Worker", prompts: list[list[int]], samples: int, settings: dict):
        self.worker, self.prompts, self.samples, self.settings = worker, prompts, samples, settings
        self.requests: list[Request] = []  # of the engine: all samples of the first prompt, then of the second, …
        self.closed = False  # read by the thread before every step
        self._loop, self._batches = asyncio.get_running_loop(), asyncio.Queue()
        self._alarm = self._loop.call_later(worker.seconds, self.fail, Failed(
            504, f"the answer was not complete after {worker.seconds:g} seconds", "timeout"))

    @property
    def size(self) -> int:
        return len(self.prompts) * self.samples

    async def events(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """(number of the request, event), a step at a time, until all have ended. Raises what the engine raised."""
        num_open = self.size
        while num_open:
            batch = await self._batches.get()
            if isinstance(batch, Exception):
                raise batch
            yield batch
            num_open -= sum(bool(event.stop_reason) for _, event in batch)

    def close(self) -> None:
        """Give the place back; a request still running is cancelled within a step."""
        self.closed = True
        self._alarm.cancel()
        self.worker.open.discard(self)

    def fail(self, error: Exception) -> None:
        """End it early: whoever reads the events gets the error. Call it on the event loop."""
        self.closed = True
        self._batches.put_nowait(error)

    def deliver(self, batch: list[tuple[int, Event]] | Exception) -> None:
        """Called by the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._batches.put_nowait, batch)
        except RuntimeError:  # the event loop has closed: nobody is left to read
            self.closed = True


class Worker:
    """One engine and its thread; takes at most `max_waiting` requests beyond those the engine runs at once.

    A job that is not complete after `seconds` fails.
    """

    def __init__(self, engine: Engine, max_waiting: int = 64, seconds: float = 600):
        self.engine, self.max_open, self.seconds = engine, engine.max_rows + max_waiting, seconds
        self.open: set[Job] = set()  # touched by the event loop only
        self.num_tokens = 0  # since the start
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._live: list[Job] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_open(self) -> int:
        """Requests that have not ended."""
        return sum(job.size for job in self.open)

    @property
    def num_running(self) -> int:
        """Requests being answered at this moment."""
        return sum(not row.stop_reason for row in self.engine.running)

    def submit(self, prompts: list[list[int]], samples: int = 1, **settings) -> Job:
        """Queue requests (`settings` as in Engine.submit); fails when too many are open. Call it on the event loop."""
        job = Job(self, prompts, samples, settings)
        if self.open and self.num_open + job.size > self.max_open:
            job.close()
            raise Failed(429, f"{self.num_open} requests are open already; try again in a moment", "queue_full")
        self.open.add(job)
        self._inbox.put(job)
        return job

    def fail_all(self, error: Exception) -> None:
        for job in self.open:
            job.fail(error)

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
                if not job.closed:
                    self._begin(job)
            self._advance()

    def _begin(self, job: Job) -> None:
        try:
            for prompt in job.prompts:
                for sample in range(job.samples):
                    job.requests.append(self.engine.submit(prompt, **job.settings, sample=sample))
            self._live.append(job)
        except Exception as error:
            self._give_up([job], error)

    def _give_up(self, jobs: list[Job], error: Exception) -> None:
        """Out of memory, a bug: the clients must hear of it."""
        traceback.print_exc()
        for job in jobs:
            for request in job.requests:
                self.engine.cancel(request)
            job.deliver(error)

    def _advance(self) -> None:
        """One step for everybody; an exception ends the requests it hit, not the thread."""
        for request in (request for job in self._live if job.closed for request in job.requests):
            self.engine.cancel(request)
        try:
            self.num_tokens += len(self.engine.step())
        except Exception as error:
            self._give_up(self._live, error)
        for job in self._live:
            if batch := [(i, event) for i, request in enumerate(job.requests) for event in request.take_events()]:
                job.deliver(batch)
        self._live = [job for job in self._live if any(not request.stop_reason for request in job.requests)]
