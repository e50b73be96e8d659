"""Every way in which a checkpoint can be wrong: which file, which tensor, why; and nothing left."""

import os
import random
import struct
import unittest
import zipfile

import numpy
import torch

from tests.convert import checkpoints

FLAGS = checkpoints.SMALL_FLAGS
LN = "backbone.ln.weight"


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class ErrorsTest(checkpoints.ConvertTest):
    def setUp(self):
        super().setUp()
        self.state = checkpoints.small_state()
        checkpoints.save(self.checkpoint, self.state)

    def refused(self, pattern, *flags):
        super().refused(pattern, *FLAGS, *flags)

    def rezip(self, change):
        checkpoints.rezip(self.checkpoint, self.path("changed"), change)
        os.replace(self.path("changed"), self.checkpoint)

    def content(self):
        with open(self.checkpoint, "rb") as f:
            return f.read()

    def write(self, data):
        with open(self.checkpoint, "wb") as f:
            f.write(data)


class FileTest(ErrorsTest):
    def test_truncated(self):
        data = self.content()
        for length in (len(data) - 1, len(data) // 2, 40, 16):
            self.write(data[:length])
            self.refused("checkpoint.pt: truncated or damaged: .* directory at the end")
        for length in (0, 2):
            self.write(data[:length])
            self.refused("checkpoint.pt: no PyTorch zip file")

    def test_wrong_magic(self):
        self.write(b"\x93NUMPY" + self.content())
        self.refused("checkpoint.pt: no PyTorch zip file: begins with '934e554d5059504b'")

    def test_the_format_before_1_6(self):
        torch.save({"task": self.state}, self.checkpoint, _use_new_zipfile_serialization=False)
        self.refused("checkpoint.pt: PyTorch's format from before version 1.6.*save it again")

    def test_a_pointer_of_git_lfs(self):
        self.write(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
        self.refused("checkpoint.pt: a Git LFS pointer, not the file; `git lfs pull` fetches it")

    def test_absent_and_no_file(self):
        os.remove(self.checkpoint)
        self.refused("checkpoint.pt: No such file")
        os.mkdir(self.checkpoint)
        self.refused("checkpoint.pt: Is a directory")

    def test_a_zip_file_of_something_else(self):
        with zipfile.ZipFile(self.checkpoint, "w") as archive:
            archive.writestr("word/document.xml", "x")
        self.refused("checkpoint.pt: no PyTorch file: a zip file with 0 members")

    def test_torchscript(self):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), self.checkpoint)
        self.refused("checkpoint.pt: a TorchScript archive")

    def test_compressed_member(self):
        with zipfile.ZipFile(self.checkpoint) as old:
            members = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(self.checkpoint, "w") as new:
            for name, data in members.items():
                new.writestr(name, data, zipfile.ZIP_DEFLATED if name.endswith("/0") else None)
        self.refused("tensor embedding.wte.weight: .*data/0 is compressed")

    def test_a_member_twice(self):
        self.rezip(lambda name, data: [(name, data)] * (1 + name.endswith("data/3")))
        self.refused("two members of the archive have the same name")

    def test_big_endian(self):
        def add(name, data):
            root, file = name.split("/", 1)
            return [(name, data)] + ([(f"{root}/byteorder", b"big")] if file == "data.pkl" else [])
        self.rezip(add)
        self.refused("byte order b'big'; must be little")

    def test_a_flipped_bit_in_a_weight_is_seen(self):
        data = bytearray(self.content())
        at = data.index(self.state[LN].numpy().tobytes())
        data[at + 5] ^= 4
        self.write(data)
        self.refused(f"tensor {LN}: damaged archive: .*another checksum.*--skip_crc reads")
        self.convert("--skip_crc", *FLAGS)

    def test_local_header_that_is_not_there(self):
        with zipfile.ZipFile(self.checkpoint) as archive:
            offset = [i.header_offset for i in archive.infolist() if i.filename.endswith("/2")][0]
        data = bytearray(self.content())
        data[offset:offset + 4] = b"oops"
        self.write(data)
        self.refused("tensor .*: damaged archive: .*data/2 is not where the directory says")

    def test_random_damage_never_ends_in_a_traceback(self):
        original, rng = self.content(), random.Random(2)
        directory = struct.unpack("<I", original[-6:-2])[0]
        done = 0
        for i in range(600):
            data = bytearray(original)
            first = 0 if i % 2 else directory  # Half of it where the archive is described.
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(first, len(data))] = rng.randrange(256)
            self.write(data)
            self.output = self.path(f"model{i}")
            status, errors = self.run_converter("--skip_crc", *FLAGS)
            self.assertIn(status, (0, 1), errors)
            self.assertEqual(status == 0, os.path.exists(self.output))
            done += status == 0
        self.assertGreater(done, 50)
        self.assertEqual(self.leftovers(), [])


class StateDictTest(ErrorsTest):
    def test_malicious_pickle(self):
        marker = self.path("was_run")
        for content in ({"task": self.state, "config": Evil(marker)},
                        {"task": {**self.state, LN: Evil(marker)}}, Evil(marker)):
            torch.save(content, self.checkpoint)
            self.refused("data.pkl: refused: the pickle names posix.system.* nothing of it was run")
        self.assertFalse(os.path.exists(marker))

    def test_numbers_of_numpy_beside_the_weights(self):
        torch.save({"task": self.state, "loss": numpy.float64(1.5)}, self.checkpoint)
        self.refused(r"refused: the pickle names numpy\S+, .*save the weights alone: torch.save")

    def test_missing_task(self):
        torch.save({"model": self.state, "step": 3}, self.checkpoint)
        self.refused("checkpoint.pt: no entry `task`.*its entries: model, step")
        torch.save([1, 2], self.checkpoint)
        self.refused("checkpoint.pt: holds a list, not a dictionary")
        torch.save({"task": {}}, self.checkpoint)
        self.refused("tensor embedding.wte.weight: missing")

    def test_missing_tensor(self):
        for name in self.state:
            checkpoints.save(self.checkpoint, {n: t for n, t in self.state.items() if n != name})
            gate = "rows of|surplus" if name.endswith("in_proj.weight") else "missing"
            self.refused(f"checkpoint.pt: tensor {name}: (missing|{gate})")

    def test_surplus_tensor(self):
        more = {"backbone.layers.1.seq_layer.gate_bias": torch.ones(32),
                "backbone.layers.0.seq_layer.in_proj.bias": torch.ones(160)}
        for name, tensor in more.items():
            checkpoints.save(self.checkpoint, {**self.state, name: tensor})
            self.refused(f"tensor {name}: surplus")
        checkpoints.save(self.checkpoint, {**self.state, **more})
        self.refused(r"surplus, .* \(and 1 more\)")

    def test_wrong_shape(self):
        for name, tensor in self.state.items():
            if "wte" in name:
                continue  # It is what the others are measured by.
            for wrong in (tensor[:-1], tensor[None], tensor[..., :-1], tensor[:0]):
                checkpoints.save(self.checkpoint, {**self.state, name: wrong.clone()})
                self.refused(r"checkpoint.pt: .*(tensor \S+: has (shape|\d+ rows)|its \d+ rows|"
                             r"d_ffn: is 0)")
        checkpoints.save(self.checkpoint, {**self.state, LN: torch.ones(33)})
        self.refused(rf"tensor {LN}: has shape \[33\], must have \[32\]")

    def test_wrong_dtype(self):
        for dtype, name in ((torch.float64, "F64"), (torch.int64, "I64"), (torch.bool, "BOOL")):
            checkpoints.save(self.checkpoint, {**self.state, LN: torch.ones(32).to(dtype)})
            self.refused(f"tensor {LN}: has dtype {name}; must be F32, BF16, F16")

    def test_not_a_tensor(self):
        checkpoints.save(self.checkpoint, {**self.state, "backbone.extra": 5})
        self.refused("tensor backbone.extra: is a int, not a tensor")

    def test_names_of_distributed_data_parallel(self):
        for prefix in ("module.", "module._orig_mod.", "_orig_mod.module."):
            checkpoints.save(self.checkpoint, self.state, prefix)
            self.output = self.path(prefix)
            self.convert(*FLAGS)
            self.assert_same(self.state)

    def test_one_name_with_and_without_the_prefix(self):
        checkpoints.save(self.checkpoint, {**self.state, checkpoints.PREFIX + LN: torch.ones(32)})
        self.refused(f"tensor {LN}: there twice")

    def test_tensor_beyond_the_end_of_its_storage(self):
        # In the pickle, the norm's size, offset and stride are the one-byte integers 32, 0 and 1.
        def longer(name, data):
            at = data.index(LN.encode()) if name.endswith("data.pkl") else 0
            changed = data[:at] + data[at:].replace(b"QK\x00K ", b"QK\x01K ", 1) if at else data
            self.assertEqual(bool(at), changed != data)
            return [(name, changed)]
        self.rezip(longer)
        self.refused(f"tensor {LN}: reaches to byte 132 of its storage, which has 128")

    def test_storage_of_another_size_than_the_pickle_says(self):
        key = f"data/{list(self.state).index(LN)}"
        self.rezip(lambda name, data: [(name, data[:-4] if name.endswith(key) else data)])
        self.refused(f"tensor {LN}: its storage {key} has 124 bytes, the pickle says 128")

    def test_missing_storage(self):
        key = f"data/{list(self.state).index(LN)}"
        self.rezip(lambda name, data: [] if name.endswith(key) else [(name, data)])
        self.refused(f"tensor {LN}: .*/{key} is missing in the archive")

    def test_the_authors_other_models(self):
        shapes = checkpoints.shapes(["local_attention"] * 2)
        checkpoints.save(self.checkpoint, checkpoints.random_state(shapes))
        self.refused("no layer is RAT: .* attention models, which are not of this family")
        shapes["backbone.layers.0.seq_layer.gate_bias"] = (32,)
        checkpoints.save(self.checkpoint, checkpoints.random_state(shapes))
        self.refused("no layer is RAT: .* RNN models")

    def test_too_many_layers(self):
        name = "backbone.layers.999999.seq_layer.in_proj.weight"
        checkpoints.save(self.checkpoint, {**self.state, name: torch.ones(96, 32)})
        self.refused("num_layers: is 1000000; must be 1 to 1024")


class FlagsTest(checkpoints.ConvertTest):
    def test_flags_that_do_not_fit_the_shapes(self):
        checkpoints.save(self.checkpoint, checkpoints.small_state())
        for flags, message in (
                (("--num_head", "1"), "32 rows of queries and keys"),
                (("--num_head", "5"), "num_head: is 5; must divide"),
                (("--num_head", "0"), "num_head: is 0"), (("--num_head", "32"), "even number"),
                (("--num_head", "4", "--chunk_size", "0"), "chunk_size: is 0; must be 1 to 4096"),
                (("--num_head", "4", "--window_size", "-1"), "window_size: is -1; must be 0 to"),
                (("--num_head", "4", "--eos_token_id", "50"), "eos_token_id: is 50; must be 0"),
                (("--num_head", "4", "--rope_base", "0"), "rope_base: is 0; must be 1 to")):
            self.refused(message, *flags)


if __name__ == "__main__":
    unittest.main()
