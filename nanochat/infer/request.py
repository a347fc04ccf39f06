"""A request to the engine and what comes back: Events token by token, or a whole Completion; stop strings."""

from collections import deque
from dataclasses import dataclass, field

import torch

from nanochat.infer.sampling import Logprob, SamplingParams
from nanochat.tokenizer import StreamDecoder, Tokenizer


@dataclass(frozen=True)
class Event:
    """One token of an answer. `text` is what it adds: "" for special tokens and for an incomplete character."""

    token_id: int
    text: str
    kind: str  # "text" | "python" (the tool's input) | "output" (the tool's result)
    stop_reason: str = ""  # only the last event has a reason
    logprob: Logprob | None = None  # None if the request asked for none, and for forced tokens


@dataclass(frozen=True)
class Completion:
    """The answer to a request. `ids` include tool blocks and the final stop token; `text` includes neither."""

    ids: list[int]
    mask: list[int]  # 1 = sampled by the model, 0 = forced (params.begins_with, the tool's result)
    text: str
    stop_reason: str
    tool_calls: list[tuple[str, str]]  # (expression, result), in order


@dataclass(eq=False)  # compared and hashed by identity: two equal requests are still two
class Request:
    """One sequence that is being generated: `ids` grows by one token a step until `stop_reason` is set."""

    prompt: tuple[int, ...]
    params: SamplingParams
    room: int  # tokens that `ids` may hold: params.max_tokens, or fewer if the context ends before
    key: int  # the key of its random numbers (sampling.row_key)
    stop_ids: frozenset[int]
    reader: "EventReader | None" = None  # None: nobody wants events
    bias: torch.Tensor | None = None  # (V,) is added to the logits: logit_bias minus the penalties so far
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)  # as in Completion
    # "" not finished | "stop" the model ended it | "length" no room is left | "cancel" |
    # "tool_calls" the caller is to run the tool
    stop_reason: str = ""
    tool_calls: list[tuple[str, str]] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)  # tokens to come that the model does not choose
    expression: list[int] | None = None  # tokens since <|python_start|>; None outside the tool's input
    events: list[Event] = field(default_factory=list)  # events that nobody has taken yet
    prompt_logprobs: list[Logprob] = field(default_factory=list)  # one for each of prompt[1:], if params.echo
    grammar_state: int = 0  # the state of params.grammar after `ids`
    num_reused: int = 0  # tokens of the prompt whose keys and values another request had computed
    # Seconds of time.monotonic() when it got a slot, when its prompt was read, and when it ended; 0 before.
    began: float = 0.0
    read: float = 0.0
    ended: float = 0.0

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.prompt) + len(self.ids)

    @property
    def last_two_ids(self) -> tuple[int, int]:
        """(the token before the newest, or −1 if there is none; the newest token): [5] → (−1, 5)."""
        previous_id, last_id = (-1, *self.prompt[-2:], *self.ids[-2:])[-2:]  # the last two of prompt and answer
        return previous_id, last_id

    def take_events(self) -> list[Event]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events


class EventReader:
    """Turns tokens into events that can be shown: whole characters only, and no part of a stop string.

    Stop strings are searched in the text outside tool blocks. An answer ends right before the first stop string. Text
    that may be the beginning of a stop string is delayed until the next tokens decide.
    """

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...] = ()):
        self.stops, self.delayed, self.kind = stops, "", "text"
        self.decoder = StreamDecoder(tokenizer)
        special = tokenizer.special_id
        self.opens = {special("<|python_start|>"): "python", special("<|output_start|>"): "output"}
        self.closes = {special("<|python_end|>"), special("<|output_end|>")}
        self.specials = set(tokenizer.specials.values())

    def push(self, token: int, stop_reason: str = "", logprob: Logprob | None = None) -> Event:
        """The event of the next token. Its stop reason is the given one, or "stop" if a stop string is complete."""
        kind = self.kind
        text = "" if token in self.specials else self.decoder.push(token)
        if stop_reason or token in self.specials:  # an incomplete character at the end of a block becomes U+FFFD
            text += self.decoder.finish()
        if token in self.opens or token in self.closes:
            self.kind = self.opens.get(token, "text")
        if kind == "text":
            text, stop_reason = self._cut(text, stop_reason, is_last=bool(stop_reason) or token in self.opens)
        if token in self.opens and not text:  # otherwise the event shows delayed text, so its kind is "text"
            kind = self.kind
        return Event(token, text, kind, stop_reason, logprob)

    def _cut(self, text: str, stop_reason: str, is_last: bool) -> tuple[str, str]:
        """The text that can be shown now, and the stop reason; `is_last`: no more text follows in this block."""
        text, self.delayed = self.delayed + text, ""
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            return text[:min(places)], "stop"
        if self.stops and not is_last:
            num_shown = len(text) - max(_overlap(text, stop) for stop in self.stops)
            text, self.delayed = text[:num_shown], text[num_shown:]
        return text, stop_reason


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`: ("one ST", "STOP") → 2."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
