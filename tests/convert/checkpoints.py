"""Synthetic checkpoints in the RAT authors' form, and the converter run on them."""

import collections
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import types
import unittest
import warnings
import zipfile

import torch

from models.convert import rat
from models.reference import safetensors_io

PREFIX = "_orig_mod."


def shapes(kinds, d=32, head_dim=8, groups=2, ffn=48, wide=48, vocab=50, tie=True):
    """{name: shape} of a RAT model, as its makers' modules name and shape their parameters."""
    out = {"embedding.wte.weight": (vocab, d)}
    for i, kind in enumerate(kinds):
        layer = f"backbone.layers.{i}."
        if kind == "rat":
            out[layer + "seq_layer.gate_bias"] = (d,)
        rows = 3 * d + (2 * groups * head_dim if kind == "rat" else 0)
        out[layer + "seq_layer.in_proj.weight"] = (rows, d)
        out[layer + "seq_layer.input_norm.weight"] = (d,)
        out[layer + "seq_layer.out_proj.weight"] = (d, d)
        out[layer + "hidden_layer.fc1.weight"] = (wide, d)
        out[layer + "hidden_layer.fc2.weight"] = (d, ffn)
        out[layer + "hidden_layer.ln.weight"] = (d,)
    out["backbone.ln.weight"] = (d,)
    if not tie:
        out["head.lm_head.weight"] = (vocab, d)
    return out


def random_state(model_shapes, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    state = collections.OrderedDict()
    for name, shape in model_shapes.items():
        noise = torch.randn(shape, generator=generator)
        if "norm" in name or ".ln." in name:
            noise = 1 + 0.1 * noise
        elif len(shape) == 2 and "wte" not in name:
            noise = noise / shape[1] ** 0.5
        state[name] = noise.to(dtype)
    return state


def small_state(**options):
    return random_state(shapes(["rat", "local_attention", "rat"], **options))


SMALL_FLAGS = ("--num_head", "4", "--chunk_size", "5", "--window_size", "9")


def save(path, state, prefix="", **more):
    torch.save({"task": collections.OrderedDict((prefix + n, t) for n, t in state.items()), **more},
               path)


@contextlib.contextmanager
def easydict():
    """A stand-in for the module easydict, of which the authors' settings are made."""
    class EasyDict(dict):
        def __setitem__(self, key, value):
            super().__setitem__(key, value)
            self.__dict__[key] = value

        def update(self, other):
            for key, value in other.items():
                self[key] = type(self)(value) if isinstance(value, dict) else value

        def __init__(self, items=()):
            super().__init__()
            self.update(dict(items))

    module = types.ModuleType("easydict")
    EasyDict.__module__, EasyDict.__qualname__ = "easydict", "EasyDict"
    module.EasyDict = EasyDict
    sys.modules["easydict"] = module
    try:
        yield EasyDict
    finally:
        del sys.modules["easydict"]


def rezip(source, target, change):
    """Copies an archive member by member; `change(name, data)` gives [(name, data), ...]."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            for name, data in change(info.filename, old.read(info)):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Of a name that is there twice.
                    new.writestr(name, data)


class ConvertTest(unittest.TestCase):
    """A folder of its own for each test, in which checkpoint.pt is converted to `model`."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.checkpoint = self.path("checkpoint.pt")
        self.output = self.path("model")

    def path(self, name):
        return os.path.join(self.folder, name)

    def run_converter(self, *flags):
        """Exit status and stderr."""
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            status = rat.main(["--checkpoint", self.checkpoint, "--output", self.output, *flags])
        return status, errors.getvalue()

    def convert(self, *flags):
        status, errors = self.run_converter(*flags)
        self.assertEqual(status, 0, errors)
        self.assertEqual(self.leftovers(), [])
        return errors

    def refused(self, pattern, *flags):
        """The converter fails with a message about its file, and leaves nothing behind."""
        status, errors = self.run_converter(*flags)
        self.assertEqual(status, 1, errors)
        self.assertRegex(errors.splitlines()[-1], pattern)
        self.assertRegex(errors.splitlines()[-1], "^error: " + self.folder)
        self.assertFalse(os.path.exists(self.output))
        self.assertEqual(self.leftovers(), [])

    def leftovers(self):
        return [name for name in os.listdir(self.folder) if "partial" in name]

    def config(self):
        with open(os.path.join(self.output, "config.json"), encoding="utf-8") as f:
            return json.load(f)

    def assert_same(self, state):
        loaded = safetensors_io.load_folder(self.output)
        self.assertEqual(set(loaded), set(state))
        for name, tensor in state.items():
            self.assertEqual(loaded[name].dtype, tensor.dtype, name)
            self.assertTrue(torch.equal(loaded[name], tensor), name)
