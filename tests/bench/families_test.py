import os
import tempfile
import types
import unittest
from unittest import mock

from tests.bench import families


class Branch:
    def complete(self, prompt, **_):
        # 600 tokens and what the session answered are kept; a turn has 32 of its own.
        return types.SimpleNamespace(usage=types.SimpleNamespace(
            prompt_tokens=601 + len(prompt), cached_tokens=self.cached))

    def delete(self):
        pass


class Session(Branch):
    def __init__(self, cached):
        self.cached = cached

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def fork(self):
        return self


class Client:
    def __init__(self, cached):
        self.cached = cached

    def model_info(self):
        return types.SimpleNamespace(state=types.SimpleNamespace(
            fixed_bytes=1000, window_bytes=24, bytes_per_token=12.0))

    def create_session(self):
        return Session(self.cached)


class FamiliesTest(unittest.TestCase):

    def test_state_fork_and_turn(self):
        rows = families.session_rows(Client(600), 100, 600, 3)
        self.assertEqual(rows[0], ("state of a sequence", 1024, "bytes", "and 12 a token"))
        self.assertEqual([row[0] for row in rows[1:]], ["fork of 600 tokens", "turn of 32 after 600 tokens"])

    def test_a_handful_has_a_longest_and_no_p99(self):
        self.assertEqual(families.longest([3.0, 1.0, 2.0]), "longest 3 ms")
        self.assertEqual(families.longest(range(99)), "longest 98 ms")
        self.assertEqual(families.longest(range(200, 0, -1)), "p99 198 ms")

    def test_a_turn_that_computes_the_text_anew_is_no_result(self):
        with self.assertRaises(SystemExit):
            families.session_rows(Client(0), 100, 600, 3)

    def test_limits(self):
        info = {"parameters": 110, "embedding_parameters": 10, "tied": True, "state": {"fixed_bytes": 30}}
        with mock.patch.object(families, "ROWS", {"2": (2, 5, 11), "prompts": (1, 4, 1)}):
            limits = families.limits(info, 10.0, 1000.0)
            # 100 parameters in layers: 2 s for 10 tokens of prompts; 10 steps that read 220 + 60 bytes.
            self.assertAlmostEqual(limits["2"], 22 / (2 + 10 * 28))
            self.assertAlmostEqual(limits["prompts"], 4 / 0.8)
            # Where reading is fast, operations bind: 2 x 220 a step.
            self.assertAlmostEqual(families.limits(info, 1e9, 1000.0)["2"], 22 / (2 + 10 * 0.44))
            # An output matrix of its own: of the embedding one row is read.
            self.assertAlmostEqual(families.limits({**info, "parameters": 120, "tied": False}, 10.0,
                                                   1000.0)["2"], 22 / (2 + 10 * 28))

    def test_the_machine(self):
        with tempfile.NamedTemporaryFile("w", suffix=".sh", delete=False) as file:
            file.write("#!/bin/sh\nprintf 'machine: own read loop over 1 GiB\\t3\\tGB/s\\n'\n"
                       "printf 'machine: mbw, read + written, 1 core\\t4\\tGB/s\\n'\n"
                       "printf 'machine: own FMA loop\\t6\\tGFLOP/s\\n'\n"
                       "printf 'machine: own loop of bfloat16 dots\\t5\\tGFLOP/s\\n'\n")
        os.chmod(file.name, 0o755)
        self.assertEqual(families.machine(file.name), (4e9, 6e9))
        os.unlink(file.name)

    def test_every_family_has_its_configuration(self):
        for family in families.FAMILIES:
            config, title = families.configuration(family)
            self.assertIn("model_type", config)
            self.assertEqual("layers" in title, family in families.DEPTHS)

    def test_the_first_layers_of_a_large_one(self):
        config, title = families.configuration("nemotron_3_nano_4b")
        self.assertEqual(title, "nemotron_3_nano_4b, 13 of 42 layers")
        self.assertEqual(config["hybrid_override_pattern"], "M-M-M-MM-M-M*")
        config, title = families.configuration("olmo_hybrid_7b")
        self.assertEqual(title, "olmo_hybrid_7b, 4 of 32 layers")
        self.assertEqual((config["num_hidden_layers"], len(config["layer_types"])), (4, 4))
        self.assertEqual(config["hidden_size"], 3840)
        with mock.patch.dict(families.DEPTHS, clear=True):
            config, title = families.configuration("olmo_hybrid_7b")
            self.assertEqual((title, len(config["layer_types"])), ("olmo_hybrid_7b", 32))


if __name__ == "__main__":
    unittest.main()
