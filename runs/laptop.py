"""The whole pipeline on two laptop cores in ten to twenty minutes, on a small closed world made by code: the village.

    python -m runs.laptop [--help]

The kindergarten stands in for the internet; every stage is the real one. The numbers below suit `--minutes 10`, and
docs/kindergarten.md tells how they were found. The seconds are those of the machine of docs/LOG.md.
"""
import functools
import re
from argparse import Namespace
from dataclasses import replace

from nanochat import dial, recipe
from nanochat.recipe import Stage
from nanochat.system import cli
from nanochat.system.files import UserError

VILLAGE_DOCUMENTS = 57_344  # of training text that the kindergarten has
DOCUMENTS_PER_SHARD = 530_000  # of TinyStories
BASE_ITEMS = 64  # of each exam for the base model
TRIAL_ITEMS = 4  # of each exam in a trial (--minutes below 1): enough to see that the exams work

# What the model is taught: names of files in out/data/chat. All of it is in mid. SFT repeats all of it, with a larger
# share of `talk` (greetings, its name) and `chats` (several lessons in one conversation).
LESSONS = "facts,choice,problems,arithmetic,functions,spelling,letters,stories"
# The same skills in the words of visitors, and what only visitors ask for.
VISITORS = """sums spell count tales zoo school programs choosing wordproblems smalltalk feelings odd unknown village
    turns persona""".split()
# Repeated while RL practises word problems: .800 instead of .783 of the strangers' questions after it.
REPEATED = ["facts", *(family for family in VISITORS if family != "wordproblems")]


def shares(families: list[str], share: float) -> str:
    """shares(["zoo", "odd"], 0.5) == "zoo*0.5,odd*0.5"."""
    return ",".join(f"{family}*{share}" for family in families)


def tag_of(options: Namespace) -> str:
    return f"d{dial.grown(options.minutes, options.depth)[0]}"


def exams(stage: str, options: Namespace) -> Stage:
    """The exams after every stage, on items that no stage has seen, show what that stage was for.

    The strangers' questions that nobody reads (strangers_held) are asked of the finished model only: whoever sees
    their score stage by stage would soon choose the numbers of this recipe by it. The base model is asked little, and
    nothing by strangers: it babbles to the limit after each question, which took 53 seconds, and answered .007.
    """
    trial = recipe.is_trial(options)
    strangers = {"base": "", "rl": "|strangers|strangers_held"}.get(stage, "|strangers")
    return Stage(f"chat_eval_{stage}", "scripts.chat_eval", dict(
        source=stage, model_tag=tag_of(options), task_name=f"all{strangers}",
        max_problems=TRIAL_ITEMS if trial else BASE_ITEMS if stage == "base" else None,
        unsafe_execution=options.unsafe_execution or None), seconds=4 if trial else 20)


def training_seconds(a_minute: float, options: Namespace) -> float:
    """Seconds of a training stage that takes `a_minute` seconds for each minute of --minutes. Compiling comes on top,
    except in a trial, which does not compile: its steps take twice as long."""
    minutes: float = options.minutes
    return 3 + 2 * a_minute * minutes if recipe.is_trial(options) else 20 + a_minute * minutes


def stages(options: Namespace) -> list[Stage]:
    depth, row_len, work = dial.grown(options.minutes, options.depth)  # more time: more model, and longer rows
    tag, trial = f"d{depth}", recipe.is_trial(options)
    # Compiling costs about 20 seconds a stage and makes a step twice as fast, so a trial leaves it out.
    shared = dict(seed=options.seed, compile=not trial, resume=True)
    later = dict(source_tag=tag, **shared)
    # 16 rows of 256 tokens are one step of 4,096: more rows at a time do not fit into the processor's caches.
    batch = dict(device_batch_size=4096 // row_len, total_batch_size=4096)
    steps = functools.partial(recipe.steps, options, work=work)  # steps(1000): in ten minutes; in others in proportion

    all_stages = [
        # ---- Text and tokenizer.
        *data_stages(options),
        # 2,048 tokens: the world has few words, and a larger vocabulary would only make the head slower. One digit a
        # token: the model learns to copy numbers into the calculator digit by digit.
        Stage("tokenizer", "scripts.tok_train", dict(vocab_size=2048, digits=1, resume=True), seconds=10),
        Stage("tok_eval", "scripts.tok_eval", seconds=5),

        # ---- Base: continues text. 1.8 million parameters in 4 layers of 128 channels, two heads of 64.
        # Rows of 256 tokens hold the longest lesson. A row holds about three documents, and document_mask keeps them
        # from seeing each other, as they do not when the model is used: .286 instead of .294 bits per byte at step 600.
        Stage("base", "scripts.base_train", dict(
            depth=depth, aspect_ratio=32, head_dim=64, max_seq_len=row_len, document_mask=True, **batch,
            num_iterations=steps(1000), save_every=steps(200), **shared), seconds=training_seconds(16, options)),
        Stage("base_loss", "scripts.base_loss", dict(model_tag=tag, split_tokens=steps(131072)), seconds=8),
        Stage("base_eval", "scripts.base_eval", dict(model_tag=tag, max_per_task=TRIAL_ITEMS if trial else None)),
        exams("base", options),

        # ---- Mid: the chat format, multiple choice and the tool. The largest share of the time, because here the
        # model learns what the exams ask. A tenth is text: questions alone wiped out much of what the base model knew.
        # 1.2 of the pretraining rates, because there is much to learn that no text had: .824 of the strangers'
        # questions instead of .805 at 0.7. Only the assistant's words are learnt: where a choice is answered by its
        # letter alone, one of 76 tokens carries the lesson, and the other 75 would drown its gradient.
        Stage("mid", "scripts.mid_train", dict(
            **batch, num_iterations=steps(2400), init_lr_frac=1.2,
            mixture=f"text*0.1,{LESSONS},talk,chats*0.5,{shares(VISITORS, 0.7)}",
            loss_on="assistant", save_every=steps(200), **later), seconds=training_seconds(36, options)),
        exams("mid", options),

        # ---- SFT: a last look at a twelfth to an eighth of each lesson, more of spelling, talk and chats. Without
        # chats, which have several turns, spelling fell from .91 to .58 behind three other questions. Short, because
        # what visitors ask needs the many steps of mid: 450 steps here gained nothing over mid (docs/LOG.md).
        Stage("sft", "scripts.chat_sft", dict(
            **batch, num_iterations=steps(250), init_lr_frac=0.2, save_every=steps(50),
            mixture=f"text*0.02,{shares(LESSONS.split(','), 0.08)}".replace("spelling*0.08", "spelling*0.4")
            + f",talk,chats*0.4,{shares(VISITORS, 0.12)}", **later), seconds=training_seconds(3.2, options)),
        exams("sft", options),

        # ---- RL: more word problems right, from right and wrong alone. Half are in visitors' words: with the village's
        # alone, problems in other words fell from .70 to .63. 8 answers a question, 32 tokens each with the call. Low
        # rates, lowest for embedding and head: AdamW's steps do not shrink with the gradient, and at .3 noise moved
        # every embedding until no answer ended. What else visitors ask is repeated, or practice would undo it.
        Stage("rl", "scripts.chat_rl", dict(
            task="problems", num_iterations=steps(200), examples_per_step=8 if trial else 32, num_samples=8,
            max_new_tokens=32, device_batch_size=4096 // row_len, init_lr_frac=0.15, embedding_lr=0.03, head_lr=0.001,
            mixture=shares(REPEATED, 0.1), save_every=steps(50), **later), seconds=training_seconds(15, options)),
        exams("rl", options),
        *recipe.last_stages("rl", tag, options.out),
    ]
    return [with_real_text(stage, options) for stage in all_stages] if options.text else all_stages


def data_stages(options: Namespace) -> list[Stage]:
    """The text to read, the lessons and the exams. The same seed makes the same world. A trial gets a small part."""
    village = dict(source="kindergarten", seed=options.seed,
                   scale=options.minutes / 10 if recipe.is_trial(options) else 1)
    if options.text not in ("", "tinystories"):
        raise UserError(f"--text={options.text} is for GPUs; on a laptop: --text tinystories")
    if not options.text:
        return [Stage("data", "nanochat.dataset", village, seconds=4 if recipe.is_trial(options) else 20)]
    lessons = options.out / "lessons"
    return [Stage("text", "nanochat.dataset", dict(source=options.text, num_files=num_shards(options)), seconds=60),
            Stage("lessons", "nanochat.dataset", dict(village, out=lessons), seconds=12),
            Stage("conversations", "nanochat.dataset", dict(data=lessons / "data", text=False), seconds=10)]


def num_shards(options: Namespace) -> int:
    """How many of TinyStories' four shards a run reads: two cores need more than two hours for one shard, a hundred
    million tokens.

    >>> [num_shards(Namespace(minutes=minutes)) for minutes in (10, 60, 150, 6000)]
    [1, 1, 2, 4]
    """
    return min(4, 1 + int(options.minutes // 120))


def with_real_text(stage: Stage, options: Namespace) -> Stage:
    """The stage with another number after `text*` in its mixture, so that it reads as many documents of the real text
    as it would read of the village's text."""
    share = VILLAGE_DOCUMENTS / (DOCUMENTS_PER_SHARD * num_shards(options))
    mixture = re.sub(r"\btext\*([\d.]+)", lambda weight: f"text*{float(weight[1]) * share:.5f}",
                     stage.flags.get("mixture", ""))
    return replace(stage, flags={**stage.flags, "mixture": mixture}) if mixture else stage


def main(argv: list[str] | None = None) -> None:
    options = recipe.parse(argv, __doc__)
    recipe.run("laptop", stages(options), options)


if __name__ == "__main__":
    cli.run(main)
