"""From logits to the next token, for a whole batch at once, reproducibly.

A row draws one uniform number per position from a counter-based generator, splitmix64(key + position), and inverts the
cumulative distribution with it. No generator object and no state: what a row draws depends on its own key and position
only, never on the rows beside it, so a request gives the same text alone and in any batch.
"""

import hashlib
import math

import numpy as np
import torch

GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's increment (Steele, Lea, Flood 2014): 2^64 / golden ratio


def row_key(seed: int, prompt: tuple[int, ...], sample: int) -> int:
    """The 64-bit key of a row's random numbers: the same seed, prompt and sample number give the same text."""
    text = f"{seed}/{sample}/{','.join(map(str, prompt))}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One float32 in [0, 1) per row, from keys (B,) uint64 and positions (B,) uint64."""
    z = keys + positions * np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)) * 2.0**-24).astype(np.float32)  # 24 bits: exact in float32, never 1.0


class Sampler:
    """The sampling settings of the rows of one batch; made anew when the rows change, used every step.

    temperature 0 is greedy. top_k keeps the k likeliest tokens, top_p (Holtzman et al. 2020, section 3.1) the likeliest
    whose probabilities together reach p, min_p (Nguyen et al. 2024, section 3) those at least p times as likely as the
    likeliest; they apply in this order, after the temperature.
    """

    def __init__(self, keys: list[int], temperatures: list[float], top_ks: list[int | None], device: torch.device,
                 top_ps: list[float] | None = None, min_ps: list[float] | None = None):
        def column(values: list) -> torch.Tensor:
            return torch.tensor(values, device=device)[:, None]  # (B, 1)

        top_ps, min_ps = top_ps or [1.0] * len(keys), min_ps or [0.0] * len(keys)
        self.keys = np.array(keys, dtype=np.uint64)
        self.temperatures = column([t or 1.0 for t in temperatures])
        kinds = ["greedy" if t == 0 else "top_p" if p < 1 else "top_k" if k else "full"
                 for t, k, p in zip(temperatures, top_ks, top_ps)]
        self.rows_of = {kind: column([other == kind for other in kinds]) for kind in dict.fromkeys(kinds)}
        self.widest = max((k for k in top_ks if k), default=0)
        self.top_ks = column([k or 2**31 for k in top_ks])
        self.top_ps = column(top_ps)
        # A floor below the largest logit; None where nobody wants one, which saves a pass over the vocabulary.
        self.floors = column([math.log(p) if p > 0 else -math.inf for p in min_ps]) if any(min_ps) else None

    def draw(self, logits: torch.Tensor, positions: list[int]) -> torch.Tensor:
        """Next tokens (B,) int64 from logits (B, V) float32, for tokens that will stand at `positions`."""
        numbers = uniforms(self.keys, np.array(positions, dtype=np.uint64))
        u = torch.from_numpy(numbers).to(logits.device)[:, None]  # (B, 1)
        drawn = None
        for kind, rows in self.rows_of.items():  # nearly always one kind
            choice = getattr(self, f"_{kind}")(logits, u)
            drawn = choice if drawn is None else torch.where(rows, choice, drawn)
        return drawn.squeeze(1)

    def _greedy(self, logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return logits.argmax(-1, keepdim=True)

    def _full(self, logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return _invert(self._above_floor(logits / self.temperatures), u)

    def _top_k(self, logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        best, ids = logits.topk(min(self.widest, logits.shape[1]), dim=-1)  # sorted, so a wider batch only appends
        rank = torch.arange(best.shape[1], device=logits.device)
        best = best.masked_fill(rank >= self.top_ks, float("-inf"))
        return ids.gather(1, _invert(self._above_floor(best / self.temperatures), u))

    def _top_p(self, logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        best, ids = (logits / self.temperatures).sort(dim=-1, descending=True, stable=True)
        best = best.masked_fill(torch.arange(best.shape[1], device=logits.device) >= self.top_ks, float("-inf"))
        probabilities = best.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # of the tokens likelier than this one
        before[:, 0] = -1.0  # the likeliest stays, whatever top_p
        best = best.masked_fill(before >= self.top_ps, float("-inf"))
        return ids.gather(1, _invert(self._above_floor(best), u))

    def _above_floor(self, scaled: torch.Tensor) -> torch.Tensor:
        """Logits (B, K), those of tokens that min_p excludes at −∞."""
        if self.floors is None:
            return scaled
        return scaled.masked_fill(scaled < scaled.amax(-1, keepdim=True) + self.floors, float("-inf"))


def _invert(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The index (B, 1) at which the cumulative distribution of softmax(logits) first exceeds u (B, 1)."""
    cumulative = torch.softmax(logits, dim=-1).cumsum(-1)  # (B, K)
    # u < 1 and right=True (first entry *above* u · total): a token of probability 0 is never drawn.
    return torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True).clamp_(max=logits.shape[1] - 1)
