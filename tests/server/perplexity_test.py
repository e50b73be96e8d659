"""`packrat score` against a server says of a text what `packrat perplexity` says without one."""

import json
import re
import subprocess
import tempfile
import unittest

from tests.server import processes
from tests.server.processes import RealServer

MODEL = "models/demo"
TEXT = "\n".join("Once upon a time there was a little dog. He liked to run number %d." % i
                 for i in range(60))


class PerplexityTest(unittest.TestCase):

    def test_both_agree(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(TEXT)
            file.flush()
            alone = subprocess.run([processes.CLIENT, "perplexity", "--model", MODEL, "--file", file.name,
                                    "--activations", "auto"],  # As a server has it.
                                   stdout=subprocess.PIPE, encoding="utf-8", check=True)
        with RealServer(MODEL) as server:
            done = server.client("score", "--json", TEXT)
            self.assertEqual(done.returncode, 0, done.stderr)
            # The same text behind its first words, in pieces of another size.
            words = TEXT.index(" there")
            behind = server.json("score", TEXT[:words], TEXT[words:])
            server.stop()
        found = re.search(r"all: .*, (\d+) tokens, .* ([\d.]+) nats per token, perplexity ([\d.]+)",
                          alone.stdout)
        self.assertIsNotNone(found, alone.stdout)
        answer = json.loads(done.stdout)
        score = answer["finished"]["score"]
        self.assertEqual(score["tokens"], int(found.group(1)))
        # What is printed has four digits.
        self.assertAlmostEqual(-score["logprob"] / score["tokens"], float(found.group(2)), delta=6e-5)
        self.assertAlmostEqual(score["perplexity"], float(found.group(3)), delta=6e-5)
        count = behind["finished"]["score"]["tokens"]
        self.assertEqual([s["logprob"] for s in behind["scores"]],
                         [s["logprob"] for s in answer["scores"][-count:]])


if __name__ == "__main__":
    unittest.main()
