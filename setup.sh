#!/usr/bin/env bash
# Makes .venv and installs nanochat into it, editable. Run it as often as you like: without a change it does nothing.
#   bash setup.sh                           what a run needs
#   bash setup.sh --dev                     what a run and the tests need (test.sh calls this)
#   bash setup.sh --check                   installs nothing; exit code 1 if there is something to install
#   PYTHON=python3.12 bash setup.sh         another interpreter: Python 3.11 to 3.14
#   NANOCHAT_NEWEST=1 bash setup.sh         the newest versions that pyproject.toml allows, instead of constraints.txt
#   NANOCHAT_TORCH_INDEX=URL bash setup.sh  torch from this package index (remembered for the next time)
#   NANOCHAT_ALLOW_CPU=1 bash setup.sh      go on although torch cannot use the GPU of this machine
#   PIP_FIND_LINKS=/folder bash setup.sh    look for wheels in this folder as well
# Exit codes: 1 = the install failed, 2 = wrong use, 3 = this machine has a GPU that torch cannot use.
[ -n "${BASH_VERSION:-}" ] || { echo "setup.sh is a bash script; run: bash setup.sh" >&2; exit 2; }
set -euo pipefail

# Settings meant for other environments: they would stop Python or pip, or send the packages to another folder.
unset CDPATH PYTHONHOME PYTHONPATH PYTHONWARNINGS PYTHONOPTIMIZE UV_SYSTEM_PYTHON UV_PYTHON
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_NO_DEPS PIP_DRY_RUN PIP_REQUIRE_HASHES PIP_NO_BUILD_ISOLATION PIP_QUIET
export PIP_USER=0 PIP_UPGRADE_STRATEGY=eager PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_RETRIES="${PIP_RETRIES:-2}"
# uv does not read pip's settings.
[ -z "${PIP_FIND_LINKS:-}" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$(printf '%s' "$PIP_FIND_LINKS" | tr -s ' ' ,)}"
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
[ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX="${UV_INDEX:-$PIP_EXTRA_INDEX_URL}"

cd "$(dirname "${BASH_SOURCE[0]}")"
FOLDER=$(pwd -P)
STAMP=.venv/nanochat.stamp  # how .venv was made, as NAME=VALUE lines; the last line is "unfinished" during an install

main() {
    local kind check="" newest="" driver recorded torch_source package=. flag wanted
    kind=$(stamped kind)
    for flag in "$@"; do
        case $flag in
            --dev) kind=dev ;;  # it stays an environment for the tests: that serves a run as well
            --check) check=1 ;;
            --help|-h) sed -n '2,/^\[/s/^# \{0,1\}//p' setup.sh; exit 0 ;;
            *) die 2 "unknown flag $flag; see: bash setup.sh --help" ;;
        esac
    done
    case $(uname -s)/$(uname -m) in
        MINGW*|MSYS*|CYGWIN*) die 1 "Windows itself is not supported; use Linux in Windows: wsl --install" ;;
        Darwin/x86_64) die 1 "PyTorch has no builds for Intel Macs (under Rosetta: arch -arm64 bash setup.sh)" ;;
    esac
    [ "$kind" != dev ] || package='.[dev]'
    [ "${NANOCHAT_NEWEST:-0}" = 0 ] || newest=--upgrade
    [ -z "${PYTHON:-}" ] || find_python >/dev/null
    find_driver
    torch_source=${NANOCHAT_TORCH_INDEX:-${UV_TORCH_BACKEND:-$(stamped torch)}}
    recorded=$driver
    [ "$driver" != none ] || recorded=$(stamped driver)  # a login node without GPUs: keep what the other nodes need
    wanted="kind=${kind:-run}
folder=$FOLDER
versions=${newest:-$(cat pyproject.toml constraints.txt | cksum)}
driver=${recorded:-none}
torch=$torch_source"

    if command -v flock >/dev/null 2>&1; then  # two at once in one folder would disturb each other
        exec 9<setup.sh
        flock -n 9 || { say "waiting for another setup.sh of this folder"; flock 9 || true; }
    fi
    if [ -n "$newest" ] || [ "$(cat "$STAMP" 2>/dev/null)" != "$wanted" ] || [ -n "$(why_not_usable)" ]; then
        [ -z "$check" ] || die 1 "there is something to install: bash setup.sh"
        say "installing into .venv (a few minutes the first time)"
        make_venv
        printf '%s\nunfinished\n' "$wanted" > "$STAMP"
        install_torch
        install_the_rest
        printf '%s\n' "$wanted" > "$STAMP"
    fi
    show_what_is_there
}

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "${*:2}" >&2; exit "$1"; }  # die CODE WORDS…
stamped() { sed -n "s/^$1=//p" "$STAMP" 2>/dev/null || true; }
run() { OUTPUT=$("$@" 2>&1 </dev/null); }  # what a command prints is shown only if it fails

# ---- Python ----------------------------------------------------------------------------------------------------------

# is_suitable PROGRAM: a 64-bit CPython 3.11 to 3.14 with its global lock; PyTorch and Numba have wheels for no other
is_suitable() {
    local kind
    kind=$("$1" -c 'import struct, sys, sysconfig
print(sys.implementation.name, "%d.%d" % sys.version_info[:2], 8 * struct.calcsize("P"),
      sysconfig.get_config_var("Py_GIL_DISABLED") or 0)' 2>/dev/null </dev/null) || return 1
    [[ $kind =~ ^cpython\ 3\.1[1-4]\ 64\ 0$ ]]
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_suitable "$PYTHON" || die 1 "PYTHON=$PYTHON is not a 64-bit Python 3.11 to 3.14; name another one"
        printf '%s\n' "$PYTHON"; return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if is_suitable "$candidate"; then printf '%s\n' "$candidate"; return; fi
    done
    if command -v uv >/dev/null 2>&1; then echo 3.13; return; fi  # uv finds this version, or fetches it
    die 1 "there is no 64-bit Python 3.11 to 3.14 (python3 is: $(python3 --version 2>&1 | head -n 1)). Install one," \
        "name one (PYTHON=/path/to/python3.13 bash setup.sh), or install uv, which fetches it: pip install uv"
}

# why_not_usable: prints why the folder .venv cannot be used; nothing if it can be
why_not_usable() {
    local made_in version='import sys; print(sys.version_info[:2])'
    made_in=$(stamped folder)
    if ! .venv/bin/python -c '' 2>/dev/null; then echo "its Python does not run"
    elif [ -n "$made_in" ] && [ "$made_in" != "$FOLDER" ]; then echo "its programs contain the path $made_in"
    elif ! is_suitable .venv/bin/python; then echo "it has $(.venv/bin/python --version 2>&1)"
    elif [ -n "${PYTHON:-}" ] && [ "$("$PYTHON" -c "$version")" != "$(.venv/bin/python -c "$version")" ]; then
        echo "it has another Python than PYTHON=$PYTHON"
    fi
}

make_venv() {
    local python reason gigabytes=3 free
    python=$(find_python)
    if [ -d .venv ]; then
        reason=$(why_not_usable)
        [ -n "$reason" ] || return 0
        [ -f "$STAMP" ] || die 1 ".venv cannot be used ($reason), and setup.sh did not make it; remove or rename it"
        say "making .venv anew: $reason"
        rm -rf .venv
    elif [ -e .venv ] || [ -L .venv ]; then die 1 ".venv is not a folder; remove or rename it"; fi
    [ -w . ] || die 1 "$FOLDER is read-only for you; clone the project into a folder of your own"
    [ "$driver" = none ] || gigabytes=9  # with the CUDA libraries
    free=$(df -Pk . | awk 'NR == 2 && $4 ~ /^[0-9]+$/ { print int($4 / 1048576) }')
    [ "${free:-99}" -ge $gigabytes ] || die 1 "$FOLDER has $free GB of free space, .venv needs $gigabytes; free some"
    mkdir .venv
    echo unfinished > "$STAMP"
    if command -v uv >/dev/null 2>&1; then run uv venv --quiet --seed --allow-existing --python "$python" .venv
    else run "$python" -m venv .venv; fi || { rm -rf .venv; explain "$python cannot make .venv"; }
}

# ---- the NVIDIA driver -----------------------------------------------------------------------------------------------

# Sets `driver`: the newest CUDA version that the driver supports, like 12.8; `unknown` if nvidia-smi lists GPUs but no
# version; `none` without a GPU.
find_driver() {
    local answer code=0
    driver=none
    case ${CUDA_VISIBLE_DEVICES-all} in ""|-1) return ;; esac  # the user hides the GPUs
    command -v nvidia-smi >/dev/null 2>&1 || return 0
    answer=$(ask_nvidia -L) || code=$?
    case $code:$answer in
        0:*"GPU "[0-9]*:*) ;;
        *"No devices"*) return ;;
        *)  cannot_use_gpu "nvidia-smi fails (exit code $code: ${answer%%$'\n'*})." \
                "Repair the driver; after an update of the driver, restart the machine"
            return ;;
    esac
    driver=$(ask_nvidia | sed -n 's/.*CUDA[A-Za-z ]* Version: *\([0-9][0-9]*\.[0-9][0-9]*\).*/\1/p' | head -n 1) || true
    case ${driver:=unknown} in
        [0-9].*|1[01].*) cannot_use_gpu "the driver supports CUDA $driver, torch needs CUDA 12. Update the driver" ;;
    esac
}

# A driver in trouble lets nvidia-smi wait for ever; 8 GPUs that were asleep take 15 seconds.
ask_nvidia() {
    if command -v timeout >/dev/null 2>&1; then timeout 60 nvidia-smi "$@" 2>&1 </dev/null
    else nvidia-smi "$@" 2>&1 </dev/null; fi
}

# A rented GPU costs money while the laptop's recipe runs on the CPU: that must not happen unasked.
cannot_use_gpu() {
    [ "${NANOCHAT_ALLOW_CPU:-}" = 1 ] || die 3 "$*. To go on without the GPU, set NANOCHAT_ALLOW_CPU=1"
    say "going on without the GPU: $*"
    driver=none
}

# ---- packages --------------------------------------------------------------------------------------------------------

# install WORDS…: by uv where it is installed, else by pip; both know these words
install() {
    if command -v uv >/dev/null 2>&1; then run uv pip install --quiet --python .venv/bin/python "$@"
    else run .venv/bin/python -m pip install --quiet --no-input "$@"; fi
}

# torch comes first, because its build must suit the machine. The default package index has one build for each system;
# on Linux it is for the newest CUDA (3 GB). PyTorch has an index for each kind of build, and uv knows their addresses:
# `cpu`, or `auto`, which follows the driver.
install_torch() {
    local backend=cpu again="" locked allowed uv
    locked=$(grep '^torch==' constraints.txt)
    allowed=$(sed -n 's/^ *"\(torch>[^"]*\)".*/\1/p' pyproject.toml)
    if [ "$driver" != none ]; then
        backend=auto
        sees_gpu || again=--force-reinstall  # the machine has a GPU now, and this build of torch cannot use it
    fi
    case $torch_source in
        */*) torch_by install --index-url "$torch_source" || explain "no torch from NANOCHAT_TORCH_INDEX=$torch_source"
             return ;;
        ?*)  backend=$torch_source ;;
    esac
    if [ "$(uname -s)" = Linux ] && ! has_torch_wheel; then
        if uv=$(uv_that_reaches "$backend"); then
            torch_by run "$uv" pip install --quiet --python .venv/bin/python --torch-backend "$backend" \
                || explain "torch cannot be installed"
            return
        fi
        say "PyTorch's index of '$backend' builds does not answer; the default index serves (on Linux 3 GB of CUDA)"
        case $driver in 12.*) locked="" allowed='torch>=2.9,<2.11' ;; esac  # its last builds for CUDA 12
    fi
    torch_by install || explain "torch cannot be installed"
}

# torch_by COMMAND…: installs the locked torch; if the index has no such build for this machine, the newest allowed
torch_by() {
    if [ -z "$newest" ] && [ -n "$locked" ] && "$@" $again "$locked"; then return; fi
    "$@" $newest $again "$allowed"
}

sees_gpu() { .venv/bin/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; }

has_torch_wheel() {
    local folder IFS=,
    for folder in ${UV_FIND_LINKS:-}; do
        if compgen -G "$folder/torch-[0-9]*.whl" >/dev/null; then return; fi
    done
    return 1
}

# uv_that_reaches BACKEND: prints the command, if uv can be had and PyTorch's index answers within seconds
uv_that_reaches() {
    local uv
    uv=$(command -v uv) || { install -c constraints.txt uv && uv=.venv/bin/uv; } || return 1
    UV_HTTP_RETRIES=0 UV_HTTP_TIMEOUT=10 UV_HTTP_CONNECT_TIMEOUT=5 run "$uv" pip install --dry-run --reinstall \
        --python .venv/bin/python --torch-backend "$1" "$allowed" || return 1
    printf '%s\n' "$uv"
}

install_the_rest() {
    local constraints=.venv/constraints.txt
    .venv/bin/python -c 'from importlib.metadata import version; print("torch==" + version("torch").split("+")[0])' \
        > $constraints
    # torch itself names the versions of its CUDA libraries; they differ from build to build.
    [ -n "$newest" ] || grep -vE '^(torch|triton|nvidia-.*|cuda-.*)==' constraints.txt >> $constraints
    install $newest -c $constraints 'setuptools>=77' || explain "setuptools cannot be installed"
    install $newest -c $constraints --no-build-isolation --editable "$package" || explain "the install failed"
    run .venv/bin/python -c 'import nanochat, numba, pyarrow, torch' || explain "the packages do not start"
}

# explain WHAT: ends with one line: WHAT is wrong, why, and what to do about it, as far as OUTPUT tells
explain() {
    local why
    case $OUTPUT in
        *"No space left"*|*"Disk quota"*) why="the disk is full; free space in $FOLDER and in ${TMPDIR:-/tmp}" ;;
        *ensurepip*|*"No module named venv"*)
            why="it has no module venv; on Debian or Ubuntu: apt install python3-venv; elsewhere: install uv" ;;
        *"failed to map segment"*) why="this disk is mounted noexec; move the project to another disk" ;;
        *CERTIFICATE_VERIFY*|*"invalid peer certificate"*|*UnknownIssuer*)
            why="a certificate is not trusted; name that of your network: PIP_CERT=FILE SSL_CERT_FILE=FILE" ;;
        *"ame or service not known"*|*"name resolution"*|*"nodename nor"*|*"dns error"*|*"timed out"*|*roxyError*|\
        *NewConnectionError*|*"onnection refused"*|*"etwork is unreachable"*|*"error sending request"*)
            why="no package index answers; check the network, and the variable https_proxy if you are behind a proxy" ;;
        *"Permission denied"*|*"Read-only file system"*) why="a file in .venv cannot be written; remove .venv" ;;
        *) printf '%s\n' "$OUTPUT" | tail -n 20 >&2
           why="see above; run 'bash setup.sh' again to go on, or remove .venv to begin anew" ;;
    esac
    die 1 "$1: $why"
}

# Prints the machine in one line. If torch cannot use the GPU, it says why; that is exit code 3, unless it is allowed.
show_what_is_there() {
    .venv/bin/python - "$driver" <<'PYTHON'
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

driver, cores = sys.argv[1], len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
device, problem = f"{'Apple GPU' if platform.system() == 'Darwin' else 'no GPU'}, {cores} cores", ""
try:
    torch_version = version("torch")
except PackageNotFoundError:
    sys.exit("setup: .venv has lost its packages; remove it and run setup.sh again")
if driver != "none":
    import torch  # takes seconds, so only where there is a GPU
    try:  # to compute something: torch also counts GPUs that it cannot use
        torch.ones(1, device="cuda").add(1).item()
        device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    except (RuntimeError, AssertionError) as error:
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
        problem = (f"torch {torch_version}, built for {build}, cannot use the GPU (driver: CUDA {driver}; "
                   f"{str(error).splitlines()[0]}). Update the driver; or remove .venv and run setup.sh again, which "
                   "chooses a build; or name the index of a build: NANOCHAT_TORCH_INDEX=URL")
if problem and os.environ.get("NANOCHAT_ALLOW_CPU") != "1":
    print(f"setup: {problem}. To go on without the GPU, set NANOCHAT_ALLOW_CPU=1", file=sys.stderr)
    sys.exit(3)
print(f"setup: going on without the GPU: {problem}\n" * bool(problem), end="")
print(f"setup: ready. Python {platform.python_version()}, torch {torch_version}, {device}")
PYTHON
}

main "$@"
