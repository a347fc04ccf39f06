"""The plain form against the class that other people load it with: transformers' NanoChatForCausalLM."""
import pytest
import torch

pytestmark = pytest.mark.peers
transformers = pytest.importorskip("transformers")
from nanochat.formats import portable as ours_for_them  # noqa: E402
from nanochat.model import gpt  # noqa: E402


def theirs(config):
    described = ours_for_them.described(config.as_dict())
    return transformers.NanoChatForCausalLM(transformers.NanoChatConfig.from_dict(described)).eval()


@pytest.mark.parametrize("n_kv_head", [4, 2])
def test_same_weights_same_logits(tiny_model, n_kv_head):
    ours = tiny_model(n_layer=4, n_embd=64, n_head=4, n_kv_head=n_kv_head, head_dim=16, sequence_len=128,
                      vocab_size=300, scale=0.1, **gpt.PORTABLE).eval()
    peer = theirs(ours.config)
    missing = peer.load_state_dict(ours.state_dict(), strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    ids = torch.randint(300, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine, other = ours(ids), peer(ids).logits
    difference = (mine - other).abs().max().item()
    print(f"largest difference of logits: {difference:.2e}; their spread: {mine.std():.2f}")
    assert mine.std() > 0.5 and difference < 1e-4
