"""Reads folders of transformers with its model type `nanochat`, which is our plain architecture (`--portable`)."""
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nanochat.formats.foreign import (
    ForeignModel,
    check,
    check_file,
    check_softcap,
    check_tensors,
    checked_config,
    read_object,
    whole_numbers,
)
from nanochat.formats.portable import SIZES
from nanochat.model import PORTABLE
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer

# Settings of config.json with the only values that our plain architecture supports; None: the setting may be missing.
FIXED = {"attention_bias": (False, None), "tie_word_embeddings": (False, None), "hidden_act": ("relu2",),
         "rope_scaling": (None,)}


def is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def read(folder: Path, stage: str = "", tag: str = "") -> ForeignModel:
    """The model in a folder of transformers. UserError, one line, for every feature that we do not support."""
    path = folder / "config.json"
    config = read_object(path)
    if config.get("model_type") != "nanochat":
        raise UserError(f"{path} has the model_type {config.get('model_type')!r:.40}; only 'nanochat' is imported")
    heads = config.get("num_attention_heads")
    config.setdefault("num_key_value_heads", heads)
    if type(heads) is int and heads > 0 and isinstance(config.get("hidden_size"), int):
        config.setdefault("head_dim", config["hidden_size"] // heads)
    sizes = whole_numbers(config, SIZES, path)
    for name, values in {**FIXED, "intermediate_size": (4 * sizes["n_embd"],)}.items():
        if config.get(name) not in values:
            raise UserError(f"{path} has {name} = {config.get(name)!r:.40}; only {values[0]!r} is imported")
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10_000.0)}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor",
                                                                                            1.0) != 1.0:
        raise UserError(f"{path} has the rope_parameters {rope!r:.80}; only plain ones are imported")
    base, cap = rope.get("rope_theta"), config.get("final_logit_softcapping", 15.0)
    if not isinstance(base, int | float) or not 1 < base < 1e12:
        raise UserError(f"{path} has rope_theta = {base!r:.40}; expected a number above 1")
    settings = checked_config(path, **sizes, **PORTABLE, rope_base=float(base),
                              softcap=0.0 if cap is None else check_softcap(cap, path))
    weights: dict[str, torch.Tensor] = {}
    for part in weight_files(folder):
        weights |= load(part)
    model = ForeignModel(settings, weights, Tokenizer.load(folder), stage or "sft", tag or f"d{settings.n_layer}",
                         history={"program": "transformers"})
    check(model, folder)
    return model


def weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or the parts that model.safetensors.index.json names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    parts = read_object(index).get("weight_map")
    names = set(parts.values()) if isinstance(parts, dict) and all(isinstance(p, str) for p in parts.values()) else {""}
    if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise UserError(f"{index} is damaged (its weight_map names no files of this folder)")
    return sorted(folder / name for name in names)


def load(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file: memory-mapped, not read."""
    check_file(path)
    try:
        return check_tensors(load_file(path), path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]:.100})") from None
