"""Big models on small machines: tokens/s of one shape by dtype, beside the memory's speed and llama.cpp.

    python -m bench.small_machine --shape=d12                  # decode with 1, 4 and 16 rows, and reading a prompt
    python -m bench.small_machine --shape=d32 --rows=1         # pip install xllamacpp gguf: llama.cpp as well
    python -m bench.small_machine --shape=d32 --memory         # the peak memory of one answer of scripts.chat_cli

Random weights in the plain architecture. The floor of a token is the bytes of all matrices but the embedding, divided
by the speed at which these cores read memory. All are measured in turn, and the best round counts.
"""
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import torch

from bench import llama_shape
from bench.serve import SHAPES, tokenizer_of
from nanochat.infer import Engine, SamplingParams
from nanochat.infer.numba_decode import numba_decoder
from nanochat.infer.quantize import FORMS, quantized
from nanochat.model import GPT, PORTABLE, GPTConfig
from nanochat.system import cli, paths
from nanochat.system.cli import flag
from nanochat.system.jit import njit
from nanochat.train import checkpoint

PROMPT_TOKENS = 32
LLAMA = {"llama.cpp F16": "f16", "llama.cpp Q8_0": "q8_0", "llama.cpp Q4_0": "q4_0"}
OURS = {"bf16": "", **{form: form for form in FORMS}}


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, shape=flag("d12", "of the model", choices=tuple(SHAPES)),
        rows=flag("1,4,16", "requests at a time, joined by commas"), tokens=flag(24, "per answer", at_least=2),
        rounds=flag(3, "the best of these counts", at_least=1),
        prompt=flag(512, "tokens of the long prompt", at_least=2),
        only=flag("", "of these names, joined by commas: " + ", ".join([*OURS, *LLAMA])),
        folder=flag("", "keeps llama.cpp's files there for the next time"),
        memory=flag(False, "the peak memory of chat_cli instead"),
        llama=flag("", "(internal) serve this file to another process of this program"))
    torch.set_num_threads(os.cpu_count() or 1)
    if args.llama:
        return serve_llama(args.llama, args)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NANOCHAT_BASE_DIR"] = folder
        return memory_table(args) if args.memory else speed_table(args, Path(args.folder or folder))


def plain_model(shape: str) -> GPT:
    """bf16 weights, the same numbers again and again: drawing billions would take minutes."""
    layers, width, head, vocab_size, context = SHAPES[shape]
    heads = width // head
    with torch.device("meta"):
        model = GPT(GPTConfig(context, vocab_size, layers, heads, heads, width, head, **PORTABLE), torch.bfloat16)
    numbers = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    weights = {}
    for name, parameter in model.named_parameters():
        weight = torch.empty(parameter.numel(), dtype=torch.bfloat16)
        for part in weight.split(len(numbers)):
            part.copy_(numbers[:len(part)] * parameter.shape[1]**-0.5)
        weights[name] = weight.view(parameter.shape)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def in_form(model: GPT, form: str) -> GPT:
    """The same weights in another form; the model itself stays as it is."""
    with torch.device("meta"):
        other = GPT(model.config, torch.bfloat16)
    other.load_state_dict(model.state_dict(), assign=True)
    return quantized(other.eval(), form)


# ---------------------------------------------------------------- speed


@njit(parallel=True, fastmath=True)
def _sum(streams):
    total = 0
    for thread in numba.prange(len(streams)):
        first, second, third, fourth = streams[thread]
        for i in range(len(first)):
            total += first[i] + second[i] + third[i] + fourth[i]
    return total


class Memory:
    """Bytes per second at which all cores together read memory, the best of all measures. Each core reads four streams:
    with a single one the same two cores read a fifth less (53 instead of 66 GB/s)."""

    def __init__(self) -> None:
        cores = torch.get_num_threads()
        numba.set_num_threads(cores)
        self.numbers = np.ones((cores, 4, (1 << 26) // (4 * cores)), np.int64)  # 512 MB: no cache holds it
        self.best = 0.0
        _sum(self.numbers)

    def measure(self) -> None:
        for _ in range(4):
            begun = time.perf_counter()
            _sum(self.numbers)
            self.best = max(self.best, self.numbers.nbytes / (time.perf_counter() - begun))


def bytes_per_token(model: GPT) -> int:
    return sum(p.nbytes for name, p in model.named_parameters() if name != "model.embed_tokens.weight")


class Ours:
    def __init__(self, model: GPT, tokenizer, max_rows: int):
        self.size = bytes_per_token(model)
        self.engine = Engine(model, tokenizer, max_rows=max_rows, decoder=numba_decoder)
        self.engine.generate([[300, 301, 302]], max_tokens=2)  # compiles

    def decode(self, rows: int, tokens: int) -> float:
        """Tokens per second of `rows` requests whose prompts have been read."""
        settings = SamplingParams(max_tokens=tokens + 1, temperature=0.0, stop_ids=[])
        for row in range(rows):
            self.engine.submit([300 + row + i for i in range(PROMPT_TOKENS)], settings, events=False)
        self.engine.step()
        begun = time.perf_counter()
        for _ in range(tokens):
            self.engine.step()
        return rows * tokens / (time.perf_counter() - begun)

    def read(self, tokens: int) -> float:
        begun = time.perf_counter()
        self.engine.generate([[300 + i % 100 for i in range(tokens + 1)]], max_tokens=1)
        return tokens / (time.perf_counter() - begun)


class Llama:
    """llama.cpp in a process of its own, which waits for orders."""

    def __init__(self, path: Path, args):
        command = [sys.executable, "-m", "bench.small_machine", f"--llama={path}", f"--shape={args.shape}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.size = llama_shape.bytes_per_token(args.shape, path.stem)

    def ask(self, *order: object) -> float:
        print(json.dumps(order), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("RATE "):
                return float(line.split()[1])
        raise RuntimeError("llama.cpp has ended")

    def decode(self, rows: int, tokens: int) -> float:
        return self.ask("decode", rows, tokens)

    def read(self, tokens: int) -> float:
        return self.ask("read", tokens)


def serve_llama(path: str, args) -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.n_parallel, settings.warmup = 16, True
    settings.n_ctx = 16 * 1024
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = os.cpu_count()
    server = xllamacpp.Server(settings)
    for line in sys.stdin:
        kind, rows, tokens = (*json.loads(line), 1)[:3]
        length = rows if kind == "read" else PROMPT_TOKENS
        rows, tokens = (1, 1) if kind == "read" else (rows, tokens)
        answers = [None] * rows

        def ask(row: int, answers=answers, length=length, tokens=tokens) -> None:
            prompt = [300 + (row + i) % 200 for i in range(length)]
            answers[row] = server.handle_completions(
                {"prompt": prompt, "max_tokens": tokens + 1, "temperature": 0.0, "ignore_eos": True,
                 "cache_prompt": False})

        threads = [threading.Thread(target=ask, args=(row,)) for row in range(rows)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        timings = [answer["timings"] for answer in answers]
        if kind == "read":
            rate = timings[0]["prompt_per_second"]
        else:
            rate = rows * tokens / max(timing["predicted_ms"] for timing in timings) * 1e3
        print("RATE", rate, flush=True)


def llama_file(folder: Path, shape: str, dtype: str) -> Path:
    """The GGUF file of the shape, written at its first use."""
    path = folder / shape / f"{dtype}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        llama_shape.write(str(path), shape, dtype)
    return path


def speed_table(args, folder: Path) -> None:
    rows, wanted = [int(text) for text in args.rows.split(",")], [name for name in args.only.split(",") if name]
    plain, tokenizer = plain_model(args.shape), tokenizer_of(SHAPES[args.shape][3])
    peers: dict[str, Ours | Llama] = {}
    for name, form in OURS.items():
        if not wanted or name in wanted:
            peers[name] = Ours(in_form(plain, form), tokenizer, max(rows))
    theirs = LLAMA if importlib.util.find_spec("xllamacpp") else {}
    for name, dtype in theirs.items():
        if not wanted or name in wanted:
            peers[name] = Llama(llama_file(folder, args.shape, dtype), args)
    memory = Memory()
    measures: dict[str, Callable[[Ours | Llama], float]] = {
        f"B = {n}": lambda peer, n=n: peer.decode(n, args.tokens) for n in rows}
    measures["prompt"] = lambda peer: peer.read(args.prompt)
    best = {name: dict.fromkeys(measures, 0.0) for name in peers}
    for measure, run in measures.items():
        for _ in range(args.rounds):  # in turn: a busy moment hits everybody
            memory.measure()
            for name, peer in peers.items():
                best[name][measure] = max(best[name][measure], run(peer))
    print(f"{args.shape}: {sum(p.numel() for p in plain.parameters()) / 1e6:,.0f}M parameters, "
          f"{torch.get_num_threads()} threads, which read {memory.best / 1e9:.1f} GB/s\n")
    print(f"{'tokens/s':16}{'MB a token':>12}{'floor':>9}" + "".join(f"{measure:>10}" for measure in measures)
          + "   of the memory's speed at 1")
    for name, rates in best.items():
        floor = memory.best / peers[name].size
        share = f"{rates[f'B = {rows[0]}'] / floor:>10.0%}" if rows[0] == 1 else ""
        print(f"{name:16}{peers[name].size / 1e6:12,.0f}{floor:9,.1f}"
              + "".join(f"{rate:10,.1f}" for rate in rates.values()) + share)


# ---------------------------------------------------------------- memory


def memory_table(args) -> None:
    """One question to scripts.chat_cli in a process of its own, for each form."""
    model, tokenizer = plain_model(args.shape), tokenizer_of(SHAPES[args.shape][3])
    tokenizer.save(paths.tokenizer_dir())
    content = checkpoint.Snapshot(model.config.as_dict(), {"model.safetensors": dict(model.named_parameters())}, None)
    checkpoint.write(paths.checkpoint_dir("sft", "d1"), 1, content, {},
                     checkpoint.read_tokenizer(paths.tokenizer_dir()))
    del model, content
    words = "what is this about? "
    question = words * (args.prompt // len(tokenizer.encode(words)))
    for form in FORMS:
        command = [sys.executable, "-m", "scripts.chat_cli", f"--quantize={form}", "--dtype=bfloat16",
                   "--device_type=cpu", f"--max_tokens={args.tokens}", "-p", question]
        begun, most = time.perf_counter(), 0
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None:  # not getrusage: a child inherits the maximum of this process
            if found := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text()):
                most = max(most, int(found[1]))
            time.sleep(0.05)
        print(f"{args.shape} {form}: {most * 1024 / 1e9:.2f} GB at most, {time.perf_counter() - begun:.0f} s, "
              f"exit code {process.returncode}", flush=True)


if __name__ == "__main__":
    cli.run(main)
