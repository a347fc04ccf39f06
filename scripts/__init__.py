"""Recipes, one per command: `python -m scripts.base_train --help`."""
