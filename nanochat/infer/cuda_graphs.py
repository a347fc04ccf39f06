"""Decoding with CUDA graphs: on a GPU, launching the kernels takes most of a small model's decode step.

A CUDA graph is recorded once and replayed with new inputs in the same memory, so all shapes must be fixed. There is one
graph per pair (number of rows, length of context), both rounded up to powers of two. The cache is reserved whole at the
start, because recorded addresses must not move. Padding rows write to a spare slot, which no request owns.

On other devices the same static shapes run without a recording, which is how tests/infer/test_cuda_graphs.py compares
them with the engine's usual way. **No GPU has replayed a graph yet.**
"""
from collections.abc import Callable

import torch

from nanochat.infer.cache import SlotCache, power_of_two
from nanochat.model import GPT

MIN_LENGTH = 256  # shorter contexts share the graphs of this length: fewer recordings, little extra attention


class CudaGraphs:
    """A Decoder of engine.py. The cache gets one more slot, the spare one, and all its memory is allocated now."""

    def __init__(self, model: GPT, cache: SlotCache):
        self.model, self.cache = model, cache
        self.max_rows = self.spare_slot = cache.max_rows
        cache.max_rows += 1
        cache.reserve(cache.max_rows, cache.max_len)
        self.recorded: dict[tuple[int, int], tuple[torch.Tensor, Callable[[], torch.Tensor]]] = {}
        self.device = cache.keys.device
        # All graphs share one pool of memory: only one of them runs at a time.
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def logits(self, ids: list[int], previous_ids: list[int], positions: list[int]) -> torch.Tensor:
        num_rows = min(power_of_two(len(ids)), self.spare_slot)  # at most the engine's max_rows
        length = min(max(power_of_two(max(positions) + 1), MIN_LENGTH), self.cache.max_len)
        if (num_rows, length) not in self.recorded:
            self.recorded[num_rows, length] = self._record(num_rows, length)
        inputs, run = self.recorded[num_rows, length]
        padding = num_rows - len(ids)  # rows that belong to no request
        inputs.copy_(torch.tensor([[*ids, *[0] * padding], [*previous_ids, *[-1] * padding],
                                   [*positions, *[0] * padding], [*range(len(ids)), *[self.spare_slot] * padding]]))
        return run()[:len(ids)]  # (B, V), without the padding

    def _record(self, num_rows: int, length: int) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
        """The inputs (4, rows) int64 (id, previous id, position, slot), and the function that computes their logits."""
        inputs = torch.zeros(4, num_rows, dtype=torch.int64, device=self.device)
        inputs[3] = self.spare_slot  # the runs before the recording must not write to a request's slot

        def forward() -> torch.Tensor:
            ids, previous_ids, positions, slots = inputs[:, :, None]  # (B, 1) each
            view = self.cache.plan_static(slots, positions, length)
            hidden = self.model.hidden(ids, cache=view, positions=positions, previous_ids=previous_ids)
            return self.model.logits(hidden[:, 0])

        if self.pool is None:  # not a GPU: the same shapes without a recording
            return inputs, forward
        with torch.cuda.device(self.device):
            # Libraries allocate workspaces in their first calls. A recording must not contain that, so we run twice
            # before it, on a stream of its own, as PyTorch's documentation of CUDA graphs asks.
            warmup = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            warmup.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(warmup):
                forward()
                forward()
            torch.cuda.current_stream().wait_stream(warmup)
            graph = torch.cuda.CUDAGraph()
            # thread_local: the engines of other GPUs, in their own threads, may call CUDA during the recording.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                result = forward()

        def replay() -> torch.Tensor:
            with torch.cuda.device(self.device):
                graph.replay()
            return result

        return inputs, replay
