"""chat_rl as a program: what it measures on the way, what it keeps, and that an interrupted run ends with the same."""
import pytest
import torch

from kindergarten import problems
from kindergarten.talk import dialogue
from nanochat.system import files, hardware, paths
from nanochat.tokenizer import chat
from nanochat.train import checkpoint
from scripts import chat_rl

STEPS = ["--task=problems", "--num_iterations=3", "--examples_per_step=2", "--num_samples=3", "--max_new_tokens=6",
         "--device_batch_size=2", "--save_every=1", "--no_compile", "--device_type=cpu", "--dtype=float32",
         "--eval_every=2", "--eval_questions=3", "--init_lr_frac=1"]


@pytest.fixture
def sft(base_dir, tiny_model, tokenizer, monkeypatch):
    tokenizer.save(paths.tokenizer_dir())
    model = tiny_model(vocab_size=tokenizer.vocab_size, sequence_len=512)
    checkpoint.save(paths.checkpoint_dir("sft", "d2"), 1, model, None, {"stage": "sft"})
    for split, seed in (("train", 1), ("test", 2)):
        files.write_jsonl(paths.data_dir() / f"kindergarten/problems-{split}.jsonl", problems.exam(seed, 6))
    files.write_jsonl(paths.data_dir() / "chat/talk.jsonl", [dialogue(f"hi {n}", "Hello!") for n in range(90)])
    task = type(chat_rl.tasks.find("problems"))
    monkeypatch.setattr(task, "grade", lambda self, item, text: len(text) % 2 == 0)  # something to learn from


@pytest.mark.parametrize("extra", [[], ["--lora=2"], ["--mixture=talk"]], ids=["whole", "lora", "replay"])
def test_tests_are_measured_samples_kept_and_resuming_is_exact(sft, extra, stopped_behind_a_save, monkeypatch):
    chat_rl.main([*STEPS, "--model_tag=whole", *extra])
    rows = files.read_jsonl(paths.results_dir("rl") / "metrics.jsonl")
    tested = [row["step"] for row in rows if "rl/kl_nats_per_token" in row]
    assert tested == [2, 3] and rows[1]["rl/kl_nats_per_token"] > 0
    assert 0 <= rows[1]["rl/test_pass_at_1"] <= rows[1]["rl/test_pass_at_k"] <= 1
    kept = files.read_jsonl(paths.results_dir("rl") / "samples" / "step_000002.jsonl")
    assert len(kept) == 6 and kept[0]["question"] == kept[2]["question"] != kept[3]["question"]
    assert all(row["reward"] == float(len(row["answer"]) % 2 == 0) for row in kept)
    assert len(files.read_json(paths.results_dir("rl") / "samples.json")) == 2, "one of each question, for the report"
    with stopped_behind_a_save():
        chat_rl.main([*STEPS, "--model_tag=cut", *extra])
    chat_rl.main([*STEPS, "--model_tag=cut", "--resume", *extra])
    monkeypatch.setattr(hardware, "free_memory", lambda device: 1 << 20)  # one answer at a time
    chat_rl.main([*STEPS, "--model_tag=narrow", *extra])
    weights = [(paths.checkpoint_dir("rl", tag) / "step_000003" / "model.safetensors").read_bytes()
               for tag in ("whole", "cut", "narrow")]
    assert weights[0] == weights[1] == weights[2]


def test_practice_with_lessons_keeps_what_practice_alone_forgets(sft):
    """The lessons' answer becomes likelier in a run with them, as no reward makes it."""
    def nats_of_a_lesson(tag):
        model, tokenizer, _ = checkpoint.load_model("rl", tag)
        ids, mask = chat.render(tokenizer, dialogue("hi 3", "Hello!"))
        targets = torch.tensor([ids[1:]]).masked_fill(~torch.tensor([mask[1:]]).bool(), -1)
        return float(model.loss(torch.tensor([ids[:-1]]), targets).detach())

    chat_rl.main([*STEPS, "--model_tag=alone"])
    chat_rl.main([*STEPS, "--model_tag=with", "--mixture=talk"])
    assert nats_of_a_lesson("with") < nats_of_a_lesson("alone") - 0.1
