"""A model with a tokenizer.json, from its folder to the client: the bundled weights, which then mean
nothing, with a tokenizer of as many ids."""

import json
import os
import tempfile
import unittest

from tests.server.processes import ROOT, RealServer

BYTE_LEVEL = os.path.join(ROOT, "tests/data/tokenizer_json")


def make_folder(folder, tokenizer, **config):
    for name in ("config.json", "model.safetensors"):
        os.symlink(os.path.join(ROOT, "models/demo", name), os.path.join(folder, name))
    with open(os.path.join(BYTE_LEVEL, tokenizer + ".json"), encoding="utf-8") as f:
        tokens = json.load(f)
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tokens, f)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)


class ByteLevelModelTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        make_folder(cls.folder.name, "gpt2", bos_token="<|endoftext|>", eos_token="<|endoftext|>",
                    add_bos_token=False)
        cls.server = RealServer(cls.folder.name)
        with open(os.path.join(BYTE_LEVEL, "expected.json"), encoding="utf-8") as f:
            expected = json.load(f)
        cls.case = expected["cases"][0]
        cls.texts = list(zip(expected["texts"], cls.case["ids"]))

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.folder.cleanup()

    def test_tokenize_and_detokenize(self):
        self.assertEqual((self.case["tokenizer"], self.case["special"]), ("gpt2", False))
        for text, ids in self.texts[::12]:
            # From standard input, less the last line break.
            told = self.server.client("tokenize", "--json", stdin=text + "\n")
            self.assertEqual(json.loads(told.stdout)["token_ids"], ids, text)
            back = self.server.json("detokenize", "--token_ids=" + ",".join(map(str, ids)))
            self.assertEqual(back["text"], text)

    def test_special_tokens(self):
        text = "a<|endoftext|>b"
        plain = self.server.json("tokenize", text)["token_ids"]
        special = self.server.json("tokenize", "--parse_special", text)["token_ids"]
        self.assertNotIn(4095, plain)
        self.assertEqual(special[1:-1], [4095])
        self.assertEqual(self.server.json("tokenize", "--add_bos=true", "b")["token_ids"],
                         [4095, special[-1]])
        ids = "--token_ids=" + ",".join(map(str, special))
        self.assertEqual(self.server.json("detokenize", ids)["text"], "ab")
        shown = self.server.json("detokenize", ids, "--skip_special_tokens=false")
        self.assertEqual(shown["text"], text)

    def test_generated_text_streams_and_stops(self):
        flags = ["--max_tokens=40", "--ignore_eos", "--seed=3", "--temperature=1"]
        whole = self.server.json("complete", *flags, "Once upon a time")
        ids = ",".join(map(str, whole["token_ids"]))
        # Both repair what is no character in the same way.
        self.assertEqual(self.server.json("detokenize", "--token_ids=" + ids)["text"],
                         whole["text"])
        self.assertEqual(self.server.client("complete", *flags, "Once upon a time").stdout,
                         whole["text"] + "\n")
        letters = [i for i in range(4, len(whole["text"]) - 1)
                   if whole["text"][i:i + 2].isalpha() and whole["text"][i:i + 2].isascii()]
        stop = whole["text"][letters[0]:letters[0] + 2]
        cut = self.server.json("complete", *flags, "--stop=" + stop, "Once upon a time")
        self.assertEqual(cut["text"], whole["text"][:whole["text"].index(stop)])
        self.assertEqual(cut["finished"]["reason"], "FINISH_REASON_STOP_STRING")


class StartTest(unittest.TestCase):

    def assert_refused(self, message, spoil):
        with tempfile.TemporaryDirectory() as folder:
            make_folder(folder, "gpt2")
            path = os.path.join(folder, "tokenizer.json")
            with open(path, encoding="utf-8") as f:
                tokens = json.load(f)
            spoil(tokens)
            with open(path, "w", encoding="utf-8") as f:
                json.dump(tokens, f)
            with self.assertRaisesRegex(RuntimeError, message.replace('"', r'.?"')):
                RealServer(folder)

    def test_what_is_not_supported_is_told(self):
        self.assert_refused('tokenizer.json: normalizer.type: "BertNormalizer" is not supported',
                            lambda tokens: tokens.update(normalizer={"type": "BertNormalizer"}))

    def test_a_piece_too_long_for_an_answer_is_refused(self):
        def lengthen(tokens):
            vocabulary = tokens["model"]["vocab"]
            last = max(vocabulary, key=vocabulary.get)
            tokens["model"]["merges"].pop()  # Which makes it.
            vocabulary["x" * 65537] = vocabulary.pop(last)
        self.assert_refused("a piece of 65537 bytes; at most 65536", lengthen)


if __name__ == "__main__":
    unittest.main()
