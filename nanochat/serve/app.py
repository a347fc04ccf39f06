"""The HTTP side: routes, streams, errors. Everything a client can do wrong ends in an OpenAI-shaped error."""

import json
import random
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from nanochat.infer import Event
from nanochat.infer.context import fit_prompt
from nanochat.serve import openai
from nanochat.serve.openai import ChatRequest
from nanochat.serve.worker import Busy, Job, Worker
from nanochat.system.files import UserError

PAGE_HEADERS = {  # model output is hostile: no script, style, image or connection but the page's own
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}


@dataclass(frozen=True)
class Defaults:
    """What a request gets that says nothing; the flags of scripts/chat_web.py."""

    temperature: float = 0.8
    top_k: int = 50
    max_tokens: int = 512


class ApiError(Exception):
    """An answer other than 200; `fields` as in openai.error."""

    def __init__(self, status: int, message: str, **fields):
        self.status, self.body = status, openai.error(message, **fields)


class Page(StaticFiles):
    """The files of ui/, under a strict content security policy."""

    def file_response(self, *args, **kwargs):
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


class Stream(StreamingResponse):
    """Server-sent events of a job; however the response ends, begun or not, the job is closed."""

    def __init__(self, job: Job, chunks: AsyncIterator[str]):
        super().__init__(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self.job = job

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.job.close()


@dataclass
class Answer:
    """A request on its way: its job, and what the answer must mention."""

    model: str
    job: Job
    deltas: openai.Deltas
    dropped: int  # of the oldest messages, which did not fit
    include_usage: bool
    num_tokens: int = 0

    def __post_init__(self):
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.extra = {"nanochat": {"dropped_messages": self.dropped}} if self.dropped else {}

    def take(self, events: list[Event]) -> list[dict]:
        self.num_tokens += len(events)
        return [delta for delta in map(self.deltas.push, events) if delta]

    def usage(self) -> dict:
        return openai.usage(len(self.job.prompt), self.num_tokens)

    async def chunks(self) -> AsyncIterator[str]:
        """The stream. An error in the middle is an event, never a cut 200."""
        def send(delta: dict, finish_reason: str | None = None, **extra) -> str:
            return _sse(openai.chunk(self.id, self.model, delta, finish_reason, **extra))

        yield send({"role": "assistant", "content": ""}, **self.extra)
        try:
            async for events in self.job.events():
                for delta in self.take(events):
                    yield send(delta)
            yield send({}, events[-1].stop_reason)
        except Exception as error:
            yield _sse(openai.error(f"the model failed: {error}", "server_error"))
        if self.include_usage:
            yield _sse({**openai.chunk(self.id, self.model, {}), "choices": [], "usage": self.usage()})
        yield "data: [DONE]\n\n"

    async def original_chunks(self) -> AsyncIterator[str]:
        """The stream of the original's /chat/completions: {"token": text, "gpu": 0} … {"done": true}."""
        async for events in self.job.events():
            for event in events:
                if event.text and event.kind == "text":
                    yield _sse({"token": event.text, "gpu": 0})
        yield _sse({"done": True})

    async def whole(self, request: Request) -> dict:
        """The answer in one piece; given up when the client leaves."""
        deltas: list[dict] = []
        try:
            async for events in self.job.events():
                deltas += self.take(events)
                if await request.is_disconnected():
                    raise ApiError(499, "the client left")
        finally:
            self.job.close()
        return openai.completion(self.id, self.model, deltas, events[-1].stop_reason, self.usage(), **self.extra)


def create_app(workers: list[Worker], model: str, defaults: Defaults) -> FastAPI:
    """The application: one worker per model replica; `model` is the name clients see."""
    app = FastAPI(title="nanochat", docs_url=None, redoc_url=None)  # both would load scripts from a CDN
    tokenizer, config = workers[0].engine.tokenizer, workers[0].engine.config
    about = {"id": model, "object": "model", "created": 0, "owned_by": "nanochat", "nanochat": {
        "context_tokens": config.sequence_len, "temperature": defaults.temperature, "top_k": defaults.top_k,
        "max_tokens": defaults.max_tokens}}

    def open_answer(body: ChatRequest) -> Answer:
        max_tokens = body.max_completion_tokens or body.max_tokens or defaults.max_tokens
        prompt, dropped = fit_prompt(tokenizer, body.conversation(), config.sequence_len, max_tokens)
        job = min(workers, key=lambda one: len(one.open)).submit(
            prompt, max_tokens=max_tokens, top_k=body.top_k or defaults.top_k,
            temperature=defaults.temperature if body.temperature is None else body.temperature,
            seed=random.getrandbits(31) if body.seed is None else body.seed)
        return Answer(model, job, openai.Deltas(tokenizer.special_id("<|output_end|>")), dropped, body.wants_usage)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request):
        answer = open_answer(body)
        return Stream(answer.job, answer.chunks()) if body.stream else await answer.whole(request)

    @app.post("/chat/completions")
    async def original_chat_completions(body: ChatRequest):
        answer = open_answer(body)
        return Stream(answer.job, answer.original_chunks())

    @app.get("/v1/models")
    async def models():
        return {"object": "list", "data": [about]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str):
        if name != model:
            raise ApiError(404, f"there is no model {name!r}; this server has {model!r}", code="model_not_found")
        return about

    @app.get("/health")
    async def health():
        free = sum(len(worker.open) < worker.engine.max_rows for worker in workers)
        return {"status": "ok", "ready": True, "num_gpus": len(workers), "available_workers": free}

    @app.get("/stats")
    async def stats():
        return {"total_workers": len(workers), "workers": [
            {"gpu_id": number, "device": str(worker.engine.device), "open_requests": len(worker.open),
             "running": len(worker.engine.running), "tokens": worker.num_tokens}
            for number, worker in enumerate(workers)]}

    app.mount("/", Page(directory=Path(__file__).parent / "ui", html=True))
    app.add_exception_handler(ApiError, lambda _, error: JSONResponse(error.body, error.status))
    app.add_exception_handler(Busy, lambda _, error: JSONResponse(
        openai.error(str(error), "rate_limit_error", code="queue_full"), 429, {"Retry-After": "1"}))
    app.add_exception_handler(UserError, lambda _, error: JSONResponse(  # of fit_prompt
        openai.error(str(error), param="messages", code="context_length_exceeded"), 400))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, lambda request, error: JSONResponse(
        openai.error(f"{request.method} {request.url.path}: {error.detail}"), error.status_code, error.headers))
    app.add_exception_handler(Exception, lambda _, error: JSONResponse(
        openai.error(f"the model failed: {error}", "server_error"), 500))
    return app


def _sse(obj: dict) -> str:
    return f"data: {json.dumps(obj, ensure_ascii=False)}\n\n"


def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"] if step != "body")
    message = first["msg"].removeprefix("Value error, ")
    return JSONResponse(openai.error(f"{where}: {message}" if where else message, param=where or None), 400)
