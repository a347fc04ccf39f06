#!/usr/bin/env bash
# From nothing to a model that talks: set-up, the recipe that fits this machine, the report, the chat page.
#   bash speedrun.sh [--depth N --data DIR --out DIR --minutes N --seed N --fresh --no-serve --dry-run --help]
# Stop it whenever you like; run it again and it goes on where it stopped. The recipes are in runs/.
if [ -z "${BASH_VERSION:-}" ]; then echo "speedrun.sh needs bash; run: bash speedrun.sh" >&2; exit 2; fi
set -euo pipefail
unset CDPATH PYTHONHOME PYTHONWARNINGS PYTHONOPTIMIZE  # settings for other programs
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# -P: a folder called runs/ or nanochat/ where you stand must not be taken for ours.
recipe() { PYTHONPATH="$root" "$python" -P -m runs "$@"; }

# The environment's Python, or before the install any that can read the flags.
find_python() {
    local candidate
    for candidate in "$root/.venv/bin/python" python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

python=$(find_python)
if [ -n "$python" ]; then
    # A wrong flag or a folder that is not there must not cost the minutes of an install.
    case " $* " in
        *" --help "* | *" -h "* | *" --dry-run "* | *" --dry_run "*) recipe "$@"; exit ;;
    esac
    NANOCHAT_CHECK_ONLY=1 recipe "$@" || exit 2
fi
bash "$root/setup.sh"
export PYTHONPATH="$root"
exec "$root/.venv/bin/python" -P -m runs "$@"
