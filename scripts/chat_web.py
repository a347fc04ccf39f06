"""The web chat: an OpenAI-compatible server with a page.

    python -m scripts.chat_web                 # the SFT model, on http://127.0.0.1:8000
    python -m scripts.chat_web -i rl -g d20 -p 8080 --host 0.0.0.0 --rate=60
    python -m scripts.chat_web -i rl --also=sft,base     # several models to choose from

Other programs: base URL http://127.0.0.1:8000/v1, the model's name from /v1/models, any API key unless the environment
variable NANOCHAT_API_KEY sets one. Nothing that is said is written anywhere.
"""
import asyncio
import os
import signal
import socket

import torch
import uvicorn

from nanochat import sandbox
from nanochat.infer import Engine, SamplingParams
from nanochat.infer.quantize import FORMS, quantized
from nanochat.serve.app import create_app
from nanochat.serve.worker import Failed, Worker
from nanochat.system import cli, log, paths, runtime
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.train import checkpoint

GRACE_SECONDS = 3  # after Ctrl-C
# What the page offers to ask a model whose checkpoint names nothing (nanochat/train/journal.py).
SUGGESTIONS = ("Hello! Who are you?", "What can you do?", "What is 12 * 34?", "Tell me a story.")


def flags(argv: list[str] | None):
    return cli.parse(
        argv, __doc__,
        num_gpus=flag(1, "replicas of the model, one per GPU", at_least=1, short="n"),
        source=flag("sft", "the stage whose model talks", choices=paths.STAGES, short="i"),
        also=flag("", "more stages whose models can be chosen, joined by commas"),
        temperature=flag(0.8, "default of requests that name none", at_least=0, at_most=2, short="t"),
        top_k=flag(50, "default of requests that name none", at_least=1, at_most=200, short="k"),
        max_tokens=flag(512, "default length limit of an answer", at_least=1, at_most=4096, short="m"),
        model_tag=flag("", "name of the checkpoint folder; default: the only one", short="g"),
        step=flag(-1, "checkpoint step; −1 = the newest", at_least=0, short="s"),
        port=flag(8000, "0 = any free one", at_least=0, at_most=65535, short="p"),
        dtype=flag("", "of activations and weights: float32, bfloat16, float16", short="d"),
        quantize=flag("", "weights in fewer bits (CPU)", choices=("", *FORMS)),
        cuda_graphs=flag(False, "decode with CUDA graphs: faster small models (GPU; not yet tried on one)"),
        device_type=flag("", "cuda, mps or cpu"),
        host=flag("127.0.0.1", "address to listen on; 0.0.0.0 lets others in"),
        max_rows=flag(16, "requests answered at once per replica; more wait", at_least=1),
        max_waiting=flag(64, "requests that wait per replica; more are refused (429)", at_least=0),
        step_tokens=flag(256, "tokens read in a step: long prompts are read in parts of this size", at_least=8),
        timeout=flag(600.0, "seconds an answer may take", at_least=0.1),
        drain=flag(30.0, "seconds that running answers get to end after SIGTERM", at_least=0),
        rate=flag(0.0, "requests a minute of one client; 0 = any number", at_least=0),
        cors_origin=flag("", "web page origin that may ask from a browser, beside the own page"))


def main(argv: list[str] | None = None) -> None:
    args = flags(argv)
    stages = [args.source, *filter(None, args.also.split(","))]
    if unknown := [stage for stage in stages if stage not in paths.STAGES]:
        raise UserError(f"--also={args.also}: there is no stage {unknown[0]}; choose of {', '.join(paths.STAGES)}")
    door = listen(args.host, args.port)  # first: a port in use must not cost a wait for the model
    run = runtime.start(args.device_type, args.dtype)
    if args.cuda_graphs and run.device.type != "cuda":
        raise UserError(f"--cuda_graphs, but this runs on {run.device.type}; leave it out")
    if args.num_gpus > 1 and (run.device.type != "cuda" or torch.cuda.device_count() < args.num_gpus):
        raise UserError(f"--num_gpus={args.num_gpus}, but there are {torch.cuda.device_count()} GPUs here")
    served = dict(load(stage, args, run) for stage in dict.fromkeys(stages))
    workers = [worker for replicas in served.values() for worker in replicas]
    key = os.environ.get("NANOCHAT_API_KEY", "")
    defaults = SamplingParams(temperature=args.temperature, top_k=args.top_k, max_tokens=args.max_tokens)
    app = create_app(served, defaults, key=key, requests_per_minute=args.rate, cors_origin=args.cors_origin)
    if args.host not in ("127.0.0.1", "localhost", "::1") and not key:
        log.say("warning: whoever reaches this address can use it; NANOCHAT_API_KEY sets a key")
    url = f"http://{shown(args.host)}:{door.getsockname()[1]}"
    serve(app, door, f"{', '.join(served)} is ready: {url}  (Ctrl-C ends it)", workers, args.drain)
    for worker in workers:
        worker.stop()


def load(stage: str, args, run: runtime.Runtime) -> tuple[str, list[Worker]]:
    """A stage's model: its name, and a worker on each device."""
    devices = [run.device] if args.num_gpus == 1 else [torch.device("cuda", i) for i in range(args.num_gpus)]
    workers = []
    for device in devices:
        model, tokenizer, info = checkpoint.load_model(
            stage, args.model_tag, None if args.step < 0 else args.step, device, run.dtype)
        model = quantized(model.eval().to(run.dtype), args.quantize)  # it casts where it uses weights: better once
        engine = Engine(model, tokenizer, sandbox.calculate, args.max_rows, prefix_cache=True,
                        step_tokens=args.step_tokens, static_shapes=args.cuda_graphs, numba_decode=True)
        suggestions = () if stage == "base" else info.get("suggestions") or SUGGESTIONS
        workers.append(Worker(engine, args.max_waiting, args.timeout, suggestions))
    return f"nanochat-{stage}-{info['tag']}", workers


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; UserError when the address cannot be had."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror or error}); "
                        f"stop what uses it or choose another port: -p {port % 65535 + 1}") from None


def shown(host: str) -> str:
    """The name a browser on this machine can use."""
    return "localhost" if host in ("0.0.0.0", "::", "") else host


def serve(app, door: socket.socket, greeting: str, workers: list[Worker], drain_seconds: float) -> None:
    """Serve until SIGINT or SIGTERM. Running answers then get some time to end; what has not ended is told why."""
    class Server(uvicorn.Server):
        seconds = GRACE_SECONDS

        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            log.say(greeting)

        def handle_exit(self, sig, frame) -> None:
            self.seconds = drain_seconds if sig == signal.SIGTERM else GRACE_SECONDS
            super().handle_exit(sig, frame)

        async def shutdown(self, sockets=None) -> None:
            self.config.timeout_graceful_shutdown = self.seconds + 2  # two to deliver the last words
            going = Failed(503, "the server is shutting down", "shutting_down")
            for worker in workers:
                asyncio.get_running_loop().call_later(self.seconds, worker.fail_all, going)
            await super().shutdown(sockets)

    try:
        Server(uvicorn.Config(app, log_level="warning")).run(sockets=[door])
    except KeyboardInterrupt:  # uvicorn has shut down and passes the signal on
        pass


if __name__ == "__main__":
    cli.run(main)
