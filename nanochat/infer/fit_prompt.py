"""Making a conversation fit the context: the oldest exchanges go first, the system text and the newest message stay."""

from nanochat.system.files import UserError
from nanochat.tokenizer import chat


def fit_prompt(tokenizer, messages: list[dict], sequence_len: int, room: int,
               go_on: bool = False) -> tuple[list[int], int]:
    """Prompt ids that leave `room` tokens for the answer, and how many of the oldest messages were dropped for that.

    `messages` as in nanochat/tokenizer/chat.py, ending with the user's, or with `go_on` with the assistant's: then the
    answer goes on with that one. The room is cut to half the context, so that asking for a long answer never costs the
    whole conversation. UserError when the newest message alone is too long.
    """
    limit = sequence_len - min(room, sequence_len // 2)
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = messages[len(system):]
    first = 0  # of the turns that are kept; one exchange is two turns
    while True:
        left = {"messages": [*system, *turns[first:]]}
        prompt = chat.render(tokenizer, left)[0][:-1] if go_on else chat.render_prompt(tokenizer, left)
        if len(prompt) <= limit:
            return prompt, first
        if first + 2 >= len(turns):
            break
        first += 2
    if len(prompt) < sequence_len:  # no room to drop anything more: a shorter answer it is
        return prompt, first
    raise UserError(f"the message is {len(prompt):,} tokens long, the model's context {sequence_len:,}; shorten it")
