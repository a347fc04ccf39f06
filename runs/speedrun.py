"""The $100 tier: d20 on 8×H100 in about four hours, by the published figures (not run by us yet).

    python -m runs.speedrun [--depth 20 --data DIR --help]

One rank per GPU, however many there are. `--depth 26` is the $300 tier, `--depth 32` the $1000 tier
(python -m nanochat.plan --budget=300). The text is FineWeb-Edu. Conversations and exams are SmolTalk, MMLU, GSM8K, ARC
and HumanEval from the hub with the kindergarten's spelling and small talk, or all those of --data DIR (docs/data.md).
"""
import shutil
import subprocess
import sys
from argparse import Namespace

from nanochat import plan, recipe
from nanochat.recipe import Stage
from nanochat.system import cli
from nanochat.system.files import UserError
from nanochat.system.log import say

CHARACTERS_PER_TOKEN = 4.8  # of FineWeb-Edu with our tokenizer of 65,536
CHARACTERS_PER_SHARD = 250e6
SHARD_GB = 0.1


def stages(options: Namespace, ranks: int) -> list[Stage]:
    depth, tag = options.depth or 20, f"d{options.depth or 20}"
    lessons = options.out / "lessons"
    shared = dict(seed=options.seed, resume=True)
    later = dict(source_tag=tag, **shared)
    # Your own folder: everything in it, and RL on its word problems where it has some.
    middle = fine = ""
    practice = "gsm8k" if not options.data or (options.data / "gsm8k").is_dir() else "problems"
    if not options.data:
        # GSM8K and small talk twice: they are small beside SmolTalk, and carry the tool and the name.
        middle = "smoltalk,mmlu,gsm8k*2,spelling,letters,talk*2"
        # SFT is short: a thirtieth of SmolTalk is as long as all the rest together.
        fine = "smoltalk*0.03,arc_easy,arc_challenge,gsm8k,spelling*0.1,letters*0.1,talk"

    def exams(stage: str) -> Stage:
        return Stage(f"chat_eval_{stage}", "scripts.chat_eval", dict(source=stage, model_tag=tag), 220, ranks)

    # ---- Text. The tokenizer learns from two billion characters, which are in the first eight shards; the other shards
    # are needed only from base on.
    plan_ = [Stage("data", "nanochat.dataset", dict(source="fineweb-edu", num_files=8), 60),
             Stage("tokenizer", "scripts.tok_train", dict(max_chars=2_000_000_000, resume=True), 60),
             Stage("tok_eval", "scripts.tok_eval", {}, 20),
             Stage("more_data", "nanochat.dataset", dict(source="fineweb-edu", num_files=shards(depth)), 330)]
    # ---- Conversations and exams, in a folder of their own, then beside the text.
    if not options.data:
        plan_.append(Stage("lessons", "nanochat.dataset", dict(source="kindergarten", seed=options.seed, out=lessons)))
        plan_ += [Stage(source, "nanochat.dataset", dict(source=source, out=lessons), 40)
                  for source in ("smoltalk", "mmlu", "gsm8k", "arc", "humaneval")]
    plan_.append(Stage("conversations", "nanochat.dataset", dict(data=options.data or lessons / "data", text=False)))
    # ---- Base: nearly all of the time and money. A checkpoint every 1,000 steps is one every ten minutes.
    plan_ += [Stage("base", "scripts.base_train", dict(depth=depth, save_every=1000, **shared), 12800, ranks),
              Stage("base_loss", "scripts.base_loss", dict(model_tag=tag), 60, ranks),
              Stage("base_eval", "scripts.base_eval", dict(model_tag=tag), 60, ranks)]
    # ---- Mid, SFT, RL. 16 rows: conversations are learnt at half of base's rows, which leaves room for their moments.
    plan_ += [Stage("mid", "scripts.mid_train", dict(
                  mixture=middle or None, device_batch_size=16, save_every=200, **later), 840, ranks), exams("mid"),
              Stage("sft", "scripts.chat_sft", dict(mixture=fine or None, save_every=200, **later), 300, ranks),
              exams("sft"),
              Stage("rl", "scripts.chat_rl", dict(task=practice, save_every=60, **later), 1980, ranks), exams("rl")]
    return [*plan_, Stage("report", "nanochat.report", dict(dollars_per_hour=3 * ranks), 3, every_time=True)]


def shards(depth: int) -> int:
    """How many shards of text a depth reads: 20 tokens a parameter, a tenth to spare and four for validation.

    >>> shards(20)
    240
    """
    return int(plan.make(depth).tokens * CHARACTERS_PER_TOKEN / CHARACTERS_PER_SHARD * 1.1) + 4


def disk_gigabytes(depth: int) -> float:
    """What the run leaves on disk at its fullest: the shards, four finished models of fp32 weights, and three times
    the weights with their moments while a stage writes a checkpoint beside the one before.

    >>> round(disk_gigabytes(20))
    80
    """
    made = plan.make(depth)
    parameters = made.num_params + made.vocab_size * made.n_embd * (depth // 2)  # every other layer's value embedding
    return shards(depth) * SHARD_GB + 4 * parameters * 4 / 1e9 + 2 * 3 * parameters * 4 / 1e9


def check_disk(options: Namespace) -> None:
    """Says how much of the disk the run needs. UserError where less is free, before anything is paid for."""
    needed = disk_gigabytes(options.depth or 20)
    existing = next(folder for folder in (options.out, *options.out.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    made = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file()) / 1e9
    say(f"disk: about {needed:.0f} GB needed in {options.out}, {made:.0f} GB there already, {free:.0f} GB free")
    if free + made < needed:
        raise UserError(f"{options.out} has {free:.0f} GB free, and the run needs {needed - made:.0f} GB more: choose "
                        "another folder with --out, or a smaller model with --depth")


def visible_gpus() -> tuple[int, str]:
    """(number, name) of the GPUs that PyTorch sees; CUDA_VISIBLE_DEVICES counts. (0, "") where there is none."""
    # A driver that is too old still counts its GPUs, but cannot compute on them: `is_available` is asked first.
    code = ("from torch import cuda\n"
            "if cuda.is_available(): print(cuda.device_count(), cuda.get_device_name(0))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    words = done.stdout.split(maxsplit=1)
    return (int(words[0]), words[1].strip()) if words else (0, "")


def main(argv: list[str] | None = None) -> None:
    options = recipe.parse(argv, __doc__)
    if options.dry_run:
        recipe.print_commands(stages(options, ranks=8), options.out)
        return
    ranks, _ = visible_gpus()
    if not ranks:
        raise UserError("there is no GPU here; the recipe for this machine is: python -m runs.laptop")
    recipe.run("speedrun", stages(options, ranks), options)


if __name__ == "__main__":
    cli.run(main)
