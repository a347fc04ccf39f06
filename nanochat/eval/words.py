"""What a model says to the same five prompts at every checkpoint, so that one hears it learn.

    journal = Journal(..., words=Words(model, tokenizer, "mid"))

The answers are greedy: they draw no random number, so the training that asks for them stays the same to the bit. The
training loop asks, because it has the weights in memory; a second process would load each checkpoint again.
"""
from collections.abc import Sequence

from nanochat import sandbox
from nanochat.infer import Engine
from nanochat.infer.request import Completion
from nanochat.model import GPT
from nanochat.system import log
from nanochat.system.hardware import is_out_of_memory
from nanochat.system.terminal import CONTROL
from nanochat.tokenizer import Tokenizer, chat

TEXT = "Once upon a time"  # every stage continues it as a text
QUESTIONS = ("Who are you?", "What is 12 * 34?", "Tell me a story about a fox.",
             "I had 14 marbles and lost 6. How many are left?")
PROMPTS = (TEXT, *QUESTIONS)
SHOWN = {"base": 0, "mid": 2, "sft": 1, "rl": 4}  # the prompt of the line in the terminal: what this stage teaches
MAX_TOKENS = 24  # of an answer: a sum with its call of the calculator; each costs a laptop 8 ms
LINE = 110  # characters of the line in the terminal


class Words:
    """Asks a model that is being trained. `stage` decides the form of the questions: a base model knows no chat."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, stage: str):
        self.model, self.tokenizer, self.stage = model, tokenizer, stage

    def __call__(self, percent: int | None = None) -> list[list[str]]:
        """[[prompt, answer], …], and a line in the terminal if `percent` of the stage is given.

        To be called on one rank alone: no collective is called.
        """
        prompts = [prompt_ids(self.tokenizer, text, self.stage != "base" and text != TEXT) for text in PROMPTS]
        try:
            # A new engine each time: between two checkpoints its cache would take memory from the training.
            engine = Engine(self.model, self.tokenizer, sandbox.calculate, max_rows=len(prompts))
            answers = greedy_answers(engine, prompts, MAX_TOKENS)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            log.say("the model's words are left out here: they need more memory than the training leaves")
            return []
        if percent is not None:
            prompt, answer = (CONTROL.sub("\ufffd", text) for text in (PROMPTS[SHOWN[self.stage]],
                                                                       answers[SHOWN[self.stage]]))
            line = " ".join(f"{self.stage} {percent:3d} %  {prompt} → {answer}".split())
            log.say(line if len(line) <= LINE else line[:LINE - 1] + "…")
        return [list(pair) for pair in zip(PROMPTS, answers)]


def prompt_ids(tokenizer: Tokenizer, text: str, as_chat: bool) -> list[int]:
    """A question in the chat's format, or the beginning of a text."""
    if as_chat:
        return chat.render_prompt(tokenizer, {"messages": [{"role": "user", "content": text}]})
    return [tokenizer.bos_id, *tokenizer.encode(text)]


def greedy_answers(engine: Engine, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[str]:
    """The likeliest answer to each prompt. A prompt that fills the context gets an empty answer."""
    return [shown(completion) for [completion] in engine.generate(prompts, max_tokens=max_tokens, temperature=0.0)]


def shown(completion: Completion) -> str:
    """An answer with its calls of the tool in front: "[12*34 = 408] 12 * 34 = 408."."""
    return "".join(f"[{call} = {result}] " for call, result in completion.tool_calls) + completion.text.strip()
