"""The recipes: `bash speedrun.sh` picks one (runs/__main__.py); `python -m runs.laptop --help` runs one by name."""
import nanochat  # noqa: F401  # its settings must be there before a recipe imports PyTorch
