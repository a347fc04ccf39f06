"""A model's answers to five fixed prompts while it is trained, so that a reader can follow the learning.

    journal = Journal(..., words=Words(model, tokenizer, "mid", sandbox.calculate))

The journal asks at every fifth of a stage and at every checkpoint, in the process that trains, because this has the
weights in memory; a second process would load each checkpoint again. The answers are greedy: they draw no random
number, so the training that asks for them stays the same to the bit.
"""
import re
from collections.abc import Callable, Sequence

import torch

from nanochat.model import GPT
from nanochat.system import log
from nanochat.system.hardware import is_out_of_memory
from nanochat.tokenizer import Tokenizer, chat

TEXT = "Once upon a time"  # every stage continues it as a text
QUESTIONS = ("Who are you?", "What is 12 * 34?", "Tell me a story about a fox.",
             "I had 14 marbles and lost 6. How many are left?")
PROMPTS = (TEXT, *QUESTIONS)  # in the order in which they are shown
SHOWN = {"base": 0, "mid": 2, "sft": 1, "rl": 4}  # stage → prompt shown in the terminal, which suits the stage
MAX_TOKENS = 24  # per answer: enough for a sum with a call of the calculator; each token costs a laptop 12 ms
LINE = 110  # characters of the line in the terminal
ENDS = ("<|assistant_end|>", "<|bos|>", "<|user_start|>")  # tokens that end an answer
TOOL_TOKENS = ("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>")
# Calls, results and other special tokens: everything except the answer's text.
UNSAID = re.compile(rb"<\|(python|output)_start\|>.*?(<\|(python|output)_end\|>|$)|<\|\w+\|>", re.DOTALL)
Tool = Callable[[str], str | None]  # expression → result, None = refused


class Words:
    """Asks a model that is being trained. `stage` decides the form of the questions: a base model has not learnt the
    chat format, and therefore has no `tool`."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, stage: str, tool: Tool | None = None):
        self.model, self.tokenizer, self.stage, self.tool = model, tokenizer, stage, tool

    def __call__(self, percent: int | None = None) -> list[list[str]]:
        """[[prompt, answer], …]; [] if memory runs out. Prints a line in the terminal if `percent`, the progress of
        the stage, is given. Only one rank calls this: it uses no collective.
        """
        prompts = [prompt_ids(self.tokenizer, text, self.stage != "base" and text != TEXT) for text in PROMPTS]
        try:
            answers = greedy_answers(self.model, self.tokenizer, prompts, self.tool)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            log.say("the model's sample answers are skipped here: they need more memory than the training leaves")
            return []
        if percent is not None:
            prompt, answer = (log.CONTROL.sub("\ufffd", text) for text in (PROMPTS[SHOWN[self.stage]],
                                                                       answers[SHOWN[self.stage]]))
            line = " ".join(f"{self.stage} {percent:3d} %  {prompt} → {answer}".split())
            log.say(line if len(line) <= LINE else line[:LINE - 1] + "…")
        return [list(pair) for pair in zip(PROMPTS, answers)]


def prompt_ids(tokenizer: Tokenizer, text: str, as_chat: bool) -> list[int]:
    """The ids of a question in the chat format, or of the beginning of a text."""
    if as_chat:
        return chat.render_prompt(tokenizer, {"messages": [{"role": "user", "content": text}]})
    return [tokenizer.bos_id, *tokenizer.encode(text)]


@torch.inference_mode()
def greedy_answers(model: GPT, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]],
                   tool: Tool | None = None) -> list[str]:
    """The greedy answer to each prompt, at most MAX_TOKENS. A prompt that fills the context gets an empty answer."""
    # Without a cache: every new token processes its whole row again. With rows of 60 tokens this takes .28 s instead of
    # the engine's .19 s, but a reader of the training code need not read the engine.
    device = next(model.parameters()).device
    result_begins, result_ends = map(tokenizer.special_id, TOOL_TOKENS[2:])
    ends = set(map(tokenizer.special_id, ENDS))
    answers: list[list[int]] = [[] for _ in prompts]
    calls = ["" for _ in prompts]
    forced: list[list[int]] = [[] for _ in prompts]  # next tokens that the model does not choose: the tool's result
    for _ in range(MAX_TOKENS):
        rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers)]
        running = [i for i, row in enumerate(rows) if len(row) < model.config.sequence_len
                   and not ends.intersection(answers[i])]
        if not running:
            break
        # Rows are padded on the right, where causal attention never looks.
        width = max(len(rows[i]) for i in running)
        ids = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in running], device=device)  # (B, T)
        last = torch.tensor([len(rows[i]) - 1 for i in running], device=device)  # (B,): index of the last token
        logits = model.logits(model.hidden(ids)[torch.arange(len(running), device=device), last])  # (B, V)
        if tool:
            logits[:, [result_begins, result_ends]] = float("-inf")  # only the tool writes these
        for i, best in zip(running, logits.argmax(-1).tolist()):
            answers[i].append(forced[i].pop(0) if forced[i] else best)
            if tool and (expression := called(tokenizer, answers[i])) is not None:
                result = tool(expression) or "error"  # a refusal reads as in nanochat/infer/engine.py
                calls[i] += f"[{expression} = {result}] "
                forced[i] = [result_begins, *tokenizer.encode(result), result_ends]
    said = (UNSAID.sub(b"", tokenizer.decode_bytes(answer)).decode(errors="replace") for answer in answers)
    return [call + text.strip() for call, text in zip(calls, said)]


def called(tokenizer: Tokenizer, answer: list[int]) -> str | None:
    """The expression of the tool call that ends with the answer's last token; None if no call ends there."""
    begins, ends = map(tokenizer.special_id, TOOL_TOKENS[:2])
    if answer[-1] != ends or begins not in answer:
        return None
    expression = tokenizer.decode(answer[:-1]).rpartition(TOOL_TOKENS[0])[2]
    return None if TOOL_TOKENS[1] in expression else expression
