"""The PyTorch reference against the golden cases, and its parts against plainer algorithms."""

import os
import tempfile
import unittest

import torch

from models.reference import mesa_solver, safetensors_io
from models.reference.layers import Attention
from models.reference.families import LayerSpec
from models.reference.model import load_model
from models.reference.scan import decaying_sum

GOLDEN = os.environ.get("PACKRAT_GOLDEN", "tests/golden")
CASES = ("rat", "rat_local", "mesa_net", "mesa_net_hybrid", "packrat", "packrat_wide",
         "gated_delta_net", "mamba2", "short_conv", "rg_lru", "rat_plus",
         "experts")


def relative_error(out, reference):
    return float((out - reference).norm() / reference.norm())


class SolverOptions(unittest.TestCase):
    def setUp(self):
        self.addCleanup(setattr, mesa_solver, "options", mesa_solver.options)


class GoldenTest(SolverOptions):
    def check(self, case, options):
        mesa_solver.options = options
        model, _ = load_model(os.path.join(GOLDEN, case))
        expected = safetensors_io.load(os.path.join(GOLDEN, case, "expected.safetensors"))
        ids = expected["input_ids"].long()
        with torch.no_grad():
            logits = model(ids)
            start = model(ids[:, :37])
        self.assertLess(relative_error(logits, expected["logits"]), 1e-5)
        # A shorter text has the same logits: nothing looks ahead, padding changes nothing.
        self.assertLess(relative_error(start, expected["logits"][:, :37]), 1e-5)


def _add_golden_tests():
    for case in CASES:
        for name, options in (("exact", mesa_solver.Options(exact=True)),
                              ("blocks_of_64", mesa_solver.Options()),
                              ("blocks_of_32", mesa_solver.Options(block=32))):
            def test(self, case=case, options=options):
                self.check(case, options)
            setattr(GoldenTest, f"test_{case}_{name}", test)


_add_golden_tests()


class MesaTest(SolverOptions):
    def inputs(self, T):
        g = torch.Generator().manual_seed(5)
        def random(*shape):
            return torch.randn(*shape, generator=g)
        unit = torch.nn.functional.normalize
        tensors = [unit(random(2, 3, T, 8), dim=-1), unit(random(2, 3, T, 8), dim=-1),
                   random(2, 3, T, 8), torch.sigmoid(random(2, 3, T)),
                   torch.nn.functional.logsigmoid(2 + random(2, 3, T)),
                   0.25 + random(3, 1, 8).abs()]
        return [t.requires_grad_() for t in tensors]

    def test_block_gradients_are_those_of_the_direct_solve(self):
        mesa_solver.options = mesa_solver.Options(steps=20, block=16)
        inputs = self.inputs(45)
        weight = torch.randn(2, 3, 45, 8, generator=torch.Generator().manual_seed(6))
        outputs, gradients = [], []
        for function in (mesa_solver.exact, mesa_solver.block):
            out = function(*inputs)
            outputs.append(out.detach())
            gradients.append(torch.autograd.grad((out * weight).sum(), inputs))
        self.assertLess(relative_error(outputs[1], outputs[0]), 1e-5)
        for exact, block in zip(*gradients):
            self.assertGreater(float(exact.norm()), 0)
            self.assertLess(relative_error(block, exact), 1e-4)

    def test_saturated_gates_stay_finite(self):
        mesa_solver.options = mesa_solver.Options(steps=8, block=16)
        q, k, v, beta, log_gamma, ridge = self.inputs(64)
        for extreme in (0.0, -80.0):
            o = mesa_solver.block(q, k, v, beta, torch.full_like(log_gamma, extreme), ridge)
            self.assertTrue(torch.isfinite(o).all())
            self.assertTrue(torch.isfinite(torch.autograd.grad(o.sum(), k)[0]).all())


class ScanTest(unittest.TestCase):
    def test_gradients(self):
        g = torch.Generator().manual_seed(1)
        decay = torch.rand(2, 7, 3, generator=g, dtype=torch.float64).requires_grad_()
        new = torch.randn(2, 7, 3, generator=g, dtype=torch.float64).requires_grad_()
        self.assertTrue(torch.autograd.gradcheck(decaying_sum, (decay, new)))


class WindowTest(unittest.TestCase):
    def test_blocks_equal_a_masked_full_attention(self):
        torch.manual_seed(3)
        for window in (1, 5, 16, 40):
            layer = Attention(LayerSpec("attention", 4, 8, 2, window), 32)
            h = torch.randn(2, 37, 32)
            with torch.no_grad():
                for t in (0, 4, 5, 20, 36):  # the window's text alone gives the same last row
                    begin = max(0, t + 1 - window)
                    alone = layer(h[:, begin : t + 1])[:, -1]
                    self.assertLess(relative_error(layer(h)[:, t], alone), 1e-5, (window, t))


class SafetensorsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "a.safetensors")

    def test_round_trip(self):
        tensors = {"a": torch.randn(3, 5).bfloat16(), "b": torch.arange(7, dtype=torch.int32),
                   "c": torch.randn(2, 1, 4), "d": torch.randn(9).half(), "e": torch.zeros(0, 4)}
        safetensors_io.save(self.path, tensors, {"format": "pt"})
        loaded = safetensors_io.load(self.path)
        self.assertEqual(set(loaded), set(tensors))
        for name, tensor in tensors.items():
            self.assertEqual(loaded[name].dtype, tensor.dtype)
            self.assertTrue(torch.equal(loaded[name], tensor))

    def test_truncated_file_is_refused_with_the_tensors_name(self):
        safetensors_io.save(self.path, {"first": torch.ones(4), "second": torch.ones(4)})
        with open(self.path, "r+b") as f:
            f.truncate(os.path.getsize(self.path) - 4)
        with self.assertRaisesRegex(ValueError, "second"):
            safetensors_io.load(self.path)


if __name__ == "__main__":
    unittest.main()
