"""Preparing, training, resuming and exporting a tiny model."""

import json
import os
import signal
import unittest
from unittest import mock

import sentencepiece
import torch

from models.reference.model import load_model
from models.train import checkpoint, export, sample
from tests.train.tiny import CONFIG, TinyCase


def flat(value, path=""):
    """{path: leaf} of nested dictionaries and lists."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {path: value}
    return {p: leaf for key, item in items for p, leaf in flat(item, f"{path}/{key}").items()}


class TrainingTest(TinyCase):
    def test_prepared_text_decodes_to_itself(self):
        tokenizer = sentencepiece.SentencePieceProcessor(
            model_file=os.path.join(self.data, "tokenizer.model"))
        self.assertEqual(tokenizer.get_piece_size(), 320)
        text = "The cat  sat.\n\"Caf\u00e9 \U0001f600\"\n\nsaid the dog. "
        self.assertEqual(tokenizer.decode(tokenizer.encode(text)), text)

    def run_recording_rows(self, trainer):
        """Runs; returns the batches that it was trained on."""
        batch, rows = trainer.data.batch, []
        def recording(*arguments):
            rows.append(batch(*arguments))
            return rows[-1]
        with mock.patch.object(trainer.data, "batch", recording):
            trainer.run()
        return rows

    def test_resumed_equals_uninterrupted(self):
        # So many rows begin a second epoch of the plain stories.
        settings = ("--steps", "30", "--length", "512")
        whole = self.trainer("whole", *settings)
        rows = self.run_recording_rows(whole)
        self.assertGreater(whole.data.streams[0].taken, whole.data.streams[0].windows)
        pieces = []
        for stop in ("1", "11", "23", "-1"):
            parts = self.trainer("parts", *settings, "--stop_after", stop)
            self.assertEqual(parts.step, len(pieces))
            pieces += self.run_recording_rows(parts)
        self.assertEqual(len(pieces), 30)
        self.assertTrue(all(map(torch.equal, rows, pieces)))
        expected, got = (flat(checkpoint.load(t.path)) for t in (whole, parts))
        self.assertEqual(expected.keys(), got.keys())
        self.assertTrue(any("exp_avg_sq" in path for path in got))
        self.assertTrue(any("muon" in path for path in got))
        for path, value in expected.items():
            if path in ("/begun", "/elapsed"):
                continue
            equal = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            self.assertTrue(equal(value, got[path]), path)
        before = self.trainer("fresh").model.state_dict()
        self.assertFalse(torch.equal(before["model.embeddings.weight"],
                                     whole.model.state_dict()["model.embeddings.weight"]))

    def test_more_steps_before_the_rate_sinks_change_no_rate(self):
        def rates(trainer):
            step, seen = trainer.train_step, []
            def recording(progress):
                result = step(progress)
                seen.append(trainer.schedule.rate)
                return result
            with mock.patch.object(trainer, "train_step", recording):
                trainer.run()
            return seen
        longer = rates(self.trainer("longer", "--steps", "20"))
        extended = rates(self.trainer("extended", "--steps", "10", "--stop_after", "4"))
        extended += rates(self.trainer("extended", "--steps", "20"))
        self.assertEqual(extended, longer)
        # After the end the rate was nearly zero: it climbs as at the start, 1 / warmup a step.
        again = rates(self.trainer("extended", "--steps", "40", "--warmup", "5"))
        for before, after in zip([longer[-1]] + again, again):
            self.assertLessEqual(after, before + 1 / 5 + 1e-12)
        self.assertLess(again[0], 0.3)
        self.assertGreater(max(again), 0.7)

    def test_a_piece_leaves_with_its_own_exit_code(self):
        self.assertEqual(self.trainer("piece", "--stop_after", "3").run(), 75)
        self.assertEqual(self.trainer("piece", "--piece_minutes", "1e-9").run(), 75)
        self.assertEqual(self.trainer("piece", "--piece_minutes", "10").run(), 0)
        self.assertEqual(self.trainer("piece").run(), 0)  # nothing left to do

    def test_terminated_run_saves_the_step_it_was_at(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        trainer = self.trainer("terminated")
        step = trainer.train_step
        def step_then_signal(progress):
            result = step(progress)
            if trainer.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return result
        with mock.patch.object(trainer, "train_step", step_then_signal):
            self.assertEqual(trainer.run(), 130)
        self.assertEqual(self.trainer("terminated").step, 2)

    def test_loss_falls(self):
        trainer = self.trainer("falls", "--steps", "40", "--adam_lr", "0.01")
        first = sum(trainer.evaluate())
        trainer.run()
        self.assertLess(sum(trainer.evaluate()), 0.8 * first)

    def test_export_loads_and_computes_the_same(self):
        trainer = self.trainer("exported", "--stop_after", "2")
        trainer.run()
        folder = os.path.join(self.root, "folder")
        export.export(trainer.path, self.data, folder)
        model, config = load_model(folder)
        self.assertEqual(config["layer_types"], CONFIG["layer_types"])
        with open(os.path.join(folder, "generation_config.json"), encoding="utf-8") as f:
            self.assertEqual(json.load(f)["eos_token_id"], 2)
        for name, tensor in trainer.model.state_dict().items():
            self.assertTrue(torch.equal(model.state_dict()[name], tensor.bfloat16().float()), name)
        ids = torch.randint(3, 320, (1, 20))
        with torch.no_grad():
            difference = (model(ids) - trainer.model(ids)).norm() / trainer.model(ids).norm()
        self.assertLess(float(difference), 0.02)  # bfloat16 keeps 8 bits

    def test_samples_depend_on_the_seed_alone(self):
        trainer = self.trainer("sampled", "--stop_after", "2")
        trainer.run()
        tokenizer = sentencepiece.SentencePieceProcessor(
            model_file=os.path.join(self.data, "tokenizer.model"))
        def draw(prompts, seed):
            return sample.generate(trainer.model, tokenizer, prompts, 12, 1.0, 0.9, seed)
        together = draw(["The cat", "A dog sat and"], 5)
        self.assertEqual(together[1], draw(["A dog sat and"], 6)[0])
        self.assertNotEqual(together[1], draw(["A dog sat and"], 7)[0])


if __name__ == "__main__":
    unittest.main()
