"""Checkpoints of karpathy/nanochat, of every form that its code had from October 2025 to July 2026.

    model_000650.pt   the weights, by names          meta_000650.json   step and sizes          tokenizer.pkl

They are in one folder, as on the hub, or in that project's own tree (`chatsft_checkpoints/d32/`, `tokenizer/`). No file
contains the constants of a form: names and shapes of the weights show which form it is.

    names and shapes                              since       what follows
    nothing but the plain weights                 2025-10     ours with PORTABLE
    resid_lambdas, x0_lambdas                     2026-01-11  windows of T/2 where the meta has a window_pattern
    value_embeds, gates of 32 channels            2026-01-16  v += 2σ(gate) · table
    gates of 12 channels                          2026-03-09  3σ, base 100,000, q and k × 1.15, windows of T/3
    smear_gate, smear_lambda, backout_lambda      2026-03-14  q and k × 1.2, windows of T/4
"""
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from nanochat.formats.foreign import (
    ForeignModel,
    check,
    check_file,
    check_tensors,
    checked_config,
    read_object,
    whole_numbers,
)
from nanochat.formats.tokenizer_pickle import read_tokenizer
from nanochat.model import PORTABLE, GPTConfig
from nanochat.system.files import UserError
from nanochat.system.numbers import ceil_div

TREE = {"base_checkpoints": "base", "mid_checkpoints": "mid", "chatsft_checkpoints": "sft", "chatrl_checkpoints": "rl"}
SIZES = {name: name for name in ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")}
PADDING = 64  # tables are padded to a multiple of this; the rows at the end belong to no token
MAX_INDEX = 1 << 24  # bytes of a .pt file's table of contents, which is read before the weights
NAMES = {"transformer.wte.weight": "model.embed_tokens.weight", "lm_head.weight": "lm_head.weight",
         "resid_lambdas": "model.residual_scalars", "x0_lambdas": "model.embedding_scalars",
         "smear_gate.weight": "model.smear_gate.weight", "smear_lambda": "model.smear_share",
         "backout_lambda": "model.backout"}
IN_BLOCK = {"attn.c_q": "self_attn.q_proj", "attn.c_k": "self_attn.k_proj", "attn.c_v": "self_attn.v_proj",
            "attn.c_proj": "self_attn.o_proj", "attn.ve_gate": "self_attn.gate", "mlp.c_fc": "mlp.fc1",
            "mlp.c_proj": "mlp.fc2"}


def checkpoints(folder: Path) -> list[tuple[str, str, Path]]:
    """(stage, tag, folder with model_*.pt) of every checkpoint in a folder or tree; "" if the names do not show it."""
    def tagged(parent: Path) -> list[tuple[str, str, Path]]:
        return [(TREE[parent.name], path.name, path) for path in sorted(parent.glob("*")) if steps(path)]

    if steps(folder):
        stage = TREE.get(folder.resolve().parent.name, "")
        return [(stage, folder.resolve().name if stage else "", folder)]
    if folder.name in TREE:
        return tagged(folder)
    return [found for name in TREE for found in tagged(folder / name)]


def steps(folder: Path) -> list[tuple[int, Path]]:
    """(step, file of weights), oldest first."""
    matches = [(re.fullmatch(r"model_(\d{1,9})\.pt", path.name), path) for path in folder.glob("model_*.pt")]
    return sorted((int(match[1]), path) for match, path in matches if match)


def read(folder: Path, stage: str = "", tag: str = "", softcap: float = 15.0) -> ForeignModel:
    """The newest checkpoint in the folder. UserError, one line, for everything that is missing or damaged."""
    step, weights_path = steps(folder)[-1]
    meta_path = folder / f"meta_{weights_path.stem.removeprefix('model_')}.json"
    meta = read_object(meta_path)
    # A compiled model's names begin with this prefix.
    loaded = load_weights(weights_path)
    tensors = {name.removeprefix("_orig_mod."): tensor for name, tensor in loaded.items()}
    if len(tensors) < len(loaded):
        raise UserError(f"{weights_path} has weights twice, with and without _orig_mod.")
    config = config_of(meta, tensors, meta_path, softcap)
    beside = folder / "tokenizer.pkl"
    tokenizer = read_tokenizer(beside if beside.exists() else folder.parent.parent / "tokenizer" / "tokenizer.pkl")
    trained = meta.get("user_config")
    # Only the script of the base model has this flag; a checkpoint on the hub without it is a chat model.
    guess = "base" if isinstance(trained, dict) and "target_param_data_ratio" in trained else "sft"
    model = ForeignModel(config, translated(tensors, config, weights_path), tokenizer, stage or guess,
                         tag or f"d{config.n_layer}", step, {"program": "karpathy/nanochat"})
    check(model, weights_path)
    return model


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .pt file: memory-mapped, not read. Nothing in the file is executed."""
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise UserError(f"{path} is damaged, or not a file of torch.save ({error})") from None
    index = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if index > MAX_INDEX or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path} is not a file of torch.save: its index is too large, or something in it is compressed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below names the fault, in one line
            tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # with bad input an unpickler may raise any error
        raise UserError(f"{path} is damaged, or has more in it than weights ({type(error).__name__}); "
                        "nothing in it was executed") from None
    return check_tensors(tensors, path)


def config_of(meta: dict[str, Any], tensors: dict[str, torch.Tensor], path: Path, softcap: float = 15.0) -> GPTConfig:
    """The configuration that follows from the meta file's sizes and the weights' names and shapes."""
    settings = meta.get("model_config")
    if not isinstance(settings, dict):
        raise UserError(f"{path} has no model_config")
    if unknown := sorted(settings.keys() - SIZES.keys() - {"window_pattern"}):
        raise UserError(f"{path} has a model_config with {', '.join(unknown)[:80]}, which this version does not know")
    sizes = whole_numbers(settings, SIZES, path)
    if sizes["n_embd"] % sizes["n_head"]:
        raise UserError(f"{path} describes no model: n_embd {sizes['n_embd']} is not a multiple of {sizes['n_head']}")
    smear, gates = "smear_gate.weight" in tensors, {t.shape[-1] for name, t in tensors.items() if "ve_gate" in name}
    if gates - {12, 32} or len(gates) > 1:
        raise UserError(f"{path}: value gates of {sorted(gates)} channels; expected 12 or 32")
    # From 2026-03-02 to 03-09 the softcap was 20 and not 15: nothing in the files shows it. Up to 2026-03-04 that code
    # rounds the tables of cos and sin to bf16; ours does not (logits move by .002), nor its own since then on a CPU.
    tuned = gates == {12}
    parts = 2 if not tuned else 4 if smear else 3  # a short window is this part of the context
    short = sizes["sequence_len"] // 2 if not tuned else 128 * ceil_div(ceil_div(sizes["sequence_len"], parts), 128)
    features = {"value_embeddings": bool(gates), "residual_scalars": "resid_lambdas" in tensors, "gated_smear": smear,
                "backout": "backout_lambda" in tensors,
                "query_key_scale": 1.0 if not tuned else 1.2 if smear else 1.15,
                "windows": windows(settings.get("window_pattern", "L"), sizes, short, path)}
    return checked_config(path, **sizes, **{**PORTABLE, **features}, head_dim=sizes["n_embd"] // sizes["n_head"],
                          rope_base=100_000.0 if tuned else 10_000.0, softcap=softcap)


def windows(pattern: Any, sizes: dict[str, int], short: int, path: Path) -> list[int] | None:
    """The attention window of each layer; None if all layers have full attention. The last layer always has."""
    if not isinstance(pattern, str) or not re.fullmatch(r"[SLsl]{1,512}", pattern):
        raise UserError(f"{path} has the window_pattern {pattern!r:.40}; expected letters S and L")
    length = sizes["sequence_len"]
    letters = [pattern.upper()[layer % len(pattern)] for layer in range(sizes["n_layer"] - 1)]
    return [*(short if letter == "S" else length for letter in letters), length] if "S" in letters else None


def translated(tensors: dict[str, torch.Tensor], config: GPTConfig, path: Path) -> dict[str, torch.Tensor]:
    """The weights under our names, in our shapes."""
    weights: dict[str, torch.Tensor] = {}
    for theirs, tensor in tensors.items():
        block = re.fullmatch(r"transformer\.h\.(\d{1,3})\.([a-z_.]+)\.weight", theirs)
        if block and block[2] in IN_BLOCK:
            name = f"model.layers.{block[1]}.{IN_BLOCK[block[2]]}.weight"
        elif re.fullmatch(r"value_embeds\.\d{1,3}\.weight", theirs):
            name = f"model.{theirs}"
        elif theirs in NAMES:
            name = NAMES[theirs]
        else:
            raise UserError(f"{path} has a weight {theirs:.60}, which no published form of nanochat has")
        if name.endswith(("embed_tokens.weight", "lm_head.weight")) or ".value_embeds." in name:
            if tensor.ndim == 2 and len(tensor) == PADDING * ceil_div(config.vocab_size, PADDING):
                tensor = tensor[:config.vocab_size]
        if name.endswith("gate.weight") and tensor.ndim == 2 and tensor.shape[1] < config.n_embd:
            # Their gates read only the first channels, ours all: the other columns are zeros.
            tensor = torch.nn.functional.pad(tensor, (0, config.n_embd - tensor.shape[1]))
        if ".value_embeds." in name and config.query_key_scale != 1:
            tensor = 1.5 * tensor.float()  # 3σ · table = 2σ · (1.5 · table)
        weights[name] = tensor
    return weights
