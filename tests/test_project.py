"""The project about itself: imports point down, every documented command takes its flags, and the recipes go on where
they stopped."""
import ast
import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (("system",), ("tokenizer", "model", "optim", "sandbox", "data"),
          ("kindergarten", "infer", "train", "figures"), ("tasks",), ("plan", "eval", "serve", "report", "dataset"),
          ("scripts",))
TOP_ROOMS = ("kindergarten", "tasks", "scripts")  # beside nanochat/
RECIPES = ("laptop", "realdata", "speedrun")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
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
        assert tests == ["__name__ == '__main__'"], path
        mains = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
        assert mains and [arg.arg for arg in mains[0].args.args] == ["argv"], path


def commands_in(text: str) -> list[list[str]]:
    """The words of every `python -m …`, torchrun and `bash ….sh` command in a text, from the program on."""
    found = []
    for match in re.finditer(r"(?:\bpython3? -m |\btorchrun )(?:[^\n`\\]|\\\n)*|\bbash \w[\w/]*\.sh[^\n`]*", text):
        line = re.split(r"\s(?:#|&&|\|\|?|>|→|  )|[;…)]|  ", match[0].replace("\\\n", " "))[0]
        words = [word for word in shlex.split(line.replace("[", "").replace("]", "")) if word not in ("\\",)]
        found.append(words)
    return found


def module_and_flags(words: list[str]) -> tuple[str, list[str]]:
    """(`scripts.base_train`, its flags) of a python or torchrun command; torchrun's own flags are dropped."""
    after = words.index("-m") + 1
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


@needs_bash
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_command_in_a_recipe_takes_its_flags(recipe, tmp_path, monkeypatch, capsys):
    printed = bash(f"bash {ROOT}/runs/{recipe}.sh --dry-run --data {tmp_path} --out {tmp_path}/out --depth 6 --seed=3")
    commands = commands_in(printed.stdout)
    modules_ = [module_and_flags(words)[0] for words in commands]
    for stage in ("scripts.tok_train", "scripts.base_train", "scripts.mid_train", "scripts.chat_sft", "scripts.chat_rl",
                  "scripts.chat_eval", "nanochat.report"):
        assert stage in modules_
    assert "--depth=6" in printed.stdout and "--seed=3" in printed.stdout
    readers = [words for words in commands if re.search(r"base_(loss|eval)|mid_|chat_", " ".join(words))]
    assert all("d6" in " ".join(words) for words in readers), "an out folder may hold several depths"
    assert not (wrong := refused(commands, monkeypatch, capsys)), "\n".join(wrong)


@needs_bash
def test_every_shell_command_in_the_documents_takes_its_flags(tmp_path):
    commands = [words for path in DOCUMENTS for words in commands_in(path.read_text(encoding="utf-8"))]
    for _, script, *flags in (words for words in commands if words[0] == "bash"):
        assert (ROOT / script).is_file(), f"documented, but not there: bash {script}"
        if script == "speedrun.sh" or script.startswith("runs/"):
            flags = ["4" if flag == "N" else str(tmp_path) if flag == "DIR" or "/" in flag else flag for flag in flags]
            bash(f"bash {ROOT}/{script} {shlex.join([*flags, '--dry-run'])}")


def bash(command: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NANOCHAT_")}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={**kept, **environment})
    assert done.returncode == code, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture
def recipe(tmp_path):
    """`recipe("stage a …", "flags")` runs a recipe of these lines on an out folder of its own; every command it may use
    appends its name to `ran`."""
    if not shutil.which("bash") or not (ROOT / ".venv/bin/python").exists():
        pytest.skip("recipes need bash and .venv (bash setup.sh)")

    def run(lines: str, flags: str = "", code: int = 0) -> tuple[list[str], str]:
        (tmp_path / "ran").write_text("")
        (tmp_path / "toy.sh").write_text(
            f'{START}run() {{ echo "$@" >> {tmp_path}/ran; [ ! -e {tmp_path}/fail-$1 ]; }}\n{lines}')
        done = bash(f"bash {tmp_path}/toy.sh --out {tmp_path}/out {flags}", code)
        return (tmp_path / "ran").read_text().splitlines(), done.stdout + done.stderr

    run.folder = tmp_path
    return run


START = f'source {ROOT}/runs/common.sh\nbegin "$@"\n'
TOY = "stage a run a --resume\nmeasure look run look\nstage b run b --resume\nalways run report\n"


def test_a_finished_stage_is_not_repeated(recipe):
    assert recipe(TOY)[0] == ["a", "look", "b", "report"], "the first time nothing is resumed"
    ran, printed = recipe(TOY)
    assert ran == ["report"] and "== b: done before" in printed


def test_an_interrupted_stage_is_resumed_and_the_finished_ones_are_kept(recipe):
    (recipe.folder / "fail-b").touch()
    ran, printed = recipe(TOY, code=1)
    assert ran == ["a", "look", "b"] and "b failed (exit code 1" in printed
    assert recipe(TOY, code=1)[0] == ["b"], "there is no checkpoint to go on from"
    checkpoint(recipe.folder / "out", "b")
    (recipe.folder / "fail-b").unlink()
    assert recipe(TOY)[0] == ["b --resume", "report"]
    record = dict(line.split("=", 1) for line in (recipe.folder / "out/stages/b.done").read_text().splitlines())
    assert record["attempts"] == "3" and record["command"] == "run b --resume" and int(record["seconds"]) >= 0


def checkpoint(out: Path, stage: str) -> None:
    folder = out / "checkpoints" / stage / "d4/step_000001"
    folder.mkdir(parents=True)
    (folder / "state.json").touch()


def test_a_checkpoint_of_another_chain_is_not_gone_on_from(recipe):
    recipe(TOY)
    checkpoint(recipe.folder / "out", "b")
    (recipe.folder / "fail-b").touch()
    changed = TOY.replace("run a", "run a 2")  # b's command is the same, what it builds on is not
    assert recipe(changed, code=1)[0] == ["a 2", "look", "b"]
    (recipe.folder / "fail-b").unlink()
    assert recipe(changed)[0] == ["b", "report"]


def test_a_changed_command_runs_again_with_all_that_builds_on_it_from_the_beginning(recipe):
    recipe(TOY)
    assert recipe(TOY.replace("run b", "run b 2"))[0] == ["b 2", "report"]
    assert recipe(TOY.replace("run a", "run a 2"))[0] == ["a 2", "look", "b", "report"]
    assert recipe(TOY.replace("run a", "run a 2").replace("run look", "run look 2"))[0] == ["look 2", "report"]


def test_fresh_removes_what_the_run_made_and_nothing_else(recipe):
    out = recipe.folder / "out"
    recipe(TOY)
    for made in ("checkpoints/base/x", "data/text/shard", "results/base/x"):
        (out / made).parent.mkdir(parents=True, exist_ok=True)
        (out / made).touch()
    assert recipe(TOY, "--fresh")[0] == ["a", "look", "b", "report"]
    assert not (out / "checkpoints").exists() and not (out / "data").exists()
    (out / "data/text").mkdir(parents=True)
    (out / "data/text/manifest.json").write_text('{"revision": "fetched"}')
    recipe(TOY, "--fresh")
    assert (out / "data/text/manifest.json").exists(), "shards from the hub are kept"
    (out / "thesis.txt").touch()
    assert "holds thesis.txt, which no run made" in recipe(TOY, "--fresh", code=1)[1]
    assert (out / "thesis.txt").exists() and (out / "stages/b.done").exists()


def test_two_runs_do_not_share_a_folder(recipe):
    script = f"bash {recipe.folder}/toy.sh --out {recipe.folder}/out"
    recipe("stage a sleep 0\n")
    (recipe.folder / "toy.sh").write_text(f"{START}touch {recipe.folder}/in\nsleep 60\n")
    first = subprocess.Popen(shlex.split(script), start_new_session=True)
    try:
        wait_for(recipe.folder / "in")
        assert "another run" in bash(script, code=1).stderr
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert recipe(TOY)[0] == ["a", "look", "b", "report"], "the lock dies with its owner"


def test_ctrl_c_says_how_to_go_on(recipe):
    (recipe.folder / "toy.sh").write_text(f'{START}stage a bash -c ": > {recipe.folder}/in; exec sleep 60"\n')
    started = subprocess.Popen(
        ["bash", f"{recipe.folder}/toy.sh", "--out", f"{recipe.folder}/out"], start_new_session=True, text=True,
        stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_for(recipe.folder / "in")
    os.killpg(started.pid, signal.SIGINT)
    assert "interrupted; run it again to go on" in started.communicate(timeout=20)[1]
    assert started.returncode == 130


def wait_for(path: Path, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


@needs_bash
@pytest.mark.parametrize("flags, said", [
    ("--depht 4", "unknown flag --depht"), ("--depth", "--depth needs a value"), ("--depth=0", "too small"),
    ("--depth=four", "no whole number"), ("--minutes=0", "no number above 0"), ("--data=/no/such", "is not a folder"),
    ("--seed -1", "no whole number"), ("stray", "unknown flag stray")])
def test_bad_flags_of_the_one_command(flags, said):
    done = bash(f"bash {ROOT}/speedrun.sh {flags}", code=2)
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1


@needs_bash
def test_the_one_command_picks_the_recipe_and_knows_both_spellings(tmp_path):
    (tmp_path / "a_b").mkdir()
    one = f"bash {ROOT}/speedrun.sh --dry-run"
    assert "--source=kindergarten" in bash(f"cd /; {one} --no_serve", CUDA_VISIBLE_DEVICES="").stdout
    assert f"--data={tmp_path}/a_b" in bash(f"cd {tmp_path}; {one} --data a_b").stdout
    assert f"--data={tmp_path}/a_b" in bash(one, NANOCHAT_DATA=f"{tmp_path}/a_b").stdout
    assert "--fresh" in bash(f"bash {ROOT}/speedrun.sh --help").stdout


@pytest.fixture
def checkout(tmp_path):
    """A folder with just what set-up reads, and a .venv that looks as if set-up had finished there."""
    for name in ("setup.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv/nanochat.stamp").write_text(f"{tmp_path}\n{(tmp_path / 'pyproject.toml').read_text()}")
    return tmp_path


@needs_bash
def test_set_up_installs_only_when_something_changed(checkout):
    printed = bash(f"bash {checkout}/setup.sh", PYTHON="/no/such/python").stdout
    assert printed.startswith("setup: ready. Python 3.") and len(printed.splitlines()) == 1
    with (checkout / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    done = bash(f"bash {checkout}/setup.sh", code=1, PYTHON="/no/such/python")
    assert "installing" in done.stdout and "PYTHON=/no/such/python does not run or is older" in done.stderr
    assert not (checkout / ".venv/nanochat.stamp").read_text().endswith("# changed\n"), "a failed set-up is not done"


@needs_bash
def test_shell_scripts_parse_and_the_gate_is_the_documented_command():
    for path in [*ROOT.glob("*.sh"), *(ROOT / "runs").glob("*.sh"), ROOT / ".ci/run"]:
        bash(f"bash -n {path}")
    assert (ROOT / ".ci/run").read_text().strip().splitlines()[-1] == "bash test.sh"
