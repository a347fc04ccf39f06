import pytest
import torch

from nanochat.optim import adamw


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas, eps", [((0.9, 0.999), 1e-8), ((0.8, 0.95), 1e-10)])
def test_adamw_is_torchs(settings, weight_decay, betas, eps):
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(shape, generator=generator) for shape in [(5, 3), (7,), (1, 1)]]
    theirs = [torch.nn.Parameter(p.clone()) for p in ours]
    reference = torch.optim.AdamW(theirs, lr=1.0, betas=betas, eps=eps, weight_decay=weight_decay)
    moments = adamw.state(ours, ours[0])
    for step in range(1, 12):
        grads = [torch.randn(p.shape, generator=generator) * (step % 3) for p in ours]  # zero every third time
        lr = 0.1 / step
        adamw.update(ours, grads, moments,
                     settings(num_updates=step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        reference.param_groups[0]["lr"] = lr
        for p, grad in zip(theirs, grads):
            p.grad = grad.clone()
        reference.step()
        assert all((a - b).abs().max() < 1e-6 for a, b in zip(ours, theirs))
