"""The HTTP side: routes, streams, errors. Everything a client can do wrong ends in an OpenAI-shaped error."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from nanochat.infer.fit_prompt import fit_prompt
from nanochat.serve import openai
from nanochat.serve.guard import Guard
from nanochat.serve.metrics import Metrics
from nanochat.serve.openai import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest, Voice
from nanochat.serve.worker import Failed, Job, Worker
from nanochat.system.files import UserError
from nanochat.tokenizer import chat

PAGE_HEADERS = {  # model output is hostile: no script, style, image or connection but the page's own
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
ERROR = {"description": "what was wrong", "content": {"application/json": {"schema": {
    "type": "object", "required": ["error"], "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code"]}}}}}}
STREAMED = {200: {"content": {"text/event-stream": {}}}}  # for the description at /openapi.json
COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions


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
    voices: list[Voice]  # one per choice
    metrics: Metrics
    is_chat: bool = True
    hides_bos: bool = False  # <|bos|> was put before the client's text
    dropped: int = 0  # of the oldest messages, which did not fit
    include_usage: bool = False
    num_tokens: int = 0
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self):
        self.id = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.kind = "chat.completion" if self.is_chat else "text_completion"
        self.extra = {"nanochat": {"dropped_messages": self.dropped}} if self.dropped else {}

    async def deltas(self) -> AsyncIterator[tuple[Voice, dict]]:
        """What each choice gains, as it comes; {} when it has ended."""
        async for batch in self.job.events():
            if not self.num_tokens:
                self.metrics.first_token.observe(time.monotonic() - self.started)
            self.num_tokens += sum(event.token_id >= 0 for _, event in batch)
            for index, event in batch:
                if delta := self.voices[index].push(event):
                    yield self.voices[index], delta
                if event.stop_reason:
                    yield self.voices[index], {}
        self.metrics.whole.observe(time.monotonic() - self.started)

    def usage(self) -> dict:
        return openai.usage(sum(map(len, self.job.prompts)), self.num_tokens)

    async def chunks(self) -> AsyncIterator[str]:
        """The stream. An error in the middle is an event, never a cut 200."""
        kind = self.kind + ".chunk" if self.is_chat else self.kind
        choice = openai.chat_choice if self.is_chat else openai.text_choice

        def send(choices: list[dict], **extra) -> str:
            return f"data: {json.dumps(openai.envelope(self.id, kind, self.model, choices, **extra))}\n\n"

        if self.is_chat:
            yield send([choice(voice, {"role": "assistant", "content": ""}) for voice in self.voices], **self.extra)
        try:
            async for voice, delta in self.deltas():
                yield send([choice(voice, delta)])
            if self.include_usage:
                yield send([], usage=self.usage())
        except Exception as error:
            yield f"data: {json.dumps(_failure(error))}\n\n"
        yield "data: [DONE]\n\n"

    async def original_chunks(self) -> AsyncIterator[str]:
        """The stream of the original's /chat/completions: {"token": text, "gpu": 0} … {"done": true}."""
        async for _, delta in self.deltas():
            if "content" in delta:
                yield f"data: {json.dumps({'token': delta['content'], 'gpu': 0}, ensure_ascii=False)}\n\n"
        yield 'data: {"done": true}\n\n'

    async def whole(self, request: Request) -> dict:
        """The answer in one piece; given up when the client leaves."""
        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            self.job.fail(Failed(499, "the client left", "client_left"))

        said: list[list[dict]] = [[] for _ in self.voices]
        watcher = asyncio.create_task(watch())
        try:
            async for voice, delta in self.deltas():
                said[voice.index].append(delta)
        finally:
            watcher.cancel()
            self.job.close()
        make = openai.whole_message if self.is_chat else self._whole_text
        choices = [make(voice, deltas) for voice, deltas in zip(self.voices, said)]
        return openai.envelope(self.id, self.kind, self.model, choices, usage=self.usage(), **self.extra)

    def _whole_text(self, voice: Voice, deltas: list[dict]) -> dict:
        echoed, request = [], self.job.requests[voice.index]
        if self.job.settings["echo"]:
            echoed = list(zip_longest(request.prompt, [None, *request.prompt_logprobs]))[int(self.hides_bos):]
        return {"index": voice.index, "finish_reason": voice.finish_reason,
                "text": voice.tokenizer.decode([token for token, _ in echoed])
                + "".join(delta.get("content", "") for delta in deltas),
                "logprobs": None if request.logprobs is None else voice.text_logprobs(echoed)}


class Service:
    """The models that this server has, and how a request reaches one of them."""

    def __init__(self, models: dict[str, list[Worker]], defaults: Defaults):
        self.models, self.defaults = models, defaults
        self.workers = [worker for workers in models.values() for worker in workers]
        self.metrics = Metrics(self.workers)

    def about(self, name: str) -> dict:
        """A model as /v1/models lists it."""
        context = self.models[name][0].engine.config.sequence_len
        return {"id": name, "object": "model", "created": 0, "owned_by": "nanochat", "max_model_len": context,
                "nanochat": {"context_tokens": context, "temperature": self.defaults.temperature,
                             "top_k": self.defaults.top_k, "max_tokens": self.defaults.max_tokens}}

    def pick(self, name: str | None) -> tuple[str, Worker]:
        """The model of that name, else the first one; of its replicas the least busy."""
        name = name if name in self.models else next(iter(self.models))
        return name, min(self.models[name], key=lambda one: one.num_open)

    def submit(self, body: openai.Sampling, worker: Worker, prompts: list[list[int]], max_tokens: int) -> Job:
        """UserError where the engine cannot do what is asked."""
        said, vocab_size = body.settings(), worker.engine.config.vocab_size
        if unknown := [token for token in [*said.get("logit_bias", ()), *chain(*prompts)] if token >= vocab_size]:
            raise ApiError(400, f"there is no token {unknown[0]}; the model has {vocab_size:,}")
        settings = {"temperature": self.defaults.temperature, "top_k": self.defaults.top_k,
                    "seed": random.getrandbits(31), **said}
        return worker.submit(prompts, body.n or 1, max_tokens=max_tokens, **settings)

    def chat(self, body: ChatRequest) -> Answer:
        name, worker = self.pick(body.model)
        tokenizer = worker.engine.tokenizer
        max_tokens = body.max_completion_tokens or body.max_tokens or self.defaults.max_tokens
        prompt, dropped = fit_prompt(tokenizer, body.conversation(), worker.engine.config.sequence_len, max_tokens,
                                     go_on=body.goes_on)
        job = self.submit(body, worker, [prompt], max_tokens)
        return Answer(name, job, [Voice(tokenizer, i) for i in range(job.size)], self.metrics, dropped=dropped,
                      include_usage=body.wants_usage)

    def complete(self, body: CompletionRequest) -> Answer:
        name, worker = self.pick(body.model)
        tokenizer, context = worker.engine.tokenizer, worker.engine.config.sequence_len
        is_text = isinstance(body.prompts[0], str)
        prompts = [[tokenizer.bos_id, *tokenizer.encode(one)] if is_text else one for one in body.prompts]
        max_tokens = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
        if (longest := max(map(len, prompts))) + min(max_tokens, 1) > context:
            raise UserError(f"the prompt is {longest:,} tokens long, the model's context {context:,}; shorten it")
        job = self.submit(body, worker, prompts, max_tokens)
        return Answer(name, job, [Voice(tokenizer, i) for i in range(job.size)], self.metrics, is_chat=False,
                      hides_bos=is_text, include_usage=body.wants_usage)


def create_app(workers: list[Worker], model: str, defaults: Defaults, *, others: dict[str, list[Worker]] | None = None,
               key: str = "", requests_per_minute: float = 0, cors_origin: str = "") -> FastAPI:
    """The application: one worker per replica of `model`, the name clients see; `others` are more models to choose."""
    # No /docs: both of its pages would load scripts from a CDN.
    app = FastAPI(title="nanochat", docs_url=None, redoc_url=None, responses={"4XX": ERROR, "5XX": ERROR})
    service = Service({model: workers, **(others or {})}, defaults)
    app.add_middleware(Guard, metrics=service.metrics, key=key, requests_per_minute=requests_per_minute)
    if cors_origin:
        app.add_middleware(CORSMiddleware, allow_origins=[cors_origin], allow_methods=["*"], allow_headers=["*"])

    _answering(app, service)
    _telling(app, service, workers)
    app.mount("/", Page(directory=Path(__file__).parent / "ui", html=True))
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind in (ApiError, Failed, UserError, HTTPException, Exception):
        app.add_exception_handler(kind, _refusal)
    return app


def _answering(app: FastAPI, service: Service) -> None:
    """The routes on which the model speaks."""
    @app.post("/v1/chat/completions", responses=STREAMED)
    async def chat_completions(body: ChatRequest, request: Request):
        answer = service.chat(body)
        return Stream(answer.job, answer.chunks()) if body.stream else await answer.whole(request)

    @app.post("/v1/completions", responses=STREAMED)
    async def completions(body: CompletionRequest, request: Request):
        answer = service.complete(body)
        return Stream(answer.job, answer.chunks()) if body.stream else await answer.whole(request)

    @app.post("/chat/completions", responses=STREAMED)
    async def original_chat_completions(body: ChatRequest):
        answer = service.chat(body)
        return Stream(answer.job, answer.original_chunks())


def _telling(app: FastAPI, service: Service, workers: list[Worker]) -> None:
    """The routes that say what is here and how it fares; `workers` are those of the first model."""
    @app.get("/v1/models")
    async def models():
        return {"object": "list", "data": [service.about(name) for name in service.models]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str):
        if name not in service.models:
            raise ApiError(404, f"there is no model {name!r}; this server has {', '.join(service.models)}",
                           code="model_not_found")
        return service.about(name)

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest):
        engine = workers[0].engine
        if body.messages is not None:
            ids = chat.render_prompt(engine.tokenizer, {"messages": openai.turns(body.messages)})
        else:
            ids = [engine.tokenizer.bos_id] * body.add_special_tokens + engine.tokenizer.encode(body.prompt or "")
        return {"tokens": ids, "count": len(ids), "max_model_len": engine.config.sequence_len}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest):
        tokenizer = workers[0].engine.tokenizer
        if unknown := [token for token in body.tokens if token >= tokenizer.vocab_size]:
            raise ApiError(400, f"there is no token {unknown[0]}; the model has {tokenizer.vocab_size:,}")
        return {"prompt": tokenizer.decode(body.tokens)}

    @app.get("/health")
    async def health():
        free = sum(worker.num_open < worker.engine.max_rows for worker in workers)
        return {"status": "ok", "ready": True, "num_gpus": len(workers), "available_workers": free}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics():
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/stats")
    async def stats():
        return {"total_workers": len(service.workers), "workers": [
            {"gpu_id": number, "device": str(worker.engine.device), "open_requests": worker.num_open,
             "running": worker.num_running, "tokens": worker.num_tokens,
             "prompt_tokens": worker.engine.num_prompt_tokens, "reused_tokens": worker.engine.num_reused_tokens}
            for number, worker in enumerate(service.workers)]}


def _failure(error: Exception) -> dict:
    """What a client is told of an answer that failed."""
    if isinstance(error, Failed):
        kind = "rate_limit_error" if error.status == 429 else "server_error"
        return openai.error(str(error), kind, code=error.code)
    return openai.error(f"the model failed: {error}", "server_error")


def _refusal(request: Request, error: Exception) -> JSONResponse:
    headers = None
    if isinstance(error, ApiError):
        status, body = error.status, error.body
    elif isinstance(error, UserError):  # of a prompt that does not fit
        status, body = 400, openai.error(str(error), param="messages", code="context_length_exceeded")
    elif isinstance(error, HTTPException):
        status, headers = error.status_code, error.headers
        body = openai.error(f"{request.method} {request.url.path}: {error.detail}")
    else:
        status, body = getattr(error, "status", 500), _failure(error)
        headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse(body, status, headers)


def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"] if step != "body")
    message = first["msg"].removeprefix("Value error, ")
    return JSONResponse(openai.error(f"{where}: {message}" if where else message, param=where or None), 400)
