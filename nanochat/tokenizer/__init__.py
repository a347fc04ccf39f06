"""Text to token ids and back, and the chat format. docs/tokenizer.md explains the method and why it is fast."""
from nanochat.tokenizer.bpe import StreamDecoder, Tokenizer

__all__ = ["StreamDecoder", "Tokenizer"]
