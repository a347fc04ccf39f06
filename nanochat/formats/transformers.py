"""transformers' checkpoint folders of its model type `nanochat`: ours are made to be such folders, others are read.

Only the plain architecture (`--portable`) has a class there, `NanoChatForCausalLM`. Other folders of ours get no
`model_type`, so transformers refuses them instead of reading them as something else.
"""
import json
from pathlib import Path
from typing import Any

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
from nanochat.model import PORTABLE
from nanochat.system import files
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SPECIAL_IDS = {"bos_token_id": "<|bos|>", "eos_token_id": "<|assistant_end|>", "pad_token_id": "<|assistant_end|>"}
SIZES = {"vocab_size": "vocab_size", "n_embd": "hidden_size", "n_layer": "num_hidden_layers",
         "n_head": "num_attention_heads", "n_kv_head": "num_key_value_heads", "head_dim": "head_dim",
         "sequence_len": "max_position_embeddings"}
# What our plain architecture has and a folder may describe otherwise; None: a folder that does not say has the same.
FIXED = {"attention_bias": (False, None), "tie_word_embeddings": (False, None), "hidden_act": ("relu2",),
         "rope_scaling": (None,)}


def is_portable(config: dict[str, Any]) -> bool:
    """Whether a `GPTConfig` (as a dictionary) is the plain architecture."""
    return all(config[name] == value for name, value in PORTABLE.items())


def described(config: dict[str, Any]) -> dict[str, Any]:
    """transformers' names for a portable model, for its config.json."""
    return {
        "model_type": "nanochat", "architectures": ["NanoChatForCausalLM"], "dtype": "float32",
        **{theirs: config[ours] for ours, theirs in SIZES.items()},
        "intermediate_size": 4 * config["n_embd"], "hidden_act": "relu2",
        "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_base"]},
        "attention_bias": False, "final_logit_softcapping": config["softcap"] or None, "tie_word_embeddings": False}


def special_ids(tokenizer: dict[str, bytes]) -> dict[str, int]:
    """The ids at which an answer begins and ends, from the tokenizer's files; {} where there are none."""
    # Padding must not be <|bos|>: where no mask is given, transformers makes one that hides every padding token.
    if not tokenizer:
        return {}
    ids = {token["content"]: token["id"] for token in json.loads(tokenizer[TOKENIZER_FILES[0]])["added_tokens"]}
    return {name: ids[token] for name, token in SPECIAL_IDS.items()}


def add_files(folder: Path, config: dict[str, Any], tokenizer: dict[str, bytes]) -> None:
    """Writes config.json and the tokenizer's files into a checkpoint folder."""
    names = {**described(config), **special_ids(tokenizer)} if is_portable(config) else {}
    files.write_json(folder / "config.json", {**names, **config})
    for name, content in tokenizer.items():
        files.write_atomic(folder / name, content)


def is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def read(folder: Path, stage: str = "", tag: str = "") -> ForeignModel:
    """The model in a folder of transformers. UserError, one line, for whatever it has that we have not."""
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
    """The tensors of a safetensors file, mapped and not read."""
    check_file(path)
    try:
        return check_tensors(load_file(path), path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]:.100})") from None
