"""`packrat logits` on other people's weights: converted RAT checkpoints, and folders as
flash-linear-attention saves them. Both against the PyTorch reference, the former also against the
logits of the golden cases."""

import json
import os
import subprocess
import unittest

import torch

from models.reference import families, mesa_solver, safetensors_io
from models.reference.model import Model, load_model
from tests.convert import checkpoints

TOOL = os.environ.get("PACKRAT_CLIENT", "server/client/packrat")
GOLDEN = os.environ.get("PACKRAT_GOLDEN", "tests/golden")


class ServedTest(checkpoints.ConvertTest):
    def setUp(self):
        super().setUp()
        self.addCleanup(setattr, mesa_solver, "options", mesa_solver.options)
        mesa_solver.options = mesa_solver.Options(exact=True)

    def logits(self, ids, *flags):
        tokens, out = self.path("tokens.safetensors"), self.path("out.safetensors")
        safetensors_io.save(tokens, {"input_ids": ids.int()})
        subprocess.run([TOOL, "logits", "--model", self.output, "--tokens", tokens, "--output", out,
                        "--cg_tolerance", "1e-6", *flags], check=True)
        return safetensors_io.load(out)["logits"]

    def assert_close(self, logits, reference):
        self.assertEqual(logits.shape, reference.shape)
        self.assertLess(float((logits - reference).norm() / reference.norm()), 1e-5)

    def check(self, vocab, length):
        generator = torch.Generator().manual_seed(4)
        ids = torch.randint(0, vocab, (2, length), generator=generator)
        with torch.no_grad():
            model, _ = load_model(self.output)
            reference = model(ids)
        self.assert_close(self.logits(ids), reference)
        self.assert_close(self.logits(ids, "--piece", "1"), reference)


class RatTest(ServedTest):
    def test_golden_models_through_a_checkpoint(self):
        for case in ("rat", "rat_local"):
            with open(os.path.join(GOLDEN, case, "config.json"), encoding="utf-8") as f:
                golden = json.load(f)
            checkpoints.save(self.checkpoint, safetensors_io.load(
                os.path.join(GOLDEN, case, "model.safetensors")), checkpoints.PREFIX)
            self.output = self.path(case)
            window = ["--window_size", str(golden["window_size"])] if golden["window_size"] else []
            self.convert("--chunk_size", str(golden["chunk_size"]), *window)
            expected = safetensors_io.load(os.path.join(GOLDEN, case, "expected.safetensors"))
            self.assert_close(self.logits(expected["input_ids"]), expected["logits"])

    def test_float32_untied_and_swiglu(self):
        state = checkpoints.small_state(wide=96, tie=False)
        checkpoints.save(self.checkpoint, state)
        self.convert(*checkpoints.SMALL_FLAGS)
        self.check(50, 70)

    def test_bfloat16_in_shards(self):
        shapes = checkpoints.shapes(["rat", "local_attention"], d=256, head_dim=64, ffn=512,
                                    wide=512, vocab=3000)
        checkpoints.save(self.checkpoint, checkpoints.random_state(shapes, torch.bfloat16))
        self.convert("--shard_mib", "1")
        self.assertTrue(os.path.exists(os.path.join(self.output, "model.safetensors.index.json")))
        self.check(3000, 60)


# As transformers writes it: everything that MesaNetConfig has, with its defaults, and what
# PretrainedConfig adds.
FLA = {"architectures": ["MesaNetForCausalLM"], "attn": None, "attn_mode": "chunk",
       "bos_token_id": 1, "conv_size": 4, "eos_token_id": 2, "fuse_cross_entropy": True,
       "fuse_linear_cross_entropy": False, "fuse_norm": True, "fuse_swiglu": True, "head_dim": 32,
       "hidden_act": "swish", "hidden_ratio": 4, "hidden_size": 96, "initializer_range": 0.02,
       "intermediate_size": None, "lambda_lower_bound": 0.25, "max_cg_step_decoding": 30,
       "max_cg_step_training": 30, "max_position_embeddings": 2048, "model_type": "mesa_net",
       "norm_eps": 1e-06, "num_heads": 3, "num_hidden_layers": 3, "pad_token_id": None,
       "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.53.2",
       "use_cache": True, "use_l2warp": False, "use_output_gate": True, "use_short_conv": True,
       "vocab_size": 1500}
HYBRID = {"layers": [1], "num_heads": 3, "num_kv_heads": 1, "qkv_bias": False,
          "rope_theta": 10000.0, "window_size": 24}


class FlashLinearAttentionTest(ServedTest):
    def make(self, config, shard_bytes=400_000):
        """A folder with weights of random numbers in shards, named as save_pretrained() does."""
        model = Model(families.parse_config(config))
        state = checkpoints.random_state({n: p.shape for n, p in model.state_dict().items()})
        shards, filled = [{}], 0
        for name, tensor in state.items():
            name = name.replace(".mixer.", ".attn.").replace(".mixer_norm.", ".attn_norm.")
            tensor = tensor + 3 if name.endswith("a_proj.bias") else tensor
            # fla keeps lambda in float32 where a model is trained in bfloat16.
            tensor = tensor if name.endswith("lambda_params") else tensor.bfloat16()
            if filled + tensor.numel() * 2 > shard_bytes:
                shards.append({})
                filled = 0
            filled += tensor.numel() * 2
            shards[-1][name] = tensor
        self.assertGreater(len(shards), 2)
        os.mkdir(self.output)
        weight_map = {}
        for i, shard in enumerate(shards):
            file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
            safetensors_io.save(os.path.join(self.output, file), shard, {"format": "pt"})
            weight_map.update({name: file for name in shard})
        total = sum(t.numel() * t.element_size() for shard in shards for t in shard.values())
        self.write("model.safetensors.index.json",
                   {"metadata": {"total_size": total}, "weight_map": weight_map})
        self.write("config.json", config)
        self.write("generation_config.json", {"_from_model_config": True, "bos_token_id": 1,
                                              "eos_token_id": 2, "transformers_version": "4.53.2"})

    def write(self, name, content):
        with open(os.path.join(self.output, name), "w", encoding="utf-8") as f:
            json.dump(content, f, indent=2, sort_keys=True)

    def test_mesa_layers_alone(self):
        self.make(FLA)
        self.check(1500, 70)

    def test_hybrid_without_gate_with_tied_embeddings(self):
        self.make({**FLA, "attn": HYBRID, "use_output_gate": False, "tie_word_embeddings": True})
        self.check(1500, 70)

    def test_full_attention_with_biases(self):
        full = {**HYBRID, "window_size": None, "qkv_bias": True, "layers": [0, 2]}
        self.make({**FLA, "attn": full, "intermediate_size": 200})
        self.check(1500, 70)


if __name__ == "__main__":
    unittest.main()
