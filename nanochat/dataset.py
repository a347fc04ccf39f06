"""The text for training a model: made, fetched or imported.

    python -m nanochat.dataset                          no GPU: the kindergarten, made from a seed in seconds
    python -m nanochat.dataset -n 8                     with a GPU: 8 shards of FineWeb-Edu, 250M characters each
    python -m nanochat.dataset --source=climbmix -n 170
    python -m nanochat.dataset --source=smoltalk        conversations; likewise mmlu, gsm8k, arc, humaneval
    python -m nanochat.dataset --source=core            the 22 tasks of CORE, for base models
    python -m nanochat.dataset --data=FOLDER            imports your own text and conversations into out/data

Your own folder may hold .txt, .md, .jsonl, .json and .parquet files anywhere, or have the layout of out/data
(docs/design.md, "On disk"). docs/data.md says what is read, what is left out, and why.
"""
from itertools import islice
from pathlib import Path

from nanochat.data import core_bundle, hub, import_texts, shards, survey
from nanochat.system import cli, files, log, paths
from nanochat.system.files import UserError
from tasks import mixture

# Questions that the chat page suggests for a model of the kindergarten; a test asks a finished model all of them.
SUGGESTIONS = ("Hello! Who are you?", "What is 123 * 456?", "Tell me a story about a fox.",
               "Write a Python function that doubles a number.")


def describe(data_dir: Path) -> str:
    """Describes a data folder: shards, documents, characters (estimated from the first documents), exams and lessons.
    UserError if a shard is damaged, or if training or validation text is missing."""
    lines = []
    for split, paths_ in (("train", shards.train_shards(data_dir)), ("validation", shards.validation_shards(data_dir))):
        documents = sum(shards.open_shard(path).metadata.num_rows for path in paths_)
        sample = list(islice(shards.iter_texts(paths_), shards.DOCUMENTS_PER_GROUP))
        if not sample:
            raise UserError(f"the {split} shards of {data_dir} hold no documents; add text to them")
        characters = sum(map(len, sample)) / len(sample) * documents
        lines.append(f"{split}: {len(paths_)} shards, {documents:,} documents, about {characters:,.0f} characters")
    families = sorted({path.parent.relative_to(data_dir).as_posix() for pattern in ("*.jsonl", "*.jsonl.gz")
                       for path in data_dir.rglob(pattern)} - {"text"})
    lines.append(f"exams and lessons: {', '.join(families) or 'none'}")
    return "\n".join(lines)


def use_own(source: Path, target: Path, with_text: bool = True) -> None:
    """Imports a folder or a file of the user into the data folder `target`. If `source` is `target`, only checks it.
    Without `with_text` only conversations and exams are imported, beside the existing text."""
    source, target = source.expanduser().absolute(), target.absolute()
    if source.resolve() == target.resolve():  # nothing to import: the data is checked only
        log.say(f"{source}\n{describe(source)}")
        return
    if target.resolve() in source.resolve().parents:  # the import would remove the files that it reads
        raise UserError(f"--data={source} is in {target}, which the import writes; move it, or choose another folder "
                        "with --out")
    found = survey.survey(source, skipped_folders=(target.parent,), cache=target / "survey.json")
    log.say(f"{survey.shown(source)}\n{found.table()}")
    if not found.texts and not found.conversations:
        raise UserError(f"--data={survey.shown(source)} has nothing to learn from; expected text (.txt .md), rows "
                        "(.jsonl .json .parquet), or these packed (.gz .zst); docs/data.md has examples")
    record = import_texts.write(found, target, mixture.names_of_tasks(), with_text)["imported"]
    if record.get("has_words_of_conversations"):
        log.say("there is little text beside the conversations, so their words are used for pretraining too")
    log.say(f"imported into {target}\n{describe(target)}")


def make_kindergarten(data_dir: Path, seed: int, scale: float = 1.0) -> None:
    from kindergarten import write
    shards.claim(data_dir / "text", "kindergarten")
    files.write_json(data_dir / paths.SUGGESTIONS, SUGGESTIONS)
    write.write_all(data_dir, seed, scale)  # the last file that it writes says that the folder is complete
    log.say(f"made the kindergarten with seed {seed} in {data_dir}\n{describe(data_dir)}")


def fetch(source: hub.HubSource, num_files: int, data_dir: Path) -> None:
    log.say(source.note)
    if source.lessons:
        for name, num_rows in hub.fetch_lessons(source, data_dir).items():
            log.say(f"{data_dir / name}: {num_rows:,} rows")
    else:
        hub.fetch(source, num_files, data_dir / "text")
        log.say(describe(data_dir))


def default_source() -> str:
    import torch  # takes a second, and most sources do not need it
    return "fineweb-edu" if torch.cuda.is_available() else "kindergarten"


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, num_files=cli.flag(8, "training shards to fetch from the hub; -1 = all", at_least=-1, short="n"),
        source=cli.flag("", "default: fineweb-edu or kindergarten", choices=("", "kindergarten", "core", *hub.HUB)),
        core=cli.flag("", "with --source=core: another copy of eval_bundle.zip (an address, a file, or the folder into "
                          "which it was unpacked); default: NANOCHAT_CORE, otherwise the published bundle"),
        data=cli.flag("", "a folder or a file of your own to import (docs/data.md)"),
        text=cli.flag(True, "with --data: import the text too; otherwise conversations and exams only"),
        seed=cli.flag(1, "random seed of the kindergarten"),
        scale=cli.flag(1.0, "size of the kindergarten; below 1 for a trial", at_least=0.001, at_most=100),
        out=cli.flag("", "the run's folder; default: NANOCHAT_BASE_DIR or out/"))
    target = Path(args.out) / "data" if args.out else paths.data_dir()
    if args.data:
        use_own(Path(args.data), target, args.text)
    elif (name := args.source or default_source()) == "kindergarten":
        if not args.source:
            log.say("no GPU here: making the kindergarten (real text, which needs a GPU: --source=fineweb-edu)")
        make_kindergarten(target, args.seed, args.scale)
    elif name == "core":
        core_bundle.fetch(target, args.core)
    else:
        fetch(hub.HUB[name], args.num_files, target)


if __name__ == "__main__":
    cli.run(main)
