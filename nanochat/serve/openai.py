"""OpenAI's chat format: what comes in (checked), what goes out (plain dicts). No HTTP, no engine.

Requests: the fields below are honoured, unknown ones accepted, and those of `NOT_YET` refused unless they say "no":
leaving them out silently would change what the answer means. Null is always allowed and means the default.

Two additions, both ignored by other clients:
- `delta.nanochat = {"tool": {"expression": "12*3", "result": "36"}}` in a stream, once per tool call, between the
  `content` deltas it stands between; `message.nanochat.tools` = a list of them in a whole answer.
- An assistant message sent back may hold its tool calls as content parts {"type": "python" | "python_output", "text"}.
`nanochat.dropped_messages` on the first chunk or the answer says how many of the oldest messages did not fit.
"""

import time
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nanochat.infer import Event

MAX_MESSAGES, MAX_MESSAGE_CHARS, MAX_TOTAL_CHARS = 500, 8_000, 32_000  # the original's limits
NOT_YET = {"tools": [[]], "functions": [[]], "response_format": [{"type": "text"}], "n": [1], "stop": [[], ""],
           "top_p": [1], "min_p": [0], "logprobs": [False], "top_logprobs": [0], "presence_penalty": [0],
           "frequency_penalty": [0], "logit_bias": [{}]}  # field: values that ask for nothing


class Part(BaseModel):
    type: Literal["text", "python", "python_output"] = "text"
    text: str


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None

    @property
    def parts(self) -> list[dict]:
        if isinstance(self.content, list):
            return [part.model_dump() for part in self.content]
        return [{"type": "text", "text": self.content or ""}]


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=4096)
    max_completion_tokens: int | None = Field(None, ge=1, le=4096)
    temperature: float | None = Field(None, ge=0, le=2)
    top_k: int | None = Field(None, ge=1, le=200)
    seed: int | None = None

    @model_validator(mode="after")
    def _check(self) -> "ChatRequest":
        for name, neutral in NOT_YET.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in neutral:
                raise ValueError(f"{name} is not supported by this server; leave it out")
        lengths = [sum(len(part["text"]) for part in message.parts) for message in self.messages]
        if max(lengths) > MAX_MESSAGE_CHARS:
            raise ValueError(f"a message has {max(lengths):,} characters; at most {MAX_MESSAGE_CHARS:,} are allowed")
        if sum(lengths) > MAX_TOTAL_CHARS:
            raise ValueError(f"the messages have {sum(lengths):,} characters; at most {MAX_TOTAL_CHARS:,} are allowed")
        if self.messages[-1].role != "user":
            raise ValueError(f"the last message is from {self.messages[-1].role!r}; it must be from 'user'")
        if any(part["type"] != "text" for one in self.messages if one.role != "assistant" for part in one.parts):
            raise ValueError("only an assistant message can hold python and python_output parts")
        return self

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def conversation(self) -> list[dict]:
        """Messages as the tokenizer's chat format wants them: one system text first, then user and assistant in turn.

        Neighbours of the same role are joined by a blank line; an assistant that opens gets an empty question.
        """
        systems = [part["text"] for one in self.messages if one.role in ("system", "developer") for part in one.parts]
        turns: list[dict] = []
        for one in (one for one in self.messages if one.role in ("user", "assistant")):
            if turns and turns[-1]["role"] == one.role:
                turns[-1]["content"] += [{"type": "text", "text": "\n\n"}, *one.parts]
                continue
            if not turns and one.role == "assistant":
                turns.append({"role": "user", "content": [{"type": "text", "text": ""}]})
            turns.append({"role": one.role, "content": one.parts})
        return ([{"role": "system", "content": "\n\n".join(systems)}] if any(systems) else []) + turns


class Deltas:
    """Engine events → what the message gains: {"content": text}, {"nanochat": {"tool": …}} or nothing (None)."""

    def __init__(self, output_end_id: int):
        self.output_end_id = output_end_id
        self.tool = {"expression": "", "result": ""}

    def push(self, event: Event) -> dict | None:
        if event.kind == "text":
            return {"content": event.text} if event.text else None
        self.tool["expression" if event.kind == "python" else "result"] += event.text
        if event.token_id != self.output_end_id:
            return None
        tool, self.tool = self.tool, {"expression": "", "result": ""}
        return {"nanochat": {"tool": tool}}


def chunk(completion_id: str, model: str, delta: dict, finish_reason: str | None = None, **extra) -> dict:
    """One event of a stream. finish_reason is null until the last (never "")."""
    return {"id": completion_id, "object": "chat.completion.chunk", "created": int(time.time()), "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}], **extra}


def completion(completion_id: str, model: str, deltas: list[dict], finish_reason: str, usage: dict, **extra) -> dict:
    """A whole answer."""
    message = {"role": "assistant", "content": "".join(delta.get("content", "") for delta in deltas)}
    if tools := [delta["nanochat"]["tool"] for delta in deltas if "nanochat" in delta]:
        message["nanochat"] = {"tools": tools}
    return {"id": completion_id, "object": "chat.completion", "created": int(time.time()), "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}],
            "usage": usage, **extra}


def usage(prompt_tokens: int, completion_tokens: int) -> dict:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens}


def error(message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None) -> dict:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
