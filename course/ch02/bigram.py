"""Chapter 2: a model that only counts which token follows which. No training, no GPU, one table.

    python -m course.ch02.bigram

It is measured exactly as scripts.base_train measures a Transformer, so the bits per byte can be compared.
"""
from itertools import islice

import torch

from nanochat.data import shards
from nanochat.eval.bpb import bits_per_byte, text_batches
from nanochat.system import cli, paths
from nanochat.system.runtime import Runtime
from nanochat.system.runtime import start as start_runtime
from nanochat.tokenizer import Tokenizer

DOCUMENTS = 20_000  # of training text that are counted
ROWS, ROW_LEN, EVAL_TOKENS = 16, 256, 65_536  # as in the chapter's training


class Bigram:
    """`nats[first, second]`: the surprise when `second` follows `first`."""

    def __init__(self, tokenizer: Tokenizer, texts: list[str]):
        V = tokenizer.vocab_size
        pairs: list[torch.Tensor] = []
        for text in texts:
            ids = torch.tensor([tokenizer.bos_id, *tokenizer.encode(text)])
            pairs.append(ids[:-1] * V + ids[1:])  # a number for each pair
        counts = torch.bincount(torch.cat(pairs), minlength=V * V).view(V, V)
        # A pair that was never seen is not impossible: every pair gets a hundredth of a count.
        smoothed = counts + 0.01
        self.nats = -(smoothed / smoothed.sum(1, keepdim=True)).log()

    def loss(self, ids: torch.Tensor, targets: torch.Tensor, reduction: str = "none") -> torch.Tensor:
        """The nats of each target (B, T), like GPT.loss with reduction="none"."""
        return self.nats[ids, targets.clamp(min=0)]

    def text(self, tokenizer: Tokenizer, first: str, num_tokens: int) -> str:
        """A text that begins with `first`, drawn token by token."""
        ids = tokenizer.encode(first)
        for _ in range(num_tokens):
            ids.append(int(torch.multinomial((-self.nats[ids[-1]]).exp(), 1)))
        return tokenizer.decode(ids)


def measured(model: Bigram, tokenizer: Tokenizer, runtime: Runtime) -> float:
    batches = text_batches(shards.validation_shards(), tokenizer, ROWS, ROW_LEN, EVAL_TOKENS, runtime)
    return bits_per_byte(model, batches, torch.from_numpy(tokenizer.token_bytes()))  # type: ignore[arg-type]


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    torch.manual_seed(0)
    tokenizer = Tokenizer.load(paths.tokenizer_dir())
    model = Bigram(tokenizer, list(islice(shards.iter_texts(shards.train_shards()), DOCUMENTS)))
    print(f"bigram: {measured(model, tokenizer, start_runtime('cpu')):.4f} bits per byte of the validation text")
    print(model.text(tokenizer, "Once there was", 60))


if __name__ == "__main__":
    cli.run(main)
