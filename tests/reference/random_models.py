"""The families against `transformers` itself, on tiny models of random configurations.

    python3 tests/reference/random_models.py PACKRAT [FAMILY]... [--count N] [--seed N] [--keep DIR]

PACKRAT is the client, server/client/packrat of a build. Needs PyPI's `torch` and `transformers`
(5.24). For each family it makes models with shapes, flags, layer kinds, rotary scalings and types
of weights by chance, lets `save_pretrained` write them, in one file or in shards, and compares
`packrat logits` with what transformers computes of the same folder in double precision: its
modeling code runs with float32 replaced by float64. A model is "far" where the error of a text is
above 5e-6 of the logits' norm. Random weights can make a text that no float32 computes so well,
where something small is normalised; so for each such text "moves" tells how far its logits move
when every weight moves by at most half a unit of float32, in ten attempts. What is "refused" is
told with the reason.
"""

import argparse
import importlib
import os
import random
import re
import shutil
import subprocess
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

BOUND = 5e-6
MODULES = ("llama", "qwen2", "qwen3", "granitemoehybrid", "falcon_h1", "nemotron_h", "lfm2", "lfm2_moe",
           "olmo_hybrid", "recurrent_gemma", "qwen3_next", "qwen3_5", "qwen3_5_moe")


def widen(name):
    """Runs a module's source again with float64 where it asks for float32."""
    module = importlib.import_module(name)
    with open(module.__file__, encoding="utf-8") as f:
        source = f.read().replace("torch.float32", "torch.float64").replace(".float()", ".double()")
    source = re.sub(r"torch\.float\b", "torch.float64", source)
    exec(compile(source, module.__file__, "exec"), module.__dict__)  # pylint: disable=exec-used


class Chance(random.Random):
    def flag(self, part=0.5):
        return self.random() < part

    def pick(self, *values):
        return self.choice(values)

    def divisor(self, number, least=1, most=24):
        """One of number's divisors between `least` and `most`."""
        return self.choice([d for d in range(1, number + 1)
                            if number % d == 0 and least <= d <= most])


def rope(r, rotary_dim):
    kind = r.pick("default", "default", "linear", "llama3", "yarn", "yarn", "longrope")
    p = {"rope_type": kind, "rope_theta": r.pick(100.0, 2000.0, 10000.0, 500000.0, 1e7)}
    if kind == "linear":
        p["factor"] = r.pick(1.0, 2.5, 8.0)
    elif kind == "llama3":
        p.update(factor=r.pick(4.0, 8.0), low_freq_factor=r.pick(1.0, 1.5),
                 high_freq_factor=r.pick(2.0, 4.0), original_max_position_embeddings=r.pick(16, 64))
    elif kind == "yarn":
        p.update(factor=r.pick(1.0, 4.0, 6.5, None), original_max_position_embeddings=r.pick(16, 32))
        optional = {"beta_fast": (8.0, 32, None, 0), "beta_slow": (1, 1.5, None, 0),
                    "truncate": (True, False), "mscale": (0.8, 1.0, 0.0),
                    "mscale_all_dim": (0.3, 1.0, 0.0), "attention_factor": (1.25, None)}
        p.update({name: r.pick(*values) for name, values in optional.items() if r.flag(0.4)})
    elif kind == "longrope":
        p["short_factor"] = [1 + r.random() for _ in range(rotary_dim // 2)]
        p["long_factor"] = [2 * x for x in p["short_factor"]]
        optional = {"original_max_position_embeddings": (80, 100), "factor": (1.0, 4.0),
                    "attention_factor": (1.0, 1.25)}
        p.update({name: r.pick(*values) for name, values in optional.items() if r.flag(0.4)})
    return p


def common(r, layers=4, eps="rms_norm_eps"):
    kv_heads = r.pick(1, 2, 3)
    return {"vocab_size": r.randint(33, 150), "num_hidden_layers": r.randint(1, layers),
            "max_position_embeddings": r.pick(128, 256, 1000), "tie_word_embeddings": r.flag(),
            "pad_token_id": None, "bos_token_id": r.pick(None, 1), "eos_token_id": r.pick(None, 2, [2, 5]),
            "num_key_value_heads": kv_heads, "num_attention_heads": kv_heads * r.pick(1, 2, 4),
            "intermediate_size": r.randint(9, 90), eps: r.pick(1e-6, 1e-5, 1e-3)}


def kinds(r, c, *names):
    return [r.pick(*names) for _ in range(c["num_hidden_layers"])]


def llama(r):
    c = common(r)
    c["head_dim"] = r.pick(6, 8, 16, 20)
    c.update(hidden_size=c["num_attention_heads"] * r.pick(4, 7, 16), attention_bias=r.flag(),
             mlp_bias=r.flag(), rope_parameters=rope(r, c["head_dim"]))
    return transformers.LlamaConfig(**c)


def qwen(r, config, own_head_dim):
    c = common(r)
    head_dim = r.pick(6, 8, 16, 20)
    c.update(hidden_size=c["num_attention_heads"] * head_dim)
    if own_head_dim:
        head_dim = r.pick(6, 16, 20)
        c.update(head_dim=head_dim, attention_bias=r.flag())
    c["rope_parameters"] = rope(r, head_dim)
    if r.flag():
        c.update(use_sliding_window=True, sliding_window=r.pick(1, 5, 17, 33, None))
        if r.flag() or c["sliding_window"] is None:
            c["max_window_layers"] = r.randint(0, c["num_hidden_layers"])
        else:
            c["layer_types"] = kinds(r, c, "full_attention", "sliding_attention")
    return config(**c)


def mamba(r, inner):
    heads = r.divisor(inner, least=-(-inner // 64))
    c = {"mamba_n_heads": heads, "mamba_n_groups": r.divisor(heads), "mamba_d_state": r.pick(4, 7, 16),
         "mamba_d_head": r.pick("auto", inner // heads), "mamba_d_conv": r.pick(2, 3, 4),
         "mamba_chunk_size": r.pick(4, 16, 256), "mamba_conv_bias": r.flag(), "mamba_proj_bias": r.flag()}
    if r.flag(0.3):
        c["time_step_limit"] = r.pick([0.01, 0.5], [0.0, 1.0])
    return c


def granite(r, experts):
    c = common(r)
    head_dim = r.pick(4, 6, 8, 16)
    c["hidden_size"] = c["num_attention_heads"] * head_dim
    c["mamba_expand"] = r.pick(1, 2, 3)
    c.update(mamba(r, c["mamba_expand"] * c["hidden_size"]))
    c.update(shared_intermediate_size=r.randint(9, 60), attention_bias=r.flag(),
             embedding_multiplier=r.pick(1.0, 12, 3.5), logits_scaling=r.pick(1, 8.0, 0.5),
             residual_multiplier=r.pick(1.0, 0.22, 1.5), attention_multiplier=r.pick(1.0, 0.3),
             num_local_experts=r.pick(2, 4, 7) if experts else 0, num_experts_per_tok=r.pick(1, 2),
             position_embedding_type=r.pick(None, "rope", "nope"),
             layer_types=kinds(r, c, "linear_attention", "full_attention"))
    if c["position_embedding_type"] == "rope":
        c["rope_parameters"] = rope(r, head_dim)
    return transformers.GraniteMoeHybridConfig(**c)


def falcon_h1(r):
    c = common(r)
    head_dim = r.pick(4, 6, 8, 16)
    c["hidden_size"] = c["num_attention_heads"] * head_dim
    if r.flag():
        c["head_dim"] = head_dim = r.pick(6, 12, 20)
    c["mamba_d_ssm"] = r.pick(None, 12, 24, 60)
    c.update(mamba(r, c["mamba_d_ssm"] or 2 * c["hidden_size"]))
    for name in ("mamba_norm_before_gate", "mamba_rms_norm", "projectors_bias", "attention_bias", "mlp_bias"):
        c[name] = r.flag()

    def factors(count):
        return [r.pick(1.0, 0.7, 1.3, 0.0625, -0.8) for _ in range(count)]

    for name in ("lm_head", "embedding", "key", "attention_out", "attention_in", "ssm_in", "ssm_out"):
        c[name + "_multiplier"] = factors(1)[0]
    c.update(mlp_multipliers=r.pick(None, factors(2)), ssm_multipliers=r.pick(None, factors(5)),
             rope_parameters=rope(r, head_dim))
    return transformers.FalconH1Config(**c)


def nemotron_h(r):
    c = common(r, layers=6, eps="layer_norm_epsilon")
    c["layers_block_type"] = kinds(r, c, "linear_attention", "full_attention", "mlp")
    del c["num_hidden_layers"]
    heads = r.pick(2, 4, 6, 8)
    c.update(hidden_size=r.pick(12, 20, 32), head_dim=r.pick(4, 6, 16), ssm_state_size=r.pick(4, 7, 16),
             mamba_num_heads=heads, mamba_head_dim=r.pick(4, 6, 10), n_groups=r.divisor(heads),
             conv_kernel=r.pick(2, 3, 4), chunk_size=r.pick(4, 16, 128), time_step_min=r.pick(0.001, 0.05))
    for name in ("use_conv_bias", "use_bias", "mlp_bias", "attention_bias", "residual_in_fp32"):
        c[name] = r.flag()
    return transformers.NemotronHConfig(**c)


def lfm2(r, experts):
    c = common(r, eps="norm_eps")
    head_dim = r.pick(4, 6, 8, 16)
    c.update(hidden_size=c["num_attention_heads"] * head_dim, conv_bias=r.flag(), conv_L_cache=r.pick(2, 3, 4),
             rope_parameters=rope(r, head_dim), layer_types=kinds(r, c, "full_attention", "conv"))
    if not experts:
        c.update(block_multiple_of=r.pick(4, 7, 256), block_ffn_dim_multiplier=r.pick(1.0, 1.3, 0.7),
                 block_auto_adjust_ff_dim=r.flag())
        return transformers.Lfm2Config(**c)
    number = r.pick(2, 4, 7)
    c.update(moe_intermediate_size=r.randint(5, 40), num_dense_layers=r.randint(0, c["num_hidden_layers"]),
             num_experts=number, num_experts_per_tok=r.randint(1, min(number, 3)), norm_topk_prob=r.flag(),
             use_expert_bias=r.flag(), routed_scaling_factor=r.pick(1.0, 2.5))
    return transformers.Lfm2MoeConfig(**c)


def delta(r):
    key_heads = r.pick(1, 2, 3)
    return {"linear_num_key_heads": key_heads, "linear_num_value_heads": key_heads * r.pick(1, 2, 4),
            "linear_key_head_dim": r.pick(4, 6, 8, 16), "linear_value_head_dim": r.pick(4, 10, 16),
            "linear_conv_kernel_dim": r.pick(2, 3, 4)}


def olmo_hybrid(r):
    c = common(r)
    head_dim = r.pick(4, 6, 8, 16)
    c["num_hidden_layers"] += 1
    c.update(hidden_size=c["num_attention_heads"] * head_dim, attention_bias=r.flag(),
             linear_allow_neg_eigval=r.flag(), rope_parameters=rope(r, head_dim))
    if r.flag(0.7):
        c.update(delta(r))
    types = kinds(r, c, "linear_attention", "full_attention")
    types[0], types[-1] = "linear_attention", "full_attention"
    if r.flag(0.7):
        c["layer_types"] = types
    if r.flag(0.4):
        c["rope_parameters"] = r.pick(None, {"rope_type": "default", "rope_theta": None})
    return transformers.OlmoHybridConfig(**c)


def recurrent_gemma(r):
    c = common(r)
    del c["max_position_embeddings"]
    heads = c["num_attention_heads"]
    c["intermediate_size"] *= 2
    c.update(hidden_size=heads * r.pick(4, 8, 12), lru_width=r.pick(None, heads * r.pick(4, 7, 9)),
             attention_window_size=r.pick(3, 17, 33, 2048), conv1d_width=r.pick(2, 3, 4),
             logits_soft_cap=r.pick(30.0, 5.0), attention_bias=r.flag(),
             block_types=kinds(r, c, "recurrent", "attention"))
    return transformers.RecurrentGemmaConfig(**c)


def qwen_hybrid(r, config, experts, feed_forwards):
    c = common(r)
    c.update(delta(r), hidden_size=r.pick(12, 20, 32), head_dim=r.pick(8, 16, 24), attention_bias=r.flag(),
             layer_types=kinds(r, c, "linear_attention", "full_attention"))
    part = r.choice([x for x in (0.25, 0.5, 1.0) if c["head_dim"] * x % 2 == 0])
    c["rope_parameters"] = {**rope(r, int(c["head_dim"] * part)), "partial_rotary_factor": part}
    if not feed_forwards:
        del c["intermediate_size"]
    if experts:
        number = r.pick(2, 4, 7)
        c.update(moe_intermediate_size=r.randint(5, 30), shared_expert_intermediate_size=r.randint(5, 30),
                 num_experts=number, num_experts_per_tok=r.randint(1, min(number, 3)))
    if experts and feed_forwards:
        c.update(norm_topk_prob=r.flag(), decoder_sparse_step=r.pick(1, 1, 2),
                 mlp_only_layers=r.pick(None, [], [0]))
    return config(**c)


FAMILIES = {
    "llama": llama,
    "qwen2": lambda r: qwen(r, transformers.Qwen2Config, False),
    "qwen3": lambda r: qwen(r, transformers.Qwen3Config, True),
    "granitemoehybrid": lambda r: granite(r, r.flag()),
    "falcon_h1": falcon_h1,
    "nemotron_h": nemotron_h,
    "lfm2": lambda r: lfm2(r, False),
    "lfm2_moe": lambda r: lfm2(r, True),
    "olmo_hybrid": olmo_hybrid,
    "recurrent_gemma": recurrent_gemma,
    "qwen3_next": lambda r: qwen_hybrid(r, transformers.Qwen3NextConfig, True, True),
    "qwen3_5_text": lambda r: qwen_hybrid(r, transformers.Qwen3_5TextConfig, False, True),
    "qwen3_5_moe_text": lambda r: qwen_hybrid(r, transformers.Qwen3_5MoeTextConfig, True, False),
}


def scatter(model, family, generator):
    """Weights of which none is as training begins, so that one that is misread shows."""
    plus_one = family.startswith(("qwen3_", "recurrent_gemma"))
    buffers = [item for item in model.named_buffers() if "bias" in item[0]]
    for name, tensor in [*model.named_parameters(), *buffers]:
        x = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("A_log"):
            x = torch.log(1 + 15 * torch.rand(tensor.shape, generator=generator)) - 1.5
        elif name.endswith("dt_bias"):
            x = x - 1
        elif name.endswith(".D"):
            x = 1 + x / 2
        elif "norm" in name and tensor.dim() == 1:
            x = (0 if plus_one and "linear_attn.norm" not in name else 1) + 0.3 * x
        elif "recurrent_param" not in name and (tensor.dim() == 1 or name.endswith("bias")):
            x = 0.3 * x
        elif "conv" in name and tensor.dim() == 3:
            x = 0.5 * x
        elif tensor.dim() > 1:
            x = 0.8 * x if "embed" in name else 1.3 * x * tensor.shape[-1] ** -0.5
        tensor.data.copy_(x)


def make(family, r, folder, generator):
    """Writes a random model, and gives it back in double precision as it is stored."""
    auto = transformers.AutoModelForCausalLM
    model = auto.from_config(FAMILIES[family](r), dtype=torch.float32).to(torch.float32)
    scatter(model, family, generator)
    model = model.to(r.pick(torch.float32, torch.float32, torch.bfloat16, torch.float16))
    model.save_pretrained(folder, max_shard_size=r.pick("1GB", "1GB", "4KB", "20KB"),
                          save_original_format=r.flag(0.8))
    model = auto.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager",
                                 experts_implementation="eager").eval()
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.double()
    return model


def relative(out, reference):
    return float((out - reference).norm() / reference.norm())


def moves(model, ids, logits):
    found = []
    stored = [p.data for p in model.parameters()]
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        for parameter, value in zip(model.parameters(), stored):
            noise = 2 * torch.rand(value.shape, generator=generator, dtype=torch.float64) - 1
            parameter.data = value * (1 + 2.0 ** -24 * noise)
        found.append(relative(model(input_ids=ids, use_cache=False).logits, logits))
    for parameter, value in zip(model.parameters(), stored):
        parameter.data = value
    return max(found)


@torch.no_grad()
def check(packrat, family, number, folder):
    """(what became of the model, the largest error)."""
    r = Chance(f"{family} {number}")
    generator = torch.Generator().manual_seed(number)
    model = make(family, r, folder, generator)
    tokens, out = os.path.join(folder, "tokens"), os.path.join(folder, "logits")
    errors, verdict = [], "met"
    for length in (r.randint(1, 6), r.randint(17, 70)):
        ids = torch.randint(0, model.config.vocab_size, (r.pick(1, 2), length), generator=generator)
        save_file({"input_ids": ids.int()}, tokens)
        done = subprocess.run([packrat, "logits", "--model", folder, "--tokens", tokens, "--output", out,
                               "--piece", r.pick("1", "5", "16", "256")],
                              stderr=subprocess.PIPE, encoding="utf-8", check=False)
        if done.returncode != 0:
            print(f"{family} {number}: refused: {done.stderr.strip()}", flush=True)
            return "refused", 0.0
        logits = model(input_ids=ids, use_cache=False).logits
        errors.append(relative(load_file(out)["logits"].double(), logits))
        if not errors[-1] < BOUND:
            verdict = "far"
            print(f"{family} {number}: {length} tokens, error {errors[-1]:.1e}, moves "
                  f"{moves(model, ids, logits):.1e}", flush=True)
    return verdict, max(errors)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("packrat")
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default=None, help="a folder for the models that are not met")
    args = parser.parse_intermixed_args()
    for name in ("modeling_rope_utils", *(f"models.{m}.modeling_{m}" for m in MODULES)):
        widen("transformers." + name)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for family in args.families:
        verdicts, largest = {"met": 0, "far": 0, "refused": 0}, 0.0
        for number in range(args.seed, args.seed + args.count):
            with tempfile.TemporaryDirectory() as folder:
                verdict, error = check(args.packrat, family, number, folder)
                if verdict != "met" and args.keep:
                    shutil.copytree(folder, os.path.join(args.keep, f"{family}_{number}"))
            verdicts[verdict] += 1
            largest = max(largest, error)
        print(f"{family}: {verdicts}, largest error {largest:.1e}", flush=True)


if __name__ == "__main__":
    main()
