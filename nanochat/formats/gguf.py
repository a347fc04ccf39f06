"""A GGUF file, llama.cpp's format: metadata, a table of tensors, the tensors. (Its specification: ggml, docs/gguf.md.)

    "GGUF" version=3 tensors keys | key type value … | name dimensions type offset … | data, each aligned to 32

The model is folded into Qwen3's form (fold.py).
"""
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from nanochat.formats.fold import check_form, check_range, fold
from nanochat.model import GPTConfig
from nanochat.system import files
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.bpe import SPECIALS

ALIGNMENT = 32  # bytes; GGUF's default
TENSOR_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}  # ggml_type
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}  # llama_ftype
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5  # gguf_metadata_value_type
BLOCK = 32  # numbers that share a scale in Q8_0
NAMES = {"model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm"}
IN_BLOCK = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
            "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
# llama.cpp's names for our split pattern, by the number of digits in a word.
SPLITS = {1: "qwen2", 3: "llama-bpe"}
# Other texts for the four tool marks, so that a call looks like a tagged call, from which llama.cpp's server derives
# its parser. Their ids do not change.
TOOL_MARKS = {"<|python_start|>": "<tool_call><function=calculator><param=expression>",
              "<|python_end|>": "</param></function></tool_call>", "<|output_start|>": "<tool_response>",
              "<|output_end|>": "</tool_response>"}
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # the last kind is shown in the text, and parsed there
TEMPLATE = Path(__file__).with_name("tool_template.jinja").read_text(encoding="ascii")


def write(path: Path, name: str, config: GPTConfig, weights: dict[str, torch.Tensor], tokenizer: Tokenizer,
          dtype: str) -> None:
    """Writes the complete file, or none. UserError if the form cannot represent the model."""
    check_form(config, "gguf")
    if tokenizer.digits not in SPLITS:
        raise UserError(f"--to=gguf cannot hold a tokenizer with {tokenizer.digits} digits in a word; train one with "
                        "`tok_train --digits=1`, or use --to=page, which takes every model")
    folded = fold(config, weights)
    check_range(folded, dtype)
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        _write(file, metadata(name, config, tokenizer, dtype),
               {_name(theirs): tensor for theirs, tensor in folded.items()}, dtype)


def metadata(name: str, config: GPTConfig, tokenizer: Tokenizer, dtype: str) -> dict[str, tuple[int, Any]]:
    """{key: (type, value)}; an array's value is (type of its elements, list)."""
    tokens, kinds = _tokens(tokenizer)
    end = tokenizer.special_id("<|assistant_end|>")
    numbers = {"context_length": config.sequence_len, "embedding_length": config.n_embd, "block_count": config.n_layer,
               "feed_forward_length": 4 * config.n_embd, "vocab_size": config.vocab_size,
               "attention.head_count": config.n_head, "attention.head_count_kv": config.n_kv_head,
               "attention.key_length": config.head_dim, "attention.value_length": config.head_dim,
               "rope.dimension_count": config.head_dim}
    return {
        "general.architecture": (STRING, "qwen3"), "general.name": (STRING, name),
        "general.alignment": (U32, ALIGNMENT),
        "general.file_type": (U32, FILE_TYPES[dtype]), "general.quantization_version": (U32, 2),
        "general.sampling.penalty_repeat": (F32, 1.0), "general.sampling.temp": (F32, 0.6),
        **{f"qwen3.{key}": (U32, value) for key, value in numbers.items()},
        "qwen3.attention.layer_norm_rms_epsilon": (F32, 1e-6), "qwen3.rope.freq_base": (F32, config.rope_base),
        "tokenizer.ggml.model": (STRING, "gpt2"), "tokenizer.ggml.pre": (STRING, SPLITS[tokenizer.digits]),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)), "tokenizer.ggml.token_type": (ARRAY, (I32, kinds)),
        "tokenizer.ggml.merges": (ARRAY, (STRING, [f"{a} {b}" for a, b in tokenizer.all_merges()])),
        "tokenizer.ggml.bos_token_id": (U32, tokenizer.bos_id), "tokenizer.ggml.eos_token_id": (U32, end),
        "tokenizer.ggml.padding_token_id": (U32, end), "tokenizer.ggml.add_bos_token": (BOOL, True),
        "tokenizer.ggml.add_space_prefix": (BOOL, False), "tokenizer.chat_template": (STRING, TEMPLATE)}


def _tokens(tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    names = [TOOL_MARKS.get(special, special) for special in SPECIALS]
    kinds = [USER_DEFINED if special in TOOL_MARKS else CONTROL for special in SPECIALS]
    ordinary = tokenizer.visible_tokens()
    return [*ordinary, *names], [NORMAL] * len(ordinary) + kinds


def _name(theirs: str) -> str:
    stem = theirs.removesuffix(".weight")
    if stem in NAMES:
        return f"{NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{IN_BLOCK[part]}.weight"


def _write(file: BinaryIO, keys: dict[str, tuple[int, Any]], tensors: dict[str, torch.Tensor], dtype: str) -> None:
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)))
    for key, (kind, value) in keys.items():
        file.write(_text(key) + struct.pack("<I", kind) + b"".join(_value(kind, value)))
    offset = 0
    for name, tensor in tensors.items():
        stored = "f32" if tensor.ndim == 1 else dtype  # norms are small, and must be exact
        dimensions = tuple(reversed(tensor.shape))  # GGUF's order: the contiguous dimension comes first
        file.write(_text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions,
                                             TENSOR_TYPES[stored], offset))
        offset += _aligned(_num_bytes(tensor, stored))
    file.write(bytes(_aligned(file.tell()) - file.tell()))
    for tensor in tensors.values():
        data = encode(tensor, "f32" if tensor.ndim == 1 else dtype)
        file.write(data + bytes(_aligned(len(data)) - len(data)))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _num_bytes(tensor: torch.Tensor, kind: str) -> int:
    if kind == "q8_0":
        return tensor.numel() // BLOCK * (BLOCK + 2)  # 32 bytes and a scale of 2 bytes
    return tensor.numel() * (4 if kind == "f32" else 2)


def encode(tensor: torch.Tensor, kind: str) -> bytes:
    """The tensor's bytes; Q8_0: for each 32 numbers of a row a scale (fp16) and 32 integers of 8 bits."""
    values = tensor.float().numpy()
    if kind != "q8_0":
        return values.astype("<f4" if kind == "f32" else "<f2").tobytes()
    if values.shape[-1] % BLOCK:
        raise UserError(f"--dtype=q8_0 needs widths that are multiples of {BLOCK}, not {values.shape[-1]}; give f16")
    blocks = values.reshape(-1, BLOCK)
    scale = np.abs(blocks).max(1, keepdims=True) / 127  # (blocks, 1)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse
    integers = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)  # as ggml rounds
    return np.concatenate((scale.astype("<f2").view(np.uint8), integers.view(np.uint8)), axis=1).tobytes()


def _value(kind: int, value: Any) -> Iterator[bytes]:
    if kind == ARRAY:
        element, items = value
        yield struct.pack("<IQ", element, len(items))
        for item in items:
            yield from _value(element, item)
    elif kind == STRING:
        yield _text(value)
    else:
        yield struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content
