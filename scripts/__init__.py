"""Recipes, one per command: `python -m scripts.base_train --help`."""
import importlib.util
import sys

import nanochat  # noqa: F401  # its settings must be there before a script imports PyTorch

if importlib.util.find_spec("torch") is None:
    sys.exit(f"error: {sys.executable} has no PyTorch; run: bash setup.sh, and then .venv/bin/python -m scripts.…")
