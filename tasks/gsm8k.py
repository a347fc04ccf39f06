"""GSM8K: grade-school word problems, worked with the calculator (Cobbe et al. 2021; MIT).

"Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did
Natalia sell altogether?" → Natalia sold 48/2 = <<48/2=24>>24 clips in May. … #### 72
"""
from tasks.common import WordProblem

TASK = WordProblem("gsm8k", {"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"}, title="GSM8K",
                   max_tokens=512)  # the worked answers of the test set have 53 words on average, 173 at most
