"""nanochat: from raw text to a chat window, in one small codebase. Start reading at docs/design.md."""
import os

from nanochat.system import caches

caches.prepare()
# Read when PyTorch is imported, so it stands here: memory of a GPU in pieces that grow, so that tensors of changing
# sizes leave no gaps that are too small for the next one.
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its older name
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
