"""What stands before the routes: the API key, the size of bodies, how often a client may ask, and the counting."""

import hmac
import time

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from nanochat.serve import openai
from nanochat.serve.metrics import Metrics

MAX_BODY_BYTES = 1 << 20  # 32,000 characters written as \uXXXX are 192 kB
DRAINED_BYTES = 8 << 20  # of a body that is too long are read: a client that still writes does not read the answer
GUARDED = ("/v1/", "/chat/", "/metrics", "/stats", "/tokenize", "/detokenize")  # the page itself tells nothing


class Guard:
    """ASGI middleware. `key` "" = everybody may; `requests_per_minute` 0 = as often as they like."""

    def __init__(self, app, metrics: Metrics, key: str = "", requests_per_minute: float = 0):
        self.app, self.metrics, self.key, self.rate = app, metrics, key, requests_per_minute
        self.clients: dict[str, tuple[float, float]] = {}  # address → (requests it may still make, as of when)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        num_bytes, status = 0, 499  # left before there was an answer

        async def limited() -> dict:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > MAX_BODY_BYTES:
                while message.get("more_body") and num_bytes < DRAINED_BYTES:
                    message = await receive()
                    num_bytes += len(message.get("body", b""))
                raise HTTPException(413, f"the body has more than {MAX_BODY_BYTES:,} bytes")
            return message

        async def counted(message: dict) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        refusal = self.refusal(scope)
        try:
            await (refusal or self.app)(scope, limited, counted)
        finally:
            route = getattr(scope.get("route"), "path", "") or "other"  # the template: few values, whatever is asked
            self.metrics.requests.labels(route, status).inc()

    def refusal(self, scope) -> JSONResponse | None:
        """The answer to a client that may not ask, or not now."""
        if not scope["path"].startswith(GUARDED) or scope["method"] == "OPTIONS":
            return None
        given = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(given.encode("latin-1"), self.key.encode()):
            return JSONResponse(openai.error("this server wants its API key: Authorization: Bearer …",
                                             code="invalid_api_key"), 401, {"WWW-Authenticate": "Bearer"})
        if self.rate and scope["method"] == "POST" and (seconds := self._wait(scope["client"][0])) > 0:
            return JSONResponse(openai.error(
                f"more than {self.rate:g} requests a minute; try again in {seconds:.0f} s", "rate_limit_error",
                code="rate_limit_exceeded"), 429, {"Retry-After": f"{seconds:.0f}"})
        return None

    def _wait(self, client: str) -> float:
        """Seconds this client has to wait, 0 = none; a minute's worth may come at once (a token bucket)."""
        now = time.monotonic()
        if len(self.clients) > 10_000:  # full again by now: as good as new
            self.clients = {one: seen for one, seen in self.clients.items() if now - seen[1] < 60}
        left, since = self.clients.get(client, (self.rate, now))
        left = min(self.rate, left + (now - since) * self.rate / 60)
        self.clients[client] = (max(left - 1, 0.0) if left >= 1 else left, now)
        return 0.0 if left >= 1 else max(1.0, (1 - left) * 60 / self.rate)
