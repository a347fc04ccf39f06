#!/usr/bin/env bash
# Style, types and tests. Arguments go to pytest; with arguments only the tests run.
#   bash test.sh                                   all but the slow ones
#   bash test.sh tests/data -k packing             some of them; -m slow: those of minutes; -m gpu: those for a GPU
#   NANOCHAT_NEWEST=1 bash test.sh                 with the newest versions that pyproject.toml allows
[ -n "${BASH_VERSION:-}" ] || { echo "test.sh is a bash script; run: bash test.sh" >&2; exit 2; }
set -euo pipefail
unset CDPATH PYTHONHOME PYTHONPATH PYTHONWARNINGS PYTHONOPTIMIZE PYTEST_ADDOPTS  # settings for other programs
cd "$(dirname "${BASH_SOURCE[0]}")"
NANOCHAT_ALLOW_CPU=1 bash setup.sh --dev  # the tests need no GPU
if [ $# -eq 0 ]; then
    .venv/bin/ruff check --quiet . && .venv/bin/mypy --no-error-summary
    set -- --numprocesses=auto --dist=loadfile --no-loadscope-reorder  # tests/conftest.py: a process for each core
fi
exec .venv/bin/python -m pytest --quiet --durations=10 --durations-min=2 "$@"
