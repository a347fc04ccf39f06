"""What chapter 9 holds of `Cache`."""
from types import SimpleNamespace
from typing import Any

import torch

from course.ch09 import talk
from course.expect import equal, near
from nanochat.infer.cache import CacheView, SlotCache
from nanochat.model import GPT, GPTConfig


class ProjectCache:
    """The engine's cache, which is planned before each forward pass, in the form of the exercise."""

    slots: SlotCache
    view: CacheView

    def __init__(self, num_layers: int):
        self.num_layers, self.length = num_layers, 0

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        num_rows, num_heads, num_new, width = k.shape
        if not self.length:
            self.slots = SlotCache(self.num_layers, num_heads, width, num_rows, 64, k.dtype, k.device)
        if layer == 0:
            self.view = self.slots.plan(slice(0, num_rows), [self.length] * num_rows, num_new)
            self.length += num_new
        return self.view.append(layer, k, v)


SOLUTION = SimpleNamespace(Cache=ProjectCache)


def small_model() -> GPT:
    """A model of two layers in which every weight does something."""
    model = GPT(GPTConfig(64, 50, n_layer=2, n_head=4, n_kv_head=2, n_embd=16, head_dim=4)).init_weights(0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def stored(cache: Any, *lengths: int) -> None:
    """Appends pieces of these lengths to layer 1; AssertionError unless all keys and values come back."""
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 1, 2, sum(lengths), 4, generator=generator)  # (B, G, S, D) each
    end = 0
    for length in lengths:
        new = slice(end, end + length)
        end += length
        if isinstance(cache, ProjectCache):
            cache.append(0, keys[:, :, new], values[:, :, new])
        k, v, mask = cache.append(1, keys[:, :, new], values[:, :, new])
        near(f"the keys after {end} tokens", k[:, :, :end], keys[:, :, :end])
        near(f"the values after {end} tokens", v[:, :, :end], values[:, :, :end])
        seen = list(range(1, end + 1)) if mask is None else mask[0, 0].sum(-1).tolist()
        equal(f"after {end} tokens, {length} of them new: how many tokens each new one sees", seen,
              list(range(end - length + 1, end + 1)))


def check_first_tokens(mine: Any) -> None:
    """the first tokens come back as they are; each sees itself and those in front of it"""
    stored(mine.Cache(2), 5)


def check_one_more(mine: Any) -> None:
    """one more token comes behind the others, and sees them all"""
    stored(mine.Cache(2), 3, 1, 1)


def check_pieces(mine: Any) -> None:
    """a text in pieces: 2, 3 and 4 tokens"""
    stored(mine.Cache(2), 2, 3, 4)


def check_layers(mine: Any) -> None:
    """each layer has its own keys and values"""
    cache = mine.Cache(2)
    for layer in (0, 1):
        k = torch.full((1, 1, 2, 4), float(layer + 1))
        near(f"the keys of layer {layer}", cache.append(layer, k, k)[0][:, :, :2], k)


def check_answers(mine: Any) -> None:
    """a model says the same with the cache as without it, a token at a time"""
    model, prompt = small_model(), [3, 14, 15, 9, 26]
    expected = talk.answer(model, prompt, 30)
    equal("the answer with the cache", talk.answer(model, prompt, 30, mine.Cache(2)), expected)


def check_chunks(mine: Any) -> None:
    """the same where the question is read in pieces"""
    model, prompt = small_model(), [5, 3, 5, 8, 9, 7, 9, 3, 2]
    expected = talk.answer(model, prompt, 20)
    for chunk in (1, 4):
        got = talk.answer(model, prompt, 20, mine.Cache(2), chunk)
        equal(f"the answer, with pieces of {chunk}", got, expected)
