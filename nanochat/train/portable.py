"""What makes a checkpoint folder loadable in transformers as it is: `NanoChatForCausalLM` and its tokenizer.

Only the plain architecture (`--portable`) has a class there. Other folders get no `model_type`, so transformers refuses
them instead of reading them as something else.
"""
import shutil
from pathlib import Path
from typing import Any

from nanochat.model import PORTABLE
from nanochat.system import files, paths

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def is_portable(config: dict[str, Any]) -> bool:
    """Whether a `GPTConfig` (as a dictionary) is the plain architecture."""
    return all(config[name] == value for name, value in PORTABLE.items())


def described(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a portable checkpoint: transformers' names, then ours."""
    return {
        "model_type": "nanochat", "architectures": ["NanoChatForCausalLM"], "dtype": "float32",
        "vocab_size": config["vocab_size"], "hidden_size": config["n_embd"],
        "intermediate_size": 4 * config["n_embd"], "num_hidden_layers": config["n_layer"],
        "num_attention_heads": config["n_head"], "num_key_value_heads": config["n_kv_head"],
        "head_dim": config["head_dim"], "max_position_embeddings": config["sequence_len"], "hidden_act": "relu2",
        "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_base"]},
        "attention_bias": False, "final_logit_softcapping": config["softcap"], "tie_word_embeddings": False,
        **special_ids(), **config}


def special_ids() -> dict[str, int]:
    """Where an answer begins and ends, from the run's tokenizer; nothing where there is none yet."""
    path = paths.tokenizer_dir() / TOKENIZER_FILES[0]
    if not path.exists():
        return {}
    ids = {token["content"]: token["id"] for token in files.read_json(path)["added_tokens"]}
    return {"bos_token_id": ids["<|bos|>"], "eos_token_id": ids["<|assistant_end|>"], "pad_token_id": ids["<|bos|>"]}


def add_files(folder: Path, config: dict[str, Any]) -> None:
    """Writes config.json into a checkpoint folder, and for a portable one the tokenizer beside it."""
    if not is_portable(config):
        files.write_json(folder / "config.json", config)
        return
    files.write_json(folder / "config.json", described(config))
    for name in TOKENIZER_FILES:
        if (paths.tokenizer_dir() / name).exists():
            shutil.copyfile(paths.tokenizer_dir() / name, folder / name)
