"""Text to token ids and back, and the chat format."""
from nanochat.tokenizer.bpe import StreamDecoder, Tokenizer

__all__ = ["StreamDecoder", "Tokenizer"]
