"""Decoding in static shapes: launching kernels is most of a small model's step on a GPU.

A graph is recorded for a number of rows and a length of context, both rounded up to powers of two, and replayed with
new inputs in the same memory. So the cache is reserved whole at the start, and rows that only fill up the number write
to a slot that nobody reads. Elsewhere than on a GPU the same static shapes run without a recording: that is how
tests/infer/test_graphs.py compares them with the engine's usual way. **No GPU has replayed one yet.**
"""
from collections.abc import Callable

import torch

from nanochat.infer.cache import SlotCache, power_of_two

SHORTEST = 256  # positions: shorter contexts share these graphs


class Graphs:
    """`logits` of one decode step of `model` on `cache`, whose last slot is taken for the rows that fill up."""

    def __init__(self, model, cache: SlotCache):
        self.model, self.cache = model, cache
        cache.reserve(cache.max_rows, cache.max_len)  # recorded addresses must stay
        self.nobodys = cache.max_rows - 1
        self.recorded: dict[tuple[int, int], tuple[torch.Tensor, Callable[[], torch.Tensor]]] = {}
        self.device = cache.keys.device
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def logits(self, ids: list[int], before: list[int], positions: list[int]) -> torch.Tensor:
        """fp32 logits (B, V) of the tokens `ids`, which stand at `positions` of slots 0…B−1, behind tokens `before`.

        Valid until the next call.
        """
        rows = min(power_of_two(len(ids)), self.nobodys)
        length = min(max(power_of_two(max(positions) + 1), SHORTEST), self.cache.max_len)
        if (rows, length) not in self.recorded:
            self.recorded[rows, length] = self._record(rows, length)
        inputs, run = self.recorded[rows, length]
        rest = rows - len(ids)
        inputs.copy_(torch.tensor([[*ids, *[0] * rest], [*before, *[-1] * rest], [*positions, *[0] * rest],
                                   [*range(len(ids)), *[self.nobodys] * rest]]))
        return run()[:len(ids)]

    def _record(self, rows: int, length: int) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
        """The inputs (4, rows) int64 (token, token before, position, slot), and what computes logits from them."""
        inputs = torch.zeros(4, rows, dtype=torch.int64, device=self.device)
        inputs[3] = self.nobodys  # a rehearsal must not write to anybody's slot

        def forward() -> torch.Tensor:
            ids, before, positions, slots = inputs[:, :, None]
            self.cache.plan_static(slots, positions, length)
            hidden = self.model.hidden(ids, cache=self.cache, positions=positions, previous_ids=before)
            return self.model.logits(hidden[:, 0])

        if self.pool is None:
            return inputs, forward
        with torch.cuda.device(self.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # libraries allocate their workspaces at the first calls
                forward(), forward()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):  # other GPUs go on
                result = forward()

        def replay() -> torch.Tensor:
            with torch.cuda.device(self.device):
                graph.replay()
            return result

        return inputs, replay
