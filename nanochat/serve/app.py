"""The HTTP side of the server: the routes, and how a request reaches a model."""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from nanochat import model_card
from nanochat.infer import Engine, SamplingParams
from nanochat.infer.fit_prompt import fit_prompt, take_turns
from nanochat.infer.json_grammar import Grammar
from nanochat.serve import errors, inside
from nanochat.serve.answers import RunningAnswer, Stream
from nanochat.serve.guard import Guard
from nanochat.serve.live import LiveModels
from nanochat.serve.metrics import Metrics
from nanochat.serve.openai import (
    MAX_PROMPTS,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    SamplingFields,
    TokenizeRequest,
    to_conversation,
)
from nanochat.serve.run_view import Runs
from nanochat.serve.worker import Failed, Job, Worker
from nanochat.system import paths
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer, chat
from nanochat.tokenizer.bpe import CONFIG

UI = Path(__file__).parent / "ui"
PAGE_HEADERS = {  # the page shows the text of a model, so the browser may load and run only the page's own files
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
# report.html has its style sheet and its figures inside, and no script.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; sandbox"
# How /openapi.json describes streams.
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions
# The largest body: a batch of prompts that fill the context, as ids ("12345, "), but at least 4 MiB for conversations.
MIN_BODY_BYTES, BYTES_PER_ID = 4 << 20, 8


class Page(StaticFiles):
    """The files of ui/, under a strict content security policy. It serves every path that is not a route."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        try:
            return await super().get_response(path, scope)
        except HTTPException:  # 404, or 405 for a POST, because a file can only be read
            known = ", ".join(f"{method} {route.path}" for route in scope["app"].routes if isinstance(route, APIRoute)
                              for method in route.methods or () if route.path.startswith("/v1"))
            raise HTTPException(404, "not found; the base URL for clients ends in /v1, and this server has "
                                     f"{known}") from None


class Service:
    """The models that this server has, and how a request reaches one of them."""

    def __init__(self, models: dict[str, list[Worker]], defaults: SamplingParams):
        self.models, self.defaults = models, defaults
        self.live = models if isinstance(models, LiveModels) else None
        self.metrics = Metrics(lambda: [worker for workers in models.values() for worker in workers])

    def describe(self, name: str) -> dict[str, Any]:
        """A model as /v1/models lists it."""
        if self.live is not None:
            about = self.live.describe(name)
        else:
            worker = self.models[name][0]
            about = {"context_tokens": worker.engine.config.sequence_len, "suggestions": list(worker.suggestions),
                     "step": worker.step}
        return {"id": name, "object": "model", "created": 0, "owned_by": "nanochat",
                "max_model_len": about["context_tokens"],
                "nanochat": {**about, "temperature": self.defaults.temperature, "top_k": self.defaults.top_k,
                             "max_tokens": self.defaults.max_tokens, "is_live": self.live is not None}}

    async def pick(self, name: str | None) -> tuple[str, Worker]:
        """The named model and the least busy of its replicas."""
        if self.live is not None:
            await self.live.ready(name)
        if name is None or name not in self.models:
            if name and name.startswith("nanochat-"):  # a model of this project that is not loaded
                raise self.no_model(name)
            name = next(iter(self.models))  # other programs send names such as gpt-4 unless they are configured
        return name, min(self.models[name], key=lambda worker: worker.num_open)

    def no_model(self, name: str) -> Failed:
        return Failed(404, f"there is no model {name!r}; this server has {', '.join(self.models)} "
                           "(chat_web --also loads more)", "model_not_found")

    def ignored(self, body: SamplingFields) -> list[str]:
        """The fields of a request that have no effect."""
        return body.ignored + ["model"] * (body.model not in (None, "", "nanochat", *self.models))

    def submit(self, body: SamplingFields, worker: Worker, prompts: list[list[int]], params: SamplingParams) -> Job:
        check_tokens(chain(params.logit_bias or (), *prompts), worker.engine.config.vocab_size)
        if body.seed is None:  # with the default seed the same question would always get the same answer
            params = replace(params, seed=random.getrandbits(31))
        if body.ignore_eos:  # not stop_ids=(): then the answer would contain the end token
            never = dict.fromkeys(worker.engine.default_stops, -100.0)
            params = replace(params, logit_bias={**(params.logit_bias or {}), **never})
        return worker.submit(prompts, body.n or 1, params)

    def chat(self, body: ChatRequest, name: str, worker: Worker) -> RunningAnswer:
        engine, params, tools = worker.engine, body.sampling_params(self.defaults), body.offered_tools
        ignored = self.ignored(body)
        prompt, num_forgotten = fit_prompt(engine.tokenizer, to_conversation(body.messages), engine.config.sequence_len,
                                           params.max_tokens, continues=body.continues)
        if body.answer_schema is not None:
            grammar = read_grammar(engine, body.answer_schema)
            ignored += [f"schema.{keyword}" for keyword in grammar.ignored]
            params = replace(params, grammar=grammar)
        elif tools.text_arguments:
            start = engine.tokenizer.special_id("<|python_start|>")
            params = replace(params, caller_runs=tools.is_call, begins_with=(start,) * tools.is_forced_calculator)
        job = self.submit(body, worker, [prompt], params)
        return RunningAnswer(name, job, self.metrics, tools=tools, num_forgotten=num_forgotten, ignored=ignored,
                             include_usage=body.wants_usage)

    def complete(self, body: CompletionRequest, name: str, worker: Worker) -> RunningAnswer:
        engine, params = worker.engine, body.sampling_params(replace(self.defaults, max_tokens=COMPLETION_TOKENS))
        is_text, prompts, context = isinstance(body.prompts[0], str), body.prompts, engine.config.sequence_len
        if is_text:
            if (longest := max(map(len, prompts))) > context * engine.tokenizer.max_token_bytes:
                raise UserError(f"the prompt is {longest:,} characters long, the model's context {context:,} tokens; "
                                "shorten it")  # checked before tokenizing megabytes
            prompts = [[engine.tokenizer.bos_id, *engine.tokenizer.encode(text)] for text in prompts]
        # A prompt that fills the context can be scored (max_tokens=0), but not continued.
        longest = max(map(len, prompts))
        if longest + min(params.max_tokens, 1) > context:
            raise UserError(f"the prompt is {longest:,} tokens long, the model's context {context:,}; shorten it")
        job = self.submit(body, worker, prompts, params)
        return RunningAnswer(name, job, self.metrics, is_chat=False, hides_bos=is_text, ignored=self.ignored(body),
                             include_usage=body.wants_usage)


def read_grammar(engine: Engine, schema: dict[str, Any]) -> Grammar:
    try:
        return Grammar(schema, engine.tokenizer, engine.tokenizer.special_id("<|assistant_end|>"))
    except UserError as error:
        raise Failed(400, str(error), "invalid_json_schema") from None


def create_app(models: dict[str, list[Worker]], defaults: SamplingParams, *, key: str = "",
               requests_per_minute: float = 0, cors_origins: Sequence[str] = (), names: Sequence[str] = (),
               runs: Sequence[str] = ()) -> FastAPI:
    """The application. `models`: the names that clients see, with a worker per replica; the first one is the default.

    `defaults`: settings for fields that a request does not have. `key`: the API key, "" if none is required.
    `cors_origins`: web pages that may send requests from a browser. `names`: as in Guard. `runs`: as in Runs, for /run.
    """
    # No /docs and /redoc: both pages would load scripts from another server.
    app = FastAPI(title="nanochat", docs_url=None, redoc_url=None, redirect_slashes=False,
                  default_response_class=errors.Json,
                  responses={"4XX": errors.DESCRIPTION, "5XX": errors.DESCRIPTION})
    service = Service(models, defaults)
    page_paths = {"/" + path.relative_to(UI).as_posix() for path in UI.rglob("*") if path.is_file()}
    context = max((worker.engine.config.sequence_len for workers in models.values() for worker in workers), default=0)
    app.add_middleware(Guard, metrics=service.metrics, open_paths={"/", "/run", "/health", *page_paths}, key=key,
                       requests_per_minute=requests_per_minute,
                       max_body_bytes=max(MIN_BODY_BYTES, MAX_PROMPTS * context * BYTES_PER_ID), names=names)
    if cors_origins:  # added last, so it runs first and answers browsers' preflight requests, which carry no key
        app.add_middleware(CORSMiddleware, allow_origins=cors_origins, allow_methods=["*"], allow_headers=["*"])

    completion_routes(app, service)
    info_routes(app, service)
    run_routes(app, Runs(runs))
    app.router.default = Page(directory=UI, html=True)  # for all other paths
    errors.add_handlers(app)
    return app


def completion_routes(app: FastAPI, service: Service) -> None:
    """The routes that generate text or inspect the model. A new route needs no entry elsewhere: Guard protects it."""
    @app.post("/chat/completions", responses=STREAMED)  # for clients whose base URL lacks /v1
    @app.post("/v1/chat/completions", responses=STREAMED)
    async def chat_completions(body: ChatRequest, request: Request) -> Any:
        answer = service.chat(body, *await service.pick(body.model))
        return Stream(answer.job, answer.chunks()) if body.stream else await answer.whole(request)

    @app.post("/completions", responses=STREAMED)
    @app.post("/v1/completions", responses=STREAMED)
    async def completions(body: CompletionRequest, request: Request) -> Any:
        answer = service.complete(body, *await service.pick(body.model))
        return Stream(answer.job, answer.chunks()) if body.stream else await answer.whole(request)

    @app.post("/v1/inside")
    async def look_inside(body: inside.InsideRequest) -> dict[str, Any]:
        return await inside.answer(body, *await service.pick(body.model), service.defaults.max_tokens)


def info_routes(app: FastAPI, service: Service) -> None:
    """The routes that describe the server and its models."""
    @app.get("/models")
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        if service.live is not None:
            service.live.refresh()
        return {"object": "list", "data": [service.describe(name) for name in service.models]}

    @app.get("/models/{name}")
    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        if name not in service.models:
            raise service.no_model(name)
        return service.describe(name)

    @app.get("/v1/models/{name}/card")
    def card(name: str) -> dict[str, Any]:  # it reads files: not async, so that FastAPI calls it in another thread
        if name not in service.models:
            raise service.no_model(name)
        parts = re.fullmatch(rf"nanochat-({'|'.join(paths.STAGES)})-(.+)", name)
        if not parts:
            raise Failed(404, f"{name} is not a model of a nanochat run, so it has no card")
        return model_card.read(parts[1], parts[2])

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        engine = (await service.pick(body.model))[1].engine
        # In another thread: a text of megabytes must not block the event loop.
        ids = await run_in_threadpool(ids_of, body, engine.tokenizer)
        return {"tokens": ids, "count": len(ids), "max_model_len": engine.config.sequence_len}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, str]:
        tokenizer = (await service.pick(body.model))[1].engine.tokenizer
        check_tokens(body.tokens, tokenizer.vocab_size)
        return {"prompt": tokenizer.decode(body.tokens)}

    @app.get("/tokenizer_info")  # vLLM's name, which evaluation harnesses ask for
    async def tokenizer_info() -> dict[str, Any]:
        return {**CONFIG, "max_model_len": (await service.pick(None))[1].engine.config.sequence_len}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        workers = next(iter(service.models.values()), [])  # replicas of the default model
        num_free = sum(worker.num_open < worker.engine.max_rows for worker in workers)  # fields: karpathy/nanochat's
        return {"status": "ok", "ready": True, "num_gpus": len(workers), "available_workers": num_free}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def ids_of(body: TokenizeRequest, tokenizer: Tokenizer) -> list[int]:
    if body.messages is not None:
        return chat.render_prompt(tokenizer, {"messages": take_turns(to_conversation(body.messages))})
    text = body.prompt or ""
    if text in tokenizer.specials:  # a client that wants the id of /tokenizer_info's bos_token sends its name
        return [tokenizer.specials[text]]
    return [tokenizer.bos_id] * body.add_special_tokens + tokenizer.encode(text)


def run_routes(app: FastAPI, runs: Runs) -> None:
    """The page that follows a run, and what it shows (nanochat/serve/run_view.py)."""
    @app.get("/run", response_class=FileResponse)
    async def page() -> FileResponse:
        return FileResponse(UI / "run.html", headers=PAGE_HEADERS)

    @app.get("/run/data")
    def data(request: Request, run: str = "") -> dict[str, Any]:  # it reads files: not async, as `card`
        if not runs.places:
            raise Failed(404, "this server was started without a run (chat_web --runs names out folders)")
        return runs.read(run, request.query_params)

    @app.get("/run/report", response_class=FileResponse)
    async def report() -> FileResponse:
        path = paths.report_dir() / "report.html"
        if not path.exists():
            raise Failed(404, f"there is no {path.name} yet; python -m nanochat.report makes it")
        return FileResponse(path, headers={**PAGE_HEADERS, "Content-Security-Policy": REPORT_POLICY})


def check_tokens(tokens: Iterable[int], vocab_size: int) -> None:
    for token in tokens:  # an unknown token would make the engine's step fail, and with it all running requests
        if token >= vocab_size:
            raise Failed(400, f"there is no token {token}; the model has {vocab_size:,}")
