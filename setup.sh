#!/usr/bin/env bash
# Makes .venv and installs nanochat into it, editable, with everything the tests need. Run it as often as you like:
# when nothing changed it does nothing and takes a few seconds.
#   PYTHON=python3.12 bash setup.sh         another interpreter (3.11 or newer)
#   PIP_FIND_LINKS=/folder bash setup.sh    look for wheels there as well (uv is told, too)
#   NANOCHAT_TORCH_INDEX=URL bash setup.sh  take torch from that package index: on Linux without a GPU, PyTorch's index
#                                           of CPU builds (named in its install instructions) saves gigabytes of CUDA
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf '%s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || die "PYTHON=$PYTHON does not run or is older than Python 3.11; name a newer one"
        printf '%s\n' "$PYTHON"; return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if is_new_enough "$candidate"; then printf '%s\n' "$candidate"; return; fi
    done
    die "no Python 3.11 or newer found ($(python3 --version 2>&1 || true)); install one," \
        "or name it: PYTHON=/path/to/python3.12 bash setup.sh"
}

install_all() {
    local python
    python=$(find_python)
    if command -v uv >/dev/null 2>&1; then
        if [ -n "${PIP_FIND_LINKS:-}" ] && [ -z "${UV_FIND_LINKS:-}" ]; then
            UV_FIND_LINKS=$(printf '%s' "$PIP_FIND_LINKS" | tr -s ' ' ',')  # pip splits at spaces, uv at commas
            export UV_FIND_LINKS
        fi
        uv venv --quiet --allow-existing --python "$python" .venv || die "uv venv failed (see above)"
        install() { uv pip install --quiet --python .venv/bin/python "$@"; }
    else
        "$python" -m venv .venv \
            || die "'$python -m venv' failed (see above); on Debian or Ubuntu: apt install python3-venv; or install uv"
        install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
    fi
    if [ -n "${NANOCHAT_TORCH_INDEX:-}" ]; then
        install --index-url "$NANOCHAT_TORCH_INDEX" 'torch>=2.9,<2.14' \
            || die "no torch from NANOCHAT_TORCH_INDEX=$NANOCHAT_TORCH_INDEX (see above)"
    fi
    install --editable '.[dev]' || die "the install failed (see above); run 'bash setup.sh' again to go on"
}

# What is installed depends on pyproject.toml and on where the folder lies: an editable install points at it.
wanted=$(pwd; cat pyproject.toml)
if [ ! -x .venv/bin/python ] || [ "$(cat .venv/nanochat.stamp 2>/dev/null)" != "$wanted" ]; then
    say "setup: installing into .venv (a few minutes the first time)"
    install_all
    printf '%s\n' "$wanted" > .venv/nanochat.stamp
fi

.venv/bin/python - <<'PYTHON'
import os
import platform
import shutil
from importlib.metadata import version

cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
device = f"no GPU, {cores} cores"
if platform.system() == "Darwin" and platform.machine() == "arm64":
    device = f"Apple GPU, {cores} cores"
elif shutil.which("nvidia-smi"):  # only now is it worth the seconds to ask torch
    import torch
    count = torch.cuda.device_count()
    device = f"{count} x {torch.cuda.get_device_name(0)}" if count else "a driver for NVIDIA GPUs, but torch sees no GPU"
print(f"setup: ready. Python {platform.python_version()}, torch {version('torch')}, {device}")
PYTHON
