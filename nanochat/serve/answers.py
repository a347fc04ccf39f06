"""An answer that is being generated, in OpenAI's format: as the chunks of a stream, or whole."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, groupby, zip_longest
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from nanochat.infer import Event
from nanochat.infer.sampling import Logprob
from nanochat.serve import errors
from nanochat.serve.metrics import Metrics
from nanochat.serve.tools import Tools, forced_call
from nanochat.serve.worker import Failed, Job
from nanochat.tokenizer import Tokenizer

ScoredToken = tuple[int, Logprob | None]  # None: not requested, or the first token of a prompt


class Stream(StreamingResponse):
    """The server-sent events of a job. The job is always closed, even if sending the response never started."""

    def __init__(self, job: Job, chunks: AsyncIterator[str]):
        # no-store: neither a proxy nor the browser may keep the conversation. X-Accel-Buffering: nginx collects an
        # answer until its buffer is full, unless this header makes it forward each chunk immediately.
        super().__init__(chunks, media_type="text/event-stream",
                         headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.job.close()


@dataclass
class RunningAnswer:
    """An answer that is being generated, and its two forms: the `chunks` of a stream, or the `whole` body."""

    model: str
    job: Job
    metrics: Metrics
    is_chat: bool = True
    tools: Tools | None = None  # the functions that the client runs
    hides_bos: bool = False  # the server put <|bos|> before the client's text: `echo` must not show it
    num_forgotten: int = 0  # old messages that did not fit the context
    ignored: Sequence[str] = ()  # fields of the request that had no effect
    include_usage: bool = False
    num_tokens: int = 0  # tokens of all choices so far
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        tokenizer = self.job.worker.engine.tokenizer
        self.choices = [Choice(tokenizer, index, self.tools) for index in range(self.job.size)]
        self.id = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.kind = "chat.completion" if self.is_chat else "text_completion"
        self.num_prompt_tokens = sum(map(len, self.job.prompts))
        self.facts: dict[str, Any] = {"prompt_tokens": self.num_prompt_tokens}
        if self.num_forgotten:
            self.facts["forgotten_messages"] = self.num_forgotten
        if self.ignored:
            self.facts["ignored"] = list(self.ignored)

    async def deltas(self) -> AsyncIterator[tuple["Choice", dict[str, Any]]]:
        """(choice, delta) as tokens arrive; an empty delta means that the choice has ended."""
        async for batch in self.job.events():
            if not self.num_tokens:  # this is the first batch
                self.metrics.first_token.observe(time.monotonic() - self.started)
            self.num_tokens += sum(event.token_id >= 0 for _, event in batch)  # −1: there was no room for any token
            for index, events in groupby(batch, key=lambda entry: entry[0]):
                choice = self.choices[index]
                for delta in choice.push([event for _, event in events]):
                    yield choice, delta
                if choice.finish_reason:
                    yield choice, {}
        self.metrics.whole.observe(time.monotonic() - self.started)

    def usage(self) -> dict[str, Any]:
        # The first sample of each prompt: the other samples always reuse this prompt and would count it as cached.
        num_cached = sum(request.num_reused for request in self.job.requests[::self.job.samples])
        return {"prompt_tokens": self.num_prompt_tokens, "completion_tokens": self.num_tokens,
                "total_tokens": self.num_prompt_tokens + self.num_tokens,
                "prompt_tokens_details": {"cached_tokens": num_cached}}

    def timings(self) -> dict[str, Any]:
        """Tokens and milliseconds of reading the prompts and of writing the answers, measured by the engine."""
        requests = [request for request in self.job.requests if request.began]
        began, read, ended = ([getattr(request, name) for request in requests] or [0.0]
                              for name in ("began", "read", "ended"))
        num_read = sum(len(request.prompt) - request.num_reused for request in requests)
        return {"prompt_tokens": num_read, "prompt_ms": round(1e3 * (max(read) - min(began)), 3),
                "completion_tokens": self.num_tokens, "completion_ms": round(1e3 * (max(ended) - min(read)), 3)}

    async def chunks(self) -> AsyncIterator[str]:
        """The lines of a stream. The status 200 has been sent already, so an error becomes an event of the stream."""
        kind = self.kind + ".chunk" if self.is_chat else self.kind
        usage = {"usage": None} if self.include_usage else {}  # OpenAI's chunks have the key if the last one has it

        def line(choices: list[dict[str, Any]], **extra: Any) -> str:
            return f"data: {json.dumps(self._envelope(kind, choices, **usage | extra))}\n\n"

        try:
            opening = {"role": "assistant", "content": ""} if self.is_chat else {}
            yield line([choice.chunk(opening, self.is_chat) for choice in self.choices], nanochat=self.facts)
            num_open = len(self.choices)
            async for choice, delta in self.deltas():
                num_open -= not delta
                timings = {} if num_open else {"nanochat": {"timings": self.timings()}}
                yield line([choice.chunk(delta, self.is_chat)], **timings)
            if self.include_usage:
                yield line([], usage=self.usage())
        except Exception as error:
            yield f"data: {json.dumps(errors.of_answer(error))}\n\n"
        yield "data: [DONE]\n\n"

    async def whole(self, request: Request) -> dict[str, Any]:
        """The whole answer as one body; generation stops when the client disconnects."""
        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            # 499 is nginx's number for it; nobody receives it, but the metrics count it.
            self.job.fail(Failed(499, "the client left", "client_left"))

        watcher = asyncio.create_task(watch())
        try:
            async for _ in self.deltas():  # fills the choices
                pass
        finally:
            watcher.cancel()
            self.job.close()
        with_logprobs = self.job.params.logprobs is not None
        choices = [choice.whole_chat() if self.is_chat else
                   choice.whole_text(self._echoed(choice.index), with_logprobs) for choice in self.choices]
        facts = {**self.facts, "timings": self.timings()}
        return self._envelope(self.kind, choices, usage=self.usage(), nanochat=facts)

    def _envelope(self, kind: str, choices: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": int(time.time()), "model": self.model, "choices": choices,
                **extra}

    def _echoed(self, index: int) -> list[ScoredToken]:
        """The prompt's tokens with their log-probabilities, if the request has `echo`."""
        if not self.job.params.echo:
            return []
        request = self.job.requests[index]  # its first token has no log-probability; without `logprobs` no token has
        return list(zip_longest(request.prompt, [None, *request.prompt_logprobs]))[int(self.hides_bos):]


def token_name(tokenizer: Tokenizer, token_id: int) -> str:
    """The text of a token; for a token that is only a part of a character, its bytes in OpenAI's notation, such as
    "bytes:\\xe2". So different tokens have different names."""
    data = tokenizer.decode_bytes([token_id])
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class Choice:
    """One choice of an answer that is being generated: turns engine events into deltas for the client."""

    def __init__(self, tokenizer: Tokenizer, index: int = 0, tools: Tools | None = None):
        self.tokenizer, self.index, self.tools = tokenizer, index, tools
        self.output_end_id = tokenizer.special_id("<|output_end|>")
        self.tool = {"expression": "", "result": ""}  # the call that the model is writing
        self.text, self.own_calls = "", list[dict[str, str]]()  # the text so far; calls of the server's own calculator
        self.tool_calls: list[dict[str, Any]] = []  # calls of the client's functions
        self.unreported: list[ScoredToken] = []  # tokens whose log-probabilities have not been sent yet
        self.finish_reason: str | None = None  # OpenAI's "stop", "length" and "tool_calls" are the engine's own words

    def push(self, events: Sequence[Event]) -> Iterator[dict[str, Any]]:
        """The deltas of the message: {"content": text}, {"nanochat": {"tool": …}} or {"tool_calls": […]}, in order.

        Adjacent texts are joined: a chunk for each token would cost a server of a small model most of its time.
        """
        text = ""
        for event in events:
            self.finish_reason = event.stop_reason or None
            if event.kind == "text":
                if event.logprob and event.token_id not in self.tokenizer.specials.values():
                    self.unreported.append((event.token_id, event.logprob))
                text += event.text
            elif delta := self._push_call(event):
                yield from self._add_text(text)
                text = ""
                yield delta
        yield from self._add_text(text)
        if self.finish_reason and self._is_forced_call:
            if call := forced_call(self.text):
                self.text, self.finish_reason = "", "tool_calls"
                yield self._call(call)
            else:  # the context had no room for the whole call, so its JSON is not complete
                yield {"content": self.text}

    @property
    def _is_forced_call(self) -> bool:
        """Whether the text is the JSON of a call, which is shown when it is complete."""
        return self.tools is not None and self.tools.schema is not None

    def _add_text(self, text: str) -> Iterator[dict[str, Any]]:
        self.text += text
        if text and not self._is_forced_call:
            yield {"content": text}

    def _push_call(self, event: Event) -> dict[str, Any] | None:
        """The delta of a call if this event completes it, otherwise None."""
        self.tool["expression" if event.kind == "python" else "result"] += event.text
        is_cut_off = event.stop_reason and any(self.tool.values())  # the answer ended inside of it
        if event.token_id != self.output_end_id and not is_cut_off:
            return None
        tool, self.tool = self.tool, {"expression": "", "result": ""}
        if event.stop_reason == "tool_calls" and self.tools is not None:
            return self._call(self.tools.call(tool["expression"]))
        self.own_calls.append(tool)
        return {"nanochat": {"tool": tool}}

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        self.tool_calls.append(call)
        return {"tool_calls": [{"index": len(self.tool_calls) - 1, **call}]}

    def chunk(self, delta: dict[str, Any], is_chat: bool) -> dict[str, Any]:
        """The choice in a chunk of a stream. `delta`: the addition to the message; {} when the choice has ended."""
        if is_chat:
            gained = {"delta": delta, "logprobs": self._chat_logprobs()}
        else:
            gained = {"text": delta.get("content", ""), "logprobs": self._text_logprobs()}
        # Clients read null as "not finished yet"; an empty string would count as a reason.
        return {"index": self.index, **gained, "finish_reason": None if delta else self.finish_reason}

    def whole_chat(self) -> dict[str, Any]:
        """The choice of a whole chat answer."""
        text = None if self.tool_calls and not self.text else self.text
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        if self.own_calls:
            message["nanochat"] = {"tools": self.own_calls}
        return {"index": self.index, "message": message, "logprobs": self._chat_logprobs(),
                "finish_reason": self.finish_reason}

    def whole_text(self, echoed: list[ScoredToken], with_logprobs: bool) -> dict[str, Any]:
        """The choice of a whole completion. `echoed`: tokens of the prompt, whose text comes first."""
        text = self.tokenizer.decode([token for token, _ in echoed]) + self.text
        return {"index": self.index, "finish_reason": self.finish_reason, "text": text,
                "logprobs": self._text_logprobs(echoed) if with_logprobs else None}

    def _chat_logprobs(self) -> dict[str, Any] | None:
        """The log-probabilities of the tokens since the last call, in the chat format."""
        def entry(token_id: int, nats: float) -> dict[str, Any]:
            data = self.tokenizer.decode_bytes([token_id])
            return {"token": data.decode(errors="replace"), "logprob": nats, "bytes": list(data)}

        scored, self.unreported = self.unreported, []
        content = [{**entry(token_id, logprob[0]), "top_logprobs": [entry(*other) for other in logprob[1]]}
                   for token_id, logprob in scored if logprob]
        return {"content": content, "refusal": None} if content else None

    def _text_logprobs(self, echoed: Sequence[ScoredToken] = ()) -> dict[str, Any] | None:
        """The same in the completion format; `echoed` tokens come first."""
        scored, self.unreported = [*echoed, *self.unreported], []
        if not scored:
            return None
        name = partial(token_name, self.tokenizer)
        tokens = [name(token_id) for token_id, _ in scored]
        return {"tokens": tokens,
                "token_logprobs": [logprob and logprob[0] for _, logprob in scored],
                "top_logprobs": [logprob and {name(other): nats for other, nats in logprob[1]}
                                 for _, logprob in scored],
                "text_offset": [0, *accumulate(map(len, tokens[:-1]))]}
