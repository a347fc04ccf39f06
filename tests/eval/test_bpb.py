import math

import pytest
import torch

from nanochat.eval.bpb import TextLoss, bits_per_byte, text_loss
from nanochat.system.files import UserError

from .twins import make_batches


def slow_bpb(model, batches, tokenizer) -> float:
    """The definition, target by target; bytes from the token's own bytes."""
    nats = num_bytes = 0.0
    for ids, targets in batches:
        log_probabilities = torch.cat([model(row.unsqueeze(0))[0].double().log_softmax(-1) for row in ids])  # (B T, V)
        for at, target in enumerate(targets.flatten().tolist()):
            if target >= 0 and target not in tokenizer.specials.values():
                nats -= log_probabilities[at, target].item()
                num_bytes += len(tokenizer.decode_bytes([target]))
    return nats / math.log(2) / num_bytes


@torch.no_grad()
def test_equals_the_definition(model, tokenizer):
    batches = list(make_batches(tokenizer))
    token_bytes = torch.from_numpy(tokenizer.token_bytes())
    bpb = bits_per_byte(model, batches, token_bytes)
    assert bpb == pytest.approx(slow_bpb(model, batches, tokenizer), rel=1e-5)
    rows = [(ids[i:i + 1], targets[i:i + 1]) for ids, targets in batches for i in range(4)]
    assert bpb == pytest.approx(bits_per_byte(model, rows, token_bytes), rel=1e-5)


def test_a_model_that_knows_nothing_pays_the_whole_vocabulary(model, tokenizer):
    class Uniform:
        def loss(self, ids, targets, reduction):
            return torch.full(targets.shape, math.log(256)).where(targets >= 0, torch.tensor(0.0))

    ids = torch.arange(64).view(2, 32)  # single bytes
    assert bits_per_byte(Uniform(), [(ids, ids)], torch.from_numpy(tokenizer.token_bytes())) == pytest.approx(8.0)


def test_no_bytes_to_predict_is_an_error(model, tokenizer):
    ids = torch.full((1, 4), tokenizer.bos_id)
    with pytest.raises(UserError, match="nothing to measure"):
        bits_per_byte(model, [(ids, ids)], torch.from_numpy(tokenizer.token_bytes()))


def test_perplexities_are_those_of_the_definition(model, tokenizer):
    batches = list(make_batches(tokenizer))
    loss = text_loss(model, batches, torch.from_numpy(tokenizer.token_bytes()))
    targets = torch.cat([targets.flatten() for _, targets in batches])
    specials = torch.tensor(sorted(tokenizer.specials.values()))
    assert loss.num_tokens == ((targets >= 0) & ~torch.isin(targets, specials)).sum()
    assert loss.perplexity() == pytest.approx(math.exp(loss.nats / loss.num_tokens))
    uniform = TextLoss(nats=60 * math.log(256), num_bytes=60, num_tokens=20)  # 3 bytes a token, a vocabulary of bytes
    assert uniform.perplexity() == pytest.approx(256.0**3) and uniform.perplexity(5) == pytest.approx(256.0**5)
