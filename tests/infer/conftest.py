"""A tiny real GPT with random weights (init_weights leaves the blocks as identities) and a tokenizer of 300 tokens."""

import pytest
import torch

from nanochat.model.gpt import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    pairs = [bytes((97 + i, 97 + j)) for i in range(7) for j in range(5)]
    return Tokenizer([bytes([byte]) for byte in range(256)] + pairs)


@pytest.fixture(scope="session")
def model(tokenizer):
    config = GPTConfig(sequence_len=96, vocab_size=tokenizer.vocab_size, n_layer=3, n_head=4, n_kv_head=2, n_embd=32,
                       head_dim=8)
    model = GPT(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        model.lm_head.weight.mul_(4)  # far from uniform, so that near-ties are rare
    return model
