"""The flags that several training scripts share, so that a flag means the same in all of them. No torch in here."""
from typing import Any

from nanochat.system.cli import Args, flag

# Learning rates at the peak of the schedule. Embedding and head: rates at width 768, which optim/groups.py scales.
MUON_LR, EMBEDDING_LR, HEAD_LR, SCALAR_LR = 0.02, 0.3, 0.008, 0.5
WEIGHT_DECAY, WARMDOWN_FRACTION = 0.0, 0.6  # defaults of scripts/base_train.py
# Compiling doubles the speed, so a run of two minutes gains back a minute of it (20 seconds for the laptop's model).
COMPILING_PAYS_FROM_MINUTES = 2

RATES: dict[str, Any] = dict(
    matrix_lr=flag(MUON_LR, "learning rate of the blocks' matrices (Muon)", at_least=0),
    embedding_lr=flag(EMBEDDING_LR, "learning rate of the embeddings (AdamW) at width 768", at_least=0),
    head_lr=flag(HEAD_LR, "learning rate of the head (AdamW) at width 768", at_least=0))

CHECKPOINTS: dict[str, Any] = dict(
    save_every=flag(-1, "steps between checkpoints; −1 = only at the end"),
    keep=flag(1, "number of checkpoints that are kept", at_least=1),
    keep_optimizer=flag(False, "the last checkpoint keeps optimizer.pt too, which is larger than the weights; no later "
                               "stage, exam or chat reads it"),
    resume=flag(False, "continue from the newest checkpoint, if there is one; flags that are not given are as saved"),
    overwrite=flag(False, "replace the model of this name when the first new checkpoint is on disk"))

MACHINE: dict[str, Any] = dict(
    compile=flag(True, "torch.compile the loss; by default not if --minutes is too short to gain from it"),
    device_type=flag("", "cuda, mps or cpu"),
    dtype=flag("", "dtype of activations"))

NEXT_STAGE: dict[str, Any] = dict(  # a stage that starts from the model of another stage
    source_tag=flag("", "name of the checkpoint folder to start from; default: the deepest model"),
    model_tag=flag("", "name of the new checkpoint folder; default: the source's"),
    lora=flag(0, "train LoRA matrices of this rank only, to save memory; 0 = train all weights", at_least=0))

CONVERSATIONS: dict[str, Any] = dict(  # mid and SFT
    **NEXT_STAGE,
    max_seq_len=flag(-1, "tokens in a row; −1 = as in pretraining", at_least=8),
    device_batch_size=flag(32, "rows per micro-batch and rank, fewer if the step has fewer; auto = what fits",
                           at_least=1, words={"auto": -1}),
    num_iterations=flag(-1, "steps; −1 = one pass over the mixture, or as --minutes says", at_least=1),
    minutes=flag(-1.0, "train for about this many minutes, start and compiling included; sets the steps by measuring",
                 at_least=0.01),
    warmup_steps=flag(0, "steps in which the rates rise from 0", at_least=0),
    seed=flag(0, "random seed of the data order", at_least=0))

# Flags that may differ between a run and its resumption, because they do not decide what is learnt: where files are,
# what is measured, how the machine computes. A new flag of this kind is added here. Every other flag is saved in
# checkpoints: --resume refuses another value, and a run of older code, which lacks the flag, can be resumed with its
# default only (train/target.py). ("run" is a flag of older code, which old checkpoints have.)
FREE = {*CHECKPOINTS, "compile", "device_type", "model_tag", "source_tag", "eval_every", "device_batch_size",
        "recompute", "cuda_graphs", "workers", "eval_questions", "unsafe_execution", "run"}
MAY_CHANGE_AFTER_DIVERGING = {*RATES, "weight_decay"}  # with --resume: a message says so, and training continues


def rates(args: Args, scale: float = 1.0) -> dict[str, float]:
    """The learning rates for `optim.groups.groups_of`. Stages after pretraining make all of them smaller by `scale`, as
    the weights have settled."""
    return dict(matrix_lr=args.matrix_lr * scale, embedding_lr=args.embedding_lr * scale, head_lr=args.head_lr * scale,
                scalar_lr=SCALAR_LR * scale)


def wants_compiling(args: Args) -> bool:
    """Whether to compile: a run that is too short to gain from compiling compiles only if the user typed --compile."""
    too_short = 0 < getattr(args, "minutes", -1) < COMPILING_PAYS_FROM_MINUTES
    return bool(args.compile) and (not too_short or "compile" in args.given)
