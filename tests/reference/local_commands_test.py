"""The commands that need no server: activations and perplexity against the PyTorch
reference, and their exit codes."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import torch

from models.reference import mesa_solver, safetensors_io
from models.reference.model import load_model

TOOL = os.environ.get("PACKRAT_TOOLS", "server/client/packrat_tools")
GOLDEN = "tests/golden"
CASES = ("rat", "rat_local", "mesa_net", "mesa_net_hybrid", "packrat", "packrat_wide",
         "gated_delta_net", "mamba2", "short_conv", "rg_lru")
DEMO = "models/demo"

# Two spellings of a line break, white space around lines, documents without text, one that is
# longer than what is scored at a time, and one that is not closed.
TEXT = ("Once upon a time there was a little dog.\r\n  He liked to run.\u00a0\n\n<|endoftext|>\n"
        "<|endoftext|>\n \u3000\n<|endoftext|>  \n\nna\u00efve \u4f60\u597d \U0001f600\t!\n\n\nEnd.\n"
        "<|endoftext|>\n" + "The cat sat on the mat, and then she saw a mouse. <s> </s>\n" * 90 +
        "<|endoftext|>\nThe last one <|endoftext|> is open")


def run(*arguments):
    return subprocess.run([TOOL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          encoding="utf-8", check=False)


def residual_stream(model, ids):
    """The reference's residual stream under the names of `packrat logits --layers`."""
    seen = {}
    hooks = [model.model.embeddings.register_forward_hook(
        lambda module, inputs, output: seen.update({"embeddings": output}))]
    for i, layer in enumerate(model.model.layers):
        hooks.append(layer.mlp_norm.register_forward_pre_hook(
            lambda module, inputs, i=i: seen.update({f"layers.{i}.mixer": inputs[0]})))
        hooks.append(layer.register_forward_hook(
            lambda module, inputs, output, i=i: seen.update({f"layers.{i}": output})))
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    return seen


class WithFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)


class ActivationsTest(WithFolder):
    def setUp(self):
        super().setUp()
        self.addCleanup(setattr, mesa_solver, "options", mesa_solver.options)
        mesa_solver.options = mesa_solver.Options(exact=True)

    def write(self, case, *flags):
        done = run("logits", "--model", os.path.join(GOLDEN, case), "--tokens",
                   os.path.join(GOLDEN, case, "expected.safetensors"), "--output",
                   self.path("logits"), "--layers", self.path("activations"),
                   "--cg_tolerance", "1e-6", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return safetensors_io.load(self.path("activations"))

    def check(self, case):
        model, _ = load_model(os.path.join(GOLDEN, case))
        expected = safetensors_io.load(os.path.join(GOLDEN, case, "expected.safetensors"))
        reference = residual_stream(model, expected["input_ids"].long())
        whole = self.write(case, "--piece", "1000")
        self.assertEqual(set(whole), set(reference))
        for name, values in reference.items():
            self.assertEqual(whole[name].shape, values.shape, name)
            error = float((whole[name] - values).norm() / values.norm())
            self.assertLess(error, 1e-5, name)
        # What the layers add is seen too, however small beside the stream.
        names = list(reference)
        for before, after in zip(names, names[1:]):
            ours, theirs = whole[after] - whole[before], reference[after] - reference[before]
            self.assertLess(float((ours - theirs).norm() / theirs.norm()), 1e-4, after)
        logits = safetensors_io.load(self.path("logits"))["logits"]
        error = float((logits - expected["logits"]).norm() / expected["logits"].norm())
        self.assertLess(error, 1e-5)
        pieces = self.write(case, "--piece", "7", "--threads", "2")
        for name, values in whole.items():
            self.assertTrue(torch.equal(values, pieces[name]), name)
        self.assertTrue(torch.equal(logits, safetensors_io.load(self.path("logits"))["logits"]))
    def test_texts_longer_than_the_context_are_refused(self):
        model = os.path.join(GOLDEN, "rat")
        with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
            context = json.load(f)["max_position_embeddings"]
        for length, code in ((context, 0), (context + 1, 1)):
            safetensors_io.save(self.path("tokens"),
                                {"input_ids": torch.zeros(1, length, dtype=torch.int32)})
            done = run("logits", "--model", model, "--tokens", self.path("tokens"), "--output",
                       self.path("logits"))
            self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(f"tensor input_ids has {context + 1} tokens in a row; the model's context is "
                      f"{context}", done.stderr)
        # What PyTorch makes by itself.
        safetensors_io.save(self.path("tokens"), {"input_ids": torch.zeros(1, 2, dtype=torch.int64)})
        done = run("logits", "--model", model, "--tokens", self.path("tokens"), "--output",
                   self.path("logits"))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("tensor input_ids must be int32 (in PyTorch ids.to(torch.int32))", done.stderr)


def _add_golden_tests():
    for case in CASES:
        def test(self, case=case):
            self.check(case)
        setattr(ActivationsTest, f"test_{case}", test)


_add_golden_tests()


def scores(text):
    """Of lines `short: 17 documents, ...`: by group, by unit, the numbers."""
    found = {}
    for line in text.splitlines():
        group, rest = line.split(": ")
        found[group] = {unit: float(number) for number, unit in
                        re.findall(r"([\d.]+) ([a-z ]+)", rest)}
    return found


class PerplexityTest(WithFolder):
    def both(self, model, *flags):
        """What the reference and the command say of TEXT, and all that the command prints."""
        with open(self.path("text"), "w", encoding="utf-8", newline="") as f:
            f.write(TEXT)
        reference = subprocess.run(
            [sys.executable, "-m", "models.train.evaluate", "--model", model, "--text",
             self.path("text"), *flags],
            stdout=subprocess.PIPE, encoding="utf-8", check=True)
        ours = run("perplexity", "--model", model, "--file", self.path("text"), "--piece", "37",
                   *flags)
        self.assertEqual(ours.returncode, 0, ours.stderr)
        return scores(reference.stdout), scores(ours.stdout), ours

    def test_a_short_context_and_no_bos_mean_the_same_to_both(self):
        model = self.path("model")
        shutil.copytree(DEMO, model)
        for name, change in (("config.json", {"max_position_embeddings": 150}),
                             ("tokenizer_config.json", {"add_bos_token": False})):
            with open(os.path.join(model, name), encoding="utf-8") as f:
                content = json.load(f)
            os.chmod(model, 0o755)
            os.remove(os.path.join(model, name))
            with open(os.path.join(model, name), "w", encoding="utf-8") as f:
                json.dump({**content, **change}, f)
        seen = []
        for flags in ((), ("--bos=true",), ("--bos=false", "--length=60")):
            expected, measured, _ = self.both(model, *flags)
            self.assertEqual(list(expected), list(measured))
            for group, numbers in expected.items():
                for unit in ("documents", "bytes", "tokens"):
                    self.assertEqual(measured[group][unit], numbers[unit], (flags, group, unit))
                for unit in ("bits per byte", "nats per token"):
                    self.assertAlmostEqual(measured[group][unit], numbers[unit], delta=1.5e-4)
            seen.append(measured["all"]["tokens"])
        self.assertGreater(seen[1], seen[0])
        self.assertGreater(seen[0], seen[2])
        done = run("perplexity", "--model", model, "--file", self.path("text"), "--bos=yes")
        self.assertEqual(done.returncode, 2)
        self.assertIn('bos must be true or false, got "yes"', done.stderr)

    def test_agrees_with_the_reference(self):
        for length in (4095, 100):
            expected, measured, ours = self.both(DEMO, "--length", str(length))
            self.assertEqual(list(measured), ["short", "long", "all"])
            for group, numbers in expected.items():
                for unit in ("documents", "bytes", "tokens"):
                    self.assertEqual(measured[group][unit], numbers[unit], (group, unit))
                for unit in ("bits per byte", "nats per token"):
                    # Both are rounded to four digits.
                    self.assertAlmostEqual(measured[group][unit], numbers[unit], delta=1.5e-4)
            self.assertEqual(expected["all"]["documents"], 4)
        perplexity = float(re.search(r"all: .*perplexity ([\d.]+)", ours.stdout).group(1))
        self.assertAlmostEqual(perplexity / 2.718281828459045 ** measured["all"]["nats per token"],
                               1, delta=1e-4)

    def test_files_without_text(self):
        for content, message in ((b"", "has no text"), (b"<|endoftext|>\n \n", "has no text"),
                                 (b"caf\xe9", "not valid UTF-8 at byte 3")):
            with open(self.path("text"), "wb") as f:
                f.write(content)
            done = run("perplexity", "--model", DEMO, "--file", self.path("text"))
            self.assertEqual(done.returncode, 1)
            self.assertIn(self.path("text") + ": " + message, done.stderr)
        done = run("perplexity", "--model", DEMO, "--file", self.path("none"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("No such file", done.stderr)
        with open(self.path("text"), "w", encoding="utf-8") as f:
            f.write("a")
        done = run("perplexity", "--model", DEMO, "--file", self.path("text"), "--length", "99999")
        self.assertIn("length must be in [0, 4096]", done.stderr)


class UsageTest(unittest.TestCase):
    def test_mistakes_give_2_and_name_the_flag(self):
        logits = ["logits", "--model", "m", "--tokens", "t", "--output", "o"]
        perplexity = ["perplexity", "--model", "m", "--file", "f"]
        for arguments, name in ((logits + ["--piece", "0"], "piece"),
                                (logits + ["--piece", "65537"], "piece"),
                                (logits + ["--cg_tolerance", "1"], "cg_tolerance"),
                                (logits + ["--cg_tolerance", "nan"], "cg_tolerance"),
                                (logits + ["--cg_max_steps", "0"], "cg_max_steps"),
                                (logits + ["--threads", "-1"], "threads"),
                                (logits + ["--threads=1025"], "threads"),
                                (logits + ["--cpu_target", "avx1024"], "avx1024"),
                                (logits + ["--piece", "x"], "--piece"),
                                (logits + ["--pieces", "1"], "--pieces"),
                                (logits + ["more"], "more"),
                                (logits[:5], "--output"),
                                (perplexity + ["--length", "-1"], "length"),
                                (perplexity + ["--piece", "0"], "piece"),
                                (perplexity + ["--cg_max_steps", "1025"], "cg_max_steps"),
                                (perplexity[:3], "--file"),
                                (["perplexity", "x"], "x")):
            done = run(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(name, done.stderr.splitlines()[0])
            self.assertIn("usage: packrat", done.stderr)
            self.assertEqual(done.stdout, "")

    def test_failures_give_1(self):
        done = run("logits", "--model", "nowhere", "--tokens", "t", "--output", "o")
        self.assertEqual(done.returncode, 1)
        self.assertIn("nowhere", done.stderr)
        self.assertEqual(run("perplexity", "--help").returncode, 0)


if __name__ == "__main__":
    unittest.main()
