"""The text a model is trained on: made, fetched or checked.

    python -m nanochat.dataset                          no GPU: the kindergarten, made here from a seed in seconds
    python -m nanochat.dataset -n 8                     with a GPU: 8 shards of FineWeb-Edu, 250M characters each
    python -m nanochat.dataset --source=climbmix -n 170
    python -m nanochat.dataset --source=smoltalk        conversations; likewise mmlu, gsm8k, arc, humaneval
    python -m nanochat.dataset --data=FOLDER            checks your own data; plain text is imported

Your own folder has the layout of out/data (docs/design.md, "On disk"): `text/*.parquet` with a column `text`. A folder
of .txt, .md or .jsonl files is imported into out/data/text instead.
"""
from pathlib import Path

from nanochat.data import shards, sources
from nanochat.system import cli, log, paths
from nanochat.system.files import UserError


def survey(data_dir: Path) -> str:
    """What lies in a data folder, in words: shards, documents, characters (an estimate from the first group), exams and
    lessons. UserError when a shard is damaged or training or validation text is missing."""
    lines = []
    for split, paths_ in (("train", shards.train_shards(data_dir)), ("validation", shards.validation_shards(data_dir))):
        opened = [shards.open_shard(path) for path in paths_]
        documents = sum(shard.metadata.num_rows for shard in opened)
        sample = shards.read_group(opened[0], 0, paths_[0]) if opened[0].num_row_groups else []
        if not sample:
            raise UserError(f"{paths_[0]} holds no documents; remove it and run: python -m nanochat.dataset")
        characters = sum(map(len, sample)) / len(sample) * documents
        lines.append(f"{split}: {len(opened)} shards, {documents:,} documents, about {characters:,.0f} characters")
    families = sorted({path.parent.relative_to(data_dir).as_posix() for pattern in ("*.jsonl", "*.jsonl.gz")
                       for path in data_dir.rglob(pattern)} - {"text"})
    lines.append(f"exams and lessons: {', '.join(families) or 'none'}")
    return "\n".join(lines)


def use_folder(folder: Path, target: Path) -> None:
    """Checks a data folder; one without shards but with plain text is imported into `target`."""
    if list((folder / "text").glob("*.parquet")):
        log.say(f"{folder}\n{survey(folder)}")
        return
    plain = sources.plain_files(folder)
    if not plain:
        raise UserError(f"--data={folder}: expected a folder with text/*.parquet, or with .txt, .md or .jsonl files")
    documents, characters = sources.import_texts(plain, target / "text")
    log.say(f"imported {len(plain)} files with {documents:,} documents, {characters:,} characters into {target}\n"
            f"{survey(target)}")


def make_kindergarten(data_dir: Path, seed: int, scale: float = 1.0) -> None:
    from kindergarten import write
    sources.claim(data_dir / "text", "kindergarten")
    write.write_all(data_dir, seed, scale)
    log.say(f"made the kindergarten with seed {seed} in {data_dir}\n{survey(data_dir)}")


def default_source() -> str:
    """FineWeb-Edu where there is a GPU to learn it, else the kindergarten."""
    import torch
    return "fineweb-edu" if torch.cuda.is_available() else "kindergarten"


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, num_files=cli.flag(8, "training shards to fetch from the hub; -1 = all", at_least=1, short="n"),
        source=cli.flag("", "empty = what suits this machine", choices=("", "kindergarten", *sources.HUB)),
        data=cli.flag("", "a folder of your own data to check or import"), seed=cli.flag(1, "of the kindergarten"),
        scale=cli.flag(1.0, "the kindergarten's size; less for a trial", at_least=0.001, at_most=100),
        out=cli.flag("", "the run's folder; empty = NANOCHAT_BASE_DIR or out/"))
    target = Path(args.out) / "data" if args.out else paths.data_dir()
    if args.data:
        return use_folder(Path(args.data), target)
    source = args.source or default_source()
    if source == "kindergarten":
        if not args.source:
            log.say("no GPU here: making the kindergarten (real text: --source=fineweb-edu, a GPU's worth of work)")
        return make_kindergarten(target, args.seed, args.scale)
    if sources.HUB[source].lessons:
        log.say(sources.HUB[source].note)
        for name, rows in sources.fetch_lessons(sources.HUB[source], target).items():
            log.say(f"{target / name}: {rows:,} rows")
        return
    log.say(f"{sources.HUB[source].note}\nfetching {args.num_files} training shards and the validation shard "
            f"of {sources.HUB[source].repo} to {target / 'text'}")
    sources.fetch(sources.HUB[source], args.num_files, target / "text")
    log.say(survey(target))


if __name__ == "__main__":
    cli.run(main)
