"""Documents into rows of one length, the same way for base, mid and SFT.

A row holds T+1 tokens: inputs are its first T, targets its last T. Documents longer than a row are cut into pieces; all
pieces are placed best fit, longest first, each into the fullest row that still has room (a bin packing with at most
11/9 of the optimal rows: Johnson 1973). What stays free is padding, which is no target. Every piece starts with
<|bos|>, so a row always does; no target is lost, and none is there twice.
"""
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

Document = tuple[Sequence[int], Sequence[int]]  # token ids, and for each 1 if the model is to predict it


@dataclass(frozen=True)
class Batch:
    """ids and targets (B, T) int64, −1 where there is nothing to predict; `state` resumes the loader after this batch.

    `weights` (B, T) fp32 scales each target's loss (RL: the advantage); None = 1.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    state: dict[str, int]
    weights: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        pin = torch.Tensor.pin_memory if device.type == "cuda" else lambda t: t  # from there a copy does not wait
        move = lambda t: None if t is None else pin(t).to(device, non_blocking=True)  # noqa: E731
        return Batch(move(self.ids), move(self.targets), self.state, move(self.weights))

    def halves(self) -> list["Batch"]:
        """The same rows as two batches; itself where it has but one."""
        middle = len(self.ids) // 2
        parts = [slice(0, middle), slice(middle, None)] if middle else [slice(None)]
        return [Batch(self.ids[part], self.targets[part], self.state,
                      None if self.weights is None else self.weights[part]) for part in parts]


def pieces(document: Document, room: int, bos_id: int) -> list[Document]:
    """Cuts a document to pieces of at most `room` tokens. Later pieces get a <|bos|> in front, and their first own
    token, which nothing before it could tell, is no target.

    >>> [(ids.tolist(), mask.tolist()) for ids, mask in pieces(([0, 5, 6, 7, 8], [1, 1, 1, 1, 1]), 3, 0)]
    [([0, 5, 6], [True, True, True]), ([0, 7, 8], [False, False, True])]
    """
    ids, mask = np.asarray(document[0], np.int32), np.asarray(document[1], bool)
    cut = [(ids[:room], mask[:room])]
    for start in range(room, len(ids), room - 1):
        piece_ids, piece_mask = ids[start - 1:start + room - 1].copy(), mask[start - 1:start + room - 1].copy()
        piece_ids[0], piece_mask[:2] = bos_id, False
        cut.append((piece_ids, piece_mask))
    return cut


def pack(documents: Sequence[Document], row_len: int, bos_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (R, row_len) int32 of ids and of targets' mask (bool); padding is <|bos|> with mask 0.

    Pieces without a single target are left out, so no row is without targets.
    """
    parts = [part for document in documents for part in pieces(document, row_len, bos_id) if part[1][1:].any()]
    parts.sort(key=lambda part: -len(part[0]))  # stable: equal documents in equal order give equal rows
    rows: list[list[Document]] = []
    open_rows: list[tuple[int, int]] = []  # (free, row), sorted: bisect finds the fullest row with room
    for part in parts:
        size = len(part[0])
        place = bisect_left(open_rows, (size, -1))
        if place == len(open_rows):
            rows.append([])
            free, row = row_len, len(rows) - 1
        else:
            free, row = open_rows.pop(place)
        rows[row].append(part)
        if free - size > 1:
            insort(open_rows, (free - size, row))
    ids = np.full((len(rows), row_len), bos_id, dtype=np.int32)
    mask = np.zeros((len(rows), row_len), dtype=bool)
    for row, members in enumerate(rows):
        at = 0
        for part_ids, part_mask in members:
            ids[row, at:at + len(part_ids)] = part_ids
            mask[row, at:at + len(part_ids)] = part_mask
            at += len(part_ids)
    return ids, mask


def to_batch(ids: np.ndarray, mask: np.ndarray, state: dict[str, int]) -> Batch:
    """Rows (B, T+1) to inputs and targets (B, T)."""
    whole = torch.from_numpy(ids.astype(np.int64))
    targets = whole[:, 1:].masked_fill(~torch.from_numpy(mask[:, 1:]), -1)
    return Batch(whole[:, :-1].contiguous(), targets, state)
