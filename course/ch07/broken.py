"""Chapter 7, broken: a rule that keeps problems for the exam, and a parrot that passes the exam.

    python -m course.ch07.broken
    python -m course.check 7 --broken       when you think that it is mended
"""
from zlib import crc32

from course.ch07 import parrot
from kindergarten.problems import Problem
from nanochat.system import cli


def is_held_out(problem: Problem) -> bool:
    """Whether a problem belongs to the exam: about one in four. The rule is a hash, so it is the same on every machine.

    A problem has .text ("Ella had 7 cups. …") and .signature, the kinds of its statements and its question
    (("start", "things", "gain", "now")).
    """
    identity = problem.text
    return crc32(identity.encode()) % 4 == 0


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    parrot.examine(is_held_out)


if __name__ == "__main__":
    cli.run(main)
