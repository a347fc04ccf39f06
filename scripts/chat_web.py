"""The web chat: an OpenAI-compatible server with a page.

    python -m scripts.chat_web                 # the SFT model, on http://127.0.0.1:8000
    python -m scripts.chat_web -i rl -g d20 -p 8080 --host 0.0.0.0

Other programs: base URL http://127.0.0.1:8000/v1, any API key, any model name.
"""
import socket

import torch
import uvicorn

from nanochat import sandbox
from nanochat.infer import Engine
from nanochat.serve.app import Defaults, create_app
from nanochat.serve.worker import Worker
from nanochat.system import cli, log, paths, runtime
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.train import checkpoint


def flags(argv: list[str] | None):
    return cli.parse(
        argv, __doc__,
        num_gpus=flag(1, "replicas of the model, one per GPU", at_least=1, short="n"),
        source=flag("sft", "the stage whose model talks", choices=paths.STAGES, short="i"),
        temperature=flag(0.8, "default of requests that name none", at_least=0, at_most=2, short="t"),
        top_k=flag(50, "default of requests that name none", at_least=1, at_most=200, short="k"),
        max_tokens=flag(512, "default length limit of an answer", at_least=1, at_most=4096, short="m"),
        model_tag=flag("", "name of the checkpoint folder; default: the only one", short="g"),
        step=flag(-1, "checkpoint step; −1 = the newest", at_least=0, short="s"),
        port=flag(8000, "0 = any free one", at_least=0, at_most=65535, short="p"),
        dtype=flag("", "of activations and weights: float32, bfloat16, float16", short="d"),
        device_type=flag("", "cuda, mps or cpu"),
        host=flag("127.0.0.1", "address to listen on; 0.0.0.0 lets others in"),
        max_rows=flag(16, "requests answered at once per replica; more wait", at_least=1))


def main(argv: list[str] | None = None) -> None:
    args = flags(argv)
    door = listen(args.host, args.port)  # first: a port in use must not cost a wait for the model
    run = runtime.start(args.device_type, args.dtype)
    if args.num_gpus > 1 and (run.device.type != "cuda" or torch.cuda.device_count() < args.num_gpus):
        raise UserError(f"--num_gpus={args.num_gpus}, but there are {torch.cuda.device_count()} GPUs here")
    devices = [run.device] if args.num_gpus == 1 else [torch.device("cuda", i) for i in range(args.num_gpus)]
    step = None if args.step < 0 else args.step
    workers = []
    for device in devices:
        model, tokenizer, info = checkpoint.load_model(args.source, args.model_tag, step, device, run.dtype)
        model = model.eval().to(run.dtype)  # the model casts its weights where it uses them: better once
        workers.append(Worker(Engine(model, tokenizer, sandbox.calculate, args.max_rows)))
    name = f"nanochat-{args.source}-{info['tag']}"
    app = create_app(workers, name, Defaults(args.temperature, args.top_k, args.max_tokens))
    serve(app, door, f"{name} is ready: http://{shown(args.host)}:{door.getsockname()[1]}  (Ctrl-C ends it)")
    for worker in workers:
        worker.stop()


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


def serve(app, door: socket.socket, greeting: str) -> None:
    """Serve until SIGINT or SIGTERM; running answers get three seconds to end."""
    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            log.say(greeting)

    try:
        Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)).run(sockets=[door])
    except KeyboardInterrupt:  # uvicorn has shut down and passes the signal on
        pass


if __name__ == "__main__":
    cli.run(main)
