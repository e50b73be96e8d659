"""Preparing, training, resuming and exporting a tiny model."""

import json
import os
import random
import signal
import sys
import tempfile
import unittest
from unittest import mock

import sentencepiece
import torch

from models.reference import mesa_solver
from models.reference.model import load_model
from models.train import export, prepare, sample, train

CONFIG = {
    "model_type": "packrat", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 4, "layer_types": ["rat", "local_attention", "mesa", "attention"],
    "norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True, "bos_token_id": 1,
    "eos_token_id": 2, "max_position_embeddings": 256,
    "rat": {"num_heads": 2, "num_groups": 1, "chunk_size": 8},
    "local_attention": {"num_heads": 2, "num_kv_heads": 1, "window_size": 12},
    "attention": {"num_heads": 2, "num_kv_heads": 2},
    "mesa": {"num_heads": 2, "head_dim": 16, "conv_size": 3, "lambda_lower_bound": 0.25,
             "use_output_gate": True},
}
WORDS = "the cat dog sat ran saw a little big red hat and was happy sad with its friend".split()


def make_corpus(path):
    rng = random.Random(4)
    def sentence(words):
        return " ".join(rng.choice(words) for _ in range(8)).capitalize() + "."
    rare = ["".join(rng.choice("abcdefgh") for _ in range(7)) for _ in range(400)]
    with open(path, "w", encoding="utf-8") as f:
        for i in range(120):
            words = rare if i % 2 else WORDS
            opener = "" if i % 2 else "Once upon a time. "
            lines = [opener + " ".join(sentence(words) for _ in range(6)) for _ in range(3)]
            f.write("\n".join(lines) + "\n<|endoftext|>\n")


class TrainingTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.root = folder.name
        cls.data = os.path.join(cls.root, "data")
        corpus = os.path.join(cls.root, "corpus.txt")
        make_corpus(corpus)
        arguments = ["prepare", "--corpus", corpus, "--output", cls.data, "--vocab_size", "320",
                     "--books_fraction", "1.0"]
        with mock.patch.object(sys, "argv", arguments):
            prepare.main()
        cls.config = cls.write_config("config.json", CONFIG)

    @classmethod
    def write_config(cls, name, config):
        path = os.path.join(cls.root, name)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        return path

    def setUp(self):
        self.addCleanup(setattr, mesa_solver, "options", mesa_solver.options)

    def trainer(self, output, *more, config=None):
        output = os.path.join(self.root, output)
        os.makedirs(output, exist_ok=True)
        return train.Trainer(train.parse_arguments([
            "--config", config or self.config, "--data", self.data, "--output", output,
            "--steps", "8", "--batch", "2", "--length", "32", "--bf16", "0", "--warmup", "2",
            "--device", "cpu", "--log_every", "4", *more]))

    def test_prepared_text_decodes_to_itself(self):
        tokenizer = sentencepiece.SentencePieceProcessor(
            model_file=os.path.join(self.data, "tokenizer.model"))
        self.assertEqual(tokenizer.get_piece_size(), 320)
        text = "The cat  sat.\n\"Caf\u00e9 \U0001f600\"\n\nsaid the dog. "
        self.assertEqual(tokenizer.decode(tokenizer.encode(text)), text)

    def test_resumed_equals_uninterrupted(self):
        whole = self.trainer("whole")
        whole.run()
        self.trainer("parts", "--stop_after", "3").run()
        parts = self.trainer("parts")
        self.assertEqual(parts.step, 3)
        parts.run()
        self.assertEqual(parts.step, whole.step)
        before = self.trainer("fresh").model.state_dict()
        for name, tensor in whole.model.state_dict().items():
            self.assertTrue(torch.equal(tensor, parts.model.state_dict()[name]), name)
        self.assertFalse(torch.equal(before["model.embeddings.weight"],
                                     whole.model.state_dict()["model.embeddings.weight"]))

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
            trainer.run()
        self.assertEqual(self.trainer("terminated").step, 2)

    def test_loss_falls(self):
        trainer = self.trainer("falls", "--steps", "40", "--adam_lr", "0.01")
        first = sum(trainer.evaluate())
        trainer.run()
        self.assertLess(sum(trainer.evaluate()), 0.8 * first)

    def test_checkpoint_of_another_config_is_refused(self):
        self.trainer("other", "--stop_after", "1").run()
        config = self.write_config("other.json", dict(CONFIG, intermediate_size=64))
        with self.assertRaisesRegex(SystemExit, "another config.*intermediate_size"):
            self.trainer("other", config=config)

    def test_damaged_checkpoint_is_refused(self):
        trainer = self.trainer("damaged", "--stop_after", "1")
        trainer.run()
        with open(trainer.path, "r+b") as f:
            f.truncate(os.path.getsize(trainer.path) // 2)
        with self.assertRaisesRegex(SystemExit, "checkpoint.pt: damaged"):
            self.trainer("damaged")

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
