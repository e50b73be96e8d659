"""RAT checkpoints of many forms: the tensors come out as they were, the config as shapes say."""

import json
import os
import pickle
import unittest

import torch

from models.reference import safetensors_io
from tests.convert import checkpoints

GOLDEN = os.environ.get("PACKRAT_GOLDEN", "tests/golden")


class RatTest(checkpoints.ConvertTest):
    def test_golden_models_come_back_as_they_were(self):
        for case in ("rat", "rat_local"):
            with open(os.path.join(GOLDEN, case, "config.json"), encoding="utf-8") as f:
                golden = json.load(f)
            self.output = self.path(case)
            state = safetensors_io.load(os.path.join(GOLDEN, case, "model.safetensors"))
            checkpoints.save(self.checkpoint, state, checkpoints.PREFIX)
            flags = {"num_head": golden["num_head"], "chunk_size": golden["chunk_size"],
                     "window_size": golden["window_size"]}
            self.convert(*[f"--{n}={v}" for n, v in flags.items() if v is not None])
            self.assert_same(state)
            config = self.config()
            self.assertEqual(config.pop("torch_dtype"), "float32")
            self.assertEqual(config, golden)

    def test_paper_settings_are_the_defaults_and_are_stated(self):
        state = checkpoints.random_state(
            checkpoints.shapes(["rat", "local_attention"], d=512, head_dim=128, groups=2, ffn=16,
                               wide=16, vocab=32000), torch.bfloat16)
        checkpoints.save(self.checkpoint, state)
        errors = self.convert()
        self.assert_same(state)
        self.assertEqual(self.config(), {
            "model_type": "rat", "vocab_size": 32000, "d_model": 512, "num_layers": 2, "d_ffn": 16,
            "act_fn": "gelu", "num_head": 4, "ngroups": 2, "chunk_size": 16, "window_size": 1024,
            "interleave_step": 2, "layer_types": ["rat", "local_attention"], "rope_base": 10000,
            "norm_eps": 1e-6, "tie_embedding": True, "max_position_embeddings": 4096,
            "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"})
        self.assertIn("num_head = 4 (which gives two groups, as in the paper", errors)
        for field in ("chunk_size = 16", "window_size = 1024", "rope_base = 10000",
                      "max_position_embeddings = 4096"):
            self.assertIn(field + " (as in the paper", errors)
        self.assertIn("eos_token_id = 2 (as in Llama 2", errors)
        self.assertIn("100% of", errors)

    def test_heads_and_groups_whose_product_the_shapes_tell(self):
        checkpoints.save(self.checkpoint, checkpoints.small_state())
        for flags, heads, groups in (((), 4, 2), (("--num_head", "2"), 2, 1),
                                     (("--num_head", "8"), 8, 4)):
            self.output = self.path(f"heads{heads}")
            self.convert(*flags)
            config = self.config()
            self.assertEqual((config["num_head"], config["ngroups"]), (heads, groups))

    def test_shapes_tell_the_feed_forward_the_layers_and_a_head_of_its_own(self):
        state = checkpoints.random_state(checkpoints.shapes(
            ["local_attention", "rat", "rat"], wide=96, tie=False))
        checkpoints.save(self.checkpoint, state)
        self.convert(*checkpoints.SMALL_FLAGS)
        self.assert_same(state)
        config = self.config()
        self.assertEqual((config["act_fn"], config["d_ffn"], config["tie_embedding"]),
                         ("swiglu", 48, False))
        self.assertEqual(config["layer_types"], ["local_attention", "rat", "rat"])
        self.assertIsNone(config["interleave_step"])
        self.assertNotIn("eos_token_id", config)

    def test_a_tied_head_that_is_saved_is_dropped(self):
        state = checkpoints.small_state()
        embedding = state["embedding.wte.weight"]
        for number, head in enumerate((embedding, embedding.clone(), embedding.t().clone().t())):
            self.output = self.path(f"model{number}")
            checkpoints.save(self.checkpoint, {**state, "head.lm_head.weight": head})
            self.convert(*checkpoints.SMALL_FLAGS)
            self.assertTrue(self.config()["tie_embedding"])
            self.assert_same(state)
        almost = embedding.clone()
        almost[-1, -1] += 1
        self.output = self.path("untied")
        checkpoints.save(self.checkpoint, {**state, "head.lm_head.weight": almost})
        self.convert(*checkpoints.SMALL_FLAGS)
        self.assertFalse(self.config()["tie_embedding"])
        self.assert_same({**state, "head.lm_head.weight": almost})

    def test_bare_state_dict_parameters_and_prefixes_inside(self):
        state = checkpoints.small_state()
        renamed = {n.replace("backbone.", "backbone._orig_mod."): torch.nn.Parameter(t)
                   for n, t in state.items()}
        torch.save(renamed, self.checkpoint)
        self.convert(*checkpoints.SMALL_FLAGS)
        self.assert_same(state)

    def test_every_pickle_protocol_and_dtype(self):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                self.output = self.path(f"{protocol}{dtype}")
                state = {n: t.to(dtype) for n, t in checkpoints.small_state().items()}
                torch.save({"task": state}, self.checkpoint, pickle_protocol=protocol)
                self.convert(*checkpoints.SMALL_FLAGS)
                self.assert_same(state)

    def test_strides_offsets_and_shared_storages(self):
        state = checkpoints.small_state()
        flat = torch.cat([torch.zeros(7)] + [t.flatten() for t in state.values()])
        shared, offset = {}, 7
        for name, tensor in state.items():
            shared[name] = flat[offset:offset + tensor.numel()].view(tensor.shape)
            offset += tensor.numel()
        # All kinds of views: transposed, every other column, one row for all, reversed dimensions.
        name = "backbone.layers.1.hidden_layer.fc1.weight"
        shared[name] = state[name].t().contiguous().t()
        name = "backbone.layers.0.hidden_layer.fc2.weight"
        wide = torch.zeros(32, 96)
        wide[:, 1::2] = state[name]
        shared[name] = wide[:, 1::2]
        name = "backbone.ln.weight"
        state[name] = torch.full((32,), 1.5)
        shared[name] = torch.tensor([1.5]).expand(32)
        self.assertFalse(shared[name].is_contiguous())
        checkpoints.save(self.checkpoint, shared)
        self.convert(*checkpoints.SMALL_FLAGS)
        self.assert_same(state)

    def test_rounding_to_bfloat16_is_torchs(self):
        state = checkpoints.small_state()
        special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-45, 3.4e38, 1.00390625,
                                1.01171875, -1.00390625])
        state["backbone.ln.weight"][:9] = special
        state["backbone.ln.weight"][9] = float("nan")
        checkpoints.save(self.checkpoint, state)
        self.convert("--dtype", "bfloat16", *checkpoints.SMALL_FLAGS)
        loaded = safetensors_io.load_folder(self.output)
        self.assertTrue(torch.isnan(loaded["backbone.ln.weight"][9]))
        for name, tensor in state.items():
            bits = tensor.bfloat16().view(torch.int16), loaded[name].view(torch.int16)
            if name == "backbone.ln.weight":
                bits = [torch.cat([b[:9], b[10:]]) for b in bits]
            self.assertTrue(torch.equal(*bits), name)

    def test_shards_and_their_index(self):
        state = checkpoints.random_state(checkpoints.shapes(
            ["rat"] * 3, d=256, head_dim=64, groups=1, ffn=300, wide=300, vocab=1500))
        checkpoints.save(self.checkpoint, state)
        self.convert("--num_head", "4", "--shard_mib", "1")
        files = sorted(f for f in os.listdir(self.output) if f.endswith(".safetensors"))
        self.assertGreater(len(files), 3)
        self.assertEqual(files[0], f"model-00001-of-{len(files):05d}.safetensors")
        with open(os.path.join(self.output, "model.safetensors.index.json"), encoding="utf-8") as f:
            index = json.load(f)
        self.assertEqual(set(index["weight_map"].values()), set(files))
        self.assertEqual(index["metadata"]["total_size"],
                         sum(t.numel() * 4 for t in state.values()))
        self.assert_same(state)

    def test_tokenizers_are_copied_and_put_no_bos(self):
        checkpoints.save(self.checkpoint, checkpoints.small_state())
        source = self.path("tokenizer")
        os.mkdir(source)
        files = {"tokenizer.json": tokenizer_json(), "pytorch_model.bin": "",
                 "tokenizer_config.json": {"add_bos_token": True, "eos_token": "</s>"}}
        for name, content in files.items():
            with open(os.path.join(source, name), "w", encoding="utf-8") as f:
                json.dump(content, f)
        errors = self.convert("--tokenizer", source, *checkpoints.SMALL_FLAGS)
        self.assertIn("add_bos_token = false", errors)
        self.assertEqual(sorted(os.listdir(self.output)),
                         ["config.json", "model.safetensors", "tokenizer.json",
                          "tokenizer_config.json"])
        self.assertEqual(self.json("tokenizer_config.json"),
                         {"add_bos_token": False, "eos_token": "</s>"})
        spm = self.path("llama.model")
        with open(spm, "wb") as f:
            f.write(PIECES)
        self.output = self.path("other")
        self.convert("--tokenizer", spm, *checkpoints.SMALL_FLAGS)
        with open(os.path.join(self.output, "tokenizer.model"), "rb") as f:
            self.assertEqual(f.read(), PIECES)
        self.assertEqual(self.json("tokenizer_config.json"), {"add_bos_token": False})

    def json(self, name):
        with open(os.path.join(self.output, name), encoding="utf-8") as f:
            return json.load(f)


# Two pieces and a setting, as Protocol Buffers write them.
PIECES = b"\x0a\x05\x0a\x03<s>\x0a\x03\x0a\x01a" + b"\x1a\x00"


def tokenizer_json(**changes):
    return {"model": {"type": "BPE", "vocab": {"a": 0, "b": 49}, "merges": []},
            "normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel"},
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]}, **changes}


class TokenizerTest(checkpoints.ConvertTest):
    """What the server would refuse at its start is refused here."""

    def setUp(self):
        super().setUp()
        checkpoints.save(self.checkpoint, checkpoints.small_state())

    def refused_file(self, name, content, pattern):
        path = self.path(name)
        with open(path, "wb") as f:
            f.write(content if isinstance(content, bytes) else json.dumps(content).encode())
        self.refused(pattern, "--tokenizer", path, *checkpoints.SMALL_FLAGS)

    def test_models(self):
        for content in (b"", b"pieces", PIECES[:-4], PIECES + b"\x0a", b"\xff" * 20):
            self.refused_file("a.model", content, "a.model: not a SentencePiece model")
        self.refused_file("a.model", PIECES * 26, "has 52 pieces; the model's vocabulary is 50")
        self.refused_file("a.model", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                          "a.model: a Git LFS pointer, not the file")

    def test_json(self):
        self.refused_file("a.json", b"{", "a.json: not valid JSON")
        self.refused_file("a.json", [1], "a.json: must be an object")
        for changes, pattern in (
                ({"model": {"type": "Unigram", "vocab": []}}, "a.json: model: must be a BPE"),
                ({"normalizer": {"type": "NFKC"}}, "normalizer: NFKC is not served"),
                ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Strip"}]}},
                 "normalizer: Strip is not served"),
                ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer: Whitespace is not"),
                ({"decoder": {"type": "WordPiece"}}, "decoder: WordPiece is not served"),
                ({"post_processor": {"type": "BertProcessing"}}, "post_processor: BertProcessing"),
                ({"added_tokens": [{"id": 50, "content": "<x>"}]},
                 "<x> has the id 50; the model's vocabulary is 50")):
            self.refused_file("a.json", tokenizer_json(**changes), pattern)

    def test_a_folder_with_both(self):
        folder = self.path("folder")
        os.mkdir(folder)

        def write(content):
            with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
                json.dump(content, f)

        with open(os.path.join(folder, "tokenizer.model"), "wb") as f:
            f.write(b"pieces")
        for content, pattern in (
                (tokenizer_json(normalizer={"type": "Strip"}), "normalizer: Strip is not served"),
                ({"model": {"type": "Unigram"}}, "tokenizer.model: not a SentencePiece model")):
            write(content)
            self.refused(pattern, "--tokenizer", folder, *checkpoints.SMALL_FLAGS)
        write(tokenizer_json())
        self.convert("--tokenizer", folder, *checkpoints.SMALL_FLAGS)

    def test_an_eos_behind_every_text(self):
        folder = self.path("folder")
        os.mkdir(folder)
        for name, content in (("tokenizer.json", tokenizer_json()),
                              ("tokenizer_config.json", {"add_eos_token": True})):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                json.dump(content, f)
        self.refused("tokenizer_config.json: add_eos_token: true is not served", "--tokenizer",
                     folder, *checkpoints.SMALL_FLAGS)


def settings(**changes):
    rat = {"_name_": "rat", "num_head": 4, "ngroups": 2, "chunk_size": 5}
    local = {"_name_": "local_attention", "num_head": 4, "window_size": 9}
    backbone = {"_name_": "sequence_interleave", "d_model": 32, "num_layers": 3, "ln": "rmsnorm",
                "hidden_cell": {"_name_": "ffn", "d_ffn": 48, "act_fn": "gelu"},
                "seq_cell": local, "seq_cell1": rat, **changes}
    return {"model": {"backbone": backbone, "embedding": {"pe": {"base": 5000}}},
            "data": {"vocab_size": 50, "seq_len": 777}, "betas": [0.9, 0.95]}


class RecordedSettingsTest(checkpoints.ConvertTest):
    """What the authors' trainer saves beside the weights."""

    def save(self, config):
        state = checkpoints.small_state()
        optimizer = torch.optim.AdamW([torch.nn.Parameter(t) for t in state.values()])
        with checkpoints.easydict() as easydict:
            checkpoints.save(self.checkpoint, state, config=easydict(config), step=5,
                             optimizer=optimizer.state_dict(), lr_scheduler={"last_epoch": 3},
                             resume_kwargs={})
        return state

    def test_they_are_used(self):
        state = self.save(settings())
        errors = self.convert()
        self.assert_same(state)
        config = self.config()
        self.assertEqual([config[n] for n in ("num_head", "chunk_size", "window_size", "rope_base",
                                              "max_position_embeddings")], [4, 5, 9, 5000, 777])
        self.assertIn("chunk_size = 5 (the checkpoint's own settings)", errors)

    def test_a_flag_wins_and_the_difference_is_stated(self):
        self.save(settings())
        errors = self.convert("--chunk_size", "8")
        self.assertEqual(self.config()["chunk_size"], 8)
        self.assertIn("the checkpoint's own settings say 5", errors)

    def test_full_attention_is_not_taken_for_local(self):
        self.save(settings(seq_cell={"_name_": "attention", "num_head": 4}))
        errors = self.convert()
        self.assertEqual(self.config()["layer_types"], ["rat", "attention", "rat"])
        self.assertIsNone(self.config()["window_size"])
        self.assertIn("layers that are not RAT are attention (the checkpoint's own", errors)
        self.output = self.path("other")
        errors = self.convert("--attention", "local", "--window_size", "9")
        self.assertEqual(self.config()["layer_types"], ["rat", "local_attention", "rat"])
        self.assertIn("(--attention; the checkpoint's own settings say attention)", errors)

    def test_the_slow_rat_is_rat(self):
        rat = {"_name_": "rat_slow", "num_head": 4, "ngroups": 2, "chunk_size": 7}
        self.save(settings(seq_cell1=rat))
        self.convert()
        self.assertEqual(self.config()["chunk_size"], 7)

    def test_what_a_bare_state_dict_does_not_say_is_assumed_aloud(self):
        checkpoints.save(self.checkpoint, checkpoints.small_state())
        errors = self.convert("--num_head", "4")
        self.assertRegex(errors, r"act_fn = gelu \(as in the paper; .*relu\^2")
        self.assertIn("layers that are not RAT are local_attention (as in the paper; full", errors)
        self.save(settings())
        self.output = self.path("other")
        self.assertNotIn("act_fn", self.convert())

    def test_what_cannot_be_computed_is_refused(self):
        for change, message in (
                ({"hidden_cell": {"act_fn": "relu2"}},
                 "act_fn is relu2, which is not served; only gelu and swiglu"),
                ({"hidden_cell": {"act_fn": "swiglu"}}, "act_fn is swiglu; the weights and"),
                ({"ln": "layernorm"}, "ln is layernorm, which is not served; only rmsnorm"),
                ({"seq_cell": {"_name_": "mamba"}}, "seq_cell._name_ is mamba; must be one of rat"),
                ({"seq_cell1": {"_name_": 5}}, "seq_cell1._name_ is 5; must be one of"),
                ({"d_model": 31}, "d_model is 31"),
                ({"seq_cell1": {"_name_": "rat", "chunk_size": "5"}},
                 "chunk_size is 5, a text; must be a whole number; --chunk_size sets one")):
            self.save(settings(**change))
            self.refused("settings: " + message, "--num_head", "4")


if __name__ == "__main__":
    unittest.main()
