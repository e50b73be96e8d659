"""The log of a run, and the picture of it."""

import os
import unittest
import xml.etree.ElementTree

from models.train import curves, files, run_log
from tests.train.tiny import TinyCase

PRINTED = """15.26 M parameters, torch 2.11.0, 2 threads, cpu
step 10 0.2% loss 6.848 bits/byte 4.386 norm 31.65 1489 tokens/s, 203 min left
step 20 0.5% loss 5.667 bits/byte 3.600 norm 8.89 1572 tokens/s, 187 min left
step 20 held out: plain 3.500 books 3.700 bits/byte
step 30 0.7% loss 4.901 bits/byte 3.001 norm 5.89 1598 tokens/s, 181 min left
resumed RUN/checkpoint.pt at step 20
15.26 M parameters, torch 2.11.0, 2 threads, cpu
step 30 0.7% loss 4.900 bits/byte 2.900 norm 5.89 1598 tokens/s, 181 min left
step 35 held out: plain 2.400 books 2.800 bits/byte
step 40 1.0% loss 4.8"""
SVG = "{http://www.w3.org/2000/svg}"


class CurvesTest(TinyCase):
    def write(self, name, text):
        path = os.path.join(self.root, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def test_what_is_printed_can_be_read(self):
        path = self.write("printed", PRINTED)
        lines, by = curves.curves(run_log.read(path))
        self.assertEqual(by, "step")
        self.assertEqual(lines, {"training": [(10, 4.386), (20, 3.6), (30, 2.9)],
                                 "held out: plain": [(20, 3.5), (35, 2.4)],
                                 "held out: books": [(20, 3.7), (35, 2.8)]})
        lines, by = curves.curves(run_log.read(path, tokens_a_step=100))
        self.assertEqual(by, "tokens")
        self.assertEqual(lines["held out: plain"], [(2000, 3.5), (3500, 2.4)])

    def test_a_run_that_was_killed_has_one_history(self):
        self.trainer("log", "--stop_after", "6", "--log_every", "2").run()
        path = os.path.join(self.root, "log", run_log.NAME)
        expected = [r["step"] for r in run_log.read(path)]
        self.assertEqual(expected, [0, 2, 4, 6, 6, 6])  # begin, three times train, held_out, end
        # Killed two steps after the checkpoint, in the middle of a line.
        with open(path, "a", encoding="utf-8") as f:
            f.write('{"event": "train", "step": 8, "tokens": 1, "bits_per_byte": 9.0}\n{"event": "tr')
        trainer = self.trainer("log", "--log_every", "1")
        self.assertEqual(trainer.run(), 0)
        records = run_log.read(path)
        self.assertEqual([r["step"] for r in records if r["event"] == "train"], [2, 4, 6, 7, 8])
        last = [r for r in records if r["event"] == "train"][-1]
        self.assertEqual(last["tokens"], 8 * 2 * 32)
        self.assertLess(last["bits_per_byte"], 9.0)
        self.assertEqual(set(last), {"event", "step", "tokens", "loss", "bits_per_byte", "norm",
                                     "rate", "tokens_per_second", "seconds", "time"})
        self.assertEqual(set(records[-2]["bits_per_byte"]), {"plain", "books"})
        self.assertEqual(records[-1]["why"], "done")
        lines, by = curves.curves(records)
        self.assertEqual((by, set(lines)),
                         ("tokens", {"training", "held out: plain", "held out: books"}))

    def test_the_picture(self):
        lines = {"training": [(0, 4.0), (50, 2.0), (100, 1.0)], "held out: a<b": [(50, 1.5), (100, 1.5)]}
        picture = xml.etree.ElementTree.fromstring(curves.svg(lines, "tokens", "R&D"))
        drawn = [[tuple(map(float, p.split(","))) for p in line.get("points").split()]
                 for line in picture.iter(SVG + "polyline")]
        # 0 to 100 tokens over 570 units, and 1 to 2 bits, twice the lowest, over 330.
        self.assertEqual(drawn, [[(60, -620), (345, 40), (630, 370)], [(345, 205), (630, 205)]])
        texts = [t.text for t in picture.iter(SVG + "text")]
        for text in ("R&D", "held out: a<b 1.500", "training 1.000", "1.5", "tokens"):
            self.assertIn(text, texts)

    def test_nothing_to_draw(self):
        for text in ("", "hello\n", '{"event": "begin", "step": 0}\n'):
            lines, by = curves.curves(run_log.read(self.write("empty", text)))
            with self.assertRaisesRegex(files.Mistake, "nothing to draw"):
                curves.svg(lines, by, "none")
        flat = {"training": [(0, 1.5)]}
        xml.etree.ElementTree.fromstring(curves.svg(flat, "step", "one point"))


if __name__ == "__main__":
    unittest.main()
