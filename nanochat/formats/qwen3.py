"""A folder that transformers, vLLM, mlx-lm and LM Studio load as Qwen3: safetensors, config.json, the tokenizer."""
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nanochat.formats.fold import check_form, check_range, fold
from nanochat.formats.portable import special_ids
from nanochat.model import GPTConfig
from nanochat.system import files
from nanochat.tokenizer import Tokenizer

DTYPES = {"f32": torch.float32, "f16": torch.float16}


def described(config: GPTConfig, dtype: str) -> dict[str, Any]:
    """The content of config.json, except the ids of the special tokens."""
    return {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "dtype": str(DTYPES[dtype])[6:],
        "vocab_size": config.vocab_size, "hidden_size": config.n_embd, "intermediate_size": 4 * config.n_embd,
        "num_hidden_layers": config.n_layer, "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head, "head_dim": config.head_dim,
        "max_position_embeddings": config.sequence_len, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": config.rope_base, "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "attention_bias": False, "use_sliding_window": False, "tie_word_embeddings": False}


def write(folder: Path, config: GPTConfig, weights: dict[str, torch.Tensor], tokenizer: Tokenizer, dtype: str) -> None:
    """Writes the complete folder, or none. UserError if the form cannot represent the model."""
    check_form(config, "qwen3")
    folded = fold(config, weights)
    check_range(folded, dtype)
    with files.replacing(folder) as temporary:
        temporary.mkdir()
        tokenizer.save(temporary)
        tokens = {"tokenizer.json": (temporary / "tokenizer.json").read_bytes()}
        ids = special_ids(tokens)
        (temporary / "config.json").write_text(json.dumps({**described(config, dtype), **ids}, indent=1) + "\n",
                                             encoding="utf-8")
        (temporary / "generation_config.json").write_text(
            json.dumps({"do_sample": True, "temperature": 0.6, **ids}), encoding="utf-8")
        save_file({name: tensor.to(DTYPES[dtype]).contiguous() for name, tensor in folded.items()},
                  temporary / "model.safetensors", metadata={"format": "pt"})
