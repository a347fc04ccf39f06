"""A small GPT with random weights far from uniform, and a tokenizer of the 256 bytes and some pairs."""
import pytest
import torch

from nanochat.model import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer

torch.set_num_threads(1)


def make_tokenizer() -> Tokenizer:
    pairs = [bytes((97 + i, 97 + j)) for i in range(20) for j in range(0, 20, 4)]
    return Tokenizer([bytes([byte]) for byte in range(256)] + [b" t", b" a"] + pairs)


def make_model(tokenizer, sequence_len: int = 320) -> GPT:
    config = GPTConfig(sequence_len=sequence_len, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=1,
                       n_embd=24, head_dim=12)
    model = GPT(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(12)  # what stands before matters more than the last token
    return model


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer):
    return make_model(tokenizer)
