"""A recipe is a list of stages. `run` starts them one after the other; started again, it continues where it stopped.

    def stages(options) -> list[Stage]: ...        runs/laptop.py, runs/realdata.py, runs/speedrun.py
    recipe.run("laptop", stages(options), options)

Each stage is a command of this project, which runs in its own process. A finished stage leaves OUT/stages/NAME.json
with its command and its seconds; OUT/run.json has the settings that the run was begun with. Other settings or changed
data are refused, because they would replace a finished model: `--fresh` starts over, `--out` keeps both. The lists of
stages are in runs/, the output at the end of a run in nanochat/closing.py.
"""
import os
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.run_folder import CHAT_PAGE, RunFolder
from nanochat.system import cli, paths
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.system.log import clock, say

FLAGS: dict[str, Any] = dict(
    depth=flag(-1, "number of layers; everything else follows from it; default: chosen by the recipe", at_least=1),
    data=flag("", "a folder of your own text and conversations (docs/data.md) instead of the built-in ones"),
    text=flag("", "the text to learn: on GPUs fineweb-edu (the default) or climbmix, on a laptop tinystories, which is "
              "real English beside the built-in lessons", choices=("", "fineweb-edu", "climbmix", "tinystories")),
    out=flag("", "the folder of everything that a run makes; default: out/ in the project"),
    minutes=flag(10.0, "with --data: about the training time of all stages; else scales the steps (10 take about "
                 "17 on two cores); below 1: a trial with less data and fewer exam items", at_least=0.01, at_most=1e6),
    seed=flag(1, "random seed of data, weights and samples", at_least=0),
    fresh=flag(False, "start over: first remove everything that an earlier run made in the out folder"),
    serve=flag(True, "open the chat page at the end"),
    unsafe_execution=flag(False, "run the programs that the model writes even if they cannot be isolated here"),
    dry_run=flag(False, "print the commands, run nothing"))
GPU_FLAGS: dict[str, Any] = dict(  # more flags of runs/speedrun.py, and of the command that picks a recipe
    gpus=flag("", "with --dry-run: the commands for these GPUs, with minutes and dollars, e.g. 8xH100"),
    recipe=flag("", "on GPUs: best = later findings for the same price: a deeper model trained on fewer tokens",
                choices=("", "best")),
    windows=flag(0, "on GPUs: attention window (preceding tokens) in three of four layers, e.g. 512; 0 = full "
                    "attention. Faster by counting FLOPs, not tried on a GPU", at_least=0))


@dataclass(frozen=True)
class Stage:
    """One command of a recipe: training, evaluation, data, report."""

    name: str
    module: str
    flags: dict[str, Any] = field(default_factory=dict)  # True and False are switches, None leaves the flag out
    seconds: float = 5.0  # duration on the machine of docs/LOG.md, for the estimate
    ranks: int = 1  # processes; more than one are started by torchrun
    every_time: bool = False  # run again at every start, because it is cheap and must show the newest results

    def seconds_here(self, slowness: float) -> float:
        """Seconds on a machine `slowness` times slower. A stage with --minutes trains equally long everywhere.

        >>> Stage("base", "scripts.base_train", dict(minutes=2), seconds=140).seconds_here(3)
        180.0
        """
        by_clock = 60.0 * (self.flags.get("minutes") or 0)
        return by_clock + slowness * (self.seconds - by_clock)

    def words(self) -> list[str]:
        """The command's arguments, without the interpreter.

        >>> Stage("base", "scripts.base_train", dict(depth=4, compile=False, resume=True, step=None)).words()
        ['-m', 'scripts.base_train', '--depth=4', '--no_compile', '--resume']
        """
        words = ["-m", self.module]
        if self.ranks > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.ranks}"]
            words = [*launcher, *words, "--"]
        for name, value in self.flags.items():
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no_{name}")
            elif value is not None:
                words.append(f"--{name}={value}")
        return words


def last_stages(source: str, tag: str, out: Path) -> list[Stage]:
    """The last stages of a recipe: the report, and the model of stage `source` as one HTML file ("" = no file)."""
    page = Stage("chat_page", "scripts.export", dict(
        source=source, model_tag=tag, to="page", out=out / CHAT_PAGE, overwrite=True), seconds=6)
    return [Stage("report", "nanochat.report", seconds=3, every_time=True), *([page] if source else [])]


def parse(argv: list[str] | None, doc: str | None, **more: Any) -> Namespace:
    """The flags of a recipe, with its own flags (`more`); folders are absolute paths, `data` is None if not given.
    UserError for a bad folder.

    NANOCHAT_BASE_DIR and NANOCHAT_DATA are the defaults of --out and --data.
    """
    options = cli.parse(argv, doc, **FLAGS, **more)
    options.out = absolute(options.out) if options.out else paths.base_dir()
    data = options.data or os.environ.get("NANOCHAT_DATA", "")
    options.data = absolute(data) if data else None
    options.depth = None if options.depth < 0 else options.depth
    if options.data and not options.data.exists():
        raise UserError(f"--data={data} does not exist; give a folder of text and conversations, or one file")
    if options.data and options.text:
        raise UserError(f"--text={options.text} and --data={data} both name the text; give one of them")
    if options.data == options.out:
        raise UserError(f"--out={options.out} is the --data folder; choose another folder for what the run makes")
    return options


def absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()  # a shell leaves ~ alone in --out=~/x


def is_trial(options: Namespace) -> bool:
    """Whether the run is a trial, which has less data, and few items of each exam."""
    return bool(options.minutes < 1)


def steps(options: Namespace, in_ten_minutes: int, work: float = 1.0) -> int:
    """Steps in proportion to --minutes, divided by `work`, the relative cost of a token; at least 2, so that a resumed
    run has a step to resume after.

    >>> steps(Namespace(minutes=5.0), 1000), steps(Namespace(minutes=0.01), 100)
    (500, 2)
    """
    return max(2, int(in_ten_minutes * options.minutes / 10 / work))


def print_commands(stages: list[Stage], out: Path, remark: Callable[[float], str] = lambda seconds: "") -> None:
    """Prints the commands for pasting into a shell; `remark`: seconds of a stage → text after its command."""
    print(f"cd {shlex.quote(str(paths.REPO))}")
    print(f"export NANOCHAT_BASE_DIR={shlex.quote(str(out))}")
    for stage in stages:
        print(shlex.join([".venv/bin/python", *stage.words()]) + remark(stage.seconds))


def run(name: str, stages: list[Stage], options: Namespace, fingerprint: str = "", slowness: float = 1.0) -> RunFolder:
    """Runs the stages that are not finished, or prints them for --dry-run; returns the folder with their records.

    `fingerprint` identifies the user's data. `slowness`: this machine's time relative to the machine of docs/LOG.md.
    UserError if a stage fails. An interruption ends with code 130, as soon as the running stage has saved its work.
    """
    if options.dry_run:
        print_commands(stages, options.out)
        return RunFolder(options.out)
    settings = {"recipe": name, "depth": options.depth, "minutes": options.minutes, "seed": options.seed,
                "data": fingerprint, "text": options.text or None}
    folder = RunFolder(options.out)
    try:
        with folder.claimed(settings, {stage.name: stage.words() for stage in stages}, options.fresh) as lock:
            folder.expect({stage.name: round(stage.seconds_here(slowness), 1) for stage in stages})
            _run_stages(stages, folder, lock, slowness)
    except KeyboardInterrupt:
        again = f"run the same command again{', without --fresh,' * options.fresh} to go on"
        print(f"\ninterrupted; {again}", file=sys.stderr)
        raise SystemExit(130) from None
    return folder


def _run_stages(stages: list[Stage], folder: RunFolder, lock: int | None, slowness: float) -> None:
    for number, stage in enumerate(stages, 1):
        title = f"== {stage.name} (stage {number} of {len(stages)}"
        if folder.is_done(stage.name) and not stage.every_time:
            say(f"{title}): done before")
            continue
        left = sum(later.seconds_here(slowness) for later in stages[number - 1:] if not folder.is_done(later.name))
        say(f"{title}, about {clock(left)} left): {shlex.join(['python', *stage.words()])}")
        _run_stage(stage, folder, lock)


def _run_stage(stage: Stage, folder: RunFolder, lock: int | None) -> None:
    words = folder.begin(stage.name, stage.words())
    began = time.monotonic()
    code = _run_process([sys.executable, *words], folder.path, lock)
    seconds = time.monotonic() - began
    if code:
        folder.add_seconds(stage.name, seconds)
    if code == 130:
        raise KeyboardInterrupt
    if code:  # a negative code is the number of the signal; 137 is a shell's code for SIGKILL
        why = "killed, perhaps because memory ran out" if code in (-signal.SIGKILL, 137) else f"exit code {code}"
        raise UserError(f"{stage.name} failed ({why}, see above); after fixing the cause run the same command again: "
                        "it continues from here")
    folder.finish(stage.name, words, seconds)


def _run_process(words: list[str], out: Path, lock: int | None) -> int:
    """Runs a command of the project; returns its exit code, 130 after an interruption."""
    # Without NANOCHAT_DATA: the stages read OUT/data, which the data stage has filled, also from the user's folder.
    environment = {name: value for name, value in os.environ.items() if name != "NANOCHAT_DATA"}
    # The child inherits the lock's descriptor, so the folder stays locked if only this process is killed. With
    # NANOCHAT_RECIPE it does not tell the user to add --resume when it is interrupted (system/cli.py).
    process = subprocess.Popen(words, cwd=paths.REPO, pass_fds=() if lock is None else (lock,),
                               env={**environment, "NANOCHAT_BASE_DIR": str(out), "NANOCHAT_RECIPE": "1"})
    # Ctrl-C reaches both processes from the terminal. These two signals may reach only this process, so they are passed
    # on: the stage then saves its work and ends with code 130. Signals that nohup ignores stay ignored.
    passed_on = [sign for sign in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(sign) != signal.SIG_IGN]
    before = {sign: signal.signal(sign, lambda *_: process.terminate()) for sign in passed_on}
    interrupted = False
    try:
        while True:
            try:
                code = process.wait()
                return 130 if interrupted or code == -signal.SIGINT else code
            except KeyboardInterrupt:
                interrupted = True  # keep waiting: the stage saves its work first
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
