"""Flags of the server arrive where they are used; server_flags_test.cc holds them to their options."""

import unittest

from tests.server.processes import RealServer

FLAGS = {"model_name": "a-name", "max_running": 7, "max_queue": 9, "max_batch_tokens": 48,
         "max_context": 300, "max_message_bytes": 123456, "cg_max_steps": 17, "cg_tolerance": 0.015625,
         "cpu_target": "sse4", "threads": 40}


class FlagsArriveTest(unittest.TestCase):

    def test_what_the_server_tells_of_itself(self):
        flags = ["--%s=%s" % pair for pair in FLAGS.items()]
        with RealServer("models/demo", *flags) as server:
            info = server.json("info")
            threads = server.metric("process_threads")
            server.stop()
        limits = info["limits"]
        told = {"model_name": info["name"], **info["solver_defaults"], "cpu_target": info["cpu_target"],
                **{name: limits[name] for name in ("max_running", "max_queue", "max_batch_tokens",
                                                   "max_context", "max_message_bytes")}}
        self.assertEqual(told, {name: FLAGS[name] for name in told})
        self.assertEqual(len(told), len(FLAGS) - 1)
        # All but the thread that asks for the work; gRPC and HTTP have some of their own.
        with RealServer("models/demo", "--threads=1") as server:
            alone = server.metric("process_threads")
            server.stop()
        self.assertGreater(threads - alone, 30)

    def test_state_bytes_are_the_size_of_the_pool(self):
        with RealServer("models/demo", "--state_bytes=3000000", "--max_context=512") as server:
            state = server.json("info")["state"]
            server.stop()
        self.assertLessEqual(int(state["pool_bytes"]), 3000000)
        self.assertGreater(int(state["pool_bytes"]), 3000000 / 2)


if __name__ == "__main__":
    unittest.main()
