"""Chapter 10: writes your lessons and your exam into the data folder.

    python -m course.ch10.write

The lessons become chat/mine.jsonl, which a mixture calls "mine"; the exam becomes mine/mine-test.jsonl.
"""
from course.ch10 import exercise
from nanochat.system import cli, files, paths


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    for path, rows in (("chat/mine.jsonl", exercise.conversations()), ("mine/mine-test.jsonl", exercise.exam())):
        files.write_jsonl(paths.data_dir() / path, rows)
        print(f"{len(rows)} lines in {paths.data_dir() / path}")


if __name__ == "__main__":
    cli.run(main)
