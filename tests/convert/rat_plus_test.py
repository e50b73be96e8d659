"""RAT+ checkpoints in both of their authors' layouts, with and without settings."""

import json
import os
import unittest

import torch

from models.reference import safetensors_io
from tests.convert import checkpoints

GOLDEN = os.path.join(os.environ.get("PACKRAT_GOLDEN", "tests/golden"), "rat_plus")
DIAL = ("--dilation_size", "1,16,4", "--local_size", "0,8,0", "--initial_size", "0,4,2")


class RatPlusTest(checkpoints.ConvertTest):
    def setUp(self):
        super().setUp()
        self.state = safetensors_io.load(os.path.join(GOLDEN, "model.safetensors"))
        with open(os.path.join(GOLDEN, "config.json"), encoding="utf-8") as f:
            self.golden = json.load(f)

    def older(self, gate="seq_layer.fgate_proj.weight"):
        """The layout in which the forget gate is a matrix of its own."""
        state = {}
        for name, tensor in self.state.items():
            if name.endswith("in_proj.weight"):
                state[name], state[name.replace("seq_layer.in_proj.weight", gate)] = \
                    tensor[:256].clone(), tensor[256:].clone()
            else:
                state[name] = tensor
        return state

    def settings(self, **cell):
        g = self.golden
        return {"model": {"backbone": {
            "d_model": 64, "num_layers": 3, "ln": "rmsnorm",
            "seq_cell": {"_name_": "anything", "num_head": 4, "d_head": 16, "apply_re": True,
                         "joint_train": False, **{n: g[n] for n in ("dilation_size", "local_size",
                                                                    "initial_size")}, **cell},
            "hidden_cell": {"d_ffn": 128, "act_fn": "gelu"}},
            "embedding": {"pe": {"base": 10000}}}, "data": {"vocab_size": 97, "seq_len": 4096}}

    def assert_golden(self):
        tied = {n: t for n, t in self.state.items() if n != "head.lm_head.weight"}
        self.assertLess(len(tied), len(self.state))
        self.assert_same(tied)
        config = self.config()
        self.assertEqual(config.pop("torch_dtype"), "float32")
        self.assertEqual(config, self.golden)

    def test_both_layouts_with_the_authors_settings(self):
        for number, state in enumerate((self.state, self.older())):
            self.output = self.path(f"model{number}")
            checkpoints.save(self.checkpoint, state, checkpoints.PREFIX, config=self.settings())
            self.convert()
            self.assert_golden()

    def test_flags_where_there_are_no_settings(self):
        checkpoints.save(self.checkpoint, self.state)
        self.convert("--num_head", "4", *DIAL)
        self.golden.pop("joint_train")
        self.assert_golden()

    def test_all_is_seen_where_nobody_says_and_it_is_stated(self):
        checkpoints.save(self.checkpoint, self.state)
        errors = self.convert()
        config = self.config()
        self.assertEqual([config[n] for n in ("dilation_size", "local_size", "initial_size",
                                              "num_head", "seq_len")], [1, 0, 0, 1, 4096])
        self.assertIn("dilation_size = 1 (all is seen; --dilation_size sets another", errors)
        self.assertIn("3 layers of RAT+, width 64", errors)

    def test_another_dial_than_was_trained_is_stated(self):
        checkpoints.save(self.checkpoint, self.state, config=self.settings())
        errors = self.convert("--dilation_size", "64")
        self.assertEqual(self.config()["dilation_size"], 64)
        self.assertIn("dilation_size = 64 (--dilation_size; the checkpoint's own settings say ", errors)
        self.assertEqual(errors.count("own settings say"), 1)

    def test_the_older_layout_rounded_to_bfloat16(self):
        checkpoints.save(self.checkpoint, self.older())
        self.convert("--dtype", "bfloat16")
        name = "backbone.layers.1.seq_layer.in_proj.weight"
        loaded = safetensors_io.load_folder(self.output)[name]
        self.assertTrue(torch.equal(loaded, self.state[name].bfloat16()))

    def test_refusals(self):
        def refused(state, pattern, *flags, **cell):
            checkpoints.save(self.checkpoint, state, config=self.settings(**cell))
            self.refused(pattern, *flags)

        refused(self.state, "apply_re is false, the authors' attention model", apply_re=False)
        refused(self.state, "dilation_size is 0; must be .* from -1 to 1073741824, but not 0",
                "--dilation_size", "0")
        refused(self.state, "local_size is -1; must be a whole number from 0", local_size=-1)
        refused(self.state, "initial_size is 'four', a text|initial_size is four",
                initial_size=["four", 0, 0])
        refused(self.state, "initial_size has 2 numbers; must be one, or one for each of 3 layers",
                "--initial_size", "1,2")
        refused(self.state, "d_head is 32; the weights", d_head=32)
        older = self.older()
        gate = "backbone.layers.1.seq_layer.fgate_proj.weight"
        refused({n: t for n, t in older.items() if n != gate},
                "layers.1.seq_layer.in_proj.weight: has 256 rows, must have 5 . 64, or 4 . 64 beside "
                "a fgate_proj.weight; without a gate")
        refused({**older, gate: older[gate][:, :32].clone()},
                r"layers.1.seq_layer.fgate_proj.weight: has shape \[64, 32\].*must have \[64, 64\]")
        refused({**older, gate: older[gate].half()}, "fgate_proj.weight: has dtype F16")
        refused({**self.state, "backbone.layers.2.seq_layer.gate_bias": torch.zeros(64)},
                "gate_bias: surplus, a RAT\\+ model has no place for it")


if __name__ == "__main__":
    unittest.main()
