#!/usr/bin/env bash
# The whole pipeline on two laptop cores in 9 minutes: bash runs/laptop.sh [--help]
# A small closed world (the kindergarten) stands in for the internet; every stage is the real one.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
begin "$@"
depth=${DEPTH:-4} tag=d${DEPTH:-4}
model=(--depth="$depth" --aspect_ratio=32 --head_dim=64 --max_seq_len=256)
lessons=facts,choice,problems,arithmetic,functions,spelling,letters,stories
shared=(--seed="$SEED" "$(compiling)" --resume)
later=(--source_tag="$tag" "${shared[@]}")

stage data python -m nanochat.dataset --source=kindergarten --seed="$SEED" --scale="$(scale)"
stage tokenizer python -m scripts.tok_train --vocab_size=2048 --digits=1
measure tok_eval python -m scripts.tok_eval
stage base python -m scripts.base_train "${model[@]}" --device_batch_size=16 --total_batch_size=4096 \
    --num_iterations="$(steps 1000)" --document_mask --save_every="$(steps 200)" "${shared[@]}"
measure base_loss python -m scripts.base_loss --model_tag="$tag" --split_tokens="$(steps 131072)"
measure base_eval python -m scripts.base_eval --model_tag="$tag"
measure chat_eval_base python -m scripts.chat_eval -i base -g "$tag"
stage mid python -m scripts.mid_train --device_batch_size=16 --total_batch_size=4096 --num_iterations="$(steps 1800)" \
    --mixture="text*0.15,$lessons" --init_lr_frac=0.7 --loss_on=assistant --save_every="$(steps 200)" "${later[@]}"
measure chat_eval_mid python -m scripts.chat_eval -i mid -g "$tag"
stage sft python -m scripts.chat_sft --device_batch_size=16 --total_batch_size=4096 --num_iterations="$(steps 200)" \
    --mixture="text*0.02,$lessons,talk*5,chats*2" --init_lr_frac=0.3 --save_every="$(steps 50)" "${later[@]}"
measure chat_eval_sft python -m scripts.chat_eval -i sft -g "$tag"
stage rl python -m scripts.chat_rl --task=problems --num_iterations="$(steps 140)" --examples_per_step=32 \
    --num_samples=8 --max_new_tokens=32 --device_batch_size=32 --init_lr_frac=0.15 --embedding_lr=0.03 --head_lr=0.001 \
    --save_every="$(steps 50)" "${later[@]}"
measure chat_eval_rl python -m scripts.chat_eval -i rl -g "$tag"
always python -m nanochat.report generate
