"""The server with a GPU behind it, here the emulated one: flags, what it says of itself, answers; and
the library in which the GPU comes, where it is missing or not the right one."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from tests.server.processes import ROOT, RealServer

GOLDEN = "tests/golden/packrat"
EMULATED = os.path.join(ROOT, "tests/gpu/packrat_server_emulated")
LIBRARY = os.path.join(ROOT, "tests/gpu/libpackrat_cuda.so")
SMALL = ("--max_running=4", "--max_batch_tokens=64", "--max_context=256")


def ask(server, count, *flags):
    prompt = ",".join(str(3 + i * 7 % 50) for i in range(20))
    return server.json("complete", "--token_ids=" + prompt, "--max_tokens=%d" % count,
                       "--ignore_eos", *flags)["token_ids"]


class ServerTest(unittest.TestCase):

    def test_answers_like_the_cpu_and_says_what_it_is(self):
        with RealServer(GOLDEN, "--device=cpu", *SMALL) as server:
            greedy = ask(server, 30, "--temperature=0")
            drawn = ask(server, 30, "--temperature=0.9", "--top_p=0.9", "--seed=5")
        with RealServer(GOLDEN, "--device=cuda", "--deterministic", *SMALL,
                        binary=EMULATED) as server:
            self.assertEqual(ask(server, 30, "--temperature=0"), greedy)
            self.assertEqual(ask(server, 30, "--temperature=0.9", "--top_p=0.9", "--seed=5"), drawn)
            info = server.json("info")
            self.assertEqual(info["device"], "Emulated")
            self.assertIn("cuda-sm90-float32", info["numerics_id"])
            self.assertIn("deterministic", info["numerics_id"])
            self.assertGreater(server.metric("packrat_weight_bytes"), 0)
            self.assertEqual(server.stop()[0], 0)

    def test_auto_takes_the_gpu_that_is_there(self):
        with RealServer(GOLDEN, *SMALL, binary=EMULATED) as server:
            self.assertEqual(server.json("info")["device"], "Emulated")
            loading = [line for line in server.early if line["message"] == "loading"]
            self.assertEqual(loading[-1]["percent"], 100)
            self.assertEqual(server.stop()[0], 0)

    def test_quantised_weights(self):
        taken = {}
        for weights in ("stored", "int8", "int4"):
            with RealServer(GOLDEN, "--deterministic", "--weights=" + weights, *SMALL,
                            binary=EMULATED) as server:
                self.assertEqual(len(ask(server, 10, "--temperature=0")), 10)
                info = server.json("info")
                self.assertEqual(info["device"], "Emulated")
                self.assertEqual("-weights-" + weights in info["numerics_id"], weights != "stored")
                taken[weights] = server.metric("packrat_weight_bytes")
                self.assertEqual(server.stop()[0], 0)
        self.assertLess(taken["int8"], taken["stored"])
        self.assertLess(taken["int4"], taken["int8"])
        run = subprocess.run([EMULATED, "--model=tests/golden/packrat_wide", "--weights=int8",
                              "--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", *SMALL],
                             cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertIn("has rows of 48 values; int8 takes multiples of 32", run.stderr)

    def test_bfloat16_state(self):
        with RealServer(GOLDEN, "--state_type=bfloat16", *SMALL, binary=EMULATED) as server:
            self.assertIn("state-bfloat16", server.json("info")["numerics_id"])
            self.assertEqual(len(ask(server, 20, "--temperature=0")), 20)

    def test_a_lost_device_ends_the_process(self):
        with RealServer(GOLDEN, *SMALL, binary=EMULATED) as server:
            self.assertEqual(len(ask(server, 5)), 5)
            server.process.send_signal(signal.SIGUSR1)
            run = server.client("complete", "--token_ids=3,10", "--max_tokens=5")
            self.assertEqual(run.returncode, 1, run.stderr)
            self.assertIn("UNAVAILABLE", run.stderr)
            _, log = server.process.communicate(timeout=60)
            self.assertEqual(server.process.returncode, 1, log)
            self.assertIn("cudaErrorIllegalAddress", log)


class LibraryTest(unittest.TestCase):
    """A server in a folder bin/, with libraries beside it or in lib/packrat."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = os.path.realpath(temporary.name)
        self.beside = os.path.join(self.folder, "bin/libpackrat_cuda.so")
        self.below = os.path.join(self.folder, "lib/packrat/libpackrat_cuda.so")
        self.server = os.path.join(self.folder, "bin/packrat_server")
        for path in (self.beside, self.below):
            os.makedirs(os.path.dirname(path))
        shutil.copy(EMULATED, self.server)
        # The one library that it looks for where it was built.
        ldd = subprocess.run(["ldd", EMULATED], stdout=subprocess.PIPE, check=True, encoding="utf-8")
        private = re.search(r"=> (\S+)/libsentencepiece-p.so", ldd.stdout).group(1)
        before = os.environ.get("LD_LIBRARY_PATH")
        os.environ["LD_LIBRARY_PATH"] = private
        self.addCleanup(lambda: os.environ.pop("LD_LIBRARY_PATH") if before is None
                        else os.environ.update(LD_LIBRARY_PATH=before))

    def refusal(self):
        """What the server says that was told to use a GPU; it ends with 1."""
        done = subprocess.run([self.server, "--model=" + os.path.join(ROOT, GOLDEN),
                               "--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0",
                               "--device=cuda"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              check=False, encoding="utf-8", timeout=60)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("--device=cuda: ", done.stderr)
        return done.stderr

    def auto(self):
        """The device that it takes by itself, and why it takes no GPU."""
        with RealServer(GOLDEN, *SMALL, binary=self.server) as server:
            device = server.json("info")["device"]
            self.assertEqual(server.stop()[0], 0)
        reasons = [line["reason"] for line in server.early if line["message"] == "no GPU is used"]
        return device, reasons

    def install(self, path, change=lambda data: data):
        with open(LIBRARY, "rb") as file:
            data = file.read()
        with open(path, "wb") as file:
            file.write(change(data))

    def test_without_a_library(self):
        log = self.refusal()
        for words in ("libpackrat_cuda.so", "is not installed", self.beside, self.below,
                      "--device=cpu"):
            self.assertIn(words, log)
        device, reasons = self.auto()
        self.assertTrue(device.startswith("cpu"), device)
        self.assertEqual(reasons, [])

    def test_it_is_found_in_lib_and_first_beside(self):
        self.install(self.below)
        self.assertEqual(self.auto(), ("Emulated", []))
        with open(self.beside, "w", encoding="utf-8") as file:
            file.write("This is no library.\n" * 10)
        device, reasons = self.auto()
        self.assertTrue(device.startswith("cpu"), device)
        self.assertIn("invalid ELF header", reasons[0])
        self.assertIn(self.beside + " cannot be loaded", self.refusal())

    def test_of_another_build(self):
        def age(data):
            ours = set(re.findall(rb"build-[0-9a-f]{16}", data))
            self.assertEqual(len(ours), 1, ours)
            return data.replace(ours.pop(), b"build-0123456789abcdef")
        self.install(self.beside, age)
        log = self.refusal()
        self.assertIn(self.beside + " is of another build (build-0123456789abcdef", log)
        device, reasons = self.auto()
        self.assertTrue(device.startswith("cpu"), device)
        self.assertIn("of another build", reasons[0])

    def test_another_library_of_that_name(self):
        with open("/proc/self/maps", encoding="utf-8") as file:
            shutil.copy(re.search(r"\S+/libc\.so\.6", file.read()).group(), self.beside)
        log = self.refusal()
        self.assertIn(self.beside + " is not a CUDA backend of Packrat", log)
        self.assertIn("packrat_cuda_backend", log)

    def test_it_shows_one_function(self):
        shown = subprocess.run(["nm", "--dynamic", "--defined-only", "--format=just-symbols",
                                LIBRARY], stdout=subprocess.PIPE, check=True, encoding="utf-8")
        self.assertEqual(shown.stdout.split(), ["packrat_cuda_backend"])


if __name__ == "__main__":
    unittest.main()
