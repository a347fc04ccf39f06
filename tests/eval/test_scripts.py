"""base_loss, base_eval and chat_eval, run as programs would run them, on a toy model and a few items."""
import pytest

from kindergarten import facts, functions, problems, words
from kindergarten.world import World
from nanochat.data import shards
from nanochat.model import GPT
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.train import checkpoint
from scripts import base_eval, base_loss, chat_eval


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
    found = files.read_json(paths.results_dir("base") / "base_loss.json")
    assert set(found["bpb"]) == {"train", "validation"} and all(1 < value < 100 for value in found["bpb"].values())
    assert len(found["samples"]) == 2 * base_loss.NUM_SAMPLES and found["step"] == 7 and found["tag"] == "d2"
    first = next(shards.iter_texts(shards.validation_shards()))
    assert first.startswith(found["samples"][0]["prompt"]) and found["samples"][-1]["prompt"] == ""
    assert files.read_json(paths.results_dir("base_loss") / "run.json")["seconds"] > 0


def test_base_eval_checks_facts_where_there_is_no_core(out, capsys):
    base_eval.main(["--device_type=cpu", "--dtype=float32"])
    found = files.read_json(paths.results_dir("base") / "base_eval.json")
    assert "not CORE" in found["label"] and 0 < found["tasks"]["facts in prose"]["num_items"] <= 40
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
    found = files.read_json(paths.results_dir("base") / "base_eval.json")
    assert found["label"] == "CORE-2" and found["missing"] == ["gone"] and "missing: gone" in capsys.readouterr().out
    del found["tasks"]["two"]
    files.write_json(paths.results_dir("base") / "base_eval.json", found)
    base_eval.main(["--resume", "--device_type=cpu", "--dtype=float32"])
    said = capsys.readouterr().out
    assert "two " in said and "one " not in said, "only the missing task was asked again"
    assert set(files.read_json(paths.results_dir("base") / "base_eval.json")["tasks"]) == {"one", "two"}


def test_chat_eval_asks_all_there_is_and_adds_to_it(out, capsys):
    chat_eval.main(["-i", "sft", "--max_new_tokens=4", "-b", "4", "--device_type=cpu", "--dtype=float32"])
    folder = paths.results_dir("sft")
    found = files.read_json(folder / "chat_eval.json")
    assert set(found["tasks"]) == {"facts", "problems", "functions", "spelling"} and found["chat_core"] is None
    assert found["tasks"]["facts"]["num_items"] == 40 and found["tasks"]["problems"]["tool_use"] == 0.0
    assert len(files.read_jsonl(folder / "generations" / "functions.jsonl")) == 3
    assert "Word problems" in capsys.readouterr().out
    chat_eval.main(["-i", "sft", "-a", "Spelling|facts", "-x", "2", "-m", "4", "--device_type=cpu", "--dtype=float32"])
    again = files.read_json(folder / "chat_eval.json")["tasks"]
    assert again["facts"]["num_items"] == 2 and again["problems"] == found["tasks"]["problems"], "-a adds"
    chat_eval.main(["-i", "sft", "-a", "facts", "-n", "2", "-t", "1", "-x", "2", "-m", "2", "--device_type=cpu"])
    said = capsys.readouterr().out
    assert "facts: pass@1 0.000  pass@2 0.000" in said


def test_scores_of_another_model_are_dropped(out, model):
    run = ["-i", "sft", "-x", "2", "-m", "2", "--device_type=cpu", "--dtype=float32"]
    chat_eval.main([*run, "-a", "facts"])
    changed = GPT(model.config).init_weights(9)  # the same shape, other weights
    checkpoint.save(paths.checkpoint_dir("sft", "d2"), 7, changed, None, {"stage": "sft"})
    chat_eval.main([*run, "-a", "spelling"])
    assert set(files.read_json(paths.results_dir("sft") / "chat_eval.json")["tasks"]) == {"spelling"}


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
