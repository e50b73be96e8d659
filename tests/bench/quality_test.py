import os
import subprocess
import sys
import tempfile
import unittest

import numpy

from tests.bench import quality

TOOLS, ENCODE, MODEL = "server/client/packrat_tools", "tests/models/encode", "models/demo"
TEXT = "Once upon a time there was a little fox who lived in a wood. She saw a bird and said hello. " * 40


class QualityTest(unittest.TestCase):

    def test_compare(self):
        base = numpy.array([[[1.0, 2.0, 0.0], [3.0, 1.0, 2.0], [0.0, 0.0, 5.0], [1.0, 0.0, 0.0]]])
        other = base.copy()
        other[0, 1] = [1.5, 1.0, 2.0]  # Another token is the largest.
        other[0, 2, 0] = 0.25
        self.assertEqual(quality.compare(base, other), (1.5, 0.25))
        self.assertEqual(quality.compare(base, base), (0.0, 0.0))

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def table(self, *arguments):
        done = subprocess.run([sys.executable, quality.__file__, TOOLS, ENCODE, f"--model={MODEL}",
                               "--rows=1", *arguments], capture_output=True, text=True, check=False,
                              env={**os.environ, "TMPDIR": self.folder})
        self.assertEqual(done.returncode, 0, done.stderr)
        return [[cell.strip() for cell in line.strip("|").split("|")]
                for line in done.stdout.splitlines()]

    def test_a_text_by_the_demo_model(self):
        text = os.path.join(self.folder, "text")
        with open(text, "w", encoding="utf-8") as file:
            file.write(TEXT)
        rows = self.table(f"--text={text}", "--", "--activations=float32",
                          "--activations=float32 --threads=1", "--weights=int4")
        self.assertEqual(len(rows), 5)
        _, _, base, same, int4 = rows
        self.assertEqual(base[0], "`--activations=float32`")
        self.assertEqual(base[2:], ["-", "-"])
        self.assertLess(0.0, float(base[1]))
        self.assertLess(float(base[1]), 8.0)
        self.assertEqual(same[1:], [base[1], "0", "0.0"])
        self.assertNotEqual(int4[1], base[1])
        self.assertLess(0.0, float(int4[2]))

    def test_random_ids_have_no_bits(self):
        rows = self.table("--", "", "--weights=int8")
        self.assertEqual([row[1] for row in rows[2:]], ["-", "-"])
        self.assertEqual(rows[2][0], "(none)")
        self.assertLess(0.0, float(rows[3][2]))


if __name__ == "__main__":
    unittest.main()
