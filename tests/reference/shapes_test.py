"""`packrat logits` against the PyTorch reference on models of unusual sizes: heads, groups, chunk
lengths, windows longer and shorter than the text, convolutions, odd dimensions, bf16 and f16."""

import json
import os
import subprocess
import tempfile
import unittest

import torch

from models.reference import families, mesa_solver, safetensors_io
from models.reference.model import Model, load_model

TOOL = os.environ.get("PACKRAT_TOOLS", "server/client/packrat_tools")


def packrat(layers, d, rat=None, local=None, full=None, mesa=None, delta=None, mamba=None,
            conv=None,
            plus=None, **more):
    return {"model_type": "packrat", "vocab_size": 77, "hidden_size": d, "intermediate_size": 50,
            "num_hidden_layers": len(layers), "layer_types": layers, "norm_eps": 1e-6,
            "rope_theta": 10000.0, "tie_word_embeddings": True, "max_position_embeddings": 4096,
            **{name: value for name, value in (("rat", rat), ("local_attention", local),
                                               ("attention", full), ("mesa", mesa),
                                               ("gated_delta_net", delta), ("mamba2", mamba),
                                               ("short_conv", conv),
                                               ("rat_plus", plus)) if value},
            **more}


def rat(heads, groups, chunk):
    return {"num_heads": heads, "num_groups": groups, "chunk_size": chunk}


def attention(heads, kv_heads, window=None):
    spec = {"num_heads": heads, "num_kv_heads": kv_heads}
    return spec if window is None else {**spec, "window_size": window}


def mesa(heads, dim, conv, gate=True, bound=0.25):
    return {"num_heads": heads, "head_dim": dim, "conv_size": conv, "lambda_lower_bound": bound,
            "use_output_gate": gate}


def delta(key_heads, value_heads, key_dim, value_dim, conv):
    return {"num_key_heads": key_heads, "num_value_heads": value_heads, "key_dim": key_dim,
            "value_dim": value_dim, "conv_size": conv}


def mamba(heads, groups, dim, state, conv, **more):
    return {"num_heads": heads, "num_groups": groups, "head_dim": dim, "state_size": state,
            "conv_size": conv, **more}


MESA_NET = {"model_type": "mesa_net", "hidden_size": 60, "num_heads": 3, "head_dim": 20,
            "num_hidden_layers": 3, "intermediate_size": 70, "norm_eps": 1e-5, "conv_size": 3,
            "use_output_gate": True, "lambda_lower_bound": 0.3, "vocab_size": 91,
            "tie_word_embeddings": True, "max_position_embeddings": 512,
            "attn": {"layers": [1], "num_heads": 5, "num_kv_heads": 1, "qkv_bias": True,
                     "window_size": 7, "rope_theta": 500.0}}
RAT = {"model_type": "rat", "vocab_size": 50, "d_model": 36, "num_layers": 4, "d_ffn": 44,
       "act_fn": "swiglu", "num_head": 6, "ngroups": 3, "chunk_size": 5, "window_size": 9,
       "interleave_step": 3, "tie_embedding": False, "max_position_embeddings": 512}

CASES = {
    "rat_chunk_3": (packrat(["rat", "rat"], 40, rat=rat(5, 5, 3)), 70),
    "rat_chunk_1": (packrat(["rat", "mesa"], 24, rat=rat(1, 1, 1), mesa=mesa(2, 8, 1)), 300),
    "rat_chunk_24": (packrat(["rat", "rat"], 48, rat=rat(4, 2, 24)), 100),
    "rat_chunk_64": (packrat(["mesa", "rat"], 32, rat=rat(2, 1, 64), mesa=mesa(1, 40, 5)), 200),
    "window_1": (packrat(["local_attention", "rat"], 32, local=attention(2, 1, 1), rat=rat(2, 2, 16)), 50),
    "window_16": (packrat(["local_attention"] * 2, 32, local=attention(4, 2, 16)), 90),
    "window_17": (packrat(["local_attention"] * 2, 36, local=attention(6, 3, 17)), 90),
    "window_300": (packrat(["local_attention", "attention"], 32, local=attention(2, 2, 300),
                           full=attention(4, 1)), 700),
    "window_beyond_the_text": (packrat(["local_attention"], 32, local=attention(2, 2, 4000)), 40),
    "mesa_odd": (packrat(["mesa", "mesa"], 30, mesa=mesa(3, 13, 2, gate=False, bound=0.05)), 100),
    "mesa_wide": (packrat(["mesa"], 16, mesa=mesa(2, 136, 4)), 60),
    "mesa_conv_16": (packrat(["mesa", "mesa"], 30, mesa=mesa(2, 7, 16)), 60),
    "gated_delta_odd": (packrat(["gated_delta_net"] * 2, 30, delta=delta(3, 3, 13, 21, 1)), 60),
    "gated_delta_shared": (packrat(["gated_delta_net", "rat"], 32, delta=delta(2, 8, 40, 7, 5),
                                   rat=rat(2, 1, 16)), 70),
    "mamba2_odd": (packrat(["mamba2"] * 2, 30, mamba=mamba(
        3, 1, 13, 21, 1, norm="before_gate", conv_bias=False)), 60),
    "mamba2_no_norm": (packrat(["mamba2", "rat"], 32, rat=rat(2, 1, 16), mamba=mamba(
        6, 3, 7, 40, 5, norm="none", time_step_limit=[0.1, 0.8])), 70),
    "mamba2_parts": (packrat(["mamba2"], 24, mamba=mamba(
        4, 2, 9, 16, 4, norm="after_gate", norm_groups=4, in_bias=True)), 50),
    "short_conv_of_one_tap": (packrat(["short_conv", "rat"], 30, conv={"conv_size": 1},
                                      rat=rat(3, 1, 16)), 40),
    "short_conv_16": (packrat(["short_conv"] * 2, 33, conv={"conv_size": 16}), 60),
    "rat_plus_odd": (packrat(["rat_plus"] * 2, 30, plus={"num_heads": 3, "dilation": 7, "window": 11,
                                                         "sinks": 9}), 90),
    "rat_plus_wide": (packrat(["rat_plus", "mesa"], 32, mesa=mesa(2, 16, 4),
                              plus={"num_heads": 1, "dilation": 2, "window": 280, "sinks": 1}), 600),
    "one_token": (packrat(["rat", "mesa", "attention"], 32, rat=rat(2, 1, 16), mesa=mesa(2, 16, 4),
                          full=attention(2, 2)), 1),
    "mesa_net": (MESA_NET, 80),
    "rat_family": (RAT, 80),
}


def external_names(config, tensors):
    """The inverse of families.to_internal(): the family's own tensor names."""
    if config["model_type"] == "packrat":
        return tensors
    if config["model_type"] == "mesa_net":
        return {n.replace(".mixer.", ".attn.").replace(".mixer_norm.", ".attn_norm."): t
                for n, t in tensors.items()}
    out = {"embedding.wte.weight": tensors["model.embeddings.weight"],
           "backbone.ln.weight": tensors["model.norm.weight"],
           "head.lm_head.weight": tensors["lm_head.weight"]}
    for i in range(config["num_layers"]):
        old, new = f"model.layers.{i}.", f"backbone.layers.{i}."
        get = lambda name, old=old: tensors[old + name]
        out[new + "seq_layer.input_norm.weight"] = get("mixer_norm.weight")
        out[new + "hidden_layer.ln.weight"] = get("mlp_norm.weight")
        out[new + "hidden_layer.fc1.weight"] = torch.cat([get("mlp.up_proj.weight"),
                                                          get("mlp.gate_proj.weight")])
        out[new + "hidden_layer.fc2.weight"] = get("mlp.down_proj.weight")
        if old + "mixer.in_proj.weight" in tensors:
            out[new + "seq_layer.in_proj.weight"] = get("mixer.in_proj.weight")
            out[new + "seq_layer.gate_bias"] = get("mixer.gate_bias")
            out[new + "seq_layer.out_proj.weight"] = get("mixer.out_proj.weight")
        else:
            out[new + "seq_layer.in_proj.weight"] = torch.cat(
                [get(f"mixer.{n}_proj.weight") for n in "vqk"])
            out[new + "seq_layer.out_proj.weight"] = get("mixer.o_proj.weight")
    return out


def random_weights(config, generator):
    model = Model(families.parse_config(config))
    tensors = {}
    for name, parameter in model.state_dict().items():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            tensors[name] = 1 + 0.1 * noise
        elif parameter.dim() == 2 and "embeddings" not in name:
            tensors[name] = noise / parameter.shape[1] ** 0.5
        else:
            tensors[name] = noise
        if name.endswith("a_proj.bias"):
            tensors[name] = noise + 3.0  # A memory of some twenty tokens.
    return external_names(config, tensors)


class ShapesTest(unittest.TestCase):
    def setUp(self):
        self.addCleanup(setattr, mesa_solver, "options", mesa_solver.options)
        mesa_solver.options = mesa_solver.Options(exact=True)
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def logits(self, *flags):
        out = os.path.join(self.folder.name, "out.safetensors")
        subprocess.run([TOOL, "logits", "--model", self.folder.name, "--tokens",
                        os.path.join(self.folder.name, "tokens"), "--output", out, *flags],
                       check=True)
        return safetensors_io.load(out)["logits"]

    def check(self, config, length, dtype=torch.float32):
        generator = torch.Generator().manual_seed(3)
        weights = {n: t.to(dtype) for n, t in random_weights(config, generator).items()}
        path = os.path.join(self.folder.name, "model.safetensors")
        safetensors_io.save(path, weights)
        with open(os.path.join(self.folder.name, "config.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        ids = torch.randint(0, config["vocab_size"], (2, length), generator=generator)
        safetensors_io.save(os.path.join(self.folder.name, "tokens"), {"input_ids": ids.int()})
        with torch.no_grad():
            model, _ = load_model(self.folder.name)
            reference = model(ids)
        whole = self.logits("--cg_tolerance", "1e-6", "--piece", "1000", "--threads", "1")
        error = float((whole - reference).norm() / reference.norm())
        self.assertLess(error, 1e-5)
        for flags in (("--piece", "1"), ("--piece", "7", "--threads", "3")):
            self.assertTrue(torch.equal(whole, self.logits("--cg_tolerance", "1e-6", *flags)), flags)
        # The default tolerance gives logits that are off by about as much.
        error = float((self.logits() - reference).norm() / reference.norm())
        self.assertLess(error, 1e-3)


def _add_tests():
    for case, (config, length) in CASES.items():
        def test(self, config=config, length=length):
            self.check(config, length)
        setattr(ShapesTest, f"test_{case}", test)
    for dtype in (torch.bfloat16, torch.float16):
        def test(self, dtype=dtype):
            self.check(CASES["mesa_wide"][0], 40, dtype)
            self.check(CASES["window_17"][0], 40, dtype)
        setattr(ShapesTest, f"test_{dtype}".replace("torch.", ""), test)


_add_tests()

if __name__ == "__main__":
    unittest.main()
