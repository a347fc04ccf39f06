"""The files beside the weights in a checkpoint folder, so that transformers and tokenizers load it too.

transformers has a class for the plain architecture (`--portable`) only, `NanoChatForCausalLM`. Our other folders get no
`model_type`, so that transformers refuses them instead of reading them as another model.
"""
import json
from pathlib import Path
from typing import Any

from nanochat.model import PORTABLE
from nanochat.system import files

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SPECIAL_IDS = {"bos_token_id": "<|bos|>", "eos_token_id": "<|assistant_end|>", "pad_token_id": "<|assistant_end|>"}
SIZES = {"vocab_size": "vocab_size", "n_embd": "hidden_size", "n_layer": "num_hidden_layers",
         "n_head": "num_attention_heads", "n_kv_head": "num_key_value_heads", "head_dim": "head_dim",
         "sequence_len": "max_position_embeddings"}


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
    """The ids of the tokens that begin, end and pad a text, from the tokenizer's files; {} if there are no files."""
    # Padding must not be <|bos|>: if no mask is given, transformers makes one that hides every padding token.
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
