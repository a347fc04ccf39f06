"""The exams: a task's questions in the chat format, answered by the model, graded by the task.

A categorical question costs one forward pass: the answer is the offered letter with the largest logit after
`<|assistant_start|>`. A generative question is answered in words by the engine, greedily by default. Ranks share the
items and gather the verdicts, so the score does not depend on the number of ranks.

Not here: the questions and their grading (tasks/), tables and files of scores (scripts/chat_eval.py).
"""
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from math import comb
from pathlib import Path
from typing import Any

import torch

from nanochat import sandbox
from nanochat.eval.over_ranks import gather, grouped, my_groups, my_share
from nanochat.eval.statistics import mean_and_stderr, mean_centred
from nanochat.infer import Completion, Engine
from nanochat.infer.fit_prompt import fit_prompt
from nanochat.infer.request import EventReader
from nanochat.system import files, log
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer, chat
from tasks import Task
from tasks.common import MultipleChoice

CHAT_CORE = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval")
Item = dict[str, Any]  # a task's item, as on disk
Record = dict[str, Any]  # an answer and its verdict, as on disk
Message = dict[str, Any]
WORDS = ("prompt", "answer", "completion", "tool_calls")  # fields of a record with text: not saved for held-out tasks


@dataclass(frozen=True)
class ExamSettings:
    """Settings of an exam."""

    batch_size: int = 32  # rows per forward pass for categorical questions; the engine has its own batch size
    samples: int = 1  # answers to each question; more than one gives pass@k, and needs a temperature
    temperature: float = 0.0  # 0 = greedy
    top_k: int | None = None
    seed: int = 0
    max_tokens: int | None = None  # length limit of an answer; None = the task's own


DEFAULTS = ExamSettings()


@dataclass(frozen=True)
class Score:
    """Accuracy over `num_items` with its standard error, and further figures (see `_extra`)."""

    accuracy: float
    num_items: int
    stderr: float
    chance: float
    extra: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        extra: dict[str, Any] = fields.pop("extra")
        return fields | extra


def evaluate(task: Task, engine: Engine, max_items: int = -1, settings: ExamSettings = DEFAULTS,
             save_to: Path | None = None, report: Callable[[int], None] = lambda done: None) -> Score:
    """The score of `engine.model` on all test items, or on `max_items` random ones, which are the same for every model.

    With several samples the accuracy is their mean, and extra["pass_at"][k] the chance that one of k answers is right
    (Chen et al. 2021, equation 1). `save_to` gets a JSON line per answer. `report` is called with the number of items
    that this rank has done.
    """
    items: list[Item] = task.load("test")
    if not items:
        raise UserError(f"{task.path('test')} holds no items for task {task.name}; make or fetch it again")
    chosen, left_out = _gradable(task, items)
    if 0 < max_items < len(chosen):
        chosen = sorted(random.Random(1337).sample(chosen, max_items))
    records: list[Record] = []
    num_done = 0
    by_letter = task.kind == "categorical"
    # Generative: four questions per slot of the engine, so that the next one starts as soon as an answer has ended.
    for group in my_groups(chosen) if by_letter else grouped(my_share(chosen), 4 * engine.max_rows):
        numbered = [(index, items[index]) for index in group]
        if by_letter:
            records += _answer_by_letter(task, numbered, engine, settings.batch_size)
        else:
            records += _answer_in_words(task, numbered, engine, settings)
        num_done += len(group)
        report(num_done)
    records = sorted(gather(records), key=lambda record: record["item"])
    if save_to and log.is_main():
        hidden = WORDS if task.held_back else ()
        files.write_jsonl(save_to, [{key: value for key, value in record.items() if key not in hidden}
                                    for record in records])
    score = _score(task, records)
    if left_out:
        score.extra["left_out"] = left_out
    if task.held_back:
        score.extra["held_back"] = True
    return score


def _gradable(task: Task, items: list[Item]) -> tuple[list[int], str]:
    """(the items that can be graded here, a note about the others). Items whose answers are programs are left out if
    programs cannot be isolated here; the command refuses a task that consists of programs only."""
    programs = [index for index, item in enumerate(items) if task.runs_program(item)]
    if 0 < len(programs) < len(items):
        try:
            sandbox.require()
        except UserError as error:
            kinds = Counter(items[index].get("kind", "program") for index in programs)
            note = ", ".join(f"{number} of kind {kind}" for kind, number in kinds.items())
            return sorted(set(range(len(items))) - set(programs)), f"{note}: {error}"
    return list(range(len(items))), ""


def chat_core(scores: dict[str, dict[str, Any]]) -> tuple[float, float] | None:
    """ChatCORE and its standard error: the mean centred accuracy of five tasks, from scores in the form of `as_dict`.
    None if a task of CHAT_CORE is missing."""
    if not set(CHAT_CORE) <= set(scores):
        return None
    return mean_centred([(scores[name]["accuracy"], scores[name]["stderr"], scores[name]["chance"])
                         for name in CHAT_CORE])


@torch.inference_mode()
def _answer_by_letter(task: Task, numbered: Sequence[tuple[int, Item]], engine: Engine,
                      batch_size: int) -> Iterator[Record]:
    assert isinstance(task, MultipleChoice), f"{task.name} offers no letters"
    model, tokenizer = engine.model, engine.tokenizer
    device, room = next(model.parameters()).device, model.config.sequence_len
    prompts = [chat.render_prompt(tokenizer, task.conversation(item)) for _, item in numbered]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # rows of similar length: little padding
    for batch in grouped(by_length, batch_size):
        rows = [prompts[i][-room:] for i in batch]  # a prompt that is too long loses its beginning
        width = max(map(len, rows))
        # Padded on the right, where causal attention of the earlier tokens never looks.
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)  # (B, T)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)  # (B,): index of <|assistant_start|>
        hidden = model.hidden(ids)[torch.arange(len(rows), device=device), last]  # (B, C)
        for i, logits in zip(batch, model.logits(hidden).cpu()):  # (V,)
            index, item = numbered[i]
            letters = task.letters(item)
            letter_ids = [tokenizer.encode(letter)[0] for letter in letters]  # a byte is always one token
            best = int(logits[letter_ids].argmax())  # among the letters of the item only
            yield _record(task, index, item, letters[best], too_long=len(prompts[i]) > room)


def _answer_in_words(task: Task, numbered: Sequence[tuple[int, Item]], engine: Engine,
                     settings: ExamSettings) -> Iterator[Record]:
    room, max_tokens = engine.model.config.sequence_len, settings.max_tokens or task.max_tokens
    turns = [task.turns(item) for _, item in numbered]
    sampling = dict(max_tokens=max_tokens, temperature=settings.temperature, top_k=settings.top_k, seed=settings.seed)
    prompts = [chat.render_prompt(engine.tokenizer, {"messages": first}) for first, *_ in turns]
    answers = engine.generate(prompts, samples=settings.samples, **sampling)
    talks = [_Talk(index, item, list(first), later, prompt, completion)
             for (index, item), (first, *later), prompt, completions in zip(numbered, turns, prompts, answers)
             for completion in completions]
    for number in range(max(map(len, turns)) - 1):
        going_on = [talk for talk in talks if number < len(talk.later)]
        for talk in going_on:
            talk.messages += [spoken(engine.tokenizer, talk.completion), *talk.later[number]]
            talk.prompt = _prompt(engine, talk.messages, max_tokens)
        answers = engine.generate([talk.prompt for talk in going_on], samples=1, **sampling)
        for talk, (completion,) in zip(going_on, answers):
            talk.completion = completion
    for talk in talks:
        completion = talk.completion
        yield _record(task, talk.index, talk.item, completion.text, too_long=len(talk.prompt) >= room,
                      tool_calls=completion.tool_calls, stop_reason=completion.stop_reason)


@dataclass
class _Talk:
    """An item's conversation so far, one for each sample."""

    index: int
    item: Item
    messages: list[Message]
    later: list[list[Message]]  # the messages after each answer but the last
    prompt: list[int]
    completion: Completion


def spoken(tokenizer: Tokenizer, completion: Completion) -> Message:
    """A completion as a message of the assistant, with its calls of the tool, as the chat page sends it back."""
    reader = EventReader(tokenizer)
    events = [reader.push(token) for token in completion.ids]
    names = {"output": "python_output"}
    parts = [{"type": names.get(kind, kind), "text": "".join(event.text for event in group)}
             for kind, group in groupby(events, key=lambda event: event.kind)]
    return {"role": "assistant", "content": [part for part in parts if part["text"]] or ""}


def _prompt(engine: Engine, messages: list[Message], max_tokens: int) -> list[int]:
    """The prompt of a conversation; its oldest exchanges are dropped if they do not fit the context."""
    try:
        return fit_prompt(engine.tokenizer, messages, engine.model.config.sequence_len, max_tokens)[0]
    except UserError:  # the newest message is too long: the engine answers nothing to such a prompt
        return chat.render_prompt(engine.tokenizer, {"messages": messages})


def _record(task: Task, index: int, item: Item, completion: str, **facts: Any) -> Record:
    """An answer and its verdict, in the form that is saved."""
    question, answer = task.conversation(item)["messages"]
    group = item.get("subject") or item.get("kind") or ""
    ended = not task.must_end or facts.get("stop_reason") == "stop"
    if (refused := task.refuses(item, completion)) is not None:
        facts["refused"] = refused
    return {"item": index, "group": group, "prompt": question["content"], "answer": answer["content"],
            "completion": completion, "correct": ended and task.grade(item, completion), **facts}


def _score(task: Task, records: list[Record]) -> Score:
    verdicts: dict[int, list[bool]] = {}
    for record in records:
        verdicts.setdefault(record["item"], []).append(record["correct"])
    accuracy, stderr = mean_and_stderr([sum(samples) / len(samples) for samples in verdicts.values()])
    extra = _extra(task, records)
    num_samples = len(records) // len(verdicts)
    if num_samples > 1:
        powers_of_two = {2**power for power in range(num_samples.bit_length())}
        extra["pass_at"] = {k: _pass_at(k, list(verdicts.values())) for k in sorted(powers_of_two | {num_samples})}
        extra["pass_at_k"] = extra["pass_at"][num_samples]
    return Score(accuracy, len(verdicts), stderr, task.chance, extra)


def _pass_at(k: int, verdicts: list[list[bool]]) -> float:
    """The mean chance that at least one of k answers, drawn without replacement from a question's n, is right."""
    chances = [1 - comb(len(samples) - sum(samples), k) / comb(len(samples), k) for samples in verdicts]
    return mean_and_stderr(chances)[0]


def _extra(task: Task, records: list[Record]) -> dict[str, Any]:
    """tool_use: fraction of the answers that called the tool; accuracy_with_tool: fraction of these that are right
    (None: no answer called it). too_long: number of prompts that did not fit the context. refused: fraction of the
    questions with a taught answer that the model refused. groups: {subject or kind: [accuracy, answers]}."""
    extra: dict[str, Any] = {}
    if task.uses_tool:
        with_tool = [record["correct"] for record in records if record["tool_calls"]]
        extra["tool_use"] = len(with_tool) / len(records)
        extra["accuracy_with_tool"] = sum(with_tool) / len(with_tool) if with_tool else None
    if too_long := sum(record["too_long"] for record in records):
        extra["too_long"] = too_long
    if refused := [record["refused"] for record in records if "refused" in record]:
        extra["refused"] = sum(refused) / len(refused)
    groups: dict[str, list[bool]] = {}
    for record in records:
        groups.setdefault(record["group"], []).append(record["correct"])
    if len(groups) > 1:
        extra["groups"] = {name: [sum(right) / len(right), len(right)] for name, right in sorted(groups.items())}
    return extra
