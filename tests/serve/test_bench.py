"""The benchmarks run at toy size, and the soak finds nothing (two seconds here, two minutes with -m slow)."""

import asyncio

import pytest

from bench import serve


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    serve.make("toy")


@pytest.mark.parametrize("seconds, clients", [(3, 20), pytest.param(120, 200, marks=pytest.mark.slow)])
def test_rude_clients_do_no_harm(toy, seconds, clients):
    with serve.served("--max_rows=8", "--max_waiting=8", "--dtype=float32") as (url, pid):
        result = asyncio.run(serve.soak(url, pid, seconds, clients))
    print(result)
    assert not result["problems"] and result["tokens"] > 0
    # On a machine that has no time three seconds are few requests; in two minutes everything must have happened.
    everything = ["left", "hung up", "rubbish 400", "rubbish 413"] if seconds > 60 else []
    assert {"whole 200", *everything} <= set(result["seen"])
