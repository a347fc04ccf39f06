"""The layer in front of the routes: it checks the API key and the size of bodies, limits clients, and counts requests.

It protects every path except those in `open_paths`, so a new route is never open by accident.
"""

import hmac
import time
from collections.abc import Collection

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.serve import openai
from nanochat.serve.metrics import Metrics

MAX_BODY_BYTES = 1 << 20  # the 32,000 characters that a request may hold take 192 kB if each is written as \uXXXX
DRAINED_BYTES = 8 << 20  # we read so much of a body that is too long: a client that still writes reads no answer
MAX_CLIENTS = 10_000  # addresses the rate limit remembers before it drops those that are at rest


class Guard:
    """ASGI middleware. `key` "" lets everybody in; `requests_per_minute` 0 means no rate limit."""

    def __init__(self, app: ASGIApp, metrics: Metrics, open_paths: Collection[str], key: str = "",
                 requests_per_minute: float = 0):
        self.app, self.metrics, self.open_paths = app, metrics, open_paths
        self.key, self.rate = key, requests_per_minute
        self.clients: dict[str, tuple[float, float]] = {}  # address → (requests it may still make, time of this count)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        num_bytes, status = 0, 499  # 499: the client left before there was an answer

        async def receive_limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > MAX_BODY_BYTES:
                while message.get("more_body") and num_bytes < DRAINED_BYTES:
                    message = await receive()
                    num_bytes += len(message.get("body", b""))
                raise HTTPException(413, f"the body has more than {MAX_BODY_BYTES:,} bytes")
            return message

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            await (self.refusal(scope) or self.app)(scope, receive_limited, send_counted)
        finally:
            # The route's template, not the path: else every path that somebody tries would become a new time series.
            route = getattr(scope.get("route"), "path", "") or "other"
            self.metrics.requests.labels(route, status).inc()

    def refusal(self, scope: Scope) -> JSONResponse | None:
        """The answer to a client without the key, or to one that asks too often; None if it may pass."""
        if scope["path"] in self.open_paths:
            return None
        given = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
        # compare_digest takes the same time wherever the keys differ, so the time tells nothing about the key.
        if self.key and not hmac.compare_digest(given.encode("latin-1"), self.key.encode()):
            return JSONResponse(openai.error("this server wants its API key: Authorization: Bearer …",
                                             code="invalid_api_key"), 401, {"WWW-Authenticate": "Bearer"})
        if self.rate and scope["method"] == "POST" and (seconds := self._seconds_to_wait(scope["client"][0])) > 0:
            return JSONResponse(openai.error(
                f"more than {self.rate:g} requests a minute; try again in {seconds:.0f} s", "rate_limit_error",
                code="rate_limit_exceeded"), 429, {"Retry-After": f"{seconds:.0f}"})
        return None

    def _seconds_to_wait(self, client: str) -> float:
        """A token bucket: it holds the requests of one minute, which may come at once, and refills steadily."""
        now = time.monotonic()
        if len(self.clients) > MAX_CLIENTS:  # after a minute a bucket is full again, as if the client were new
            self.clients = {address: bucket for address, bucket in self.clients.items() if now - bucket[1] < 60}
        left, since = self.clients.get(client, (self.rate, now))
        left = min(self.rate, left + (now - since) * self.rate / 60)
        may_ask = left >= 1
        self.clients[client] = (left - 1 if may_ask else left, now)
        return 0.0 if may_ask else max(1.0, (1 - left) * 60 / self.rate)
