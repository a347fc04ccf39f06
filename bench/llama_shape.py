"""A model file for llama.cpp with random weights in one of bench.serve's shapes: what its speed depends on.

    pip install gguf; python -m bench.llama_shape --shape=d12 --dtype=q4_0 --gguf=/tmp/d12.gguf

llama.cpp does not know our architecture. Its own has an MLP of three matrices instead of two; they are two thirds as
wide, rounded to 64, so that a token costs as many bytes and products.
"""
import numpy as np

from bench.serve import SHAPES
from nanochat.system import cli
from nanochat.system.cli import flag

BLOCK_BYTES = {"q8_0": 34, "q4_0": 18}  # of 32 weights: a scale in fp16, then the integers
Q6_K = 210  # bytes of 256 weights; llama.cpp stores the head so where the rest is Q4_0


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(argv, __doc__, shape=flag("laptop", choices=tuple(SHAPES)), gguf=flag("model.gguf", "to write"),
                     dtype=flag("f16", choices=("f16", *BLOCK_BYTES)))
    write(args.gguf, args.shape, args.dtype)


def hidden_width(width: int) -> int:
    return round(width * 8 / 3 / 64) * 64


def bytes_per_token(shape: str, dtype: str) -> int:
    """Of all matrices but the embedding."""
    layers, width, _, vocab_size, _ = SHAPES[shape]
    numbers, head = layers * width * (4 * width + 3 * hidden_width(width)), vocab_size * width
    if dtype == "q4_0" and width % 256 == 0:
        return numbers // 32 * BLOCK_BYTES[dtype] + head // 256 * Q6_K
    return (numbers + head) * 2 if dtype == "f16" else (numbers + head) // 32 * BLOCK_BYTES[dtype]


def write(path: str, shape: str, dtype: str) -> None:
    import gguf
    layers, width, head, vocab_size, context = SHAPES[shape]
    hidden, draw = hidden_width(width), np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in dict(context_length=context, embedding_length=width, block_count=layers,
                            feed_forward_length=hidden, head_count=width // head, head_count_kv=width // head,
                            layer_norm_rms_eps=1e-6, rope_dimension_count=head, vocab_size=vocab_size,
                            file_type={"f16": 1, "q4_0": 2, "q8_0": 7}[dtype], tokenizer_model="gpt2",
                            tokenizer_pre="gpt-2", token_list=[f"t{i}" for i in range(vocab_size)],
                            token_types=[1] * vocab_size, token_merges=["t 1"], bos_token_id=0, eos_token_id=1).items():
        getattr(writer, f"add_{name}")(value)

    def matrix(name: str, rows: int, columns: int) -> None:
        if dtype == "f16":
            values = draw.standard_normal((rows, columns), dtype=np.float32) * columns**-0.5
            return writer.add_tensor(f"{name}.weight", values.astype(np.float16))
        if dtype == "q4_0" and name == "output" and columns % 256 == 0:
            blocks = np.frombuffer(draw.bytes(rows * columns // 256 * Q6_K), np.uint8).reshape(rows, -1, Q6_K).copy()
            blocks[:, :, -2:] = np.array([columns**-0.5 / 1e3], np.float16).view(np.uint8)
            return writer.add_tensor("output.weight", blocks.reshape(rows, -1),
                                     raw_dtype=gguf.GGMLQuantizationType.Q6_K)
        blocks = np.frombuffer(draw.bytes(rows * columns // 32 * BLOCK_BYTES[dtype]), np.uint8).copy()
        blocks = blocks.reshape(rows, -1, BLOCK_BYTES[dtype])
        blocks[:, :, :2] = np.array([columns**-0.5 / (74 if dtype == "q8_0" else 4.6)], np.float16).view(np.uint8)
        writer.add_tensor(f"{name}.weight", blocks.reshape(rows, -1),
                          raw_dtype=gguf.GGMLQuantizationType[dtype.upper()])

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
