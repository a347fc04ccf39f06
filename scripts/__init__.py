"""Recipes, one per command: `python -m scripts.base_train --help`."""
import nanochat  # noqa: F401  # its settings must be there before a script imports PyTorch
