"""A stage for tests of the recipe: python -m tests.toy_stage --name=a [--wait].

It writes its name and flags to OUT/../ran and fails where OUT/../fail-NAME exists. With --wait it waits for a signal
and then saves OUT/../saved."""
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    folder = Path(os.environ["NANOCHAT_BASE_DIR"]).parent
    name = sys.argv[1].removeprefix("--name=")
    with open(folder / "ran", "a", encoding="utf-8") as ran:
        ran.write(" ".join([name, *sys.argv[2:]]) + "\n")
    if (folder / f"fail-{name}").exists():
        raise SystemExit(1)
    if "--wait" in sys.argv:
        wait(folder)


def wait(folder: Path) -> None:
    def save(*_: object) -> None:
        (folder / "saved").touch()
        raise SystemExit(130)

    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, save)
    (folder / "waits").touch()
    time.sleep(60)


if __name__ == "__main__":
    main()
