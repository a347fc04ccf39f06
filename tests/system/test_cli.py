import os
import signal
import subprocess
import sys

import pytest

from nanochat.system import cli
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.system.paths import REPO

FLAGS = dict(depth=flag(20, "layers", at_least=1), matrix_lr=flag(0.02, at_least=0, at_most=1), device_batch_size=32,
             num_iterations=flag(-1, "steps; -1 = all 100 %", at_least=1), model_tag="d4", resume=False, compile=True,
             rows=flag(-1, at_least=1, words={"auto": -1}), warmup=flag(0, at_least=0),
             stage=flag("sft", choices=("mid", "sft")), prompt=flag("", "say this", short="p"))


def parse(*argv):
    return cli.parse(list(argv), "A recipe.", **FLAGS)


def refused(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as stopped:
        parse(*argv)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1  # one line
    return message


@pytest.mark.parametrize("argv", [["--device_batch_size=8"], ["--device-batch-size=8"], ["--device_batch_size", "8"],
                                  ["--device-batch-size", "8"], ["--", "--device-batch-size=8"],
                                  ["--device-batch-size=8", "--"]])
def test_both_spellings_both_ways_and_a_bare_dash(argv):
    args = parse(*argv)
    assert args.device_batch_size == 8
    assert args.depth == 20 and args.model_tag == "d4" and args.resume is False and args.compile is True


def test_values_keep_their_hyphens_and_their_type():
    args = parse("--model_tag=a-b", "--depth=1_000", "--num-iterations=2e3", "--matrix-lr=1e-3", "-p", "what - now?")
    assert (args.model_tag, args.depth, args.num_iterations, args.matrix_lr, args.prompt) == (
        "a-b", 1000, 2000, 0.001, "what - now?")
    assert isinstance(args.num_iterations, int)


def test_switches_go_on_and_off():
    args = parse("--resume", "--no-compile")
    assert args.resume is True and args.compile is False


def test_what_the_user_typed_can_be_told_from_a_default():
    args = parse("--depth=20", "-p", "hi", "--no_resume")
    assert args.given == {"depth", "prompt", "resume"} and args.defaults["depth"] == 20
    assert list(vars(args)) == list(FLAGS), "the flags and nothing else, in their order"


def test_minus_one_stays_allowed_where_it_is_the_default():
    assert parse("--num_iterations=-1").num_iterations == -1
    assert parse("--num_iterations", "-1").num_iterations == -1


@pytest.mark.parametrize("argv, said", [
    (["--depht=4"], "unknown flag --depht=4; did you mean --depth?"),
    (["--device-bach-size", "8"], "did you mean --device_batch_size?"),
    (["--dept=4"], "did you mean --depth?"),  # no guessing from the beginning of a word
    (["--zzz"], "unknown flag --zzz; known: --depth"),
    (["depth=4"], "unknown flag depth=4; did you mean --depth?"),
    (["--depth=four"], "invalid whole number value: 'four'"),
    (["--depth=4.5"], "invalid whole number value: '4.5'"),
    (["--depth=inf"], "invalid whole number value: 'inf'"),
    (["--depth=9223372036854775808"], "invalid whole number value"),
    (["--depth="], "invalid whole number value: ''"),
    (["--depth"], "expected one argument"),
    (["--matrix_lr=fast"], "invalid number value: 'fast'"),
    (["--matrix_lr=nan"], "invalid number value: 'nan'"),
    (["--matrix_lr=inf"], "invalid number value: 'inf'"),
    (["--matrix_lr=-0.1"], "--matrix_lr=-0.1 is too small; give at least 0"),
    (["--matrix_lr=2"], "--matrix_lr=2.0 is too large; give at most 1"),
    (["--depth=0"], "--depth=0 is too small; give at least 1"),
    (["--num_iterations=-2"], "--num_iterations=-2 is too small"),
    (["--stage=rl"], "--stage=rl is unknown; choose one of mid, sft"),
    (["my notes"], "'my notes' follows no flag; known: "),
    (["--resume=yes"], "ignored explicit argument 'yes'"),
])
def test_what_makes_no_sense_is_one_line_and_code_2(capsys, argv, said):
    assert said in refused(capsys, *argv)


def test_help_shows_every_flag_both_forms_of_a_switch_and_defaults_that_are_values(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in FLAGS) and "A recipe." in printed
    assert "layers (default: 20)" in printed and "(default: auto)" in printed and "(default: 0)" in printed
    assert "all 100 %" in printed and "-1)" not in printed and "''" not in printed, "these mean: not given"
    assert "--resume, --no_resume (default: off)" in " ".join(printed.split()) and "--no_compile" in printed


@pytest.mark.parametrize("start, command", [
    (["-m", "runs"], "bash speedrun.sh"), (["-m", "runs.laptop"], "python -m runs.laptop"),
    (["-m", "scripts.tok_eval"], "python -m scripts.tok_eval"),
    (["-c", "from scripts import tok_eval; tok_eval.main()"], "-c")])
def test_an_error_names_the_command_that_was_typed(start, command):
    ended = subprocess.run([sys.executable, *start, "--zzz"], cwd=REPO, capture_output=True, encoding="utf-8")
    assert ended.stderr.startswith(f"{command}: unknown flag --zzz") and ended.returncode == 2


def test_parse_only_checks_and_stops(capsys, monkeypatch):
    monkeypatch.setenv("NANOCHAT_PARSE_ONLY", "1")
    with pytest.raises(SystemExit) as stopped:
        parse("--depth=4")
    assert stopped.value.code == 0 and capsys.readouterr().out == "flags ok\n"
    assert "too small" in refused(capsys, "--depth=0")  # checked all the same


def _raise(error):
    raise error


@pytest.mark.parametrize("error, code, said", [
    (UserError("no tokenizer at /x"), 1, "error: no tokenizer at /x\n"),
    (OSError(28, "No space left on device", "/x/metrics.jsonl"), 1, "error: /x/metrics.jsonl: No space left on device"),
    (KeyboardInterrupt(), 130, "interrupted"),
])
def test_run_ends_in_one_line(capsys, error, code, said):
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda: _raise(error))
    assert stopped.value.code == code
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("ours"), FileNotFoundError(2, "No such file or directory", "/x")])
def test_run_does_not_hide_our_own_mistakes(error):
    with pytest.raises(type(error)):
        cli.run(lambda: _raise(error))


def test_ctrl_c_speaks_of_resume_only_where_there_is_one(capsys):
    def interrupted():
        raise KeyboardInterrupt

    for flags, said in ((dict(resume=False), "--resume"), (dict(prompt=""), "interrupted\n")):
        cli.parse([], "doc", **flags)
        with pytest.raises(SystemExit) as exit_:
            cli.run(interrupted)
        assert exit_.value.code == 130 and said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["scripts.base_train", "nanochat.report", "runs --data={0} --out={0}/out"])
def test_ctrl_c_while_modules_are_imported_is_one_line(command, tmp_path):
    (tmp_path / "numpy.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)")
    ended = subprocess.run([sys.executable, "-m", *command.format(tmp_path).split()], cwd=REPO, capture_output=True,
                           text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
                           preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert ended.returncode in (-signal.SIGINT, 130) and ended.stderr.strip() == "interrupted"
