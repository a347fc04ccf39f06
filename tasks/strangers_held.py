"""The half of the strangers' questions that nobody reads: asked once, of the finished model, and only rates are kept.

Its file is compressed so that no search through the project shows it by accident. Whoever opens it has spent it.
"""
from tasks.strangers import Strangers

TASK = Strangers("strangers_held", {"test": "strangers_held.jsonl"}, title="Strangers, held back", held_back=True)
