"""The layer before the routes: it checks the API key and the size of bodies, limits clients, and counts requests.

It protects every path except those in `open_paths`, so a new route is never open by accident. It also makes two things
easy for clients: HEAD is answered wherever GET is, and a body without a content type is read as JSON.
"""

import hmac
import ipaddress
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.serve import errors
from nanochat.serve.metrics import Metrics

DRAINED_BYTES = 8 << 20  # bytes read of a body that is too long: a client that is still sending reads no answer
MAX_CLIENTS = 10_000  # addresses that the rate limit remembers before it drops those without a recent request


class Guard:
    """ASGI middleware. `key` "" means that no key is required; `requests_per_minute` 0 means no rate limit.

    names: allowed host names of the Host header, in addition to IP addresses and localhost; () allows all names.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, open_paths: Collection[str], key: str = "",
                 requests_per_minute: float = 0, max_body_bytes: int = 1 << 20, names: Collection[str] = ()):
        self.app, self.metrics, self.open_paths, self.names = app, metrics, open_paths, names
        self.key, self.rate, self.max_body_bytes = key, requests_per_minute, max_body_bytes
        self.clients: dict[str, tuple[float, float]] = {}  # address → (requests it may still make, time of this count)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope = {**scope, "headers": with_content_type(scope)}
        if scope["method"] == "HEAD":  # uvicorn keeps the original method and sends no body
            scope["method"] = "GET"
        num_bytes, status = 0, 499  # 499: the client left before there was an answer
        announced = Headers(scope=scope).get("content-length", "")
        is_too_long = announced.isdecimal() and int(announced) > self.max_body_bytes  # if so, no part is kept

        async def receive_limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if is_too_long or num_bytes > self.max_body_bytes:
                while message.get("more_body") and num_bytes < DRAINED_BYTES:
                    message = await receive()
                    num_bytes += len(message.get("body", b""))
                raise HTTPException(413, f"the body has more than {self.max_body_bytes:,} bytes")
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
            # The route's template, not the path: otherwise every path that a client tries would become a time series.
            route = getattr(scope.get("route"), "path", "") or "other"
            self.metrics.requests.labels(route, status).inc()

    def refusal(self, scope: Scope) -> errors.Json | None:
        """The refusal of a request without the key, or of too many requests; None if the request may pass."""
        headers = Headers(scope=scope)
        name = host_name(headers.get("host", ""))
        if self.names and not is_this_machine(name) and name not in self.names:
            # A foreign web page can give its own host name this machine's address (DNS rebinding). The browser then
            # lets the page read the answers, but the Host header still has the page's host name.
            return errors.Json(errors.body(
                f"this server is not asked under the name {name!r}; ask localhost, or start chat_web with "
                f"--host_names={name}", code="unknown_host"), 403)
        if scope["path"] in self.open_paths:
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else scheme
        # compare_digest takes the same time wherever the keys differ, so the time says nothing about the key.
        if self.key and not hmac.compare_digest(given.encode("latin-1"), self.key.encode()):
            return errors.Json(errors.body("this server wants its API key: Authorization: Bearer …",
                                           code="invalid_api_key"), 401, {"WWW-Authenticate": "Bearer"})
        client = scope["client"][0] if scope["client"] else ""
        if self.rate and scope["method"] == "POST" and (seconds := self._seconds_to_wait(client)) > 0:
            return errors.Json(errors.body(
                f"more than {self.rate:g} requests a minute; try again in {seconds:.0f} s", "rate_limit_error",
                code="rate_limit_exceeded"), 429, {"Retry-After": f"{seconds:.0f}"})
        return None

    def _seconds_to_wait(self, client: str) -> float:
        """A token bucket: it holds the requests of one minute, which may come together, and refills steadily."""
        now = time.monotonic()
        if len(self.clients) > MAX_CLIENTS:  # after a minute a bucket is full again, as if the client were new
            self.clients = {address: bucket for address, bucket in self.clients.items() if now - bucket[1] < 60}
        left, since = self.clients.get(client, (self.rate, now))
        left = min(self.rate, left + (now - since) * self.rate / 60)
        may_ask = left >= 1
        self.clients[client] = (left - 1 if may_ask else left, now)
        return 0.0 if may_ask else max(1.0, (1 - left) * 60 / self.rate)


def host_name(host: str) -> str:
    """The name in a Host header: "Example.org:8000" → "example.org", "[::1]:80" → "::1"."""
    name = host[1:host.find("]")] if host.startswith("[") else host.partition(":")[0]
    return name.lower().rstrip(".")


def is_this_machine(name: str) -> bool:
    """Whether a name needs no name server, so that nobody can redirect it: an IP address, or localhost."""
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return name in ("", "localhost") or name.endswith(".localhost")


def with_content_type(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers, with JSON as the content type if the body has none, or has the one that `curl -d` sends.

    A request of a web page (it has an Origin) keeps its type: pages of other sites may send forms to this machine
    without asking, but JSON only after the server has allowed it (CORS).
    """
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    names = dict(headers)
    kind = names.get(b"content-type", b"application/x-www-form-urlencoded").partition(b";")[0]
    if b"origin" in names or kind not in (b"application/x-www-form-urlencoded", b"text/plain"):
        return headers
    others = [header for header in headers if header[0] != b"content-type"]
    return [*others, (b"content-type", b"application/json")]
