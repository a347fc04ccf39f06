"""Refuses requests that reach this machine under a foreign name (DNS rebinding).

A web page of evil.example may give its own name the address 127.0.0.1. The browser then takes our server for
evil.example and lets the page talk to it. The name stands in the Host header, so we answer to names of this machine
only. An IP address is no danger: nobody can make it lead elsewhere.
"""
import ipaddress

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


def is_local_name(host: str) -> bool:
    """
    >>> [is_local_name(host) for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:80", "evil.example")]
    [True, True, True, False]
    """
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]").rstrip(".").lower()
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")  # RFC 6761: such names are always this machine


class LocalNamesOnly:
    """ASGI middleware: 421 for a Host header that is neither `localhost` nor an IP address."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host", "localhost") if scope["type"] == "http" else "localhost"
        if is_local_name(host):
            return await self.app(scope, receive, send)
        message = (f"this server answers under the name localhost, not {host[:200]!r}; to let it answer to any, "
                   "start it with --host=127.0.0.1, or with an API key in NANOCHAT_API_KEY")
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "unknown_host"}
        await JSONResponse({"error": error}, 421)(scope, receive, send)
