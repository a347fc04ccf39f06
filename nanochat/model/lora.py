"""LoRA: beside a matrix W, which stays as it is, a thin product is trained: W + B·A (Hu et al. 2021, arXiv:2106.09685).

A (rank, in) starts random, B (out, rank) at zero, so the model starts as it was. Gradients and optimizer moments exist
for the thin matrices only, and frozen weights are kept in the compute dtype: a third of the memory in bf16, and less.
`merged` gives the weights of an ordinary model, `trained` what a run needs to go on.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from nanochat.model.gpt import GPT, Linear
from nanochat.system.files import UserError


class LoraLinear(Linear):
    """A frozen Linear with `lora_a` (rank, in) and `lora_b` (out, rank)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        thin = F.linear(x, self.lora_a.to(x.dtype))  # (…, rank)
        return F.linear(x, self.weight.to(x.dtype)) + F.linear(thin, self.lora_b.to(x.dtype))

    def merged(self) -> torch.Tensor:
        return self.weight.float() + self.lora_b @ self.lora_a  # (out, in) fp32


def attach(model: GPT, rank: int, *, seed: int = 0, head: bool = False) -> None:
    """From here on only thin matrices beside those of the blocks are trained; `head`: the output layer as well, which
    a base model needs to say the chat's special tokens. UserError: a rank at which nothing is saved."""
    if rank >= model.config.n_embd:
        raise UserError(f"--lora={rank} is not thin beside a width of {model.config.n_embd}; give e.g. 16")
    generator = torch.Generator(device="cpu").manual_seed(seed)
    for parameter in model.parameters():
        if not (head and parameter is model.lm_head.weight):
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(model.compute_dtype)
    for module in model.model.layers.modules():
        if type(module) is Linear and min(module.weight.shape) > rank:
            (out, width), device = module.weight.shape, module.weight.device
            bound = math.sqrt(3 / width)  # variance 1/in, as the matrices' own
            module.__class__ = LoraLinear  # its weight stays where it is: no second copy of a big model
            draw = torch.empty(rank, width).uniform_(-bound, bound, generator=generator)
            module.lora_a = nn.Parameter(draw.to(device))
            module.lora_b = nn.Parameter(torch.zeros(out, rank, device=device))


@torch.no_grad()
def merged(model: GPT) -> dict[str, torch.Tensor]:
    """The weights of an ordinary model by name, at least fp32, in main memory: the device may have no room for them."""
    weights = {name: p.detach().cpu().to(torch.promote_types(p.dtype, torch.float32))
               for name, p in model.named_parameters() if ".lora_" not in name}
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            weights[f"{name}.weight"] = module.merged().cpu()
    return weights


def trained(model: GPT) -> dict[str, torch.Tensor]:
    """What training changes, by name; {} when nothing is attached."""
    if not any(isinstance(module, LoraLinear) for module in model.modules()):
        return {}
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
