"""Our tokenizer beside rustbpe, tokenizers (Hugging Face) and tiktoken, on the same text.

    python -m bench.tokenizer --data=DIR [--megabytes=230] [--rounds=3] [--vocab_sizes=32768,65536] [--cores=1,2]
                              [--peers=rustbpe,tokenizers,tiktoken] [--project]

Every measurement is a process of its own, so that peak memory means something; within a round all take their turn, and
the table shows medians over rounds. MB/s are of UTF-8 text; per CPU-second is the figure to trust on a busy machine.
Ours starts compiled, and the compile time of a fresh install is measured apart. `--project` learns 65,536 tokens from
2 billion characters: the text again and again, with 1 % of its words made new each time, so that the number of words
grows as in real text.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

FRESH_EVERY = 100  # words; 1.9 million different words in 2 billion characters, as the growth on 23 to 230 MB predicts
DIGITS = "abcdefghijklmnopqrstuvwxyz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with text/*.parquet")
    parser.add_argument("--megabytes", type=int, default=230)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocab_sizes", default="32768,65536")
    parser.add_argument("--cores", default=f"1,{len(os.sched_getaffinity(0))}")
    parser.add_argument("--peers", default="rustbpe,tokenizers,tiktoken")
    parser.add_argument("--project", action="store_true")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # what a process of its own is to do, as JSON
    args = parser.parse_args()
    if args.work:
        print(json.dumps(work(texts_of(args.data, args.megabytes), **json.loads(args.work))))
        return
    measure(args, "start")  # this checkout is compiled
    print(f"first use after an install: {compile_seconds(args):.1f} CPU-seconds;", "later:", measure(args, "start"))
    if args.project:
        print("2 billion characters:", measure(args, "project", "ours", 65536, max(map(int, args.cores.split(",")))))
    everyone = ["ours", *args.peers.split(",")]
    jobs = [("train", who, int(size), int(cores)) for cores in args.cores.split(",")
            for size in args.vocab_sizes.split(",") for who in everyone if who != "tiktoken"]
    jobs += [("encode", who, 32768, int(cores)) for cores in args.cores.split(",") for who in everyone]
    results: dict = {job: [] for job in jobs}
    for done in range(1, args.rounds + 1):
        for job in jobs:
            results[job].append(measure(args, *job))
            print(*job, results[job][-1], file=sys.stderr, flush=True)
        table(results, done)


def measure(args, *job, environment: dict | None = None) -> dict:
    what, who, vocab_size, cores = (*job, "ours", 512, 1)[:4] if len(job) == 1 else job
    words = [sys.executable, "-m", "bench.tokenizer", f"--data={args.data}", f"--megabytes={args.megabytes}",
             "--work", json.dumps({"what": what, "who": who, "vocab_size": vocab_size, "cores": cores})]
    limits = {"RAYON_NUM_THREADS": str(cores), "TOKENIZERS_PARALLELISM": "true", **(environment or {})}
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **limits}, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def compile_seconds(args) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return measure(args, "start", environment={"NUMBA_CACHE_DIR": folder})["cpu"]


def texts_of(data: str, megabytes: int) -> list[str]:
    import pyarrow.parquet as pq
    texts, left = [], megabytes * 1_000_000
    for shard in sorted(Path(data, "text").glob("*.parquet")):
        for text in pq.read_table(shard, columns=["text"]).column("text").to_pylist() if left > 0 else []:
            left -= len(text.encode())
            texts.append(text)
    return texts


def work(texts: list[str], what: str, who: str, vocab_size: int, cores: int) -> dict:
    """Does one job on `cores` cores; seconds by wall clock and processor, peak MB beyond the text."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if what == "start":
        return clocked(start)
    if who == "ours":
        start()  # compiled code is loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if what == "project":
        numbers = clocked(lambda: train("ours", repeated(texts, 2_000_000_000), vocab_size))
    elif what == "train":
        numbers = clocked(lambda: train(who, iter(texts), vocab_size))
    else:
        passes = encoder(who, texts, vocab_size)
        numbers = {name: clocked(call) for name, call in passes.items()}
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    return {**numbers, "megabytes": megabytes,
            "peak": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3}


def clocked(call) -> dict:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def start() -> None:
    from nanochat.tokenizer.train import train_tokenizer
    train_tokenizer(["warm up, up"], 270).encode("up")


def train(who: str, texts: Iterator[str], vocab_size: int):
    from nanochat.tokenizer.bpe import PATTERN
    from nanochat.tokenizer.train import train_tokenizer
    if who == "ours":
        return train_tokenizer(texts, vocab_size)
    if who == "rustbpe":
        import rustbpe
        tokenizer = rustbpe.Tokenizer()
        tokenizer.train_from_iterator(texts, vocab_size, pattern=PATTERN % 2)
        return tokenizer
    import tokenizers as hf
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence([
        hf.pre_tokenizers.Split(hf.Regex(PATTERN % 2), "isolated"),
        hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.train_from_iterator(texts, hf.trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False, initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def encoder(who: str, texts: list[str], vocab_size: int) -> dict:
    """Passes over the texts by name; the vocabulary is learnt from every tenth of them."""
    if who in ("rustbpe", "tokenizers"):
        tokenizer = train(who, iter(texts[::10]), vocab_size)
        encode = tokenizer.batch_encode if who == "rustbpe" else tokenizer.encode_batch_fast
        return {"cold": lambda: encode(texts), "warm": lambda: encode(texts)}
    ours = train("ours", iter(texts[::10]), vocab_size)
    if who == "ours":
        return {"cold": lambda: ours.encode_batch(texts), "warm": lambda: ours.encode_batch(texts),
                "lists": lambda: [ours.encode(text) for text in texts]}
    import tiktoken
    ranks = {ours.decode_bytes([i]): i for i in range(ours.bos_id)}
    theirs = tiktoken.Encoding("same", pat_str=ours.pattern, mergeable_ranks=ranks, special_tokens={})
    threads = len(os.sched_getaffinity(0))
    return {name: lambda: theirs.encode_ordinary_batch(texts, num_threads=threads) for name in ("cold", "warm")}


def repeated(texts: list[str], num_chars: int) -> Iterator[str]:
    """The texts again and again; from the second time on, one word in `FRESH_EVERY` gets an ending that is new."""
    chars = turn = 0
    while True:
        ending = DIGITS[turn % 26] + DIGITS[turn // 26 % 26]
        for text in texts:
            if turn:
                words = text.split(" ")
                words[turn::FRESH_EVERY] = [word + ending for word in words[turn::FRESH_EVERY]]
                text = " ".join(words)
            chars += len(text)
            yield text
            if chars >= num_chars:
                return
        turn += 1


def table(results: dict, rounds: int) -> None:
    print(f"\nmedians of {rounds}: MB/s by wall clock and per CPU-second, peak MB beyond the text, ours / theirs (CPU)")
    for (what, who, size, cores), runs in results.items():
        passes = ("cold", "warm", "lists") if what == "encode" else ("",)
        for name in passes:
            if name == "lists" and who != "ours":
                continue
            speed = rate(runs, name, "cpu")
            ours = rate(results[what, "ours", size, cores], name, "cpu")
            ratio = "" if who == "ours" else f"{ours / speed:6.1f}×"
            peak = median(run["peak"] for run in runs)
            print(f"{what:7}{name:6}{size:7,} {cores} cores  {who:11}{rate(runs, name, 'wall'):8.1f}{speed:8.1f}"
                  f"{peak:8,.0f}  {ratio}", flush=True)


def rate(runs: list[dict], name: str, clock: str) -> float:
    return median(run["megabytes"] / (run[name] if name else run)[clock] for run in runs)


if __name__ == "__main__":
    main()
