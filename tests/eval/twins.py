"""What several tests of the evaluations share, and the program of test_over_ranks.py: a model, a tokenizer, items."""
import random
from collections.abc import Iterator

import torch

from nanochat.eval.core import CoreTask
from nanochat.model import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer

torch.set_num_threads(1)
WORDS = "the cat sat on a mat and the dog ate the hat of a man in the sun".split()


def make_tokenizer() -> Tokenizer:
    """The 256 bytes and some pairs."""
    pairs = [bytes((97 + i, 97 + j)) for i in range(20) for j in range(0, 20, 4)]
    return Tokenizer([bytes([byte]) for byte in range(256)] + [b" t", b" a"] + pairs)


def make_model(tokenizer: Tokenizer) -> GPT:
    """A small GPT with random weights far from uniform."""
    config = GPTConfig(sequence_len=320, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=1, n_embd=24,
                       head_dim=12)
    model = GPT(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(12)  # the context then matters more than the last token
    return model


def make_batches(tokenizer: Tokenizer, num: int = 3) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of (ids, targets) with special tokens and ignored targets."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(num):
        whole = torch.randint(0, tokenizer.vocab_size, (4, 33), generator=generator)
        whole[:, 7] = tokenizer.bos_id
        targets = whole[:, 1:].clone()
        targets[torch.rand(targets.shape, generator=generator) < 0.3] = -1
        yield whole[:, :-1].contiguous(), targets


def make_items(kind: str, num: int = 14) -> list[dict]:
    """Items of a CORE task."""
    rng = random.Random(kind)

    def text(max_words: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, max_words)))

    if kind == "multiple_choice":
        def choices(start: str) -> list[str]:
            return [f"{start}{word} {text(3)}" for word in rng.sample(("cat", "dog", "man"), 3)]

        return [{"query": text(9), "choices": choices(start), "gold": rng.randrange(3)}
                for start in rng.choices(("", "the "), k=num)]
    if kind == "schema":
        return [{"context_options": [f"{text(5)} {end}" for end in ("cat", "dog")], "continuation": text(4),
                 "gold": rng.randrange(2)} for _ in range(num)]
    return [{"context": text(9) + rng.choice(("", " ", "\n")), "continuation": text(1)} for _ in range(num)]


def make_task(kind: str, shots: int = 2, delimiter: str = " ") -> CoreTask:
    return CoreTask(kind, None, kind, shots, delimiter, 0.25)
