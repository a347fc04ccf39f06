"""A model file for llama.cpp with random F16 weights in one of bench.serve's shapes: what its speed depends on.

    pip install gguf; python -m bench.llama_shape --shape=d12 --gguf=/tmp/d12.gguf

llama.cpp does not know our architecture. Its own has an MLP of three matrices instead of two; they are two thirds as
wide, so that a token costs as many bytes and products.
"""
import numpy as np

from bench.serve import SHAPES
from nanochat.system import cli
from nanochat.system.cli import flag


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(argv, __doc__, shape=flag("laptop", choices=tuple(SHAPES)), gguf=flag("model.gguf", "to write"))
    import gguf
    layers, width, head, vocab_size, context = SHAPES[args.shape]
    hidden = width * 8 // 3
    draw = np.random.default_rng(0)
    writer = gguf.GGUFWriter(args.gguf, "llama")
    for name, value in dict(context_length=context, embedding_length=width, block_count=layers,
                            feed_forward_length=hidden, head_count=width // head, head_count_kv=width // head,
                            layer_norm_rms_eps=1e-6, rope_dimension_count=head, vocab_size=vocab_size, file_type=1,
                            tokenizer_model="none").items():
        getattr(writer, f"add_{name}")(value)

    def matrix(name: str, rows: int, columns: int) -> None:
        values = draw.standard_normal((rows, columns), dtype=np.float32) * columns**-0.5
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))

    matrix("token_embd", vocab_size, width)
    matrix("output", vocab_size, width)
    norm("output_norm")
    for layer in range(layers):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{layer}.{part}", width, width)
        for part, rows, columns in (("gate", hidden, width), ("up", hidden, width), ("down", width, hidden)):
            matrix(f"blk.{layer}.ffn_{part}", rows, columns)
        norm(f"blk.{layer}.attn_norm")
        norm(f"blk.{layer}.ffn_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    cli.run(main)
