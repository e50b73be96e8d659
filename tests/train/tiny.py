"""A tiny corpus, its prepared data, and trainers of a tiny model: what the tests here begin with."""

import json
import os
import random
import sys
import tempfile
import unittest
from unittest import mock

from models.reference import mesa_solver
from models.train import prepare, train

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


def make_corpus(path, seed=4):
    rng = random.Random(seed)
    def sentence(words):
        return " ".join(rng.choice(words) for _ in range(8)).capitalize() + "."
    rare = ["".join(rng.choice("abcdefgh") for _ in range(7)) for _ in range(400)]
    with open(path, "w", encoding="utf-8") as f:
        for i in range(120):
            words = rare if i % 2 else WORDS
            opener = "" if i % 2 else "Once upon a time. "
            lines = [opener + " ".join(sentence(words) for _ in range(6)) for _ in range(3)]
            f.write("\n".join(lines) + "\n<|endoftext|>\n")


class TinyCase(unittest.TestCase):
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

    def arguments(self, output, *more, config=None):
        """Of models/train/train.py; what stands in `more` overrules."""
        output = os.path.join(self.root, output)
        os.makedirs(output, exist_ok=True)
        return ["--config", config or self.config, "--data", self.data, "--output", output,
                "--steps", "8", "--batch", "2", "--length", "32", "--bf16", "0", "--warmup", "2",
                "--device", "cpu", "--log_every", "4", *more]

    def trainer(self, output, *more, config=None):
        return train.Trainer(train.parse_arguments(self.arguments(output, *more, config=config)))
