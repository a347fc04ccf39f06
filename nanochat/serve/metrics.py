"""The server's counters, in Prometheus's format at /metrics."""

from collections.abc import Callable, Iterable

import prometheus_client as prometheus

from nanochat.serve.worker import Worker

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)  # upper limits of the histograms' buckets


class Metrics:
    """Requests by route and status; times; and gauges, which are read from the engines at each request of /metrics."""

    def __init__(self, workers: Callable[[], Iterable[Worker]]):
        self.registry = prometheus.CollectorRegistry()  # the default one is shared by all servers of a process
        self.requests = prometheus.Counter("nanochat_requests", "HTTP requests that ended", ["route", "status"],
                                           registry=self.registry)
        self.first_token = prometheus.Histogram("nanochat_time_to_first_token_seconds", "From request to first token",
                                                buckets=SECONDS, registry=self.registry)
        self.whole = prometheus.Histogram("nanochat_request_seconds", "From request to end of the answer",
                                          buckets=SECONDS, registry=self.registry)

        def gauge(name: str, description: str, read: Callable[[Worker], float]) -> None:
            new = prometheus.Gauge(f"nanochat_{name}", description, registry=self.registry)
            new.set_function(lambda: sum(map(read, workers())))

        gauge("running", "Requests being answered", lambda worker: worker.num_running)
        gauge("open", "Requests being answered or waiting", lambda worker: worker.num_open)
        gauge("generated_tokens", "Tokens generated since the start", lambda worker: worker.num_tokens)
        gauge("prompt_tokens", "Prompt tokens read since the start", lambda worker: worker.engine.num_prompt_tokens)
        gauge("reused_tokens", "Prompt tokens that another request had read",
              lambda worker: worker.engine.slots.num_reused_tokens)

    def text(self) -> bytes:
        return prometheus.generate_latest(self.registry)
