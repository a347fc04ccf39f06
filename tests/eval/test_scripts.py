"""base_loss, base_eval and chat_eval, run as programs would run them, on a toy model and a few items."""
import pytest

import tasks
from kindergarten import facts, functions, problems, words
from kindergarten.world import World
from nanochat import sandbox
from nanochat.data import shards
from nanochat.model import GPT
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.train import checkpoint
from scripts import base_eval, base_loss, chat_eval, chat_rl


@pytest.fixture
def out(tmp_path, monkeypatch, tokenizer, model):
    """A run's folder with text, exams, the tokenizer, and the same model as base and sft."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("NANOCHAT_DATA", raising=False)
    data, world = paths.data_dir(), World(1)
    for number in range(2):
        texts = [f"{world.fill('{e} has {v}.', fact)} The end." for fact in world.facts[number * 60:number * 60 + 60]]
        shards.write(data / "text" / f"shard_{number:05d}.parquet", texts)
    exams = {"facts": facts.exam(world)[:40], "problems": problems.exam(1, 5), "functions": functions.exam(1, 3),
             "spelling": words.spelling_exam(1, 5)}
    for name, items in exams.items():
        files.write_jsonl(data / "kindergarten" / f"{name}-test.jsonl", items)
    tokenizer.save(paths.tokenizer_dir())
    for stage in ("base", "sft"):
        checkpoint.save(paths.checkpoint_dir(stage, "d2"), 7, model, None, {"stage": stage})
    return tmp_path


def test_base_loss(out):
    base_loss.main(["--split_tokens=1000", "--device_batch_size=2", "--device_type=cpu", "--dtype=float32"])
    result = files.read_json(paths.results_dir("base") / "base_loss.json")
    assert set(result["bpb"]) == {"train", "validation"} and all(1 < value < 100 for value in result["bpb"].values())
    perplexity = result["perplexity"]
    assert perplexity["per_token"] == pytest.approx(2 ** (result["bpb"]["validation"] * perplexity["bytes_per_token"]))
    assert perplexity["per_word"] == pytest.approx(2 ** (result["bpb"]["validation"] * perplexity["bytes_per_word"]))
    assert len(result["samples"]) == 2 * base_loss.NUM_SAMPLES and result["step"] == 7 and result["tag"] == "d2"
    first = next(shards.iter_texts(shards.validation_shards()))
    assert first.startswith(result["samples"][0]["prompt"]) and result["samples"][-1]["prompt"] == ""
    assert files.read_json(paths.results_dir("base") / "base_loss/run.json")["seconds"] > 0


def test_base_eval_checks_facts_where_there_is_no_core(out, capsys):
    base_eval.main(["--device_type=cpu", "--dtype=float32"])
    result = files.read_json(paths.results_dir("base") / "base_eval.json")
    assert "not CORE" in result["label"] and 0 < result["tasks"]["facts in prose"]["num_items"] <= 40
    assert "no CORE" in capsys.readouterr().out
    (paths.data_dir() / "kindergarten" / "facts-test.jsonl").unlink()
    with pytest.raises(UserError, match="neither core_tasks.yaml nor"):
        base_eval.main(["--device_type=cpu"])


def test_base_eval_runs_core_and_resumes(out, capsys, monkeypatch):
    files.write_atomic(paths.data_dir() / "core_tasks.yaml", "icl_tasks:\n" + "".join(
        f"- {{label: {label}, dataset_uri: core/{label}.jsonl, icl_task_type: multiple_choice, num_fewshot: 0, "
        "random_baseline_percent: 50.0}\n" for label in ("one", "two", "gone")))
    for label in ("one", "two"):
        files.write_jsonl(paths.data_dir() / "core" / f"{label}.jsonl",
                          [{"query": f"{n} is", "choices": ["odd", "even"], "gold": n % 2} for n in range(4)])
    base_eval.main(["--device_type=cpu", "--dtype=float32"])
    result = files.read_json(paths.results_dir("base") / "base_eval.json")
    assert result["label"] == "CORE-2" and result["missing"] == ["gone"] and "missing: gone" in capsys.readouterr().out
    del result["tasks"]["two"]
    files.write_json(paths.results_dir("base") / "base_eval.json", result)
    base_eval.main(["--resume", "--device_type=cpu", "--dtype=float32"])
    printed = capsys.readouterr().out
    assert "two " in printed and "one " not in printed, "only the missing task was asked again"
    assert set(files.read_json(paths.results_dir("base") / "base_eval.json")["tasks"]) == {"one", "two"}


def test_chat_eval_asks_all_there_is_and_adds_to_it(out, capsys):
    chat_eval.main(["-i", "sft", "--max_new_tokens=4", "-b", "4", "--device_type=cpu", "--dtype=float32"])
    folder = paths.results_dir("sft")
    result = files.read_json(folder / "chat_eval.json")
    assert set(result["tasks"]) == {"facts", "problems", "functions", "spelling"} and result["chat_core"] is None
    assert result["tasks"]["facts"]["num_items"] == 40 and result["tasks"]["problems"]["tool_use"] == 0.0
    assert len(files.read_jsonl(folder / "generations" / "functions.jsonl")) == 3
    assert "Word problems" in capsys.readouterr().out
    chat_eval.main(["-i", "sft", "-a", "Spelling|facts", "-x", "2", "-m", "4", "--device_type=cpu", "--dtype=float32"])
    again = files.read_json(folder / "chat_eval.json")["tasks"]
    assert again["facts"]["num_items"] == 2 and again["problems"] == result["tasks"]["problems"], "-a adds"
    chat_eval.main(["-i", "sft", "-a", "facts", "-n", "2", "-t", "1", "-x", "2", "-m", "2", "--device_type=cpu"])
    assert "facts: pass@1 0.000  pass@2 0.000" in capsys.readouterr().out


TRIAL = ["-i", "sft", "-m", "2", "--device_type=cpu", "--dtype=float32"]


@pytest.mark.parametrize("trial, kept", [
    (["-a", "facts", "-x", "2"], True), (["-a", "facts", "-n", "2", "-t", "1"], True), (["-a", "facts"], False),
    (["-a", "spelling", "-x", "2"], False), (["-a", "facts", "-x", "100"], False)])
def test_a_trial_does_not_cost_the_full_exam(out, trial, kept):
    chat_eval.main([*TRIAL, "-a", "facts", "-x", "30"])
    folder = paths.results_dir("sft")
    before = [(folder / name).read_bytes() for name in ("chat_eval.json", "generations/facts.jsonl")]
    chat_eval.main([*TRIAL, *trial])
    earlier = folder / "earlier/1"
    assert earlier.exists() == kept
    if kept:
        assert [(earlier / name).read_bytes() for name in ("chat_eval.json", "facts.jsonl")] == before


def test_scores_of_rounded_weights_are_kept_apart(out):
    for flags in ([], ["--quantize=int8"], []):
        chat_eval.main([*TRIAL, "-a", "facts", "-x", "2", *flags])
    tags = {path.parent.name: files.read_json(path)["tag"] for path in paths.results_dir("sft").rglob("chat_eval.json")}
    [rounded] = [name for name in tags if name != "sft"]
    assert tags == {"sft": rounded.removesuffix("-int8"), rounded: rounded} and rounded.endswith("-int8")


def test_a_shorter_measurement_of_the_base_model_keeps_the_longer(out):
    for limits in ((base_loss, "--split_tokens=2000", "base_loss"), (base_eval, "--max_per_task=-1", "base_eval"),
                   (base_loss, "--split_tokens=1000", "base_loss"), (base_eval, "--max_per_task=3", "base_eval")):
        limits[0].main([limits[1], "--device_type=cpu", "--dtype=float32"])
    kept = sorted(path.name for path in (paths.results_dir("base") / "earlier").glob("*/*"))
    assert kept == ["base_eval.json", "base_loss.json"]


@pytest.mark.parametrize("script, stage, flags", [
    (base_loss, "base", ["--split_tokens=1000"]), (base_eval, "base", ["--max_per_task=2"]),
    (chat_eval, "sft", ["-a", "facts", "-x", "2", "-m", "2"])])
def test_the_record_of_an_exam_is_not_replaced_by_that_of_another_model(out, model, script, stage, flags):
    run = [*flags, "-i", stage, "--device_type=cpu", "--dtype=float32"]
    script.main([*run, "-g", "d2"])
    [record] = paths.results_dir(stage).glob("*/run.json")
    before = record.read_bytes()
    checkpoint.save(paths.checkpoint_dir(stage, "trial"), 7, model, None, {"stage": stage})
    script.main([*run, "-g", "trial"])
    assert record.read_bytes() == before
    [other] = paths.results_dir(stage).glob("models/trial/*/run.json")
    assert files.read_json(other)["flags"]["model_tag"] == "trial"
    script.main([*run, "-g", "d2", "--dtype=bfloat16"])
    assert [path.read_bytes() for path in paths.results_dir(stage).glob("*/earlier/1/run.json")] == [before]


@pytest.fixture
def no_isolation(monkeypatch):
    monkeypatch.setattr(sandbox.python, "_problem", lambda: "landlock: [Errno 38]")
    monkeypatch.setattr(sandbox.python, "_unsafe", False)


RUN = ["-i", "sft", "-m", "4", "--device_type=cpu", "--dtype=float32"]


def test_without_isolation_exams_that_run_programs_are_left_out_with_a_note(out, capsys, no_isolation):
    chat_eval.main(RUN)
    found = files.read_json(paths.results_dir("sft") / "chat_eval.json")
    assert set(found["tasks"]) == {"facts", "problems", "spelling"} and found["chat_core"] is None
    assert set(found["left_out"]) == {"functions"} and "landlock" in found["left_out"]["functions"]
    assert [line for line in capsys.readouterr().out.splitlines() if "left out: Functions" in line]
    chat_eval.main([*RUN, "-a", "functions", "--unsafe_execution"])  # the user says so once
    chat_eval.main(RUN)
    found = files.read_json(paths.results_dir("sft") / "chat_eval.json")
    assert "functions" in found["tasks"] and found["left_out"] == {}


def test_without_isolation_only_the_strangers_functions_are_left_out(out, capsys, no_isolation):
    chat_eval.main([*RUN, "-a", "all|strangers", "-x", "8"])
    found = files.read_json(paths.results_dir("sft") / "chat_eval.json")["tasks"]
    assert set(found) == {"facts", "problems", "spelling", "strangers"} and found["strangers"]["num_items"] == 8
    asked = sum(item["kind"] == "functions" for item in tasks.find("strangers").load("test"))
    assert f"{asked} of kind functions: " in found["strangers"]["left_out"]
    assert "functions" not in found["strangers"]["groups"]
    assert f"left out of Strangers: {asked} of kind functions" in capsys.readouterr().out


def test_chat_core_says_what_it_lacks(out, capsys, no_isolation, monkeypatch):
    monkeypatch.setattr(chat_eval.chat, "CHAT_CORE", ("facts", "functions"))
    chat_eval.main(RUN)
    assert "ChatCORE is not computed: it needs Functions" in capsys.readouterr().out
    assert files.read_json(paths.results_dir("sft") / "chat_eval.json")["chat_core"] is None


def test_without_isolation_a_named_exam_is_refused_before_anything_is_loaded(out, no_isolation, monkeypatch):
    monkeypatch.setattr(checkpoint, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    for command in (lambda: chat_eval.main([*RUN, "-a", "facts|functions"]),
                    lambda: chat_rl.main(["--task=functions"])):
        with pytest.raises(UserError, match="cannot be isolated .*--unsafe-execution"):
            command()
    for path in (paths.data_dir() / "kindergarten").glob("[!f]*-test.jsonl"):
        path.unlink()
    (paths.data_dir() / "kindergarten/facts-test.jsonl").unlink()
    with pytest.raises(UserError, match="cannot be isolated"):
        chat_eval.main(RUN)  # no exam is left


def test_scores_of_another_model_are_kept_apart(out, model):
    run = ["-i", "sft", "-x", "2", "-m", "2", "--device_type=cpu", "--dtype=float32"]
    chat_eval.main([*run, "-a", "facts"])
    changed = GPT(model.config).init_weights(9)  # the same shape, other weights
    checkpoint.save(paths.checkpoint_dir("sft", "d2"), 7, changed, None, {"stage": "sft"})
    chat_eval.main([*run, "-a", "spelling"])
    folder = paths.results_dir("sft")
    assert set(files.read_json(folder / "chat_eval.json")["tasks"]) == {"spelling"}
    assert set(files.read_json(folder / "earlier/1/chat_eval.json")["tasks"]) == {"facts"}
    assert (folder / "earlier/1/generations/facts.jsonl").exists() and not (folder / "generations/facts.jsonl").exists()


@pytest.mark.parametrize(("flags", "problem"), [
    (["-a", "nonsense"], "no task 'nonsense'"), (["-a", "dolly"], "no questions with right answers"),
    (["-a", "gsm8k"], "gsm8k/test.jsonl"), (["-n", "4"], "add --temperature=1"), (["-i", "rl"], "no rl checkpoint"),
])
def test_chat_eval_says_what_can_not_be_asked(out, flags, problem):
    with pytest.raises(UserError, match=problem):
        chat_eval.main([*flags, "--device_type=cpu"])


def test_no_exams_at_all(out):
    for path in (paths.data_dir() / "kindergarten").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"there are no exams in .*nanochat\.dataset"):
        chat_eval.main(["--device_type=cpu"])
