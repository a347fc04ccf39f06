"""Bits per byte and perplexity of a model on training and validation text, and samples of what it writes.

    python -m scripts.base_loss
    torchrun --standalone --nproc_per_node=8 -m scripts.base_loss -- --split_tokens=20971520
"""
import time
from collections.abc import Iterator
from itertools import islice

import torch

from nanochat.data import loader, shards
from nanochat.eval.bpb import TextLoss, text_loss
from nanochat.infer import Engine
from nanochat.system import cli, log, paths, results, runtime
from nanochat.system.cli import flag
from nanochat.train import checkpoint

NUM_SAMPLES = 6
PROMPT_CHARS = 40  # of a validation document, for the model to go on from
SAMPLE_TOKENS = 64
WORD_DOCUMENTS = 2000  # validation documents whose words are counted


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__,
        source=flag("base", "which stage's model", choices=paths.STAGES, short="i"),
        model_tag=flag("", "default: the deepest"), step=flag(-1, "of the checkpoint; −1 = the newest", at_least=0),
        split_tokens=flag(1_048_576, "of each split, over all ranks", at_least=1),
        device_batch_size=flag(32, "rows at a time and rank", at_least=1), seed=flag(0, "of the samples", at_least=0),
        device_type=flag("", "cuda, mps or cpu"), dtype=flag("", "of activations"))
    started = time.monotonic()
    device = runtime.start(args.device_type, args.dtype)
    model, tokenizer, info = checkpoint.load_model(
        args.source, args.model_tag, None if args.step < 0 else args.step, device.device, device.dtype)
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(device.device)
    splits = {"train": shards.train_shards()[::-1], "validation": shards.validation_shards()}
    bpb = {}
    for split, files_of_split in splits.items():
        batches = rows(files_of_split, tokenizer, model.config.sequence_len, args, device)
        loss = text_loss(model, batches, token_bytes)
        bpb[split] = loss.bits_per_byte
        log.say(f"{split}: {bpb[split]:.4f} bits per byte")
    perplexity = perplexities(loss, splits["validation"], tokenizer.vocab_size)  # of validation, the last split
    log.say(f"validation: perplexity {perplexity['per_word']:.2f} per word, {perplexity['per_token']:.2f} per token "
            f"({perplexity['tokenizer']})")
    samples = continuations(model, tokenizer, splits["validation"], args.seed) if device.is_main else []
    for sample in samples:
        log.say(f"  {sample['prompt']!r} → {sample['text']!r}")
    if device.is_main:
        results.write(results.folder_of(args.source, info["tag"]) / "base_loss.json", {
            "bpb": bpb, "perplexity": perplexity, "split_tokens": args.split_tokens, "step": info["step"],
            "tag": info["tag"], "model": info["sha256"]["model.safetensors"][:12], "samples": samples},
            identity=("split_tokens", "step", "tag", "model"))
    log.write_run("base_loss", seconds=time.monotonic() - started, flags=vars(args))
    device.close()


def rows(files_of_split, tokenizer, row_len: int, args, device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This rank's (ids, targets) of the first `split_tokens` tokens, at least one batch."""
    batches = loader.batches(loader.TextCorpus(files_of_split, tokenizer), args.device_batch_size, row_len,
                             tokenizer.bos_id, rank=device.rank, world_size=device.world_size, epochs=1)
    at_once = args.device_batch_size * row_len * device.world_size
    for batch in islice(batches, max(1, args.split_tokens // at_once)):
        moved = batch.to(device.device)
        yield moved.ids, moved.targets


def perplexities(loss: TextLoss, validation, vocab_size: int) -> dict[str, float | str]:
    """The loss on validation text as others publish it. A word is what stands between blanks."""
    texts = list(islice(shards.iter_texts(validation), WORD_DOCUMENTS))
    bytes_per_word = sum(len(text.encode()) for text in texts) / sum(len(text.split()) for text in texts)
    return {"per_word": loss.perplexity(bytes_per_word), "per_token": loss.perplexity(),
            "bytes_per_word": bytes_per_word, "bytes_per_token": loss.num_bytes / loss.num_tokens,
            "tokenizer": f"byte-level BPE of {vocab_size:,} tokens, learnt from the training text"}


def continuations(model, tokenizer, validation, seed: int) -> list[dict]:
    """What the model makes of the first words of validation documents, greedily, and of nothing, at temperature 1."""
    texts = islice(shards.iter_texts(validation), NUM_SAMPLES)
    prompts = [text[:PROMPT_CHARS].rsplit(" ", 1)[0] for text in texts]
    engine = Engine(model, tokenizer)
    ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    greedy = engine.generate(ids, max_tokens=SAMPLE_TOKENS, temperature=0.0)
    free = engine.generate([[tokenizer.bos_id]], max_tokens=SAMPLE_TOKENS, samples=NUM_SAMPLES, seed=seed)[0]
    found = [{"prompt": prompt, "temperature": 0.0, "text": one.text} for prompt, (one,) in zip(prompts, greedy)]
    return found + [{"prompt": "", "temperature": 1.0, "text": one.text} for one in free]


if __name__ == "__main__":
    cli.run(main)
