"""The web chat: an OpenAI-compatible server with a page.

    python -m scripts.chat_web                 # the SFT model, on http://127.0.0.1:8000
    python -m scripts.chat_web -i rl -g d20 -p 8080 --host 0.0.0.0 --rate=60
    python -m scripts.chat_web -i rl --also=sft,base     # several models to choose from
    python -m scripts.chat_web --live          # while a run trains: each stage's newest checkpoint, loaded when asked

/run draws the run in the out folder, and those that --runs names.

Other programs: base URL http://127.0.0.1:8000/v1, the model's name from /v1/models, any API key unless the environment
variable NANOCHAT_API_KEY sets one (docs/clients.md). Behind a proxy: docs/proxies.md. The server writes no conversation
to disk.
"""
import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import torch
import uvicorn
from fastapi import FastAPI

from nanochat import sandbox
from nanochat.infer import Engine, SamplingParams
from nanochat.infer.cuda_graphs import CudaGraphs
from nanochat.infer.numba_decode import numba_decoder
from nanochat.infer.quantize import FORMS, packer
from nanochat.model import attention
from nanochat.serve.app import create_app
from nanochat.serve.live import LiveModels
from nanochat.serve.run_view import is_address
from nanochat.serve.worker import Failed, Worker
from nanochat.system import cli, log, paths
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.system.runtime import Runtime
from nanochat.system.runtime import start as start_runtime
from nanochat.train import checkpoint

GRACE_SECONDS = 3  # time for running answers to end after Ctrl-C
# How long a connection stays open between two requests. It is longer than a proxy keeps it (nginx, AWS: 60 s): a proxy
# that sends a request while the server closes the connection answers its client with an error.
KEEP_ALIVE_SECONDS = 75
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Questions that the page suggests if the checkpoint has no suggestions (nanochat/train/journal.py).
SUGGESTIONS = ("Hello! Who are you?", "What can you do?", "What is 12 * 34?", "Tell me a story.")


def flags(argv: list[str] | None) -> cli.Args:
    return cli.parse(
        argv, __doc__, **checkpoint.flags("sft"),
        also=flag("", "more stages whose models can be chosen, joined by commas"),
        live=flag(False, "serve the newest checkpoint of every stage, loaded at its first request, with little of the "
                         "machine: for a run that still trains"),
        runs=flag("", "more runs that /run shows, joined by commas: out folders, and addresses of servers elsewhere"),
        parent=flag(-1, "the server ends when the process of this number ends; −1 = none", at_least=1),
        num_gpus=flag(1, "replicas of the model, one per GPU", at_least=1, short="n"),
        # Defaults for requests without these fields
        temperature=flag(0.8, "default for requests without temperature", at_least=0, at_most=2, short="t"),
        top_k=flag(50, "default for requests without top_k", at_least=1, at_most=200, short="k"),
        max_tokens=flag(512, "default length limit of an answer", at_least=1, at_most=4096, short="m"),
        # The model
        dtype=flag("", "dtype of activations and weights: float32, bfloat16, float16", short="d"),
        quantize=flag("", "weights in 8 or 4 bits (CPU)", choices=("", *FORMS)),
        cuda_graphs=flag(False, "decode with CUDA graphs: faster small models (GPU; not yet tried on one)"),
        device_type=flag("", "cuda, mps or cpu"),
        # The server
        host=flag("127.0.0.1", "address to listen on; 0.0.0.0 lets others in"),
        port=flag(8000, "0 = any free one", at_least=0, at_most=65535, short="p"),
        max_rows=flag(16, "requests answered at the same time per replica; more wait", at_least=1),
        max_waiting=flag(64, "requests that wait per replica; more are refused (429)", at_least=0),
        step_tokens=flag(256, "prompt tokens processed per step: longer prompts take several steps", at_least=8),
        timeout=flag(600.0, "seconds an answer may take", at_least=0.1),
        drain=flag(30.0, "seconds that running answers get to end after SIGTERM", at_least=0),
        rate=flag(0.0, "requests a minute of one client; 0 = any number", at_least=0),
        host_names=flag("", "host names that browsers may use besides localhost (without a key), joined by commas"),
        cors_origin=flag("", "origins of web pages that may send requests from a browser, joined by commas; * = all"))


def main(argv: list[str] | None = None) -> None:
    args = flags(argv)
    stages = [args.source, *filter(None, args.also.split(","))]
    if unknown := [stage for stage in stages if stage not in paths.STAGES]:
        raise UserError(f"--also={args.also}: there is no stage {unknown[0]}; choose from {', '.join(paths.STAGES)}")
    origins = [origin(text) for text in filter(None, args.cors_origin.split(","))]

    # ---- Address and devices. First, so that a port in use is reported before the model is loaded.
    server_socket = listen(args.host, args.port)
    runtime = start_runtime(args.device_type or "cpu" * args.live, args.dtype)
    attention.always_fused()
    if args.cuda_graphs and runtime.device.type != "cuda":
        raise UserError(f"--cuda_graphs, but this runs on {runtime.device.type}; leave it out")
    if args.num_gpus > 1 and (runtime.device.type != "cuda" or torch.cuda.device_count() < args.num_gpus):
        raise UserError(f"--num_gpus={args.num_gpus}, but there are {torch.cuda.device_count()} GPUs here")

    # ---- Models. One worker per replica. If the GPU has no room for several stages, PyTorch raises an error.
    models: dict[str, list[Worker]] = LiveModels(lambda stage: load(stage, args, runtime)[1][0])
    if args.live:  # leaves the cores to the training; an answer may take longer
        torch.set_num_threads(1)
        os.nice(10)
    else:
        models = dict(load(stage, args, runtime) for stage in dict.fromkeys(stages))

    # ---- Server. Without a key, anyone who reaches the address can use the server.
    key = os.environ.get("NANOCHAT_API_KEY", "")
    defaults = SamplingParams(temperature=args.temperature, top_k=args.top_k, max_tokens=args.max_tokens)
    names = [name.strip().lower() for name in args.host_names.split(",")] if args.host in LOOPBACK and not key else []
    runs = [str(paths.base_dir()), *filter(None, args.runs.split(","))]
    app = create_app(models, defaults, key=key, requests_per_minute=args.rate, cors_origins=origins, names=names,
                     runs=[place if is_address(place) else str(Path(place).expanduser().absolute()) for place in runs])
    if args.host not in LOOPBACK and not key:
        log.say("warning: anyone who reaches this address can use the server; NANOCHAT_API_KEY sets a key")
    if args.parent > 0:
        threading.Thread(target=end_with, args=(args.parent,), daemon=True).start()
    urls = "  from other devices: ".join(url + "/run" * args.live
                                         for url in addresses(args.host, server_socket.getsockname()[1]))
    greeting = f"{', '.join(models) or 'the page of the run'} is ready: {urls}  (Ctrl-C ends it)"
    serve(app, server_socket, greeting, models, args.drain)
    for worker in all_workers(models):
        worker.stop()


def end_with(parent: int) -> None:
    """Ends this server when the process that started it has ended, even after kill -9."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def all_workers(models: dict[str, list[Worker]]) -> list[Worker]:
    return [worker for replicas in models.values() for worker in replicas]


def load(stage: str, args: cli.Args, runtime: Runtime) -> tuple[str, list[Worker]]:
    """(the name of a stage's model, a worker for each device)."""
    devices = [runtime.device] if args.num_gpus == 1 else [torch.device("cuda", i) for i in range(args.num_gpus)]
    workers = []
    for device in devices:
        model, tokenizer, info = checkpoint.load_model(stage, args.model_tag, args.step, device, runtime.dtype,
                                                       packer(args.quantize, device))
        # The weights are cast once; otherwise the model casts fp32 weights at every use. With --live PyTorch decodes:
        # compiling the decoder would take half a minute of the training's time.
        decoder = CudaGraphs if args.cuda_graphs else None if args.live else numba_decoder
        engine = Engine(model.eval().to(runtime.dtype), tokenizer, sandbox.calculate, args.max_rows, prefix_cache=True,
                        step_tokens=args.step_tokens, decoder=decoder)
        suggestions = () if stage == "base" else info.get("suggestions") or SUGGESTIONS
        workers.append(Worker(engine, args.max_waiting, args.timeout, suggestions, info["step"]))
    return f"nanochat-{stage}-{info['tag']}", workers


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. UserError if the address is not available."""
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()  # "::" means all addresses, also those of IPv4
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror or error}); "
                        f"stop the program that uses it or choose another port: -p {port % 65535 + 1}") from None


def addresses(host: str, port: int) -> list[str]:
    """The server's URL for a browser on this machine, and the one for other devices if they can reach it."""
    names = [host]
    if host in ("0.0.0.0", "::", ""):
        names = ["localhost"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # sends nothing: the system only chooses its own address
            names.append(probe.getsockname()[0])
    return [f"http://{f'[{name}]' if ':' in name else name}:{port}" for name in names]


def origin(text: str) -> str:
    """An origin as browsers write it: "HTTPS://Example.org:443/" → "https://example.org". UserError if it is none."""
    parts = urlsplit(text.strip())
    with contextlib.suppress(ValueError):  # the port is no number
        if text.strip() == "*" or parts.scheme not in ("http", "https") and parts.netloc:
            return text.strip().rstrip("/").lower()
        if parts.hostname and parts.scheme in ("http", "https") and parts.path in ("", "/") and not parts.query:
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            port = "" if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else f":{parts.port}"
            return f"{parts.scheme}://{host}{port}"
    raise UserError(f"--cors_origin={text} is not the origin of a web page; write it without a path, such as "
                    "https://example.org or http://localhost:3000")


def serve(app: FastAPI, server_socket: socket.socket, greeting: str, models: dict[str, list[Worker]],
          drain_seconds: float) -> None:
    """Serves until SIGINT or SIGTERM. Running answers then have some seconds to end, before they get an error."""
    class Server(uvicorn.Server):
        seconds: float = GRACE_SECONDS

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            log.say(greeting)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.seconds = drain_seconds if sig == signal.SIGTERM else GRACE_SECONDS
            super().handle_exit(sig, frame)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            self.config.timeout_graceful_shutdown = int(self.seconds + 2)  # two seconds more to send the last chunks
            failure = Failed(503, "the server is shutting down", "shutting_down")
            for worker in all_workers(models):
                asyncio.get_running_loop().call_later(self.seconds, worker.fail_all, failure)
            await super().shutdown(sockets)

    try:
        config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=KEEP_ALIVE_SECONDS)
        Server(config).run(sockets=[server_socket])
    except KeyboardInterrupt:  # uvicorn has shut down and raises the signal again
        pass


if __name__ == "__main__":
    cli.run(main)
