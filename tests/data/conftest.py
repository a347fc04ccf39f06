"""A hub that is served here, and a clock that does not make the tests wait."""
import random
import threading

import pytest

from nanochat.data import download, shards
from nanochat.data import hub as hub_module
from tests.data.toy_hub import REPO, Hub


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that a fetch wants to make; it makes none."""
    wanted = []

    def pause(self, seconds):
        if round(seconds) > 0:
            wanted.append(round(seconds))
            self._not_before = 0.0

    monkeypatch.setattr(download.Attempts, "_pause", pause)
    return wanted


@pytest.fixture
def hub(tmp_path, monkeypatch, pauses):
    for number in range(4):
        texts = [f"Story {number}.{index} of a hub." for index in range(50)]
        if number == 0:  # a large one: many reads of the connection
            texts.append(random.Random(0).randbytes(3_000_000).hex())
        shards.write(tmp_path / f"made/shard_{number:05d}.parquet", texts)
    server = Hub({path.name: path.read_bytes() for path in sorted((tmp_path / "made").iterdir())})
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")  # people write the slash
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setitem(hub_module.HUB, "toy", hub_module.HubSource(REPO, "a toy"))
    yield server
    server.shutdown()
    server.server_close()
