"""What bench.pretrain and bench.gpu share: one set of shards, one tokenizer and one set of rows to measure on, for our
pretraining and for the peer's; each training is a process of its own in the same kind of run.

Bits per byte are per document: every validation document alone in a row, cut to the row's length. Both sides see the
same tokens in the same rows, however they pack their own batches.
"""
import os
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from nanochat.data import shards
from nanochat.eval.bpb import bits_per_byte
from nanochat.system import files, paths
from nanochat.tokenizer import Tokenizer
from nanochat.train import checkpoint

ROOT = Path(__file__).resolve().parents[1]
WARM_UP_STEPS = 5  # compile, and are not counted


@dataclass(frozen=True)
class Result:
    """One training. Rates are medians over its steps after the first five."""

    tokens_per_second: float
    seconds: float  # of all its steps
    steps: int
    bpb: float | None = None
    stall_fraction: float | None = None
    mfu: float | None = None
    peak_bytes: int | None = None
    attention: str = ""  # what the side says that it uses


def child(command: list[str], environment: dict[str, str], cwd: Path) -> str:
    """Runs it to its end; what it said. RuntimeError with the last lines where it failed."""
    done = subprocess.run([sys.executable, *command], env={**os.environ, **environment}, cwd=cwd, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n" + "\n".join(done.stdout.splitlines()[-15:]))
    return done.stdout


def prepare(work: Path, data: Path | None, vocab_size: int, row_len: int, num_documents: int,
            scale: float = 1) -> None:
    """`work/ours` and `work/peer`: both sides' base folders with the same shards and tokenizer; `work/rows.pt`.

    `data` is a folder with `text/*.parquet`; None = the kindergarten's."""
    ours, peer = work / "ours", work / "peer"
    os.environ["NANOCHAT_BASE_DIR"] = str(ours)
    if data is None:
        child(["-m", "nanochat.dataset", "--source=kindergarten", f"--scale={scale}"], {}, ROOT)
        data = paths.data_dir()
    os.environ["NANOCHAT_DATA"] = str(data)
    child(["-m", "scripts.tok_train", f"--vocab_size={vocab_size}", "--digits=1"], {}, ROOT)
    tokenizer = Tokenizer.load(paths.tokenizer_dir())
    _give_to_peer(tokenizer, peer)
    train, held_out = shards.train_shards(), shards.validation_shards()
    (peer / "base_data_climbmix").mkdir(parents=True, exist_ok=True)
    for number, path in enumerate([*train, held_out[-1]]):  # the peer takes the last by name for validation
        link = peer / "base_data_climbmix" / f"shard_{number:05d}.parquet"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    whole = torch.full((num_documents, row_len + 1), -1, dtype=torch.int64)
    for row, text in zip(whole, shards.iter_texts(held_out), strict=False):
        ids = [tokenizer.bos_id, *tokenizer.encode(text)][:row_len + 1]
        row[:len(ids)] = torch.tensor(ids)
    torch.save({"ids": whole[:, :-1].masked_fill(whole[:, :-1] < 0, tokenizer.bos_id).contiguous(),
                "targets": whole[:, 1:].contiguous(), "token_bytes": torch.from_numpy(tokenizer.token_bytes())},
               work / "rows.pt")


def _give_to_peer(tokenizer: Tokenizer, peer: Path) -> None:
    """The same tokens as tiktoken keeps them, pickled, which is what the peer reads."""
    import tiktoken
    num_tokens = tokenizer.vocab_size - len(tokenizer.specials)
    ranks = {tokenizer.decode_bytes([token_id]): token_id for token_id in range(num_tokens)}
    encoding = tiktoken.Encoding("bench", pat_str=tokenizer.pattern, mergeable_ranks=ranks,
                                 special_tokens=tokenizer.specials)
    (peer / "tokenizer").mkdir(parents=True, exist_ok=True)
    (peer / "tokenizer/tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    torch.save(torch.from_numpy(tokenizer.token_bytes()), peer / "tokenizer/token_bytes.pt")


def ours(work: Path, seed: int, flags: list[str], measured: bool = True) -> Result:
    """scripts.base_train with these flags; with `measured`, its bits per byte on the rows."""
    said = child(["-m", "scripts.base_train", *flags, f"--seed={seed}", "--model_tag=bench", "--overwrite",
                  "--eval_every=-1", "--eval_tokens=4096"], {}, ROOT)
    lines = files.read_jsonl(paths.results_dir("base") / "metrics.jsonl")
    steady = lines[min(WARM_UP_STEPS, len(lines) - 1):]
    middle = lambda name: median(line[name] for line in steady) if name in steady[0] else None  # noqa: E731
    bpb = None
    if measured:
        rows = torch.load(work / "rows.pt", weights_only=True)
        model, _, _ = checkpoint.load_model("base", "bench")
        bpb = bits_per_byte(model, zip(rows["ids"].split(16), rows["targets"].split(16)), rows["token_bytes"])
    facts = files.read_json(paths.results_dir("base") / "run.json")
    tokens_per_step = facts["tokens"] / len(lines)
    seconds = sum(tokens_per_step / line["speed/tokens_per_second"] for line in lines)
    assert "interrupted" not in said
    attention = re.search(r"attention: (.+)", said)
    return Result(middle("speed/tokens_per_second"), seconds, len(lines), bpb, middle("speed/stall_fraction"),
                  middle("speed/mfu"), facts.get("peak_memory_bytes"), attention[1] if attention else "")


def peer(work: Path, checkout: Path, seed: int, flags: list[str], dtype: str = "", minutes: float | None = None,
         measured: bool = True) -> Result:
    """Its scripts.base_train with these flags. It knows no clock: for `minutes`, thirty steps say how many fit in."""
    environment = {"NANOCHAT_BASE_DIR": str(work / "peer"), "PYTHONPATH": ""}
    if dtype:
        environment["NANOCHAT_DTYPE"] = dtype
    program = [str(ROOT / "bench/peer.py"), str(checkout)]
    common = [*flags, "--model-tag=bench", "--eval-every=-1", "--core-metric-every=-1", "--sample-every=-1"]
    if minutes is not None:
        said = child([*program, "train", str(seed), *common, "--num-iterations=30"], environment, checkout)
        times = _step_seconds(said)
        common.append(f"--num-iterations={max(1, int(minutes * 60 / median(times[WARM_UP_STEPS:])))}")
    for old in (work / "peer/base_checkpoints/bench").glob("*"):  # else `measure` could take one of them
        old.unlink()
    said = child([*program, "train", str(seed), *common], environment, checkout)
    times, speeds = _step_seconds(said), re.findall(r"tok/sec: ([\d,]+)", said)
    mfu = [float(one) / 100 for one in re.findall(r"bf16_mfu: ([\d.]+)", said)]
    peak = re.search(r"peak bytes: (\d+)", said)
    bpb = None
    if measured:
        told = child([*program, "measure", str(work / "rows.pt"), "bench"],
                     {**environment, "NANOCHAT_DTYPE": "float32"}, checkout)
        bpb = float(re.search(r"bpb: ([\d.]+)", told)[1])
    steady = slice(min(WARM_UP_STEPS, len(speeds) - 1), None)
    return Result(median(int(one.replace(",", "")) for one in speeds[steady]), sum(times), len(times), bpb,
                  mfu=median(mfu[steady]) or None, peak_bytes=int(peak[1]) if peak else None,
                  attention="FlashAttention 3" if "Using Flash Attention 3" in said else "PyTorch's own order")


def peer_that_fits(work: Path, checkout: Path, seed: int, flags: list[str], rows: int, measured: bool) -> Result:
    """`peer` with as many rows at a time as fit: it dies where memory runs out, and its users halve them."""
    while True:
        try:
            return peer(work, checkout, seed, [*flags, f"--device-batch-size={rows}"], measured=measured)
        except RuntimeError as error:
            if "OutOfMemoryError" not in str(error) or rows == 1:
                raise
            rows //= 2


def _step_seconds(said: str) -> list[float]:
    return [float(one) / 1000 for one in re.findall(r"dt: ([\d.]+)ms", said)]
