"""The out folder of a recipe: which run it contains, which stages are finished, and that only one run writes to it.

    OUT/run.json                {"settings": {…}, "begun": …}: the settings that the run was begun with
                                "stages": {NAME: seconds}, the expected duration of each stage on this machine
    OUT/stages/NAME.json        {"command", "seconds", "attempts", "commits", "finished"} of a finished stage
    OUT/stages/NAME.begun.json  {"command", "seconds", "attempts", "commits"} of a stage that has begun and not finished

Two rules protect existing files. A folder that no run made is refused. A run is continued only with the settings that
it was begun with, because other settings would replace its models.
"""
import contextlib
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.system.lock import run_lock
from nanochat.system.log import say

CHAT_PAGE = "report/chat.html"  # the model with its chat in one file (docs/export.md)
MADE_BY_A_RUN = ("data", "lessons", "tokenizer", "checkpoints", "results", "report", "stages", "run.json")
# Entries that file systems and desktops make by themselves, in addition to all names that begin with a dot.
LEFT_BY_THE_SYSTEM = {"lost+found", "Thumbs.db", "desktop.ini", "System Volume Information", "$RECYCLE.BIN", "@eaDir",
                      "__MACOSX", "nohup.out"}
# Flags that decide what a stage learns: to compare runs of old versions, which have no run.json.
DECIDING = ("--depth", "--num_iterations", "--seed", "--mixture", "--vocab_size", "--source", "--scale", "--data")
Record = dict[str, Any]


class RunFolder:
    """The records of the run in the out folder `path`."""

    def __init__(self, path: Path):
        self.path, self.stages = path, path / "stages"

    @contextlib.contextmanager
    def claimed(self, settings: Record, commands: dict[str, list[str]], fresh: bool) -> Iterator[int | None]:
        """Locks the folder for a run with these settings; yields the lock's descriptor for child processes to inherit.

        `commands` are the arguments of every stage, with which runs of older versions are compared. UserError if no run
        made the folder, another run writes to it, or its run was begun with other settings.
        """
        self.refuse_foreign()  # before the lock, which makes a file in the folder
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self.path} ({error.strerror}); choose another with --out"
                            ) from error
        with run_lock(self.path) as lock:
            if fresh:
                self._remove()
            if (self.path / "run.json").exists():
                self._refuse_other(settings)
            else:
                self._take_over_old_records(commands)
                files.write_json(self.path / "run.json", {"settings": settings, "begun": _now()})
            yield lock

    def expect(self, seconds: dict[str, float]) -> None:
        """Writes the expected seconds of every stage to run.json, for the page /run (nanochat/serve/run_view.py)."""
        path = self.path / "run.json"
        files.write_json(path, {**files.read_json(path), "stages": seconds})

    def is_done(self, name: str) -> bool:
        return (self.stages / f"{name}.json").exists()

    def records(self) -> dict[str, Record]:
        """{stage: its record} for all finished stages, in the order in which they ended."""
        paths = [path for path in self.stages.glob("*.json") if not path.name.endswith(".begun.json")]
        return {path.stem: files.read_json(path) for path in sorted(paths, key=lambda path: path.stat().st_mtime)}

    def begin(self, name: str, words: list[str]) -> list[str]:
        """Records that a stage begins; returns the arguments to run: those of the first attempt, if there was one."""
        path = self.stages / f"{name}.begun.json"
        before: Record = files.read_json(path) if path.exists() else {"command": words}
        if before["command"] != words:  # the code was updated, and the stage's checkpoint belongs to the old command
            say(f"{name} goes on with the command it was begun with, which has changed since: "
                + shlex.join(before["command"]))
        commits, commit = before.get("commits", []), paths.commit()
        if commits and commits[-1] != commit:
            say(f"{name} goes on with other code than it was begun with: {commits[-1]} → {commit}")
        if commit not in commits[-1:]:
            commits = [*commits, commit]
        files.write_json(path, {"command": before["command"], "seconds": before.get("seconds", 0.0),
                                "attempts": before.get("attempts", 0) + 1, "commits": commits})
        return list(before["command"])

    def add_seconds(self, name: str, seconds: float) -> None:
        """Adds the seconds of an attempt that ended without finishing the stage."""
        path = self.stages / f"{name}.begun.json"
        if path.exists():  # `report reset` may have removed it
            begun = files.read_json(path)
            files.write_json(path, {**begun, "seconds": begun.get("seconds", 0.0) + seconds})

    def finish(self, name: str, words: list[str], seconds: float) -> None:
        """Records that the stage is finished; `seconds`: duration of the last attempt."""
        path = self.stages / f"{name}.begun.json"
        begun = files.read_json(path) if path.exists() else {}
        files.write_json(self.stages / f"{name}.json", {
            "command": shlex.join(["python", *words]), "seconds": begun.get("seconds", 0.0) + seconds,
            "attempts": begun.get("attempts", 1), "commits": begun.get("commits", []), "finished": _now()})
        path.unlink(missing_ok=True)

    def _is_run(self) -> bool:
        return (self.path / "run.json").exists() or any(self.stages.glob("*.done"))

    def _entries(self) -> list[str]:
        """The entries of the folder, except those that the system makes by itself."""
        if not self.path.exists():
            return []
        if not self.path.is_dir():
            raise UserError(f"--out={self.path} is not a folder; choose another")
        return sorted(entry.name for entry in self.path.iterdir()
                      if not entry.name.startswith(".") and entry.name not in LEFT_BY_THE_SYSTEM)

    def refuse_foreign(self) -> None:
        """Raises UserError if the folder contains files that no run made."""
        strange = [name for name in self._entries() if name not in MADE_BY_A_RUN]
        if strange and not self._is_run():
            raise UserError(f"--out={self.path} holds {strange[0]}, which no run made; choose a new or empty folder")

    def _remove(self) -> None:
        if not self._is_run() and (entries := self._entries()):
            raise UserError(f"--fresh removes only what a recipe's run made, and --out={self.path} holds {entries[0]} "
                            "and no run.json; choose a new or empty folder")
        # Shards from the hub stay: they are checked, and fetching them again takes hours.
        manifest = self.path / "data/text/manifest.json"
        is_from_the_hub = manifest.exists() and "revision" in files.read_json(manifest)
        for name in MADE_BY_A_RUN:
            entry = self.path / name
            if name == "data" and is_from_the_hub:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def _refuse_other(self, settings: Record) -> None:
        before = files.read_json(self.path / "run.json").get("settings", {})
        changed = [name for name, value in settings.items() if before.get(name) != value]
        if not changed:
            return
        report = self.path / "report/report.md"
        ways = ("to keep that run, choose another folder with --out; to replace it, add --fresh"
                + f"; its report is {report}" * report.exists())
        if changed == ["data"]:
            raise UserError(f"the files of --data have changed since the run in {self.path} was begun (see above); "
                            + ways)
        name = changed[0]
        raise UserError(f"{self.path} holds a run with {name}={before.get(name)}, and this command has "
                        f"{name}={settings[name]}; {ways}")

    def _take_over_old_records(self, commands: dict[str, list[str]]) -> None:
        """Converts the records of old versions (`stages/NAME.done`, lines key=value) to today's form.

        UserError if a stage was made by a command with other DECIDING flags; then no file has been changed.
        """
        paths = sorted(self.stages.glob("*.done"), key=lambda path: path.stat().st_mtime)
        lines = {path: path.read_text(encoding="utf-8").splitlines() for path in paths if path.stem in commands}
        records = {path: dict(line.split("=", 1) for line in of_path if "=" in line) for path, of_path in lines.items()}
        for path, fields in records.items():
            old, new = _deciding(shlex.split(fields.get("command", ""))), _deciding(commands[path.stem])
            if different := [flag for flag in old if flag in new and old[flag] != new[flag]]:
                raise UserError(f"{self.path} holds a run of an older version with {different[0]}={old[different[0]]}, "
                                f"and this command has {new[different[0]]}; choose another folder with --out, or "
                                "replace that run with --fresh")
        for path, fields in records.items():
            files.write_json(self.stages / f"{path.stem}.json", {
                "command": fields.get("command", ""), "seconds": float(fields.get("seconds", 0)),
                "attempts": int(fields.get("attempts", 1)), "finished": fields.get("finished", "")})
            path.unlink()


def _deciding(words: list[str]) -> dict[str, str]:
    pairs = (word.partition("=")[::2] for word in words if word.startswith("--") and "=" in word)  # (name, value)
    return {name: value for name, value in pairs if name in DECIDING}


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
