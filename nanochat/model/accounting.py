"""Parameters and FLOPs of a config, as integers counted from the shapes; tests compare them to the real model."""
from nanochat.model.gpt import GPTConfig


def matrix_parameters(config: GPTConfig) -> int:
    """The blocks' matrices: (2·H + 2·G)·D·C for attention and 8·C² for the MLP, per layer."""
    attention = 2 * (config.n_head + config.n_kv_head) * config.head_dim * config.n_embd
    return config.n_layer * (attention + 8 * config.n_embd**2)


def num_parameters(config: GPTConfig) -> int:
    """All of them. `num_parameters(d20, plain)` = 2·65,536·1,280 + 20·12·1,280² = 560,988,160."""
    total = matrix_parameters(config) + 2 * config.vocab_size * config.n_embd
    layers = sum(config.has_value_embedding(layer) for layer in range(config.n_layer))
    total += layers * config.n_kv_head * (config.vocab_size * config.head_dim + config.n_embd)
    return total + (2 * config.n_layer if config.residual_scalars else 0) + (config.n_embd if config.smear else 0)


def flops_per_token(config: GPTConfig) -> int:
    """Training FLOPs of one token: 6 per multiplied parameter (head included, look-ups free) and 12·H·D·T per layer for
    the attention products over a full row (PaLM, appendix B, counts causal attention the same way)."""
    multiplied = matrix_parameters(config) + config.vocab_size * config.n_embd
    return 6 * multiplied + 12 * config.n_layer * config.n_head * config.head_dim * config.sequence_len
