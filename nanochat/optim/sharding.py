"""One group of parameters, cut between the ranks: each sums, updates and hands round only its own slice.

The group's tensors, laid end to end, are cut into N equal slices (the last may be shorter or empty; padding makes up
for it, so every rank takes part in every collective). Muon needs whole matrices, so there a slice is whole tensors;
AdamW works on elements, so there it is any range. On one rank a slice is the tensors themselves and nothing is copied.

    gradients → reduce-scatter → update my slice → all-gather → parameters    (Rajbhandari et al. 2020, ZeRO stage 1)

Transfers are only started here; they run while another group is being updated.
"""
from collections.abc import Callable

import torch
import torch.distributed as dist

# PyTorch 2.13 renamed both.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def ranks() -> tuple[int, int]:
    """(this rank, N)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def slice_size(tensors: list[torch.Tensor], whole: bool, world_size: int) -> int:
    """Elements of one slice: `whole` tensors (all of one shape), or as even as elements can be dealt."""
    unit = tensors[0].numel() if whole else 1
    return -(-sum(t.numel() for t in tensors) // (unit * world_size)) * unit


def cut(tensors: list[torch.Tensor], whole: bool, rank: int, world_size: int) -> list[torch.Tensor]:
    """Rank's slice as views: tensors that lie in it entirely are themselves, others a flat piece.

    >>> [piece.tolist() for piece in cut([torch.arange(3), torch.arange(10, 12)], False, 1, 2)]
    [[10, 11]]
    """
    size = slice_size(tensors, whole, world_size)
    low, mine = rank * size, []
    for tensor in tensors:
        first, last = max(0, low), min(tensor.numel(), low + size)
        if first < last:
            mine.append(tensor if last - first == tensor.numel() else tensor.detach().view(-1)[first:last])
        low -= tensor.numel()
    return mine


def gathered(pieces: list[torch.Tensor], like: list[torch.Tensor], whole: bool) -> list[torch.Tensor]:
    """The whole tensors, shaped as `like`, of which every rank holds the slice `pieces`. A collective."""
    world_size = ranks()[1]
    if world_size == 1:
        return pieces
    size = slice_size(like, whole, world_size)
    mine = like[0].new_zeros(size)
    _lay(pieces, mine)
    buffer = like[0].new_empty(world_size * size)
    _all_gather(buffer, mine)
    return _split(buffer, like)


class Slices:
    """The parameters of one group as this rank sees them; `mine` is what it updates, in place."""

    def __init__(self, params: list[torch.nn.Parameter], whole: bool):
        self.params, (self.rank, self.world_size) = params, ranks()
        self.size = slice_size(params, whole, self.world_size)
        self.mine = cut(params, whole, self.rank, self.world_size)
        if self.world_size > 1:  # gradients, later parameters, of all slices and of mine; made once, reused
            self.buffer, self.part = (params[0].detach().new_zeros(n * self.size) for n in (self.world_size, 1))

    def summed_gradients(self) -> Callable[[], list[torch.Tensor]]:
        """Starts the sum of `.grad` over ranks; the function waits for it and gives those of `mine`."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        if self.world_size == 1:
            return lambda: grads
        _lay(grads, self.buffer)
        work = _reduce_scatter(self.part, self.buffer, async_op=True)

        def wait() -> list[torch.Tensor]:
            work.wait()
            return _split(self.part, self.mine)

        return wait

    def spread(self) -> Callable[[], None]:
        """Starts handing round the updated `mine`; the function waits and fills in those of the other ranks."""
        if self.world_size == 1:
            return lambda: None
        _lay(self.mine, self.part)
        work = _all_gather(self.buffer, self.part, async_op=True)

        def wait() -> None:
            work.wait()
            torch._foreach_copy_(self.params, _split(self.buffer, self.params))

        return wait


def _lay(tensors: list[torch.Tensor], flat: torch.Tensor) -> None:
    """Copies tensors end to end into the beginning of `flat`."""
    if tensors:
        torch._foreach_copy_(_split(flat, tensors), tensors)


def _split(flat: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
    """Views of the beginning of `flat`, end to end, shaped as `like`."""
    sizes = [t.numel() for t in like]
    return [part.view(t.shape) for part, t in zip(flat[:sum(sizes)].split(sizes), like, strict=True)] if sizes else []
