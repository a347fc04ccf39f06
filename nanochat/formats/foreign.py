"""Shared by the readers of other programs' checkpoints: reads with a size limit, and a check of everything read."""
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nanochat.model import GPT, GPTConfig
from nanochat.system import files
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer

MAX_JSON = 1 << 24  # bytes
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # dtypes of weights that are imported
# Upper limits of a configuration's numbers: a damaged file must not make us build a model that fills the memory.
LIMITS = {"sequence_len": 1 << 17, "vocab_size": 1 << 22, "n_layer": 512, "n_head": 1024, "n_kv_head": 1024,
          "n_embd": 1 << 16, "head_dim": 1 << 14}


@dataclass(frozen=True)
class ForeignModel:
    """A checkpoint of another program in our terms. The weights are views of its file: they take no memory."""

    config: GPTConfig
    weights: dict[str, torch.Tensor]  # by our names
    tokenizer: Tokenizer
    stage: str  # the stage it belongs to, if the files show it
    tag: str
    step: int = 0
    history: dict[str, Any] = field(default_factory=dict)  # its origin, for state.json


def check_file(path: Path) -> None:
    """Raises UserError unless the path is a regular file: opening a pipe would wait for ever."""
    if not path.is_file():
        raise UserError(f"{path} is not a file" if path.exists() else f"{path} is missing")


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a file. UserError if it has more than `limit`."""
    check_file(path)
    if path.stat().st_size > limit:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes; such files have at most {limit:,}")
    return path.read_bytes()


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    read_bounded(path, MAX_JSON)
    try:
        content = files.read_json(path)
    except RecursionError:
        raise UserError(f"{path} is damaged (nested too deeply)") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it is a JSON {type(content).__name__}, not an object)")
    return content


def whole_numbers(values: dict[str, Any], names: dict[str, str], path: Path) -> dict[str, int]:
    """{our name: values[their name]}; `names`: our name → their name. UserError unless they are within LIMITS."""
    numbers: dict[str, int] = {}
    for ours, theirs in names.items():
        value = values.get(theirs)
        if type(value) is not int or not 1 <= value <= LIMITS[ours]:
            raise UserError(f"{path} has {theirs} = {value!r:.40}; expected a whole number from 1 to {LIMITS[ours]:,}")
        numbers[ours] = value
    return numbers


def checked_config(path: Path, **settings: Any) -> GPTConfig:
    try:
        return GPTConfig(**settings)
    except AssertionError as error:
        raise UserError(f"{path} describes no model: {error}") from None


def check_softcap(value: Any, path: Path) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise UserError(f"{path} has a softcap of {value!r:.40}; expected a number above 0")
    return float(value)


def check(model: ForeignModel, path: Path) -> None:
    """Raises UserError if weights are missing, too many, of another shape or dtype, or not finite, or if the tokenizer
    has another size."""
    if model.tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(f"{path} is for {model.config.vocab_size:,} tokens, and the tokenizer beside it has "
                        f"{model.tokenizer.vocab_size:,}")
    with torch.device("meta"):
        expected = {name: tuple(p.shape) for name, p in GPT(model.config).named_parameters()}
    for problem, names in (("has no", expected.keys() - model.weights.keys()),
                           ("has what this model does not need:", model.weights.keys() - expected.keys())):
        if names:
            raise UserError(f"{path} {problem} {', '.join(sorted(names)[:3])}{' …' * (len(names) > 3)}")
    for name, tensor in model.weights.items():
        if tuple(tensor.shape) != expected[name]:
            raise UserError(f"{path}: {name} has the shape {tuple(tensor.shape)}; its configuration says "
                            f"{expected[name]}")
        smallest, largest = torch.aminmax(tensor)
        if not math.isfinite(smallest) or not math.isfinite(largest):
            raise UserError(f"{path}: {name} has values that are not finite numbers")


def check_tensors(tensors: Any, path: Path) -> dict[str, torch.Tensor]:
    """`tensors`, if they are plain contiguous tensors by name which the file really contains. Otherwise UserError."""
    if not isinstance(tensors, dict) or not tensors:
        raise UserError(f"{path} holds no weights by name")
    total = 0
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UserError(f"{path} has an entry {name!r:.60} that is not a weight")
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in DTYPES
        if not plain or not tensor.is_contiguous() or not tensor.numel():
            raise UserError(f"{path}: {name:.60} is not a plain tensor of {', '.join(str(d)[6:] for d in DTYPES)}")
        total += tensor.nbytes
    if total > os.path.getsize(path):
        raise UserError(f"{path} says that it holds {total:,} bytes of weights, and has {os.path.getsize(path):,}")
    return {name: tensor.detach() for name, tensor in tensors.items()}
