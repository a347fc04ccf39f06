"""Supervised fine-tuning: clean conversations, loss on what the assistant says only.

    python -m scripts.chat_sft --mixture="dolly,gsm8k*2,identity*10"
    python -m scripts.chat_sft --source=sft --model_tag=ada --mixture="facts*0.2" --conversations="docs/ada.jsonl*20"
    torchrun --standalone --nproc_per_node=8 -m scripts.chat_sft
"""
from nanochat.system import cli
from nanochat.system.cli import flag
from nanochat.train.finetune import FLAGS, finetune
from tasks import mixture


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, **FLAGS, **mixture.FLAGS,
        total_batch_size=flag(32_768, "tokens per step over all ranks", at_least=1),
        init_lr_frac=flag(0.3, "of the pretraining rates", at_least=0),
        loss_on=flag("assistant", "all = without masks, to see what they are good for", choices=("all", "assistant")),
        warmdown_fraction=flag(1.0, "of all steps", at_least=0, at_most=1),
        source=flag("mid", "stage to start from", choices=("base", "mid", "sft")))
    finetune("sft", args.source, args, lambda tokenizer, max_tokens: mixture.documents(
        args.mixture, tokenizer, own=args.conversations, max_tokens=max_tokens, seed=args.seed,
        learn_all=args.loss_on == "all"))


if __name__ == "__main__":
    cli.run(main)
