"""The engine and the server beside others: the same random weights, the same prompts, in one run.

    python -m bench.serve                              # the laptop model's shape
    python -m bench.serve --shape=d12 --tokens=64      # 12 layers, 768 wide, 32,768 tokens
    python -m bench.serve --shape=d12 --gguf=d12.gguf  # with llama.cpp's llama-batched-bench (bench/llama_shape.py)
    python -m bench.serve --soak --seconds=120         # 200 rude clients instead: errors, leaks, lost answers

First table: decode, greedy, prompts of 32 tokens, tokens/s at B = 1, 4, 16; peers are transformers' `generate` and vLLM
on the same weights, llama.cpp on a model of the same shape (`--gguf`), where they are installed. Second table:
`scripts.chat_web` and `transformers serve`, in processes of their own: time to the first token and tokens/s with 1, 8,
32 clients that stream one answer after the other.
"""
import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import torch

from bench.soak import question, served, soak
from nanochat.infer import Engine
from nanochat.infer.numba_decode import numba_decoder
from nanochat.infer.quantize import quantized
from nanochat.model import GPT, PORTABLE, GPTConfig
from nanochat.system import cli, paths
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.train import checkpoint

SHAPES = {  # layers, width, head width, vocabulary, context
    "toy": (2, 64, 32, 512, 256), "laptop": (4, 128, 64, 2048, 512), "d12": (12, 768, 128, 32768, 1024),
    "d20": (20, 1280, 128, 65536, 2048), "d32": (32, 2048, 128, 65536, 2048)}
PROMPT_TOKENS = 32
TRANSFORMERS = Path(sys.executable).with_name("transformers")  # its command, where it is installed


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, shape=flag("laptop", "of the model", choices=tuple(SHAPES)),
        tokens=flag(100, "new tokens per answer", at_least=2), rounds=flag(3, "the best of these counts", at_least=1),
        threads=flag(0, "0 = torch's choice", at_least=0), gguf=flag("", "a model file for llama.cpp"),
        soak=flag(False, "no measuring: 200 clients, at random rude"),
        clients=flag(200, "of the soak", at_least=1), seconds=flag(120.0, "of the soak", at_least=1))
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NANOCHAT_BASE_DIR"] = folder
        model, tokenizer = make(args.shape)
        if args.soak:
            with served("--max_rows=32") as (url, process):
                found = asyncio.run(soak(url, process, args.seconds, args.clients))
            print(json.dumps(found, indent=1))
            raise SystemExit(bool(found["problems"]))
        print(f"{args.shape}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, "
              f"{torch.get_num_threads()} threads")
        decode_table(model, tokenizer, args)
        server_table(args)


def tokenizer_of(vocab_size: int) -> Tokenizer:
    words = (bytes(letters) for n in (2, 3, 4) for letters in itertools.product(range(97, 123), repeat=n))
    return Tokenizer([*(bytes([byte]) for byte in range(256)), *itertools.islice(words, vocab_size - 256 - 9)])


def make(shape: str) -> tuple[GPT, Tokenizer]:
    """Random weights in transformers' architecture, saved as the SFT checkpoint of the folder in use."""
    layers, width, head, vocab_size, context = SHAPES[shape]
    tokenizer, heads = tokenizer_of(vocab_size), width // head
    model = GPT(GPTConfig(context, vocab_size, layers, heads, heads, width, head, **PORTABLE)).init_weights(0).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(model.lm_head.weight, std=width**-0.5)
    tokenizer.save(paths.tokenizer_dir())
    checkpoint.save(paths.checkpoint_dir("sft", "d1"), 1, model, None, {})
    return model, tokenizer


# ---------------------------------------------------------------- decode


def decode_table(model: GPT, tokenizer: Tokenizer, args) -> None:
    peers = {"nanochat fp32": ours(model, tokenizer, torch.float32, ""),
             "nanochat bf16": ours(model, tokenizer, torch.bfloat16, ""),
             "nanochat int8": ours(model, tokenizer, torch.float32, "int8")}
    if importlib.util.find_spec("transformers"):
        peers |= {f"transformers {name}": transformers_peer(dtype)
                  for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    if importlib.util.find_spec("vllm"):
        peers["vLLM bf16"] = vllm_peer(model)
    print(f"\ndecode, tokens/s{'B = 1':>16}{'B = 4':>10}{'B = 16':>10}")
    if args.gguf:
        peers["llama.cpp F16"] = llama_peer(args.gguf)
    rates: dict[str, list[float]] = {name: [] for name in peers}
    for rows in (1, 4, 16):
        prompts = torch.randint(256, 500, (rows, PROMPT_TOKENS), generator=torch.Generator().manual_seed(rows))
        best = dict.fromkeys(peers, 0.0)
        for _ in range(args.rounds):  # in turn: a busy moment hits everybody
            for name, generate in peers.items():
                begun = time.perf_counter()
                said = generate(prompts.tolist(), args.tokens)  # another program says its seconds itself
                seconds = said if isinstance(said, float) else time.perf_counter() - begun
                best[name] = max(best[name], rows * args.tokens / seconds)
        for name, rate in best.items():
            rates[name].append(rate)
    for name, found in rates.items():
        print(f"{name:20}" + "".join(f"{rate:12,.1f}" for rate in found))
    if base := rates.get("transformers fp32"):
        for name in ("nanochat fp32", "nanochat int8"):
            print(f"{name} / transformers fp32: " + ", ".join(f"× {a / b:.2f}" for a, b in zip(rates[name], base)))
    for name, found in (("vLLM", importlib.util.find_spec("vllm")), ("llama.cpp", args.gguf)):
        print("" if found else f"{name}: not measured (not installed, or no --gguf)")


def copy_of(model: GPT, dtype: torch.dtype) -> GPT:
    other = GPT(model.config, dtype).eval()
    other.load_state_dict(model.state_dict())
    return other.to(dtype)


def ours(model: GPT, tokenizer: Tokenizer, dtype: torch.dtype, form: str):
    engine = Engine(quantized(copy_of(model, dtype), form), tokenizer, max_rows=16, decoder=numba_decoder)
    return lambda prompts, tokens: engine.generate(prompts, max_tokens=tokens, temperature=0.0, stop_ids=[])


def transformers_peer(dtype: torch.dtype):
    import transformers

    peer = transformers.AutoModelForCausalLM.from_pretrained(portable_folder(), dtype=dtype).eval()
    return lambda prompts, tokens: peer.generate(
        torch.tensor(prompts), attention_mask=torch.ones(len(prompts), PROMPT_TOKENS, dtype=torch.long),
        max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)


def portable_folder() -> str:
    """The checkpoint of `make`, which transformers and vLLM load as it is."""
    [folder] = paths.checkpoint_dir("sft", "d1").glob("step_*")
    return str(folder)


def vllm_peer(model: GPT):
    import vllm

    peer = vllm.LLM(portable_folder(), skip_tokenizer_init=True, dtype="bfloat16", max_num_seqs=16,
                    max_model_len=model.config.sequence_len)
    return lambda prompts, tokens: peer.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts], use_tqdm=False,
        sampling_params=vllm.SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False))


def llama_peer(gguf: str):
    """Seconds of llama-batched-bench, the loading of the model not counted."""
    program = shutil.which("llama-batched-bench")
    if not program:
        raise UserError("--gguf needs llama.cpp's llama-batched-bench in the PATH; build it: cmake -B build && "
                        "cmake --build build --target llama-batched-bench")

    def generate(prompts, tokens) -> float:
        rows = len(prompts)
        command = [program, "-m", gguf, "-npp", PROMPT_TOKENS, "-ntg", tokens, "-npl", rows, "-t",
                   torch.get_num_threads(), "-c", rows * (PROMPT_TOKENS + tokens) + 64]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        cells = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 11][-1]
        return float(cells[9])  # T s: prompts and answers

    return generate


# ---------------------------------------------------------------- the server


@contextlib.contextmanager
def transformers_served():
    """The address of transformers' own server on the same folder, batching continuously."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    command = [str(TRANSFORMERS), "serve", portable_folder(), "--device=cpu", "--continuous-batching", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if is_healthy(f"http://127.0.0.1:{port}"):
                break
            assert process.poll() is None, "transformers serve has ended"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", portable_folder()
    finally:
        process.terminate()
        process.wait()


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def server_table(args) -> None:
    print(f"\nserver{'':26}{'tokens/s':>12}{'first token, ms: median':>26}{'worst':>10}")
    with served("--max_rows=32") as (url, _):
        lines("nanochat", url, "", args.tokens)
    if TRANSFORMERS.exists():
        with transformers_served() as (url, model):
            lines("transformers", url, model, args.tokens)


def lines(name: str, url: str, model: str, tokens: int) -> None:
    for clients in (1, 8, 32):
        rate, firsts = asyncio.run(load(url, clients, tokens, model))
        firsts.sort()
        median, worst = 1e3 * firsts[len(firsts) // 2], 1e3 * firsts[-1]
        print(f"{name:12} {clients:3} clients{'':8}{rate:12,.1f}{median:26,.0f}{worst:10,.0f}", flush=True)


async def load(url: str, clients: int, tokens: int, model: str = "", rounds: int = 3) -> tuple[float, list[float]]:
    """Tokens per second over all clients, and every request's seconds to its first text."""
    firsts, counted = [], 0

    async def client(number: int) -> None:
        nonlocal counted
        draw = random.Random(number)
        for _ in range(rounds):
            body = {**question(draw, tokens), "temperature": 1, **({"model": model} if model else {})}
            first, num_tokens = await ask(body)
            firsts.append(first)
            counted += num_tokens

    async def ask(body: dict) -> tuple[float, int]:
        """(seconds to the first text, tokens) of an answer."""
        begun, first, num_tokens = time.perf_counter(), None, 0
        async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if re.search(r'"content": ?"[^"]', line):
                    first = first or time.perf_counter() - begun
                if re.search('"usage": ?{', line):
                    num_tokens += json.loads(line[6:])["usage"]["completion_tokens"]
        return first or time.perf_counter() - begun, num_tokens

    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as http:
        await asyncio.gather(*(client(-1 - i) for i in range(2)))  # warm-up
        firsts, counted = [], 0
        begun = time.perf_counter()
        await asyncio.gather(*(client(i) for i in range(clients)))
    return counted / (time.perf_counter() - begun), firsts


if __name__ == "__main__":
    cli.run(main)
