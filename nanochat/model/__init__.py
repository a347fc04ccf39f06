"""The Transformer. One legend of shapes for the whole project: B rows, T positions, C width, H query heads, G key/value
heads, D head width, F MLP hidden, V vocabulary, L layers, N ranks, S cached positions, K samples per prompt."""
from nanochat.model.gpt import GPT, PORTABLE, GPTConfig

__all__ = ["GPT", "PORTABLE", "GPTConfig"]
