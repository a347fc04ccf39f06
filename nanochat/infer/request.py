"""What is asked of the engine (Request), what comes back (Event by event, or as a Completion), stop strings."""

from collections import deque
from dataclasses import dataclass, field

import torch

from nanochat.tokenizer import StreamDecoder

Logprob = tuple[float, list[tuple[int, float]]]  # of the token that was drawn; (token id, nats) of the likeliest ones


@dataclass(frozen=True)
class Event:
    """One token as it appears: `text` is what it adds, "" for specials and for a character not complete yet."""

    token_id: int
    text: str
    kind: str  # "text" | "python" (the tool's input) | "output" (its result)
    stop_reason: str = ""  # set on the last event only
    logprob: Logprob | None = None  # where asked for; forced tokens have none


@dataclass(frozen=True)
class Completion:
    """What one request came to. `ids` include tool blocks and the final stop token, `text` neither."""

    ids: list[int]
    mask: list[int]  # 1 = sampled, 0 = forced
    text: str
    stop_reason: str
    tool_calls: list[tuple[str, str]]  # (expression, result), in order


@dataclass(eq=False)
class Request:
    """One sequence being generated. `ids` grows by one token a step until `stop_reason` is set."""

    prompt: tuple[int, ...]
    max_tokens: int  # of `ids`, already cut to what fits the context
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    key: int  # of its random numbers
    stop_ids: frozenset[int]
    reader: "EventReader | None" = None  # None: nobody wants events
    logprobs: int | None = None  # how many alternatives beside the drawn token's
    bias: torch.Tensor | None = None  # (V,) added to the logits: logit_bias, less the penalties so far
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)  # 1 = sampled, 0 = forced tool output
    stop_reason: str = ""  # "" running | "stop" the model ended | "length" max_tokens or full context | "cancel"
    tool_calls: list[tuple[str, str]] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)
    expression: list[int] | None = None  # tokens since <|python_start|>
    events: list[Event] = field(default_factory=list)  # not yet taken
    prompt_logprobs: list[Logprob] = field(default_factory=list)  # of prompt[1:], where asked for
    # The engine's books: positions stored in its cache slot, the step it joined or left, whose positions it waits for.
    cached: int = 0
    since: int = 0
    donor: "tuple[Request, int] | None" = None

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.prompt) + len(self.ids)

    @property
    def unread(self) -> int:
        """Prompt tokens the model has yet to read before the first decode, which feeds the last one."""
        return len(self.prompt) - 1 - self.cached

    @property
    def last_id(self) -> int:
        return self.ids[-1] if self.ids else self.prompt[-1]

    @property
    def id_before_last(self) -> int:
        """−1 when there is none."""
        return (-1, *self.prompt[-2:], *self.ids[-2:])[-2]

    def take_events(self) -> list[Event]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events


class EventReader:
    """Turns tokens into events: whole characters only, and nothing of a stop string or of what may become one.

    Stop strings are looked for in the text outside tool blocks; what stands before one is the end of the answer.
    """

    def __init__(self, tokenizer, stops: tuple[str, ...] = ()):
        self.stops, self.held, self.kind = stops, "", "text"
        self.decoder = StreamDecoder(tokenizer)
        special = tokenizer.special_id
        self.opens = {special("<|python_start|>"): "python", special("<|output_start|>"): "output"}
        self.closes = {special("<|python_end|>"), special("<|output_end|>")}
        self.specials = set(tokenizer.specials.values())

    def push(self, token: int, reason: str = "", logprob: Logprob | None = None) -> Event:
        """The event of the next token; its stop_reason is `reason`, or "stop" where it completes a stop string."""
        kind = self.kind
        text = "" if token in self.specials else self.decoder.push(token)
        if reason or token in self.specials:  # bytes of an unfinished character become U+FFFD at the segment's end
            text += self.decoder.finish()
        if token in self.opens or token in self.closes:
            self.kind = self.opens.get(token, "text")
        if kind == "text":
            text, reason = self._without_stop(text, reason, is_last=bool(reason) or token in self.opens)
        if token in self.opens and not text:
            kind = self.kind
        return Event(token, text, kind, reason, logprob)

    def _without_stop(self, text: str, reason: str, is_last: bool) -> tuple[str, str]:
        """The text that can be shown by now, and why the answer ends, if it does."""
        text, self.held = self.held + text, ""
        found = [at for at in map(text.find, self.stops) if at >= 0]
        if found:
            return text[:min(found)], "stop"
        if self.stops and not is_last:
            keep = max(self._overlap(text, stop) for stop in self.stops)
            text, self.held = text[:len(text) - keep], text[len(text) - keep:]
        return text, reason

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """How many characters at the end of `text` are the beginning of `stop`."""
        return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
