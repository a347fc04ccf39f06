"""One HTML file that is a whole chat: weights, tokenizer, forward pass, calculator. No server, no network.

The parts are in page/: forward.js is the forward pass of model/gpt.py, tokenizer.js the tokenizer and the calculator,
chat.js the engine (infer/engine.py) for one row, inside.js a part of infer/inside.py.
"""
import base64
import html
import json
from pathlib import Path

import torch

from nanochat.formats.card import filled
from nanochat.formats.fold import MAX_F16
from nanochat.model import GPTConfig, accounting
from nanochat.system import files
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.bpe import SPECIALS

PARTS = Path(__file__).with_name("page")
SCRIPTS = ("forward.js", "tokenizer.js", "chat.js", "inside.js")
DTYPES = {"f16": "<f2", "f32": "<f4"}  # little-endian, as JavaScript's typed arrays on all common machines
MAX_PARAMETERS = 200_000_000  # a page can have about 1 GB of text, and the browser computes in fp32


def write(path: Path, name: str, config: GPTConfig, weights: dict[str, torch.Tensor], tokenizer: Tokenizer,
          dtype: str) -> None:
    """Writes the complete page, or none. UserError if the model is too large for a browser."""
    if (num := accounting.num_parameters(config)) > MAX_PARAMETERS:
        raise UserError(f"--to=page is for models up to {MAX_PARAMETERS:,} parameters, and this one has {num:,}; "
                        "use --to=gguf")
    if dtype == "f16" and max(float(tensor.abs().max()) for tensor in weights.values()) > MAX_F16:
        raise UserError(f"--dtype=f16 holds numbers up to {MAX_F16:,.0f}, and a weight is larger; give --dtype=f32")
    data = b"".join(tensor.float().numpy().astype(DTYPES[dtype]).tobytes() for tensor in weights.values())
    files.write_atomic(path, filled("page/page.html", title=html.escape(name), parameters=f"{num:,}", scripts=scripts(),
                                    model=description(config, weights, tokenizer, dtype),
                                    weights=base64.b64encode(data).decode()))


def scripts() -> str:
    return "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)


def description(config: GPTConfig, weights: dict[str, torch.Tensor], tokenizer: Tokenizer, dtype: str) -> str:
    """The JSON that page.html reads: sizes, the weights' names and lengths in order, the tokenizer."""
    tokens = [tokenizer.decode_bytes([i]).decode("latin-1") for i in range(tokenizer.vocab_size - len(SPECIALS))]
    content = {"config": config.as_dict(), "tensors": [(name, tensor.numel()) for name, tensor in weights.items()],
               "dtype": dtype, "tokens": tokens, "specials": SPECIALS, "digits": tokenizer.digits}
    return json.dumps(content).replace("<", "\\u003c")  # so that no token can end the <script> element
