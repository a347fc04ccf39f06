"""Hours, dollars and expectations against the published runs."""
import re

import pytest

from nanochat import budget, dial
from nanochat.system.files import UserError


def test_the_default_mfu_is_the_mean_of_the_published_runs():
    mfus = [dial.make(depth).flops / (8 * 989e12 * hours * 3600) for depth, (hours, _) in budget.PUBLISHED.items()]
    assert [round(mfu, 2) for mfu in mfus] == [0.36, 0.44, 0.38]
    assert budget.DEFAULT_MFU == pytest.approx(sum(mfus) / 3, abs=0.005)


@pytest.mark.parametrize("spec", ["8xABACUS", "0xH100", ""])
def test_an_unknown_gpu_is_an_error_that_lists_the_known_ones(spec):
    with pytest.raises(UserError, match=f"--gpu={spec} .*H100"):
        budget.machine(spec)


def test_a_machine_is_a_count_and_a_name():
    assert budget.machine("A100").count == 1 and budget.machine("8 x H100").count == 8
    assert budget.machine("8xNVIDIA H100 80GB HBM3") == budget.machine("8xH100"), "PyTorch's name of the same GPU"
    assert budget.machine("NVIDIA H100 PCIe").peak_flops < budget.machine("H100").peak_flops
    assert budget.machine("8xH100").dollars(1e19) == pytest.approx(8 * 3 * budget.machine("8xH100").hours(1e19))


def test_the_expectation_is_near_every_published_run_and_silent_elsewhere():
    for flops, published in budget.PUBLISHED_BPB.items():
        expected = re.search(r"expected: (\d\.\d+) ± 0.01 bpb", budget.expectation(flops))
        assert abs(float(expected[1]) - published) < budget.BPB_UNCERTAINTY
    assert "CORE 0.24 ± 0.03" in budget.expectation(dial.make(20).flops), "between October's .2219 and 2026's .2585"
    assert "nothing published" in budget.expectation(1e15)
