"""OpenAI's chat and completion formats: the requests, checked. The answers are in answers.py.

The server supports the fields of the classes in this file. It ignores unknown fields and names them in the answer. It
rejects the fields in `REFUSED`, because an answer that ignores them would be misleading. `null` is always allowed.

nanochat adds fields, which other clients ignore:
- `delta.nanochat = {"tool": {"expression": "12*3", "result": "36"}}` in a stream, once per call of the server's own
  calculator, in order among the `content` deltas; in a whole answer `message.nanochat.tools` lists all calls.
- An assistant message that is sent back may hold its tool calls, as content parts of type python and python_output.
- `continue_final_message` (vLLM's name): the last message is the assistant's, and the answer continues it.
- `ignore_eos` (vLLM's name): the tokens that end an answer get a bias of −100, so that only its length ends it.
- `nanochat`, beside `choices`. A stream's first chunk has what is known before the answer begins:
  `{"prompt_tokens": 31, "forgotten_messages": 4, "ignored": ["tools"]}`. forgotten_messages: the number of the oldest
  messages (system messages not counted) that were dropped because they did not fit the context; ignored: the fields
  that had no effect. The chunk with the last finish_reason has `{"timings": {"prompt_tokens": 20, "prompt_ms": 8.1,
  "completion_tokens": 40, "completion_ms": 93.0}}`: the tokens that the engine read (without those reused from other
  requests) and wrote. A whole answer has both. A chunk may hold several tokens; `logprobs` or `timings` count them.
A prompt leaves min(max_tokens, a quarter of the context) free for the answer; the oldest messages are dropped for this.
"""

import json
from dataclasses import fields, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from nanochat.infer import SamplingParams
from nanochat.serve.tools import Tools, call_text
from nanochat.tokenizer.split import utf8

MAX_PROMPTS, MAX_CHOICES = 64, 16  # limits of one request
UNLIMITED = 2**31 - 1  # tokens: the engine stops at the end of the context
REFUSED: dict[str, list[Any]] = {  # field: values that are allowed, because they mean the same as no field
    "suffix": [""], "best_of": [1], "guided_json": [], "audio": [], "modalities": [["text"]],
    "function_call": ["auto", "none"]}


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read true as 1
        raise ValueError(f"expected a number, not {str(value).lower()}")
    return value


def _whole_characters(value: Any) -> Any:
    """JavaScript programs that cut a text inside an emoji send an unpaired surrogate, which pydantic would refuse."""
    return utf8(value).decode() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_whole_characters)]
Integer = Annotated[int, BeforeValidator(_no_boolean)]
Number = Annotated[float, BeforeValidator(_no_boolean)]
Natural = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, lt=2**31)]
Limit = Annotated[int, BeforeValidator(_no_boolean), Field(ge=-1)]  # −1: no limit


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class SamplingFields(BaseModel):
    """The fields that chats and completions share. Fields of SamplingParams have its names."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)  # clients may send more fields: see `ignored`

    model: str | None = None
    stream: bool | None = None  # True: server-sent events, as the tokens come
    stream_options: StreamOptions | None = None
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, ge=0, le=1)
    top_k: Integer | None = Field(None, ge=-1)  # vLLM's, as min_p and ignore_eos are; −1 and 0: all tokens
    min_p: Number | None = Field(None, ge=0, le=1)
    ignore_eos: bool | None = None
    seed: Integer | None = None
    n: Integer | None = Field(None, ge=1, le=MAX_CHOICES)  # choices: samples of each prompt
    stop: Text | list[Text] | None = None
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    logit_bias: dict[Natural, Annotated[Number, Field(ge=-100, le=100)]] | None = None
    user: str | None = None  # id of an end user: accepted without effect, so that it is not reported as ignored

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

    @property
    def ignored(self) -> list[str]:
        """The fields that this server does not know, unless their value is empty. false and 0 are not empty."""
        extra = self.model_extra or {}
        return sorted(name for name, value in extra.items() if name not in REFUSED and value not in (None, [], {}, ""))

    def sampling_params(self, defaults: SamplingParams) -> SamplingParams:
        """The engine's settings: `defaults`, replaced by what the request says."""
        # Only declared fields count: they have been checked. Extra fields of the same names have not.
        names = {field.name for field in fields(SamplingParams)} & type(self).model_fields.keys()
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if not 1 <= given.get("top_k", 1) <= UNLIMITED:
            given["top_k"] = None
        if given.get("max_tokens") == -1:
            given["max_tokens"] = UNLIMITED
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return replace(defaults, **given | {"stop": tuple(stop for stop in stops if stop)})  # "" would stop at once


class Part(BaseModel):
    type: Literal["text", "python", "python_output"] = "text"
    text: Text


class Function(BaseModel):
    name: str | None = None
    arguments: str | dict[str, Any] = ""


class ToolCall(BaseModel):
    function: Function


class Message(BaseModel):
    # developer is OpenAI's newer name of system, function its older name of tool
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _check_content(cls, content: Any) -> Any:
        if content is not None and not isinstance(content, str | list):
            raise ValueError(f"expected a text or a list of parts, not {json.dumps(content)[:60]}")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            kind = part.get("type", "text") if isinstance(part, dict) else json.dumps(part)[:60]
            if kind not in ("text", "python", "python_output"):
                raise ValueError(f"part {index} is {kind}, but the models of this server read text only: "
                                 '{"type": "text", "text": …}')
        return content

    @property
    def parts(self) -> list[dict[str, str]]:
        """The content as parts of the tokenizer's chat format, in which tool calls and tool results are parts too."""
        if isinstance(self.content, list) and self.content:
            parts = [part.model_dump() for part in self.content]
        else:
            parts = [{"type": "text", "text": self.content or ""}]
        if self.chat_role == "assistant" and self.role != "assistant":
            return [{"type": "python_output", "text": "".join(part["text"] for part in parts)}]
        calls = [call.function for call in self.tool_calls or []]
        return parts + [{"type": "python", "text": call_text(call.name or "", call.arguments)} for call in calls]

    @property
    def chat_role(self) -> str:
        """The role in the tokenizer's chat format, where a tool's result is a part of the assistant's turn."""
        return {"developer": "system", "tool": "assistant", "function": "assistant"}.get(self.role, self.role)


class ChatRequest(SamplingFields):
    messages: list[Message] = Field(min_length=1)
    max_tokens: Limit | None = None  # −1 and an explicit null: no limit but the context
    max_completion_tokens: Limit | None = None  # OpenAI's newer name of max_tokens
    logprobs: bool | None = None
    top_logprobs: Natural | None = Field(None, le=20)
    continue_final_message: bool | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None  # there is never more than one call at a time

    @model_validator(mode="after")
    def _check_messages(self) -> "ChatRequest":
        if 0 in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("max_tokens is 0; expected at least 1, or -1 for no limit")
        last, expected = self.newest.role, "assistant" if self.continue_final_message else "user"
        is_tool_result = last in ("tool", "function")  # the assistant's turn goes on after it, like after a question
        if last != expected and not (is_tool_result and expected == "user"):
            hint = "; continue_final_message: true continues an assistant's message" if last == "assistant" else ""
            raise ValueError(f"the last message is from {last!r}; it must be from {expected!r}{hint}")
        for message in self.messages:
            if message.chat_role != "assistant" and any(part["type"] != "text" for part in message.parts):
                raise ValueError("only an assistant message can hold python and python_output parts")
        _ = self.answer_schema  # validates response_format and tools
        return self

    @property
    def newest(self) -> Message:
        """The last message that is not a system message: some programs send system texts after the question."""
        spoken = [message for message in self.messages if message.chat_role != "system"]
        return (spoken or self.messages)[-1]

    @property
    def continues(self) -> bool:
        """Whether the answer continues the last turn: an unfinished assistant's message, or a tool call with result."""
        return self.newest.chat_role == "assistant"

    @cached_property
    def offered_tools(self) -> Tools:
        return Tools(self.tools or [], self.tool_choice)

    @cached_property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow: of response_format, or of the call that tool_choice demands."""
        tools_schema, asked = self.offered_tools.schema, self.response_format or {"type": "text"}
        match asked.get("type"):
            case "text":
                return tools_schema
            case "json_object":
                return {"type": "object"}
            case "json_schema" if isinstance(asked.get("json_schema"), dict):
                schema = asked["json_schema"].get("schema", {"type": "object"})
                if isinstance(schema, dict):
                    return schema
        raise ValueError('response_format: expected {"type": "text"}, {"type": "json_object"} or '
                         '{"type": "json_schema", "json_schema": {"name": …, "schema": {…}}}')

    @property
    def ignored(self) -> list[str]:
        is_text = (self.response_format or {}).get("type", "text") == "text"
        return super().ignored + ["tools"] * bool(self.tools and (self.offered_tools.unusable or not is_text))

    def sampling_params(self, defaults: SamplingParams) -> SamplingParams:
        params = super().sampling_params(defaults)
        max_tokens = self.max_completion_tokens or self.max_tokens
        if max_tokens is None and {"max_tokens", "max_completion_tokens"} & self.model_fields_set:
            max_tokens = UNLIMITED
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return replace(params, max_tokens=UNLIMITED if max_tokens == -1 else max_tokens or params.max_tokens,
                       logprobs=logprobs)


def to_conversation(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages for `fit_prompt`: all system texts become one message, the first."""
    system_texts = [part["text"] for message in messages if message.chat_role == "system" for part in message.parts]
    system = [{"role": "system", "content": "\n\n".join(system_texts)}] if any(system_texts) else []
    return system + [{"role": message.chat_role, "content": message.parts} for message in messages
                     if message.chat_role != "system"]


class CompletionRequest(SamplingFields):
    """Texts or lists of token ids to continue. Evaluation harnesses score a text with `echo` and `logprobs`."""

    prompt: Text | Annotated[list[Natural], Field(min_length=1)] | Annotated[
        list[Text] | list[Annotated[list[Natural], Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)]
    max_tokens: Limit | None = None  # 0: only score the prompt; −1: no limit but the context
    logprobs: Annotated[Natural | None, BeforeValidator(lambda value: None if value is False else value)] = Field(
        None, le=20)
    echo: bool | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _check_prompt(cls, prompt: Any) -> Any:
        if isinstance(prompt, list):
            kinds = {type(item) for item in prompt}
            if len(prompt) > MAX_PROMPTS and kinds != {int}:
                raise ValueError(f"there are {len(prompt)} prompts; at most {MAX_PROMPTS} are allowed in one request")
            ids = prompt if kinds == {int} else [item for ids in prompt for item in ids] if kinds == {list} else []
            if any(type(item) is not int or not 0 <= item < 2**31 for item in ids):
                raise ValueError("a list of token ids has an item that is not a natural number")
            if kinds in ({str}, {int}) or kinds == {list} and all(prompt):
                return prompt
        elif isinstance(prompt, str):
            return prompt
        raise ValueError("expected a text, a list of texts, a list of token ids, or a list of such lists; none of the "
                         f"lists may be empty, and a list has items of one kind: {json.dumps(prompt)[:60]}")

    @model_validator(mode="after")
    def _check_echo(self) -> "CompletionRequest":
        if self.echo and self.stream:
            raise ValueError("echo is not supported in a stream; leave one of the two out")
        return self

    @property
    def prompts(self) -> list[Any]:
        """All prompts: a list of texts or of lists of ids."""
        is_list_of_prompts = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return list(self.prompt) if is_list_of_prompts else [self.prompt]


class TokenizeRequest(BaseModel):
    """A text, or a conversation, which is tokenized as a prompt."""

    model: str | None = None
    prompt: Text | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    add_special_tokens: bool = True  # <|bos|> before a text


class DetokenizeRequest(BaseModel):
    model: str | None = None
    tokens: list[Natural]
