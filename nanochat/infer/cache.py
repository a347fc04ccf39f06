"""The key/value cache: what attention remembers of every running request.

One tensor for keys and one for values, (L, slots, G, S, D). A request owns a slot; the engine keeps the running ones
in slots 0…n−1 without gaps, so each decode reads a *view* of the cache (no gather), cut to the longest live context;
parts of prompts may be in any slots. Every forward pass goes: the engine calls `plan()` (which slots, from which
position on), the model calls `append()` once a layer, and attention gets all keys and values so far with one mask that
all layers share.

Slots are not cleared when they change hands: positions at or after a request's length are masked out, and its own
tokens overwrite them before they can be read. The memory grows by doubling up to (max_rows, sequence_len).

Not here: which request sits where and what it can reuse (engine), paging.
"""

import torch

BUCKET = 32  # contexts are cut at multiples of this, so that shapes repeat; ≤ 31 masked positions of extra attention


class SlotCache:
    """Keys and values of up to `max_rows` sequences of up to `max_len` tokens, in the model's compute dtype."""

    def __init__(self, num_layers: int, num_kv_heads: int, head_dim: int, max_rows: int, max_len: int,
                 dtype: torch.dtype, device: torch.device):
        self.max_rows, self.max_len = max_rows, max_len
        self.keys = torch.zeros(num_layers, 0, num_kv_heads, 0, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)

    def reserve(self, num_rows: int, length: int) -> None:
        """Make room for `num_rows` slots of `length` tokens, keeping what is stored."""
        _, old_rows, _, old_len, _ = self.keys.shape
        if num_rows <= old_rows and length <= old_len:
            return
        assert num_rows <= self.max_rows and length <= self.max_len, (num_rows, length, self.max_rows, self.max_len)
        rows = max(old_rows, min(self.max_rows, power_of_two(num_rows)))
        slots_len = max(old_len, min(self.max_len, power_of_two(max(length, BUCKET))))
        for name in ("keys", "values"):
            old = getattr(self, name)
            # Zeros, not empty: a masked position still meets weight 0, and 0 · NaN would be NaN.
            new = old.new_zeros(old.shape[0], rows, old.shape[2], slots_len, old.shape[4])
            new[:, :old_rows, :, :old_len] = old
            setattr(self, name, new)

    def plan(self, slots: slice | list[int], starts: list[int], num_new: int) -> torch.Tensor:
        """Prepare a forward pass of `num_new` tokens in each slot of `slots`, row i from position `starts[i]` on.

        Returns the positions (B, T) int64 of the new tokens. When all rows start at 0 the mask is None: plain causal
        attention over the new tokens (padding on the right is never attended to by what stands left of it).
        """
        end = max(starts) + num_new
        device = self.keys.device
        rows = list(range(slots.start, slots.stop)) if isinstance(slots, slice) else slots
        self.reserve(max(rows) + 1, end)
        first = torch.tensor(starts, device=device)[:, None]
        self._positions = first + torch.arange(num_new, device=device)  # (B, T)
        self._rows = torch.tensor(rows, device=device)[:, None]  # (B, 1)
        self._slots = slots if isinstance(slots, slice) else self._rows[:, 0]
        self._from_empty = not any(starts)
        self._end = num_new if self._from_empty else min(-(-end // BUCKET) * BUCKET, self.keys.shape[3])
        self._mask = None
        if not self._from_empty:
            attended = torch.arange(self._end, device=device) <= self._positions[:, :, None]  # (B, T, S)
            self._mask = attended[:, None]
        return self._positions

    def plan_static(self, slots: torch.Tensor, positions: torch.Tensor, length: int) -> None:
        """The same for one token in each of slots 0…B−1, from tensors (B, 1) int64 that may be read again later.

        The token of row i is stored in `slots[i]` at `positions[i]`; `length` positions are read, none after its own.
        """
        self._positions, self._rows, self._slots = positions, slots, slice(0, len(slots))
        self._from_empty, self._end = False, length
        self._mask = (torch.arange(length, device=positions.device) <= positions[:, :, None])[:, None]

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor):
        """Store k and v (B, G, T, D) of the planned tokens; returns keys, values (B, G, S, D) and mask (B, 1, T, S)."""
        if self._from_empty:
            self.keys[layer, self._slots, :, :self._end] = k.to(self.keys.dtype)
            self.values[layer, self._slots, :, :self._end] = v.to(self.keys.dtype)
            return k, v, None
        keys, values = self.keys[layer], self.values[layer]
        keys[self._rows, :, self._positions] = k.transpose(1, 2).to(keys.dtype)  # (B, T, G, D)
        values[self._rows, :, self._positions] = v.transpose(1, 2).to(values.dtype)
        return keys[self._slots, :, :self._end], values[self._slots, :, :self._end], self._mask

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of slot `source` to slot `target`."""
        self.reserve(max(source, target) + 1, length)
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]

    def swap(self, slot: int, other: int, length: int, other_length: int) -> None:
        """Exchange the first `length` positions of `slot` and the first `other_length` of `other`."""
        self.reserve(max(slot, other) + 1, max(length, other_length))
        for stored in (self.keys, self.values):
            kept = stored[:, slot, :, :length].clone()
            stored[:, slot, :, :other_length] = stored[:, other, :, :other_length]
            stored[:, other, :, :length] = kept


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n: 5 → 8."""
    return 1 << (n - 1).bit_length()
