"""OpenAI's chat and completion formats: what comes in (checked), what goes out (plain dicts). No HTTP, no engine.

Requests: the fields below are honoured, unknown ones accepted, and those of `REFUSED` rejected unless they say "no":
leaving them out silently would change what the answer means. Null is always allowed and means the default.

Three additions, all ignored by other clients:
- `delta.nanochat = {"tool": {"expression": "12*3", "result": "36"}}` in a stream, once per tool call, between the
  `content` deltas it stands between; `message.nanochat.tools` = a list of them in a whole answer.
- An assistant message sent back may hold its tool calls as content parts {"type": "python" | "python_output", "text"}.
- `continue_final_message` (vLLM's name): the last message is the assistant's, and the answer goes on with it.
`nanochat.dropped_messages` on the first chunk or the answer says how many of the oldest messages did not fit.
"""

import time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nanochat.infer import Event

MAX_MESSAGES, MAX_MESSAGE_CHARS, MAX_TOTAL_CHARS = 500, 8_000, 32_000  # the original's limits
MAX_PROMPTS, MAX_CHOICES = 64, 16  # of one request
REFUSED = {"tools": [[]], "functions": [[]], "response_format": [{"type": "text"}], "suffix": [""], "best_of": [1],
           "guided_json": [], "audio": []}  # field: values that ask for nothing

Natural = Annotated[int, Field(ge=0, lt=2**31)]


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class Sampling(BaseModel):
    """What chats and completions have in common."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=1, le=200)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: str | list[str] | None = Field(None, max_length=MAX_TOTAL_CHARS)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[Natural, Annotated[float, Field(ge=-100, le=100)]] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _check_sampling(self) -> "Sampling":
        for name, neutral in REFUSED.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in neutral:
                raise ValueError(f"{name} is not supported by this server; leave it out")
        if isinstance(self.stop, list) and len(self.stop) > 4:
            raise ValueError(f"stop has {len(self.stop)} strings; at most 4 are allowed")
        return self

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def settings(self) -> dict:
        """Engine.submit's arguments, of what the request says."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        names = ("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty",
                 "logit_bias")
        said = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {**said, "stop": tuple(stop for stop in stops if stop)}


class Part(BaseModel):
    type: Literal["text", "python", "python_output"] = "text"
    text: str


class Function(BaseModel):
    name: str | None = None
    arguments: str = ""


class ToolCall(BaseModel):
    function: Function


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None

    @property
    def parts(self) -> list[dict]:
        """Content parts as the tokenizer's chat format has them; another model's tool calls become ours."""
        parts = [part.model_dump() for part in self.content] if isinstance(self.content, list) else []
        parts = parts or [{"type": "text", "text": self.content if isinstance(self.content, str) else ""}]
        if self.role == "tool":
            return [{"type": "python_output", "text": "".join(part["text"] for part in parts)}]
        return parts + [{"type": "python", "text": call.function.arguments} for call in self.tool_calls or []]

    @property
    def speaker(self) -> str:
        return "assistant" if self.role == "tool" else self.role


class ChatRequest(Sampling):
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(None, ge=1, le=4096)
    max_completion_tokens: int | None = Field(None, ge=1, le=4096)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    continue_final_message: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> "ChatRequest":
        lengths = [sum(len(part["text"]) for part in message.parts) for message in self.messages]
        if max(lengths) > MAX_MESSAGE_CHARS:
            raise ValueError(f"a message has {max(lengths):,} characters; at most {MAX_MESSAGE_CHARS:,} are allowed")
        if sum(lengths) > MAX_TOTAL_CHARS:
            raise ValueError(f"the messages have {sum(lengths):,} characters; at most {MAX_TOTAL_CHARS:,} are allowed")
        last, expected = self.messages[-1].role, "assistant" if self.continue_final_message else "user"
        if last != expected and not (last == "tool" and expected == "user"):
            raise ValueError(f"the last message is from {last!r}; it must be from {expected!r}")
        if any(part["type"] != "text" for one in self.messages if one.speaker != "assistant" for part in one.parts):
            raise ValueError("only an assistant message can hold python and python_output parts")
        return self

    @property
    def goes_on(self) -> bool:
        """Whether the answer continues the last message: the assistant's own, or a tool's result for it."""
        return self.messages[-1].speaker == "assistant"

    def settings(self) -> dict:
        return {**super().settings(), "logprobs": (self.top_logprobs or 0) if self.logprobs else None}

    def conversation(self) -> list[dict]:
        return turns(self.messages)


def turns(messages: list[Message]) -> list[dict]:
    """Messages as the tokenizer's chat format wants them: one system text first, then user and assistant in turn.

    Neighbours of the same role are joined, by a blank line where text meets text; an assistant that opens gets an
    empty question.
    """
    systems = [part["text"] for one in messages if one.role in ("system", "developer") for part in one.parts]
    found: list[dict] = []
    for one in (one for one in messages if one.speaker in ("user", "assistant")):
        if found and found[-1]["role"] == one.speaker:
            before = found[-1]["content"]
            texts = before[-1]["type"] == "text" and one.parts[0]["type"] == "text"
            before += [*([{"type": "text", "text": "\n\n"}] if texts else []), *one.parts]
            continue
        if not found and one.speaker == "assistant":
            found.append({"role": "user", "content": [{"type": "text", "text": ""}]})
        found.append({"role": one.speaker, "content": one.parts})
    return ([{"role": "system", "content": "\n\n".join(systems)}] if any(systems) else []) + found


class CompletionRequest(Sampling):
    """Text to go on with, or token ids; several at once, too. `echo` with `logprobs` is how harnesses score text."""

    prompt: str | Annotated[list[Natural], Field(min_length=1)] | Annotated[
        list[str] | list[Annotated[list[Natural], Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)]
    max_tokens: int | None = Field(None, ge=0, le=4096)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> "CompletionRequest":
        if self.echo and self.stream:
            raise ValueError("echo is not supported in a stream; leave one of the two out")
        if sum(len(one) for one in self.prompts) > MAX_TOTAL_CHARS:
            raise ValueError(f"the prompts are too long together; at most {MAX_TOTAL_CHARS:,} characters are allowed")
        return self

    @property
    def prompts(self) -> list:
        """A list of texts or of lists of ids."""
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return self.prompt if several else [self.prompt]

    def settings(self) -> dict:
        return {**super().settings(), "logprobs": self.logprobs, "echo": bool(self.echo)}


class TokenizeRequest(BaseModel):
    """A text, or a conversation as it would be sent."""

    prompt: str | None = Field(None, max_length=MAX_TOTAL_CHARS)
    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    add_special_tokens: bool = True


class DetokenizeRequest(BaseModel):
    tokens: list[Natural] = Field(max_length=MAX_TOTAL_CHARS)


class Voice:
    """One choice of an answer on its way: engine events → what the client's message or text gains."""

    def __init__(self, tokenizer, index: int = 0):
        self.tokenizer, self.index = tokenizer, index
        self.output_end_id = tokenizer.special_id("<|output_end|>")
        self.tool = {"expression": "", "result": ""}
        self.unsent: list[Event] = []  # tokens with logprobs whose text has not come out yet
        self.finish_reason: str | None = None

    def push(self, event: Event) -> dict | None:
        """{"content": text}, {"nanochat": {"tool": …}}, or None when there is nothing to show yet.

        A call that the answer's end cuts off is shown as far as it got.
        """
        self.finish_reason = event.stop_reason or None
        if event.kind == "text":
            if event.logprob and event.token_id not in self.tokenizer.specials.values():
                self.unsent.append(event)
            return {"content": event.text} if event.text else None
        self.tool["expression" if event.kind == "python" else "result"] += event.text
        if event.token_id != self.output_end_id and not (event.stop_reason and any(self.tool.values())):
            return None
        tool, self.tool = self.tool, {"expression": "", "result": ""}
        return {"nanochat": {"tool": tool}}

    def _take_unsent(self) -> list[Event]:
        taken, self.unsent = self.unsent, []
        return taken

    def chat_logprobs(self) -> dict | None:
        """Of the tokens since the last call."""
        def entry(token_id: int, nats: float) -> dict:
            own = self.tokenizer.decode_bytes([token_id])
            return {"token": own.decode(errors="replace"), "logprob": nats, "bytes": list(own)}

        content = [{**entry(event.token_id, event.logprob[0]),
                    "top_logprobs": [entry(*other) for other in event.logprob[1]]} for event in self._take_unsent()]
        return {"content": content, "refusal": None} if content else None

    def text_logprobs(self, echoed: list[tuple[int, tuple | None]] = ()) -> dict | None:
        """Of `echoed` (token id, log-probabilities; None for the very first) and the tokens since the last call."""
        def named(token_id: int) -> str:
            own = self.tokenizer.decode_bytes([token_id])
            try:
                return own.decode()
            except UnicodeDecodeError:  # a piece of a character: names must differ, so OpenAI writes them like this
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in own)

        known = [*echoed, *((event.token_id, event.logprob) for event in self._take_unsent())]
        if not known:
            return None
        tokens = [named(token) for token, _ in known]
        return {"tokens": tokens, "token_logprobs": [found and found[0] for _, found in known],
                "top_logprobs": [found and {named(other): nats for other, nats in found[1]} for _, found in known],
                "text_offset": [sum(map(len, tokens[:i])) for i in range(len(tokens))]}


def chat_choice(voice: Voice, delta: dict) -> dict:
    """One choice of a chunk. finish_reason is null until the last (never "")."""
    return {"index": voice.index, "delta": delta, "logprobs": voice.chat_logprobs(),
            "finish_reason": None if delta else voice.finish_reason}


def text_choice(voice: Voice, delta: dict) -> dict:
    return {"index": voice.index, "text": delta.get("content", ""), "logprobs": voice.text_logprobs(),
            "finish_reason": None if delta else voice.finish_reason}


def whole_message(voice: Voice, deltas: list[dict]) -> dict:
    """One choice of a whole chat answer."""
    message = {"role": "assistant", "content": "".join(delta.get("content", "") for delta in deltas), "refusal": None}
    if tools := [delta["nanochat"]["tool"] for delta in deltas if "nanochat" in delta]:
        message["nanochat"] = {"tools": tools}
    return {"index": voice.index, "message": message, "logprobs": voice.chat_logprobs(),
            "finish_reason": voice.finish_reason}


def envelope(answer_id: str, kind: str, model: str, choices: list[dict], **extra) -> dict:
    """What is around the choices, whole or in a stream."""
    return {"id": answer_id, "object": kind, "created": int(time.time()), "model": model, "choices": choices, **extra}


def usage(prompt_tokens: int, completion_tokens: int) -> dict:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens}


def error(message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None) -> dict:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
