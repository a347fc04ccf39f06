#!/usr/bin/env bash
# From nothing to a model that talks: set-up, the recipe that fits this machine, the report, the chat page.
#   bash speedrun.sh [--depth N --data DIR --out DIR --minutes N --seed N --fresh --no-serve --dry-run --help]
# Stop it whenever you like; run again, it goes on where it stopped and repeats no finished stage.
source "$(dirname "${BASH_SOURCE[0]}")/runs/common.sh"
read_flags "$@"

pick_recipe() {
    if [ -n "$DATA" ]; then echo realdata
    elif command -v nvidia-smi >/dev/null && [ -x "$ROOT/.venv/bin/python" ] && [ "$(gpus)" -gt 0 ]; then echo speedrun
    else echo laptop; fi
}

trap 'exit 130' INT TERM  # the recipe has said what there is to say
[ -n "$DRY_RUN" ] || bash "$ROOT/setup.sh"
bash "$ROOT/runs/$(pick_recipe).sh" "$@"
[ -z "$DRY_RUN" ] || exit 0
cd "$ROOT"
export NANOCHAT_BASE_DIR=$OUT
tag=d$(sed -n 's/^command=.*--depth=\([0-9]*\).*/\1/p' "$OUT/stages/base.done")
for newest in rl sft mid base; do  # whose model talks: that of the last stage there is
    if compgen -G "$OUT/checkpoints/$newest/$tag/step_*" >/dev/null; then break; fi
done
say "The report: $OUT/report/report.md"
if [ -z "$SERVE" ]; then
    say "To talk to it: NANOCHAT_BASE_DIR=$OUT .venv/bin/python -m scripts.chat_web -i $newest -g $tag"
    exit 0
fi
say "Next comes the chat page. Run the same command again and it is there at once: no finished stage is repeated."
exec .venv/bin/python -m scripts.chat_web -i "$newest" -g "$tag"
