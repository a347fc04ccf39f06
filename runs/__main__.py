"""`bash speedrun.sh`: picks the recipe for this machine and data, runs it, shows the results, opens the chat.

    bash speedrun.sh                         no GPU: the laptop's recipe; GPUs: the $100 recipe, one rank for each
    bash speedrun.sh --data DIR              your own text and conversations (docs/data.md)
    bash speedrun.sh --text tinystories --minutes 60     the laptop's recipe on real English (TinyStories, from the hub)
    bash speedrun.sh --minutes 0.3 --no-serve --out /tmp/trial       every stage in a trial of a few minutes

It may be stopped at any moment (Ctrl-C, kill, power cut): the same command then continues from the last checkpoint and
repeats no finished stage.
"""
import contextlib
import importlib.util
import os
import re
import subprocess
from argparse import Namespace
from typing import TYPE_CHECKING

from nanochat import recipe
from nanochat.recipe import Stage
from nanochat.run_folder import RunFolder
from nanochat.system import cli, files
from nanochat.system.files import UserError
from nanochat.system.gpus import H100, Gpu, find
from nanochat.system.log import clock, say
from runs import laptop, speedrun

if TYPE_CHECKING:
    from nanochat.data.survey import Survey
# Modules that need installed packages are imported where they are used: --help and --dry-run work without .venv.


def main(argv: list[str] | None = None) -> None:
    options = recipe.parse(argv, __doc__, **recipe.GPU_FLAGS)
    if os.environ.get("NANOCHAT_CHECK_ONLY"):  # speedrun.sh: a wrong flag or folder must not cost an install
        RunFolder(options.out).refuse_foreign()
        return
    if options.gpus and (options.data or not options.dry_run):
        raise UserError("--gpus is for --dry-run, without --data; a run takes the GPUs that are there "
                        "(CUDA_VISIBLE_DEVICES chooses among them)")
    on_laptop = options.text == "tinystories"
    for_gpus = options.recipe or options.windows or options.text and not on_laptop
    if options.data and for_gpus:
        raise UserError("--recipe and --windows belong to the run on the hub's text: leave them out, or --data")
    if options.gpus or options.dry_run and for_gpus:
        speedrun.print_for(options, options.gpus or "8xH100")
        return

    # ---- Which recipe. A GPU that PyTorch cannot use is an error: the laptop's recipe would waste a rented machine.
    gpus, gpu = gpus_for_training(options.dry_run)
    found = read_survey(options) if options.data else None
    if found:
        from runs import realdata
        name, stages = "realdata", realdata.stages(options, found, max(1, gpus))
    elif gpus and not on_laptop:
        name, stages = speedrun.name_of(options), speedrun.stages(options, gpus, gpu)
    elif for_gpus:
        raise UserError("--recipe, --windows and --text other than tinystories are for GPUs; without one: "
                        "--text tinystories alone, or --data DIR (docs/data.md)")
    else:
        name, stages = "laptop", laptop.stages(options)
    if options.dry_run:
        recipe.print_commands(stages, options.out)
        return

    # ---- What will happen: messages at the start, not after the hours of the base model.
    from nanochat import closing, sandbox
    from nanochat.system.container import usable_cores
    where = f"{gpus} × {gpu.name}" if gpus else f"{usable_cores()} cores, no GPU"
    say(f"nanochat: the {name} recipe on {where}; everything goes into {options.out}")
    if found:
        say(found.table())
        if changes := found.changes_since(files.read_object(options.out / "data/imported.json")):
            say(f"  since this run has read the folder: {changes}")
    if not sandbox.can_isolate():
        say("programs that the model writes cannot be isolated on this machine (it lacks Landlock or seccomp): "
            + ("they run all the same, because of --unsafe_execution" if options.unsafe_execution else
               "the exams that run programs are left out. Chat and calculator work. To take those exams all the same: "
               "--unsafe_execution"))
    if name.startswith("speedrun"):
        speedrun.announce_licence(options)
        speedrun.check_disk(options)
    factor = 1.0 if gpus else announce_time(stages, RunFolder(options.out), options)

    # ---- The run with its page /run, then the chat. Every finished stage is kept, whatever happens later.
    trains = options.fresh or not all(RunFolder(options.out).is_done(stage.name) for stage in stages)
    with closing.page_of_the_run(options.out) if options.serve and trains else contextlib.nullcontext():
        folder = recipe.run(name, stages, options, fingerprint=found.fingerprint if found else "", slowness=factor)
    closing.show(folder, has_own_conversations=bool(found and found.conversations))
    if options.serve:
        closing.serve(folder)


def read_survey(options: Namespace) -> "Survey":
    """The content of the --data folder. UserError if no file of it can be read."""
    try:
        from nanochat.data.survey import survey
    except ModuleNotFoundError as error:
        raise UserError(f"--data needs {error.name}, which is not installed yet; run: bash setup.sh") from None
    # Verdicts of an earlier survey spare reading unchanged files again. Only the folder of a run may hold them.
    notes = options.out / "data/survey.json" if (options.out / "run.json").exists() and not options.dry_run else None
    found = survey(options.data, skipped_folders=(options.out,), cache=notes)
    if not found.texts and not found.conversations:
        raise UserError(f"--data={options.data} holds no text and no conversations that can be read (docs/data.md)\n"
                        f"{found.table()}")
    return found


def gpus_for_training(dry_run: bool) -> tuple[int, Gpu]:
    """(the number of GPUs to train on, their kind). UserError if the machine has GPUs that PyTorch cannot use.

    CUDA_VISIBLE_DEVICES= (empty) or NANOCHAT_ALLOW_CPU=1 asks for training on the CPU.
    """
    listed = driver_gpus()
    meant_for_cpu = os.environ.get("CUDA_VISIBLE_DEVICES") == "" or os.environ.get("NANOCHAT_ALLOW_CPU") == "1"
    if not listed or meant_for_cpu:
        return 0, H100
    if dry_run and importlib.util.find_spec("torch") is None:
        print("# PyTorch is not installed yet (bash setup.sh), so whether it can use the GPU is not known. "
              "These are the commands if it can:")
        return len(listed), find(listed[0]) or H100
    gpus, gpu = speedrun.visible_gpus()
    if not gpus:
        raise UserError(f"this machine has {len(listed)} × {listed[0]}, and PyTorch cannot use it: the driver is older "
                        "than PyTorch's CUDA, or a CPU build is installed. Update the driver, or remove .venv and run "
                        "bash setup.sh (NANOCHAT_TORCH_INDEX names PyTorch's index for your CUDA version). To train on "
                        "the processor all the same: NANOCHAT_ALLOW_CPU=1 bash speedrun.sh")
    return gpus, gpu


def driver_gpus() -> list[str]:
    """The names of the GPUs that the NVIDIA driver lists; [] if there is no driver, or it does not answer."""
    try:
        printed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", errors="replace",
                                 timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU \d+: (.*?)(?: \(UUID.*)?$", printed, re.MULTILINE)


def announce_time(stages: list[Stage], folder: RunFolder, options: Namespace) -> float:
    """Prints how long the rest of the run will take; returns a step's time here relative to docs/LOG.md's machine."""
    if folder.path.exists() and not options.fresh:
        stages = [stage for stage in stages if not folder.is_done(stage.name)]
    if len(stages) <= 1:  # only the report is left
        return 1.0
    from nanochat.machine_speed import slowness
    factor = slowness()
    say(f"{len(stages)} stages, about {clock(sum(stage.seconds_here(factor) for stage in stages))} here "
        f"(measured: a training step takes {factor:.1f} times as long as on the machine of docs/LOG.md)")
    return factor


if __name__ == "__main__":
    cli.run(main)
