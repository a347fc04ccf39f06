"""One of two ranks for test_speedrun.py: it runs command after command, so that Python and PyTorch start only once.

Reads a line of JSON for each, [module, flags, port for the ranks to meet at], and answers with a line.
"""
import importlib
import json
import os
import sys
import traceback

from nanochat.system import cli


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what commands print must not be taken for an answer
    for line in sys.stdin:
        module, flags, os.environ["MASTER_PORT"] = json.loads(line)
        try:
            importlib.import_module(module).main(flags)
            answers.write("done\n")
        except BaseException:  # a command ends with SystemExit or UserError
            answers.write(json.dumps(traceback.format_exc()) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
    os._exit(cli.exit_code)
