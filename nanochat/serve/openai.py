"""OpenAI's chat and completion formats: requests (checked), answers (plain dicts). No HTTP and no engine here.

The server honours the request fields below and ignores unknown ones. It rejects the fields in `REFUSED`, because to
ignore them would silently change the meaning of the answer. `null` is always allowed and means the default.

nanochat adds fields, which other clients ignore:
- `delta.nanochat = {"tool": {"expression": "12*3", "result": "36"}}` in a stream, once per call of the server's own
  calculator, at its place between the `content` deltas; in a whole answer `message.nanochat.tools` lists all calls.
- An assistant message that is sent back may hold its tool calls, as content parts of type python and python_output.
- `continue_final_message` (vLLM's name): the last message is the assistant's, and the answer continues it.
- `ignore_eos` (vLLM's name): the answer goes on after the token that would end it.
- `nanochat`, beside `choices`. A stream's first chunk has what is known before the answer begins:
  `{"prompt_tokens": 31, "forgotten_messages": 4, "ignored": ["tools"]}`. forgotten_messages: so many of the request's
  first messages (system messages not counted) did not fit the context; ignored: the fields that had no effect. The
  chunk with the last finish_reason has `{"timings": {"prompt_tokens": 20, "prompt_ms": 8.1, "completion_tokens": 40,
  "completion_ms": 93.0}}`: what the engine read (without the tokens that another request had read already) and wrote.
  A whole answer has both. A chunk may hold several tokens: their number is that of `logprobs`, or of `timings`.
A prompt keeps min(max_tokens, a quarter of the context) free for the answer; older messages are forgotten for that.
"""

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nanochat.infer import Event, SamplingParams
from nanochat.infer.sampling import Logprob
from nanochat.tokenizer import Tokenizer

# The same limits as karpathy/nanochat's server.
MAX_MESSAGES, MAX_MESSAGE_CHARS, MAX_TOTAL_CHARS = 500, 8_000, 32_000
MAX_PROMPTS, MAX_CHOICES = 64, 16  # of one request
REFUSED: dict[str, list[Any]] = {  # field: the values that ask for nothing and are therefore allowed
    "tools": [[]], "functions": [[]], "response_format": [{"type": "text"}], "suffix": [""], "best_of": [1],
    "guided_json": [], "audio": []}

Natural = Annotated[int, Field(ge=0, lt=2**31)]
ScoredToken = tuple[int, Logprob | None]  # None: nobody asked, or it is the first token of a prompt


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class SamplingFields(BaseModel):
    """The fields that chats and completions share. Fields of SamplingParams have its names."""

    model_config = ConfigDict(extra="allow")  # clients may send more; `REFUSED` is looked up among the extra fields

    model: str | None = None
    stream: bool | None = None  # True: server-sent events, as the tokens come
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=1, le=200)  # this field and min_p are vLLM's, not OpenAI's
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)  # choices: samples of each prompt
    stop: str | list[str] | None = Field(None, max_length=MAX_TOTAL_CHARS)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[Natural, Annotated[float, Field(ge=-100, le=100)]] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _check_sampling(self) -> "SamplingFields":
        for name, allowed in REFUSED.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in allowed:
                raise ValueError(f"{name} is not supported by this server; leave it out")
        if isinstance(self.stop, list) and len(self.stop) > 4:  # OpenAI's limit
            raise ValueError(f"stop has {len(self.stop)} strings; at most 4 are allowed")
        return self

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling_params(self, defaults: SamplingParams) -> SamplingParams:
        """The engine's settings: `defaults`, replaced by what the request says."""
        # Only declared fields count: they have been checked. Extra fields of the same names have not.
        names = {field.name for field in fields(SamplingParams)} & type(self).model_fields.keys()
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return replace(defaults, **given | {"stop": tuple(stop for stop in stops if stop)})  # "" would stop at once


class Part(BaseModel):
    type: Literal["text", "python", "python_output"] = "text"
    text: str


class Function(BaseModel):
    name: str | None = None
    arguments: str = ""


class ToolCall(BaseModel):
    function: Function


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]  # developer is OpenAI's newer name of system
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None  # as other servers' answers have them

    @property
    def parts(self) -> list[dict[str, str]]:
        """The content as parts of the tokenizer's chat format, in which tool calls and tool results are parts too."""
        if isinstance(self.content, list) and self.content:
            parts = [part.model_dump() for part in self.content]
        else:
            parts = [{"type": "text", "text": self.content or ""}]
        if self.role == "tool":
            return [{"type": "python_output", "text": "".join(part["text"] for part in parts)}]
        return parts + [{"type": "python", "text": call.function.arguments} for call in self.tool_calls or []]

    @property
    def chat_role(self) -> str:
        """The role in the tokenizer's chat format, where a tool's result is a part of the assistant's turn."""
        return "assistant" if self.role == "tool" else self.role


class ChatRequest(SamplingFields):
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(None, ge=1, le=4096)
    max_completion_tokens: int | None = Field(None, ge=1, le=4096)  # OpenAI's newer name of max_tokens
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    continue_final_message: bool | None = None

    @model_validator(mode="after")
    def _check_messages(self) -> "ChatRequest":
        lengths = [sum(len(part["text"]) for part in message.parts) for message in self.messages]
        if max(lengths) > MAX_MESSAGE_CHARS:
            raise ValueError(f"a message has {max(lengths):,} characters; at most {MAX_MESSAGE_CHARS:,} are allowed")
        if sum(lengths) > MAX_TOTAL_CHARS:
            raise ValueError(f"the messages have {sum(lengths):,} characters; at most {MAX_TOTAL_CHARS:,} are allowed")
        last, expected = self.messages[-1].role, "assistant" if self.continue_final_message else "user"
        if last != expected and not (last == "tool" and expected == "user"):
            raise ValueError(f"the last message is from {last!r}; it must be from {expected!r}")
        for message in self.messages:
            if message.chat_role != "assistant" and any(part["type"] != "text" for part in message.parts):
                raise ValueError("only an assistant message can hold python and python_output parts")
        return self

    @property
    def continues(self) -> bool:
        """Whether the answer continues the last message: the assistant's own, or a tool's result for it."""
        return self.messages[-1].chat_role == "assistant"

    def sampling_params(self, defaults: SamplingParams) -> SamplingParams:
        params = super().sampling_params(defaults)
        # A chat asks for probabilities by two fields, the engine by one.
        return replace(params, max_tokens=self.max_completion_tokens or params.max_tokens,
                       logprobs=(self.top_logprobs or 0) if self.logprobs else None)


def to_turns(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages in the tokenizer's chat format: one system text first, then user and assistant in turn.

    Neighbours of the same role are joined, with a blank line between two texts. If the assistant speaks first, an empty
    question goes in front.
    """
    system_texts = [part["text"] for message in messages if message.role in ("system", "developer")
                    for part in message.parts]
    turns: list[dict[str, Any]] = []
    for message in messages:
        role, parts = message.chat_role, message.parts
        if role not in ("user", "assistant"):
            continue
        if turns and turns[-1]["role"] == role:  # the same speaker again: the model knows strict turns only
            content = turns[-1]["content"]
            if content[-1]["type"] == "text" and parts[0]["type"] == "text":
                content.append({"type": "text", "text": "\n\n"})
            content.extend(parts)
            continue
        if not turns and role == "assistant":  # the model has learnt only conversations that begin with a question
            turns.append({"role": "user", "content": [{"type": "text", "text": ""}]})
        turns.append({"role": role, "content": parts})
    system = [{"role": "system", "content": "\n\n".join(system_texts)}] if any(system_texts) else []
    return system + turns


class CompletionRequest(SamplingFields):
    """Texts or lists of token ids to continue. Evaluation harnesses score texts by `echo` with `logprobs`."""

    prompt: str | Annotated[list[Natural], Field(min_length=1)] | Annotated[
        list[str] | list[Annotated[list[Natural], Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)]
    max_tokens: int | None = Field(None, ge=0, le=4096)  # 0: only score the prompt
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None

    @model_validator(mode="after")
    def _check_prompts(self) -> "CompletionRequest":
        if self.echo and self.stream:
            raise ValueError("echo is not supported in a stream; leave one of the two out")
        if sum(len(prompt) for prompt in self.prompts) > MAX_TOTAL_CHARS:
            raise ValueError(f"the prompts are too long together; at most {MAX_TOTAL_CHARS:,} characters are allowed")
        return self

    @property
    def prompts(self) -> list[Any]:
        """All prompts: a list of texts or of lists of ids."""
        is_list_of_prompts = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return list(self.prompt) if is_list_of_prompts else [self.prompt]


class TokenizeRequest(BaseModel):
    """A text, or a conversation, which is tokenized as a prompt."""

    prompt: str | None = Field(None, max_length=MAX_TOTAL_CHARS)
    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    add_special_tokens: bool = True  # <|bos|> in front of a text


class DetokenizeRequest(BaseModel):
    tokens: list[Natural] = Field(max_length=MAX_TOTAL_CHARS)


class Choice:
    """One choice of an answer that is being generated: turns engine events into what the client's message gains."""

    def __init__(self, tokenizer: Tokenizer, index: int = 0):
        self.tokenizer, self.index = tokenizer, index
        self.output_end_id = tokenizer.special_id("<|output_end|>")
        self.tool = {"expression": "", "result": ""}  # the call that the model is writing
        self.text, self.tools = "", list[dict[str, str]]()  # all so far
        self.unreported: list[ScoredToken] = []  # tokens whose log-probabilities have not been sent yet
        self.finish_reason: str | None = None  # OpenAI's "stop" and "length" are the engine's own words

    def push(self, event: Event) -> dict[str, Any] | None:
        """{"content": text}, {"nanochat": {"tool": …}}, or None while there is nothing to show."""
        self.finish_reason = event.stop_reason or None
        if event.kind == "text":
            if event.logprob and event.token_id not in self.tokenizer.specials.values():
                self.unreported.append((event.token_id, event.logprob))
            self.text += event.text
            return {"content": event.text} if event.text else None
        self.tool["expression" if event.kind == "python" else "result"] += event.text
        is_cut_off = event.stop_reason and any(self.tool.values())  # by the end of the answer: show what there is
        if event.token_id != self.output_end_id and not is_cut_off:
            return None
        tool, self.tool = self.tool, {"expression": "", "result": ""}
        self.tools.append(tool)
        return {"nanochat": {"tool": tool}}

    def chunk(self, delta: dict[str, Any], is_chat: bool) -> dict[str, Any]:
        """The choice in a chunk of a stream. `delta`: what it gained; {} when it has ended."""
        if is_chat:
            gained = {"delta": delta, "logprobs": self._chat_logprobs()}
        else:
            gained = {"text": delta.get("content", ""), "logprobs": self._text_logprobs()}
        # Clients take null for "not finished yet"; "" would be a reason.
        return {"index": self.index, **gained, "finish_reason": None if delta else self.finish_reason}

    def whole_chat(self) -> dict[str, Any]:
        """The choice of a whole chat answer."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None}
        if self.tools:
            message["nanochat"] = {"tools": self.tools}
        return {"index": self.index, "message": message, "logprobs": self._chat_logprobs(),
                "finish_reason": self.finish_reason}

    def whole_text(self, echoed: list[ScoredToken], with_logprobs: bool) -> dict[str, Any]:
        """The choice of a whole completion. `echoed`: tokens of the prompt, which it shows first."""
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
        def name(token_id: int) -> str:
            data = self.tokenizer.decode_bytes([token_id])
            try:
                return data.decode()
            except UnicodeDecodeError:  # part of a character. Names must differ, so we write the bytes as OpenAI does
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

        scored, self.unreported = [*echoed, *self.unreported], []
        if not scored:
            return None
        tokens = [name(token_id) for token_id, _ in scored]
        return {"tokens": tokens,
                "token_logprobs": [logprob and logprob[0] for _, logprob in scored],
                "top_logprobs": [logprob and {name(other): nats for other, nats in logprob[1]}
                                 for _, logprob in scored],
                "text_offset": [0, *accumulate(map(len, tokens[:-1]))]}


def envelope(answer_id: str, kind: str, model: str, choices: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
    """The object around the choices, of a whole answer or of a chunk."""
    return {"id": answer_id, "object": kind, "created": int(time.time()), "model": model, "choices": choices, **extra}


def error(message: str, kind: str = "invalid_request_error", param: str | None = None,
          code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
