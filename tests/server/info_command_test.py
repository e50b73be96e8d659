"""packrat info --model: what it says of a folder is what a server that serves it says."""

import json
import os
import subprocess
import tempfile
import unittest

from tests.server import processes
from tests.server.processes import ROOT, RealServer

DEMO = "models/demo"
MODEL = os.path.join(ROOT, DEMO)


def run(*arguments):
    return subprocess.run([processes.CLIENT, "info", *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, encoding="utf-8", timeout=60, check=False)


class InfoCommandTest(unittest.TestCase):

    def test_a_server_says_the_same(self):
        done = run("--model", MODEL, "--json")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        told = json.loads(done.stdout)
        with RealServer(DEMO, "--device=cpu") as server:
            served = server.json("info")
        for name in ("family", "vocab_size", "hidden_size"):
            self.assertEqual(told[name], served[name])
        types = [layer["type"] for layer in served["layers"]]
        self.assertEqual({kind["type"]: kind["count"] for kind in told["state"]["kinds"]},
                         {kind: types.count(kind) for kind in types})
        self.assertEqual(told["layers"], types)  # Each has one mixer.
        self.assertEqual(told["max_context"], served["limits"]["max_context"])
        self.assertEqual(told["tokenizer"]["pieces"], served["tokenizer"]["num_pieces"])
        for name in ("fixed_bytes", "window_bytes", "bytes_per_token", "bytes_at_max_context"):
            self.assertEqual(float(told["state"][name]), float(served["state"].get(name, 0)), name)

    def test_as_text(self):
        done = run("--model=" + MODEL)
        self.assertEqual(done.returncode, 0, done.stderr)
        for line in (r"family +\w+", r"layers +\d+: ", r"parameters +[\d.]+ million, ",
                     r"weights +BF16 [\d.]+ MiB", r"longest text +\d+ tokens", r"tokenizer +SentencePiece, ",
                     "It can be served."):
            self.assertRegex(done.stdout, line)

    def test_refusals_and_mistakes(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as f:
                config = json.load(f)
            config.update(mistyped=1, misspelt=2)
            with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
                json.dump(config, f)
            done = run("--model", folder)
            self.assertEqual(done.returncode, 1, done.stderr)
            for words in ("It is refused:", "mistyped: is unknown", "misspelt: is unknown",
                          "has neither model.safetensors"):
                self.assertIn(words, done.stdout)
            self.assertEqual(len(json.loads(run("--model", folder, "--json").stdout)["refused"]), 3)
        self.assertEqual(run("--model", MODEL, "more").returncode, 2)
        self.assertEqual(run("--model=", "--json").returncode, 2)
        done = run("--model", MODEL, "--help")
        self.assertEqual(done.returncode, 0)
        self.assertIn("packrat info --model DIR", done.stdout)


if __name__ == "__main__":
    unittest.main()
