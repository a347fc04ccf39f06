"""What the server counts, in Prometheus's format at /metrics."""

import prometheus_client as prometheus

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Requests by route and status; times; what the engines do, read from them when somebody asks."""

    def __init__(self, workers: list):
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter("nanochat_requests", "HTTP requests that ended", ["route", "status"],
                                           registry=self.registry)
        self.first_token = prometheus.Histogram("nanochat_time_to_first_token_seconds", "From request to first token",
                                                buckets=SECONDS, registry=self.registry)
        self.whole = prometheus.Histogram("nanochat_request_seconds", "From request to end of the answer",
                                          buckets=SECONDS, registry=self.registry)
        for name, about, read in (
                ("running", "Requests being answered", lambda one: one.num_running),
                ("open", "Requests being answered or waiting", lambda one: one.num_open),
                ("generated_tokens", "Tokens generated since the start", lambda one: one.num_tokens),
                ("prompt_tokens", "Prompt tokens read since the start", lambda one: one.engine.num_prompt_tokens),
                ("reused_tokens", "Prompt tokens that another request had read",
                 lambda one: one.engine.num_reused_tokens)):
            gauge = prometheus.Gauge(f"nanochat_{name}", about, registry=self.registry)
            gauge.set_function(lambda read=read: sum(map(read, workers)))

    def text(self) -> bytes:
        return prometheus.generate_latest(self.registry)
