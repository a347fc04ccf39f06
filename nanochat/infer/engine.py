"""The engine: many requests, one model, one token for each running request per step.

A request is a prompt (token ids) and its SamplingParams. One step does this:

1. finished requests leave and waiting requests take their slots (slots.py);
2. the model reads prompts ("prefill"): all tokens except the last. With `step_tokens` it reads at most this many tokens
   per step, so that running requests never wait long while the long prompt of another request is read;
3. one forward pass feeds every running request its last token (decode), and the sampler draws the next;
4. when a request has sampled <|python_end|>, the tool gets the text since <|python_start|>. The tokens
   <|output_start|> result <|output_end|> are then *forced*: fed like sampled tokens, but not chosen (mask 0).

Other requests change an answer by rounding at most: attention uses the row's own slot only, and the random numbers come
from (seed, prompt, sample number). Rounding has two causes, both from the number of rows: it decides in which order a
matrix product sums, and whether `decoder` or PyTorch computes the step (`Decoder.max_rows`). The logits then differ by
less than 1e-4 in fp32, by more in bf16; a token changes only where two are so nearly equal. In fp32 the tests find the
same tokens in any company.

`generate()` (evaluation, RL), `stream()` (the terminal) and the server's thread all drive the same `submit()` and
`step()`. One thread owns an engine.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch

from nanochat.infer.cache import SlotCache
from nanochat.infer.request import Completion, Event, EventReader, Request
from nanochat.infer.sampling import Logprob, Sampler, SamplingParams, logprobs, row_key
from nanochat.infer.slots import Occupant, Slots
from nanochat.model import GPT
from nanochat.tokenizer import Tokenizer

PREFILL_TOKENS = 4096  # prompt tokens (with padding) in one forward pass: bounds the memory that activations take
# With `step_tokens`, prompts are read in widths that are multiples of this. For each new shape of a bf16 matrix product
# oneDNN compiles a kernel (4 ms) and keeps 1,024 of them: some hundred MB in a server that sees every length of prompt.
WIDTH_MULTIPLE = 16
ECHO_ROWS = 256  # positions whose logits (V numbers each) exist at the same time when a prompt is scored: bounds memory
REFUSED = "error"  # what the model reads when the tool returns None: a refused expression must not look like a result


class Decoder(Protocol):
    """A faster way to compute a decode step, for at most `max_rows` rows: numba_decode.py, cuda_graphs.py."""

    max_rows: int

    def logits(self, ids: list[int], previous_ids: list[int], positions: list[int]) -> torch.Tensor:
        """fp32 logits (B, V) after the tokens `ids`, which stand at `positions` of slots 0 … B−1. previous_ids: the
        token before each of them, which smear mixes in (model/gpt.py), or −1 if there is none. The next call may
        overwrite the result."""


class Engine:
    """Generates with `model`, which is in eval mode.

    tool: a function of an expression that returns the result, or None to refuse. max_rows: requests that run at the
    same time. prefix_cache: finished requests keep their slots until others need them, so that the next turn of a chat
    reads only the new message; leave it off if the weights change between calls. step_tokens: prompt tokens that one
    step reads at most (default: no limit). decoder: returns a faster decode step for this model and cache, or None if
    it does not support them. max_len: tokens that a slot can hold (default: the context); `submit` does not check it,
    and a longer request ends in an AssertionError of the cache.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, tool: Callable[[str], str | None] | None = None,
                 max_rows: int = 64, prefix_cache: bool = False, step_tokens: int | None = None,
                 decoder: Callable[[GPT, SlotCache], Decoder | None] | None = None, max_len: int | None = None):
        self.model, self.tokenizer, self.tool = model, tokenizer, tool
        self.max_rows, self.step_tokens = max_rows, step_tokens
        self.config = config = model.config
        self.device = next(model.parameters()).device
        self.cache = SlotCache(config.n_layer, config.n_kv_head, config.head_dim, max_rows,
                               max_len or config.sequence_len, model.compute_dtype, self.device)
        self.slots = Slots(self.cache, max_rows, keep_finished=prefix_cache)
        self.decoder = decoder(model, self.cache) if decoder else None  # None: the model itself decodes
        self.num_prompt_tokens = 0  # prompt tokens that the model has read since the start
        self._sampler: Sampler | None = None
        self._sampled_rows: list[Request] = []  # the rows that the sampler was made for
        special = tokenizer.special_id
        self.default_stops = frozenset(map(special, ("<|assistant_end|>", "<|bos|>", "<|user_start|>")))
        self._python_start, self._python_end = special("<|python_start|>"), special("<|python_end|>")
        self._output_start, self._output_end = special("<|output_start|>"), special("<|output_end|>")
        self._specials = frozenset(tokenizer.specials.values())

    @property
    def running(self) -> list[Request]:
        """The requests that are being answered."""
        return [row.request for row in self.slots.running]

    def submit(self, prompt: Sequence[int], params: SamplingParams | None = None, *, sample: int = 0,
               events: bool = True) -> Request:
        """Queue a request; `step()` advances it. `sample`: the index of this answer among several to one prompt; it
        changes the random numbers. `events=False`: nobody takes the events, only `Request.ids` are wanted."""
        assert prompt, "a prompt needs at least one token, <|bos|> if nothing else"
        prompt, params = tuple(prompt), params or SamplingParams()
        room = min(params.max_tokens, self.config.sequence_len - len(prompt))  # ≤ 0 if the prompt fills the context
        bias = None
        if params.logit_bias or params.presence_penalty or params.frequency_penalty:
            bias = torch.zeros(self.config.vocab_size, device=self.device)  # (V,)
            for token, value in (params.logit_bias or {}).items():
                bias[token] = value
        stop_ids = self.default_stops if params.stop_ids is None else frozenset(params.stop_ids)
        reader = EventReader(self.tokenizer, params.stop) if events or params.stop else None
        request = Request(prompt, params, room, row_key(params.seed, prompt, sample), stop_ids, reader, bias)
        request.forced.extend(params.begins_with)
        if params.grammar is not None:
            request.grammar_state = params.grammar.start
        if params.echo and params.logprobs is not None and len(prompt) <= self.config.sequence_len:
            request.prompt_logprobs = self._score(prompt, params.logprobs)
        if room > 0:
            self.slots.waiting.append(request)
        else:
            request.stop_reason = "length"
            request.events.append(Event(-1, "", "text", "length"))
        return request

    def cancel(self, request: Request) -> None:
        """Stop a request; its slot is free from the next step on."""
        request.stop_reason = request.stop_reason or "cancel"

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """One token for every running request; returns the requests that got one."""
        self.slots.schedule()
        self._read_prompts()
        rows = self.running
        if rows:
            logits = self._decode(rows)  # (B, V)
            tokens = self._sample(rows, logits)
            for row, token, logprob in zip(rows, tokens, self._logprobs(rows, logits, tokens)):
                self._append(row, token, logprob)
        return rows

    def generate(self, prompts: Sequence[Sequence[int]], *, samples: int = 1,
                 **settings: Any) -> list[list[Completion]]:
        """`samples` completions for each prompt; `settings` are the fields of SamplingParams.

        A prompt that fills the context gets empty completions ("length").
        """
        params = SamplingParams(**settings)
        num_samples = Counter[tuple[int, ...]]()  # prompt → samples so far: a prompt listed twice gets new samples
        requests: list[list[Request]] = []
        for prompt in map(tuple, prompts):
            numbers = range(num_samples[prompt], num_samples[prompt] + samples)
            requests.append([self.submit(prompt, params, sample=number, events=False) for number in numbers])
            num_samples[prompt] += samples
        try:
            while any(not request.stop_reason for group in requests for request in group):
                self.step()
        finally:  # after an interrupt no request may keep running
            for request in (request for group in requests for request in group):
                self.cancel(request)
        return [[self._completion(request) for request in group] for group in requests]

    def stream(self, prompt: Sequence[int], **settings: Any) -> Iterator[Event]:
        """The events of one answer as they happen (`settings` as in `generate`); closing the iterator cancels it."""
        request = self.submit(prompt, SamplingParams(**settings))
        try:
            while not request.stop_reason:
                self.step()
                yield from request.take_events()
        finally:
            self.cancel(request)

    def _completion(self, request: Request) -> Completion:
        if request.reader is not None:  # with stop strings the events already hold the cut text
            text = "".join(event.text for event in request.events if event.kind == "text")
        else:
            outside, in_tool_block = [], False
            for token in request.ids:
                if token in (self._python_start, self._output_start):
                    in_tool_block = True
                elif token in (self._python_end, self._output_end):
                    in_tool_block = False
                elif not in_tool_block and token not in self._specials:
                    outside.append(token)
            text = self.tokenizer.decode(outside)
        return Completion(request.ids, request.mask, text, request.stop_reason, request.tool_calls)

    def _decode(self, rows: list[Request]) -> torch.Tensor:
        """Feed all running requests, in slots 0 … B−1, their last tokens; returns logits (B, V) for the next ones."""
        previous_ids, ids = map(list, zip(*(row.last_two_ids for row in rows)))
        positions = [row.length - 1 for row in rows]
        if self.decoder is not None and len(rows) <= self.decoder.max_rows:  # with more rows PyTorch is faster
            logits = self.decoder.logits(ids, previous_ids, positions)
        else:
            hidden = self._forward([[token] for token in ids], slice(0, len(ids)), positions,
                                   [[token] for token in previous_ids])
            logits = self.model.logits(hidden[:, 0])
        for occupant in self.slots.running:
            occupant.cached += 1
        # Only the tool may write <|output_start|> and <|output_end|>, whose ids are adjacent. In place: no other step
        # reads these logits.
        if self.tool is not None:
            logits[:, self._output_start:self._output_end + 1] = float("-inf")
        return logits

    def _forward(self, ids: list[list[int]], slots: slice | list[int], starts: list[int],
                 previous_ids: list[list[int]] | None = None) -> torch.Tensor:
        """The final hidden states (B, T, C) of `ids`, B rows of T tokens, whose keys and values are stored in `slots`
        from `starts` on.

        `previous_ids`: for each row the token before its first, −1 if there is none; None if all rows start at 0.
        """
        view = self.cache.plan(slots, starts, len(ids[0]))
        previous = None if previous_ids is None else torch.tensor(previous_ids, device=self.device)
        return self.model.hidden(torch.tensor(ids, device=self.device), cache=view, positions=view.positions,
                                 previous_ids=previous)

    def _sample(self, rows: list[Request], logits: torch.Tensor) -> list[int]:
        if self._sampler is None or rows != self._sampled_rows:  # the rows have changed
            self._sampler = Sampler([row.key for row in rows], [row.params for row in rows], self.device)
            self._sampled_rows = rows
        if any(row.bias is not None or row.params.grammar is not None for row in rows):
            logits = torch.stack([self._with_bias_and_grammar(line, row) for line, row in zip(logits, rows)])  # (B, V)
        tokens: list[int] = self._sampler.draw(logits, [row.length - 1 for row in rows]).tolist()
        return tokens

    def _with_bias_and_grammar(self, logits: torch.Tensor, row: Request) -> torch.Tensor:
        """A row's logits (V,) with its biases, and −∞ for the tokens that its grammar forbids."""
        if row.bias is not None:
            logits = logits + row.bias
        if row.params.grammar is not None:
            allowed = row.params.grammar.allowed(row.grammar_state, row.room - len(row.ids))
            logits = logits.masked_fill(torch.from_numpy(~allowed).to(logits.device), float("-inf"))
        return logits

    def _logprobs(self, rows: list[Request], logits: torch.Tensor, tokens: list[int]) -> list[Logprob | None]:
        """The log-probabilities of the sampled tokens, if requested: the model's own, before temperature and biases; if
        there is a tool, without <|output_start|> and <|output_end|> (`_decode`)."""
        nums = [None if row.forced else row.params.logprobs for row in rows]  # how many alternatives of each row
        if all(num is None for num in nums):
            return [None] * len(rows)
        scored = logprobs(logits, tokens, max(num for num in nums if num is not None))
        return [None if num is None else (nats, best[:num]) for num, (nats, best) in zip(nums, scored)]

    @torch.inference_mode()
    def _score(self, prompt: tuple[int, ...], num_alternatives: int) -> list[Logprob]:
        """The log-probabilities of prompt[1:], each given the tokens before it; one pass, without the cache."""
        scores: list[Logprob] = []
        if len(prompt) > 1:
            hidden = self.model.hidden(torch.tensor([prompt[:-1]], device=self.device))[0]  # (T, C)
            for first in range(0, len(hidden), ECHO_ROWS):
                logits = self.model.logits(hidden[first:first + ECHO_ROWS])
                scores += logprobs(logits, prompt[first + 1:first + 1 + len(logits)], num_alternatives)
        return scores

    def _append(self, row: Request, token: int, logprob: Logprob | None) -> None:
        """Give a request its next token: the sampled one, or the next forced token if there is one."""
        row.mask.append(0 if row.forced else 1)
        if row.forced:
            token = row.forced.popleft()
        elif row.bias is not None:
            is_new = token not in row.ids  # the presence penalty counts once per token
            row.bias[token] -= row.params.frequency_penalty + (row.params.presence_penalty if is_new else 0)
        row.ids.append(token)
        call = None  # the expression of a tool call that this token completes
        if token == self._python_start:
            row.expression = []
        elif row.expression is not None and token != self._python_end:
            row.expression.append(token)
        elif row.expression is not None:
            call, row.expression = self.tokenizer.decode(row.expression), None
        row.stop_reason = self._stop_reason(row, token, call)
        if row.reader is not None:  # the reader may detect a complete stop string, which ends the answer
            event = row.reader.push(token, row.stop_reason, logprob)
            row.events.append(event)
            row.stop_reason = event.stop_reason
        if row.stop_reason:
            row.ended = time.monotonic()
        elif call is not None:
            self._call_tool(row, call)

    def _stop_reason(self, row: Request, token: int, call: str | None) -> str:
        """Why the answer ends with `token`; "" if it goes on. `call`: the tool call that the token completes."""
        grammar = row.params.grammar
        if grammar is not None and token not in self._specials:
            row.grammar_state = grammar.advance(row.grammar_state, self.tokenizer.decode_bytes([token]))
        if token in row.stop_ids or grammar is not None and grammar.is_complete(row.grammar_state):
            return "stop"
        # The client itself runs this call (a function that the request offers), so the answer ends here.
        if call is not None and row.params.caller_runs is not None and row.params.caller_runs(call):
            return "tool_calls"
        return "length" if len(row.ids) >= row.room else ""

    def _call_tool(self, row: Request, expression: str) -> None:
        if self.tool is not None:
            result = self.tool(expression)
            result = REFUSED if result is None else result
            row.tool_calls.append((expression, result))
            row.forced.extend([self._output_start, *self.tokenizer.encode(result), self._output_end])

    def _read_prompts(self) -> None:
        """Read prompts within the step's token budget; requests whose prompt has been read join the running ones."""
        budget = float("inf")
        if self.step_tokens is not None:  # each running request uses one token of the budget for its decode
            budget = max(1, self.step_tokens - self.slots.num_running)
        while (unread := self.slots.to_read()) and budget >= 1:
            budget -= self._read_chunk(unread, int(min(budget, PREFILL_TOKENS)))  # at least one token
        self.slots.start_answering()

    def _width(self, num_tokens: int, budget: int) -> int:
        """The padded width for reading `num_tokens` tokens: rounded up, but within the budget."""
        if self.step_tokens is None:
            return min(num_tokens, budget)
        rounded = -(-num_tokens // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
        return rounded if rounded <= budget else budget // WIDTH_MULTIPLE * WIDTH_MULTIPLE or budget

    def _read_chunk(self, rows: list[Occupant], budget: int) -> int:
        """One pass over the first of `rows`: as many complete prompts as fit into `budget` tokens. If the first does
        not fit, a part of it.

        Rows are padded on the right, where causal attention never looks. Returns the tokens used, with padding.
        """
        batch, width = rows[:1], self._width(rows[0].unread, budget)
        for row in rows[1:]:
            wider = max(width, self._width(row.unread, budget))
            if wider * (len(batch) + 1) > budget:
                break
            batch.append(row)
            width = wider
        starts = [row.cached for row in batch]
        width = min(width, self.cache.max_len - max(starts))  # padding must not reach past the context
        chunks = [row.request.prompt[:-1][row.cached:row.cached + width] for row in batch]
        padded = [[*chunk, *[0] * (width - len(chunk))] for chunk in chunks]  # (B, width)
        previous_ids = None
        if any(starts):
            previous_ids = [[row.request.prompt[row.cached - 1] if row.cached else -1] for row in batch]
        self._forward(padded, [self.slots.occupants.index(row) for row in batch], starts, previous_ids)
        for row, chunk in zip(batch, chunks):
            row.cached += len(chunk)
            self.num_prompt_tokens += len(chunk)
        return width * len(batch)
