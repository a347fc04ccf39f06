"""Exports a model for other programs, or as one file that chats in a browser.

    python -m scripts.export --source=sft --to=page                   # one HTML file: open it in any browser, offline
    python -m scripts.export --source=sft --to=gguf --dtype=q8_0      # llama.cpp, ollama, LM Studio
    python -m scripts.export --source=sft --to=qwen3                  # transformers, vLLM, mlx-lm

gguf and qwen3 take models of the plain architecture only: of `base_train --portable`, or imported ones of October 2025.
The page takes every model. docs/export.md has the sizes and the differences. A new format is a module in
nanochat/formats/, and here an entry in DTYPES and `suffix` and an `elif`; a new dtype is also a choice of --dtype.
"""
import time
from pathlib import Path

from nanochat.formats import card, gguf, page, qwen3
from nanochat.model_card import licence
from nanochat.system import cli, files, log, paths
from nanochat.system.cli import flag
from nanochat.system.files import UserError, size_text
from nanochat.train import checkpoint

DTYPES = {"gguf": ("f16", "q8_0", "f32"), "qwen3": ("f16", "f32"), "page": ("f16", "f32")}


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__,
        source=flag("sft", "the stage whose model is exported", choices=paths.STAGES),
        model_tag=flag("", "name of the checkpoint folder; default: the only one"),
        step=flag(-1, "checkpoint step; −1 = the newest", at_least=0),
        to=flag("page", "the format", choices=tuple(DTYPES)),
        dtype=flag("f16", "dtype of the weights", choices=("f16", "q8_0", "f32")),
        out=flag("", "the file or folder to write; default: in out/export"),
        overwrite=flag(False, "replace the existing file or folder"))
    started = time.monotonic()
    if args.dtype not in DTYPES[args.to]:
        raise UserError(f"--to={args.to} has no --dtype={args.dtype}; give one of {', '.join(DTYPES[args.to])}")
    model, tokenizer, info = checkpoint.load_model(args.source, args.model_tag, args.step)
    name = f"nanochat-{args.source}-{info['tag']}"
    suffix = {"gguf": f"-{args.dtype}.gguf", "qwen3": "-qwen3", "page": ".html"}[args.to]
    out = Path(args.out).expanduser() if args.out else paths.base_dir() / "export" / f"{name}{suffix}"
    if out.exists() and not args.overwrite:
        raise UserError(f"{out} is there already; --out=PATH writes elsewhere, --overwrite replaces it")
    weights = {name: p.detach() for name, p in model.named_parameters()}
    text = card.card(name, args.source, info["step"], model.config, licence())
    if args.to == "gguf":
        gguf.write(out, name, model.config, weights, tokenizer, args.dtype)
        files.write_atomic(out.with_suffix(".Modelfile"), card.modelfile(out.name, model.config))
        files.write_atomic(out.with_suffix(".md"), text)
    elif args.to == "qwen3":
        qwen3.write(out, model.config, weights, tokenizer, args.dtype)
        files.write_atomic(out / "README.md", text)
    else:  # without a model card: a page is a single file
        page.write(out, name, model.config, weights, tokenizer, args.dtype)
    if args.to != "page" and model.config.softcap:
        log.say(f"note: the model was trained with a soft cap of {model.config.softcap:g}, which {args.to} does not "
                "have: sampled texts are bolder than here; the most probable ones are the same")
    size = sum(file.stat().st_size for file in out.rglob("*")) if out.is_dir() else out.stat().st_size
    log.write_run("export", seconds=time.monotonic() - started, flags=vars(args), bytes=size)
    log.say(f"{args.source}/{info['tag']} step {info['step']:,} as {args.to} ({args.dtype}): {size_text(size)}, {out}")


if __name__ == "__main__":
    cli.run(main)
