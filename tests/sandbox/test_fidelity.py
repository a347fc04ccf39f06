"""Right programs pass and wrong ones do not: a few functions of our own always, HumanEval where its data is there."""

import pytest

from nanochat import sandbox
from tests.sandbox.programs import FUNCTIONS, human_eval, program


@pytest.mark.parametrize("name", FUNCTIONS)
def test_own_functions(name):
    head, body, test = FUNCTIONS[name]
    assert sandbox.run(head + body + test).ok
    wrong = sandbox.run(head + "    return object()\n" + test)
    assert not wrong.ok and wrong.reason


@pytest.mark.parametrize("wrong,passed", [(False, 164), (True, 0)])
def test_human_eval(wrong, passed):
    problems = human_eval()
    if problems is None:
        pytest.skip("no HumanEval: set NANOCHAT_DATA to a folder with humaneval/HumanEval.jsonl.gz")
    assert sum(sandbox.run(program(problem, wrong)).ok for problem in problems) == passed
