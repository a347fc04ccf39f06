import pytest
import torch

from nanochat.model import GPT, lora
from nanochat.optim.groups import groups_of
from nanochat.system.files import UserError


def logits(model):
    ids = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attaching_changes_nothing_and_merging_gives_the_same_model(tiny_model, dtype):
    model = tiny_model()
    model.compute_dtype = dtype
    before, parameters = logits(model), dict(model.named_parameters())
    lora.attach(model, 3)
    assert torch.equal(logits(model), before), "frozen weights are kept as they are used"
    assert parameters.items() <= dict(model.named_parameters()).items(), "the same weights, no copies"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    changed = logits(model)
    assert (changed - before).abs().max() > 0.1
    ordinary = GPT(model.config, dtype)
    ordinary.load_state_dict(lora.merged(model))
    tolerance = 1e-5 if dtype == torch.float32 else 0.3  # W + BA is rounded once, or each of them by itself
    assert torch.allclose(logits(ordinary), changed, atol=tolerance)


@pytest.mark.parametrize("head", [False, True])
def test_only_thin_matrices_are_trained_and_each_has_a_rule(tiny_model, head):
    model = tiny_model()
    assert lora.trained(model) == {}
    lora.attach(model, 3, head=head)
    model.loss(torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.long)).backward()
    with_grad = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_grad == set(lora.trained(model)) and len(with_grad) == 2 * 6 * 2 + head
    assert all("lora_" in name or name == "lm_head.weight" for name in with_grad)
    grouped = [p for group in groups_of(model, matrix_lr=0.02, embedding_lr=0.2, head_lr=0.008) for p in group.params]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_rank_that_saves_nothing_is_refused(tiny_model):
    with pytest.raises(UserError, match="--lora=16"):
        lora.attach(tiny_model(), 16)
