"""The project about itself: imports point down, every documented command takes its flags, and the recipes go on where
they stopped."""
import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import tasks
from nanochat import dial, scale
from nanochat.data.hub import HUB
from nanochat.data.survey import survey
from nanochat.recipe import GPU_FLAGS, parse
from nanochat.system import gpus
from nanochat.system.files import UserError
from runs import laptop, realdata, speedrun
from scripts import base_train, mid_train

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (("system",), ("tokenizer", "model", "optim", "sandbox", "data"), ("formats",),
          ("kindergarten", "infer", "train", "figures", "run_folder", "budget", "markdown"),
          ("tasks", "model_card", "dial"), ("scale", "eval", "serve", "report", "dataset", "machine_speed"),
          ("plan", "recipe", "closing"), ("scripts", "runs"), ("course",))
TOP_ROOMS = ("kindergarten", "tasks", "scripts", "runs", "course")  # beside nanochat/
RECIPES = ("laptop", "realdata", "speedrun")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="the recipes are bash scripts")


def modules() -> list[Path]:
    return sorted(path for room in ("nanochat", *TOP_ROOMS) for path in (ROOT / room).rglob("*.py"))


def room_of(module: str) -> str | None:
    """`room_of("nanochat.data.shards")` → "data"; "" for `nanochat` alone, None for other people's modules."""
    first, *rest = module.split(".")
    if first == "nanochat":
        return rest[0] if rest else ""
    return first if first in TOP_ROOMS else None


def imports(path: Path) -> list[str]:
    """Every module a file imports, wherever the statement stands; `from nanochat import plan` is nanochat.plan."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room is meant"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def wrong_imports(room: str, imported: list[str]) -> list[str]:
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    return [one for one in imported if (other := room_of(one)) and other != room and level[other] >= level[room]]


def test_imports_point_down():
    wrong = []
    for path in modules():
        room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if room and room != "__init__":
            wrong += [f"{path.relative_to(ROOT)} imports {one}" for one in wrong_imports(room, imports(path))]
    assert not wrong, "\n".join(wrong)


def test_that_test_can_fail():
    assert wrong_imports("train", ["nanochat.infer.engine", "nanochat.optim", "torch"]) == ["nanochat.infer.engine"]
    assert wrong_imports("tasks", ["nanochat.eval", "kindergarten"]) == ["nanochat.eval"]


def test_no_script_imports_another_or_runs_at_import():
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Expr, ast.If)
    for path in sorted((ROOT / "scripts").glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [one for one in imports(path) if one.startswith("scripts")], path
        assert all(isinstance(node, allowed) for node in tree.body), path
        bare = [node for node in tree.body[1:] if isinstance(node, ast.Expr)]
        assert not bare, f"{path} line {bare and bare[0].lineno} runs at import"
        tests = [ast.unparse(node.test) for node in tree.body if isinstance(node, ast.If)]
        # A program that takes seconds to import may say so first, but only when it is run as a program.
        assert tests and all(test.startswith("__name__ == '__main__'") for test in tests), path
        mains = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
        assert mains and [arg.arg for arg in mains[0].args.args] == ["argv"], path


def test_every_file_has_its_line_in_the_tree():
    tree = (ROOT / "docs/design.md").read_text(encoding="utf-8").split("```")[1]
    files = [path for path in modules() if path.name != "__init__.py" and path.parts[len(ROOT.parts)] not in (
        "tasks", "scripts")]  # these are found by their names: one task, one command
    assert not [path for path in files if f"{path.name} " not in tree], "docs/design.md names every file"
    named = re.findall(r"([a-z_]+\.py)\b", tree)
    there = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    assert not [name for name in named if name not in there], "and no file that is gone"


def commands_in(text: str) -> list[list[str]]:
    """The words of every `python -m …`, torchrun and `bash ….sh` command in a text, from the program on."""
    found = []
    for match in re.finditer(r"(?:\bpython3? -m |\btorchrun )(?:[^\n`\\]|\\\n)*|\bbash \w[\w/]*\.sh[^\n`]*", text):
        line = re.split(r"\s(?:#|&&|\|\|?|>|<|→|  )|[;…)]|  ", match[0].replace("\\\n", " "))[0]
        words = [word for word in shlex.split(line.replace("[", "").replace("]", "")) if word not in ("\\",)]
        found.append(words)
    return found


def module_and_flags(words: list[str]) -> tuple[str, list[str]]:
    """(`scripts.base_train`, its flags) of a python or torchrun command; torchrun's own flags are dropped."""
    after = len(words) - words[::-1].index("-m")
    return words[after], words[after + 1:]


def test_commands_are_found():
    text = ("Run `python -m scripts.a -- --b=1` or\n    torchrun --standalone -m scripts.c -- --d  # why\n"
            " bash speedrun.sh --e 3")
    assert commands_in(text) == [["python", "-m", "scripts.a", "--", "--b=1"],
                                 ["torchrun", "--standalone", "-m", "scripts.c", "--", "--d"],
                                 ["bash", "speedrun.sh", "--e", "3"]]


def accepts(words: list[str], monkeypatch, capsys) -> str:
    """Why a documented command would not start, or ""."""
    module, flags = module_and_flags(words)
    if room_of(module) is None:
        return ""
    if importlib.util.find_spec(module) is None:
        return f"there is no module {module}"
    monkeypatch.setenv("NANOCHAT_PARSE_ONLY", "1")
    with pytest.raises(SystemExit) as exit_:
        importlib.import_module(module).main(flags)
    printed = capsys.readouterr()
    started = exit_.value.code == 0 and ("flags ok" in printed.out or "--help" in flags)
    return "" if started else printed.err.strip() or f"exit code {exit_.value.code} without a word"


def refused(commands: list[list[str]], monkeypatch, capsys) -> list[str]:
    return [f"{shlex.join(words)}: {why}" for words in commands if words[0] in ("python", "python3", "torchrun")
            if (why := accepts(words, monkeypatch, capsys))]


def docstrings() -> list[str]:
    return [ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in modules()]


def test_every_command_in_the_documents_takes_its_flags(monkeypatch, capsys):
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS] + docstrings()
    commands = [words for text in texts for words in commands_in(text) if "-m" in words[:-1]]
    assert len(commands) > 10
    assert not (wrong := refused(commands, monkeypatch, capsys)), "\n".join(wrong)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_command_in_a_recipe_takes_its_flags(recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("The kiln is warm. " * 500)
    (tmp_path / "mara.json").write_text('[{"messages": [{"role": "user", "content": "Hi"}, '
                                        '{"role": "assistant", "content": "I am Mara."}]}]')
    options = parse(["--depth=6", "--seed=3", f"--data={tmp_path}", f"--out={tmp_path}/out"], "",
                    **(GPU_FLAGS if recipe == "speedrun" else {}))
    stages = {"laptop": lambda: laptop.stages(options), "speedrun": lambda: speedrun.stages(options, ranks=8),
              "realdata": lambda: realdata.stages(options, survey(tmp_path), ranks=2)}[recipe]()
    commands = [["python", *stage.words()] for stage in stages]
    modules_ = [stage.module for stage in stages]
    for module in ("scripts.tok_train", "scripts.base_train", "scripts.mid_train", "scripts.chat_sft",
                   "nanochat.report"):
        assert module in modules_
    readers = [words for words in commands if re.search(r"base_(loss|eval)|mid_|chat_", " ".join(words))]
    assert all("d6" in " ".join(words) for words in readers), "an out folder may hold several depths"
    assert len({stage.name for stage in stages}) == len(stages), "a stage's record is found by its name"
    assert not (wrong := refused(commands, monkeypatch, capsys)), "\n".join(wrong)


@pytest.mark.parametrize("flags", [
    "--gpus=8xH100", "--gpus=8xH100 --depth=32", "--gpus=8xB200 --recipe=best --text=climbmix", "--gpus=1xA100",
    "--gpus=2xH200", "--gpus=4xRTX4090 --depth=12", "--gpus=3xH100 --depth=26", "--gpus=7xL40S --depth=12"])
def test_what_is_printed_for_gpus_would_start_there(flags, monkeypatch, capsys):
    """Every command takes its flags, the rows divide the step among the ranks, and a step fits the memory."""
    monkeypatch.delenv("NANOCHAT_DATA", raising=False)
    speedrun.main(["--dry-run", *flags.split()])
    printed = capsys.readouterr().out
    commands = [["python", *shlex.split(line, comments=True)[1:]] for line in printed.splitlines()
                if line.startswith(".venv/bin/python")]
    assert len(commands) > 20 and not (wrong := refused(commands, monkeypatch, capsys)), "\n".join(wrong)
    monkeypatch.delenv("NANOCHAT_PARSE_ONLY")
    ranks, gpu = re.match(r"--gpus=(\d+)x(\w+)", flags).groups()
    for script in (base_train, mid_train):
        words = next(words for words in commands if script.__name__ in words)
        args = script.flags(module_and_flags(words)[1])
        row_tokens = int(ranks) * 2048
        assert args.total_batch_size % (args.device_batch_size * row_tokens) == 0
        assert abs(args.total_batch_size / 2**19 - 1) < 0.1
    args = base_train.flags(module_and_flags(next(words for words in commands if "scripts.base_train" in words))[1])
    made = dial.make(args.depth, dial.PlanOptions(32_768 if "best" in flags else 65_536, num_iterations=1))
    assert scale.peak_bytes(made, args.device_batch_size, int(ranks)) <= gpus.find(gpu).memory_bytes
    named = {part.split("*")[0] for words in commands for word in words if word.startswith("--mixture=")
             for part in word.removeprefix("--mixture=").split(",")}
    assert named <= {*tasks.names(), *HUB, "talk"}, "a mixture is read after hours of training"


@pytest.mark.parametrize("flags, said", [
    ("--gpus=8xFoo", "8xFoo is unknown"), ("--gpus=16xH100", "docs/cloud.md"), ("--gpus=0xH100", "is unknown"),
    ("--gpus=4xH100 --depth=40", "d40 needs about"), ("--gpus=2xA10G --depth=32", "d32 needs about")])
def test_gpus_that_cannot_do_it_are_refused_before_anything_is_paid_for(flags, said):
    with pytest.raises(UserError, match=said):
        speedrun.main(["--dry-run", *flags.split()])


@pytest.mark.parametrize("name, num_bytes, dollars, rows", [
    ("NVIDIA H100 80GB HBM3", 85e9, 24.0, 32), ("NVIDIA B200", 191e9, None, 32), ("a GPU of tomorrow", 48e9, None, 16)])
def test_price_and_memory_are_those_of_the_gpu_that_is_there(name, num_bytes, dollars, rows, monkeypatch):
    printed = f"8 {num_bytes:.0f} {name}\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, printed))
    stages = speedrun.stages(parse([], "", **GPU_FLAGS), *speedrun.visible_gpus())
    assert stages[-1].flags["dollars_per_hour"] == dollars
    assert next(stage for stage in stages if stage.name == "base").flags["device_batch_size"] == rows


@needs_bash
def test_every_shell_command_in_the_documents_takes_its_flags(tmp_path):
    (tmp_path / "notes.txt").write_text("The kiln is warm. " * 500)
    commands = [words for path in DOCUMENTS for words in commands_in(path.read_text(encoding="utf-8"))]
    for _, script, *flags in (words for words in commands if words[0] == "bash"):
        assert (ROOT / script).is_file(), f"documented, but not there: bash {script}"
        if script == "speedrun.sh":
            flags = ["4" if flag == "N" else str(tmp_path) if flag == "DIR" or "/" in flag else flag for flag in flags]
            bash(f"bash {ROOT}/{script} {shlex.join([*flags, '--dry-run'])}")


def bash(command: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NANOCHAT_")}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={**kept, **environment})
    assert done.returncode == code, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    return done


@needs_bash
@pytest.mark.parametrize("flags, said", [
    ("--depht 4", "unknown flag --depht"), ("--depth=0", "too small"),
    ("--depth=four", "whole number"), ("--minutes=0", "too small"), ("--depth", "expected one argument"),
    ("--seed=-1", "too small"), ("stray", "'stray' follows no flag")])
def test_bad_flags_of_the_one_command(flags, said):
    done = bash(f"bash {ROOT}/speedrun.sh {flags}", code=2)
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1


@needs_bash
@pytest.mark.parametrize("flags, said", [
    ("--data={}/notse", "--data={}/notse does not exist"), ("--data={0} --out={0}", "is the --data folder"),
    ("--out={}", "holds diary.txt, which no run made"), ("--out={}/diary.txt", "is not a folder")])
def test_a_wrong_folder_is_found_before_the_install(flags, said, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    done = bash(f"bash {ROOT}/speedrun.sh {flags.format(tmp_path)}", code=2)
    assert said.format(tmp_path) in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout, "nothing was installed and nothing begun"


@needs_bash
def test_the_one_command_picks_the_recipe_and_knows_both_spellings(tmp_path):
    (tmp_path / "a_b").mkdir()
    (tmp_path / "a_b/notes.txt").write_text("The kiln is warm. " * 500)
    one = f"bash {ROOT}/speedrun.sh --dry-run"
    assert "--source=kindergarten" in bash(f"cd /; {one} --no_serve", CUDA_VISIBLE_DEVICES="").stdout
    assert f"--data={tmp_path}/a_b" in bash(f"cd {tmp_path}; {one} --data a_b").stdout
    assert f"--data={tmp_path}/a_b" in bash(one, NANOCHAT_DATA=f"{tmp_path}/a_b").stdout
    assert "--fresh" in bash(f"bash {ROOT}/speedrun.sh --help").stdout


@needs_bash
def test_the_hundred_dollar_run_is_priced_line_by_line_and_keeps_its_promise():
    printed = bash(f"bash {ROOT}/speedrun.sh --dry-run --gpus 8xH100").stdout
    costs = re.findall(r"# ([\d.]+) min, \$([\d.]+)$", printed, re.M)
    assert len(costs) == 1 + len(re.findall(r"^\.venv/bin/python ", printed, re.M)) > 20, "setup, and every command"
    minutes, hours, dollars = map(float, re.search(r"(\d+) min = ([\d.]+) h, \$(\d+); disk \d+ GB", printed).groups())
    assert minutes == pytest.approx(sum(float(cost[0]) for cost in costs), abs=2)
    assert dollars == pytest.approx(sum(float(cost[1]) for cost in costs), abs=1)
    assert hours <= 4 and dollars <= 100
    assert "--source=core" in printed and "scripts.base_eval -- --model_tag=d20 --core" in printed
    named = re.findall(r"--task_name=([\w|]+)", printed)
    assert named == ["arc_easy|arc_challenge|mmlu|gsm8k|humaneval|spelling|letters"] * 3
    gpus = "'8x NVIDIA H100 80GB HBM3'"  # PyTorch's name
    best = bash(f"bash {ROOT}/speedrun.sh --dry-run --recipe best --text climbmix --gpus {gpus}").stdout
    assert "--depth=24" in best and "--vocab_size=32768" in best and "--source=climbmix" in best
    assert float(re.search(r"= [\d.]+ h, \$(\d+)", best)[1]) <= 100
    assert "sum on 1 x A100" in (one := bash(f"bash {ROOT}/speedrun.sh --dry-run --gpus A100").stdout)
    assert "price unknown" in one and "torch.distributed" not in one
