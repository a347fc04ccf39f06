"""Kindergarten: word problems whose structure (kinds of statements, distractors, question) is in no lesson.

"Ann had 12 apples. She found 5 apples. Tom has 3 pears. How many apples does Ann have now?" → <<12+5=17>> #### 17
The training items are for reinforcement learning, which uses only the question and the reward.
"""
from tasks.common import WordProblem

TASK = WordProblem("problems", {split: f"kindergarten/problems-{split}.jsonl" for split in ("train", "test")},
                   title="Word problems")
