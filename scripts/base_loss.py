"""Bits per byte and perplexity of a model on training and validation text, and samples of its writing.

    python -m scripts.base_loss
    torchrun --standalone --nproc_per_node=8 -m scripts.base_loss -- --split_tokens=20971520
"""
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from nanochat.data import shards
from nanochat.eval import record
from nanochat.eval.bpb import TextLoss, text_batches, text_loss
from nanochat.infer import Engine
from nanochat.model import GPT
from nanochat.system import cli, log, results
from nanochat.system.cli import flag
from nanochat.system.runtime import start as start_runtime
from nanochat.tokenizer import Tokenizer
from nanochat.train import checkpoint

NUM_SAMPLES = 6
PROMPT_CHARS = 40  # the beginning of a validation document, for the model to continue
SAMPLE_TOKENS = 64
WORD_DOCUMENTS = 2000  # validation documents whose words are counted


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, **checkpoint.flags("base"),
        split_tokens=flag(1_048_576, "tokens of each split, over all ranks", at_least=1),
        device_batch_size=flag(32, "rows at a time and rank", at_least=1), seed=flag(0, "random seed", at_least=0),
        device_type=flag("", "cuda, mps or cpu"), dtype=flag("", "dtype of activations"))
    started = time.monotonic()
    runtime = start_runtime(args.device_type, args.dtype)
    model, tokenizer, state = checkpoint.load_model(
        args.source, args.model_tag, args.step, runtime.device, runtime.dtype)

    # ---- Bits per byte. The last training shards come first, because a short run has not trained on them.
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(runtime.device)
    splits = {"train": shards.train_shards()[::-1], "validation": shards.validation_shards()}
    bpb = {}
    for split, paths in splits.items():
        batches = text_batches(paths, tokenizer, args.device_batch_size, model.config.sequence_len, args.split_tokens,
                               runtime)
        loss = text_loss(model, batches, token_bytes)
        bpb[split] = loss.bits_per_byte
        log.say(f"{split}: {bpb[split]:.4f} bits per byte")
    perplexity = perplexities(loss, splits["validation"], tokenizer.vocab_size)  # `loss` is of the last split
    log.say(f"validation: perplexity {perplexity['per_word']:.2f} per word, {perplexity['per_token']:.2f} per token "
            f"({perplexity['tokenizer']})")

    # ---- Samples and results, by the main rank alone.
    if runtime.is_main:
        samples = continuations(model, tokenizer, splits["validation"], args.seed)
        for sample in samples:
            log.say(f"  {sample['prompt']!r} → {sample['text']!r}")
        about = {"split_tokens": args.split_tokens, **record.identity(state)}
        folder = results.folder_of(args.source, state["tag"])
        results.write(folder / "base_loss.json", {
            "bpb": bpb, "perplexity": perplexity, **about, "samples": samples}, identity=tuple(about))
        record.write_run(f"base_loss_{args.source}".removesuffix("_base"), folder / "base_loss", args, started)
    runtime.close()


def perplexities(loss: TextLoss, validation: Sequence[Path], vocab_size: int) -> dict[str, float | str]:
    """The loss on validation text in the units that others publish. A word is the text between two spaces."""
    texts = list(islice(shards.iter_texts(validation), WORD_DOCUMENTS))
    bytes_per_word = sum(len(text.encode()) for text in texts) / sum(len(text.split()) for text in texts)
    return {"per_word": loss.perplexity(bytes_per_word), "per_token": loss.perplexity(),
            "bytes_per_word": bytes_per_word, "bytes_per_token": loss.num_bytes / loss.num_tokens,
            "tokenizer": f"byte-level BPE of {vocab_size:,} tokens, learnt from the training text"}


def continuations(model: GPT, tokenizer: Tokenizer, validation: Sequence[Path], seed: int) -> list[dict[str, Any]]:
    """The model's greedy continuations of the first words of documents, and its own texts at temperature 1."""
    texts = islice(shards.iter_texts(validation), NUM_SAMPLES)
    prompts = [text[:PROMPT_CHARS].rsplit(" ", 1)[0] for text in texts]
    engine = Engine(model, tokenizer)
    prompt_ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    greedy = engine.generate(prompt_ids, max_tokens=SAMPLE_TOKENS, temperature=0.0)
    free = engine.generate([[tokenizer.bos_id]], max_tokens=SAMPLE_TOKENS, samples=NUM_SAMPLES, seed=seed)[0]
    return [*({"prompt": prompt, "temperature": 0.0, "text": completion.text}
              for prompt, (completion,) in zip(prompts, greedy)),
            *({"prompt": "", "temperature": 1.0, "text": completion.text} for completion in free)]


if __name__ == "__main__":
    cli.run(main)
