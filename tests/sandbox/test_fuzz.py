"""Random programs, mutated from right solutions and from attacks: none may hang, leak or hurt the caller."""

import os
import random
import time

import pytest

from nanochat import sandbox
from nanochat.sandbox import python
from tests.sandbox.attacks import GROUPS, PRELUDE, WRONG
from tests.sandbox.programs import FUNCTIONS, human_eval, mutate, program
from tests.sandbox.test_python import belongings, own_temporary_folder, wait_until  # noqa: F401

NOTHING = {"done": "reached", "secret": "/etc/hostname", "prey": "/nonexistent", "folder": "/tmp",
           "socket": "/nonexistent", "victim": 1, "address": 0, "port": 9}


def seeds() -> list[str]:
    solutions = [program(problem) for problem in human_eval() or []] + ["".join(parts) for parts in FUNCTIONS.values()]
    attacks = [PRELUDE.format(world=NOTHING) + attack for group, attacks in GROUPS.items() if group != "scoring"
               for attack in attacks.values()]
    return solutions + attacks + [WRONG.format(attack) for attack in GROUPS["scoring"].values()]


@pytest.mark.parametrize("programs", [80, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_programs(programs, own_temporary_folder):  # noqa: F811
    generator, originals = random.Random(6), seeds()
    sandbox.run("raise SystemExit")  # a program that fails is buried when `run` returns, one that ends well soon after
    time.sleep(0.5)  # those of earlier tests as well
    before, server = belongings(), python._server.process.pid
    for _ in range(programs):
        code = mutate(generator.choice(originals), generator)
        started = time.monotonic()
        result = sandbox.run(code, seconds=0.3)
        assert time.monotonic() - started < 60, code
        assert result.ok == (result.reason == ""), code
        assert len(result.stdout) + len(result.stderr) <= 2 * python.MAX_OUTPUT_BYTES
    wait_until(belongings, before)
    assert python._server.process.pid == server and os.path.exists(f"/proc/{server}")
