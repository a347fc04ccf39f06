r"""The interface of a task, and the kinds of task that most files in this folder only have to fill in.

A task turns items (dictionaries, as in its file) into conversations, and grades answers. There are three kinds:

    categorical   the answer is a letter, read from the logits        MultipleChoice
    generative    the answer is text, judged by `grade`               WordProblem, PythonFunction, ShortAnswer, Spelling
    source        conversations to learn from, nothing to grade       Source

To add a task, write `tasks/<name>.py`: a docstring (what it is, where it comes from, an example) and `TASK = …`. Add
the pattern of its files to EXAMS of nanochat/data/survey.py.
Not here: how items are batched, answered and averaged (nanochat/eval/chat.py).
"""
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nanochat import sandbox
from nanochat.system import files, paths
from nanochat.system.files import UserError

Item = dict[str, Any]
Message = dict[str, Any]
Conversation = dict[str, Any]


@dataclass(frozen=True)
class Task(ABC):
    """One task: the files of its items, how an item becomes a conversation, and which answers are right."""

    name: str  # the name of its Python file, without .py
    splits: dict[str, str]  # "train" and "test" → a file below the data folder, plain or with .gz
    title: str = ""  # its name in tables
    chance: float = 0.0  # the accuracy of guessing
    max_tokens: int = 160  # length limit of an answer
    held_back: bool = False  # held-out: nobody should read its questions, so only the verdicts are saved

    kind: ClassVar[str] = "generative"
    uses_tool: ClassVar[bool] = False  # if True, the report shows how often the calculator was called
    runs_programs: ClassVar[bool] = False  # grading runs a program that the model wrote (nanochat/sandbox)
    must_end: ClassVar[bool] = False  # an answer that max_tokens cut off is wrong
    fields: ClassVar[tuple[str, ...]] = ("question", "answer")  # fields that every item must have

    def path(self, split: str, data_dir: Path | None = None) -> Path | None:
        """The file of a split, or None if the task has no such split or the file is missing."""
        if split not in self.splits:
            return None
        path = files.beside(Path(data_dir or paths.data_dir()) / self.splits[split])
        return path if path.is_file() else None

    def require_path(self, split: str, data_dir: Path | None = None) -> Path:
        """The file of a split. UserError names the missing file and the command that makes it."""
        if split not in self.splits:
            raise UserError(f"task {self.name} has no {split!r} items, only {', '.join(self.splits)}")
        path = self.path(split, data_dir)
        if path is None:
            raise UserError(f"task {self.name} needs {self.splits[split]}(.gz) in {data_dir or paths.data_dir()}; "
                            "make the kindergarten's with `python -m nanochat.dataset`, or set --data (NANOCHAT_DATA) "
                            "to a folder of real data")
        return path

    def load(self, split: str, data_dir: Path | None = None) -> list[Item]:
        """All items of "train" or "test", in file order. UserError: the file is missing, or an item lacks a field."""
        path = self.require_path(split, data_dir)
        items = files.read_jsonl(path)
        # Checked here, where file and number are known: later a missing field would be a KeyError far from its cause.
        for number, item in enumerate(items, 1):
            if missing := [field for field in self.fields if field not in item]:
                raise UserError(f"{path}, item {number}: no {', '.join(missing)}; expected {', '.join(self.fields)}")
        return items

    def conversation(self, item: Item) -> Conversation:
        """The item as a conversation of two messages: the question, and the worked answer to learn from."""
        return exchange(item["question"], item["answer"])

    def turns(self, item: Item) -> list[list[Message]]:
        """For each answer that the model must give, the messages before it. Only the last answer is graded; most tasks
        have one."""
        return [self.conversation(item)["messages"][:-1]]

    def runs_program(self, item: Item) -> bool:
        """Whether grading this item runs a program that the model wrote."""
        return self.runs_programs

    def refuses(self, item: Item, completion: str) -> bool | None:
        """Whether the answer is a refusal although the model was taught an answer; None if the task does not check."""
        return None

    @abstractmethod
    def grade(self, item: Item, completion: str) -> bool:
        """Whether the text of an answer is right."""

    def reward(self, item: Item, completion: str) -> float:
        """The reward of an answer in reinforcement learning."""
        return float(self.grade(item, completion))


def exchange(question: str, answer: str | list[dict[str, str]]) -> Conversation:
    """A conversation of one question and its answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


LETTERS = "ABCDEFGHIJ"  # at most ten choices; the tasks here have three to five


class MultipleChoice(Task):
    """Items {"question", "choices", "answer": index}. The model answers with a letter and sees no examples:

        Multiple Choice question: What does a cow say?
        - oink=A
        - moo=B
        Respond only with the letter of the correct answer.

    The format follows karpathy/nanochat (`render_mc` in its tasks/common.py).
    """

    kind = "categorical"
    fields: ClassVar[tuple[str, ...]] = ("question", "choices", "answer")

    def conversation(self, item: Item) -> Conversation:
        # The choice comes before its letter: small models connect the two better in this order (karpathy/nanochat).
        choices = "".join(f"- {choice}={letter}\n" for choice, letter in zip(item["choices"], LETTERS, strict=False))
        prompt = (f"Multiple Choice question: {item['question']}\n{choices}"
                  "Respond only with the letter of the correct answer.")
        return exchange(prompt, self.answer(item))

    def letters(self, item: Item) -> list[str]:
        """The letters of the item's choices."""
        return list(LETTERS[:len(item["choices"])])

    def answer(self, item: Item) -> str:
        """The right letter."""
        return LETTERS[item["answer"]]

    def grade(self, item: Item, completion: str) -> bool:
        return completion.strip() == self.answer(item)  # nothing but the letter: "B or C" is wrong


TOOL_CALL = re.compile(r"<<([^>]*)=([^>]*)>>")  # all 27,575 marks in GSM8K match
FINAL_ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")  # the pattern by which GSM8K's authors grade: its first match


class WordProblem(Task):
    """Items {"question", "answer"} as GSM8K has them: <<48/2=24>> is a call of the calculator, `#### 72` the result."""

    uses_tool = True

    def conversation(self, item: Item) -> Conversation:
        return exchange(item["question"], tool_parts(item["answer"]))

    def grade(self, item: Item, completion: str) -> bool:
        answer = final_answer(completion)
        return answer is not None and answer == final_answer(item["answer"])


def tool_parts(text: str) -> list[dict[str, str]]:
    """A text with <<expression=result>> marks as parts of a message.

    >>> [part["text"] for part in tool_parts("She has 2*3=<<2*3=6>>6 eggs.")]
    ['She has 2*3=', '2*3', '6', '6 eggs.']
    """
    parts, end = [], 0
    for call in TOOL_CALL.finditer(text):
        parts += [("text", text[end:call.start()]), ("python", call[1]), ("python_output", call[2])]
        end = call.end()
    return [{"type": kind, "text": content} for kind, content in [*parts, ("text", text[end:])] if content]


def final_answer(text: str) -> str | None:
    """The first number after `####`, without commas. GSM8K compares these numbers as strings: "72.0" is not "72".

    >>> final_answer("so much\\n#### 1,080 coins"), final_answer("1080")
    ('1080', None)
    """
    match = FINAL_ANSWER.search(text)
    return match[1].replace(",", "") if match else None


CODE_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


class PythonFunction(Task):
    """Items in HumanEval's form: the prompt is a function's signature and docstring; tests are run on the answer."""

    runs_programs = True
    fields = ("prompt", "entry_point", "canonical_solution", "test")

    def conversation(self, item: Item) -> Conversation:
        return exchange(item["prompt"], f"```python\n{item['prompt']}{item['canonical_solution'].rstrip()}\n```")

    def program(self, item: Item, completion: str) -> str:
        """The program: the prompt's imports, the first fenced block (or the whole text), the tests and their call."""
        # The answer repeats the function's signature, but rarely the imports above it.
        imports = [line for line in item["prompt"].splitlines() if line.startswith(("import ", "from "))]
        block = CODE_BLOCK.search(completion)
        return "\n".join([*imports, block[1] if block else completion, item["test"], f"check({item['entry_point']})"])

    def grade(self, item: Item, completion: str) -> bool:
        # The answer is a program that a model wrote: it runs isolated, and must finish in time.
        return sandbox.run(self.program(item, completion), seconds=5, memory_mib=256).ok


class ShortAnswer(Task):
    """Items {"question", "answer", "required", "forbidden"}: an answer has all required words and no forbidden one.

    Forbidden words are the other possible values, so that an answer which lists all values is wrong.
    """

    fields = ("question", "answer", "required", "forbidden")

    def grade(self, item: Item, completion: str) -> bool:
        return (all(says(completion, word) for word in item["required"])
                and not any(says(completion, word) for word in item["forbidden"]))


def says(text: str, phrase: str) -> bool:
    """Whether the text contains the phrase as whole words or a whole number, ignoring case.

    >>> says("It is a Cow.", "cow"), says("Cowboys", "cow"), says("That is -12.5.", "12"), says("3*4 = 12.", "12")
    (True, False, False, True)
    """
    # Before it no letter, digit or minus, and no "1." or "1,"; after it no letter or digit, and no ".5" or ",000".
    return re.search(rf"(?<![\w-])(?<!\d[.,]){re.escape(phrase)}(?!\w|[.,]\d)", text, re.IGNORECASE) is not None


class Spelling(Task):
    """Items {"question", "answer"}: the answer must be the expected one, ignoring case, spaces and a full stop."""

    def grade(self, item: Item, completion: str) -> bool:
        spelled, expected = (" ".join(text.lower().split()).rstrip(".") for text in (completion, item["answer"]))
        return spelled == expected


class Source(Task):
    """Conversations to learn from; a subclass converts an item to a conversation. There is nothing to grade."""

    kind = "source"

    def grade(self, item: Item, completion: str) -> bool:
        raise UserError(f"task {self.name} is a source of conversations without right answers; it can't be evaluated")
