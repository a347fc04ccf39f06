"""Small functions with tests, for the sandbox's tests: a few of our own, and HumanEval's where the data is there."""

import gzip
import json
import os
import re
from pathlib import Path

FUNCTIONS = {
    "double": ("def double(x):\n", "    return 2 * x\n", "assert double(2) == 4 and double('ab') == 'abab'\n"),
    "is_prime": ("def is_prime(n):\n",
                 "    return n > 1 and all(n % d for d in range(2, int(n ** 0.5) + 1))\n",
                 "assert [n for n in range(20) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19]\n"),
    "words": ("from collections import Counter\nfrom typing import Dict\n\ndef words(text: str) -> Dict[str, int]:\n",
              "    return dict(Counter(text.split()))\n", "assert words('a b a') == {'a': 2, 'b': 1}\n"),
    "digest": ("import hashlib\n\ndef digest(text):\n", "    return hashlib.md5(text.encode()).hexdigest()\n",
               "assert digest('a') == '0cc175b9c0f1b6a831c399e269772661'\n"),
    "squares": ("def squares(n):\n", "    return [i * i for i in range(n)]\n", "assert squares(4) == [0, 1, 4, 9]\n"),
    "fibonacci": ("import functools\n\n@functools.lru_cache(None)\ndef fibonacci(n):\n",
                  "    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
                  "assert fibonacci(90) > 10**18\n"),
    "smallest": ("import heapq\n\ndef smallest(values, k):\n", "    return heapq.nsmallest(k, values)\n",
                 "assert smallest([3, 1, 2], 2) == [1, 2]\n"),
    "permuted": ("import itertools\n\ndef permuted(text):\n",
                 "    return sorted(set(map(''.join, itertools.permutations(text))))\n",
                 "assert permuted('aab') == ['aab', 'aba', 'baa']\n"),
    "third": ("from fractions import Fraction\n\ndef third(x):\n", "    return Fraction(x, 3)\n",
              "assert third(2) * 3 == 2\n"),
    "vowels": ("import re\n\ndef vowels(text):\n", "    return len(re.findall('[aeiou]', text))\n",
               "assert vowels('education') == 5\n"),
}


def human_eval() -> list[dict] | None:
    """The 164 problems from NANOCHAT_DATA or a data folder beside the repository, or None."""
    beside = Path(__file__).parents[3] / "shared/data"
    for folder in (os.environ.get("NANOCHAT_DATA"), beside):
        file = folder and Path(folder) / "humaneval/HumanEval.jsonl.gz"
        if file and file.exists():
            return [json.loads(line) for line in gzip.open(file, "rt", encoding="utf8")]
    return None


def program(problem: dict, wrong: bool = False) -> str:
    """The canonical solution and its tests as one program; `wrong`: the function returns some object instead."""
    code = problem["prompt"] + problem["canonical_solution"]
    if wrong:
        code += f"\n_right = {problem['entry_point']}\ndef {problem['entry_point']}(*values):\n"
        code += "    _right(*values)\n    return object()\n"
    return f"{code}\n{problem['test']}\ncheck({problem['entry_point']})\n"


def mutate(code: str, generator) -> str:
    """The program with one to four accidents: tokens swapped, lines lost or doubled, characters replaced."""
    for _ in range(generator.randrange(1, 5)):
        lines = code.split("\n")
        tokens = re.findall(r"\w+|\s+|[^\w\s]", code)
        at, other = generator.randrange(len(lines)), generator.randrange(len(tokens))
        kind = generator.randrange(5)
        if kind == 0:
            del lines[at]
            code = "\n".join(lines)
        elif kind == 1:
            lines.insert(at, generator.choice(lines))
            code = "\n".join(lines)
        elif kind == 2:
            tokens[other] = generator.choice(tokens)
            code = "".join(tokens)
        elif kind == 3:
            tokens[other] = generator.choice(["0", "-1", "10**9", "while True:", "(", "]", "'", "None", "*", "\0"])
            code = "".join(tokens)
        else:
            cut = generator.randrange(len(code) + 1)
            code = code[:cut] + chr(generator.randrange(1, 0x3000)) + code[cut + 1:]
        code = code or "pass"
    return code
