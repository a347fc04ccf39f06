"""Chapter 6, broken: what the model learns from one conversation. Something leaks into it, and something is missing.

    python -m course.ch06.broken
    python -m course.check 6 --broken       when you think that it is mended
"""
from nanochat.system import cli
from nanochat.tokenizer import Tokenizer, chat

CONVERSATION = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"},
                             {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Ok"}]}


def example(ids: list[int], mask: list[int]) -> tuple[list[int], list[int]]:
    """Inputs and targets for training: after each input the model is to say the target, which is the next id.

    `mask` is 1 where an id is to be learnt. A target of −1 stands for "learn nothing here".
    """
    inputs = ids[:-1]
    targets = [next_id if learnt else -1 for next_id, learnt in zip(ids[1:], mask[:-1], strict=True)]
    return inputs, targets


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)])  # every letter is a token
    inputs, targets = example(*chat.render(tokenizer, CONVERSATION))
    for id_, target in zip(inputs, targets, strict=True):
        learns = f"learn to write {tokenizer.decode([target])}" if target >= 0 else ""
        print(f"after {tokenizer.decode([id_]):22} {learns}")


if __name__ == "__main__":
    cli.run(main)
