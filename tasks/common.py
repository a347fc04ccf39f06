r"""One interface for everything a model is asked, and the kinds of question that most task files only have to fill in.

A task turns items, dictionaries as they lie on disk, into conversations, and judges answers. Three kinds:

    categorical   the answer is a letter, read from the logits        MultipleChoice
    generative    the answer is text, judged by `grade`               WordProblem, PythonFunction, ShortAnswer, Spelling
    source        conversations to learn from, nothing to grade       Source

To add a task, write `tasks/<name>.py`: a docstring (what it is, where from, an example) and `TASK = …`. Nothing else.
Not here: how items are batched, generated and averaged (nanochat/eval/chat.py).
"""
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nanochat import sandbox
from nanochat.system import files, paths
from nanochat.system.files import UserError

LETTERS = "ABCDEFGHIJ"
TOOL_CALL = re.compile(r"<<([^>]*)=([^>]*)>>")  # GSM8K's mark: <<expression=result>>; all 27,575 of its marks match
FINAL_ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")
CODE_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Task(ABC):
    """`splits` maps "train" and "test" to files below the data folder; a `.gz` beside them does as well."""

    name: str  # that of its file
    splits: dict[str, str]
    title: str = ""  # as tables show it
    licence: str = "made by nanochat"
    chance: float = 0.0  # accuracy of a blind guess
    max_tokens: int = 160  # of an answer

    kind: ClassVar[str] = "generative"
    uses_tool: ClassVar[bool] = False  # worth reporting how often the calculator was called
    runs_programs: ClassVar[bool] = False  # grading runs what the model wrote (nanochat/sandbox)
    fields: ClassVar[tuple[str, ...]] = ("question", "answer")  # what every item has

    def path(self, split: str, data_dir: Path | None = None) -> Path | None:
        """The file of a split, or None where the task has no such split or the file is not there."""
        plain = Path(data_dir or paths.data_dir()) / self.splits.get(split, "")
        return next((path for path in (plain, Path(f"{plain}.gz")) if path.is_file()), None)

    def found(self, split: str, data_dir: Path | None = None) -> Path:
        """The file of a split. UserError says what is missing and how to get it."""
        if split not in self.splits:
            raise UserError(f"task {self.name} has no {split!r} items, only {', '.join(self.splits)}")
        path = self.path(split, data_dir)
        if path is None:
            raise UserError(f"task {self.name} needs {self.splits[split]}(.gz) in {data_dir or paths.data_dir()}; "
                            "make the kindergarten's with `python -m nanochat.dataset`, or set --data (NANOCHAT_DATA) "
                            "to a folder of real data")
        return path

    def load(self, split: str, data_dir: Path | None = None) -> list[dict]:
        """All items of "train" or "test", in file order. UserError: the file is missing, or an item lacks a field."""
        path = self.found(split, data_dir)
        items = files.read_jsonl(path)
        for number, item in enumerate(items, 1):
            if missing := [field for field in self.fields if field not in item]:
                raise UserError(f"{path}, item {number}: no {', '.join(missing)}; expected {', '.join(self.fields)}")
        return items

    def conversation(self, item: dict) -> dict:
        """The item as a conversation of two messages: the question, and the worked answer to learn from."""
        return exchange(item["question"], item["answer"])

    @abstractmethod
    def grade(self, item: dict, completion: str) -> bool:
        """Whether the text of an answer is right."""

    def reward(self, item: dict, completion: str) -> float:
        """What reinforcement learning pays for an answer."""
        return float(self.grade(item, completion))


def exchange(question: str, answer: str | list[dict]) -> dict:
    """A conversation of one question and its answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


class MultipleChoice(Task):
    """Items {"question", "choices", "answer": index}; answered by a letter, zero-shot (FACTS §4 has the prompt)."""

    kind = "categorical"
    fields = ("question", "choices", "answer")

    def conversation(self, item: dict) -> dict:
        # the choice comes before its letter: small models bind them far better that way round
        choices = "".join(f"- {choice}={letter}\n" for choice, letter in zip(item["choices"], LETTERS, strict=False))
        prompt = (f"Multiple Choice question: {item['question']}\n{choices}"
                  "Respond only with the letter of the correct answer.")
        return exchange(prompt, self.answer(item))

    def letters(self, item: dict) -> list[str]:
        """The letters on offer."""
        return list(LETTERS[:len(item["choices"])])

    def answer(self, item: dict) -> str:
        """The right letter."""
        return LETTERS[item["answer"]]

    def grade(self, item: dict, completion: str) -> bool:
        return completion.strip() == self.answer(item)


class WordProblem(Task):
    """Items {"question", "answer"} as GSM8K has them: <<48/2=24>> is a call of the calculator, `#### 72` the result."""

    uses_tool = True

    def conversation(self, item: dict) -> dict:
        return exchange(item["question"], tool_parts(item["answer"]))

    def grade(self, item: dict, completion: str) -> bool:
        found = final_answer(completion)
        return found is not None and found == final_answer(item["answer"])


def tool_parts(text: str) -> list[dict]:
    """A text with <<expression=result>> marks as parts of a message.

    >>> [part["text"] for part in tool_parts("She has 2*3=<<2*3=6>>6 eggs.")]
    ['She has 2*3=', '2*3', '6', '6 eggs.']
    """
    parts, end = [], 0
    for call in TOOL_CALL.finditer(text):
        parts += [("text", text[end:call.start()]), ("python", call[1]), ("python_output", call[2])]
        end = call.end()
    return [{"type": kind, "text": part} for kind, part in [*parts, ("text", text[end:])] if part]


def final_answer(text: str) -> str | None:
    """The first number after `####` without its commas; equality of these strings is GSM8K's rule.

    >>> final_answer("so much\\n#### 1,080 coins"), final_answer("1080")
    ('1080', None)
    """
    found = FINAL_ANSWER.search(text)
    return found[1].replace(",", "") if found else None


class PythonFunction(Task):
    """Items as HumanEval has them: the prompt is a function's head, and the answer is run against the item's tests."""

    runs_programs = True
    fields = ("prompt", "entry_point", "canonical_solution", "test")

    def conversation(self, item: dict) -> dict:
        return exchange(item["prompt"], f"```python\n{item['prompt']}{item['canonical_solution'].rstrip()}\n```")

    def program(self, item: dict, completion: str) -> str:
        """What is run: the prompt's imports, the first fenced block (else the whole text), the tests and their call."""
        imports = [line for line in item["prompt"].splitlines() if line.startswith(("import ", "from "))]
        block = CODE_BLOCK.search(completion)
        return "\n".join([*imports, block[1] if block else completion, item["test"], f"check({item['entry_point']})"])

    def grade(self, item: dict, completion: str) -> bool:
        return sandbox.run(self.program(item, completion), seconds=5, memory_mib=256).ok


class ShortAnswer(Task):
    """Items {"question", "answer", "required", "forbidden"}: all required words are to be said, no forbidden one.

    Forbidden are the other values that could stand there, so that naming all of them does not count.
    """

    fields = ("question", "answer", "required", "forbidden")

    def grade(self, item: dict, completion: str) -> bool:
        return (all(says(completion, word) for word in item["required"])
                and not any(says(completion, word) for word in item["forbidden"]))


def says(text: str, phrase: str) -> bool:
    """Whether the text has the phrase as whole words or a whole number, whatever its capitals.

    >>> says("It is a Cow.", "cow"), says("Cowboys", "cow"), says("That is -12.5.", "12"), says("3*4 = 12.", "12")
    (True, False, False, True)
    """
    return re.search(rf"(?<![\w-])(?<!\d[.,]){re.escape(phrase)}(?!\w|[.,]\d)", text, re.IGNORECASE) is not None


class Spelling(Task):
    """Items {"question", "answer"}: the answer must be the expected one, but for capitals, spaces, a full stop."""

    def grade(self, item: dict, completion: str) -> bool:
        said, expected = (" ".join(text.lower().split()).rstrip(".") for text in (completion, item["answer"]))
        return said == expected


class Source(Task):
    """Conversations to learn from; subclasses say how an item becomes one. There is nothing to grade."""

    kind = "source"

    def grade(self, item: dict, completion: str) -> bool:
        raise UserError(f"task {self.name} is a source of conversations without right answers; it can't be evaluated")
