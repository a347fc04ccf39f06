"""The key/value cache: the keys and values that attention computed for the tokens of all running requests.

One tensor holds all keys and one all values, both (L, slots, G, S, D). A request owns one slot. The running requests
own slots 0 … n−1 without gaps, so a decode step reads a slice of the tensors and copies nothing.

Before every forward pass the engine calls `plan()`, which takes the positions and slots of the new tokens and returns a
view. The model calls `view.append()` once per layer; attention gets all keys and values so far, and one mask.

Nobody clears a slot that another request takes over: the mask hides all positions at or after a request's length, and
the request overwrites every position before the mask shows it. A slot has room for a whole context (no paging).
"""

from dataclasses import dataclass

import torch

# Contexts are read in multiples of this, so that tensor shapes repeat; a row then attends to ≤ 31 masked positions.
BUCKET = 32


@dataclass(frozen=True)
class CacheView:
    """The part of the cache that one forward pass writes and reads; the cache that `GPT.hidden` expects."""

    keys: torch.Tensor  # (L, slots, G, S, D), the whole cache
    values: torch.Tensor  # as keys
    positions: torch.Tensor  # (B, T) int64, of the new tokens
    rows: torch.Tensor  # (B, 1) int64, the slot of every row: where new tokens are written
    slots: slice | torch.Tensor  # the slots that are read: a slice where possible, since that copies nothing
    num_read: int  # positions that attention reads
    mask: torch.Tensor | None  # (B, 1, T, S) bool; None if all rows start at position 0

    def append(self, layer: int, k: torch.Tensor,
               v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Store k and v (B, G, T, D) of the new tokens; returns keys and values (B, G, S, D) so far, and the mask."""
        keys, values = self.keys[layer], self.values[layer]
        if self.mask is None:  # there are no earlier tokens: attention needs no more than k and v themselves
            keys[self.slots, :, :self.num_read] = k.to(keys.dtype)
            values[self.slots, :, :self.num_read] = v.to(values.dtype)
            return k, v, None
        keys[self.rows, :, self.positions] = k.transpose(1, 2).to(keys.dtype)  # (B, T, G, D)
        values[self.rows, :, self.positions] = v.transpose(1, 2).to(values.dtype)  # (B, T, G, D)
        return keys[self.slots, :, :self.num_read], values[self.slots, :, :self.num_read], self.mask


class SlotCache:
    """Keys and values of up to `max_rows` sequences of up to `max_len` tokens, in the model's compute dtype."""

    def __init__(self, num_layers: int, num_kv_heads: int, head_dim: int, max_rows: int, max_len: int,
                 dtype: torch.dtype, device: torch.device):
        self.max_rows, self.max_len = max_rows, max_len
        self.keys = torch.zeros(num_layers, 0, num_kv_heads, 0, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)  # both are empty until `reserve`

    def reserve(self, num_rows: int, length: int) -> None:
        """Make room for `num_rows` slots of `length` tokens. Both sizes grow by doubling; the contents stay.

        When the memory does not suffice, PyTorch's error is raised and the cache is unchanged.
        """
        layers, old_rows, groups, old_len, width = self.keys.shape
        if num_rows <= old_rows and length <= old_len:
            return
        assert num_rows <= self.max_rows and length <= self.max_len, (num_rows, length, self.max_rows, self.max_len)
        new_rows = max(old_rows, min(self.max_rows, power_of_two(num_rows)))
        new_len = max(old_len, min(self.max_len, power_of_two(max(length, BUCKET))))
        old = (self.keys, self.values)
        # Both are allocated before either is replaced: if memory runs out in between, the cache stays as it was.
        # Zeros, not uninitialised memory: masked positions get weight 0, but 0 · NaN would still be NaN.
        new = [stored.new_zeros(layers, new_rows, groups, new_len, width) for stored in old]
        for grown, stored in zip(new, old):
            grown[:, :old_rows, :, :old_len] = stored
        self.keys, self.values = new

    def plan(self, slots: slice | list[int], starts: list[int], num_new: int) -> CacheView:
        """The view for a forward pass of `num_new` tokens in each of `slots`; row i starts at position `starts[i]`."""
        device = self.keys.device
        row_slots = list(range(slots.start, slots.stop)) if isinstance(slots, slice) else slots
        end = max(starts) + num_new
        self.reserve(max(row_slots) + 1, end)
        rows = torch.tensor(row_slots, device=device)[:, None]  # (B, 1)
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(num_new, device=device)  # (B, T)
        num_read, mask = num_new, None
        if any(starts):
            num_read = min(-(-end // BUCKET) * BUCKET, self.keys.shape[3])  # rounded up to a whole bucket
            mask = _mask(positions, num_read)
        read_slots = slots if isinstance(slots, slice) else rows[:, 0]
        return CacheView(self.keys, self.values, positions, rows, read_slots, num_read, mask)

    def plan_static(self, slots: torch.Tensor, positions: torch.Tensor, num_read: int) -> CacheView:
        """The view for one token per row: row i writes to slot `slots[i]`, but reads slot i, up to its own position.

        slots and positions are (B, 1) int64. A CUDA graph records their addresses and reads them again at each replay.
        """
        mask = _mask(positions, num_read)
        return CacheView(self.keys, self.values, positions, slots, slice(0, len(slots)), num_read, mask)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of slot `source` to slot `target`."""
        self.reserve(max(source, target) + 1, length)
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]

    def swap(self, slot: int, other: int, length: int, other_length: int) -> None:
        """Exchange the first `length` positions of `slot` and the first `other_length` positions of `other`."""
        self.reserve(max(slot, other) + 1, max(length, other_length))
        # All memory is allocated before any write: without memory, keys and values both stay as they were.
        saved = [(stored, stored[:, slot, :, :length].clone()) for stored in (self.keys, self.values)]
        for stored, first in saved:
            stored[:, slot, :, :other_length] = stored[:, other, :, :other_length]
            stored[:, other, :, :length] = first


def _mask(positions: torch.Tensor, num_read: int) -> torch.Tensor:
    """(B, 1, T, S) bool: the new tokens at `positions` (B, T) attend to all positions up to their own."""
    return (torch.arange(num_read, device=positions.device) <= positions[:, :, None])[:, None]


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n: 5 → 8."""
    return 1 << (n - 1).bit_length()  # bit_length(4) = 3
