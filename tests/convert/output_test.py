"""The output appears as a whole or not at all: full disks, existing folders, interruptions."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import unittest
from unittest import mock

from models.convert import output, rat
from tests.convert import checkpoints

FLAGS = checkpoints.SMALL_FLAGS


class OutputTest(checkpoints.ConvertTest):
    def setUp(self):
        super().setUp()
        checkpoints.save(self.checkpoint, checkpoints.small_state())

    def test_existing_output(self):
        for make in (os.mkdir, lambda path: os.symlink("nowhere", path)):
            make(self.output)
            before = os.listdir(self.folder)
            status, errors = self.run_converter(*FLAGS)
            self.assertEqual(status, 1)
            self.assertIn(f"error: {self.output}: exists already", errors)
            self.assertEqual(sorted(os.listdir(self.folder)), sorted(before))
            os.rmdir(self.output) if os.path.isdir(self.output) else os.remove(self.output)

    def test_output_that_appears_meanwhile_is_kept(self):
        original = output.write_index
        def appear(*arguments):
            os.mkdir(self.output)
            original(*arguments)
        with mock.patch.object(output, "write_index", appear):
            status, errors = self.run_converter(*FLAGS)
        self.assertEqual(status, 1)
        self.assertIn("exists already", errors)
        self.assertEqual(os.listdir(self.output), [])
        self.assertEqual(self.leftovers(), [])

    def test_folder_to_make_it_in_is_missing(self):
        self.output = self.path("a/b")
        self.refused("a/b: the folder .*/a, in which to make it, does not exist", *FLAGS)

    def test_disk_with_too_little_space(self):
        usage = shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000)
        with mock.patch.object(shutil, "disk_usage", return_value=usage):
            self.refused(r"model: needs \d+ bytes, its disk has 5000 free", *FLAGS)

    def test_disk_that_fills_while_writing(self):
        original = output._write
        def fill(file, data):
            if file.tell() + len(data) > 30000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(file, data)
        with mock.patch.object(output, "_write", fill):
            self.refused(r"model.safetensors: tensor backbone\S+: No space left on device", *FLAGS)

    def test_device_that_is_full(self):
        with self.assertRaisesRegex(Exception, "/dev/full: .*No space left on device"):
            with output._naming("/dev/full"), open("/dev/full", "wb", buffering=0) as file:
                output._write(file, b"x")

    def test_files_that_may_not_grow(self):
        """The kernel itself refuses a write, in a process of its own."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        run = subprocess.run(
            [sys.executable, "-m", "models.convert.rat", "--checkpoint", self.checkpoint,
             "--output", self.output, *FLAGS], preexec_fn=limit, stderr=subprocess.PIPE, text=True,
            check=False)
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertRegex(run.stderr, r"error: .*model.safetensors: tensor \S+: File too large")
        self.assertNotIn("Traceback", run.stderr)
        self.assertFalse(os.path.exists(self.output))
        self.assertEqual(self.leftovers(), [])

    def test_terminated(self):
        self.addCleanup(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        for number, message in ((signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")):
            def kill(*_, number=number):
                os.kill(os.getpid(), number)
                time.sleep(5)
            with mock.patch.object(output, "write_index", kill):
                status, errors = self.run_converter(*FLAGS)
            self.assertEqual(status, 1)
            self.assertIn(f"error: {message}", errors)
            self.assertFalse(os.path.exists(self.output))
            self.assertEqual(self.leftovers(), [])

    def test_tokenizers_that_are_none(self):
        os.mkdir(self.path("empty"))
        with open(self.path("vocab.txt"), "w", encoding="utf-8"):
            pass
        for name, message in (("empty", "has neither tokenizer.model nor tokenizer.json"),
                              ("absent", "no such file"),
                              ("vocab.txt", "must be a SentencePiece .model")):
            self.refused(f"{name}: {message}", "--tokenizer", self.path(name), *FLAGS)

    def test_wrong_arguments(self):
        for flags in (["--shard_mib", "0"], ["--dtype", "int8"], ["--chunk_size", "x"]):
            with self.assertRaises(SystemExit) as stopped:
                self.run_converter(*flags)
            self.assertEqual(stopped.exception.code, 2)


class ShardsTest(unittest.TestCase):
    def test_plan(self):
        sizes = {"a": 5, "b": 5, "c": 1, "d": 30, "e": 2}
        self.assertEqual(output.plan_shards(sizes, 10), [["a", "b"], ["c"], ["d"], ["e"]])
        self.assertEqual(output.plan_shards(sizes, 43), [list(sizes)])

    def test_progress_is_at_most_twenty_one_lines(self):
        with mock.patch.object(rat, "say") as say:
            progress = rat.Progress(1000)
            for _ in range(1000):
                progress("t", 1)
        self.assertEqual(say.call_count, 21)
        self.assertTrue(say.call_args[0][0].startswith("100% of"))


if __name__ == "__main__":
    unittest.main()
