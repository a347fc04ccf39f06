"""The $100 tier: d20 on 8×H100 in about four hours, by counted figures (docs/gpu.md; we have not run it yet).

    python -m runs.speedrun [--depth 20 --data DIR --help]
    bash speedrun.sh --dry-run --gpus 8xH100                   every command with its minutes and dollars, and the sum
    bash speedrun.sh --recipe best                             the same price with the findings of 2026: d24

One rank per GPU, however many there are. `--depth 26` is the $300 tier, `--depth 32` the $1000 tier
(python -m nanochat.plan --budget=300). The text is FineWeb-Edu, or ClimbMix (`--text climbmix`, with its licence).
Conversations and exams are SmolTalk, MMLU, GSM8K, ARC and HumanEval from the hub with the kindergarten's spelling and
small talk, or all those of --data DIR (docs/data.md). CORE's files come from where karpathy/nanochat publishes them.
"""
import shutil
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from typing import Any

from nanochat import budget, dial, recipe, sandbox, scale
from nanochat.dial import Plan, PlanOptions
from nanochat.recipe import Stage
from nanochat.system import cli, gpus
from nanochat.system.files import UserError
from nanochat.system.gpus import H100, Gpu
from nanochat.system.log import say

CHARACTERS_PER_TOKEN = 4.8  # FineWeb-Edu with our tokenizer of 65,536 tokens
CHARACTERS_PER_SHARD = 250e6  # karpathy/nanochat's shards of FineWeb-Edu
SHARD_GB = 0.1
# The exams of ChatCORE, and two that the kindergarten's lessons teach. The kindergarten's other exams are about its own
# world, of which a model of real text has not read.
EXAMS = "arc_easy|arc_challenge|mmlu|gsm8k|humaneval|spelling|letters"
# --recipe best: a better model for the price of the d20, by karpathy/nanochat's findings of 2026. The d20 reads 23
# tokens for each parameter that is multiplied; 8 to 12 are best. For this price its d24 reached CORE .2585, its d20
# .2219.
BEST_DEPTH, BEST_VOCABULARY, BEST_RATIO = 24, 32_768, 9.5  # tokens per parameter, embedding included
SETUP_SECONDS = 240  # bash setup.sh: 3 GB of packages
LAUNCH_SECONDS = 6e-6  # time that a GPU needs to start one operation
DECODE_OPERATIONS = 30  # operations per layer and token, counted in tests/model/test_gpt.py


def planned(options: Namespace, ranks: int = 8) -> Plan:
    """The depth's plan: its shape and how long base trains."""
    best = options.recipe == "best"
    chosen: dict[str, Any] = dict(vocab_size=BEST_VOCABULARY, target_param_data_ratio=BEST_RATIO) if best else {}
    # 2^19 tokens a step, or about as many if they do not divide among this number of GPUs.
    batch = scale.batch_for(dial.BATCH_TOKENS, dial.DEFAULTS.sequence_len, ranks)
    return dial.make(options.depth or (BEST_DEPTH if best else 20), PlanOptions(total_batch_tokens=batch, **chosen))


def data_stages(options: Namespace, made: Plan) -> list[Stage]:
    text, lessons = options.text or "fineweb-edu", options.out / "lessons"
    vocab_size = made.vocab_size if options.recipe == "best" else None
    # ---- Text. The tokenizer learns from two billion characters, which are in the first eight shards; the other shards
    # are not needed before base.
    plan_ = [Stage("data", "nanochat.dataset", dict(source=text, num_files=8), 60),
             Stage("tokenizer", "scripts.tok_train", dict(
                 max_chars=2_000_000_000, vocab_size=vocab_size, resume=True), 40),
             Stage("tok_eval", "scripts.tok_eval", {}, 20),
             Stage("more_data", "nanochat.dataset", dict(source=text, num_files=shards(made)),
                   shards(made) * SHARD_GB * 10)]  # 100 MB a second with four connections
    # ---- Conversations and exams, first in a folder of their own, then imported; and CORE, the exam of base models.
    if not options.data:
        plan_.append(Stage("lessons", "nanochat.dataset", dict(
            source="kindergarten", seed=options.seed, out=lessons), 20))
        plan_ += [Stage(source, "nanochat.dataset", dict(source=source, out=lessons), seconds) for source, seconds in
                  (("smoltalk", 60), ("mmlu", 40), ("gsm8k", 10), ("arc", 10), ("humaneval", 5), ("core", 20))]
    plan_.append(Stage("conversations", "nanochat.dataset", dict(
        data=options.data or lessons / "data", text=False), 60))
    return plan_


def stages(options: Namespace, ranks: int, gpu: Gpu = H100) -> list[Stage]:
    """The commands for `ranks` GPUs with their counted seconds. UserError for a model that does not fit."""
    made = planned(options, ranks)
    tag = f"d{made.n_layer}"
    rows = scale.rows_that_fit(made, ranks, gpu.memory_bytes)
    if (needed := scale.peak_bytes(made, rows, ranks)) > gpu.memory_bytes:
        raise UserError(f"{tag} needs about {needed / 1e9:.0f} GB on each of {ranks} GPUs, and a {gpu.name} has "
                        f"{gpu.memory_bytes / 1e9:.0f} to use: a smaller --depth, or more GPUs")
    step, slower = scale.step_seconds(made, ranks, gpu), H100.peak_flops / gpu.peak_flops
    # Given only if it is not the scripts' default, so that the usual commands stay short.
    batch = dict(total_batch_size=made.total_batch_tokens if made.total_batch_tokens != dial.BATCH_TOKENS else None)
    shared = dict(seed=options.seed, resume=True)
    later = dict(source_tag=tag, **shared)
    # With --data: everything in the folder, and RL on its word problems if it has some.
    middle = fine = ""
    practice = "gsm8k" if not options.data or (options.data / "gsm8k").is_dir() else "problems"
    exam_names = None
    if not options.data:
        # MMLU and GSM8K several times, as karpathy/nanochat's sweeps of 2026 found best: they are small beside SmolTalk
        # and carry the letters and the tool. Small talk twice: it carries the name.
        middle = "smoltalk,mmlu*3,gsm8k*4,spelling,letters,talk*2"
        # SFT is short: a thirtieth of SmolTalk is as long as all the other sources together.
        fine = "smoltalk*0.03,arc_easy,arc_challenge,gsm8k,spelling*0.1,letters*0.1,talk"
        exam_names = EXAMS
        if not options.dry_run and not options.unsafe_execution and not sandbox.can_isolate():
            exam_names = EXAMS.replace("|humaneval", "")  # its answers are programs

    def exams(stage: str) -> Stage:
        return Stage(f"chat_eval_{stage}", "scripts.chat_eval", dict(
            source=stage, model_tag=tag, task_name=exam_names, unsafe_execution=options.unsafe_execution or None),
            60 + 480 * slower / ranks, ranks)

    plan_ = data_stages(options, made)
    # ---- Base: nearly all of the time and money. As many rows at a time as fit. A checkpoint every 1,000 steps is one
    # every nine minutes. Validation on 10 million tokens: with 262,144 its noise hides what a change brings.
    validation = 9 + 20 * step / 3  # a forward pass over 20 steps' tokens, and reading them
    base = dict(depth=made.n_layer, windows=options.windows or None, device_batch_size=rows, **batch, eval_every=1000,
                eval_tokens=10_485_760, save_every=1000)
    ratio = dict(target_param_data_ratio=BEST_RATIO) if options.recipe == "best" else {}
    plan_ += [Stage("base", "scripts.base_train", {**base, **ratio, **shared},
                    180 + made.steps * step + (made.steps // 1000 + 1) * validation, ranks),
              Stage("base_loss", "scripts.base_loss", dict(model_tag=tag), 40, ranks),
              Stage("base_eval", "scripts.base_eval", dict(model_tag=tag, core=not options.data or None),
                    80 + 37 * step, ranks)]
    # ---- Mid has base's shapes, so that it reuses compiled code. SFT and RL are too short to gain from compiling.
    plan_ += [Stage("mid", "scripts.mid_train", dict(
                  mixture=middle or None, device_batch_size=rows, **batch, save_every=200, **later),
                  180 + 910 * step, ranks),
              exams("mid"),
              Stage("sft", "scripts.chat_sft", dict(
                  mixture=fine or None, compile=False, save_every=200, **later),
                  80 + 400 * (0.12 + step / 16), ranks),
              exams("sft"),
              # RL: small rates for embedding and head were decisive in docs/LOG.md; these are the October release's.
              Stage("rl", "scripts.chat_rl", dict(
                  task=practice, compile=False, embedding_lr=0.2, head_lr=0.004, save_every=60, **later),
                  60 + 467 * (256 * (DECODE_OPERATIONS * made.n_layer + 50) * LAUNCH_SECONDS + 0.3 + step / 4), ranks),
              exams("rl")]
    dollars = dict(dollars_per_hour=gpu.dollars_per_hour * ranks if gpu.dollars_per_hour else None)
    return [*plan_, Stage("report", "nanochat.report", dollars, 10, every_time=True)]


def shards(made: Plan) -> int:
    """The number of text shards that a plan reads, with a tenth to spare and four for validation.

    >>> shards(dial.make(20))
    240
    """
    return int(made.tokens * CHARACTERS_PER_TOKEN / CHARACTERS_PER_SHARD * 1.1) + 4


def disk_gigabytes(made: Plan) -> float:
    """The most disk space that the run needs: the shards, four finished models of fp32 weights, and two checkpoints
    with weights and two moments, while a stage writes a checkpoint beside the previous one.

    >>> round(disk_gigabytes(dial.make(20)))
    80
    """
    return shards(made) * SHARD_GB + (4 + 2 * 3) * scale.gradient_bytes(made) / 1e9


def check_disk(options: Namespace) -> None:
    """Prints how much disk space the run needs. UserError if less is free, before anything is paid for."""
    needed = disk_gigabytes(planned(options))
    existing = next(folder for folder in (options.out, *options.out.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    made = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file()) / 1e9
    say(f"disk: about {needed:.0f} GB needed in {options.out}, {made:.0f} GB there already, {free:.0f} GB free")
    if free + made < needed:
        raise UserError(f"{options.out} has {free:.0f} GB free, and the run needs {needed - made:.0f} GB more: choose "
                        "another folder with --out, or a smaller model with --depth")


def name_of(options: Namespace) -> str:
    """The run's name in its folder: another recipe, text or width of windows is another run."""
    windows = f"windows{options.windows}" if options.windows else ""
    return "-".join(filter(None, ("speedrun", options.recipe, options.text, windows)))


def visible_gpus() -> tuple[int, Gpu]:
    """(the number of GPUs that PyTorch sees, the table's figures for the first); CUDA_VISIBLE_DEVICES counts.

    A GPU that is not in the table of system/gpus.py is counted like an H100, but without a price.
    """
    # With a driver that is too old PyTorch counts the GPUs but cannot use them, so `is_available` is asked first.
    code = ("from torch import cuda\nif cuda.is_available():\n    first = cuda.get_device_properties(0)\n"
            "    print(cuda.device_count(), first.total_memory, first.name)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    if not done.stdout.strip():
        return 0, H100
    count, memory, name = done.stdout.strip().split(maxsplit=2)
    gpu = replace(gpus.find(name) or replace(H100, dollars_per_hour=None), name=name)
    return int(count), replace(gpu, memory_bytes=0.91 * int(memory))  # CUDA, NCCL and gaps take 9 %


def print_for(options: Namespace, spec: str) -> None:
    """The commands for e.g. "8xH100" with minutes and dollars, and their sum. UserError for GPUs that are unknown."""
    machine = budget.machine(spec)
    ranks, hourly = machine.count, machine.dollars_per_gpu_hour and machine.dollars_per_gpu_hour * machine.count
    # torchrun --standalone, which the commands use, starts the ranks of one machine.
    if ranks > scale.GPUS_PER_MACHINE:
        raise UserError(f"--gpus={spec}: the recipe starts its ranks on one machine, of at most "
                        f"{scale.GPUS_PER_MACHINE} GPUs; docs/cloud.md has the commands for several machines, and "
                        "python -m nanochat.plan --scale their speed")
    gpu, made = gpus.find(machine.name), planned(options, ranks)
    assert gpu, "a machine's name is one of the table"
    commands = stages(options, ranks, gpu)

    def remark(seconds: float) -> str:
        return f"  # {seconds / 60:.1f} min" + (f", ${seconds / 3600 * hourly:.2f}" if hourly else "")

    print(f"bash setup.sh{remark(SETUP_SECONDS)}")
    recipe.print_commands(commands, options.out, remark)
    seconds = SETUP_SECONDS + sum(stage.seconds for stage in commands)
    print(f"# sum on {ranks} x {gpu.name}: {seconds / 60:.0f} min = {seconds / 3600:.2f} h, "
          f"{f'${seconds / 3600 * hourly:.0f}' if hourly else 'price unknown'}; "
          f"disk {disk_gigabytes(made):.0f} GB; {budget.expectation(made.flops)}")
    parts = ", ".join(f"{name} {value:.0f}" for name, value in scale.milliseconds(made, ranks, gpu).items())
    print(f"# a step of base, counted: {1000 * scale.step_seconds(made, ranks, gpu):.0f} ms ({parts}). "
          "No GPU has run this yet.")


def announce_licence(options: Namespace) -> None:
    if options.text == "climbmix":
        from nanochat.data.hub import HUB  # imports packages that --dry-run must not need
        say(HUB["climbmix"].note)


def main(argv: list[str] | None = None) -> None:
    options = recipe.parse(argv, __doc__, **recipe.GPU_FLAGS)
    if options.dry_run:
        print_for(options, options.gpus or "8xH100")
        return
    ranks, gpu = visible_gpus()
    if not ranks:
        raise UserError("there is no GPU here; the recipe for this machine is: python -m runs.laptop")
    announce_licence(options)
    recipe.run(name_of(options), stages(options, ranks, gpu), options)


if __name__ == "__main__":
    cli.run(main)
