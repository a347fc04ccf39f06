"""Documents into rows of one length, the same way for base, mid and SFT.

A row holds T+1 tokens: its inputs are the first T, its targets the last T. Documents longer than a row are cut into
pieces. All pieces are placed by "best fit decreasing": longest first, each into the fullest row that still has room,
which for many rows needs at most about 11/9 of the optimal number of rows (Johnson 1973). In training, noise is added
to the lengths before they are sorted, and the bound does not hold. The rest of a row is padding, which is not a target.
Every piece starts with <|bos|>, so every row does too. Every token that may be a target is a target exactly once, with
two exceptions, which never are: the first token of a row, and the first token after a cut.
"""
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nanochat.system.numbers import ceil_div

# Standard deviation of the noise that is added to log length before sorting. With it 1.2 % of the laptop's lessons are
# padding instead of .8 % (docs/LOG.md).
LENGTH_NOISE = 0.5
# Token ids, and a mask: 1 where the token is a target (is to be predicted).
Document = tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]
Piece = tuple[np.ndarray, np.ndarray]  # the same as arrays: ids int32, mask bool
Rows = tuple[np.ndarray, np.ndarray]  # R rows: ids (R, T+1) int32, mask (R, T+1) bool


@dataclass(frozen=True)
class Batch:
    """ids and targets (B, T) int64, −1 where nothing is predicted; `state` resumes the loader after this batch.

    `weights` (B, T) fp32 scales the loss of each target (RL: the advantage); None = 1.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    state: dict[str, int]
    weights: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self

        def move(tensor: torch.Tensor) -> torch.Tensor:
            if device.type == "cuda":
                tensor = tensor.pin_memory()  # from pinned memory the copy is asynchronous
            return tensor.to(device, non_blocking=True)

        weights = None if self.weights is None else move(self.weights)
        return Batch(move(self.ids), move(self.targets), self.state, weights)

    def cut(self, pieces: int) -> list["Batch"]:
        """The same rows as at most `pieces` batches of equal size, except that the last may be smaller."""
        size = ceil_div(len(self.ids), pieces)
        parts = [slice(start, start + size) for start in range(0, len(self.ids), size)]
        return [Batch(self.ids[part], self.targets[part], self.state,
                      None if self.weights is None else self.weights[part]) for part in parts]


def pieces(document: Document, row_len: int, bos_id: int) -> list[Piece]:
    """Cuts a document into pieces of at most `row_len` tokens. Each later piece begins with <|bos|>; its second token
    is not a target, because its only context is <|bos|>.

    >>> [(ids.tolist(), mask.tolist()) for ids, mask in pieces(([0, 5, 6, 7, 8], [1, 1, 1, 1, 1]), 3, 0)]
    [([0, 5, 6], [True, True, True]), ([0, 7, 8], [False, False, True])]
    """
    ids, mask = np.asarray(document[0], np.int32), np.asarray(document[1], bool)
    result = [(ids[:row_len], mask[:row_len])]
    for start in range(row_len, len(ids), row_len - 1):
        piece_ids, piece_mask = (array[start - 1:start + row_len - 1].copy() for array in (ids, mask))
        piece_ids[0], piece_mask[:2] = bos_id, False  # <|bos|> replaces the copy of the last token before the cut
        result.append((piece_ids, piece_mask))
    return result


def pack(documents: Sequence[Document], row_len: int, bos_id: int, rng: np.random.Generator | None = None) -> Rows:
    """The documents in rows of `row_len` tokens; padding is <|bos|> with mask 0.

    Pieces without a single target are left out, so every row has a target. With `rng` the order of the rows, the order
    within a row, and which documents share a row are random.
    """
    parts = [part for document in documents for part in pieces(document, row_len, bos_id) if part[1][1:].any()]
    sizes = np.array([len(part[0]) for part in parts], float)  # float for the noise
    # Training packs every epoch differently (`rng`). With fixed rows a model learnt neighbouring documents as one text:
    # after 71 epochs on 80 conversations it could answer only 36 of them when asked one by one.
    if rng:  # roughly the longest first: a little more padding, and other neighbours in every epoch
        sizes *= np.exp(rng.normal(0, LENGTH_NOISE, len(sizes)))
    # Stable: equal documents in equal order give equal rows.
    parts = [parts[i] for i in np.argsort(-sizes, kind="stable")]
    rows = [[parts[i] for i in members] for members in best_fit([len(part[0]) for part in parts], row_len)]
    if rng:
        rng.shuffle(rows)
        for members in rows:
            rng.shuffle(members)
    # No token is for padding only. Padding follows the documents of a row, so causal attention hides it from them.
    ids = np.full((len(rows), row_len), bos_id, dtype=np.int32)
    mask = np.zeros((len(rows), row_len), dtype=bool)
    for row, members in enumerate(rows):
        row_ids, row_mask = (np.concatenate(column) for column in zip(*members, strict=True))
        ids[row, :len(row_ids)], mask[row, :len(row_ids)] = row_ids, row_mask
    return ids, mask


def best_fit(sizes: Sequence[int], row_len: int) -> list[list[int]]:
    """The numbers of the pieces in each row: every piece, in the order given, goes into the fullest row with room.

    >>> best_fit([5, 4, 3, 2], row_len=7)
    [[0, 3], [1, 2]]
    """
    rows: list[list[int]] = []
    # (free tokens, row number), sorted by free tokens, so that bisect finds the fullest row that still has room.
    open_rows: list[tuple[int, int]] = []
    for piece, size in enumerate(sizes):
        fullest = bisect_left(open_rows, (size, -1))  # −1: before all rows with exactly `size` free tokens
        if fullest == len(open_rows):
            rows.append([])
            free, row = row_len, len(rows) - 1
        else:
            free, row = open_rows.pop(fullest)
        rows[row].append(piece)
        if free - size > 1:  # one free token has room for <|bos|> only, which has no target
            insort(open_rows, (free - size, row))
    return rows


def to_batch(ids: np.ndarray, mask: np.ndarray, state: dict[str, int]) -> Batch:
    """Rows (B, T+1) as a batch of inputs and targets (B, T)."""
    whole = torch.from_numpy(ids.astype(np.int64))
    targets = whole[:, 1:].masked_fill(~torch.from_numpy(mask[:, 1:]), -1)
    return Batch(whole[:, :-1].contiguous(), targets, state)
