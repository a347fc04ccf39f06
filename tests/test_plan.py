"""The dial: the published d20 to the last digit, limits that say how long to train, and values that can't be."""
import re
import subprocess
import sys

import pytest

from nanochat import plan
from nanochat.system.files import UserError


def test_d20_is_the_published_model():
    """FACTS of the October 2025 release: 560,988,160 parameters, 21,400 steps of 524,288 tokens, about 4e19 FLOPs."""
    d20 = plan.make(20)
    assert (d20.n_layer, d20.n_embd, d20.n_head, d20.head_dim) == (20, 1280, 10, 128)
    assert d20.num_params == 560_988_160
    assert (d20.total_batch_tokens, d20.steps, d20.tokens) == (524_288, 21_400, 11_219_763_200)
    assert d20.flops == pytest.approx(4e19, rel=0.03)


@pytest.mark.parametrize("depth, params_millions, tokens_billions",
                         [(12, 185.6, 3.71), (26, 1082.0, 21.64), (32, 1879.0, 37.58)])
def test_the_tiers(depth, params_millions, tokens_billions):
    tier = plan.make(depth)
    assert tier.num_params / 1e6 == pytest.approx(params_millions, abs=0.1)
    assert tier.tokens / 1e9 == pytest.approx(tokens_billions, rel=0.005)


@pytest.mark.parametrize("aspect_ratio, head_dim", [(64, 128), (32, 64), (17, 32), (5, 2)])
def test_every_depth_gives_whole_even_heads_near_the_asked_width(aspect_ratio, head_dim):
    for depth in range(1, 40):
        made = plan.make(depth, aspect_ratio=aspect_ratio, head_dim=head_dim, num_iterations=1)
        assert made.n_head * made.head_dim == made.n_embd and made.head_dim % 2 == 0, made
        assert 0 <= made.n_embd - depth * aspect_ratio < head_dim, made


def test_how_long_to_train():
    laptop = dict(vocab_size=2048, aspect_ratio=32, head_dim=64, sequence_len=256, total_batch_tokens=4096)
    assert plan.make(4, **laptop, num_iterations=7).tokens == 7 * 4096
    assert plan.make(4, **laptop, minutes=3, tokens_per_second=13_000).steps == 3 * 60 * 13_000 // 4096
    by_flops = plan.make(4, **laptop, target_flops=1e13)
    assert 0 <= 1e13 - by_flops.flops < 4096 * by_flops.flops_per_token
    assert plan.make(4, **laptop, target_param_data_ratio=8).tokens == 8 * 1_310_720
    assert plan.make(20, total_batch_tokens=0).total_batch_tokens == 2**20, "the power law, at 11.2B tokens"


@pytest.mark.parametrize("bad, named", [
    (dict(depth=0), "--depth=0"), (dict(depth=2, target_param_data_ratio=0), "--target_param_data_ratio=0"),
    (dict(depth=2, target_param_data_ratio=float("nan")), "ratio=nan"),
    (dict(depth=2, num_iterations=0), "--num_iterations=0"),
    (dict(depth=2, target_flops=float("inf")), "--target_flops=inf"), (dict(depth=2, head_dim=63), "--head_dim=63"),
    (dict(depth=2, minutes=1), "--tokens_per_second"), (dict(depth=2, total_batch_tokens=-8), "--total_batch_size=-8"),
    (dict(depth=2, minutes=1, tokens_per_second=1), "less than one step"),
    (dict(depth=2, minutes=1, num_iterations=5, tokens_per_second=9), "give one of them"),
])
def test_what_cannot_be_is_refused_by_name(bad, named):
    with pytest.raises(UserError, match=named):
        plan.make(**bad)


def test_a_budget_buys_the_deepest_plan_below_it():
    on = plan.machine("8xH100")
    for budget in (5, 100, 300, 1000):
        bought, beyond = plan.afford(budget, on)
        assert on.dollars(bought.flops) <= budget < on.dollars(beyond.flops)
    assert plan.afford(100, on)[0].n_layer == 20 and plan.afford(1000, on)[0].n_layer == 32
    with pytest.raises(UserError, match="budget=0.01"):
        plan.afford(0.01, on)


def test_the_default_mfu_is_the_mean_of_the_published_runs():
    published = [plan.make(depth).flops / (8 * 989e12 * hours * 3600) for depth, (hours, _) in plan.PUBLISHED.items()]
    assert [round(one, 2) for one in published] == [0.36, 0.44, 0.38]
    assert plan.DEFAULT_MFU == pytest.approx(sum(published) / 3, abs=0.005)


def test_unknown_gpus_and_prices_are_said():
    with pytest.raises(UserError, match="8xABACUS.*H100"):
        plan.machine("8xABACUS")
    assert plan.machine("A100").count == 1
    with pytest.raises(UserError, match="dollars_per_gpu_hour"):
        plan.afford(100, plan.machine("8xA100"))


def test_the_command_prints_the_table(capsys):
    plan.main(["--depth=20"])
    printed = capsys.readouterr().out
    for expected in ("560,988,160", "21,400", "11,219,763,200", "3.85 h", "2·V·C + L·12·C²"):
        assert expected in printed
    plan.main(["--", "--budget", "100", "--gpu", "8xH100"])
    assert "$100 buys\n  d20" in capsys.readouterr().out


def test_the_rates_are_those_that_training_uses():
    """base_train's defaults, through the optimizer's own scaling, are what the plan prints; later stages' are the same
    before their --init_lr_frac."""
    from nanochat.model import GPT, GPTConfig
    from nanochat.optim.groups import groups_of
    from nanochat.train import finetune
    from scripts import base_train
    args, made = base_train.flags([]), plan.make(4, vocab_size=64)
    model = GPT(GPTConfig(8, 64, 4, made.n_head, made.n_head, made.n_embd, made.head_dim))
    names = {p: name for name, p in model.named_parameters()}
    rates = {names[p]: group.lr for group in groups_of(
        model, matrix_lr=args.matrix_lr, embedding_lr=args.embedding_lr, head_lr=args.head_lr) for p in group.params}
    assert rates["model.embed_tokens.weight"] == pytest.approx(made.embedding_lr) == pytest.approx(0.3 / (1 / 3) ** 0.5)
    assert rates["lm_head.weight"] == pytest.approx(made.head_lr)
    assert rates["model.layers.0.mlp.fc1.weight"] == made.muon_lr
    assert (args.weight_decay, args.warmdown_fraction) == (made.weight_decay, made.warmdown_fraction)
    for name in ("matrix_lr", "embedding_lr", "head_lr"):
        assert finetune.FLAGS[name].default == getattr(args, name)


def test_the_formulas_in_the_table_hold_the_numbers_used():
    formulas = {name: formula for name, _, formula, _ in plan.LINES}
    assert set(formulas) == set(plan.Plan.__dataclass_fields__)
    for name, rate in (("embedding_lr", plan.EMBEDDING_LR), ("head_lr", plan.HEAD_LR), ("muon_lr", plan.MUON_LR)):
        assert formulas[name].startswith(f"{rate:g} ")


def test_the_expectation_is_near_every_published_run_and_silent_elsewhere():
    bpb = lambda flops: float(re.search(r"expected: (\d\.\d+) ± 0.01 bpb", plan.expectation(  # noqa: E731
        plan.make(12, target_flops=flops)))[1])
    for flops, published in plan.PUBLISHED_BPB.items():
        assert abs(bpb(flops) - published) < plan.BPB_UNCERTAINTY
    assert "CORE 0.24 ± 0.03" in plan.expectation(plan.make(20)), "between October's .2219 and 2026's .2585"
    assert "nothing published" in plan.expectation(plan.make(4, target_flops=1e15))


def test_the_money_the_depth_and_the_minutes(capsys, monkeypatch):
    plan.main(["--budget=100"])
    bought = capsys.readouterr().out
    assert "d20 on 8×H100" in bought and "11,219.8M tokens" in bought and "bpb, CORE 0.24" in bought
    plan.main(["--depth=12"])
    assert re.match(r"d12 on 8×H100 at MFU 0.39: .* min, \$", capsys.readouterr().out)
    from nanochat.train import fit
    asked = []
    monkeypatch.setattr(fit, "tokens_per_second_here", lambda one: asked.append(one) or 10_000)
    small = ["--vocab_size=2048", "--aspect_ratio=32", "--head_dim=64", "--max_seq_len=256", "--total_batch_size=4096"]
    plan.main(["--gpu=here", "--minutes=60", *small])
    found = capsys.readouterr().out
    here = plan.Machine("this machine", 1, 10_000 * asked[0].flops_per_token, None, 1.0)
    options = dict(vocab_size=2048, aspect_ratio=32, head_dim=64, sequence_len=256, total_batch_tokens=4096)
    depth = plan.afford(60, here, "minutes", **options)[0].n_layer
    assert f"60 minutes are enough for\n  d{depth} on 1×this machine" in found and asked[0].n_layer == 4
    plan.main(["--gpu=here", "--depth=2", "--minutes=3", *small])
    assert f" {3 * 60 * 10_000 // 4096} steps" in re.sub(" +", " ", capsys.readouterr().out)


@pytest.mark.parametrize("flags", [["--budget=5", "--depth=4"], ["--minutes=5", "--tokens_per_second=8"],
                                   ["--minutes=5", "--num_iterations=8"], ["--budget=5", "--target_flops=1e18"],
                                   ["--depth=4", "--minutes=5", "--num_iterations=8"]])
def test_limits_that_contradict_each_other_are_refused(flags):
    with pytest.raises(UserError, match="leave|give one"):
        plan.main(flags)


BAD_FLAGS = ["--depth=0", "--depth=-3", "--target-param-data-ratio=0", "--target_param_data_ratio=-1", "--minutes=0",
             "--num_iterations=0", "--target_flops=0", "--max_seq_len=0", "--head_dim=1", "--aspect_ratio=0",
             "--total_batch_size=-1", "--depht=3", "--depth=x", "--target_flops=nan", "--minutes=inf"]


@pytest.mark.parametrize("flag", [*BAD_FLAGS, "--mfu=2", "--budget=0", "--tokens_per_second=0"])
def test_the_command_refuses_at_parse_time(flag, capsys):
    with pytest.raises(SystemExit) as exit_:
        plan.main([flag])
    assert exit_.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("flag", [*BAD_FLAGS, "--device_batch_size=0", "--device_batch_size=lots", "--matrix_lr=-1",
                                  "--warmdown_fraction=1.5", "--keep=0", "--workers=-2", "--eval_tokens=0"])
def test_pretraining_refuses_at_parse_time(flag, capsys):
    from scripts import base_train
    with pytest.raises(SystemExit) as exit_:
        base_train.main([flag])
    assert exit_.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_plan_and_model_count_alike():
    from nanochat.model import PORTABLE, GPTConfig, accounting
    for depth in (4, 20):
        made = plan.make(depth)
        config = GPTConfig(
            sequence_len=made.sequence_len, vocab_size=made.vocab_size, n_layer=depth, n_head=made.n_head,
            n_kv_head=made.n_head, n_embd=made.n_embd, head_dim=made.head_dim, **PORTABLE)
        assert accounting.num_parameters(config) == made.num_params
        assert accounting.flops_per_token(config) == made.flops_per_token


def test_the_plan_needs_no_torch():
    code = "import sys, nanochat.plan as p; p.make(20); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
