"""MMLU: 57 subjects from school to profession, four choices, zero-shot (Hendrycks et al. 2021).

"Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q." 0=A, 4=B, 2=C, 6=D → B
Training items are its auxiliary set; scores are also given by `subject`.
"""
from tasks.common import MultipleChoice

TASK = MultipleChoice("mmlu", {"train": "mmlu/auxiliary_train.jsonl", "test": "mmlu/test.jsonl"},
                      title="MMLU", licence="MIT", chance=0.25)
