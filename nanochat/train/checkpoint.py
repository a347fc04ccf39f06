"""Checkpoints: one folder per step, whole or absent, checked when read.

    out/checkpoints/<stage>/<tag>/step_000500/{model.safetensors, config.json, state.json, optimizer.pt}

Of a model with LoRA, model.safetensors has the merged matrices and lora.safetensors the thin ones, for resuming.
`state.json` holds the recipe's own numbers and the SHA-256 of the other files; the damaged are named and passed over.
`format` is the version of this layout and of the model's parameters. A `--portable` model's folder is also what
transformers loads (portable.py).
"""
import hashlib
import re
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nanochat.model import GPT, GPTConfig, lora
from nanochat.optim import Optimizer
from nanochat.system import files, log, paths
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.train import portable

FORMAT = 1
RECIPES = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft", "rl": "chat_rl"}


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds of model and optimizer: copies on the CPU, so that training may go on while they are
    written. Filled on the main rank."""

    config: dict[str, Any]
    weights: dict[str, dict[str, torch.Tensor]]  # by file
    optimizer: dict[str, Any] | None


def snapshot(model: GPT, optimizer: Optimizer | None) -> Snapshot:
    """Taken by all ranks together: each holds a part of the moments."""
    parts = {"model": lora.merged(model), "lora": lora.trained(model)} if log.is_main() else {}
    weights = {f"{part}.safetensors": {name: one.to("cpu", copy=True).contiguous() for name, one in tensors.items()}
               for part, tensors in parts.items() if tensors}
    return Snapshot(model.config.as_dict(), weights, optimizer and optimizer.state_dict())


def save(folder: Path, step: int, model: GPT, optimizer: Optimizer | None, state: dict[str, Any]) -> Path:
    """Writes `folder/step_…` at once (main rank)."""
    return write(folder, step, snapshot(model, optimizer), state)


def write(folder: Path, step: int, taken: Snapshot, state: dict[str, Any]) -> Path:
    """Writes `folder/step_…` whole or not at all (main rank; others return at once)."""
    target = Path(folder) / f"step_{step:06d}"
    if not log.is_main():
        return target
    with files.replacing(target) as temporary:
        temporary.mkdir()
        try:
            portable.add_files(temporary, taken.config)
            for name, weights in taken.weights.items():
                save_file(weights, temporary / name)
            if taken.optimizer is not None:
                torch.save(taken.optimizer, temporary / "optimizer.pt")
        except (SafetensorError, RuntimeError) as error:  # what these two make of a full disk
            raise OSError(f"no space left on device? ({str(error).splitlines()[0]})") from error
        digests = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
        files.write_json(temporary / "state.json", {"format": FORMAT, "step": step, "sha256": digests,
                                                    "tokenizer": _tokenizer_digest(), **state})
    return target


def keep_only(kept: list[Path], folder: Path) -> None:
    """Removes every other checkpoint of the folder, and what a kill left of one (main rank)."""
    for path in [*(path for _, path in steps(folder)), *Path(folder).glob(".step_*")]:
        if log.is_main() and path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def steps(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint, oldest first."""
    matches = [(re.fullmatch(r"step_(\d+)", path.name), path) for path in Path(folder).glob("step_*")]
    return sorted((int(match[1]), path) for match, path in matches if match)


def check(folder: Path) -> dict[str, Any]:
    """The checkpoint's state. UserError when a file is missing, damaged or of another format."""
    state = files.read_json(folder / "state.json")
    if state.get("format") != FORMAT:
        raise UserError(f"{folder} has checkpoint format {state.get('format')}; this code reads {FORMAT}: "
                        "train it again")
    for name, digest in state["sha256"].items():
        if not (folder / name).exists() or _sha256(folder / name) != digest:
            raise UserError(f"{folder / name} is missing or damaged (its SHA-256 differs)")
    return state


def latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint and its state; damaged ones are reported and passed over. None = there is none."""
    for _, path in reversed(steps(folder)):
        try:
            return path, check(path)
        except UserError as error:
            log.say(f"warning: {error}; trying the checkpoint before it")
    return None


def restore(path: Path, model: GPT, optimizer: Optimizer | None = None) -> None:
    """Copies a checkpoint into an existing model and optimizer. UserError where they have another shape."""
    if lora.trained(model):
        _load_lora(model, path)
    else:
        _load_weights(model, path)
    if optimizer is not None:
        optimizer.load_state_dict(torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True))


def check_tokenizer(path: Path, state: dict[str, Any]) -> None:
    """UserError when the checkpoint is of another tokenizer than the run's: its token ids mean something else there."""
    if state.get("tokenizer") not in (None, _tokenizer_digest()):
        raise UserError(f"{path} was made with another tokenizer than the one in {paths.tokenizer_dir()}; "
                        "train the model again: python -m scripts.base_train")


def _tokenizer_digest() -> str | None:
    path = paths.tokenizer_dir() / "tokenizer.json"
    return _sha256(path) if path.exists() else None


def _load_weights(model: GPT, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path / "model.safetensors"))
    except RuntimeError as error:
        raise UserError(f"the weights in {path} do not fit the model ({str(error).splitlines()[-1].strip()}); "
                        "the tokenizer has changed since, or a flag: train again without --resume") from error


def _load_lora(model: GPT, path: Path) -> None:
    """The thin matrices of a checkpoint; UserError when they do not lie beside the weights they were trained with."""
    model.load_state_dict(load_file(path / "lora.safetensors"), strict=False)
    saved = load_file(path / "model.safetensors")
    if any(not torch.equal(weight, saved[name]) for name, weight in lora.merged(model).items()):
        raise UserError(f"{path} was trained beside another source checkpoint than the one that is there now; "
                        "leave --resume away to start over")


def load_model(source: str, tag: str = "", step: int | None = None, device: torch.device | str = "cpu",
               dtype: torch.dtype = torch.float32) -> tuple[GPT, Tokenizer, dict[str, Any]]:
    """Model, tokenizer and the checkpoint's state for stage `source`: the tag named, or the deepest; its newest step.

    UserError names what there is when the wanted one is not there.
    """
    tag = tag or _only_tag(source)
    folder = paths.checkpoint_dir(source, tag)
    if step is None:
        found = latest(folder)
    else:
        wanted = folder / f"step_{step:06d}"
        found = (wanted, check(wanted)) if wanted.exists() else None
    if found is None:
        raise UserError(f"no {'whole checkpoint' if step is None else f'checkpoint of step {step}'} in {folder} "
                        f"(there are: {', '.join(p.name for _, p in steps(folder)) or 'none'}); "
                        f"make one: python -m scripts.{RECIPES[source]}")
    path, state = found
    saved = files.read_json(path / "config.json")
    model = GPT(GPTConfig(**{one.name: saved[one.name] for one in fields(GPTConfig)}), compute_dtype=dtype)
    _load_weights(model, path)
    tokenizer = Tokenizer.load(paths.tokenizer_dir())
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(f"the tokenizer in {paths.tokenizer_dir()} has {tokenizer.vocab_size} tokens, the checkpoint "
                        f"{path} {model.config.vocab_size}; train the model again: python -m scripts.base_train")
    check_tokenizer(path, state)
    return model.to(device), tokenizer, {**state, "tag": tag, "path": str(path)}


def _only_tag(source: str) -> str:
    """The stage's tag when there is one; the deepest when there are several."""
    if source not in paths.STAGES:
        raise UserError(f"there is no stage {source!r}; choose one of {', '.join(paths.STAGES)}")
    tags = [path.name for path in paths.checkpoint_dir(source).glob("*") if steps(path)]
    if not tags:
        raise UserError(f"no {source} checkpoint in {paths.checkpoint_dir(source)}; "
                        f"make one: python -m scripts.{RECIPES[source]}")
    return max(tags, key=lambda tag: (int((re.search(r"\d+", tag) or ["0"])[0]), tag))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
