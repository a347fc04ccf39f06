"""Parameters and FLOPs of a configuration, counted from the shapes. Tests compare them with the real model."""
from nanochat.model.gpt import GPTConfig


def matrix_parameters(config: GPTConfig) -> int:
    """Parameters of the blocks' matrices: (2·H + 2·G)·D·C for attention and 8·C² for the MLP, per layer."""
    attention = 2 * (config.n_head + config.n_kv_head) * config.head_dim * config.n_embd
    return config.n_layer * (attention + 8 * config.n_embd**2)


def num_parameters(config: GPTConfig) -> int:
    """All parameters. For the plain d20 they are 2·65,536·1,280 + 20·12·1,280² = 560,988,160."""
    total = matrix_parameters(config) + 2 * config.vocab_size * config.n_embd  # the embedding and the untied head
    layers = sum(config.has_value_embedding(layer) for layer in range(config.n_layer))
    total += layers * config.n_kv_head * (config.vocab_size * config.head_dim + config.n_embd)  # a table and its gate
    total += (config.n_embd + 1) * config.gated_smear + config.backout  # True counts as 1
    return total + (2 * config.n_layer if config.residual_scalars else 0) + (config.n_embd if config.smear else 0)


def flops_per_token(config: GPTConfig) -> int:
    """FLOPs of training on one token (Chowdhery et al. 2022, PaLM, appendix B)."""
    # A parameter costs 2 FLOPs in the forward pass (multiply, add) and 4 in the backward pass, which has two matmuls.
    # The embeddings are looked up, not multiplied, so they cost nothing; the head is multiplied.
    multiplied = matrix_parameters(config) + config.vocab_size * config.n_embd
    # Two matmuls per layer, q·k and weights·v, over the whole row: PaLM does not deduct the half that causality masks.
    spans = [min(window, config.sequence_len) for window in config.windows or [config.sequence_len] * config.n_layer]
    attention = 12 * config.n_head * config.head_dim * sum(spans)
    return 6 * multiplied + attention
