"""The dial: the published d20 to the last digit, how long to train, the money and the time, the command."""
import re
import subprocess
import sys

import pytest

from nanochat import budget, dial, plan
from nanochat.dial import PlanOptions
from nanochat.system.files import UserError

LAPTOP = dict(vocab_size=2048, aspect_ratio=32, head_dim=64, sequence_len=256, total_batch_tokens=4096)
LAPTOP_FLAGS = ["--vocab_size=2048", "--aspect_ratio=32", "--head_dim=64", "--max_seq_len=256",
                "--total_batch_size=4096"]


def make(depth, **options):
    return dial.make(depth, PlanOptions(**options))


def test_d20_is_the_published_model():
    """karpathy/nanochat's release of October 2025: 560,988,160 parameters, 21,400 steps of 524,288 tokens, about 4e19
    FLOPs (its README and runs/speedrun.sh)."""
    d20 = make(20)
    assert (d20.n_layer, d20.n_embd, d20.n_head, d20.head_dim) == (20, 1280, 10, 128)
    assert d20.num_params == 560_988_160
    assert (d20.total_batch_tokens, d20.steps, d20.tokens) == (524_288, 21_400, 11_219_763_200)
    assert d20.flops == pytest.approx(4e19, rel=0.03)


@pytest.mark.parametrize("depth, params_millions, tokens_billions",
                         [(12, 185.6, 3.71), (26, 1082.0, 21.64), (32, 1879.0, 37.58)])
def test_the_tiers(depth, params_millions, tokens_billions):
    tier = make(depth)
    assert tier.num_params / 1e6 == pytest.approx(params_millions, abs=0.1)
    assert tier.tokens / 1e9 == pytest.approx(tokens_billions, rel=0.005)


@pytest.mark.parametrize("aspect_ratio, head_dim", [(64, 128), (32, 64), (17, 32), (5, 2)])
def test_every_depth_gives_whole_even_heads_near_the_asked_width(aspect_ratio, head_dim):
    for depth in range(1, 40):
        made = make(depth, aspect_ratio=aspect_ratio, head_dim=head_dim, num_iterations=1)
        assert made.n_head * made.head_dim == made.n_embd and made.head_dim % 2 == 0, made
        assert 0 <= made.n_embd - depth * aspect_ratio < head_dim, made


def test_how_long_to_train():
    assert make(4, **LAPTOP, num_iterations=7).tokens == 7 * 4096
    assert make(4, **LAPTOP, minutes=3, tokens_per_second=13_000).steps == 3 * 60 * 13_000 // 4096
    by_flops = make(4, **LAPTOP, target_flops=1e13)
    assert 0 <= 1e13 - by_flops.flops < 4096 * by_flops.flops_per_token
    assert make(4, **LAPTOP, target_param_data_ratio=8).tokens == 8 * 1_310_720
    assert make(20, total_batch_tokens=0).total_batch_tokens == 2**20, "the power law, at 11.2B tokens"


@pytest.mark.parametrize("bad, named", [
    (dict(head_dim=63), "--head_dim=63"), (dict(minutes=1), "--tokens_per_second"),
    (dict(minutes=1, tokens_per_second=1), "less than one step"),
    (dict(minutes=1, num_iterations=5, tokens_per_second=9), "--num_iterations and --minutes"),
])
def test_what_cannot_be_is_refused_by_name(bad, named):
    with pytest.raises(UserError, match=named):
        make(2, **bad)


def test_the_printed_formulas_give_the_printed_values():
    """Every formula in symbols is computed, for two depths."""
    for made in (make(20), make(3, **LAPTOP)):
        symbols = dict(V=made.vocab_size, C=made.n_embd, L=made.n_layer, T=made.sequence_len, D=made.head_dim)
        computed = set()
        for line in made.__dataclass_fields__.values():
            formula = line.metadata["formula"].split(" (×")[0]  # without what a single matrix adds
            for symbol, python in (("·", "*"), ("×", "*"), ("²", "**2"), ("½", ".5"), ("^", "**")):
                formula = formula.replace(symbol, python)
            if re.fullmatch(r"[VCLTD\d\s()+*/.-]+", formula):
                computed.add(line.name)
                assert eval(formula, symbols) == pytest.approx(getattr(made, line.name)), line.name
        assert computed == {"n_head", "vocab_size", "sequence_len", "num_params", "num_scaling_params",
                            "flops_per_token", "embedding_lr", "head_lr", "muon_lr"}


def test_a_budget_buys_the_deepest_plan_below_it():
    on = budget.machine("8xH100")
    for dollars in (5, 100, 300, 1000):
        bought, beyond = plan.deepest(dollars, "dollars", on)
        assert on.dollars(bought.flops) <= dollars < on.dollars(beyond.flops)
    assert plan.deepest(100, "dollars", on)[0].n_layer == 20 and plan.deepest(1000, "dollars", on)[0].n_layer == 32
    with pytest.raises(UserError, match="budget=0.01"):
        plan.deepest(0.01, "dollars", on)
    with pytest.raises(UserError, match="dollars_per_gpu_hour"):
        plan.deepest(100, "dollars", budget.machine("8xA100"))


def test_the_command_prints_the_table(capsys):
    plan.main(["--depth=20"])
    printed = capsys.readouterr().out
    for expected in ("560,988,160", "21,400", "11,219,763,200", "3.85 h", "2·V·C + L·12·C²"):
        assert expected in printed
    plan.main(["--depth=12"])
    assert re.match(r"d12 on 8×H100 at MFU 0.39: .* min, \$", capsys.readouterr().out)


def test_the_money_the_depth_and_the_minutes(capsys, monkeypatch):
    plan.main(["--", "--budget", "100", "--gpu", "8xH100"])
    printed = capsys.readouterr().out
    assert "$100 buys\n  d20 on 8×H100" in printed and "11,219.8M tokens" in printed and "bpb, CORE 0.24" in printed
    from nanochat.train import probe
    measured = []
    monkeypatch.setattr(probe, "tokens_per_second_here", lambda config, _: measured.append(config) or 10_000)
    plan.main(["--gpu=here", "--minutes=60", *LAPTOP_FLAGS])
    here = budget.Machine("this machine", 1, 10_000 * make(4, **LAPTOP).flops_per_token, None, 1.0)
    depth = plan.deepest(60, "minutes", here, PlanOptions(**LAPTOP))[0].n_layer
    assert f"60 minutes are enough for\n  d{depth} on 1×this machine" in capsys.readouterr().out
    assert measured[0].n_layer == 4
    plan.main(["--gpu=here", "--depth=2", "--minutes=3", *LAPTOP_FLAGS])
    assert f" {3 * 60 * 10_000 // 4096} steps" in re.sub(" +", " ", capsys.readouterr().out)


@pytest.mark.parametrize("flags", [["--budget=5", "--depth=4"], ["--minutes=5", "--tokens_per_second=8"],
                                   ["--minutes=5", "--num_iterations=8"], ["--budget=5", "--target_flops=1e18"],
                                   ["--depth=4", "--minutes=5", "--num_iterations=8"]])
def test_limits_that_contradict_each_other_are_refused(flags):
    with pytest.raises(UserError, match="--num_iterations"):
        plan.main(flags)


@pytest.mark.parametrize("flag", ["--depth=0", "--target-param-data-ratio=0", "--minutes=inf", "--target_flops=nan",
                                  "--head_dim=1", "--total_batch_size=-1", "--mfu=2", "--depht=3"])
def test_the_command_refuses_at_parse_time(flag, capsys):
    with pytest.raises(SystemExit) as exit_:
        plan.main([flag])
    assert exit_.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_rates_are_those_that_training_uses():
    """base_train's defaults, through the optimizer's own scaling, are what the plan prints; later stages' are the same
    before their --init_lr_frac."""
    from nanochat.model import GPT, GPTConfig
    from nanochat.optim.groups import groups_of
    from scripts import base_train, chat_rl, chat_sft, mid_train
    args, made = base_train.flags([]), make(4, vocab_size=64)
    model = GPT(GPTConfig(8, 64, 4, made.n_head, made.n_head, made.n_embd, made.head_dim))
    names = {p: name for name, p in model.named_parameters()}
    rates = {names[p]: group.lr for group in groups_of(
        model, matrix_lr=args.matrix_lr, embedding_lr=args.embedding_lr, head_lr=args.head_lr) for p in group.params}
    assert rates["model.embed_tokens.weight"] == pytest.approx(made.embedding_lr) == pytest.approx(0.3 / (1 / 3) ** 0.5)
    assert rates["lm_head.weight"] == pytest.approx(made.head_lr)
    assert rates["model.layers.0.mlp.fc1.weight"] == made.muon_lr
    assert (args.weight_decay, args.warmdown_fraction) == (made.weight_decay, made.warmdown_fraction)
    for later in (mid_train.flags([]), chat_sft.flags([]), chat_rl.flags([])):
        assert (later.matrix_lr, later.embedding_lr, later.head_lr) == (
            args.matrix_lr, args.embedding_lr, args.head_lr)


def test_plan_and_model_count_alike():
    from nanochat.model import PORTABLE, GPTConfig, accounting
    for depth in (4, 20):
        made = make(depth)
        config = GPTConfig(
            sequence_len=made.sequence_len, vocab_size=made.vocab_size, n_layer=depth, n_head=made.n_head,
            n_kv_head=made.n_head, n_embd=made.n_embd, head_dim=made.head_dim, **PORTABLE)
        assert accounting.num_parameters(config) == made.num_params
        assert accounting.flops_per_token(config) == made.flops_per_token


def test_the_plan_needs_no_torch():
    code = "import sys, nanochat.plan, nanochat.dial; nanochat.dial.make(20); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
