"""The held-out part of the strangers' questions: nobody reads it, only the final model is asked, only rates are kept.

Its file is compressed so that no search through the project shows it by accident. Once somebody has read it, it is no
longer a held-out test.
"""
from tasks.strangers import Strangers

TASK = Strangers("strangers_held", {"test": "strangers_held.jsonl"}, title="Strangers, held back", held_back=True)
