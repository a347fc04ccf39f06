#!/usr/bin/env bash
# Installs other people's clients into .venv-clients, for the tests with the marker `clients`:
#   bash tests/serve/clients/install.sh
# They have an environment of their own, because their requirements exclude each other's and ours.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
[ -x .venv-clients/bin/python ] || python3 -m venv .venv-clients
.venv-clients/bin/python -m pip install --quiet --requirement tests/serve/clients/requirements.txt
if command -v npm >/dev/null; then npm install --silent --prefix .venv-clients --no-save openai; fi
