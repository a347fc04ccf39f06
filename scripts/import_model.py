"""Imports a model that another program trained: then every command works with it as with our own models.

    python -m scripts.import_model karpathy/nanochat-d32           # from the hub: 8 GB, resumed when interrupted
    python -m scripts.import_model chatsft_checkpoints/d20         # a folder of karpathy/nanochat, any version
    python -m scripts.chat_cli --model_tag=d32

Folders of transformers (model type `nanochat`) are read as well. Nothing in the files is executed, and damaged files
are refused. docs/import.md has the formats, and how such models are computed here.
"""
import tempfile
import time
from pathlib import Path

from nanochat.data import hub_model
from nanochat.formats import transformers, upstream
from nanochat.formats.foreign import ForeignModel
from nanochat.model import accounting
from nanochat.system import cli, log, paths
from nanochat.system.cli import flag
from nanochat.system.files import UserError, size_text
from nanochat.train import checkpoint


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__,
        source=flag("", "a folder, or a repository of the hub such as karpathy/nanochat-d32; --source= may be "
                        "left out", takes_words=True),
        stage=flag("", "the stage of the model, if its folder does not say it; selects one of several models in the "
                       "folder", choices=("", *paths.STAGES)),
        tag=flag("", "name of the new checkpoint folder; default: the source folder's, or d and the number of layers"),
        softcap=flag(15.0, "20 for a model of karpathy/nanochat trained from 2 to 9 March 2026: its files do not show "
                           "it", at_least=0.1),
        overwrite=flag(False, "replace the model of this stage and name"))
    started = time.monotonic()
    if not args.source:
        raise UserError("name a folder or a repository: python -m scripts.import_model karpathy/nanochat-d32")
    if args.tag and (args.tag != Path(args.tag).name or args.tag in (".", "..")):
        raise UserError(f"--tag={args.tag} is not a plain name; give one without slashes, e.g. d32")
    folder, tag = Path(args.source).expanduser(), args.tag
    if hub_model.is_repository(args.source):
        tag = tag or args.source.split("-")[-1]
        folder = hub_model.fetch(args.source, paths.base_dir() / "downloads" / args.source.replace("/", "--"))
    model = read(folder, args.stage, tag, args.softcap)
    path = save(model, args.overwrite)
    log.write_run("import_model", seconds=time.monotonic() - started, flags=vars(args))
    log.say(f"{model.stage}/{model.tag}: {accounting.num_parameters(model.config):,} parameters, context "
            f"{model.config.sequence_len:,}, {size_text((path / 'model.safetensors').stat().st_size)} in {path}")
    command = "base_eval" if model.stage == "base" else f"chat_cli --source={model.stage}"
    log.say(f"try it: python -m scripts.{command} --model_tag={model.tag}")


def read(folder: Path, stage: str, tag: str, softcap: float) -> ForeignModel:
    """The model in the folder, written by karpathy/nanochat or transformers. UserError if there is not exactly one."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder, and not a repository of the hub (owner/name)")
    present = upstream.checkpoints(folder)
    if not present and transformers.is_checkpoint(folder):
        return transformers.read(folder, stage, tag)
    chosen = [(stage or its_stage, its_tag, path) for its_stage, its_tag, path in present
              if len(present) == 1 or stage in ("", its_stage)]
    if len(chosen) != 1:
        names = ", ".join(str(path.relative_to(folder)) for _, _, path in chosen or present)
        content = f"several checkpoints: {names}" if names else "no model_*.pt and no config.json"
        raise UserError(f"{folder} has {content}; give the folder of one")
    [(its_stage, its_tag, path)] = chosen
    return upstream.read(path, its_stage, tag or its_tag, softcap)


def save(model: ForeignModel, overwrite: bool) -> Path:
    """Writes the checkpoint and returns its folder. UserError if a model of this name exists already."""
    folder = paths.checkpoint_dir(model.stage, model.tag)
    if checkpoint.present(folder) and not overwrite:
        raise UserError(f"{model.stage}/{model.tag} is there already, in {folder}; --tag=NAME gives the new model "
                        "another name, --overwrite replaces this one")
    with tempfile.TemporaryDirectory() as scratch:
        model.tokenizer.save(Path(scratch))
        tokenizer = checkpoint.read_tokenizer(Path(scratch))
    taken = checkpoint.Snapshot(model.config.as_dict(), {"model.safetensors": model.weights}, None)
    state = {"steps": model.step, "imported": model.history}
    path = checkpoint.write(folder, model.step, taken, state, tokenizer)
    checkpoint.keep_only([path], folder)
    return path


if __name__ == "__main__":
    cli.run(main)
