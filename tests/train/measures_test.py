"""The scripts behind the model card, on the built server and a tiny model."""

import json
import os
import sys
import unittest
from unittest import mock

import torch

from models.reference import mesa_solver
from models.reference.model import load_model
from models.train import (by_position, compare, evaluate, export, files, sampling, served,
                          solver_quality)
from tests.train.tiny import CONFIG, TinyCase

BIN = os.path.join(os.environ["TEST_SRCDIR"], os.environ["TEST_WORKSPACE"])
STORY = ("Once upon a time. The cat sat and the dog ran with its friend. "
         "A little red hat was happy and a big dog saw the sad cat. ")


class MeasuresTest(TinyCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.binaries = served.Binaries(BIN)
        config = cls.write_config("measured.json", dict(CONFIG, max_position_embeddings=128))
        trainer = cls().trainer("measured", "--steps", "6", "--adam_lr", "0.02", config=config)
        trainer.run()
        cls.model = os.path.join(cls.root, "model")
        export.export(trainer.path, cls.data, cls.model)

    def setUp(self):
        super().setUp()
        self.reference, _ = load_model(self.model)
        mesa_solver.options = mesa_solver.Options(exact=True)

    def reference_nats(self, ids):
        with torch.no_grad():
            logits = self.reference(torch.tensor([ids[:-1]]))[0].double()
        return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")

    def write(self, name, text):
        path = os.path.join(self.root, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def test_the_engine_scores_as_the_reference_does(self):
        texts = [[1, 5, 9, 300, 31], [1, 7], [1], [1] + list(range(10, 70))]
        with mock.patch.object(served, "_LOGITS_BYTES", 4 * 320 * 60 * 2):  # two texts at a time
            scored = self.binaries.token_nats(self.model, texts, 320, ("--cg_tolerance", "1e-6"))
        self.assertEqual([len(nats) for nats in scored], [4, 1, 0, 60])
        for ids, nats in zip(texts, scored):
            if len(ids) > 1:
                torch.testing.assert_close(nats, self.reference_nats(ids), rtol=1e-4, atol=1e-4)
        documents = [STORY * 5, "The cat."]
        bits, size = served.score(self.binaries, self.model, documents, ("--cg_tolerance", "1e-6"))
        ids = served.Text(self.model, documents).ids
        self.assertGreater(len(ids[0]), 128)  # more than one piece
        nats = sum(evaluate.document_nats(self.reference, x[1:], 127) for x in ids)
        self.assertEqual(size, sum(map(len, documents)))
        self.assertAlmostEqual(bits, served.bits(nats, size), delta=1e-4 * bits)

    def test_bytes_of_pieces_add_up_to_the_text(self):
        text = served.Text(self.model, [STORY + "\n\u00e9 \U0001f600"])
        self.assertEqual(float(text.bytes_of(text.ids[0]).sum()),
                         len(text.documents[0].encode("utf-8")))

    def test_by_position(self):
        text = served.Text(self.model, [STORY * 5, STORY[20:] * 5])
        size, far, close = by_position.measure(self.binaries, self.model, text, 64, 16,
                                               ("--cg_tolerance", "1e-6"))
        self.assertEqual(size.shape, (2, 4))
        for row, ids in enumerate(text.ids):
            whole = self.reference_nats(ids[:65]).view(4, 16).sum(1)
            torch.testing.assert_close(far[row], whole, rtol=1e-4, atol=1e-3)
            self.assertEqual(float(size[row].sum()), float(text.bytes_of(ids[:65]).sum()))
            # Tokens 33 to 48, which see the 16 before them and <s>.
            near = self.reference_nats([1] + ids[17:49])[-16:].sum()
            self.assertAlmostEqual(float(close[row, 2]), float(near), delta=1e-3 * float(near))
            # Up to 32 tokens there is nothing to forget.
            torch.testing.assert_close(close[row, :2], far[row, :2], rtol=1e-5, atol=1e-4)
        lines = by_position.table(size, far, close, 16, 3).split("\n")
        self.assertEqual([line.split("|")[1].strip() for line in lines[2:]],
                         ["0 to 16", "16 to 32", "32 to 64"])
        self.assertIn(f"{served.bits(float(far[:, 2:].sum()), float(size[:, 2:].sum())):.4f}",
                      lines[-1])

    def test_solver_quality(self):
        settings = (("1e-1", "1024"), ("1e-6", "1024"), ("1e-7", "1"))
        measured = solver_quality.rows(self.binaries, self.model, [STORY], settings)
        exact = served.bits(float(self.reference_nats(served.Text(self.model, [STORY]).ids[0]).sum()),
                            len(STORY))
        errors = [abs(row[2] - exact) for row in measured]
        self.assertLess(errors[1], 1e-5)
        self.assertGreater(errors[0], errors[1])
        self.assertGreater(errors[2], errors[1])
        self.assertEqual(measured[2][3], 1.0)
        self.assertGreater(measured[1][3], measured[0][3])
        self.assertEqual(len(solver_quality.table(measured, exact).split("\n")), 5)

    def test_sampling_numbers(self):
        self.assertEqual(sampling.variety(["a b c d e"]), 1.0)
        self.assertEqual(sampling.variety(["a b c d a b c d a b c"]), 0.5)  # 4 of 8 runs
        self.assertEqual(sampling.variety(["a b c"]), 0)
        people = sampling.Numbers(1.0, 0.8)
        measured = {("0.5", "1"): sampling.Numbers(0.5, 0.6), ("0.7", "1"): sampling.Numbers(0.8, 0.79),
                    ("0.8", "1"): sampling.Numbers(0.9, 0.8), ("1.0", "1"): sampling.Numbers(1.5, 0.9)}
        self.assertEqual(sampling.recommend(measured, people, 0.02), ("0.7", "1"))
        self.assertEqual(sampling.recommend(measured, people, 0.01), ("0.8", "1"))
        self.assertEqual(sampling.recommend(measured, people, -1), ("1.0", "1"))
        self.assertIn("| **0.8** | **1** | 0.900 | 0.800 |",
                      sampling.table(measured, people, ("0.8", "1")))
        prompt, text = "Once upon", " a time. The cat sat."
        ids = served.Text(self.model, [prompt + text]).ids[0]
        lengths = [float(x) for x in served.Text(self.model, [prompt + text]).bytes_of(ids)]
        nats, size, begin = 0.0, 0.0, 0.0
        for each, length in zip(self.reference_nats(ids).tolist(), lengths):
            if begin >= len(prompt):
                nats, size = nats + each, size + length
            begin += length
        self.assertAlmostEqual(sampling.surprise(self.binaries, self.model, [prompt], [text]),
                               served.bits(nats, size), places=3)

    def test_sampling_of_a_served_model(self):
        text = self.write("stories.txt", "\n<|endoftext|>\n".join([STORY * 2, STORY[5:] * 2]))
        with served.Server(self.binaries, self.model) as server:
            prompts = ["The cat", "-- A dog"]
            texts = sampling.continue_all(server, prompts, 12, "1.0", "0.9", 5)
            self.assertEqual(texts, sampling.continue_all(server, prompts, 12, "1.0", "0.9", 5))
            self.assertNotEqual(texts, sampling.continue_all(server, prompts, 12, "1.0", "0.9", 6))
        arguments = ["sampling", "--model", self.model, "--text", text, "--samples", "3",
                     "--max_tokens", "24", "--temperature", "0.7", "--top_p", "0.9", "--bin", BIN]
        with mock.patch.object(sys, "argv", arguments), mock.patch("builtins.print") as printed:
            sampling.main()
        self.assertIn("Recommended: temperature 0.7, top-p 0.9.", printed.call_args[0][0])

    def test_variants_have_one_number_of_parameters(self):
        with open(os.path.join(os.path.dirname(compare.__file__), "config.json"),
                  encoding="utf-8") as f:
            base = json.load(f)
        variants = compare.configs(base)
        unused = base.pop("attention")
        self.assertEqual(variants["hybrid"], base)
        self.assertEqual(variants["attention"]["attention"], unused)
        with self.assertRaisesRegex(files.Mistake, 'lacks the sizes of "attention"'):
            compare.configs(base)
        target = compare.parameters(base)
        for variant, config in variants.items():
            self.assertLess(abs(compare.parameters(config) / target - 1), 0.005, variant)
            if variant != "hybrid":
                self.assertEqual(config["layer_types"], [variant] * 6)

    def test_comparison(self):
        output = os.path.join(self.root, "comparison")
        text = self.write("validation.txt", STORY)
        base = self.write_config("base.json", dict(CONFIG, max_position_embeddings=128,
                                                   intermediate_size=96))
        def run(*more):
            arguments = ["compare", "--base", base, "--data", self.data, "--text", text, "--output",
                         output, "--steps", "2", "--bin", BIN, "--rounds", "1", "--concurrency", "2",
                         "--prompt_tokens", "20", "--max_tokens", "20", "--batch", "1", "--length",
                         "32", "--warmup", "2", "--device", "cpu", *more]
            with mock.patch.object(sys, "argv", arguments):
                return compare.main()
        self.assertEqual(run("--piece_minutes", "1e-9"), 75)
        self.assertFalse(os.path.exists(os.path.join(output, "compare.md")))
        self.assertEqual(run(), 0)
        with open(os.path.join(output, "compare.md"), encoding="utf-8") as f:
            lines = f.read().split("\n")
        self.assertEqual([line.split("|")[1].strip() for line in lines[2:6]],
                         ["attention", "rat", "mesa", "hybrid"])
        # A key and a value of 2 heads of 16 floats, in four layers, for each token; half of it where the
        # processor multiplies in bfloat16.
        floats = 4096 * 2 * 2 * 16 * 4
        self.assertIn(lines[2].split("|")[5].strip(),
                      {f"{floats * size // 1024:,} KB" for size in (4, 2)})
        stamp = os.stat(os.path.join(output, "mesa", "checkpoint.pt")).st_mtime_ns
        self.assertEqual(run(), 0)  # nothing is trained again
        self.assertEqual(os.stat(os.path.join(output, "mesa", "checkpoint.pt")).st_mtime_ns, stamp)

    def test_mistakes(self):
        with self.assertRaisesRegex(files.Mistake, "server/packrat_server: no such file"):
            served.Binaries(self.root)
        with self.assertRaisesRegex(files.Mistake, "no document of 99999 characters"):
            served.read_text(self.write("short.txt", STORY), 99999)
        with self.assertRaisesRegex(files.Mistake, "packrat logits: "):
            self.binaries.token_nats(os.path.join(self.root, "nowhere"), [[1, 2]], 320)
        with self.assertRaisesRegex(files.Mistake, "the server does not start"):
            served.Server(self.binaries, os.path.join(self.root, "nowhere"))


if __name__ == "__main__":
    unittest.main()
