"""Flags of the server arrive where they are used; server_flags_test.cc holds them to their options."""

import glob
import os
import tempfile
import unittest

from tests.server.processes import RealServer, wait_for

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

    def test_states_go_to_memory_and_disk(self):
        with tempfile.TemporaryDirectory() as parent:
            folder = os.path.join(parent, "states")
            flags = ("--state_host_memory=4MiB", "--state_dir=" + folder, "--state_disk=30MiB",
                     "--max_running=1", "--max_context=512", "--prefix_cache=true", "--cache_sequences=0")
            with RealServer("models/demo", *flags) as server:
                # The engine tells its figures when it has started, a moment after the server.
                capacity = 'packrat_kept_state_capacity_bytes{model="demo",tier="%s"}'
                wait_for(lambda: server.metric(capacity % "host") == 4 << 20)
                self.assertEqual(server.metric(capacity % "disk"), 30 << 20)
                held = 'packrat_kept_state_bytes{model="demo",tier="host"}'
                handles = [server.client("sessions", "create").stdout.strip() for _ in range(12)]
                for i, handle in enumerate(handles):
                    # Each a text of its own from its beginning on, and so a state.
                    server.client("complete", "--session=" + handle, "--max_tokens=4", "%d. " % i
                                  + "Once upon a time there was a little girl. She had a dog. " * 3)
                    # What is beyond half of the memory is written, however busy the disk is.
                    wait_for(lambda: server.metric(held) <= 2 << 20)
                self.assertTrue(glob.glob(folder + "/state-*"))
                # The folder is this server's.
                with self.assertRaisesRegex(RuntimeError, "another process keeps its states there"):
                    RealServer("models/demo", *flags)
                for handle in handles:
                    done = server.client("complete", "--session=" + handle, "--max_tokens=4", " So")
                    self.assertEqual(done.returncode, 0, done.stderr)
                moves = 'packrat_kept_state_moves_total{model="demo",from="%s",to="%s"}'
                wait_for(lambda: server.metric(moves % ("disk", "host")) > 5)
                failures = "packrat_kept_state_read_failures_total{"
                self.assertEqual(server.metric(failures), 0)
                # A file that was cut is a miss, and the log says so.
                wait_for(lambda: glob.glob(folder + "/state-*"))
                for path in glob.glob(folder + "/state-*"):
                    os.truncate(path, 100)
                for handle in handles:
                    done = server.client("complete", "--session=" + handle, "--max_tokens=4", " So")
                    self.assertEqual(done.returncode, 0, done.stderr)
                wait_for(lambda: server.metric(failures) > 0)
                self.assertTrue(any("states are not kept in --state_dir" in line
                                    for line in server.process.stderr))
                server.stop()
            self.assertEqual(os.listdir(folder), ["states.lock"])


if __name__ == "__main__":
    unittest.main()
