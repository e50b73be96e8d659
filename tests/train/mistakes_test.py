"""Whatever is wrong with the input or the disk: one line that says it, and the old files stay."""

import io
import json
import lzma
import os
import resource
import subprocess
import sys
import unittest
from unittest import mock

import numpy as np
import sentencepiece
import torch

from models.train import checkpoint, export, files, prepare, train
from tests.train.tiny import CONFIG, TinyCase, make_corpus


def contents(folder):
    """{name: bytes} of a folder."""
    result = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as f:
            result[name] = f.read()
    return result


class MistakesTest(TinyCase):
    def write(self, name, data):
        path = os.path.join(self.root, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def run_script(self, module, *arguments, file_bytes=None):
        """(exit code, standard error); no file may grow beyond file_bytes, as on a full disk."""
        def limit():
            if file_bytes:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        run = subprocess.run([sys.executable, "-W", "ignore", "-m", "models.train." + module,
                              *arguments], preexec_fn=limit, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, encoding="utf-8", timeout=120, check=False)
        return run.returncode, run.stderr

    def assert_one_line(self, result, pattern):
        code, error = result
        self.assertEqual(code, 1, error)
        self.assertRegex(error, pattern)
        self.assertEqual(error.count("\n"), 1, error)

    # Fields of the config.

    def test_misspelt_fields(self):
        for change, name in (({"vocabsize": 5}, "vocabsize"),
                             ({"mesa": {**CONFIG["mesa"], "lambda_lower_bond": 0.5}},
                              "mesa.lambda_lower_bond")):
            path = self.write("misspelt.json", json.dumps({**CONFIG, **change}).encode())
            with self.assertRaisesRegex(files.Mistake, f"misspelt.json: .*{name}: unknown here"):
                train.read_model(path)

    def test_all_cores_means_all_that_it_may_use(self):
        before = torch.get_num_threads()
        self.addCleanup(torch.set_num_threads, before)
        torch.set_num_threads(1)
        args = ["train", "--config", self.write("c.json", json.dumps(CONFIG).encode()), "--data",
                "/nowhere", "--output", self.root]
        with mock.patch.object(sys, "argv", args), self.assertRaises((files.Mistake, OSError)):
            train.main()
        self.assertEqual(torch.get_num_threads(), len(os.sched_getaffinity(0)))

    # Text.

    def refuse_corpus(self, data, pattern, name="bad.txt"):
        path = self.write(name, data)
        output = os.path.join(self.root, "bad_data")
        arguments = ["prepare", "--corpus", path, "--output", output, "--vocab_size", "320"]
        with mock.patch.object(sys, "argv", arguments), self.assertRaisesRegex(
                files.Mistake, pattern) as caught:
            prepare.main()
        self.assertNotIn("\n", str(caught.exception))
        self.assertEqual(os.listdir(output), [])

    def test_text_that_is_none(self):
        self.refuse_corpus(b"", "bad.txt: empty")
        self.refuse_corpus(b" \n\n<|endoftext|>\n", "bad.txt: empty")
        self.refuse_corpus(bytes(1000), "bad.txt: binary")
        self.refuse_corpus(bytes(range(1, 256)) * 9, "bad.txt: binary, not UTF-8")
        self.refuse_corpus(b"no xz", "bad.txt.xz: damaged", "bad.txt.xz")
        whole = lzma.compress(b"A cat sat on the mat.\n" * 5000)
        self.refuse_corpus(whole[: len(whole) // 2], "bad.txt.xz: damaged", "bad.txt.xz")
        self.refuse_corpus(b"Once.\n", "1 documents, no short plain stories .*88 %.*--as_it_is takes")
        story = b"Once upon a time. " + b"The cat sat and the dog ran. " * 20
        self.refuse_corpus(story + b"\n", "no longer texts")

    def test_text_of_another_kind_is_taken_as_it_is(self):
        text = "*Der* Hund \u201elief\u201c zum Haus, und die Katze\nsa\u00df im Garten.\n" * 40
        path = self.write("german.txt", (text + "<|endoftext|>\n").encode() * 1 +
                          ("Zweitens. " + text).encode())
        self.refuse_corpus(text.encode(), "no short plain stories")
        output = os.path.join(self.root, "german")
        arguments = ["prepare", "--corpus", path, "--output", output, "--vocab_size", "284",
                     "--as_it_is"]
        with mock.patch.object(sys, "argv", arguments):
            prepare.main()
        tokenizer = sentencepiece.SentencePieceProcessor(
            model_file=os.path.join(output, "tokenizer.model"))
        texts = []
        for name in ("plain.bin", "books.bin"):
            ids = np.fromfile(os.path.join(output, name), dtype=np.uint16).tolist()
            texts.append(tokenizer.decode(ids))
        self.assertEqual(sorted(texts), sorted([text.strip(), "Zweitens. " + text.strip()]))

    def test_too_little_text_for_the_tokenizer(self):
        with self.assertRaisesRegex(files.Mistake, "60000 pieces.*more text"):
            prepare.train_tokenizer(["the cat sat"], ["the dog ran"],
                                    os.path.join(self.root, "none"), 60000, 1)
        self.assertFalse(os.path.exists(os.path.join(self.root, "none.model")))

    def test_a_script_says_it_in_one_line(self):
        self.assert_one_line(
            self.run_script("prepare", "--corpus", self.write("empty.txt", b""), "--output",
                            os.path.join(self.root, "empty_data")), "empty.txt: empty")
        self.assert_one_line(
            self.run_script("prepare", "--corpus", "/nowhere/text", "--output", self.root),
            "/nowhere/text: No such file")

    # Token files.

    def refuse_tokens(self, tokens, pattern):
        data = os.path.join(self.root, "bad_tokens")
        os.makedirs(data, exist_ok=True)
        for name, content in contents(self.data).items():
            with open(os.path.join(data, name), "wb") as f:
                f.write(tokens if name == "books.bin" else content)
        with self.assertRaisesRegex(files.Mistake, pattern):
            self.trainer("bad_tokens_run", "--data", data)

    def test_token_files(self):
        self.refuse_tokens(b"", "books.bin: too short: 0 tokens.* need 329")
        self.refuse_tokens(np.full(328, 7, np.uint16).tobytes(), "books.bin: too short: 328")
        self.refuse_tokens(bytes(2001), "books.bin: damaged")
        self.refuse_tokens(np.full(2000, 320, np.uint16).tobytes(), "token 320.*vocab_size of 320")

    def test_data_without_a_tokenizer(self):
        data = os.path.join(self.root, "no_tokenizer")
        os.makedirs(data)
        for name in ("plain.bin", "books.bin"):
            with open(os.path.join(data, name), "wb") as f:
                f.write(contents(self.data)[name])
        with self.assertRaisesRegex(files.Mistake, "tokenizer.model: no such file"):
            self.trainer("no_tokenizer_run", "--data", data)

    # Configs.

    def test_configs(self):
        lacking = {k: v for k, v in CONFIG.items() if k != "attention"}
        for config, pattern in (
                (lacking, "lacks 'attention'"),
                (dict(CONFIG, layer_types=["rat"]), "1 layers, num_hidden_layers says 4"),
                (dict(CONFIG, layer_types=["rat", "rat", "rat", "lstm"], lstm={"num_heads": 1}),
                 "unknown layer 'lstm'"),
                (dict(CONFIG, hidden_size="wide"), "not a config")):
            with self.assertRaisesRegex(files.Mistake, "bad.json: .*" + pattern):
                self.trainer("bad_config", config=self.write_config("bad.json", config))
        with self.assertRaisesRegex(files.Mistake, "half.json: not a config"):
            self.trainer("bad_config", config=self.write("half.json", b'{"model_type": '))
        with self.assertRaisesRegex(files.Mistake, "list.json: not a config.*not an object"):
            self.trainer("bad_config", config=self.write("list.json", b"[1]"))

    def test_sizes_that_do_not_fit_are_named(self):
        for kind, name, value, pattern in (
                (None, "hidden_size", "32", "hidden_size: is '32'; must be an integer of 1"),
                (None, "intermediate_size", 0, "intermediate_size: is 0"),
                ("rat", "chunk_size", 0, "rat.chunk_size: is 0; must be an integer of 1 or more"),
                ("rat", "num_groups", 0, "rat.num_groups: is 0"),
                ("rat", "num_heads", 3, "rat.num_heads: is 3; must divide hidden_size 32"),
                ("rat", "num_heads", 32, "rat.num_heads: is 32; leaves heads of 1 channels"),
                ("attention", "num_kv_heads", 4, "attention.num_kv_heads: is 4; must divide num"),
                ("local_attention", "window_size", 0, "local_attention.window_size: is 0"),
                ("mesa", "conv_size", 0, "mesa.conv_size: is 0"),
                ("mesa", "num_heads", -1, "mesa.num_heads: is -1")):
            config = json.loads(json.dumps(CONFIG))
            (config[kind] if kind else config)[name] = value
            with self.assertRaisesRegex(files.Mistake, "bad.json: not a config.*: " + pattern):
                self.trainer("bad_config", config=self.write_config("bad.json", config))

    # Flags.

    def test_flags_out_of_range(self):
        for flag, value in (("--steps", "-4"), ("--minutes", "-3"), ("--piece_minutes", "-1"),
                            ("--plain_start", "7"), ("--muon_lr", "nan"), ("--threads", "-3"),
                            ("--device", "banana"), ("--bf16", "2"), ("--save_minutes", "x")):
            with mock.patch("sys.stderr", io.StringIO()) as said, self.assertRaises(
                    SystemExit) as caught:
                self.trainer("bad_flags", flag, value)
            self.assertEqual(caught.exception.code, 2)
            self.assertIn("argument " + flag, said.getvalue())

    # Outputs.

    def test_links_are_followed_and_devices_kept(self):
        target, link = os.path.join(self.root, "target"), os.path.join(self.root, "link")
        os.symlink(target, link)
        for text in ("new", "newer"):
            files.write_text(link, text)
            with open(target, encoding="utf-8") as f:
                self.assertEqual(f.read(), text)
        self.assertTrue(os.path.islink(link))
        pipe = os.path.join(self.root, "pipe")
        os.mkfifo(pipe)
        with self.assertRaisesRegex(files.Mistake, "pipe: cannot be written: it is not a file"):
            files.write_text(pipe, "text")

    def test_a_model_that_cannot_be_scored(self):
        folder = os.path.join(self.root, "broken")
        os.makedirs(folder)
        text = self.write("some.txt", b"The cat sat.\n")
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
            json.dump(CONFIG, f)
        with open(os.path.join(folder, "model.safetensors"), "wb") as f:
            f.write(b"junk")
        self.assert_one_line(self.run_script("evaluate", "--model", folder, "--text", text),
                             "broken: not a model.*not a safetensors file")

    # Checkpoints.

    def test_checkpoint_of_another_config_is_refused(self):
        trainer = self.trainer("other", "--stop_after", "1")
        trainer.run()
        config = self.write_config("other.json", dict(CONFIG, intermediate_size=64))
        with self.assertRaisesRegex(files.Mistake, "another config.*intermediate_size"):
            self.trainer("other", config=config)
        self.assertEqual(self.trainer("other").step, 1)

    def test_checkpoint_of_other_text_is_refused(self):
        self.trainer("text", "--stop_after", "1").run()
        data = os.path.join(self.root, "other_data")
        corpus = os.path.join(self.root, "other_corpus.txt")
        make_corpus(corpus, seed=5)
        with mock.patch.object(sys, "argv", ["prepare", "--corpus", corpus, "--output", data,
                                             "--vocab_size", "320"]):
            prepare.main()
        with self.assertRaisesRegex(files.Mistake, "plain.bin: not the text"):
            self.trainer("text", "--data", data)

    def test_damaged_checkpoints_are_refused(self):
        trainer = self.trainer("damaged", "--stop_after", "1")
        trainer.run()
        with open(trainer.path, "rb") as f:
            good = f.read()
        # Somewhere in the numbers of the weights.
        weights = trainer.model.state_dict()["model.embeddings.weight"].numpy().tobytes()
        place = good.index(weights[:64]) + 40
        flipped = good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :]
        for bad in (b"", good[: len(good) // 2], good[:-10], os.urandom(4096), flipped):
            with open(trainer.path, "wb") as f:
                f.write(bad)
            with self.assertRaisesRegex(files.Mistake, "checkpoint.pt: damaged.*remove") as caught:
                self.trainer("damaged")
            self.assertNotIn("\n", str(caught.exception))
        torch.save({"weights": torch.zeros(3)}, trainer.path)
        with self.assertRaisesRegex(files.Mistake, "not a checkpoint of training.*config"):
            self.trainer("damaged")
        with self.assertRaisesRegex(files.Mistake, "nowhere.pt: no such file"):
            checkpoint.load(os.path.join(self.root, "nowhere.pt"))

    # Numbers that are none.

    def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(self):
        trainer = self.trainer("nan", "--stop_after", "2")
        trainer.run()
        before = contents(os.path.dirname(trainer.path))["checkpoint.pt"]
        again = self.trainer("nan")
        with torch.no_grad():
            again.model.model.norm.weight.fill_(float("nan"))
        with self.assertRaisesRegex(files.Mistake, "step 2: the loss is nan; the last good state"):
            again.run()
        self.assertEqual(contents(os.path.dirname(trainer.path))["checkpoint.pt"], before)

    def test_a_gradient_that_is_not_finite_changes_no_weight(self):
        trainer = self.trainer("gradient")
        trainer.model.model.norm.weight.register_hook(lambda grad: grad * float("inf"))
        before = {name: p.clone() for name, p in trainer.model.state_dict().items()}
        with self.assertRaisesRegex(files.Mistake, "norm is (inf|nan); there is no earlier"):
            trainer.run()
        for name, p in trainer.model.state_dict().items():
            self.assertTrue(torch.equal(p, before[name]), name)
        self.assertFalse(os.path.exists(trainer.path))

    def test_weights_that_are_not_finite_are_not_saved(self):
        trainer = self.trainer("weights", "--stop_after", "1")
        trainer.run()
        before = contents(os.path.dirname(trainer.path))["checkpoint.pt"]
        with torch.no_grad():
            trainer.model.model.norm.weight[3] = float("inf")
        with self.assertRaisesRegex(files.Mistake, "model.norm.weight is not finite.*last good"):
            trainer.save()
        self.assertEqual(contents(os.path.dirname(trainer.path))["checkpoint.pt"], before)

    # A full disk: no file may grow beyond 64 KB, and a checkpoint has several hundred.

    def test_disk_full_while_a_checkpoint_is_written(self):
        first = self.arguments("full", "--stop_after", "1")
        self.assertEqual(self.run_script("train", *first)[0], 75)
        folder = os.path.join(self.root, "full")
        before = contents(folder)["checkpoint.pt"]
        self.assert_one_line(self.run_script("train", *self.arguments("full"), file_bytes=65536),
                             "checkpoint.pt: cannot be written: File too large; .* is kept")
        after = contents(folder)
        self.assertEqual(after["checkpoint.pt"], before)
        self.assertEqual(sorted(after), ["checkpoint.pt", "log.jsonl"])
        self.assertEqual(self.trainer("full").run(), 0)

    def test_disk_full_while_a_model_is_exported(self):
        trainer = self.trainer("exported", "--stop_after", "1")
        trainer.run()
        folder = os.path.join(self.root, "exported_folder")
        export.export(trainer.path, self.data, folder)
        before = contents(folder)
        self.trainer("exported", "--stop_after", "2").run()
        arguments = ("--checkpoint", trainer.path, "--data", self.data, "--output", folder)
        self.assert_one_line(self.run_script("export", *arguments, file_bytes=65536),
                             "model.safetensors: cannot be written: File too large; .* is kept")
        self.assertEqual(contents(folder), before)
        self.assertEqual(self.run_script("export", *arguments), (0, ""))
        self.assertNotEqual(contents(folder)["model.safetensors"], before["model.safetensors"])

    def test_export_needs_the_right_tokenizer(self):
        trainer = self.trainer("tokenizer", "--stop_after", "1")
        trainer.run()
        with self.assertRaisesRegex(files.Mistake, "tokenizer.model: no such file"):
            export.export(trainer.path, self.root, os.path.join(self.root, "never"))
        self.assertFalse(os.path.exists(os.path.join(self.root, "never")))


if __name__ == "__main__":
    unittest.main()
