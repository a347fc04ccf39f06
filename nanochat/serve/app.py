"""The HTTP side of the server: routes, streams, errors. Every error that a client can cause has OpenAI's format."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from nanochat.infer import SamplingParams
from nanochat.infer.fit_prompt import fit_prompt
from nanochat.serve import openai
from nanochat.serve.guard import Guard
from nanochat.serve.metrics import Metrics
from nanochat.serve.openai import ChatRequest, Choice, CompletionRequest, DetokenizeRequest, TokenizeRequest
from nanochat.serve.worker import Failed, Job, Worker
from nanochat.system.files import UserError
from nanochat.tokenizer import chat

UI = Path(__file__).parent / "ui"
PAGE_HEADERS = {  # the page shows what a model wrote: it may load and run nothing but its own files
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
# How /openapi.json describes errors and streams: the page reads it, and tests compare the answers with it.
ERROR = {"description": "what was wrong", "content": {"application/json": {"schema": {
    "type": "object", "required": ["error"], "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code"]}}}}}}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions


class Page(StaticFiles):
    """The files of ui/, under a strict content security policy."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


class Stream(StreamingResponse):
    """The server-sent events of a job. The job is closed however the response ends, even if it never began."""

    def __init__(self, job: Job, chunks: AsyncIterator[str]):
        # no-store: neither a proxy nor the browser may keep what was said.
        super().__init__(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.job.close()


@dataclass
class RunningAnswer:
    """An answer that is being generated, and its two renderings: `chunks` of a stream, or the `whole`."""

    model: str
    job: Job
    metrics: Metrics
    is_chat: bool = True
    hides_bos: bool = False  # the server put <|bos|> in front of the client's text: `echo` must not show it
    num_dropped: int = 0  # old messages that did not fit the context
    include_usage: bool = False
    num_tokens: int = 0  # of all choices
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        tokenizer = self.job.worker.engine.tokenizer
        self.choices = [Choice(tokenizer, index) for index in range(self.job.size)]
        self.id = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.kind = "chat.completion" if self.is_chat else "text_completion"
        self.extra = {"nanochat": {"dropped_messages": self.num_dropped}} if self.num_dropped else {}

    async def deltas(self) -> AsyncIterator[tuple[Choice, dict[str, Any]]]:
        """What each choice gains, as it comes; {} when the choice has ended."""
        async for batch in self.job.events():
            if not self.num_tokens:  # this is the first batch
                self.metrics.first_token.observe(time.monotonic() - self.started)
            self.num_tokens += sum(event.token_id >= 0 for _, event in batch)  # −1: there was no room for any token
            for index, event in batch:
                choice = self.choices[index]
                if delta := choice.push(event):
                    yield choice, delta
                if event.stop_reason:
                    yield choice, {}
        self.metrics.whole.observe(time.monotonic() - self.started)

    def usage(self) -> dict[str, int]:
        num_prompt_tokens = sum(map(len, self.job.prompts))
        return {"prompt_tokens": num_prompt_tokens, "completion_tokens": self.num_tokens,
                "total_tokens": num_prompt_tokens + self.num_tokens}

    async def chunks(self) -> AsyncIterator[str]:
        """The lines of a stream. It has status 200 by now, so an error becomes an event of the stream."""
        kind = self.kind + ".chunk" if self.is_chat else self.kind

        def line(choices: list[dict[str, Any]], **extra: Any) -> str:
            return f"data: {json.dumps(openai.envelope(self.id, kind, self.model, choices, **extra))}\n\n"

        if self.is_chat:
            opening = {"role": "assistant", "content": ""}
            yield line([choice.chunk(opening, is_chat=True) for choice in self.choices], **self.extra)
        try:
            async for choice, delta in self.deltas():
                yield line([choice.chunk(delta, self.is_chat)])
            if self.include_usage:
                yield line([], usage=self.usage())
        except Exception as error:
            yield f"data: {json.dumps(_failure(error))}\n\n"
        yield "data: [DONE]\n\n"

    async def whole(self, request: Request) -> dict[str, Any]:
        """The whole answer at once; generating stops when the client leaves."""
        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            # 499 is nginx's number for it; nobody receives it, but the metrics count it.
            self.job.fail(Failed(499, "the client left", "client_left"))

        watcher = asyncio.create_task(watch())
        try:
            async for _ in self.deltas():  # the choices collect what they gain
                pass
        finally:
            watcher.cancel()
            self.job.close()
        with_logprobs = self.job.params.logprobs is not None
        choices = [choice.whole_chat() if self.is_chat else choice.whole_text(self._echoed(choice.index), with_logprobs)
                   for choice in self.choices]
        return openai.envelope(self.id, self.kind, self.model, choices, usage=self.usage(), **self.extra)

    def _echoed(self, index: int) -> list[openai.ScoredToken]:
        """The prompt's tokens with their log-probabilities, if the client wants to see them again."""
        if not self.job.params.echo:
            return []
        request = self.job.requests[index]  # its first token has no log-probability; without `logprobs` none has
        return list(zip_longest(request.prompt, [None, *request.prompt_logprobs]))[int(self.hides_bos):]


class Service:
    """The models that this server has, and how a request reaches one of them."""

    def __init__(self, models: dict[str, list[Worker]], defaults: SamplingParams):
        self.models, self.defaults = models, defaults
        self.metrics = Metrics([worker for workers in models.values() for worker in workers])

    def describe(self, name: str) -> dict[str, Any]:
        """A model as /v1/models lists it."""
        worker = self.models[name][0]
        context = worker.engine.config.sequence_len
        return {"id": name, "object": "model", "created": 0, "owned_by": "nanochat", "max_model_len": context,
                "nanochat": {"context_tokens": context, "temperature": self.defaults.temperature,
                             "top_k": self.defaults.top_k, "max_tokens": self.defaults.max_tokens,
                             "suggestions": list(worker.suggestions)}}

    def pick(self, name: str | None) -> tuple[str, Worker]:
        """The named model and the least busy of its replicas."""
        if name is None or name not in self.models:  # other clients send names such as gpt-4: answer all the same
            name = next(iter(self.models))
        return name, min(self.models[name], key=lambda worker: worker.num_open)

    def submit(self, body: openai.SamplingFields, worker: Worker, prompts: list[list[int]],
               params: SamplingParams) -> Job:
        check_tokens(chain(params.logit_bias or (), *prompts), worker.engine.config.vocab_size)
        if body.seed is None:  # else the same question would always get the same answer
            params = replace(params, seed=random.getrandbits(31))
        return worker.submit(prompts, body.n or 1, params)

    def chat(self, body: ChatRequest) -> RunningAnswer:
        name, worker = self.pick(body.model)
        engine, params = worker.engine, body.sampling_params(self.defaults)
        prompt, num_dropped = fit_prompt(engine.tokenizer, openai.to_turns(body.messages), engine.config.sequence_len,
                                         params.max_tokens, continues=body.continues)
        job = self.submit(body, worker, [prompt], params)
        return RunningAnswer(name, job, self.metrics, num_dropped=num_dropped, include_usage=body.wants_usage)

    def complete(self, body: CompletionRequest) -> RunningAnswer:
        name, worker = self.pick(body.model)
        engine, params = worker.engine, body.sampling_params(replace(self.defaults, max_tokens=COMPLETION_TOKENS))
        is_text, prompts = isinstance(body.prompts[0], str), body.prompts
        if is_text:
            prompts = [[engine.tokenizer.bos_id, *engine.tokenizer.encode(text)] for text in prompts]
        # A prompt that fills the context can be scored (max_tokens=0), but not continued.
        longest, context = max(map(len, prompts)), engine.config.sequence_len
        if longest + min(params.max_tokens, 1) > context:
            raise UserError(f"the prompt is {longest:,} tokens long, the model's context {context:,}; shorten it")
        job = self.submit(body, worker, prompts, params)
        return RunningAnswer(name, job, self.metrics, is_chat=False, hides_bos=is_text,
                             include_usage=body.wants_usage)


def create_app(models: dict[str, list[Worker]], defaults: SamplingParams, *, key: str = "",
               requests_per_minute: float = 0, cors_origin: str = "") -> FastAPI:
    """The application. `models`: the names that clients see, with a worker per replica; the first one is the default.

    `defaults` hold where a request says nothing. `key` "" means that everybody may ask.
    """
    # No /docs and /redoc: both pages would load scripts from another server.
    app = FastAPI(title="nanochat", docs_url=None, redoc_url=None, responses={"4XX": ERROR, "5XX": ERROR})
    service = Service(models, defaults)
    page_paths = {"/" + path.relative_to(UI).as_posix() for path in UI.rglob("*") if path.is_file()}
    app.add_middleware(Guard, metrics=service.metrics, open_paths={"/", "/health", *page_paths}, key=key,
                       requests_per_minute=requests_per_minute)
    if cors_origin:  # added last, so it runs first and answers browsers' preflight requests, which carry no key
        app.add_middleware(CORSMiddleware, allow_origins=[cors_origin], allow_methods=["*"], allow_headers=["*"])

    completion_routes(app, service)
    info_routes(app, service)
    app.mount("/", Page(directory=UI, html=True))  # after the routes, because it takes every path that is left
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind in (Failed, UserError, HTTPException, Exception):  # Exception: bugs too are told in OpenAI's format
        app.add_exception_handler(kind, _refusal)
    return app


def completion_routes(app: FastAPI, service: Service) -> None:
    """The routes on which the model writes. A new route needs no entry elsewhere: the guard protects it."""
    @app.post("/chat/completions", responses=STREAMED)  # for clients whose base URL lacks /v1
    @app.post("/v1/chat/completions", responses=STREAMED)
    async def chat_completions(body: ChatRequest, request: Request) -> Any:
        answer = service.chat(body)
        return Stream(answer.job, answer.chunks()) if body.stream else await answer.whole(request)

    @app.post("/v1/completions", responses=STREAMED)
    async def completions(body: CompletionRequest, request: Request) -> Any:
        answer = service.complete(body)
        return Stream(answer.job, answer.chunks()) if body.stream else await answer.whole(request)


def info_routes(app: FastAPI, service: Service) -> None:
    """The routes that describe the server and its models."""
    workers = next(iter(service.models.values()))  # of the default model

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.describe(name) for name in service.models]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        if name not in service.models:
            raise Failed(404, f"there is no model {name!r}; this server has {', '.join(service.models)}",
                         "model_not_found")
        return service.describe(name)

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        engine = workers[0].engine
        if body.messages is not None:
            ids = chat.render_prompt(engine.tokenizer, {"messages": openai.to_turns(body.messages)})
        else:
            ids = [engine.tokenizer.bos_id] * body.add_special_tokens + engine.tokenizer.encode(body.prompt or "")
        return {"tokens": ids, "count": len(ids), "max_model_len": engine.config.sequence_len}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, str]:
        tokenizer = workers[0].engine.tokenizer
        check_tokens(body.tokens, tokenizer.vocab_size)
        return {"prompt": tokenizer.decode(body.tokens)}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        num_free = sum(worker.num_open < worker.engine.max_rows for worker in workers)
        return {"status": "ok", "ready": True, "num_gpus": len(workers), "available_workers": num_free}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def check_tokens(tokens: Iterable[int], vocab_size: int) -> None:
    for token in tokens:  # an unknown token would fail inside the engine's step, for all clients at once
        if token >= vocab_size:
            raise Failed(400, f"there is no token {token}; the model has {vocab_size:,}")


def _failure(error: Exception) -> dict[str, Any]:
    """The body of an answer that failed."""
    if not isinstance(error, Failed):
        return openai.error(f"the model failed: {error}", "server_error")
    kind = "rate_limit_error" if error.status == 429 else "server_error"
    return openai.error(str(error), kind if error.status >= 429 else "invalid_request_error", code=error.code)


def _refusal(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that raised an error before its first byte was sent."""
    if isinstance(error, UserError):  # of a prompt that does not fit the context
        return JSONResponse(openai.error(str(error), param="messages", code="context_length_exceeded"), 400)
    if isinstance(error, HTTPException):
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(openai.error(message), error.status_code, error.headers)
    status = error.status if isinstance(error, Failed) else 500
    return JSONResponse(_failure(error), status, {"Retry-After": "1"} if status in (429, 503) else None)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    """The answer to a body that the models of openai.py reject: it names the field."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"] if step != "body")
    message = first["msg"].removeprefix("Value error, ")
    return JSONResponse(openai.error(f"{where}: {message}" if where else message, param=where or None), 400)
