"""Our plain architecture in the form of Qwen3, which llama.cpp, vLLM, MLX and transformers run natively.

The differences are folded into the weights; docs/export.md has the measured differences of logits.

    the norm after our embedding       a table whose rows are normalised already
    RoPE by −θ                         q and k with the halves of every head exchanged: with +θ, q·k is the same
    norms without weights              weights of ones
    relu²(z)                           silu(βz)·z/β = z²·σ(βz), which differs from relu² only for |z| of about 1/β
"""
import torch

from nanochat.model import PORTABLE, GPTConfig
from nanochat.system.files import UserError

BETA = 128.0  # error of the logits: 3e-4 with 64, 8e-5 with 128; 256 would exceed the range of 16 bits
SHRINK = 64.0  # as BETA a power of two: multiplying by it is exact in every dtype
MAX_F16 = 65_504.0
PRICE = ("train one with `base_train --portable` (it costs .03 to .05 bits per byte, and at the laptop's length the "
         "exam `choice`), or use --to=page, which takes every model")


def check_form(config: GPTConfig, form: str) -> None:
    """Raises UserError if the model has features that the form cannot represent."""
    if features := [name for name, plain in PORTABLE.items() if name != "document_bos" and
                    getattr(config, name) != plain]:
        raise UserError(f"--to={form} cannot hold {', '.join(features)}, which this model has; {PRICE}")


def fold(config: GPTConfig, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a plain model under the names of transformers' Qwen3, fp32."""
    table = weights["model.embed_tokens.weight"].double()
    width, head = torch.ones(config.n_embd), torch.ones(config.head_dim)  # weights of norms
    folded = {"model.embed_tokens.weight": (table * (table.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).float(),
              "lm_head.weight": weights["lm_head.weight"].float(), "model.norm.weight": width}
    for layer in range(config.n_layer):
        block = f"model.layers.{layer}."
        for name in "qk":
            heads = weights[f"{block}self_attn.{name}_proj.weight"].float().view(-1, 2, config.head_dim // 2,
                                                                               config.n_embd)
            # The halves of every head are exchanged: then +θ rotates them as −θ did, and q·k is the same.
            folded[f"{block}self_attn.{name}_proj.weight"] = heads.flip(1).reshape(-1, config.n_embd)
            folded[f"{block}self_attn.{name}_norm.weight"] = head.clone()
        for name in "vo":
            folded[f"{block}self_attn.{name}_proj.weight"] = weights[f"{block}self_attn.{name}_proj.weight"].float()
        up, down = (weights[f"{block}mlp.{name}.weight"].float() for name in ("fc1", "fc2"))
        # Three matrices replace two: with the norm before the MLP divided by β, gate = β²·fc1 gives βz, up = fc1/s
        # gives z/(βs), and down = s·fc2 cancels the s. s keeps the product small enough for 16 bits.
        folded |= {f"{block}input_layernorm.weight": width.clone(),
                   f"{block}post_attention_layernorm.weight": width / BETA,
                   f"{block}mlp.gate_proj.weight": BETA**2 * up, f"{block}mlp.up_proj.weight": up / SHRINK,
                   f"{block}mlp.down_proj.weight": SHRINK * down}
    return folded


def check_range(folded: dict[str, torch.Tensor], dtype: str) -> None:
    """Raises UserError if a weight does not fit into 16 bits."""
    largest = max(float(tensor.abs().max()) for tensor in folded.values())
    if dtype != "f32" and largest >= MAX_F16:
        raise UserError(f"--dtype={dtype} holds numbers up to {MAX_F16:,.0f}, and a weight becomes {largest:,.0f}; "
                        "give --dtype=f32")
