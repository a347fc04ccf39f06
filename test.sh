#!/usr/bin/env bash
# The tests: bash test.sh [pytest arguments], e.g. bash test.sh tests/test_plan.py, bash test.sh -m slow, bash test.sh -m gpu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash setup.sh
exec .venv/bin/python -m pytest --quiet --durations=10 --durations-min=2 "$@"
