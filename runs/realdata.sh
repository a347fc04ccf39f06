#!/usr/bin/env bash
# The same pipeline on a folder of real data: bash runs/realdata.sh --data DIR [--depth 4 --minutes 10 --help]
# DIR has the layout of out/data (docs/design.md): text/*.parquet, chat/*.jsonl, gsm8k/, arc/, mmlu/, humaneval/.
# Plain text files are imported. Without conversations (chat/) it ends with the base model.
# Ten minutes of two cores read a few million tokens: expect exams near chance. A GPU and --minutes 600 change that.
# Exams: 100 items of each, 2,000 where a letter is the answer (one forward pass). CORE: 200 items of each task.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
begin "$@"
[ -n "$DATA" ] || die 2 "give your folder: --data DIR"
if compgen -G "$DATA/text/*.parquet" >/dev/null; then export NANOCHAT_DATA=$DATA; fi
ranks=1; [ -n "$DRY_RUN" ] || ranks=$(gpus)
launch=(python -m); [ "$ranks" -le 1 ] || launch=(torchrun --standalone --nproc_per_node="$ranks" -m)
batch=$((4096 * (ranks > 1 ? ranks : 1)))  # tokens a step
depth=${DEPTH:-4} tag=d${DEPTH:-4}
shared=(--device_batch_size=8 --save_every=50 --seed="$SEED" --resume)
later=(--source_tag="$tag" "${shared[@]}")
folder=${NANOCHAT_DATA:-$OUT/data}
core() {  # core STAGE: CORE where its files are
    [ -n "$DRY_RUN" ] || [ -f "$folder/core_tasks.yaml" ] || return 0
    measure "core_$1" "${launch[@]}" scripts.base_eval -- -i "$1" --model_tag="$tag" --max_per_task=200
}
exams() { measure "exams_$1" "${launch[@]}" scripts.chat_eval -- -i "$1" -g "$tag" -x 100 --max_choices=2000; }

stage data python -m nanochat.dataset --data="$DATA"
stage tokenizer python -m scripts.tok_train --vocab_size=8192 --max_chars=50000000
measure tok_eval python -m scripts.tok_eval
stage base "${launch[@]}" scripts.base_train -- --depth="$depth" --max_seq_len=512 --total_batch_size="$batch" \
    --num_iterations="$(steps 250)" "${shared[@]}"
measure base_loss "${launch[@]}" scripts.base_loss -- --model_tag="$tag" --split_tokens=524288
core base
if [ ! -d "$folder/chat" ] && [ -z "$DRY_RUN" ]; then
    say "no conversations in $DATA/chat: this run ends with the base model"
    always python -m nanochat.report generate
    exit 0
fi
measure contamination python -m scripts.contamination
exams base
stage mid "${launch[@]}" scripts.mid_train -- --mixture="dolly,gsm8k*2,arc_easy*2,arc_challenge*2,text*0.02" \
    --total_batch_size="$batch" --num_iterations="$(steps 200)" "${later[@]}"
exams mid
core mid
stage sft "${launch[@]}" scripts.chat_sft -- --mixture="dolly,gsm8k*2,arc_easy,arc_challenge" \
    --total_batch_size="$batch" --num_iterations="$(steps 100)" "${later[@]}"
exams sft
core sft
stage rl "${launch[@]}" scripts.chat_rl -- --task=gsm8k --num_iterations="$(steps 10)" --examples_per_step=4 \
    --num_samples=4 --max_new_tokens=96 "${later[@]}"
exams rl
always python -m nanochat.report generate
