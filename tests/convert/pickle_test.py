"""The pickle reader: reads data of every protocol, and runs nothing, whatever the pickle says."""

import collections
import io
import os
import pickle
import random
import tempfile
import unittest

import torch

from models.convert import pickle_reader
from models.convert.errors import ConvertError

DATA = {"a": [1, -2, 255, 65536, 1 << 40, -(1 << 70), 1.5, None, True, False],
        "b": ("", "text", "ü€😀", "x" * 300), "c": {}, "d": [[], ()],
        7: collections.OrderedDict(x=1), "e": b"bytes", "f": (1,), "g": (1, 2), "h": (1, 2, 3),
        "i": (1, 2, 3, 4)}


class Call:
    """Pickled, it is a call of `function`."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


class DataTest(unittest.TestCase):
    def test_every_protocol(self):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            self.assertEqual(pickle_reader.load(pickle.dumps(DATA, protocol)), DATA)
        for protocol in (0, 1):
            with self.assertRaisesRegex(ConvertError, "opcode"):
                pickle_reader.load(pickle.dumps(DATA, protocol))

    def test_sets_and_dictionaries_of_all_kinds(self):
        data = [{3}, collections.defaultdict(list, a=1), collections.Counter("bb")]
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            loaded = pickle_reader.load(pickle.dumps(data[:2], protocol))
            self.assertEqual(loaded, [[3], {"a": 1}])

    def test_the_same_object_twice(self):
        shared = [1]
        loaded = pickle_reader.load(pickle.dumps([shared, shared], 2))
        self.assertIs(loaded[0], loaded[1])


class RefusalTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.marker = os.path.join(folder.name, "was_run")

    def test_calls_are_refused_by_name_and_not_made(self):
        calls = (Call(os.system, f"touch {self.marker}"),
                 Call(os.mkdir, self.marker),
                 Call(eval, f"open({self.marker!r}, 'w')"),
                 Call(getattr, DATA, "clear"), Call(__import__, "this"),
                 Call(io.open, self.marker, "w"), Call(torch.load, self.marker),
                 Call(pickle.loads, b"x"))
        for call in calls:
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
                data = pickle.dumps({"task": {"a": call}}, protocol)
                with self.assertRaisesRegex(ConvertError, "refused: the pickle names .*nothing"):
                    pickle_reader.load(data)
        self.assertFalse(os.path.exists(self.marker))

    def test_names_that_only_look_allowed(self):
        for line in (b"ctorch\nload\n", b"ctorch._utils\nos.system\n",
                     b"ctorch.storage.os\nsystem\n", b"ccollections\nOrderedDict.clear\n",
                     b"c\nFloatStorage\n",
                     b"ccollections\nsys.modules\n", b"cos\nsystem\n", b"cposix\nsystem\n"):
            with self.assertRaisesRegex(ConvertError, "refused"):
                pickle_reader.load(b"\x80\x02" + line + b".")

    def test_opcodes_of_code(self):
        # INST, OBJ, EXT1, EXT2, EXT4, NEWOBJ_EX, REDUCE of no function, NEXT_BUFFER, text integers.
        for code in (b"(ios\nsystem\n.", b"(o.", b"\x82\x01.", b"\x83\x01\x00.",
                     b"\x84\x01\x00\x00\x00.", b"))}\x92.", b"]K\x01R.", b"\x97.", b"I1\n.",
                     b"ccollections\nOrderedDict\n]b.", b"ctorch\nTensor\n)R.", b"])R.", b"]}b."):
            with self.assertRaisesRegex(ConvertError, "damaged pickle at byte"):
                pickle_reader.load(b"\x80\x02" + code)

    def test_allowed_functions_check_their_arguments(self):
        storage = (b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
                   b"X\x00\x00\x00\x00K\x08tQ")
        rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
        good = rebuild + storage + b"K\x00K\x04\x85K\x01\x85\x89}tR."
        self.assertEqual(pickle_reader.load(b"\x80\x02" + good).shape, (4,))
        for bad in (good.replace(b"K\x04\x85", b"K\x04"), good.replace(b"K\x01\x85", b")"),
                    good.replace(b"K\x04\x85", b"J\xff\xff\xff\xff\x85"),
                    good.replace(b"K\x00K\x04", b"\x88K\x04"), good.replace(b"K\x08t", b"Nt"),
                    good.replace(storage, b"N"),
                    good.replace(b"K\x04\x85", b"G" + b"1" * 8 + b"\x85"),
                    good.replace(b"torch\nFloatStorage", b"torch\nTensor"),
                    good.replace(b"K\x04\x85", b"\x8a\x09" + b"\x11" * 9 + b"\x85"),
                    b"c_codecs\nencode\nX\x01\x00\x00\x00xX\x04\x00\x00\x00zlib\x86R.",
                    b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nN)Nt R."):
            with self.assertRaisesRegex(ConvertError, "damaged pickle at byte"):
                pickle_reader.load(b"\x80\x02" + bad)

    def test_deep_nesting_as_a_key_or_a_size(self):
        deep = b"\x80\x02}N" + b"\x85" * 200000 + b"Ns."
        with self.assertRaisesRegex(ConvertError, "key that is neither"):
            pickle_reader.load(deep)


class DamageTest(unittest.TestCase):
    def test_any_damage_is_an_error_of_ours_or_data(self):
        stream = io.BytesIO()
        pickler = pickle.Pickler(stream, 2)
        pickler.dump({"task": {"w": [collections.OrderedDict(a=torch.Size([3])), DATA]}})
        original = stream.getvalue()
        rng = random.Random(1)
        outcomes = collections.Counter()
        for length in range(len(original)):
            with self.assertRaises(ConvertError):
                pickle_reader.load(original[:length])
        for _ in range(4000):
            data = bytearray(original)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            try:
                pickle_reader.load(bytes(data))
                outcomes["read"] += 1
            except ConvertError:
                outcomes["refused"] += 1
        self.assertGreater(outcomes["refused"], 500)
        self.assertGreater(outcomes["read"], 50)


if __name__ == "__main__":
    unittest.main()
