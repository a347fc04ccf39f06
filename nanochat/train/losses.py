"""The losses that the stages minimise, as functions of one batch, compiled where compiling pays.

The loop sums a loss over micro-batches and may cut a batch between any two rows (nanochat/train/loop.py, `LossOf`).
"""
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
import torch._functorch.config as functorch_config

from nanochat.data.packing import Batch, Document
from nanochat.model import GPT
from nanochat.system import log
from nanochat.system.hardware import is_out_of_memory
from nanochat.system.runtime import all_reduce_sum
from nanochat.train.loop import LossOf

Compilable = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # (ids, targets, weights) → loss


def weighted_nll(model: GPT, compile: bool) -> LossOf:
    """Σ weight · nats over a batch's targets (weight 1 where the batch has none).

    With weight = advantage this is REINFORCE (Williams 1992): its gradient is −Σ A·∇log p(token).
    """
    def loss(ids: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return model.loss(ids, targets, "sum", weights)

    function = _compiled(loss, next(model.parameters()).device) if compile else loss

    def loss_of(batch: Batch) -> torch.Tensor:
        # Always with weights: then the code that one stage compiled is there for the next stage.
        weights = (batch.targets >= 0).float() if batch.weights is None else batch.weights
        return function(batch.ids, batch.targets, weights)

    return loss_of


# Fraction of the fastest backward pass's activations that the forward pass may keep. At .9 cheap results (norms, RoPE,
# relu²) are computed again, and no matrix product is: 67 → 47 GB for a d20 at 32 rows (docs/gpu.md).
ACTIVATION_BUDGET = 0.9


def compiler_settings(device: torch.device) -> AbstractContextManager[None]:
    """Settings of torch.compile during a call. The backward pass is compiled together with the forward pass, so that a
    failure to compile is raised there. On a CPU the forward pass keeps everything: there is enough memory."""
    budget = 1.0 if device.type == "cpu" else ACTIVATION_BUDGET
    settings: AbstractContextManager[None] = functorch_config.patch(
        force_non_lazy_backward_lowering=True, activation_memory_budget=budget)
    return settings


def _compiled(function: Compilable, device: torch.device) -> Compilable:
    """`function` by torch.compile; after the first failure `function` itself, and one line that says so."""
    # dynamic=False: each shape is compiled by itself. A stage has one shape, and fixed sizes give faster code.
    run: Compilable = torch.compile(function, dynamic=False)

    def guarded(ids: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        nonlocal run
        try:
            with compiler_settings(device):
                return run(ids, targets, weights)
        except Exception as error:
            # The compiler is another program and writes files. It fails if the temporary folder is full or mounted
            # noexec, if no process can be started, and if g++ is broken. Training works in all these cases. An error of
            # the function itself is raised again below, when it runs uncompiled.
            if run is function or is_out_of_memory(error):  # out of memory: the loop retries with half as many rows
                raise
            run = function
            reason = " ".join(str(error).split("\n", 3)[:3])[:200] or type(error).__name__
            log.say(f"training goes on uncompiled (about half as fast), because torch.compile failed: {reason}")
            return run(ids, targets, weights)

    return guarded


@torch.no_grad()
def mean_kl(model: GPT, reference: GPT, answers: Sequence[Document], rows: int, device: torch.device) -> float:
    """KL(model ‖ reference) in nats per sampled token of `answers` (ids, mask 1 = sampled), over all ranks.

    Exact over the vocabulary at these positions; 0 where no token was sampled.
    """
    nats = count = 0.0
    for first in range(0, len(answers), rows):
        documents = answers[first:first + rows]
        width = max(len(ids) for ids, _ in documents)  # shorter answers are padded to the longest
        padded_ids, padded_masks = ([[*values, *[0] * (width - len(values))] for values in column]
                                    for column in zip(*documents))
        ids = torch.tensor(padded_ids, device=device)  # (B, T+1)
        sampled = torch.tensor(padded_masks, device=device)[:, 1:].bool()  # (B, T): where the next token was sampled
        ours, theirs = (network.logits(network.hidden(ids[:, :-1])[sampled]).log_softmax(-1)  # (M, V)
                        for network in (model, reference))
        nats += (ours.exp() * (ours - theirs)).sum().item()  # Σ p·(ln p − ln q)
        count += int(sampled.sum())
    nats, count = all_reduce_sum([nats, count], device)
    return nats / max(count, 1)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs: Triton on a GPU, a C++ compiler and Python's headers on a CPU."""
    if device.type != "cpu":
        return device.type == "cuda"
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler or not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        log.say("training runs uncompiled (about half as fast): install a C++ compiler and Python's headers, e.g. "
                "apt install g++ python3-dev, to change that")
        return False
    return True
