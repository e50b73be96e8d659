"""reference.py at tiny sizes on the CPU: the yardsticks compute what they claim to."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import unittest

import torch

from tests.bench.gpu import reference, yardsticks


class Tiny(unittest.TestCase):
    def test_runs_and_compares(self):
        with tempfile.TemporaryDirectory() as folder:
            ours, out = os.path.join(folder, "ours"), os.path.join(folder, "out")
            rows = [("model", "decode", "batch 2, position 48", 1e-9),
                    ("layers", "rat layer", "s", 1.0), ("layers", "full attention layer", "s", 9.0)]
            with open(ours, "w", encoding="utf-8") as file:
                for section, name, shape, seconds in rows:
                    row = {"section": section, "name": name, "shape": shape, "seconds": seconds}
                    file.write(json.dumps(row) + "\n")
            command = [sys.executable, reference.__file__, "--tiny", "--out", out, "--ours", ours]
            subprocess.run(command, check=True)
            with open(out, encoding="utf-8") as file:
                rows = [json.loads(line) for line in file]
            self.assertFalse([row for row in rows if "error" in row])
            measured = {row["name"] for row in rows if "seconds" in row}
            self.assertTrue({"mesa decode, PyTorch", "full attention decode, torch SDPA",
                             "RAT 1.3B decode, PyTorch with a CUDA graph"} <= measured)
            figures = {row["name"]: row["figure"] for row in rows if row["section"] == "ratio"}
            self.assertEqual(figures["full attention layer / rat layer, both ours"], 9.0)
            self.assertEqual(len(figures), 2)


class Mathematics(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)
        options = argparse.Namespace(tiny=True, budget=60, out=os.devnull, no_compile=True)
        self.bench = reference.Bench(options)
        self.addCleanup(self.bench.file.close)

    def test_mesa_solves(self):
        q, k, v, gate, beta, ridge, hkk = yardsticks.mesa_operands(self.bench, 2, 3, 16)
        hkv = torch.randn_like(hkk)
        out, new_kk, new_kv = yardsticks.mesa_step_torch(q, k, v, gate, beta, ridge, hkk, hkv, 30)
        system = new_kk + torch.diag_embed(ridge.expand(2, 3, 16))
        x = torch.linalg.solve(system.double(), q.double())
        expected = (new_kv.double().transpose(-1, -2) @ x[..., None])[..., 0]
        self.assertLess((out - expected).abs().max().item(), 1e-4)

    def test_rat_steps_meet_the_whole(self):
        """37 steps of the cached form against sums over all positions, written out."""
        model = yardsticks.RatModel(self.bench, 1, 32, 2, 1, 48, 50, 2, 36)
        layer, heads, dim = model.layers[0], 2, 16
        inputs = torch.randn(37, 2, 32)
        projected = inputs @ layer["in"].T
        z, v, g, q, k = projected.split([32, 32, 32, 16, 16], -1)
        gate = torch.sigmoid(g + layer["bias"])
        states = []
        for t in range(37):
            new = torch.stack([k[t].repeat(1, 2), v[t]])
            old = states[-1] if t % 16 else torch.zeros_like(new)
            states.append(gate[t] * old + (1 - gate[t]) * new)
        for t in range(37):
            model.position.fill_(t)
            chunk = model.position // 16
            angles = chunk * model.frequencies
            mask = (model.places <= chunk)[None, None, None, :]
            got = model.mixer(layer, inputs[t], chunk, angles.cos(), angles.sin(), mask)
            entries = [c * 16 + 15 for c in range(t // 16)] + [t]
            out = torch.zeros(2, 32)
            for b in range(2):
                for h in range(heads):
                    part = slice(h * dim, (h + 1) * dim)

                    def turned(x, c):
                        a = c * model.frequencies
                        return yardsticks.rotate(x, a.cos(), a.sin())

                    query = turned(q[t, b], t // 16)
                    scores = torch.stack([query @ turned(states[e][0, b, part], e // 16)
                                          for e in entries]) / 4
                    values = torch.stack([states[e][1, b, part] for e in entries])
                    out[b, part] = scores.softmax(0) @ values
            expected = (torch.sigmoid(z[t]) * out) @ layer["out"].T
            self.assertLess((got - expected).abs().max().item(), 1e-4, t)


if __name__ == "__main__":
    unittest.main()
