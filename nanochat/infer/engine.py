"""The engine: many requests, one model, one token for each of them per step.

A request is a prompt (token ids) and its sampling settings. Running requests sit in cache slots 0…n−1; one step is

1. waiting requests join: all of the prompt but its last token goes through the model in one pass (prefill), requests
   with the same prompt share that work;
2. one forward pass feeds every running request its last token (decode) and samples the next;
3. the tool: once a request has sampled <|python_end|>, the text since <|python_start|> goes to `tool`, and
   <|output_start|> result <|output_end|> are *forced*: fed like sampled tokens, but not chosen by the model (mask 0);
4. finished requests leave, and the last running request moves into the gap.

So requests of any length and setting join and leave at any step, and a finished one costs nothing. What a request says
never depends on its neighbours: attention is per row, and random numbers come from (seed, prompt, sample number).
`generate()` (evaluation, RL), `stream()` (the terminal) and the server's thread drive the same `submit()` and `step()`.

One thread owns an engine. Not here: prefix reuse between turns, stop strings, int8 weights, CUDA graphs.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from nanochat.infer.cache import SlotCache
from nanochat.infer.sampler import Sampler, row_key
from nanochat.tokenizer import StreamDecoder

PREFILL_TOKENS = 4096  # prompt tokens (with padding) in one forward pass: bounds the memory activations take
REFUSED = "error"  # what the model reads when the tool refuses (returns None): a wrong expression must not look right


@dataclass(eq=False)
class Request:
    """One sequence being generated. `ids` grows by one token a step until `stop_reason` is set."""

    prompt: tuple[int, ...]
    max_tokens: int  # of `ids`, already cut to what fits the context
    temperature: float
    top_k: int | None
    key: int  # of its random numbers
    stop_ids: frozenset[int]
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)  # 1 = sampled, 0 = forced tool output
    stop_reason: str = ""  # "" running | "stop" the model ended | "length" max_tokens or full context | "cancel"
    tool_calls: list[tuple[str, str]] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)
    expression: list[int] | None = None  # tokens since <|python_start|>

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.prompt) + len(self.ids)

    @property
    def last_id(self) -> int:
        return self.ids[-1] if self.ids else self.prompt[-1]

    @property
    def id_before_last(self) -> int:
        """−1 when there is none."""
        return (-1, *self.prompt[-2:], *self.ids[-2:])[-2]


@dataclass(frozen=True)
class Completion:
    """What one request came to. `ids` include tool blocks and the final stop token, `text` neither."""

    ids: list[int]
    mask: list[int]  # 1 = sampled, 0 = forced
    text: str
    stop_reason: str
    tool_calls: list[tuple[str, str]]  # (expression, result), in order


@dataclass(frozen=True)
class Event:
    """One token as it appears: `text` is what it adds, "" for specials and for a character not complete yet."""

    token_id: int
    text: str
    kind: str  # "text" | "python" (the tool's input) | "output" (its result)
    stop_reason: str = ""  # set on the last event only


class Engine:
    """Generates with `model` (a GPT in eval mode); `tool(expression) -> result or None (= refused)`."""

    def __init__(self, model, tokenizer, tool: Callable[[str], str | None] | None = None, max_rows: int = 64):
        self.model, self.tokenizer, self.tool, self.max_rows = model, tokenizer, tool, max_rows
        self.config = config = model.config
        self.device = next(model.parameters()).device
        self.cache = SlotCache(config.n_layer, config.n_kv_head, config.head_dim, max_rows, config.sequence_len,
                               model.compute_dtype, self.device)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # running[i] owns cache slot i
        self._sampler: Sampler | None = None  # rebuilt when `running` changes
        special = tokenizer.special_id
        self.default_stops = frozenset(map(special, ("<|assistant_end|>", "<|bos|>", "<|user_start|>")))
        self._python_start, self._python_end = special("<|python_start|>"), special("<|python_end|>")
        self._output_start, self._output_end = special("<|output_start|>"), special("<|output_end|>")
        self._inside = {self._python_start: True, self._output_start: True,
                        self._python_end: False, self._output_end: False}
        self._specials = frozenset(tokenizer.specials.values())

    def submit(self, prompt: list[int], max_tokens: int = 256, temperature: float = 1.0, top_k: int | None = None,
               seed: int = 0, sample: int = 0, stop_ids=None) -> Request:
        """Queue a request; `step()` advances it. temperature 0 is greedy; `sample` numbers answers to one prompt."""
        assert prompt, "a prompt needs at least one token, <|bos|> if nothing else"
        assert top_k is None or top_k >= 1, f"top_k {top_k}: expected None or at least 1"
        prompt = tuple(prompt)
        room = min(max_tokens, self.config.sequence_len - len(prompt))
        stops = self.default_stops if stop_ids is None else frozenset(stop_ids)
        request = Request(prompt, room, temperature, top_k, row_key(seed, prompt, sample), stops)
        if room <= 0:
            request.stop_reason = "length"
        else:
            self.waiting.append(request)
        return request

    def cancel(self, request: Request) -> None:
        """Stop a request: its slot is free from the next step on."""
        if not request.stop_reason:
            request.stop_reason = "cancel"

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """One token for every running request; returns those that got one. Nothing to do: an empty list."""
        self._remove_finished()
        self._admit()
        rows = self.running
        if not rows:
            return []
        if self._sampler is None:
            self._sampler = Sampler([row.key for row in rows], [row.temperature for row in rows],
                                    [row.top_k for row in rows], self.device)
        positions = [row.length - 1 for row in rows]  # of the token being fed
        hidden = self._hidden([[row.last_id] for row in rows], slice(0, len(rows)), positions,
                              [[row.id_before_last] for row in rows])  # (B, 1, C)
        logits = self.model.logits(hidden[:, 0])  # (B, V)
        if self.tool is not None:  # only the tool may speak as the tool
            logits[:, self._output_start:self._output_end + 1] = float("-inf")  # neighbours in every vocabulary
        for row, token in zip(rows, self._sampler.draw(logits, positions).tolist()):
            self._take(row, token)
        return list(rows)

    def generate(self, prompts: list[list[int]], max_tokens: int = 256, temperature: float = 1.0,
                 top_k: int | None = None, seed: int = 0, samples: int = 1, stop_ids=None) -> list[list[Completion]]:
        """`samples` completions for each prompt. A prompt that fills the context gets empty ones ("length")."""
        seen: dict[tuple[int, ...], int] = {}
        requests = []
        for prompt in map(tuple, prompts):
            first = seen.get(prompt, 0)  # a prompt listed twice gets new samples, wherever it stands in the list
            seen[prompt] = first + samples
            requests.append([self.submit(prompt, max_tokens, temperature, top_k, seed, first + i, stop_ids)
                             for i in range(samples)])
        try:
            while any(not row.stop_reason for group in requests for row in group):
                self.step()
        finally:  # interrupted: leave nothing behind
            for row in (row for group in requests for row in group):
                self.cancel(row)
        return [[self.completion(row) for row in group] for group in requests]

    def stream(self, prompt: list[int], **settings) -> Iterator[Event]:
        """Events of one answer as they happen (`settings` as in `submit`); closing the iterator frees its slot."""
        request = self.submit(prompt, **settings)
        reader = EventReader(self.tokenizer, request)
        try:
            while not request.stop_reason:
                self.step()
                yield from reader.read()
        finally:
            self.cancel(request)

    def completion(self, request: Request) -> Completion:
        shown, inside = [], False  # inside a tool block
        for token in request.ids:
            inside = self._inside.get(token, inside)
            if not inside and token not in self._specials:
                shown.append(token)
        text = self.tokenizer.decode(shown)
        return Completion(request.ids, request.mask, text, request.stop_reason, request.tool_calls)

    def _hidden(self, ids: list[list[int]], slots: slice, starts: list[int],
                before: list[list[int]] | None = None) -> torch.Tensor:
        """The last layer (B, T, C) for `ids` (B lists of T tokens), stored in `slots` from positions `starts` on.

        `before`: the token in front of each row's first, None when the rows start at 0.
        """
        positions = self.cache.plan(slots, starts, len(ids[0]))
        return self.model.hidden(torch.tensor(ids, device=self.device), cache=self.cache, positions=positions,
                                 before=None if before is None else torch.tensor(before, device=self.device))

    def _take(self, row: Request, token: int) -> None:
        """Give a row its next token: the sampled one, or the one the tool's answer forces."""
        row.mask.append(0 if row.forced else 1)
        token = row.forced.popleft() if row.forced else token
        row.ids.append(token)
        if token in row.stop_ids:
            row.stop_reason = "stop"
        elif len(row.ids) >= row.max_tokens:
            row.stop_reason = "length"
        elif token == self._python_start:
            row.expression = []
        elif row.expression is not None:
            if token == self._python_end:
                self._call_tool(row)
            else:
                row.expression.append(token)

    def _call_tool(self, row: Request) -> None:
        expression, row.expression = self.tokenizer.decode(row.expression), None
        if self.tool is None:
            return
        result = self.tool(expression)
        result = REFUSED if result is None else result
        row.tool_calls.append((expression, result))
        row.forced.extend([self._output_start, *self.tokenizer.encode(result), self._output_end])

    def _remove_finished(self) -> None:
        """Finished rows leave; the last running row moves into each gap, so slots 0…n−1 stay dense."""
        for slot in range(len(self.running) - 1, -1, -1):
            if not self.running[slot].stop_reason:
                continue
            last = self.running.pop()
            self._sampler = None
            if slot < len(self.running):
                self.running[slot] = last
                self.cache.copy(len(self.running), slot, last.length - 1)

    def _admit(self) -> None:
        """Waiting requests take the free slots, at least an eighth of all at a time so that prefills are batches."""
        self.waiting = deque(row for row in self.waiting if not row.stop_reason) if self.waiting else self.waiting
        num_free = self.max_rows - len(self.running)
        if not self.waiting or num_free < min(len(self.waiting), max(1, self.max_rows // 8)):
            return
        joining = [self.waiting.popleft() for _ in range(min(num_free, len(self.waiting)))]
        slot_of = {row.prompt: slot for slot, row in enumerate(self.running)}  # whose keys and values can be copied
        new = sorted({row.prompt: row for row in joining if row.prompt not in slot_of}.values(),
                     key=lambda row: len(row.prompt))
        for chunk in _chunks(new, PREFILL_TOKENS):
            slots = slice(len(self.running), len(self.running) + len(chunk))
            self._prefill(chunk, slots)
            slot_of.update({row.prompt: slots.start + i for i, row in enumerate(chunk)})
            self.running.extend(chunk)
        for row in (row for row in joining if row not in new):
            self.cache.copy(slot_of[row.prompt], len(self.running), len(row.prompt) - 1)
            self.running.append(row)
        self._sampler = None

    def _prefill(self, rows: list[Request], slots: slice) -> None:
        """Store all prompt tokens but the last, padded on the right (causal attention never looks there)."""
        width = max(len(row.prompt) for row in rows) - 1
        if width:
            ids = [[*row.prompt[:-1], *[0] * (width + 1 - len(row.prompt))] for row in rows]
            self._hidden(ids, slots, [0] * len(rows))


class EventReader:
    """Turns the tokens a request has received into events, whole characters only; `read()` gives the new ones."""

    def __init__(self, tokenizer, request: Request):
        self.tokenizer, self.request = tokenizer, request
        self.num_read, self.kind = 0, "text"
        self.decoder = StreamDecoder(tokenizer)
        special = tokenizer.special_id
        self.opens = {special("<|python_start|>"): "python", special("<|output_start|>"): "output"}
        self.closes = {special("<|python_end|>"), special("<|output_end|>")}
        self.specials = set(tokenizer.specials.values())

    def read(self) -> list[Event]:
        request = self.request
        events = []
        while self.num_read < len(request.ids):
            token = request.ids[self.num_read]
            self.num_read += 1
            reason = request.stop_reason if self.num_read == len(request.ids) else ""
            events.append(self._event(token, reason))
        return events

    def _event(self, token: int, reason: str) -> Event:
        self.kind = kind = self.opens.get(token, self.kind)
        text = "" if token in self.specials else self.decoder.push(token)
        if reason or token in self.specials:  # bytes of an unfinished character become U+FFFD at the segment's end
            text += self.decoder.finish()
        if token in self.closes:
            self.kind = "text"
        return Event(token, text, kind, reason)


def _chunks(rows: list[Request], budget: int) -> Iterator[list[Request]]:
    """Consecutive rows whose padded prompts fit `budget` tokens together; `rows` are sorted by prompt length."""
    chunk: list[Request] = []
    for row in rows:
        if chunk and len(row.prompt) * (len(chunk) + 1) > budget:
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk
