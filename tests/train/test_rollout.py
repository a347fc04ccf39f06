from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from nanochat.infer import Engine
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system.files import UserError
from nanochat.system.runtime import Runtime
from nanochat.train.loop import optimize
from nanochat.train.losses import weighted_nll
from nanochat.train.rollout import Rollouts

PAD = 0


@dataclass
class Answer:
    ids: list[int]
    text: str
    mask: list[int] = field(default_factory=list)
    tool_calls: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self):
        self.mask = self.mask or [1] * len(self.ids)


def answers_of(texts):
    """Each sample answers with the given text; its ids are 50 and on."""
    return lambda prompts, seed: [[Answer([50 + i] * (1 + i), text) for i, text in enumerate(group)] for group in texts]


def make(generate, num_items=2, questions=2, rows=2, row_len=10, **more):
    items = [{"question": f"q{n}"} for n in range(num_items)]
    prompts = [[PAD, *range(10 + n, 12 + 2 * n)] for n in range(num_items)]  # 3, 4, … tokens
    more = {"runtime": Runtime(torch.device("cpu"), torch.float32), **more}
    return Rollouts(generate, items, prompts, lambda item, text: float(text.split()[-1]), questions_per_step=questions,
                    rows=rows, row_len=row_len, pad_id=PAD, **more)


def one_step(rollouts, samples):
    stream = iter(rollouts)
    return [next(stream) for _ in range(rollouts.micro_batches(samples))]


def test_advantages_are_rewards_less_their_mean_and_sum_to_zero_per_question():
    rollouts = make(answers_of([["1", "0", "0.5"], ["0", "0", "1"]]))
    batches = one_step(rollouts, 3)
    assert [tuple(batch.ids.shape) for batch in batches] == [(2, 9)] * 3  # six answers, two a micro-batch
    weights = torch.cat([batch.weights for batch in batches])
    targets = torch.cat([batch.targets for batch in batches])
    per_answer = [weights[row][targets[row] >= 0].unique().tolist() for row in range(6)]
    assert per_answer == [[0.5], [-0.5], [0.0], *([pytest.approx(n / 3)] for n in (-1, -1, 2))]
    assert sum(value for [value] in per_answer[:3]) == 0 and abs(sum(value for [value] in per_answer[3:])) < 1e-6


def test_rows_are_prompt_answer_padding_and_only_the_answer_is_a_target():
    rollouts = make(answers_of([["1", "0", "0"], ["0", "1", "1"]]))
    batches = one_step(rollouts, 3)
    ids, targets, weights = (torch.cat([getattr(batch, name) for batch in batches]) for name in
                             ("ids", "targets", "weights"))
    for row in range(6):
        prompt, answer = rollouts.prompts[row // 3], [50 + row % 3] * (1 + row % 3)
        whole = [*prompt, *answer] + [PAD] * (10 - len(prompt) - len(answer))
        assert ids[row].tolist() == whole[:-1]
        learnt = [position for position in range(9) if targets[row, position] >= 0]
        assert learnt == list(range(len(prompt) - 1, len(prompt) + len(answer) - 1))
        assert targets[row][learnt].tolist() == answer
        assert (weights[row][learnt] != 0).all() and weights[row].count_nonzero() == len(answer)
    assert all(batch.state == {"step": 1} for batch in batches)


def test_what_the_tool_said_is_no_target():
    def generate(prompts, seed):
        return [[Answer([7, 8, 9, 5], "1", [1, 0, 0, 1]), Answer([6], "0")]]

    [batch] = one_step(make(generate, num_items=1, questions=1), 2)
    assert batch.ids[0].tolist() == [0, 10, 11, 7, 8, 9, 5, 0, 0]
    assert batch.targets[0].tolist() == [-1, -1, 7, -1, -1, 5, -1, -1, -1]


def test_answers_that_share_a_row_teach_what_they_teach_alone(tiny_model, cpu):
    """Of a model whose documents do not see each other: the same loss and gradients from one row instead of six."""
    grads, num_rows = [], []
    for share_rows in (False, True):
        model = tiny_model(vocab_size=64, sequence_len=32, document_bos=PAD)
        rollouts = make(answers_of([["1", "0", "0"], ["0", "1", "1"]]), share_rows=share_rows,
                        row_len=33 if share_rows else 10)
        batches = one_step(rollouts, 3)
        num_rows.append(sum(int((batch.targets >= 0).any(dim=1).sum()) for batch in batches))
        assert sum(int((batch.targets >= 0).sum()) for batch in batches) == 12
        loss = sum(weighted_nll(model, False)(batch) for batch in batches)
        loss.backward()
        grads.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert num_rows == [6, 1]
    assert len(grads[0]) > 10 and all((a - b).norm() <= 1e-5 * a.norm() for a, b in zip(*grads))


def test_questions_all_right_or_all_wrong_are_dropped_and_their_place_is_padding():
    rollouts = make(answers_of([["1", "1"], ["0.1", "0.1"], ["1", "0"]]), num_items=3, questions=3)
    batches = one_step(rollouts, 2)
    assert len(batches) == 3
    assert (batches[0].targets >= 0).any(dim=1).all()  # the two answers that teach come first
    assert batches[0].ids[0, :5].tolist() == rollouts.prompts[2]
    for batch in batches[1:]:
        assert (batch.targets == -1).all() and (batch.weights == 0).all() and (batch.ids == PAD).all()
    assert rollouts.stats["rl/mixed_groups"] == pytest.approx(1 / 3)


def test_when_nothing_teaches_the_step_changes_nothing(learner, cpu):
    model, optimizer = learner()
    before = [p.detach().clone() for p in model.parameters()]
    rollouts = make(answers_of([["1", "1"], ["0", "0"]]))
    steps = list(optimize(weighted_nll(model, False), optimizer, iter(rollouts), Schedule(3), runtime=cpu, steps=3,
                          accumulate=rollouts.micro_batches(2)))
    assert [(step.loss, step.targets) for step in steps] == [(0.0, 0)] * 3
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before))


def test_lessons_end_every_step_and_ranks_and_steps_have_their_own():
    rows = np.arange(50, dtype=np.int32).reshape(5, 10), np.tile(np.arange(10) > 6, (5, 1))
    seen = []
    for rank in (0, 1):
        rollouts = make(answers_of([["1", "0"]]), lessons=rows,
                        runtime=Runtime(torch.device("cpu"), torch.float32, rank=rank, world_size=2))
        for _ in range(2):
            *answers, lesson = one_step(rollouts, 2)
            assert len(answers) == 1 and lesson.state == answers[0].state
            assert (lesson.ids == torch.from_numpy(rows[0])[lesson.ids[:, 0] // 10, :-1]).all()
            learnt = lesson.targets >= 0
            assert lesson.weights is None and (learnt == (torch.arange(9) > 5)).all()
            seen.append((lesson.ids[:, 0] // 10).tolist())
    assert seen == [[0, 1], [4, 0], [2, 3], [1, 2]]  # two rows for each rank and step; the first follow the last


def test_the_figures_of_a_step():
    def generate(prompts, seed):
        used = [("1+1", "2")]
        return [[Answer([1, 2], "right 1", tool_calls=used), Answer([1], "0", tool_calls=used), Answer([1], "0"),
                 Answer([1, 2, 3, 4], "1")], [Answer([1], "0") for _ in range(4)]]

    rollouts = make(generate)
    one_step(rollouts, 4)
    assert rollouts.stats.pop("speed/answer_tokens_per_second") > 0
    assert rollouts.stats == pytest.approx({
        "rl/reward_mean": 2 / 8, "rl/tool_use": 2 / 8, "rl/reward_with_tool": 1 / 2, "rl/tokens_per_answer": 12 / 8,
        "rl/pass_at_k": 1 / 2, "rl/mixed_groups": 1 / 2})
    assert len(rollouts.samples) == 8 and rollouts.samples[::4] == [
        {"question": "q0", "answer": "right 1", "tool_calls": [("1+1", "2")], "reward": 1.0},
        {"question": "q1", "answer": "0", "tool_calls": [], "reward": 0.0}]
    assert rollouts.answers[3] == ([*rollouts.prompts[0], 1, 2, 3, 4], [0] * len(rollouts.prompts[0]) + [1] * 4)


def test_items_of_functions_have_a_prompt_instead_of_a_question():
    rollouts = make(answers_of([["1", "0"], ["1", "0"]]))
    rollouts.items = [{"prompt": "def f(x):"}, {"prompt": "def g(x):"}]
    one_step(rollouts, 2)
    assert rollouts.samples[0]["question"] == "def f(x):"


def asked(**more):
    """The questions and seeds of four steps."""
    seen = []

    def generate(prompts, seed):
        seen.append((tuple(prompt[1] - 10 for prompt in prompts), seed))
        return [[Answer([5], "1"), Answer([5], "0")] for _ in prompts]

    rollouts = make(generate, num_items=5, row_len=20, **more)
    stream = iter(rollouts)
    for _ in range(4 * rollouts.micro_batches(2)):
        next(stream)
    return seen


def test_questions_are_asked_in_turn_and_a_resumed_run_goes_on():
    assert asked(seed=100) == [((0, 1), 100), ((2, 3), 101), ((4, 0), 102), ((1, 2), 103)]
    assert asked(seed=100, step=2)[:2] == [((4, 0), 102), ((1, 2), 103)]


def test_ranks_share_the_questions_of_a_step():
    ranks = [asked(questions=3, runtime=Runtime(torch.device("cpu"), torch.float32, rank, 2)) for rank in (0, 1)]
    assert [(first[0], second[0]) for first, second in zip(*ranks)][:2] == [((0, 2), (1,)), ((3, 0), (4,))]
    with pytest.raises(UserError, match="--examples_per_step=2 is too few for 4 ranks"):
        make(answers_of([]), questions=2, runtime=Runtime(torch.device("cpu"), torch.float32, 0, 4))


@pytest.mark.parametrize("questions, samples, rows, world_size, expected", [
    (16, 16, 16, 1, 16), (16, 16, 16, 8, 2), (3, 2, 4, 1, 2), (3, 3, 4, 2, 2), (1, 2, 8, 1, 1)])
def test_every_rank_yields_as_many_micro_batches(questions, samples, rows, world_size, expected):
    for rank in range(world_size):
        group, runtime = [Answer([5], "1")] * (samples - 1) + [Answer([5], "0")], Runtime(
            torch.device("cpu"), torch.float32, rank, world_size)
        rollouts = make(lambda prompts, seed, group=group: [group for _ in prompts], questions=questions, rows=rows,
                        runtime=runtime)
        assert rollouts.micro_batches(samples) == expected
        for _, batch in zip(range(expected), rollouts):
            assert batch.state == {"step": 1}
        assert next(iter(rollouts)).state == {"step": 2}


def test_with_a_real_engine_the_rewarded_token_becomes_likely(tiny_model, tokenizer, cpu):
    """Reward 1 for an answer that begins with an even byte: after thirty steps nearly all do."""
    model = tiny_model(vocab_size=tokenizer.vocab_size, scale=0.05)
    engine = Engine(model, tokenizer, max_rows=32)
    optimizer = Optimizer(groups_of(model, matrix_lr=0.01, embedding_lr=0.02, head_lr=0.01))
    prompts = [[tokenizer.bos_id, 65 + n] for n in range(4)]
    rollouts = Rollouts(lambda prompts, seed: engine.generate(prompts, max_tokens=1, samples=8, seed=seed),
                        [{"question": n} for n in range(4)], prompts,
                        lambda item, text: float(bool(text) and ord(text[0]) % 2 == 0), cpu, 4, 16, 4, tokenizer.bos_id)
    rewards = []
    for step in optimize(weighted_nll(model, False), optimizer, iter(rollouts), Schedule(30), runtime=cpu, steps=30,
                         accumulate=rollouts.micro_batches(8)):
        assert np.isfinite(step.loss)
        rewards.append(rollouts.stats["rl/reward_mean"])
    assert np.mean(rewards[:3]) < 0.7 and np.mean(rewards[-3:]) > 0.9
