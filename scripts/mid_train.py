"""Midtraining: the base model learns the chat format, multiple choice by letter and the tool.

    python -m scripts.mid_train --mixture="facts,choice,problems*2,text*0.2"
    torchrun --standalone --nproc_per_node=8 -m scripts.mid_train -- --device_batch_size=16
"""
from nanochat.system import cli
from nanochat.system.cli import flag
from nanochat.train.finetune import FLAGS, finetune
from tasks import mixture


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, **FLAGS, **mixture.FLAGS,
        total_batch_size=flag(524_288, "tokens per step over all ranks", at_least=1),
        init_lr_frac=flag(1.0, "of the pretraining rates", at_least=0),
        loss_on=flag("all", choices=("all", "assistant")),
        warmdown_fraction=flag(0.6, "of all steps", at_least=0, at_most=1))
    finetune("mid", "base", args, lambda tokenizer, max_tokens: mixture.documents(
        args.mixture, tokenizer, own=args.conversations, max_tokens=max_tokens, seed=args.seed,
        learn_all=args.loss_on == "all"))


if __name__ == "__main__":
    cli.run(main)
