"""The engine: many requests, one model, one token for each of them per step.

A request is a prompt (token ids) and its sampling settings. Every request in the engine owns a cache slot; those being
answered sit in slots 0…n−1, so that a step reads a view of the cache. One step is

1. finished requests leave, and the last one of the n moves into each gap: a finished request costs nothing;
2. waiting requests take free slots, with the longest beginning of their prompt that another slot holds already (below);
3. prompts are read, all but their last token: whole when `step_tokens` is None, else in chunks, so that those who are
   being answered never wait for more than `step_tokens` tokens of other people's prompts;
4. one forward pass feeds every running request its last token (decode) and samples the next;
5. the tool: once a request has sampled <|python_end|>, the text since <|python_start|> goes to `tool`, and
   <|output_start|> result <|output_end|> are *forced*: fed like sampled tokens, but not chosen by the model (mask 0).

What a request says never depends on its neighbours: attention is per row, and random numbers come from (seed, prompt,
sample number). Requests with the same prompt read it once. With `prefix_cache` finished requests stay in their slots
until these are needed (the longest unused goes first), and any common beginning is shared: a chat's next turn reads
only the new message. Leave it off where the weights change between calls.
`generate()` (evaluation, RL), `stream()` (the terminal) and the server's thread drive the same `submit()` and `step()`.

One thread owns an engine. Not here: paging (a slot holds a whole context).
"""

from collections import deque
from collections.abc import Callable, Iterator

import torch

from nanochat.infer.cache import SlotCache
from nanochat.infer.graphs import Graphs
from nanochat.infer.loops import Loops
from nanochat.infer.request import Completion, Event, EventReader, Logprob, Request
from nanochat.infer.sampler import Sampler, row_key

PREFILL_TOKENS = 4096  # prompt tokens (with padding) in one forward pass: bounds the memory activations take
MIN_SHARED = 16  # tokens of common beginning that are worth copying (or waiting for)
COLDEST = 1e-4  # temperatures below are greedy: dividing by them would overflow
REFUSED = "error"  # what the model reads when the tool refuses (returns None): a wrong expression must not look right


class Engine:
    """Generates with `model` (a GPT in eval mode); `tool(expression) -> result or None (= refused)`.

    `static_shapes`: decode with CUDA graphs (graphs.py), in a cache reserved whole. `loops`: few rows on a CPU by
    loops.py, where it can: 2 to 14 times as fast, with sums in fp32 whatever the model's dtype.
    """

    def __init__(self, model, tokenizer, tool: Callable[[str], str | None] | None = None, max_rows: int = 64,
                 prefix_cache: bool = False, step_tokens: int | None = None, static_shapes: bool = False,
                 loops: bool = False):
        self.model, self.tokenizer, self.tool, self.max_rows = model, tokenizer, tool, max_rows
        self.prefix_cache, self.step_tokens = prefix_cache, step_tokens
        self.config = config = model.config
        self.device = next(model.parameters()).device
        self.cache = SlotCache(config.n_layer, config.n_kv_head, config.head_dim, max_rows + static_shapes,
                               config.sequence_len, model.compute_dtype, self.device)
        self.graphs = Graphs(model, self.cache) if static_shapes else None
        self.loops = Loops(model, self.cache) if loops and Loops.can(model) else None
        self.waiting: deque[Request] = deque()
        self.slots: list[Request | None] = [None] * max_rows  # whose keys and values each cache slot holds
        self.num_running = 0  # slots[:num_running] are being answered
        self.num_steps = self.num_prompt_tokens = self.num_reused_tokens = 0  # since the start
        self._sampler: Sampler | None = None  # rebuilt when the running ones change
        special = tokenizer.special_id
        self.default_stops = frozenset(map(special, ("<|assistant_end|>", "<|bos|>", "<|user_start|>")))
        self._python_start, self._python_end = special("<|python_start|>"), special("<|python_end|>")
        self._output_start, self._output_end = special("<|output_start|>"), special("<|output_end|>")
        self._inside = {self._python_start: True, self._output_start: True,
                        self._python_end: False, self._output_end: False}
        self._specials = frozenset(tokenizer.specials.values())

    @property
    def running(self) -> list[Request]:
        """The requests being answered, in the order of their slots."""
        return self.slots[:self.num_running]

    @property
    def reading(self) -> list[Request]:
        """The requests whose prompts are being read, those that came first in front."""
        rows = [row for row in self.slots[self.num_running:] if row is not None and not row.stop_reason]
        return sorted(rows, key=lambda row: (row.since, row.donor is not None, row.unread))

    def submit(self, prompt: list[int], max_tokens: int = 256, temperature: float = 1.0, top_k: int | None = None,
               seed: int = 0, sample: int = 0, stop_ids=None, *, top_p: float = 1.0, min_p: float = 0.0,
               stop: tuple[str, ...] = (), logprobs: int | None = None, echo: bool = False,
               logit_bias: dict[int, float] | None = None, presence_penalty: float = 0.0,
               frequency_penalty: float = 0.0, events: bool = True) -> Request:
        """Queue a request; `step()` advances it. temperature 0 is greedy; `sample` numbers answers to one prompt.

        stop: strings that end the answer and are no part of it. logprobs: how many alternatives to report with each
        token (None: not even its own), with `echo` for the prompt as well. The penalties are OpenAI's: subtracted from
        a token's logit once, and once for each time it was sampled. `events=False` saves the work of making them.
        """
        assert prompt, "a prompt needs at least one token, <|bos|> if nothing else"
        assert top_k is None or top_k >= 1, f"top_k {top_k}: expected None or at least 1"
        assert not isinstance(stop, str), "stop is a tuple of strings"
        prompt = tuple(prompt)
        room = min(max_tokens, self.config.sequence_len - len(prompt))
        bias = None
        if logit_bias or presence_penalty or frequency_penalty:
            bias = torch.zeros(self.config.vocab_size, device=self.device)
            for token, value in (logit_bias or {}).items():
                bias[token] = value
        request = Request(prompt, room, temperature if temperature > COLDEST else 0.0, top_k, top_p, min_p,
                          row_key(seed, prompt, sample),
                          self.default_stops if stop_ids is None else frozenset(stop_ids),
                          EventReader(self.tokenizer, tuple(stop)) if events or stop else None, logprobs, bias,
                          presence_penalty, frequency_penalty)
        if echo and logprobs is not None and len(prompt) <= self.config.sequence_len:
            request.prompt_logprobs = self._score(prompt, logprobs)
        if room <= 0:
            request.stop_reason = "length"
            request.events.append(Event(-1, "", "text", "length"))
        else:
            self.waiting.append(request)
        return request

    def cancel(self, request: Request) -> None:
        """Stop a request: its slot is free from the next step on."""
        if not request.stop_reason:
            request.stop_reason = "cancel"

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """One token for every running request; returns those that got one."""
        self.num_steps += 1
        self._remove_finished()
        self._admit()
        self._read_prompts()
        rows = self.running
        if not rows:
            return []
        if self._sampler is None:
            self._sampler = Sampler([row.key for row in rows], [row.temperature for row in rows],
                                    [row.top_k for row in rows], self.device, [row.top_p for row in rows],
                                    [row.min_p for row in rows])
        positions = [row.length - 1 for row in rows]  # of the token being fed
        logits = self._decode([row.last_id for row in rows], [row.id_before_last for row in rows], positions)
        if self.tool is not None:  # only the tool may speak as the tool
            logits[:, self._output_start:self._output_end + 1] = float("-inf")  # neighbours in every vocabulary
        biased = logits
        if any(row.bias is not None for row in rows):
            biased = torch.stack([one if row.bias is None else one + row.bias for one, row in zip(logits, rows)])
        tokens = self._sampler.draw(biased, positions).tolist()
        logprobs = self._logprobs(rows, logits, tokens)
        for row, token in zip(rows, tokens):
            row.cached = row.length
            self._take(row, token, logprobs.get(row))
        return rows

    def generate(self, prompts: list[list[int]], max_tokens: int = 256, temperature: float = 1.0,
                 top_k: int | None = None, seed: int = 0, samples: int = 1, stop_ids=None,
                 **settings) -> list[list[Completion]]:
        """`samples` completions for each prompt. A prompt that fills the context gets empty ones ("length")."""
        seen: dict[tuple[int, ...], int] = {}
        requests = []
        for prompt in map(tuple, prompts):
            first = seen.get(prompt, 0)  # a prompt listed twice gets new samples, wherever it stands in the list
            seen[prompt] = first + samples
            requests.append([self.submit(prompt, max_tokens, temperature, top_k, seed, first + i, stop_ids,
                                         events=False, **settings) for i in range(samples)])
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
        try:
            while not request.stop_reason:
                self.step()
                yield from request.take_events()
        finally:
            self.cancel(request)

    def completion(self, request: Request) -> Completion:
        """A request as it stands now."""
        if request.reader is not None and request.reader.stops:  # stop strings have been cut off
            text = "".join(event.text for event in request.events if event.kind == "text")
        else:
            shown, inside = [], False  # inside a tool block
            for token in request.ids:
                inside = self._inside.get(token, inside)
                if not inside and token not in self._specials:
                    shown.append(token)
            text = self.tokenizer.decode(shown)
        return Completion(request.ids, request.mask, text, request.stop_reason, request.tool_calls)

    def _decode(self, ids: list[int], before: list[int], positions: list[int]) -> torch.Tensor:
        """Logits (B, V) after the tokens `ids`, one for each of slots 0…B−1."""
        if self.graphs is not None:
            return self.graphs.logits(ids, before, positions)
        if self.loops is not None and len(ids) <= self.loops.most_rows:
            return self.loops.logits(ids, before, positions)
        hidden = self._hidden([[one] for one in ids], slice(0, len(ids)), positions, [[one] for one in before])
        return self.model.logits(hidden[:, 0])

    def _hidden(self, ids: list[list[int]], slots: slice | list[int], starts: list[int],
                before: list[list[int]] | None = None) -> torch.Tensor:
        """The last layer (B, T, C) for `ids` (B lists of T tokens), stored in `slots` from positions `starts` on.

        `before`: the token in front of each row's first, None when the rows start at 0.
        """
        positions = self.cache.plan(slots, starts, len(ids[0]))
        return self.model.hidden(torch.tensor(ids, device=self.device), cache=self.cache, positions=positions,
                                 previous_ids=None if before is None else torch.tensor(before, device=self.device))

    @torch.inference_mode()
    def _score(self, prompt: tuple[int, ...], num_alternatives: int) -> list[Logprob]:
        """What the model thought of prompt[1:], each given what stands before it; in one pass, without the cache."""
        hidden = self.model.hidden(torch.tensor([prompt[:-1]], device=self.device))[0] if prompt[1:] else []  # (T, C)
        found = []
        for first in range(0, len(prompt) - 1, 256):  # the logits of 256 positions at a time
            part = hidden[first:first + 256]
            found += _logprobs(self.model.logits(part), prompt[first + 1:first + 1 + len(part)], num_alternatives)
        return found

    def _logprobs(self, rows: list[Request], logits: torch.Tensor, tokens: list[int]) -> dict[Request, Logprob]:
        """Of the sampled tokens of those rows that want to know; before temperature, biases and the like."""
        wanted = [i for i, row in enumerate(rows) if row.logprobs is not None and not row.forced]
        most = max((rows[i].logprobs for i in wanted), default=0)
        found = _logprobs(logits[wanted], [tokens[i] for i in wanted], most) if wanted else []
        return {rows[i]: (own, best[:rows[i].logprobs]) for i, (own, best) in zip(wanted, found)}

    def _take(self, row: Request, token: int, logprob: Logprob | None = None) -> None:
        """Give a row its next token: the sampled one, or the one the tool's answer forces."""
        row.mask.append(0 if row.forced else 1)
        if row.bias is not None and not row.forced:
            row.bias[token] -= row.frequency_penalty + (row.presence_penalty if token not in row.ids else 0)
        token = row.forced.popleft() if row.forced else token
        row.ids.append(token)
        if token in row.stop_ids:
            row.stop_reason = "stop"
        elif len(row.ids) >= row.max_tokens:
            row.stop_reason = "length"
        if row.reader is not None:
            row.events.append(row.reader.push(token, row.stop_reason, logprob))
            row.stop_reason = row.events[-1].stop_reason
        if row.stop_reason:
            return
        if token == self._python_start:
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
        for slot, row in enumerate(self.slots):
            if row is not None and row.stop_reason and not self.prefix_cache and slot >= self.num_running:
                self.slots[slot] = None
        for slot in range(self.num_running - 1, -1, -1):
            row = self.slots[slot]
            if row.stop_reason:
                row.since = self.num_steps
                if not self.prefix_cache:
                    self.slots[slot] = None
                self.num_running -= 1
                self._swap(slot, self.num_running)

    def _swap(self, slot: int, other: int) -> None:
        """Two slots change places."""
        self._sampler = None
        if slot != other:
            lengths = [0 if self.slots[i] is None else self.slots[i].cached for i in (slot, other)]
            self.cache.swap(slot, other, *lengths)
            self.slots[slot], self.slots[other] = self.slots[other], self.slots[slot]

    def _admit(self) -> None:
        """Waiting requests take the free slots, at least an eighth of all at a time so that prefills are batches."""
        if not self.waiting:
            return
        self.waiting = deque(row for row in self.waiting if not row.stop_reason)
        num_free = sum(row is None or bool(row.stop_reason) for row in self.slots)
        if not self.waiting or num_free < min(len(self.waiting), max(1, self.max_rows // 8)):
            return
        joining = [self.waiting.popleft() for _ in range(min(num_free, len(self.waiting)))]
        known = {row.prompt for row in self.slots if row is not None and not row.stop_reason}
        first = sorted({row.prompt: row for row in joining if row.prompt not in known}.values(),
                       key=lambda row: len(row.prompt))
        for row in [*first, *(row for row in joining if row not in first)]:
            self._place(row)

    def _place(self, row: Request) -> None:
        """Give a request a slot, and what another one holds of the beginning of its prompt."""
        row.since = self.num_steps
        donor, shared = None, 0
        for other in filter(None, self.slots):
            alive = not other.stop_reason
            if not (self.prefix_cache or alive and other.prompt == row.prompt):
                continue
            stored = [*other.prompt, *other.ids][:max(other.cached, len(other.prompt) - 1 if alive else 0)]
            common = _common(stored, row.prompt[:-1])
            if common > shared and (common >= MIN_SHARED or other.prompt == row.prompt):
                donor, shared = other, common
                if shared == len(row.prompt) - 1:
                    break
        if None in self.slots:
            slot = self.slots.index(None)
        else:
            free = [i for i, other in enumerate(self.slots) if other.stop_reason]
            slot = min(free, key=lambda i: self.slots[i].since)
        if donor is not None and donor.stop_reason and 2 * shared >= donor.cached:  # little else would be lost
            slot = self.slots.index(donor)
        taken, self.slots[slot] = self.slots[slot], row
        if donor is not None and donor is taken:
            row.cached = shared
            self.num_reused_tokens += shared
        elif donor is not None:
            row.donor = (donor, shared)
            self._copy_shared(row)

    def _copy_shared(self, row: Request) -> None:
        """Copy what the donor was to give, once it has it; a donor that has left gives what it had."""
        donor, shared = row.donor
        if donor in self.slots and donor.cached < shared and not donor.stop_reason:
            return
        row.donor = None
        if donor in self.slots:
            row.cached = min(shared, donor.cached)
            self.num_reused_tokens += row.cached
            self.cache.copy(self.slots.index(donor), self.slots.index(row), row.cached)

    def _read_prompts(self) -> None:
        """Read prompts within the budget of tokens (with padding); rows that are done join the running ones."""
        budget = float("inf") if self.step_tokens is None else max(1, self.step_tokens - self.num_running)
        while rows := self.reading:
            for row in (row for row in rows if row.donor is not None):
                self._copy_shared(row)
            rows = [row for row in rows if row.donor is None and row.unread]
            if not rows or budget < 1:
                break
            budget -= self._read_chunk(rows, min(budget, PREFILL_TOKENS))
        for row in (row for row in self.reading if row.donor is None and not row.unread):
            self._swap(self.slots.index(row), self.num_running)
            self.num_running += 1

    def _read_chunk(self, rows: list[Request], budget: int) -> int:
        """One pass over the first rows whose prompts fit `budget` tokens together, or over a part of the first one's.

        Rows are padded on the right, where causal attention never looks. Returns the tokens it took, with padding.
        """
        group, width = rows[:1], min(rows[0].unread, budget)
        for row in rows[1:]:
            wider = max(width, row.unread)
            if wider * (len(group) + 1) > budget:
                break
            group.append(row)
            width = wider
        starts = [row.cached for row in group]
        width = min(width, self.config.sequence_len - max(starts))  # padding must not reach past the context
        ids = [list(row.prompt[:-1][row.cached:row.cached + width]) for row in group]
        before = [[row.prompt[row.cached - 1] if row.cached else -1] for row in group] if any(starts) else None
        self.num_prompt_tokens += sum(map(len, ids))
        self._hidden([[*own, *[0] * (width - len(own))] for own in ids], [self.slots.index(row) for row in group],
                     starts, before)
        for row, own in zip(group, ids):
            row.cached += len(own)
        return width * len(group)


def _common(one: list[int], other: tuple[int, ...]) -> int:
    """How many tokens two sequences have in common at the beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def _logprobs(logits: torch.Tensor, tokens, num_alternatives: int) -> list[Logprob]:
    """For each row of logits (B, V): the log-probability of its token, and the likeliest tokens with theirs (nats)."""
    nats = logits.log_softmax(-1)
    own = nats.gather(1, torch.tensor(tokens, device=nats.device)[:, None])[:, 0].tolist()
    best, ids = nats.topk(min(num_alternatives, nats.shape[1]), dim=-1)
    return [(one, list(zip(*pair))) for one, *pair in zip(own, ids.tolist(), best.tolist())]
