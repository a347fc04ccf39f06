# What the recipes share: flags, the lock, and `stage`, which makes a recipe go on where it stopped. Sourced, not run.
#
#   source "$(dirname "$0")/common.sh"; begin "$@"
#   stage base python -m scripts.base_train --depth=4 --resume      something later stages build on
#   measure base_loss python -m scripts.base_loss                   only measures; later stages do not depend on it
#   always python -m nanochat.report generate                       every time
#
# A finished stage leaves OUT/stages/NAME.done with its command, its seconds and a checksum of the chain: this command
# and every `stage` before it. Same chain: skipped. Another chain: from its beginning; `--resume` is passed on once this
# chain has made a checkpoint (OUT/checkpoints/NAME).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
KNOWN="data lessons tokenizer checkpoints results report stages .lock"  # all that a run leaves in OUT

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$2" >&2; exit "$1"; }

usage() {
    cat <<USAGE
usage: bash $(basename "$0") [flags]
  --depth N     layers, the one dial (default: what the recipe says)
  --data DIR    your own text and conversations (layout: docs/design.md) instead of the built-in ones
  --out DIR     where everything is written (default: out)
  --minutes N   training time to aim for; scales the recipe's steps, which suit 10 minutes of two laptop cores
                (below 1 it is a trial: the built-in world and its exams shrink as well, and nothing is compiled)
  --seed N      of data, weights and samples (default: 1)
  --fresh       start over: first remove what an earlier run left in the out folder
  --no-serve    do not open the chat page at the end
  --dry-run     print the commands, run nothing
USAGE
}

# absolute PATH: what it means from where the user stands
absolute() { case $1 in /*) printf '%s\n' "$1" ;; *) printf '%s\n' "$PWD/$1" ;; esac; }

# read_flags FLAGS…: sets DEPTH DATA OUT MINUTES SEED FRESH SERVE DRY_RUN; bad flags end with one line and code 2
read_flags() {
    DEPTH="" MINUTES=10 SEED=1 FRESH="" SERVE=1 DRY_RUN=""
    DATA=${NANOCHAT_DATA:+$(absolute "$NANOCHAT_DATA")}
    OUT=$(absolute "${NANOCHAT_BASE_DIR:-$ROOT/out}")
    local flag value
    while [ $# -gt 0 ]; do
        flag=${1%%=*} flag=${flag//_/-} value=""
        case $1 in *=*) value=${1#*=} ;; esac
        case $flag in
            --help|-h) usage; exit 0 ;;
            --fresh) FRESH=1 ;;
            --no-serve) SERVE="" ;;
            --dry-run) DRY_RUN=1 ;;
            --depth|--minutes|--seed|--data|--out)
                if [ "$1" = "${1%%=*}" ] && [ $# -gt 1 ]; then value=$2; shift; fi
                [ -n "$value" ] || die 2 "$flag needs a value; see --help"
                set_value "$flag" "$value" ;;
            *) die 2 "unknown flag $flag; see --help" ;;
        esac
        shift
    done
}

set_value() {
    case $1 in
        --depth|--seed) [[ $2 =~ ^[0-9]{1,9}$ ]] || die 2 "$1=$2 is no whole number" ;;
        --minutes) [[ $2 =~ ^[0-9]{1,6}(\.[0-9]+)?$ && ! $2 =~ ^[0.]+$ ]] || die 2 "$1=$2 is no number above 0" ;;
    esac
    case $1 in
        --depth) DEPTH=$2; [ "$2" -ge 1 ] || die 2 "--depth=$2 is too small; give at least 1" ;;
        --minutes) MINUTES=$2 ;;
        --seed) SEED=$2 ;;
        --data) DATA=$(absolute "$2"); [ -d "$DATA" ] || die 2 "--data=$2 is not a folder" ;;
        --out) OUT=$(absolute "$2") ;;
    esac
}

# begin FLAGS…: what every recipe starts with
begin() {
    read_flags "$@"
    cd "$ROOT"
    CHAIN="" RECIPE="$(basename "$0")"
    export NANOCHAT_BASE_DIR=$OUT PATH="$ROOT/.venv/bin:$PATH"
    unset NANOCHAT_DATA  # a recipe decides whose data it reads
    [ -z "$DRY_RUN" ] || return 0
    [ -x .venv/bin/python ] || die 1 "there is no .venv yet; run: bash setup.sh"
    trap 'printf "\n%s: interrupted; run it again to go on\n" "$RECIPE" >&2; exit 130' INT TERM
    check_out
    mkdir -p "$OUT" || die 1 "cannot make $OUT; choose another folder with --out"
    lock
    [ -z "$FRESH" ] || remove_run
    mkdir -p "$OUT/stages"
}

# An out folder holds nothing but what a run makes; anything else is somebody's own and is left alone.
check_out() {
    local entry
    [ -d "$OUT" ] || return 0
    for entry in "$OUT"/* "$OUT"/.[!.]*; do
        [ -e "$entry" ] || continue
        case " $KNOWN " in
            *" $(basename "$entry") "*) ;;
            *) die 1 "--out=$OUT holds $(basename "$entry"), which no run made; choose a new or empty folder" ;;
        esac
    done
}

# Only the folders a run makes. Shards from the hub stay: they are checked, and fetching them again takes hours.
remove_run() {
    local entry
    for entry in $KNOWN; do
        [ "$entry" != .lock ] || continue
        [ "$entry" != data ] || ! grep -qs '"revision"' "$OUT/data/text/manifest.json" || continue
        rm -rf "${OUT:?}/$entry"
    done
}

# Two runs must not write to one folder. Children keep the lock: after a kill -9 it holds until the last of them is gone.
lock() {
    local owner
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$OUT/.lock"
        for _ in 1 2 3 4 5; do  # a killed run takes a moment to be gone
            if flock -n 9; then return; fi
            sleep 0.5
        done
        die 1 "another run is writing to $OUT; wait for it, or choose another folder with --out"
    fi
    if ! mkdir "$OUT/.lock" 2>/dev/null; then
        owner=$(cat "$OUT/.lock/pid" 2>/dev/null || true)
        if [ -n "$owner" ] && kill -0 "$owner" 2>/dev/null; then
            die 1 "another run (process $owner) is writing to $OUT; wait for it, or choose another folder with --out"
        fi
        mkdir -p "$OUT/.lock"
    fi
    echo $$ > "$OUT/.lock/pid"
    trap 'rm -rf "$OUT/.lock"' EXIT
}

stage() {
    CHAIN=$(printf '%s\n' "$CHAIN" "$*" | cksum)
    run_stage "$CHAIN" "$@"
}

measure() { run_stage "$(printf '%s\n' "$CHAIN" "$*" | cksum)" "$@"; }

always() { if [ -n "$DRY_RUN" ]; then say "$*"; else "$@"; fi; }

# run_stage CHAIN NAME COMMAND…
run_stage() {
    local chain=$1 name=$2 record="$OUT/stages/$2" command="${*:3}" code=0 began word
    local -a words=()
    shift 2
    if [ -n "$DRY_RUN" ]; then say "$command"; return; fi
    if grep -qsxF "chain=$chain" "$record.done"; then say "== $name: done before"; return; fi
    if [ "$(cat "$record.started" 2>/dev/null)" != "$chain" ]; then
        rm -f "$record.done" "$record.attempts"
        printf '%s\n' "$chain" > "$record.started"
    fi
    if [ -z "$(find "$OUT/checkpoints/$name" -name state.json -newer "$record.started" 2>/dev/null)" ]; then
        # no checkpoint is of this chain: there is nothing to resume, and another chain's must not be taken for it
        for word in "$@"; do [ "$word" = --resume ] || words+=("$word"); done
        set -- "${words[@]}"
    fi
    say "== $name: $*"
    date '+%Y-%m-%d %H:%M:%S' >> "$record.attempts"
    began=$(date +%s)
    "$@" || code=$?
    [ $code -ne 130 ] || kill -INT $$  # Ctrl-C reached the command only (some launchers keep it to themselves)
    [ $code -eq 0 ] || die "$code" "$name failed (exit code $code, see above); when mended, run it again to go on"
    printf 'chain=%s\nseconds=%s\nattempts=%s\nfinished=%s\ncommand=%s\n' "$chain" $(($(date +%s) - began)) \
        "$(wc -l < "$record.attempts" | tr -d ' ')" "$(date '+%Y-%m-%d %H:%M:%S')" "$command" > "$record.tmp"
    mv "$record.tmp" "$record.done"
    rm -f "$record.started" "$record.attempts"
}

# steps N: N steps in the recipe's ten minutes, in proportion for --minutes, at least 2
steps() { awk -v steps="$1" -v minutes="$MINUTES" 'BEGIN { n = int(steps * minutes / 10); print (n < 2 ? 2 : n) }'; }

# What makes a trial of a run of less than a minute, to see every stage work: `scale` of the kindergarten, `compiling`
is_trial() { awk -v minutes="$MINUTES" 'BEGIN { exit minutes >= 1 }'; }
scale() { if is_trial; then awk -v minutes="$MINUTES" 'BEGIN { print minutes / 10 }'; else echo 1; fi; }
compiling() { if is_trial; then echo --no_compile; else echo --compile; fi; }

# The GPUs that PyTorch sees: CUDA_VISIBLE_DEVICES counts
gpus() { "$ROOT/.venv/bin/python" -c 'import torch; print(torch.cuda.device_count())'; }
gpu_name() { "$ROOT/.venv/bin/python" -c 'import torch; print(torch.cuda.get_device_name(0))'; }
