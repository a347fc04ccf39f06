"""/v1/inside: what happens inside the model before one token of an answer (docs/inside.md has the fields)."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nanochat.infer import Engine
from nanochat.infer.fit_prompt import fit_prompt, take_turns
from nanochat.infer.inside import Inside, Part, look_inside
from nanochat.infer.sampling import Logprob
from nanochat.serve.answers import token_name
from nanochat.serve.openai import UNLIMITED, Limit, Message, Natural, to_conversation
from nanochat.serve.worker import Failed, Worker
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer, chat

NUM_WORDS = 32  # tokens that a head attends to most; together they have nearly all of its attention


class InsideRequest(BaseModel):
    """A conversation that may end with the answer, or a text; and the position of the token in question."""

    model_config = ConfigDict(extra="forbid")  # an unknown field is an error

    model: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    prompt: str | None = None
    position: Natural | None = Field(None, ge=1)  # default: the answer's first token, or the one after the prompt
    max_tokens: Limit | None = None  # as in the request of the answer: a prompt leaves room for this many tokens

    @model_validator(mode="after")
    def _check(self) -> "InsideRequest":
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("expected either messages or prompt")
        if self.messages is not None and "user" not in [message.role for message in self.messages]:
            raise ValueError("messages: expected at least one from the user")
        return self


async def answer(body: InsideRequest, name: str, worker: Worker, room: int) -> dict[str, Any]:
    """The response to a request; `room`: tokens left free for an answer if the request has no max_tokens."""
    engine, room = worker.engine, room if body.max_tokens is None else body.max_tokens
    room = UNLIMITED if room == -1 else room
    ids, num_prompt, num_forgotten = read(engine, body, room)
    position = num_prompt if body.position is None else body.position
    if position > len(ids):
        raise Failed(400, f"position is {position:,}, but the model reads {len(ids):,} tokens here")
    said = ids[position] if position < len(ids) else None
    inside = await worker.call(lambda: look_inside(engine.model, ids[:position], said))
    return {"object": "inside", "model": name, "tokens": [token_name(engine.tokenizer, one) for one in ids],
            "prompt_tokens": num_prompt, "forgotten_messages": num_forgotten, "position": position,
            **in_words(inside, engine.tokenizer)}


def read(engine: Engine, body: InsideRequest, room: int) -> tuple[list[int], int, int]:
    """(ids that the model reads, number of them that are the prompt, number of dropped messages).

    The prompt is what it was for the answer; the answer is tokenized as the next turn of the conversation will read it.
    """
    tokenizer, context = engine.tokenizer, engine.config.sequence_len

    def check(num_chars: int, what: str) -> None:
        if num_chars > context * tokenizer.max_token_bytes:  # megabytes are not tokenized first
            raise UserError(f"the {what} is {num_chars:,} characters long, the model's context {context:,} tokens")

    if body.messages is None:
        check(len(body.prompt or ""), "prompt")
        ids = [tokenizer.bos_id, *tokenizer.encode(body.prompt or "")]
        if len(ids) > context:
            raise UserError(f"the prompt is {len(ids):,} tokens long, the model's context {context:,}; shorten it")
        return ids, len(ids), 0
    messages = to_conversation(body.messages)
    size = 1 + max(i for i, message in enumerate(messages) if message["role"] == "user")
    prompt, num_forgotten = fit_prompt(tokenizer, messages[:size], context, room)
    spoken: list[int] = []
    if turns := take_turns(messages[size:]):
        check(sum(len(part["text"]) for part in turns[-1]["content"]), "answer")
        spoken, _ = chat.render(tokenizer, {"messages": turns})  # take_turns put an empty question before the answer
        spoken = spoken[spoken.index(tokenizer.special_id("<|assistant_start|>")) + 1:]
    return (prompt + spoken)[:context], len(prompt), num_forgotten


def in_words(inside: Inside, tokenizer: Tokenizer) -> dict[str, Any]:
    """The fields of the response that describe `inside`: tokens as texts, layers and heads counted from 1."""
    def said(logprob: Logprob) -> dict[str, Any]:
        nats, best = logprob
        return {"logprob": nats, "top_logprobs": {token_name(tokenizer, token): other for token, other in best}}

    def place(part: Part) -> dict[str, Any]:
        if part.kind in ("embedding", "smear"):
            return {"part": part.kind, "layer": 0}
        return {"part": part.kind, "layer": part.layer + 1, **({"head": part.head + 1} if part.kind == "head" else {})}

    parts = []
    for part, logprob in inside.without.items():
        parts.append(place(part) | {"without": said(logprob)})
        if part.kind == "head":
            weights, places = inside.patterns[part.layer, part.head].topk(min(NUM_WORDS, inside.patterns.size(2)))
            parts[-1]["attends"] = [list(pair) for pair in zip(places.tolist(), weights.tolist(), strict=True)]
    return {"layers": [said(logprob) for logprob in inside.layers], "parts": parts,
            "neighbours": [place(part) | {"tokens": [[token_name(tokenizer, token), cosine] for token, cosine in near]}
                           for part, near in inside.neighbours.items()]}
