"""Errors in OpenAI's format, for everything that a client can cause; the message says what to send instead."""

import json
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from nanochat.serve.worker import Failed
from nanochat.system.files import UserError

# How /openapi.json describes errors: the page reads it, and tests compare the answers with it.
DESCRIPTION = {"description": "what was wrong", "content": {"application/json": {"schema": {
    "type": "object", "required": ["error"], "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code"]}}}}}}
# A step of an error's path that names one of a field's types: "str", "list[Part]", "function-before[…]".
TYPE = re.compile(r"^(str|int|float|bool)$|^[a-z-]+\[")


class Json(JSONResponse):
    """JSON of any text: an unpaired surrogate of the request, which UTF-8 cannot encode, is returned as \\ud83e."""

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode(errors="backslashreplace")


def body(message: str, kind: str = "invalid_request_error", param: str | None = None,
         code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def of_answer(error: Exception) -> dict[str, Any]:
    """The body of an answer that failed."""
    if not isinstance(error, Failed):
        return body(f"the model failed: {error}", "server_error")
    kind = "rate_limit_error" if error.status == 429 else "server_error"
    return body(str(error), kind if error.status >= 429 else "invalid_request_error", code=error.code)


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind in (Failed, UserError, HTTPException, Exception):  # Exception: our own bugs too, in OpenAI's format
        app.add_exception_handler(kind, _refusal)


def _refusal(request: Request, error: Exception) -> Json:
    """The answer to a request that raised an error before its first byte was sent."""
    if isinstance(error, UserError):  # here it always means that a prompt does not fit into the context
        return Json(body(str(error), param="messages", code="context_length_exceeded"), 400)
    if isinstance(error, HTTPException):
        detail = f"this path takes {(error.headers or {}).get('Allow')}" if error.status_code == 405 else error.detail
        message = f"{request.method} {request.url.path[:100]}: {detail}"
        if "parsing the body" in message:  # FastAPI's words for a body that it cannot decode
            message = "the body is not JSON that this server can read; send UTF-8 text that is not compressed"
        return Json(body(message), error.status_code, error.headers)
    status = error.status if isinstance(error, Failed) else 500
    return Json(of_answer(error), status, {"Retry-After": "1"} if status in (429, 503) else None)


def _invalid(request: Request, error: Exception) -> Json:
    """The answer to a body that the models of openai.py reject: it names the field."""
    assert isinstance(error, RequestValidationError)
    # A field of several types has an error for each type. The longest path belongs to the type that the client meant.
    first = max(error.errors(), key=lambda one: len(one["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    where = ".".join(str(step) for step in first["loc"] if step != "body" and not TYPE.search(str(step)))
    if first["type"] == "json_invalid":
        message, where = f"the body is not JSON: {first['ctx']['error']} at character {where}", ""
    elif not where and "json" not in request.headers.get("content-type", ""):
        message = "the body is not read as JSON; send the header Content-Type: application/json"
    elif not where and first["type"] in ("missing", "model_attributes_type"):
        message = 'a JSON object is required as the body, such as {"messages": [{"role": "user", "content": "Hello"}]}'
    return Json(body(f"{where}: {message}" if where else message, param=where or None), 400)
