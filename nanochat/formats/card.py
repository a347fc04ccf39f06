"""The files beside an exported model: a model card, and for ollama a Modelfile."""
import re
from pathlib import Path

from nanochat.model import GPTConfig, accounting

# Qwen3's form has no soft cap, so the card describes the difference.
SOFTCAP = '''- Trained with a soft cap of {cap:g} on its logits, which this form does not have: the most probable token
  is the same, and sampled texts vary less than with nanochat at the same temperature.
'''


def filled(name: str, /, **parts: str) -> str:
    """The text of a file of this folder, with `parts` in place of their @MARKS@."""
    template = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda mark: parts[mark[1].lower()], template)


def modelfile(file: str, config: GPTConfig) -> str:
    # ollama adds <|bos|> itself, and this file has no role for a tool: ollama shows a call as text.
    return filled("modelfile.txt", file=file, context=str(config.sequence_len))


def card(name: str, stage: str, step: int, config: GPTConfig, data: str) -> str:
    return filled("card.md", name=name, stage=stage, step=f"{step:,}", data=data,
                  parameters=f"{accounting.num_parameters(config):,}", context=f"{config.sequence_len:,}",
                  vocabulary=f"{config.vocab_size:,}",
                  softcap=SOFTCAP.format(cap=config.softcap) if config.softcap else "")
