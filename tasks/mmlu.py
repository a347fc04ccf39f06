"""MMLU: 57 subjects from school to profession, four choices, no examples (Hendrycks et al. 2021; MIT).

"Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q." 0=A, 4=B, 2=C, 6=D → B
The training items are MMLU's auxiliary set. Scores are also reported by `subject`.
"""
from tasks.common import MultipleChoice

TASK = MultipleChoice("mmlu", {"train": "mmlu/auxiliary_train.jsonl", "test": "mmlu/test.jsonl"},
                      title="MMLU", chance=0.25)
