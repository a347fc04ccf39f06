"""The files that let transformers load a checkpoint's folder as it is: `NanoChatForCausalLM` and its tokenizer.

transformers has a class for the plain architecture (`--portable`) only. Other folders get no `model_type`, so that it
refuses them instead of reading them as something else.
"""
import json
from pathlib import Path
from typing import Any

from nanochat.model import PORTABLE
from nanochat.system import files

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SPECIAL_IDS = {"bos_token_id": "<|bos|>", "eos_token_id": "<|assistant_end|>", "pad_token_id": "<|bos|>"}


def is_portable(config: dict[str, Any]) -> bool:
    """Whether a `GPTConfig` (as a dictionary) is the plain architecture."""
    return all(config[name] == value for name, value in PORTABLE.items())


def described(config: dict[str, Any]) -> dict[str, Any]:
    """transformers' names for a portable model, for its config.json."""
    return {
        "model_type": "nanochat", "architectures": ["NanoChatForCausalLM"], "dtype": "float32",
        "vocab_size": config["vocab_size"], "hidden_size": config["n_embd"],
        "intermediate_size": 4 * config["n_embd"], "num_hidden_layers": config["n_layer"],
        "num_attention_heads": config["n_head"], "num_key_value_heads": config["n_kv_head"],
        "head_dim": config["head_dim"], "max_position_embeddings": config["sequence_len"], "hidden_act": "relu2",
        "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_base"]},
        "attention_bias": False, "final_logit_softcapping": config["softcap"], "tie_word_embeddings": False}


def special_ids(tokenizer: dict[str, bytes]) -> dict[str, int]:
    """The ids at which an answer begins and ends, from the tokenizer's files; {} where there are none."""
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
