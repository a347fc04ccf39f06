"""ARC-Easy: grade-school science questions with three to five choices (Clark et al. 2018; CC BY-SA 4.0).

"Which piece of safety equipment is used to keep mold spores from entering the respiratory system?" safety goggles=A,
breathing mask=B, rubber gloves=C, lead apron=D → B
"""
from tasks.common import MultipleChoice

TASK = MultipleChoice("arc_easy", {split: f"arc/ARC-Easy-{split}.jsonl" for split in ("train", "test")},
                      title="ARC-Easy", chance=0.25)  # all but 20 of 4,389 items have four choices
