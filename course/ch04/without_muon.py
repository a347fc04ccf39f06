"""Chapter 4: base training in which AdamW updates the matrices, too.

    python -m course.ch04.without_muon --matrix_lr=0.003 …      all flags of scripts.base_train
"""
from unittest import mock

from nanochat.optim import adamw, groups
from nanochat.system import cli
from scripts import base_train


def main(argv: list[str] | None = None) -> None:
    with mock.patch.dict(groups.RULES, muon=adamw):  # whatever asks for Muon gets AdamW
        base_train.main(argv)


if __name__ == "__main__":
    cli.run(main)
