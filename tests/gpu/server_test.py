"""The server with a GPU behind it, here the emulated one: flags, what it says of itself, answers."""

import os
import signal
import unittest

from tests.server.processes import ROOT, RealServer

GOLDEN = "tests/golden/packrat"
EMULATED = os.path.join(ROOT, "tests/gpu/packrat_server_emulated")
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
            self.assertEqual(loading[-1]["percent"], "100")
            self.assertEqual(server.stop()[0], 0)

    def test_bfloat16_state_of_mesa(self):
        with RealServer(GOLDEN, "--mesa_state=bfloat16", *SMALL, binary=EMULATED) as server:
            self.assertIn("mesa-bfloat16", server.json("info")["numerics_id"])
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


if __name__ == "__main__":
    unittest.main()
