"""The thread that owns an engine, and how the event loop talks to it.

The event loop puts jobs into an inbox. The thread empties it, cancels closed jobs, advances all running requests by one
token, and hands every job its new events with `call_soon_threadsafe`, at most every `SECONDS_BETWEEN_BATCHES`. Requests
of different clients share every step, so no client waits for another. A slow reader delays nobody: at most max_tokens
events wait in the queue of its job. A ModelCall is a job of another kind: a function that needs the engine's model.

When a step fails, for example because memory runs out, all requests that are running or waiting in the engine end with
the error, and the thread goes on: the cache grows completely or not at all (infer/cache.py), so later answers are
right. The step is not repeated with fewer rows, as in training; a server with a smaller --max_rows needs less memory.
"""

import asyncio
import queue
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from nanochat.infer import Engine, Event, Request, SamplingParams

Batch = list[tuple[int, Event]]  # (number of the request in its job, event), in the order of the requests
# Sending a chunk costs as much CPU time as a small model needs for a token. 40 chunks per second look smooth.
SECONDS_BETWEEN_BATCHES = 0.025


class Failed(Exception):
    """The reason why a request gets no answer, or a part only: a message, an HTTP status, and OpenAI's code."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


class Job:
    """`samples` answers to each of `prompts`, seen from the event loop. Its submitter must call `close()`."""

    def __init__(self, worker: "Worker", prompts: list[list[int]], samples: int, params: SamplingParams):
        self.worker, self.prompts, self.samples, self.params = worker, prompts, samples, params
        self.size = len(prompts) * samples  # requests
        self.requests: list[Request] = []  # all samples of the first prompt, then those of the second, …
        self.closed = False  # the thread reads this before every step
        self.delivered_at, self.num_ended = 0.0, 0  # the thread's: time of the last delivery; requests ended by then
        self._loop = asyncio.get_running_loop()
        self._deliveries: asyncio.Queue[Any] = asyncio.Queue()
        self._alarm = self._loop.call_later(worker.seconds, self.fail, Failed(
            504, f"the answer was not complete after {worker.seconds:g} seconds", "timeout"))

    async def events(self) -> AsyncIterator[Batch]:
        """The events of each step until all requests have ended."""
        num_open = self.size
        while num_open:
            batch = await self.delivery()
            yield batch
            num_open -= sum(bool(event.stop_reason) for _, event in batch)  # only a request's last event has a reason

    async def delivery(self) -> Any:
        """The thread's next delivery: a Batch, or the result of a ModelCall. Raises the engine's exception."""
        delivered = await self._deliveries.get()
        if isinstance(delivered, Exception):
            raise delivered
        return delivered

    def close(self) -> None:
        """Release the job's place in the queue; requests that still run are cancelled before the next step."""
        self.closed = True
        self._alarm.cancel()  # the alarm holds the job, and with it all its events
        self.worker.open.discard(self)

    def fail(self, error: Exception) -> None:
        """End the job early: the reader of the events gets the error. To be called on the event loop."""
        self.closed = True
        self._deliveries.put_nowait(error)

    def deliver(self, news: Any) -> None:
        """Hand over a Batch, the result of a ModelCall or an Exception. To be called by the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._deliveries.put_nowait, news)
        except RuntimeError:  # the event loop has closed, so nobody reads any more
            self.closed = True


class ModelCall(Job):
    """A function that the engine's thread calls between two steps; all running requests wait for it."""

    def __init__(self, worker: "Worker", function: Callable[[], Any]):
        super().__init__(worker, [], 0, SamplingParams())
        self.function, self.size = function, 1


class Worker:
    """One engine and its thread.

    It takes at most `max_waiting` requests beyond those that the engine runs at once. A job fails after `seconds`.
    `suggestions` are first questions that suit this model, for the chat page; `step` is that of its checkpoint.
    """

    def __init__(self, engine: Engine, max_waiting: int = 64, seconds: float = 600, suggestions: Sequence[str] = (),
                 step: int | None = None):
        self.suggestions, self.step = suggestions, step
        self.engine, self.max_open, self.seconds = engine, engine.max_rows + max_waiting, seconds
        self.open: set[Job] = set()  # only the event loop changes it
        self.live: list[Job] = []  # jobs with unfinished requests; only the thread changes it
        self.num_tokens = 0  # since the start
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None: stop
        # daemon: a thread in the middle of a step must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_open(self) -> int:
        """Requests of open jobs."""
        return sum(job.size for job in self.open)

    @property
    def num_running(self) -> int:
        """Requests that are being answered at this moment."""
        return sum(not request.stop_reason for request in self.engine.running)

    def submit(self, prompts: list[list[int]], samples: int, params: SamplingParams) -> Job:
        """Queue a job; fails if too many requests are open. To be called on the event loop."""
        return self._queue(Job(self, prompts, samples, params))

    async def call(self, function: Callable[[], Any]) -> Any:
        """The result of `function`, which the engine's thread calls; fails as `submit` does."""
        job = self._queue(ModelCall(self, function))
        try:
            return await job.delivery()
        finally:
            job.close()

    def _queue(self, job: Job) -> Job:
        # A worker without open jobs takes any job: otherwise a job larger than its limit could never run.
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
        """End the thread after its current step; after 5 s it is left to end with the process (it is a daemon)."""
        self._inbox.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            while not self.live or not self._inbox.empty():  # without live jobs the thread sleeps in get()
                job = self._inbox.get()
                if job is None:
                    return
                if not job.closed:
                    self._begin(job)
            self._advance()

    def _begin(self, job: Job) -> None:
        try:
            if isinstance(job, ModelCall):
                return job.deliver(job.function())
            for prompt in job.prompts:
                for sample in range(job.samples):
                    job.requests.append(self.engine.submit(prompt, job.params, sample=sample))
            self.live.append(job)
        except Exception as error:
            self._fail_jobs([job], error)

    def _advance(self) -> None:
        """One step for all requests. An exception in it fails all live jobs; the thread goes on."""
        for job in self.live:
            if job.closed:
                self._cancel(job)
        try:
            self.num_tokens += len(self.engine.step())
        except Exception as error:
            self._fail_jobs(self.live, error)
        now = time.monotonic()
        for job in self.live:
            num_ended = sum(bool(request.stop_reason) for request in job.requests)
            if num_ended == job.num_ended and now - job.delivered_at < SECONDS_BETWEEN_BATCHES:
                continue  # deliver when a request has ended, or when the time between two batches is over
            if batch := [(i, event) for i, request in enumerate(job.requests) for event in request.take_events()]:
                job.delivered_at, job.num_ended = now, num_ended
                job.deliver(batch)
        self.live = [job for job in self.live if any(not request.stop_reason for request in job.requests)]

    def _cancel(self, job: Job) -> None:
        for request in job.requests:
            self.engine.cancel(request)

    def _fail_jobs(self, jobs: list[Job], error: Exception) -> None:
        """After an error of the model, such as out of memory: print the traceback and send the error to the clients."""
        traceback.print_exc()
        for job in jobs:
            self._cancel(job)
            job.deliver(error)
