"""Checkpoints: one folder per step, complete or absent, checked when read.

    out/checkpoints/<stage>/<tag>/step_000500/{model.safetensors, config.json, state.json, optimizer.pt,
                                               tokenizer.json, tokenizer_config.json}

A step's folder is complete in itself: it can be copied or linked, and it stays valid if the run's tokenizer changes
later. The tag's folder can be renamed. Only the files that a command reads have to be there: optimizer.pt (up to
twice the size of the weights) is read by --resume only. With LoRA, model.safetensors has the merged weights, and
lora.safetensors the LoRA matrices, which --resume reads. `state.json` holds the run's own numbers and the SHA-256 of
the other files, so it is written last. A damaged checkpoint is reported and skipped where the newest is wanted; with
--step it is an error. `format` is the version of this layout and of the model's parameters: older versions stay
readable. transformers can load the folder of a plain model (formats/portable.py).
"""
import hashlib
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from nanochat.formats import portable
from nanochat.formats.portable import TOKENIZER_FILES
from nanochat.model import GPT, PORTABLE, GPTConfig, attention, lora
from nanochat.system import files, log, paths
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.system.runtime import Runtime, return_freed_memory
from nanochat.tokenizer import Tokenizer

FORMAT = 1  # gets a higher number when older code can no longer read the checkpoints
SCRIPTS = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft", "rl": "chat_rl"}  # stage → its script
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# If config.json lacks a field of GPTConfig, the checkpoint is older than the field. Every new field gets an entry here:
# the value with which an older model computes as before, whatever the field's default is.
BEFORE_THE_FIELD = {**PORTABLE, "rope_base": 10_000.0, "softcap": 15.0}

State = dict[str, Any]  # the content of state.json
Replace = Callable[[str, torch.nn.Module, torch.Tensor], torch.nn.Module | None]  # None = keep the module


def flags(stage: str) -> dict[str, Any]:
    """The flags that select a finished model, the same for all commands; `stage` is the default of --source."""
    return dict(source=flag(stage, "the stage whose model is used", choices=paths.STAGES, short="i"),
                model_tag=flag("", "name of the checkpoint folder; default: the deepest", short="g"),
                step=flag(-1, "checkpoint step; −1 = the newest", at_least=0, short="s"))


class Optimizer(Protocol):
    """The part of nanochat.optim.Optimizer that checkpoints use: so a chat or an exam need not import the room."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Snapshot:
    """The content of a checkpoint: copies on the CPU, so that training continues while they are written.

    On other ranks than the main one there are no weights, and the groups of the optimizer have no moments.
    """

    config: dict[str, Any]  # the fields of GPTConfig
    weights: dict[str, dict[str, torch.Tensor]]  # file → parameter → tensor
    optimizer: dict[str, Any] | None  # None: the checkpoint cannot be resumed


def snapshot(model: GPT, optimizer: Optimizer | None) -> Snapshot:
    """Copies of weights and moments. A collective, because each rank holds a part of the moments."""
    tensors = {"model": lora.merged(model), "lora": lora.trained(model)} if log.is_main() else {}
    # Copies: the optimizer changes the tensors while a thread writes the file.
    weights = {f"{name}.safetensors": {parameter: tensor.to("cpu", copy=True).contiguous()
                                       for parameter, tensor in by_parameter.items()}
               for name, by_parameter in tensors.items() if by_parameter}
    return Snapshot(model.config.as_dict(), weights, None if optimizer is None else optimizer.state_dict())


def read_tokenizer(folder: Path) -> dict[str, bytes]:
    """The tokenizer's files by name; {} if the folder has none."""
    return {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).exists()}


def tokenizer_digest(tokenizer: dict[str, bytes]) -> str | None:
    content = tokenizer.get(TOKENIZER_FILES[0])
    return None if content is None else hashlib.sha256(content).hexdigest()


def save(folder: Path, step: int, model: GPT, optimizer: Optimizer | None, state: State) -> Path:
    """Writes `folder/step_…` with the tokenizer of the run, and returns when it is written (main rank)."""
    return write(folder, step, snapshot(model, optimizer), state, read_tokenizer(paths.tokenizer_dir()))


def write(folder: Path, step: int, content: Snapshot, state: State, tokenizer: dict[str, bytes]) -> Path:
    """Writes `folder/step_…` completely or not at all (main rank; other ranks return immediately)."""
    target = Path(folder) / f"step_{step:06d}"
    if not log.is_main():
        return target
    with files.replacing(target) as temporary:
        temporary.mkdir()
        try:
            portable.add_files(temporary, content.config, tokenizer)
            for name, weights in content.weights.items():
                save_file(weights, temporary / name)
            if content.optimizer is not None:
                # Not safetensors: its moments are lists in dictionaries, and safetensors holds named tensors only.
                torch.save(content.optimizer, temporary / "optimizer.pt")
        except (SafetensorError, RuntimeError) as error:  # safetensors and torch report a full disk as these types
            raise OSError(f"no space left on device? ({str(error).splitlines()[0]})") from error
        digests = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
        files.write_json(temporary / "state.json", {"format": FORMAT, "step": step, "sha256": digests,
                                                    "tokenizer": tokenizer_digest(tokenizer), **state})
    return target


def keep_only(checkpoints: list[Path], folder: Path) -> None:
    """Removes every other checkpoint of the folder, and temporary folders of killed processes (main rank)."""
    # `.step_…` is the name that `files.replacing` gives to a folder while it is written.
    for path in [*(path for _, path in steps(folder)), *Path(folder).glob(".step_*")]:
        if log.is_main() and path not in checkpoints:
            if path.is_symlink():  # only the link is ours to remove
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)


def steps(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint, oldest first."""
    matches = [(re.fullmatch(r"step_(\d+)", path.name), path) for path in Path(folder).glob("step_*")]
    return sorted((int(match[1]), path) for match, path in matches if match)


def present(folder: Path) -> tuple[Path, State] | None:
    """The newest checkpoint that looks complete, and its state; None if there is none. Quick: nothing is hashed."""
    return next(((path, state) for _, path in reversed(steps(folder)) if (state := _state_if_whole(path))), None)


def _state_if_whole(path: Path) -> State | None:
    try:
        # A Git-LFS pointer counts: `git lfs pull` can fetch the model, so training must not replace it. Commands that
        # read the weights refuse it (`_require`).
        if not is_lfs_pointer(path / "model.safetensors"):
            with safe_open(path / "model.safetensors", "pt"):  # compares the file's size with its table of contents
                pass
        return read_state(path)
    except (UserError, SafetensorError, OSError):
        return None


def read_state(path: Path) -> State:
    """The checkpoint's state.json. UserError when it is missing, damaged or of a newer format."""
    state = files.read_json(path / "state.json")
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise UserError(f"{path / 'state.json'} is damaged (it has no step)")
    if state.get("format", FORMAT) > FORMAT:
        raise UserError(f"{path} has checkpoint format {state['format']}; this code reads formats up to {FORMAT}: "
                        "use the version of nanochat that made it, or a newer version")
    return state


def check(path: Path, optimizer: bool = False) -> State:
    """Verifies the files that a command reads, with `optimizer` those that --resume reads, and returns the state.

    UserError if a file is missing or damaged. The state's "sha256" has the digest of the weights, even if state.json of
    older code has none.
    """
    state = read_state(path)
    digests = dict(state.get("sha256", {}))
    names = ["config.json", "model.safetensors", *(name for name in TOKENIZER_FILES if name in digests)]
    if optimizer:
        names += ["optimizer.pt", *(["lora.safetensors"] if "lora.safetensors" in digests else [])]
    for name in names:  # all of them before the first digest: hashing gigabytes takes a while
        _require(path / name)
    for name in names:
        digest = _sha256(path / name) if name in digests or name == "model.safetensors" else None
        if digest != digests.setdefault(name, digest):  # without a saved digest: takes over the computed one
            raise UserError(f"{path / name} is damaged (its SHA-256 is not that in state.json)")
    return {**state, "sha256": digests}


def _require(path: Path) -> None:
    if not path.exists():
        needed = ", which only --resume needs" if path.name == "optimizer.pt" else ""
        raise UserError(f"{path} is missing{needed}")
    if is_lfs_pointer(path):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull")


def is_lfs_pointer(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def latest(folder: Path) -> tuple[Path, State] | None:
    """The newest checkpoint with intact weights, and its state; None if there is none. Reports damaged checkpoints."""
    for _, path in reversed(steps(folder)):
        try:
            return path, check(path)
        except UserError as error:
            log.say(f"warning: {error}; trying the previous checkpoint")
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def restore(path: Path, model: GPT, optimizer: Optimizer | None = None) -> None:
    """Loads a checkpoint into an existing model and optimizer. UserError if their shapes differ."""
    if lora.trained(model):
        _load_lora(model, path)
    else:
        _load_weights(model, path)
    if optimizer is None:
        return
    try:
        # weights_only: a pickle could run any code, and checkpoints come from other people too.
        optimizer.load_state_dict(torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path / 'optimizer.pt'} is damaged or of another model ({reason}); "
                        "--overwrite trains from the beginning") from error


def _load_weights(model: GPT, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path / "model.safetensors"))
    except SafetensorError as error:  # only if state.json has no digest: `check` has compared the others
        raise UserError(f"{path / 'model.safetensors'} is damaged ({error})") from error
    except RuntimeError as error:
        raise UserError(f"the weights in {path} do not fit the model ({str(error).splitlines()[-1].strip()}); "
                        "the tokenizer or a flag has changed: --overwrite trains from the beginning") from error


def _load_replaced(model: GPT, path: Path, replace: Replace) -> None:
    """Fills a model on the "meta" device weight by weight, and replaces modules by those that `replace` returns."""
    # The largest first, while the memory is still empty: for a moment a weight is there in both forms.
    for name, parameter in sorted(model.named_parameters(), key=lambda named: -named[1].numel()):
        try:
            # The file is opened again for each weight, because closing it frees the memory of the weight before.
            with safe_open(path / "model.safetensors", "pt") as file:
                weight = file.get_tensor(name)
        except SafetensorError as error:
            raise UserError(f"{path / 'model.safetensors'} is damaged, or of another model ({error})") from error
        if weight.shape != parameter.shape:
            raise UserError(f"the weights in {path} do not fit the model: {name} is {tuple(weight.shape)}, not "
                            f"{tuple(parameter.shape)}")
        parent, _, own_name = name.rpartition(".")
        module = model.get_submodule(parent)
        if other := replace(parent, module, weight) if own_name == "weight" else None:
            model.set_submodule(parent, other)
        else:
            setattr(module, own_name, torch.nn.Parameter(weight.clone()))
        return_freed_memory()  # of temporary tensors, or it is added to the memory of the next weights


def _load_lora(model: GPT, path: Path) -> None:
    """Loads the LoRA matrices of a checkpoint. UserError if the model's weights are not those they were trained on."""
    model.load_state_dict(load_file(path / "lora.safetensors"), strict=False)
    saved = load_file(path / "model.safetensors")
    if any(not torch.equal(weight, saved[name]) for name, weight in lora.merged(model).items()):
        raise UserError(f"{path}: its LoRA matrices were trained on another source checkpoint than the present one; "
                        "--overwrite trains from the beginning")


def config_of(path: Path) -> GPTConfig:
    """The configuration in a checkpoint's config.json, also of older code. UserError names fields it cannot read."""
    saved = files.read_json(path / "config.json")
    known = {field.name: field for field in fields(GPTConfig)}
    unknown = sorted(set(saved) - set(known))
    if unknown and "model_type" not in saved:  # a portable model's config.json has transformers' names as well
        raise UserError(f"{path / 'config.json'} has fields that this code does not know: {', '.join(unknown)}; "
                        "use the version of nanochat that made it, or a newer version")
    values = {name: saved.get(name, BEFORE_THE_FIELD.get(name, MISSING)) for name in known}
    if missing := [name for name, value in values.items() if value is MISSING]:
        raise UserError(f"{path / 'config.json'} is damaged: it has no {', '.join(missing)}")
    return GPTConfig(**values)


def tokenizer_folder(path: Path) -> Path:
    """The folder of a checkpoint's tokenizer: its own, or, for checkpoints of older code, the run's."""
    return path if (path / TOKENIZER_FILES[0]).exists() else paths.tokenizer_dir()


def models_of(tokenizer: dict[str, bytes]) -> list[tuple[str, Path]]:
    """(stage/tag, newest checkpoint) of every model that was made with this tokenizer."""
    folders = [folder for stage in paths.STAGES for folder in sorted(paths.checkpoint_dir(stage).glob("[!.]*"))]
    return [(f"{folder.parent.name}/{folder.name}", newest[0]) for folder in folders
            if (newest := present(folder)) and newest[1].get("tokenizer") == tokenizer_digest(tokenizer)]


def give_tokenizer(path: Path, tokenizer: dict[str, bytes]) -> None:
    """Puts the tokenizer into all checkpoints beside `path` that have none, because older code made them."""
    for _, folder in steps(path.parent):
        # A checkpoint that has its tokenizer keeps it: then there is nothing to write.
        for name, content in tokenizer.items() if not (folder / TOKENIZER_FILES[0]).exists() else ():
            files.write_atomic(folder / name, content)


def load_tokenizer(path: Path, state: State) -> Tokenizer:
    """The checkpoint's tokenizer. UserError when the model was trained with another tokenizer."""
    folder = tokenizer_folder(path)
    tokenizer = Tokenizer.load(folder)
    if state.get("tokenizer") not in (None, tokenizer_digest(read_tokenizer(folder))):
        raise UserError(f"{path} was made with another tokenizer than the one in {folder}; "
                        "put the tokenizer.json of that run into the checkpoint's folder, or train the model again")
    return tokenizer


def load_model(source: str, tag: str = "", step: int = -1, device: torch.device | str = "cpu",
               dtype: torch.dtype = torch.float32, replace: Replace | None = None) -> tuple[GPT, Tokenizer, State]:
    """Model, tokenizer and state of stage `source`: the checkpoint of this tag ("" = the deepest) and step (−1 = the
    newest). The state has also "tag" and "path". UserError names the checkpoints that are there instead.

    `replace` may return a module to use in place of a module with a weight (infer/quantize.py). Weights are then read
    one by one, so that the unquantized model is never in memory as a whole.
    """
    tag = tag or default_tag(source)
    folder = paths.checkpoint_dir(source, tag)
    path = folder / f"step_{step:06d}"
    chosen = latest(folder) if step < 0 else (path, check(path)) if path.exists() else None
    if chosen is None:
        raise UserError(f"no {'whole checkpoint' if step < 0 else f'checkpoint of step {step}'} in {folder} "
                        f"(there are: {', '.join(p.name for _, p in steps(folder)) or 'none'}); "
                        f"make one: bash speedrun.sh, or python -m scripts.{SCRIPTS[source]}; if a run has it "
                        "elsewhere, put NANOCHAT_BASE_DIR=ITS_OUT_FOLDER before the command")
    path, state = chosen
    tokenizer = load_tokenizer(path, state)
    with torch.device("meta" if replace else "cpu"):
        model = GPT(config_of(path), compute_dtype=dtype)
    if replace:
        _load_replaced(model, path, replace)
    else:
        _load_weights(model, path)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(f"the tokenizer in {tokenizer_folder(path)} has {tokenizer.vocab_size} tokens, the checkpoint "
                        f"{path} {model.config.vocab_size}; train the model again: python -m scripts.base_train")
    model.to(device)
    # Loading onto a GPU is for inference: `load_for_training` loads onto the CPU and moves the fp32 weights.
    if torch.device(device).type == "cuda":
        model.to(dtype)  # once, instead of a cast at every use
    return model, tokenizer, {**state, "tag": tag, "path": str(path)}


def load_for_training(source: str, tag: str, runtime: Runtime, lora_rank: int = 0,
                      seed: int = 0) -> tuple[GPT, Tokenizer, State]:
    """The newest model of a stage, from which the next stage starts; `lora_rank` > 0: only LoRA matrices learn."""
    model, tokenizer, state = load_model(source, tag, dtype=runtime.dtype)
    if lora_rank:  # before the model is moved: the device may have no room for all weights in fp32
        lora.attach(model, lora_rank, seed=seed, head=source == "base")
    attention.enable_fastest_kernel(runtime.device, runtime.dtype, model.config.head_dim, model.config.sequence_len)
    return model.to(runtime.device), tokenizer, state


def identity(state: State) -> dict[str, Any]:
    """Identifies the weights of `load_model`; the checkpoints of the stage that starts from them store it."""
    stage = Path(state["path"]).parent.parent.name
    return {"stage": stage, "tag": state["tag"], "step": state["step"], "weights": state["sha256"]["model.safetensors"]}


def default_tag(source: str) -> str:
    """The only tag of the stage, or of several tags the deepest. UserError if the stage has no checkpoint."""
    if source not in paths.STAGES:
        raise UserError(f"there is no stage {source!r}; choose one of {', '.join(paths.STAGES)}")
    tags = [path.name for path in paths.checkpoint_dir(source).glob("*") if steps(path)]
    if not tags:
        raise UserError(f"no {source} checkpoint in {paths.checkpoint_dir(source)}; "
                        f"make one: python -m scripts.{SCRIPTS[source]}")

    def rank(tag: str) -> tuple[int, bool, str]:
        depth = re.match(r"d(\d+)", tag)
        # At equal depth the plain name wins: d4 over d4-trial.
        return (int(depth[1]), depth[0] == tag, tag) if depth else (0, False, tag)

    return max(tags, key=rank)
