"""The report: every number comes from results/, what is missing is named, reset forgets results but no checkpoint."""
import re
from xml.etree import ElementTree

import pytest

from nanochat import closing, model_card, report
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.train import checkpoint


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setattr("nanochat.sandbox.layers", lambda: ["rlimits", "seccomp"])
    return tmp_path


def score(accuracy, **extra):
    return {"accuracy": accuracy, "stderr": 0.0312, "num_items": 123, "chance": 0.25, **extra}


def trained(stage, **metrics):
    """Leaves what a training stage leaves."""
    lines = [{"step": i + 1, "speed/tokens_per_second": 1001 + i, **{key: values[i] for key, values in metrics.items()}}
             for i in range(3)]
    files.write_jsonl(paths.results_dir(stage) / "metrics.jsonl", lines)
    files.write_json(paths.results_dir(stage) / "run.json", {
        "name": stage, "command": f"python -m {stage}_train --depth=4", "seconds": 61.5,
        "finished": "2026-01-01 00:00:00", "flags": {"depth": 4, "run": ""}, "num_params": 1_310_720})


def text():
    return report.generate().read_text(encoding="utf-8")


def test_what_visitors_ask_stands_by_kind_and_held_back_words_nowhere(out):
    groups = {"who": [0.5, 18], "odd": [1.0, 15]}
    strangers = score(0.6, groups=groups, refused=0.25, left_out="18 of kind functions: no landlock")
    held = score(0.6, held_back=True, groups=groups, refused=0.125)
    for stage, taken in (("mid", {"f": score(0.7)}), ("sft", {"strangers": strangers, "f": score(1.0), "held": held})):
        files.write_json(paths.results_dir(stage) / "chat_eval.json", {"tasks": taken})
    files.write_jsonl(paths.results_dir("sft") / "generations" / "strangers.jsonl", [{"item": 0, "correct": True}])
    written = text()
    assert "| strangers: who | – | – | 0.50 (18) | – |" in written and "| strangers: odd | – | – | 1.00 (15)" in written
    assert "| **strangers: known things refused** | – | – | 0.25 | – |" in written and "f: known" not in written
    assert "Not taken: strangers (18 of kind functions: no landlock)." in written and "**strangers**" not in written
    assert "| **mean above chance** | 0 | – | – | 0.733 | – |" in written, "without what one stage alone is asked"
    assert "strangers: refused" in closing.exam_table() and "0.250" in closing.exam_table()


def test_a_whole_run(out):
    files.write_json(paths.results_dir("base") / "base_eval.json", {
        "label": "CORE-1", "value": 0.3, "stderr": 0.0129, "missing": ["coqa"],
        "tasks": {"boolq": score(0.6, baseline=0.5, centred=0.2)}})
    for stage, accuracy in zip(paths.STAGES, (0.25, 0.4, 0.55, 0.875)):
        trained(stage, **{"train/loss_nats": [3.0, 2.0, 1.5]})
        files.write_json(paths.results_dir(stage) / "chat_eval.json", {
            "tasks": {"facts": score(accuracy),
                      "problems": score(accuracy, tool_use=accuracy / 2, accuracy_with_tool=0.617)},
            "chat_core": 0.1234 if stage == "rl" else None, "chat_core_stderr": 0.0123})
    with open(paths.results_dir("base") / "metrics.jsonl", "a") as metrics:
        metrics.write('{"step": 4, "val/bpb": 1.25}\n')
    trained("rl", **{"rl/reward_mean": [0.1, 0.2, 0.375], "rl/tool_use": [0.5, 0.6, 0.7]})
    files.write_json(paths.results_dir("base") / "base_loss.json", {
        "bpb": {"train": 1.234567, "validation": 1.3}, "samples": [{"prompt": "Once", "text": "upon ~~~~ a time"}]})
    files.write_jsonl(paths.results_dir("sft") / "generations" / "facts.jsonl", [
        {"prompt": "What does a cow say?", "completion": "Moo.", "correct": True, "tool_calls": [["1+1", "2"]]}])
    files.write_json(paths.results_dir("contamination") / "contamination.json", {
        "ngram": 13, "corpus": "text", "documents": 1234,
        "exams": {"gsm8k": {"items": 99, "checked": 98, "overlapping": 7}}})
    written = text()
    assert "1,234 documents" in written and "| gsm8k | 99 | 98 | 7 |" in written
    assert ("| facts | 0.25 | 0.250 ± 0.031 (123) | 0.400 ± 0.031 (123) | 0.550 ± 0.031 (123) | 0.875 ± 0.031 (123) |"
            in written)
    assert "| **mean above chance** | 0 | 0.000 | 0.200 | 0.400 | 0.833 |" in written
    assert "| problems: right with the tool | 0.617 | 0.617 | 0.617 | 0.617 |" in written
    assert "| problems: tool used | 0.125 |" in written and "facts: tool used" not in written
    assert "| bpb.train | 1.235 |" in written and "| num_params | 1,310,720 |" in written
    assert "| rl/reward_mean (first → last tenth) | 0.1 → 0.375 |" in written
    assert "| tokens per second (median) | 1,002 |" in written
    assert "| **ChatCORE** | 0 | – | – | – | 0.123 ± 0.012 |" in written
    assert "| **CORE-1** | 0 | 0.300 ± 0.013 | – | – | – |" in written
    assert "~~~~~text\nOnce\n→ upon ~~~~ a time\n~~~~~" in written, "a sample can't end its own block"
    assert "**facts**\n\n~~~text\nWhat does a cow say?\nSFT  → [1+1 = 2] Moo.  ← right\n~~~" in written
    assert "| **CORE-1** |  |  | 0.3 ± 0.0129 |\n\nWithout coqa" in written
    assert "| boolq | 0.600 ± 0.031 (123) | 0.5 | 0.2 |" in written
    assert "| val/bpb | 1.25 |" in written, "one number is no curve"
    assert "`--depth=4`" in written and "rlimits, seccomp" in written
    assert written.rstrip().endswith("## Missing\n\nNothing.")
    for name in ("exams", *paths.STAGES):
        assert f"({name}.svg)" in written and drawn(name).get("width") in ("480", "560")
    assert len(drawn("base").findall("{*}polyline[@stroke='#1f77b4']")) == 1, "one number is no curve"
    assert len(drawn("exams").findall("{*}polyline[@stroke-dasharray='5 3']")) == 2, "chance, for each exam"
    heights = [float(bar.get("height")) for bar in drawn("exams").findall("{*}rect[@fill='#d62728']")]
    assert max(heights) == pytest.approx(0.875 * 180), "the plot is 180 pixels high"


def drawn(name):
    """A figure, parsed."""
    return ElementTree.parse(paths.report_dir() / f"{name}.svg").getroot()


def test_what_the_run_never_meant_to_have_is_not_missing(out):
    files.write_json(out / "run.json", {"stages": {"base": 9.0, "sft": 9.0, "chat_eval_base": 9.0}})
    trained("base")
    missing = text().split("## Missing")[1]
    assert "results/sft" in missing and "results/base/chat_eval.json" in missing
    assert "mid" not in missing and "rl" not in missing and "sft/chat_eval" not in missing


def test_what_is_missing_is_named_and_nothing_is_invented(out):
    trained("base", **{"train/loss_nats": [3.0, 2.0, 1.5]})
    files.write_json(paths.results_dir("sft") / "chat_eval.json", {"tasks": {"facts": score(0.5)}})
    (paths.results_dir("mid")).mkdir()
    (paths.results_dir("mid") / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    written = text()
    assert "| facts | 0.25 | – | – | 0.500 ± 0.031 (123) | – |" in written
    missing = written.split("## Missing")[1]
    for one in ("results/base/chat_eval.json does not exist", "results/rl", "results/sft/run.json does not exist",
                "results/mid/metrics.jsonl is damaged: line 2"):
        assert one in missing
    assert "The calculator" not in written and not (paths.report_dir() / "rl.svg").exists()


def test_nothing_at_all_is_an_error(out):
    with pytest.raises(UserError, match="nothing to report"):
        report.generate()


def test_wall_clock_and_cost_come_from_the_stage_records(out):
    trained("base", **{"train/loss_nats": [3.0, 2.0, 1.5]})
    for name, seconds, attempts in (("tokenizer", 30, 1), ("base", 5, 2)):
        files.write_json(out / f"stages/{name}.json", {"command": "python -m a", "seconds": seconds,
                                                       "attempts": attempts, "finished": ""})
    files.write_json(out / "stages/mid.begun.json", {"command": ["-m", "b"], "attempts": 1})
    clocks = report.generate(dollars_per_hour=24).read_text().split("## Where the time went")[1].split("##")[0]
    assert "| tokenizer | 0m30s | 33% |" in clocks
    assert "| base (2 attempts) | 1m01s | 67% |" in clocks, "a resumed stage counts what it did before (run.json)"
    assert "| **total** | **1m31s** |" in clocks and "$0.61 at $24 an hour" in clocks
    assert "your own machine" in text()


def test_without_stage_records_the_runs_themselves_are_counted(out):
    trained("base", **{"train/loss_nats": [3.0, 2.0, 1.5]})
    trained("mid", **{"train/loss_nats": [3.0, 2.0, 1.5]})
    files.write_json(paths.results_dir("mid") / "chat_eval/run.json", {"name": "chat_eval_mid", "seconds": 10})
    assert "| **total** | **2m13s** |" in (written := text()) and "| chat_eval_mid | 0m10s |" in written


def test_reset_forgets_results_but_no_checkpoint(out, capsys):
    trained("base", **{"train/loss_nats": [3.0, 2.0, 1.5]})
    for kept in ("checkpoints/base/d4/step_000001/state.json", "data/text/shard.parquet", "tokenizer/tokenizer.json"):
        files.write_atomic(out / kept, "x")
    files.write_atomic(out / "stages/base.json", "{}")
    report.main(["generate"])
    report.main(["reset"])
    assert sorted(path.name for path in out.iterdir()) == ["checkpoints", "data", "tokenizer"]
    with pytest.raises(UserError, match="nothing to report"):
        report.main(["generate"])


@pytest.mark.parametrize("argv, code", [(["generate", "--dollars=3"], 2), (["--dollars_per_hour=-3"], 2)])
def test_bad_flags(out, argv, code, capsys):
    with pytest.raises(SystemExit) as exit_:
        report.main(argv)
    assert exit_.value.code == code and len(capsys.readouterr().err.strip().splitlines()) == 1


def test_unknown_actions_are_named(out):
    with pytest.raises(UserError, match="'regenerate'.*generate, or reset"):
        report.main(["regenerate"])


HOSTILE = "<img src=x onerror=alert(1)> ![a](b.svg) </pre><script>x</script> ~~~~ `|`"


def test_the_words_stand_by_checkpoint_and_side_by_side(out):
    for stage, answers in (("base", ["x x", "Once a fox", "Once a fox"]), ("mid", ["Once a fox", HOSTILE, "a\nb"])):
        files.write_jsonl(paths.results_dir(stage) / "metrics.jsonl", [
            {"step": step, "train/steps": 3, "train/loss_nats": 3.0 / step, "words": [["Once", answer]]}
            for step, answer in enumerate(answers, 1)])
    written = text()
    by_checkpoint = written.split("## What it said, checkpoint by checkpoint")[1].split("\n## ")[0]
    assert [line.split(" → ")[0] for line in by_checkpoint.splitlines() if " → " in line] == [
        "base  33 %", "base  67 %", "mid   67 %", "mid  100 %"], "an answer that stays is written once"
    together = written.split("## The same prompts at the end of each stage")[1].split("\n## ")[0]
    assert "BASE → Once a fox\nMID  → a b\n" in together


def test_the_report_is_also_one_html_file_with_its_figures(out):
    trained("base", **{"train/loss_nats": [3.0, 2.0, 1.5]})
    files.write_json(paths.results_dir("base") / "chat_eval.json", {"tasks": {"facts": score(0.5)}})
    files.write_jsonl(paths.results_dir("base") / "generations" / "facts.jsonl", [
        {"prompt": HOSTILE, "completion": HOSTILE, "correct": True}])
    text()
    page = (paths.report_dir() / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg ") == 2 and "<table>" in page and "<summary>all flags</summary>" in page
    assert not {"<script", "<img", "src="} & set(re.findall(r"<script|<img|src=", page.replace("src=x onerror", "")))
    assert "&lt;img src=x onerror=alert(1)&gt;" in page and page.count("<details>") == page.count("</details>") == 1


def test_the_card_tells_size_tokens_data_and_licence(out, tiny_model):
    model = tiny_model()
    checkpoint.save(paths.checkpoint_dir("base", "d2"), 3, model, None, {"tokens": 384})
    checkpoint.save(paths.checkpoint_dir("mid", "d2"), 2, model, None, {"tokens": 256})
    for stage in ("base", "mid"):
        files.write_jsonl(paths.results_dir(stage) / "metrics.jsonl", [
            {"step": step, "train/steps": 3, "train/loss_nats": 3.0 / step, "time/seconds": 5.0 * step}
            for step in (1, 2, 3)])
        files.write_json(paths.results_dir(stage) / "chat_eval.json", {"tasks": {"facts": score(0.5)}})
    files.write_json(out / "data/imported.json", {
        "folder": "/notes", "texts": [{"name": "a.md", "num_bytes": 10, "rows": None, "bad_rows": 0}],
        "conversations": [{"name": "b.jsonl", "num_bytes": 20, "rows": 7, "bad_rows": 2, "first_bad": "line 3"}],
        "exams": [], "left_out": [{"name": "c.pdf", "reason": "not text"}]})
    files.write_json(out / "data/text/manifest.json", {"origin": "Tiny, licence X"})
    card = model_card.read("mid", "d2")
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert (card["step"], card["tokens"], card["seconds"], card["licence"]) == (2, 640, 30.0, "Tiny, licence X")
    assert [part["curve"] for part in card["trained"]] == [[[1, 3.0], [2, 1.5], [3, 1.0]]] * 2
    assert card["data"] == {"read": [["texts", "a.md", 10, None], ["conversations", "b.jsonl", 20, 7]], "num_more": 0,
                            "left_out": [["c.pdf", "not text"], ["b.jsonl", "2 rows, the first is line 3"]]}
    assert set(card["exams"]["facts"]) == {"base", "mid"} and not card["contamination"]
    assert [part["stage"] for part in model_card.read("base", "d2")["trained"]] == ["base"], "not of later stages"
    assert "| name | nanochat-mid-d2, step 2 |" in text() and "Tiny, licence X" in text()
    with pytest.raises(UserError, match="checkpoint"):
        model_card.read("rl", "d2")
