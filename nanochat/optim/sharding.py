"""ZeRO stage 1 (Rajbhandari et al. 2020): each rank updates its own slice of every group.

    gradients → reduce-scatter → update my slice → all-gather → parameters

A slice is made in one of two ways:

- The tensors of a group are laid end to end in a flat buffer. A slice for a rule that needs whole matrices is a number
  of whole tensors, a slice for any other rule a range of elements. The last slices may be shorter or empty: padding
  fills them up, so that every rank takes part in every collective.
- Large tables whose elements divide evenly among the ranks are cut one by one. Reduce-scatter reads the gradients
  directly and all-gather writes the parameters directly: no copies (a d20's tables are 4 GB) and no buffers.

So each rank keeps 1/N of the moments and does 1/N of the updates. On one rank the slice is the tensors themselves. The
functions here only start a transfer; it runs while another group is being updated.
"""
from collections.abc import Callable

import torch
import torch.distributed as dist

from nanochat.optim.rule import Tensors
from nanochat.system.numbers import ceil_div

# PyTorch 2.13 renamed both functions.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

LARGE = 1 << 20  # elements: for such a tensor one more collective costs less than a copy into a buffer


def rank_and_world_size() -> tuple[int, int]:
    """(this rank, N)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def cut_one_by_one(tensors: Tensors, whole: bool, world_size: int) -> bool:
    """Whether every tensor of a group is cut by itself."""
    return not whole and all(t.numel() >= LARGE and t.numel() % world_size == 0 for t in tensors)


def slice_size(tensors: Tensors, whole: bool, world_size: int) -> int:
    """Elements of one slice. With `whole`, all tensors have one shape and a slice is a whole number of tensors."""
    num_elements = sum(t.numel() for t in tensors)
    unit = tensors[0].numel() if whole else 1
    return ceil_div(num_elements, unit * world_size) * unit


def cut(tensors: Tensors, whole: bool, rank: int, world_size: int) -> Tensors:
    """The slice of `rank`, as views: a tensor that lies entirely in it as it is, of other tensors a flat part.

    >>> [piece.tolist() for piece in cut([torch.arange(3), torch.arange(10, 12)], False, 1, 2)]
    [[10, 11]]
    """
    if world_size > 1 and cut_one_by_one(tensors, whole, world_size):
        return [tensor.detach().view(-1).chunk(world_size)[rank] for tensor in tensors]
    size = slice_size(tensors, whole, world_size)
    start = rank * size  # where the slice begins, from the beginning of the tensor; < 0 if in an earlier tensor
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
    if cut_one_by_one(like, whole, world_size):
        tables = [torch.empty_like(t) for t in like]
        for table, piece in zip(tables, pieces, strict=True):
            _all_gather(table.view(-1), piece.view(-1))
        return tables
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
        if self.world_size > 1:  # buffers for every step: `mine` for this rank's slice, `full` for the whole group
            size = slice_size(params, whole, self.world_size)
            self.mine = params[0].detach().new_zeros(size)
            one_by_one = cut_one_by_one(params, whole, self.world_size)
            self.full = None if one_by_one else self.mine.new_zeros(self.world_size * size)

    def start_reduce(self) -> Callable[[], Tensors]:
        """Starts to sum `.grad` over the ranks. The returned function waits and gives the sums for `tensors`."""
        # Without a gradient (RL: this rank's answers of the step teach nothing) a parameter takes part with zeros.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        if self.world_size == 1:
            return lambda: grads
        sums = _views(self.mine, self.tensors)
        if self.full is None:
            flat = [grad.contiguous().view(-1) for grad in grads]
            works = [_reduce_scatter(out, grad, async_op=True) for out, grad in zip(sums, flat)]
        else:
            flat = [self.full]
            _copy_to_flat(grads, self.full)
            works = [_reduce_scatter(self.mine, self.full, async_op=True)]

        def wait() -> Tensors:
            for work in works:
                work.wait()
            flat.clear()  # keeps the gradients alive until here, because the transfers read them
            return sums

        return wait

    def start_all_gather(self) -> Callable[[], None]:
        """Starts to send the updated `tensors` to all ranks. The returned function waits until `params` are whole."""
        if self.world_size == 1:
            return lambda: None
        _copy_to_flat(self.tensors, self.mine)
        if self.full is None:  # the slice is sent from the buffer, because a collective may not read what it writes
            pieces = zip(self.params, _views(self.mine, self.tensors), strict=True)
            works = [_all_gather(p.detach().view(-1), piece, async_op=True) for p, piece in pieces]
        else:
            works = [_all_gather(self.full, self.mine, async_op=True)]

        def wait() -> None:
            for work in works:
                work.wait()
            if self.full is not None:
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
