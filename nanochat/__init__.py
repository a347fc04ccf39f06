"""nanochat: from raw text to a chat window, in one small codebase. Start reading at docs/design.md."""
from nanochat.system import caches

caches.prepare()
