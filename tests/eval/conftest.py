import pytest

from . import twins


@pytest.fixture(scope="session")
def tokenizer():
    return twins.make_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer):
    return twins.make_model(tokenizer)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder, where tasks look for their items."""
    monkeypatch.setenv("NANOCHAT_DATA", str(tmp_path))
    return tmp_path
