"""How near pretraining comes to what one GPU can do, beside karpathy/nanochat (92d63d4) on the same shards and tokens:

    python -m bench.gpu --peer /tmp/peer --data DIR            d12, d20, d24: tokens/s, MFU, peak memory, stall
    python -m bench.gpu --depths=2,4,6,8 --aspect_ratio=32 --head_dim=64 --max_seq_len=256 --total_batch_size=4096 \
        --rows=16                                              how cost grows with depth, on a processor

The floors: the time a step would take if nothing but its FLOPs, or but the optimizer's bytes, counted. MFU is by our
FLOPs per token for both sides, so that their ratio is that of the tokens per second. The stall is the part of a step
that waits for data.
"""
import os
import tempfile
import time
from pathlib import Path

from bench import sides
from nanochat import dial
from nanochat.data import loader, shards
from nanochat.system import cli, gpus, hardware, paths
from nanochat.system.cli import flag
from nanochat.tokenizer import Tokenizer

OPTIMIZER_BYTES = 7 * 4  # per parameter in fp32: weight, gradient and two moments read, weight and moments written


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, peer=flag("", "a checkout of karpathy/nanochat at 92d63d4; without one, ours alone"),
        data=flag("", "a folder with text/*.parquet; default the kindergarten's"), depths=flag("12,20,24"),
        aspect_ratio=flag(64, at_least=1), head_dim=flag(128, at_least=2), max_seq_len=flag(2048, at_least=8),
        vocab_size=flag(32_768, at_least=265), total_batch_size=flag(524_288, "tokens a step", at_least=8),
        rows=flag(-1, "at a time; auto = what fits, for the peer 32", at_least=1, words={"auto": -1}),
        steps=flag(20, "per run, the first five not counted", at_least=2), scale=flag(1.0, "of the kindergarten"),
        window_pattern=flag("L", "of the peer; its default, SSSL, needs FlashAttention 3, else the ratio flatters us"),
        recompute=flag(False, "ours keeps one activation per layer"), compile=flag(True, "torch.compile ours"))
    machine = hardware.detect()
    print(f"{machine.device}: {machine.peak_flops or float('nan'):.3g} FLOP/s in bf16\n")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        sides.prepare(work, Path(args.data).absolute() if args.data else None, args.vocab_size, args.max_seq_len, 16,
                      args.scale)
        loaded, bytes_per_token = loader_speed(args.max_seq_len)
        print(f"the loader, one process: {loaded:,.0f} tokens/s, {loaded * bytes_per_token / 1e6:.1f} MB/s of text\n\n"
              "| depth | side | attention | tokens/s | ours / this | MFU | peak memory, GiB | stall | text, MB/s "
              "| floor: FLOPs, ms | bytes, ms |\n|---|---|---|---|---|---|---|---|---|---|---|")
        for depth in map(int, args.depths.split(",")):
            one_depth(args, work, depth, machine, bytes_per_token)


def loader_speed(max_seq_len: int, groups: int = 4) -> tuple[float, float]:
    """(tokens per second that one process reads, tokenises and packs, bytes of text per token)."""
    tokenizer = Tokenizer.load(paths.tokenizer_dir())
    corpus = loader.TextCorpus(shards.train_shards(), tokenizer)
    lengths, tokens, num_bytes = tokenizer.token_bytes(), 0, 0
    corpus.group(0)  # the encoder is compiled once
    began = time.perf_counter()
    for batch in loader.batches(corpus, 64, max_seq_len, tokenizer.bos_id, epochs=1):
        if batch.state["group"] >= groups:
            break
        tokens += batch.ids.numel()
        num_bytes += int(lengths[batch.ids].sum())
    return tokens / (time.perf_counter() - began), num_bytes / tokens


def one_depth(args, work: Path, depth: int, machine: hardware.Hardware, bytes_per_token: float) -> None:
    shape = [f"--depth={depth}", f"--aspect-ratio={args.aspect_ratio}", f"--head-dim={args.head_dim}",
             f"--max-seq-len={args.max_seq_len}", f"--total-batch-size={args.total_batch_size}",
             f"--num-iterations={args.steps}"]
    switches = [name for name, on in (("--recompute", args.recompute), ("--no_compile", not args.compile)) if on]
    plan = dial.make(depth, dial.PlanOptions(
        vocab_size=args.vocab_size, aspect_ratio=args.aspect_ratio, head_dim=args.head_dim,
        sequence_len=args.max_seq_len, total_batch_tokens=args.total_batch_size, num_iterations=1))
    known = gpus.find(machine.device)
    floors = (machine.peak_flops and plan.flops / machine.peak_flops,
              known and plan.num_params * OPTIMIZER_BYTES / known.peak_memory_speed)
    results = {"ours": sides.ours(work, 0, [*shape, f"--device-batch-size={args.rows}", *switches], measured=False)}
    if args.peer:
        flags = [*shape, f"--window-pattern={args.window_pattern}"]
        results["peer"] = sides.peer_that_fits(work, Path(args.peer).absolute(), 0, flags,
                                               args.rows if args.rows > 0 else 32, measured=False)
    for side, result in results.items():
        mfu = machine.peak_flops and plan.flops_per_token * result.tokens_per_second / machine.peak_flops
        cells = [depth, side, result.attention, f"{result.tokens_per_second:,.0f}",
                 f"{results['ours'].tokens_per_second / result.tokens_per_second:.2f}", shown(mfu, ".1%"),
                 shown(result.peak_bytes and result.peak_bytes / 2**30, ".1f"), shown(result.stall_fraction, ".2%"),
                 f"{result.tokens_per_second * bytes_per_token / 1e6:.3f}",
                 *(shown(floor and 1000 * floor, ".1f") for floor in floors)]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # as the peer sets it for itself
    cli.run(main)
