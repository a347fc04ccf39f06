"""LoRA: a matrix W stays frozen, and two low-rank matrices beside it are trained: W + B·A (Hu et al. 2021,
arXiv:2106.09685).

A (rank, in) starts random and B (out, rank) at zero, so the model starts unchanged. Gradients and moments exist for the
LoRA matrices only, and frozen weights are kept in the compute dtype. So a parameter of a frozen matrix takes 2 bytes in
bf16; a trained parameter takes 12 bytes with Muon: fp32 weight, gradient and momentum.

`merged` gives the weights of an ordinary model, `trained` the weights that --resume needs.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from nanochat.model.gpt import GPT, Linear
from nanochat.system.files import UserError


class LoraLinear(Linear):
    """A frozen Linear with `lora_a` (rank, in) and `lora_b` (out, rank). It uses the given weight itself, not a copy:
    the memory does not hold a large model's weights twice."""

    def __init__(self, weight: nn.Parameter, lora_a: torch.Tensor):
        super().__init__(weight.size(1), weight.size(0), device="meta")  # "meta": no memory for a second weight
        self.weight = weight
        self.lora_a = nn.Parameter(lora_a)
        self.lora_b = nn.Parameter(torch.zeros(weight.size(0), len(lora_a), device=weight.device))  # B·A = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low_rank = F.linear(x, self.lora_a.to(x.dtype))  # (…, rank)
        return F.linear(x, self.weight.to(x.dtype)) + F.linear(low_rank, self.lora_b.to(x.dtype))

    def merged(self) -> torch.Tensor:
        return self.weight.float() + self.lora_b @ self.lora_a  # (out, in) fp32


def attach(model: GPT, rank: int, *, seed: int = 0, head: bool = False) -> None:
    """From now on only the LoRA matrices of the blocks are trained, and with `head` the output layer: a base model must
    learn to write the chat's special tokens. UserError for a rank that saves nothing."""
    if rank >= model.config.n_embd:
        raise UserError(f"--lora={rank} is not below the model's width of {model.config.n_embd}; give e.g. 16")
    for parameter in model.parameters():
        if not (head and parameter is model.lm_head.weight):
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(model.compute_dtype)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    for parent, name, matrix in model.block_matrices():
        weight = matrix.weight
        if min(weight.shape) <= rank:  # a gate: its LoRA matrices would be as large as the gate
            continue
        bound = math.sqrt(3 / weight.size(1))  # variance 1/in, like the model's matrices (GPT.init_weights)
        lora_a = torch.empty(rank, weight.size(1)).uniform_(-bound, bound, generator=generator)
        setattr(parent, name, LoraLinear(weight, lora_a.to(weight.device)))


@torch.no_grad()
def merged(model: GPT) -> dict[str, torch.Tensor]:
    """The weights of an ordinary model by name, in fp32 or more, on the CPU: the GPU may have no room for them."""
    weights = {name: p.detach().cpu().to(torch.promote_types(p.dtype, torch.float32))
               for name, p in model.named_parameters() if ".lora_" not in name}
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            weights[f"{name}.weight"] = module.merged().cpu()
    return weights


def trained(model: GPT) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name; {} when LoRA is not attached."""
    if not any(isinstance(module, LoraLinear) for module in model.modules()):
        return {}
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
