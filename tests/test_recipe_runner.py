"""The recipe's runner: finished stages are kept, an interrupted run goes on, nothing finished is replaced unasked."""
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from nanochat import recipe
from nanochat.recipe import Stage
from nanochat.run_folder import RunFolder
from nanochat.system import files, paths
from nanochat.system.files import UserError

ROOT = Path(__file__).resolve().parents[1]


def toy(name: str, *, every_time: bool = False, **flags) -> Stage:
    return Stage(name, "tests.toy_stage", dict(name=name, **flags), every_time=every_time)


STAGES = [toy("a"), toy("b"), toy("report", every_time=True)]


def options(out: Path, **changed) -> Namespace:
    return Namespace(**{**dict(out=out, depth=None, minutes=10.0, seed=1, fresh=False, text="", dry_run=False),
                        **changed})


@pytest.fixture
def run(tmp_path):
    """`run(stages, **options)` → the stages that really ran, with their flags."""
    def start(stages=STAGES, fingerprint: str = "", **changed) -> list[str]:
        (tmp_path / "ran").write_text("")
        try:
            recipe.run("toy", stages, options(tmp_path / "out", **changed), fingerprint)
        finally:
            start.ran = (tmp_path / "ran").read_text().splitlines()
        return start.ran

    start.out = tmp_path / "out"
    return start


def test_attempts_add_up_and_the_record_names_every_version_of_the_code(run, monkeypatch, capfd):
    (run.out.parent / "fail-b").touch()
    for version in ("1111111", "1111111", "2222222"):
        monkeypatch.setattr(paths, "commit", lambda version=version: version)
        with pytest.raises(UserError, match="b failed"):
            run()
    spent = files.read_json(run.out / "stages/b.begun.json")["seconds"]
    (run.out.parent / "fail-b").unlink()
    run()
    record = RunFolder(run.out).records()["b"]
    assert record["attempts"] == 4 and record["seconds"] > spent > 0
    assert record["commits"] == ["1111111", "2222222"]
    assert capfd.readouterr().out.count("1111111 → 2222222") == 1


def test_a_misspelled_flag_never_leads_to_one_that_throws_work_away(capsys):
    for word in ("--resume", "--frish", "--refresh"):
        with pytest.raises(SystemExit):
            recipe.parse([word], "doc")
        assert "did you mean --fresh" not in capsys.readouterr().err


def test_a_finished_stage_is_not_repeated(run, capfd):
    assert run() == ["a", "b", "report"]
    assert run() == ["report"]
    assert "== b (stage 2 of 3): done before" in capfd.readouterr().out
    record = RunFolder(run.out).records()["b"]
    assert record["command"] == "python -m tests.toy_stage --name=b" and record["attempts"] == 1


def test_a_stage_that_failed_is_run_again_and_the_finished_ones_are_kept(run):
    (run.out.parent / "fail-b").touch()
    with pytest.raises(UserError, match="b failed"):
        run()
    assert run.ran == ["a", "b"]
    (run.out.parent / "fail-b").unlink()
    assert run() == ["b", "report"]
    assert RunFolder(run.out).records()["b"]["attempts"] == 2


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("changed", [dict(minutes=5.0), dict(seed=2), dict(depth=6), dict(fingerprint="other data")])
def test_other_settings_or_data_never_replace_a_run_unasked(run, changed):
    run()
    before = contents(run.out)
    with pytest.raises(UserError, match="--fresh"):
        run(**changed)
    assert run.ran == [] and before == contents(run.out)
    assert run(**changed, fresh=True) == ["a", "b", "report"]


def test_an_update_of_the_code_keeps_what_is_finished_and_goes_on_with_what_has_begun(run, capfd):
    (run.out.parent / "fail-b").touch()
    with pytest.raises(UserError):
        run([toy("a"), toy("b", steps=10)])
    (run.out.parent / "fail-b").unlink()
    newer = [toy("a", new_flag=True), toy("b", steps=20), toy("c")]
    assert run(newer) == ["b --steps=10", "c"], "the checkpoint of b belongs to the command it was begun with"
    assert "goes on with the command it was begun with" in capfd.readouterr().out


def test_records_of_older_versions_are_taken_over(run):
    (run.out / "stages").mkdir(parents=True)
    (run.out / "stages/a.done").write_text("chain=1 2\nseconds=16\nattempts=2\nfinished=2026-11-21 10:00:00\n"
                                           "command=python -m scripts.a --depth=4 --resume\n")
    assert run([Stage("a", "tests.toy_stage", dict(depth=4)), toy("b")]) == ["b"]
    assert RunFolder(run.out).records()["a"]["seconds"] == 16


def test_a_run_of_an_older_version_with_other_settings_is_refused_and_stays(run):
    (run.out / "stages").mkdir(parents=True)
    for name, depth in (("a", 4), ("b", 5)):
        (run.out / f"stages/{name}.done").write_text(f"seconds=16\ncommand=python -m scripts.{name} --depth={depth}\n")
    with pytest.raises(UserError, match="--depth=5"):
        run([Stage(name, "tests.toy_stage", dict(depth=4)) for name in ("a", "b")])
    assert len(list((run.out / "stages").glob("*.done"))) == 2
    assert run(fresh=True) == ["a", "b", "report"] and not list((run.out / "stages").glob("*.done"))


def test_a_folder_that_no_run_made_is_left_alone(run):
    run.out.mkdir()
    (run.out / "thesis.txt").touch()
    for fresh in (False, True):
        with pytest.raises(UserError, match="thesis.txt"):
            run(fresh=fresh)
    (run.out / "thesis.txt").rename(run.out / "data")
    with pytest.raises(UserError, match="--fresh removes only"):
        run(fresh=True)
    assert (run.out / "data").exists()


@pytest.mark.parametrize("name", [".DS_Store", "lost+found/", ".ipynb_checkpoints/", "Thumbs.db", "nohup.out"])
def test_what_systems_leave_in_a_folder_is_passed_over_and_kept(run, name):
    run.out.mkdir()
    entry = run.out / name
    entry.mkdir() if name.endswith("/") else entry.touch()
    assert run() == ["a", "b", "report"] and run(fresh=True) == ["a", "b", "report"]
    assert entry.exists()


def test_fresh_removes_what_the_run_made_but_no_shards_from_the_hub(run):
    run()
    for name in ("checkpoints/base/x", "data/text/shard", "results/base/x", "notes.txt"):
        (run.out / name).parent.mkdir(parents=True, exist_ok=True)
        (run.out / name).touch()
    run(fresh=True)
    assert not (run.out / "checkpoints").exists() and not (run.out / "data").exists()
    assert (run.out / "notes.txt").exists(), "the folder is known as a run's, so other files in it are its owner's"
    files.write_json(run.out / "data/text/manifest.json", {"revision": "fetched"})
    run(fresh=True)
    assert (run.out / "data/text/manifest.json").exists()


def started(out: Path, *stages: str) -> subprocess.Popen:
    """The runner in a process group of its own, as a terminal would start it."""
    code = ("import sys; from pathlib import Path; from nanochat.system import cli; from nanochat import recipe\n"
            "from tests.test_recipe_runner import options, toy\n"
            "cli.run(lambda: recipe.run('toy', [toy(name, wait=True) for name in sys.argv[2:]], "
            "options(Path(sys.argv[1]))))")
    return subprocess.Popen([sys.executable, "-c", code, str(out), *stages], cwd=ROOT, text=True,
                            start_new_session=True, stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("to_all, sign", [(True, signal.SIGINT), (False, signal.SIGTERM), (False, signal.SIGHUP)])
def test_a_stopped_run_lets_its_stage_save_and_says_how_to_go_on(tmp_path, to_all, sign):
    process = started(tmp_path / "out", "a")
    wait_for(tmp_path / "waits")
    (os.killpg if to_all else os.kill)(process.pid, sign)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and (tmp_path / "saved").exists()
    assert "same command again" in said and "Traceback" not in said


def test_two_runs_do_not_share_a_folder_and_a_killed_one_frees_it(tmp_path, run):
    process = started(tmp_path / "out", "a")
    try:
        wait_for(tmp_path / "waits")
        with pytest.raises(UserError, match="another run"):
            run()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert run([toy("b"), toy("report", every_time=True)]) == ["b", "report"]


def test_commands_are_printed_so_that_they_can_be_pasted(capsys, tmp_path):
    recipe.print_commands([toy("a", mixture="text*0.1,a b")], tmp_path / "my out")
    cd, export, command = capsys.readouterr().out.splitlines()
    done = subprocess.run(["bash", "-c", f"{export}; printf '%s\\n' {command} \"$NANOCHAT_BASE_DIR\""],
                          capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["--mixture=text*0.1,a b", str(tmp_path / "my out")]


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipe.parse(["--out=~/x"], "").out == tmp_path / "x"


@pytest.mark.parametrize("flags, error", [
    (["--depht", "4"], SystemExit), (["--depth=0"], SystemExit), (["--minutes=0"], SystemExit),
    (["--seed=-1"], SystemExit), (["stray"], SystemExit), (["--data=/no/such/folder"], UserError),
    (["--data=.", "--out=."], UserError)])
def test_bad_flags_are_refused(flags, error, monkeypatch):
    monkeypatch.delenv("NANOCHAT_PARSE_ONLY", raising=False)
    with pytest.raises(error):
        recipe.parse(flags, "")
