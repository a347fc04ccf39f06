"""`bash speedrun.sh`: picks the recipe that fits this machine and data, runs it, shows what came out, opens the chat.

    bash speedrun.sh                         no GPU: the laptop's recipe; GPUs: the $100 recipe, one rank for each
    bash speedrun.sh --data DIR              your own text and conversations (docs/data.md)
    bash speedrun.sh --text tinystories --minutes 60     the laptop's recipe on real English (TinyStories, from the hub)
    bash speedrun.sh --minutes 0.3 --no-serve --out /tmp/trial       every stage in a trial of a few minutes

Stop it whenever you like (Ctrl-C, kill, power cut) and run the same command again: it goes on from the last checkpoint
and repeats no finished stage.
"""
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from nanochat import recipe
from nanochat.recipe import Stage
from nanochat.run_folder import RunFolder
from nanochat.system import cli
from nanochat.system.files import UserError
from nanochat.system.log import clock, say
from runs import laptop, speedrun

if TYPE_CHECKING:
    from nanochat.data.survey import Survey
# Modules that need installed packages are imported where they are used: --help and --dry-run work without .venv.


def main(argv: list[str] | None = None) -> None:
    options = recipe.parse(argv, __doc__)
    gpus, gpu_name = gpus_for_training(options.dry_run)
    found = read_survey(options) if options.data else None
    name, stages = choose(options, gpus, found)
    if options.dry_run:
        recipe.print_commands(stages, options.out)
        return
    from nanochat import closing
    from nanochat.system import hardware
    where = f"{gpus} × {gpu_name}" if gpus else f"{hardware.usable_cores()} cores, no GPU"
    say(f"nanochat: the {name} recipe on {where}; everything goes into {options.out}")
    if found:
        say(found.table())
    announce_isolation(options)
    if name == "speedrun":
        speedrun.check_disk(options)
    factor = 1.0 if gpus else announce_time(stages, RunFolder(options.out), options)
    folder = recipe.run(name, stages, options, fingerprint=found.fingerprint if found else "", slowness=factor)
    closing.show(folder, has_own_conversations=bool(found and found.conversations))
    if options.serve:
        closing.serve(folder)


def read_survey(options: Namespace) -> "Survey":
    """What lies in the --data folder. UserError where nothing of it can be read."""
    try:
        from nanochat.data.survey import survey
    except ModuleNotFoundError as error:
        raise UserError(f"--data needs {error.name}, which is not installed yet; run: bash setup.sh") from None
    # Only the folder of a run may keep notes of an earlier survey, which spare reading unchanged files again.
    notes = options.out / "data/survey.json" if (options.out / "run.json").exists() and not options.dry_run else None
    found = survey(options.data, passed_over=(options.out,), cache=notes)
    if not found.texts and not found.conversations:
        raise UserError(f"--data={options.data} holds no text and no conversations that can be read (docs/data.md)\n"
                        f"{found.table()}")
    return found


def choose(options: Namespace, gpus: int, found: "Survey | None") -> tuple[str, list[Stage]]:
    """(the recipe's name, its stages) for these flags, so many GPUs, and what lies in the --data folder."""
    if found:
        from runs import realdata
        return "realdata", realdata.stages(options, found, max(1, gpus))
    if gpus and not options.text:
        return "speedrun", speedrun.stages(options, gpus)
    return "laptop", laptop.stages(options)


def gpus_for_training(dry_run: bool) -> tuple[int, str]:
    """(number, name) of the GPUs to train on. UserError where the machine has GPUs that PyTorch cannot use: the
    laptop's recipe on a rented node would be an expensive mistake.

    CUDA_VISIBLE_DEVICES= (empty) or NANOCHAT_ALLOW_CPU=1 says that the processor is meant.
    """
    listed = driver_gpus()
    meant_for_cpu = os.environ.get("CUDA_VISIBLE_DEVICES") == "" or os.environ.get("NANOCHAT_ALLOW_CPU") == "1"
    if not listed or meant_for_cpu:
        return 0, ""
    if dry_run and not can_import_torch():
        print("# PyTorch is not installed yet (bash setup.sh), so whether it can use the GPU is not known. "
              "These are the commands if it can:")
        return len(listed), listed[0]
    gpus, name = speedrun.visible_gpus()
    if not gpus:
        raise UserError(f"this machine has {len(listed)} × {listed[0]}, and PyTorch cannot use it: the driver is older "
                        "than PyTorch's CUDA, or a CPU build is installed. Update the driver, or remove .venv and run "
                        "bash setup.sh (NANOCHAT_TORCH_INDEX names PyTorch's index for your CUDA version). To train on "
                        "the processor all the same: NANOCHAT_ALLOW_CPU=1 bash speedrun.sh")
    return gpus, name


def driver_gpus() -> list[str]:
    """The GPUs that the NVIDIA driver lists, by name; none where there is no driver, or it does not answer."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    try:
        printed = subprocess.run([program, "-L"], capture_output=True, encoding="utf-8",
                                 errors="replace", timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.split(":", 1)[1].split("(UUID")[0].strip() for line in printed.splitlines()
            if line.startswith("GPU ") and ":" in line]


def can_import_torch() -> bool:
    return not subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode


def announce_isolation(options: Namespace) -> None:
    """Says at the start, not after the base model, what happens to programs that the model writes."""
    from nanochat import sandbox
    if sandbox.can_isolate():
        return
    say("programs that the model writes cannot be isolated on this machine (it lacks Landlock or seccomp): "
        + ("they run all the same, because of --unsafe_execution" if options.unsafe_execution else
           "the exams that run programs are left out. Chat and calculator work. To take those exams all the same: "
           "--unsafe_execution"))


def announce_time(stages: list[Stage], folder: RunFolder, options: Namespace) -> float:
    """Measures this machine and says how long the rest of the run will take; its time over that of docs/LOG.md's."""
    if folder.path.exists() and not options.fresh:
        stages = [stage for stage in stages if not folder.is_done(stage.name)]
    if len(stages) <= 1:  # nothing but the report
        return 1.0
    from nanochat.machine_speed import slowness
    factor = slowness()
    say(f"{len(stages)} stages, about {clock(factor * sum(stage.seconds for stage in stages))} here "
        f"(measured: a training step takes {factor:.1f} times as long as on the machine of docs/LOG.md)")
    return factor


if __name__ == "__main__":
    cli.run(main)
