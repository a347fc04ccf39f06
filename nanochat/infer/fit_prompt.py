"""Makes a conversation fit the context: drops the oldest exchanges; the system text and the newest message stay."""

from typing import Any

from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer, chat


def fit_prompt(tokenizer: Tokenizer, messages: list[dict[str, Any]], sequence_len: int, room: int,
               continues: bool = False) -> tuple[list[int], int]:
    """Prompt ids that leave `room` tokens for the answer, and the number of old messages that were dropped for it.

    `messages` as in nanochat/tokenizer/chat.py. The last message is the user's; with `continues` it is the assistant's,
    and the answer continues it. UserError when the newest message alone is too long.
    """
    # Never more than half the context is kept free: a request for a long answer must not drop the whole conversation.
    limit = sequence_len - min(room, sequence_len // 2)
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = messages[len(system):]
    num_dropped = 0
    while True:
        conversation = {"messages": [*system, *turns[num_dropped:]]}
        if continues:  # leave the assistant's last turn open: drop the <|assistant_end|> behind it
            prompt = chat.render(tokenizer, conversation)[0][:-1]
        else:
            prompt = chat.render_prompt(tokenizer, conversation)
        if len(prompt) <= limit:
            return prompt, num_dropped
        if num_dropped + 2 >= len(turns):
            break
        num_dropped += 2  # a question goes together with its answer
    if len(prompt) < sequence_len:  # nothing is left to drop, so the answer gets less room than wished
        return prompt, num_dropped
    raise UserError(f"the message is {len(prompt):,} tokens long, the model's context {sequence_len:,}; shorten it")
