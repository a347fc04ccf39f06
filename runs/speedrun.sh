#!/usr/bin/env bash
# The $100 tier: bash runs/speedrun.sh [--depth 20 --data DIR --help]
# d20 (561M parameters, 11.2B tokens of FineWeb-Edu) on 8×H100 in about four hours; one rank per GPU, however many there
# are. `--depth 26` is the $300 tier, `--depth 32` the $1000 tier (python -m nanochat.plan --budget=300). Conversations
# and exams are SmolTalk, MMLU, GSM8K, ARC and HumanEval from the hub with the kindergarten's spelling and small talk, or
# all those of --data DIR (the layout of out/data; its text is not used).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
begin "$@"
depth=${DEPTH:-20} tag=d${DEPTH:-20}
ranks=8; [ -n "$DRY_RUN" ] || ranks=$(gpus)
[ "$ranks" -ge 1 ] || die 1 "no GPU here; bash runs/laptop.sh is the recipe for this machine"
[ -n "$DRY_RUN" ] || python -m nanochat.plan --depth="$depth" --gpu="${ranks}x$(gpu_name)" || true
launch=(torchrun --standalone --nproc_per_node="$ranks" -m)
# 4.8 characters a token, 250M characters a shard, 10 % spare: 240 shards for d20
shards=$(python3 -c "w = 64 * $depth; print(int(20 * (2 * 65536 * w + 12 * $depth * w * w) * 4.8 / 250e6 * 1.1) + 4)")
learn=gsm8k middle="smoltalk,mmlu,gsm8k*2,spelling,letters,talk*2"
fine="smoltalk*0.03,arc_easy,arc_challenge,gsm8k,spelling*0.1,letters*0.1,talk"
if [ -n "$DATA" ]; then
    middle="" fine=""
    [ -d "$DATA/gsm8k" ] || learn=problems
fi

# conversations FOLDER: makes its conversations and exams those of this run
conversations() {
    local family
    for family in "$1"/*/; do
        [ "$(basename "$family")" = text ] || ln -sfn "${family%/}" "$OUT/data/$(basename "$family")"
    done
}

stage data python -m nanochat.dataset --source=fineweb-edu -n 8
stage tokenizer python -m scripts.tok_train --max_chars=2000000000
measure tok_eval python -m scripts.tok_eval
stage more_data python -m nanochat.dataset --source=fineweb-edu -n "$shards"
if [ -z "$DATA" ]; then
    stage lessons python -m nanochat.dataset --source=kindergarten --seed="$SEED" --out="$OUT/lessons"
    for source in smoltalk mmlu gsm8k arc humaneval; do
        stage "$source" python -m nanochat.dataset --source="$source" --out="$OUT/lessons"
    done
fi
stage conversations conversations "${DATA:-$OUT/lessons/data}"
stage base "${launch[@]}" scripts.base_train -- --depth="$depth" --save_every=1000 --seed="$SEED" --resume
measure base_loss "${launch[@]}" scripts.base_loss -- --model_tag="$tag"
measure base_eval "${launch[@]}" scripts.base_eval -- --model_tag="$tag"
stage mid "${launch[@]}" scripts.mid_train -- --source_tag="$tag" --mixture="$middle" --device_batch_size=16 \
    --save_every=200 --seed="$SEED" --resume
measure chat_eval_mid "${launch[@]}" scripts.chat_eval -- -i mid -g "$tag"
stage sft "${launch[@]}" scripts.chat_sft -- --source_tag="$tag" --mixture="$fine" --save_every=200 \
    --seed="$SEED" --resume
measure chat_eval_sft "${launch[@]}" scripts.chat_eval -- -i sft -g "$tag"
stage rl "${launch[@]}" scripts.chat_rl -- --source_tag="$tag" --task="$learn" --save_every=60 \
    --seed="$SEED" --resume
measure chat_eval_rl "${launch[@]}" scripts.chat_eval -- -i rl -g "$tag"
always python -m nanochat.report generate --dollars_per_hour="${DOLLARS_PER_HOUR:-$((3 * ranks))}"
