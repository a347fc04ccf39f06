"""Another OpenAI-compatible server under the same page, with everything the page can use: two checkpoints, a key,
probabilities, going on with an answer, completions. Each answer is decided by the request, and every body is kept."""
import json
import math

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from nanochat.serve import app as real

HOSTILE = """<script>pwned = 1</script><img src=x onerror="pwned = 2"><svg onload="pwned = 3">
# <iframe src="javascript:pwned = 4"></iframe>
[click](javascript:pwned=5) [click](data:text/html,<script>pwned=6</script>) ![x](http://127.0.0.1:9/x.png)
[in](/v1/models)
[good](https://example.com/a?b=c) **<b onclick="pwned=7">x</b>** `<i>code</i>` <style>body{display:none}</style>
> <a href="javascript:pwned=8">q</a>

| <u>a</u> | b |
|---|---|
| <img src=x onerror=pwned=9> | [t](vbscript:pwned=10) |

1. <details open ontoggle=pwned=11>x</details>
```html"><script>pwned=12</script>
</code></pre><script>pwned=13</script>
"""
STORY = ["Once", " upon", " a", " ti", "me", ".\n", "The", " fox"]


class Chat(BaseModel):
    messages: list[dict]
    model: str | None = None
    temperature: float = 1
    top_k: int | None = None
    top_p: float = 1
    min_p: float = 0
    max_tokens: int = 16
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    continue_final_message: bool = False
    ignore_eos: bool = False
    add_generation_prompt: bool = True
    stream: bool = False


class Text(BaseModel):
    prompt: str | list[int]
    echo: bool = False
    stream: bool = False
    model: str | None = None
    max_tokens: int = 16
    logprobs: int | None = None
    ignore_eos: bool = False


class Tokens(BaseModel):
    messages: list[dict] | None = None
    prompt: str | None = None
    add_special_tokens: bool = True


def odds(token: str) -> list[tuple[str, float]]:
    return [(token, 0.6), (" <b>wolf</b>", 0.2), (" cat", 0.1), ("<|assistant_end|>", 0.1)]


def piece(data: bytes) -> dict:
    text = data.decode(errors="replace")
    return {"token": text, "bytes": list(data), "logprob": math.log(0.6),
            "top_logprobs": [{"token": token, "bytes": None, "logprob": math.log(p)} for token, p in odds(text)]}


def chat_chunks(body: Chat):
    def chunk(delta=None, finish=None, logprobs=None, **extra):
        return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish, "logprobs": logprobs}], **extra}

    question = [message["content"] for message in body.messages if message["role"] == "user"][-1]
    dropped = {"forgotten_messages": 2} if question == "long ago" else {}
    yield chunk({"role": "assistant", "content": ""}, nanochat=dropped)
    if question == "silence":
        pass
    elif question == "formulas":
        yield chunk({"content": "Since \\(a^2\\) and $x_1$: \\[ \\frac{1}{2} \\] and\n\n"})
        yield chunk({"content": "$$\n\\sqrt{x}\n$$\n\n\\(\\unknown\\)"})
    elif question == "table":
        yield chunk({"content": "| Name | Age in years | Favourite dish | Where |\n|---|---|---|---|\n"
                                "| Annabelle | 41 | Strawberries | Mountains |\n| a \\| b | 2 | c | d |\n"})
    elif question == "an end":
        if body.ignore_eos:
            yield chunk({"content": " and it goes on"})
        elif not body.continue_final_message:
            yield chunk({"content": "The end."})
    elif question == "hostile":
        yield chunk({"content": HOSTILE})
    elif question == "program":
        yield chunk({"nanochat": {"tool": {"expression": "<b>\nfor x in y:\n  print(x)", "result": "1\n2"}}})
        yield chunk({"content": "| a | b |\n|---|--:|\n| 1 | 2 |\n\n# Done\n\n- x\n  - y\n- z\n\n> quoted\n\n---\n"})
        yield chunk({"content": "1. one\n2. two"})
    elif question == "emoji":
        pieces = [piece(b"\xf0\x9f"), piece(b"\xa6\x8a"), piece(b"!")]
        yield chunk({"content": "🦊"}, logprobs={"content": pieces[:2]})  # one character, two tokens
        yield chunk({"content": "!"}, logprobs={"content": pieces[2:]})
    else:
        for token in [" and", " on"] if body.continue_final_message else STORY:
            yield chunk({"content": token}, logprobs={"content": [piece(token.encode())]} if body.logprobs else None)
    yield chunk(finish="length" if body.max_tokens == 16 and question != "an end" else "stop")
    yield {"choices": [], "usage": {"prompt_tokens": 92, "completion_tokens": 8, "total_tokens": 100},
           "nanochat": {"timings": {"prompt_tokens": 92, "prompt_ms": 460.0, "completion_tokens": 8,
                                    "completion_ms": 20.0}, "ignored": ["tools"] if question == "long ago" else []}}


def text_chunks(body: Text):
    has_ended = body.prompt == "The end." and not body.ignore_eos
    for token in [] if has_ended else STORY:
        logprobs = {"tokens": [token], "token_logprobs": [math.log(0.6)], "text_offset": [0],
                    "top_logprobs": [{name: math.log(p) for name, p in odds(token)}]} if body.logprobs else None
        yield {"choices": [{"index": 0, "text": token, "finish_reason": None, "logprobs": logprobs}]}
    yield {"choices": [{"index": 0, "text": "", "finish_reason": "stop" if has_ended else "length", "logprobs": None}]}
    yield {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 8, "total_tokens": 12}}


def sse(chunks):
    yield ": stay awake\r\n\r\n"  # a comment, and the other line ending that the format allows
    for chunk in chunks:
        yield f"data: {json.dumps(chunk)}\r\n\r\n"
    yield "data: [DONE]\r\n\r\n"


def create_app(state: dict) -> FastAPI:
    """`state`: {"bodies": [], "key": ""}; bodies of requests are appended, a key that is set is demanded."""
    app = FastAPI()

    @app.middleware("http")
    async def check_key(request: Request, call_next):
        wrong = state["key"] and request.headers.get("authorization") != f"Bearer {state['key']}"
        if wrong and request.url.path.startswith("/v1"):
            return JSONResponse({"error": {"message": "wrong API key"}}, 401)
        return await call_next(request)

    @app.get("/v1/models")
    def models():
        return {"data": [{"id": f"nanochat-{name}-d4", "nanochat": {"context_tokens": 200, "max_tokens": 16,
                                                                      "suggestions": [f"What can {name} do?"]}}
                         for name in ("sft", "rl", "base")]}

    @app.post("/v1/chat/completions")
    def chat(body: Chat):
        state["bodies"].append(body.model_dump(exclude_unset=True))
        return StreamingResponse(sse(chat_chunks(body)), media_type="text/event-stream")

    @app.post("/v1/completions")
    def completions(body: Text):
        state["bodies"].append(body.model_dump(exclude_unset=True))
        if body.echo:
            tokens = ["<|bos|>", "Read", " by", " the", " model"]
            return {"choices": [{"logprobs": {"tokens": tokens, "token_logprobs": [None, -0.5, -0.5, -0.5, -0.5],
                                              "top_logprobs": [None, *[{"a": -0.1, "b": -2.0}] * 4]}}]}
        return StreamingResponse(sse(text_chunks(body)), media_type="text/event-stream")

    @app.post("/tokenize")
    def tokenize(body: Tokens):
        if body.messages:
            state["bodies"].append(body.model_dump(exclude_unset=True))
        return {"tokens": list(range(100, 108)) if body.messages else list(body.prompt.encode())}

    app.mount("/", real.Page(directory=real.UI, html=True))
    return app
