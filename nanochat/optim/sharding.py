"""ZeRO stage 1 (Rajbhandari et al. 2020): each rank reduces, updates and broadcasts its own slice of every group.

    gradients → reduce-scatter → update my slice → all-gather → parameters

A group's tensors, laid end to end, are cut into N equal slices. A rule that needs whole matrices gets slices of whole
tensors, any other a range of elements. The last slice may be shorter or empty: padding makes up for it, so that every
rank takes part in every collective. On one rank the slice is the tensors themselves, and nothing is copied.

So each rank keeps 1/N of the moments and does 1/N of the updates. The functions here only start a transfer; it runs
while another group is being updated.
"""
from collections.abc import Callable

import torch
import torch.distributed as dist

from nanochat.optim.rule import Tensors
from nanochat.system.numbers import ceil_div

# PyTorch 2.13 renamed both.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def rank_and_world_size() -> tuple[int, int]:
    """(this rank, N)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def slice_size(tensors: Tensors, whole: bool, world_size: int) -> int:
    """Elements of one slice. With `whole`, all tensors have one shape and a slice is a number of them."""
    num_elements = sum(t.numel() for t in tensors)
    unit = tensors[0].numel() if whole else 1
    return ceil_div(num_elements, unit * world_size) * unit


def cut(tensors: Tensors, whole: bool, rank: int, world_size: int) -> Tensors:
    """The slice of `rank`, as views: a tensor that lies in it entirely is itself, any other a flat piece.

    >>> [piece.tolist() for piece in cut([torch.arange(3), torch.arange(10, 12)], False, 1, 2)]
    [[10, 11]]
    """
    size = slice_size(tensors, whole, world_size)
    start = rank * size  # of the slice, counted from the beginning of the tensor
    pieces: Tensors = []
    for tensor in tensors:
        first, last = max(0, start), min(tensor.numel(), start + size)
        if last - first == tensor.numel():
            pieces.append(tensor)
        elif first < last:
            pieces.append(tensor.detach().view(-1)[first:last])
        start -= tensor.numel()
    return pieces


def gather(pieces: Tensors, like: Tensors, whole: bool) -> Tensors:
    """The whole tensors, shaped as `like`, from the slice `pieces` of every rank. A collective."""
    world_size = rank_and_world_size()[1]
    if world_size == 1:
        return pieces
    size = slice_size(like, whole, world_size)
    mine = like[0].new_zeros(size)
    _copy_to_flat(pieces, mine)
    full = like[0].new_empty(world_size * size)
    _all_gather(full, mine)
    return _views(full, like)


class GroupSlice:
    """The parameters of one group as this rank sees them; `tensors` are those that it updates, in place."""

    def __init__(self, params: Tensors, whole: bool):
        rank, self.world_size = rank_and_world_size()
        self.params = params
        self.tensors = cut(params, whole, rank, self.world_size)
        if self.world_size > 1:  # buffers for all gradients, later all parameters, and for this rank's; used every step
            size = slice_size(params, whole, self.world_size)
            self.full, self.mine = (params[0].detach().new_zeros(n * size) for n in (self.world_size, 1))

    def start_reduce(self) -> Callable[[], Tensors]:
        """Starts to sum `.grad` over the ranks. The returned function waits and gives the sums for `tensors`."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        if self.world_size == 1:
            return lambda: grads
        _copy_to_flat(grads, self.full)
        work = _reduce_scatter(self.mine, self.full, async_op=True)

        def wait() -> Tensors:
            work.wait()
            return _views(self.mine, self.tensors)

        return wait

    def start_broadcast(self) -> Callable[[], None]:
        """Starts to send the updated `tensors` to all ranks. The returned function waits and fills in the others'."""
        if self.world_size == 1:
            return lambda: None
        _copy_to_flat(self.tensors, self.mine)
        work = _all_gather(self.full, self.mine, async_op=True)

        def wait() -> None:
            work.wait()
            torch._foreach_copy_(self.params, _views(self.full, self.params))

        return wait


def _copy_to_flat(tensors: Tensors, flat: torch.Tensor) -> None:
    """Copies tensors end to end into the beginning of `flat`."""
    if tensors:
        torch._foreach_copy_(_views(flat, tensors), tensors)


def _views(flat: torch.Tensor, like: Tensors) -> Tensors:
    """Views of the beginning of `flat`, end to end, shaped as `like`."""
    sizes = [t.numel() for t in like]
    if not sizes:
        return []
    return [view.view(t.shape) for view, t in zip(torch.split(flat[:sum(sizes)], sizes), like, strict=True)]
