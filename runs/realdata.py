"""The same pipeline on your own text and conversations: python -m runs.realdata --data DIR [--depth 4 --minutes 10]

DIR is a folder of notes, conversations and, optionally, exams; docs/data.md says which files are read. Without
conversations the run ends with a base model that continues text; without text, pretraining reads the text of the
conversations. `--minutes` is the training time of all stages together. In ten minutes two cores read a few million
tokens: such a model repeats its training text, and exams stay near chance. A GPU and `--minutes 600` change that.
"""
from argparse import Namespace
from typing import Any

import tasks
from nanochat import recipe
from nanochat.data.import_texts import chat_names
from nanochat.data.survey import Survey, survey
from nanochat.recipe import Stage
from nanochat.system import cli
from nanochat.system.files import UserError
from tasks import mixture

LITTLE_BYTES = 20e6  # with less text even the smallest model reads the text several times
LITTLE_MINUTES = 30  # with less time the larger model reads too few tokens to profit from its size


def stages(options: Namespace, found: Survey, ranks: int = 1) -> list[Stage]:
    """`found` is the content of the folder; `ranks` is the number of GPUs, 1 on a processor."""
    depth, tag = options.depth or 4, f"d{options.depth or 4}"
    chats = conversation_names(found)
    has_exams = bool(exam_names(options))
    practice = tasks.find("gsm8k").path("train", options.data) is not None  # word problems for RL
    share = shares_of_time(bool(chats), practice)
    trial = recipe.is_trial(options)

    # Little text or little time: the laptop's model, 128 wide. Otherwise twice the width and four times the vocabulary.
    little = sum(item.num_bytes for item in found.texts) < LITTLE_BYTES or options.minutes < LITTLE_MINUTES
    # document_mask: a token sees only its own conversation, as at inference. Without it, a model with few conversations
    # learns neighbouring conversations as one text.
    shape = dict(aspect_ratio=32, head_dim=64, document_mask=True) if little else {}
    # Rows of 512 tokens hold most conversations of a few turns. With little data small steps are better: 1,024 tokens
    # already hold all of twenty conversations, and four times as many steps fit into the same time.
    batch = dict(device_batch_size=2, total_batch_size=1024 * ranks) if little else dict(
        device_batch_size=8, total_batch_size=4096 * ranks)
    # A trial is too short to gain from compiling. None leaves a flag out, so that the script's default counts.
    shared = dict(seed=options.seed, compile=False if trial else None, save_every=50, resume=True)
    later = dict(source_tag=tag, **batch, **shared)

    def trained(stage: str, module: str, flags: dict[str, Any]) -> list[Stage]:
        """A stage that trains for its share of the time, and the measurements after it."""
        minutes = round(options.minutes * share[stage], 3)
        return [Stage(stage, module, dict(minutes=minutes, **flags), seconds=60 * minutes + 3, ranks=ranks),
                *measured(stage, options, found, ranks)]

    # ---- Text and tokenizer. The folder is read once; OUT/data/imported.json lists used and left out files.
    plan = [Stage("data", "nanochat.dataset", dict(data=options.data), seconds=3 if little else 10),
            Stage("tokenizer", "scripts.tok_train", dict(
                vocab_size=2048 if little else 8192, digits=1, max_chars=50_000_000, resume=True),
                  seconds=3 if little else 20),
            Stage("tok_eval", "scripts.tok_eval")]
    # ---- Base: learns to continue text.
    plan += trained("base", "scripts.base_train", dict(depth=depth, **shape, max_seq_len=512, **batch, **shared))
    # ---- Mid and SFT: your conversations, and the worked answers of the exams whose training questions are there.
    # Mid has text too, so that the model does not forget how to write: 1/50 of a large text, all of a small text.
    if chats:
        if has_exams:
            plan.append(Stage("contamination", "scripts.contamination", seconds=30))
        lessons = ",".join([*chats, *(f"{name}*2" for name in worked_tasks(options))])
        plan += trained("mid", "scripts.mid_train", dict(mixture=f"{lessons},text*{1 if little else 0.02}", **later))
        plan += trained("sft", "scripts.chat_sft", dict(mixture=lessons, **later))
    # ---- RL: word problems, if the folder has training questions. Embedding and head have speedrun.py's low rates: at
    # high rates noise moves every embedding, until answers no longer end (docs/LOG.md, "RL on word problems").
    if chats and practice:
        plan += [Stage("rl", "scripts.chat_rl", dict(
            task="gsm8k", source_tag=tag, num_iterations=recipe.steps(options, 10), examples_per_step=4, num_samples=4,
            max_new_tokens=96, device_batch_size=8, embedding_lr=0.2, head_lr=0.004, **shared),
                       seconds=60 * options.minutes * share["rl"], ranks=ranks), *measured("rl", options, found, ranks)]
    # The chat page is one file to send to others: a d8 makes 250 MB, and deeper models would be too large.
    last = "" if not chats or depth > 8 else "rl" if practice else "sft"
    return [*plan, *recipe.last_stages(last, tag, options.out)]


def measured(stage: str, options: Namespace, found: Survey, ranks: int) -> list[Stage]:
    """The measurements after a stage. More multiple-choice questions, which need a single forward pass each."""
    tag, trial = f"d{options.depth or 4}", recipe.is_trial(options)
    items, letters, rows = (8, 8, 8) if trial else (100, 2000, 200)
    plan = []
    if stage == "base":
        plan.append(Stage("base_loss", "scripts.base_loss", dict(
            model_tag=tag, split_tokens=16_384 if trial else 131_072), seconds=8, ranks=ranks))
    if exam_names(options):
        plan.append(Stage(f"exams_{stage}", "scripts.chat_eval", dict(
            source=stage, model_tag=tag, max_problems=items, max_choices=letters,
            unsafe_execution=options.unsafe_execution or None), seconds=60, ranks=ranks))
    if stage != "rl" and any(item.name == "core_tasks.yaml" for item in found.exams):
        plan.append(Stage(f"core_{stage}", "scripts.base_eval", dict(
            source=stage, model_tag=tag, max_per_task=rows), seconds=90, ranks=ranks))
    return plan


def exam_names(options: Namespace) -> list[str]:
    """The exams whose test questions are in the folder."""
    return [task.name for task in map(tasks.find, tasks.names())
            if task.kind != "source" and task.path("test", options.data)]


def conversation_names(found: Survey) -> list[str]:
    """The names of the folder's conversations, as --mixture calls them.

    If Dolly's instructions are there, they are the only conversations: the task dialogues would outnumber them.
    """
    if any(item.name.startswith("chat/dolly_15k") for item in found.exams):
        return ["dolly"]
    return chat_names(found, mixture.names_of_tasks())


def worked_tasks(options: Namespace) -> list[str]:
    """The tasks whose training questions with worked answers are in the folder."""
    return [name for name in ("gsm8k", "arc_easy", "arc_challenge") if tasks.find(name).path("train", options.data)]


def shares_of_time(has_chats: bool, has_practice: bool) -> dict[str, float]:
    """The share of --minutes of each stage: about half for pretraining, the rest for mid, SFT and RL."""
    if not has_chats:
        return {"base": 1.0}
    return dict(base=.45, mid=.25, sft=.15, rl=.15) if has_practice else dict(base=.5, mid=.25, sft=.25)


def main(argv: list[str] | None = None) -> None:
    options = recipe.parse(argv, __doc__)
    if not options.data:
        raise UserError("name the folder with your text and conversations: --data DIR")
    found = survey(options.data, skipped_folders=(options.out,))
    recipe.run("realdata", stages(options, found), options, fingerprint=found.fingerprint)


if __name__ == "__main__":
    cli.run(main)
