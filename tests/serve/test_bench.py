"""The benchmarks run at toy size, and the soak finds nothing (two seconds here, two minutes with -m slow)."""

import asyncio

import pytest

from bench import serve, soak


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    serve.make("toy")


@pytest.mark.parametrize("name, values, is_leak", [
    ("blocks", [5000 + 9000 * n for n in range(8)], True),
    ("heap", [4 << 20] * 3 + [(4 + n) << 20 for n in range(5)], True),
    ("blocks", [5000, 40_000, 60_000, 70_000] + [75_000] * 4, False),  # caches fill up
    ("heap", [4 << 20] * 4 + [9 << 20, 5 << 20, 9 << 20, 8 << 20], False),  # it is given back
    ("resident", [n << 30 for n in range(8)], False), ("blocks", [5000 + n for n in range(8)], False)])
def test_a_leak_is_told_from_warming_up(name, values, is_leak):
    held = [soak.Held(1000 * n, 0, 0, 0)._replace(**{name: value}) for n, value in enumerate(values)]
    assert bool(soak.leaks(held)) is is_leak
    assert not soak.leaks([one._replace(requests=n) for n, one in enumerate(held)]), "a few requests say nothing"


@pytest.mark.parametrize("seconds, clients", [(3, 20), pytest.param(120, 200, marks=pytest.mark.slow)])
def test_rude_clients_do_no_harm(toy, seconds, clients):
    with serve.served("--max_rows=8", "--max_waiting=8", "--dtype=float32") as (url, process):
        result = asyncio.run(serve.soak(url, process, seconds, clients))
    print(result)
    assert not result["problems"] and result["tokens"] > 0
    # On a machine that has no time three seconds are few requests; in two minutes everything must have happened.
    everything = ["left", "hung up", "rubbish 400", "rubbish 413"] if seconds > 60 else []
    assert {"whole 200", *everything} <= set(result["seen"])
