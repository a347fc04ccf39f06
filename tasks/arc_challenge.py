"""ARC-Challenge: the science questions that word statistics got wrong (Clark et al. 2018), three to five choices.

Same form as ARC-Easy.
"""
from tasks.common import MultipleChoice

TASK = MultipleChoice("arc_challenge", {split: f"arc/ARC-Challenge-{split}.jsonl" for split in ("train", "test")},
                      title="ARC-Challenge", licence="CC BY-SA 4.0", chance=0.25)
