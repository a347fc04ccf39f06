"""The models of a run that still trains: the newest checkpoint of each stage, loaded at the first request for it.

Training needs the machine, so no model is loaded before the first question. When training has written a newer
checkpoint, the next question loads it; an answer that is being written ends with the model that began it.
"""
import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from nanochat.serve.worker import Failed, Worker
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.train import checkpoint


class LiveModels(dict[str, list[Worker]]):
    """{name: [its worker], or [] while it is not loaded}, the newest first. load(stage) makes a worker with the stage's
    newest checkpoint."""

    def __init__(self, load: Callable[[str], Worker]):
        super().__init__()
        self.load = load
        self.newest: dict[str, Path] = {}  # name → its newest checkpoint on disk
        self.loaded: dict[str, Path] = {}
        self.replaced: list[Worker] = []  # old models whose answers are still being written
        self.lock = asyncio.Lock()

    def refresh(self) -> None:
        """Finds the newest checkpoints by listing folders; no file is read. Raises Failed if there is none yet."""
        self.newest.clear()
        for stage in reversed(paths.STAGES):
            try:
                tag = checkpoint.default_tag(stage)
                self.newest[f"nanochat-{stage}-{tag}"] = checkpoint.steps(paths.checkpoint_dir(stage, tag))[-1][1]
            except (UserError, IndexError):  # there is none yet, or it is being replaced
                continue
        loaded = dict(self)
        self.clear()
        self.update({name: loaded.pop(name, []) for name in self.newest})
        self._retire([worker for workers in loaded.values() for worker in workers])
        if not self:
            raise Failed(503, "The run has no checkpoint yet: the base model makes the first.", "no_checkpoint")

    async def ready(self, name: str | None) -> None:
        """Loads the named model, by default the newest. Raises Failed as `refresh` does."""
        async with self.lock:
            self.refresh()
            name = name if name and name in self else next(iter(self))
            path = self.newest[name]
            if self.loaded.get(name) != path or not self[name]:
                worker = await run_in_threadpool(self.load, path.parent.parent.name)
                before = self.get(name, [])
                self[name], self.loaded[name] = [worker], path
                self._retire(before)

    def describe(self, name: str) -> dict[str, Any]:
        """The entry of a model in /v1/models, without loading the model."""
        state = files.read_json(self.newest[name] / "state.json")
        context = files.read_json(self.newest[name] / "config.json")["sequence_len"]
        return {"context_tokens": context, "step": state["step"],
                "suggestions": [] if "-base-" in name else state.get("suggestions", [])}

    def _retire(self, workers: list[Worker]) -> None:
        self.replaced += workers
        for worker in [worker for worker in self.replaced if not worker.open]:
            worker.stop()
            self.replaced.remove(worker)
