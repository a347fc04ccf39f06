"""nanochat: from raw text to a chat window, in one small codebase. Start reading at docs/design.md."""
import os
import sys
from types import TracebackType

from nanochat.system import caches

caches.prepare()
# Read when PyTorch is imported, so it stands here: memory of a GPU in pieces that grow, so that tensors of changing
# sizes leave no gaps that are too small for the next one.
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its older name
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
# Read when PyTorch loads its OpenMP (Linux). By default a thread that waits for the others keeps its core busy for up
# to 13 ms, and takes it from the thread it waits for as soon as another program wants a core: beside one busy program
# the laptop's step made 3,900 tokens per second. 1,000 rounds (about 50 µs) make 12,300 of it; alone both make 22,000.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _say_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# `python -m COMMAND` has this argument until the command itself begins. Ctrl-C during the seconds in which PyTorch is
# imported would print a traceback, because nanochat.system.cli, which says it in one line, does not run yet.
if sys.argv[:1] == ["-m"]:
    sys.excepthook = _say_interrupted
