"""ARC-Challenge: the science questions that word statistics got wrong (Clark et al. 2018; CC BY-SA 4.0).

Three to five choices, in the same form as ARC-Easy.
"""
from tasks.common import MultipleChoice

TASK = MultipleChoice("arc_challenge", {split: f"arc/ARC-Challenge-{split}.jsonl" for split in ("train", "test")},
                      title="ARC-Challenge", chance=0.25)  # all but 8 of 2,174 items have four choices
