"""How the next token is chosen: the settings of a request, and the sampler for the rows of a whole batch.

Sampling is reproducible without a random generator and its state. A row draws one uniform number per position,
splitmix64(key + position), and takes the token at which the cumulative distribution exceeds it. The key comes from
seed, prompt and sample number. So no draw depends on the other rows: equal logits give equal tokens in any batch (how
far logits may differ: engine.py).
"""

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's increment (Steele, Lea, Flood 2014): 2^64 / golden ratio
# Temperatures up to this one count as 0, because logits divided by a tiny number overflow.
GREEDY_TEMPERATURE = 1e-4

Logprob = tuple[float, list[tuple[int, float]]]  # nats of the token; (token id, nats) of the most probable tokens


class Grammar(Protocol):
    """Which tokens an answer may consist of; its states are numbers. json_grammar.py has the only implementation."""

    start: int

    def advance(self, state: int, data: bytes) -> int: ...

    def is_complete(self, state: int) -> bool: ...

    def allowed(self, state: int, num_left: int) -> np.ndarray: ...


@dataclass(frozen=True)
class SamplingParams:
    """The settings of a request. The names are OpenAI's and vLLM's; top_k, top_p and min_p apply in this order."""

    max_tokens: int = 256
    temperature: float = 1.0  # 0 is greedy: always the most probable token
    top_k: int | None = None  # keep the k most probable tokens
    top_p: float = 1.0  # keep the most probable tokens that together reach this (Holtzman et al. 2020, §3.1)
    min_p: float = 0.0  # keep tokens with at least this fraction of the best one's probability (Nguyen et al. 2024, §3)
    seed: int = 0
    stop_ids: Collection[int] | None = None  # tokens that end the answer; None: those that end a turn of a chat
    stop: tuple[str, ...] = ()  # strings that end the answer and are not part of it
    logprobs: int | None = None  # how many alternatives to report with each token; None: report no probabilities
    echo: bool = False  # with logprobs: report the probabilities of the prompt's tokens as well
    logit_bias: Mapping[int, float] | None = None  # token id → number that is added to its logit
    presence_penalty: float = 0.0  # subtracted from the logit of every token that was sampled before
    frequency_penalty: float = 0.0  # subtracted as many times as the token was sampled before
    grammar: Grammar | None = None  # the answer is JSON that this grammar allows
    begins_with: tuple[int, ...] = ()  # tokens that the answer begins with; the model does not choose them
    # Whether the caller runs the tool for this expression: then the answer ends with the call. None: it never does.
    caller_runs: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        assert self.top_k is None or self.top_k >= 1, f"top_k {self.top_k}: expected None or at least 1"
        assert not isinstance(self.stop, str), "stop is a tuple of strings"

    @property
    def is_greedy(self) -> bool:
        return self.temperature <= GREEDY_TEMPERATURE


def row_key(seed: int, prompt: tuple[int, ...], sample: int) -> int:
    """The 64-bit key of a row's random numbers."""
    text = f"{seed}/{sample}/{','.join(map(str, prompt))}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One float32 in [0, 1) per row, (B,), from keys (B,) uint64 and positions (B,) uint64 (splitmix64)."""
    z = keys + positions * np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)) * 2.0**-24).astype(np.float32)  # 24 bits: exact in float32, never 1.0


class Sampler:
    """Draws the next tokens for one batch of rows; the engine makes a new one when the rows change."""

    def __init__(self, keys: Sequence[int], params: Sequence[SamplingParams], device: torch.device):
        def column(values: list[float] | list[int] | list[bool]) -> torch.Tensor:
            return torch.tensor(values, device=device)[:, None]  # (B, 1)

        self.keys = np.array(keys, dtype=np.uint64)
        self.temperatures = column([1.0 if row.is_greedy else row.temperature for row in params])
        self.widest_k = max((row.top_k for row in params if row.top_k), default=0)
        self.top_ks = column([row.top_k or 2**31 for row in params])
        self.top_ps = column([row.top_p for row in params])
        # min_p as a distance below the largest logit. None if no row wants it: that saves a pass over the vocabulary.
        floors = [math.log(row.min_p) if row.min_p > 0 else -math.inf for row in params]
        self.floors = column(floors) if max(floors) > -math.inf else None
        # Every method computes all rows, and `draw` picks from each the rows that asked for it. One batch rarely mixes
        # methods, so this nearly always runs one of them.
        methods = [self._method(row) for row in params]
        self.rows_of = {method: column([other == method for other in methods]) for method in dict.fromkeys(methods)}

    def _method(self, params: SamplingParams) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        if params.is_greedy:
            return self._greedy
        if params.top_p < 1:
            return self._top_p
        return self._top_k if params.top_k else self._all_tokens

    def draw(self, logits: torch.Tensor, positions: list[int]) -> torch.Tensor:
        """Next tokens (B,) int64 from logits (B, V) float32; the last tokens of the rows stand at `positions`."""
        numbers = uniforms(self.keys, np.array(positions, dtype=np.uint64))
        u = torch.from_numpy(numbers).to(logits.device)[:, None]  # (B, 1)
        drawn: torch.Tensor | None = None
        for method, rows in self.rows_of.items():
            tokens = method(logits, u)  # (B, 1)
            drawn = tokens if drawn is None else torch.where(rows, tokens, drawn)
        assert drawn is not None, "a batch has at least one row"
        return drawn.squeeze(1)

    def _greedy(self, logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return logits.argmax(-1, keepdim=True)

    def _all_tokens(self, logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return _invert(self._apply_min_p(logits / self.temperatures), u)

    def _top_k(self, logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        # topk sorts, so a wider k of another row only appends columns, which the mask then removes.
        best, ids = logits.topk(min(self.widest_k, logits.shape[1]), dim=-1)
        best = self._keep_top_k(best)
        return ids.gather(1, _invert(self._apply_min_p(best / self.temperatures), u))

    def _top_p(self, logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        best, ids = (logits / self.temperatures).sort(dim=-1, descending=True, stable=True)
        best = self._keep_top_k(best)
        probabilities = best.softmax(-1)  # (B, V), the largest first
        preceding = probabilities.cumsum(-1) - probabilities  # (B, V): Σ over all tokens more probable than this one
        preceding[:, 0] = -1.0  # the most probable token stays, whatever top_p is
        best = best.masked_fill(preceding >= self.top_ps, float("-inf"))
        return ids.gather(1, _invert(self._apply_min_p(best), u))

    def _keep_top_k(self, best: torch.Tensor) -> torch.Tensor:
        """Sorted logits (B, K) in which only the first top_k of each row stay; the others become −∞."""
        return best.masked_fill(torch.arange(best.shape[1], device=best.device) >= self.top_ks, float("-inf"))

    def _apply_min_p(self, scaled: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) after the temperature, in which the tokens that min_p excludes become −∞."""
        if self.floors is None:
            return scaled
        return scaled.masked_fill(scaled < scaled.amax(-1, keepdim=True) + self.floors, float("-inf"))


def _invert(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The index (B, 1) at which the cumulative distribution of softmax(logits) first exceeds u (B, 1)."""
    cumulative = torch.softmax(logits, dim=-1).cumsum(-1)  # (B, K)
    # u < 1 and right=True (first entry *above* u · total): a token of probability 0 is never drawn.
    return torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True).clamp_(max=logits.shape[1] - 1)


def logprobs(logits: torch.Tensor, tokens: Sequence[int], num_alternatives: int) -> list[Logprob]:
    """For each row of logits (B, V): the nats of its token, and the most probable tokens with theirs."""
    nats = logits.log_softmax(-1)  # (B, V)
    chosen = nats.gather(1, torch.tensor(tokens, device=nats.device)[:, None])[:, 0].tolist()
    best, ids = nats.topk(min(num_alternatives, nats.shape[1]), dim=-1)
    return [(value, list(zip(*pair))) for value, *pair in zip(chosen, ids.tolist(), best.tolist())]
