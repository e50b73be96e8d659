"""Memory and CPU that a server may take: what --plan says, what it does, what it refuses, also in a
real cgroup where one can be made."""

import json
import os
import subprocess
import unittest

from tests.server import processes
from tests.server.processes import ROOT, RealServer

DEMO = "models/demo"
MIB = 1 << 20


def run_server(*flags, **more):
    return subprocess.run([processes.SERVER, "--model=" + os.path.join(ROOT, DEMO), "--device=cpu",
                           "--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", *flags],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                          timeout=60, check=False, **more)


def plan(*flags):
    done = run_server("--plan=json", *flags)
    return done.returncode, json.loads(done.stdout)


class PlanTest(unittest.TestCase):

    def test_says_what_the_server_then_does(self):
        # Enough for all, and so little that the state shrinks.
        for limit, whole in (("1Gi", True), ("192MiB", False)):
            code, told = plan("--memory_limit=" + limit)
            memory = told["memory"]
            self.assertEqual((code, told["fits"], told["message"]), (0, True, ""))
            self.assertLessEqual(memory["total_bytes"], memory["limit_bytes"])
            self.assertEqual(memory["total_bytes"], sum(
                memory[name] for name in ("weight_bytes", "scratch_bytes", "process_bytes",
                                          "message_bytes", "transfer_bytes", "grammar_bytes",
                                          "state_bytes",
                                          "park_bytes", "kept_state_bytes")))
            self.assertGreater(memory["park_bytes"], memory["state_bytes"] // 9)
            self.assertEqual(memory["message_bytes"], max(memory["limit_bytes"] // 16, 8 * MIB))
            self.assertEqual(memory["transfer_bytes"], memory["message_bytes"] // 4)
            self.assertGreaterEqual(memory["request_bytes"], memory["total_bytes"] -
                                    memory["message_bytes"] - memory["transfer_bytes"])
            longest = told["capacity"][-1]
            self.assertEqual(longest["tokens"], told["flags"]["max_context"])
            self.assertEqual(longest["sequences"] == 64, whole)
            with RealServer(DEMO, "--device=cpu", "--memory_limit=" + limit) as server:
                for metric, field in (("packrat_weight_bytes", "weight_bytes"),
                                      ("packrat_scratch_bytes", "scratch_bytes"),
                                      ("packrat_state_capacity_bytes", "state_bytes")):
                    self.assertEqual(server.metric(metric + "{"), memory[field], metric)
                # All of it is there: nothing more is taken from the machine under load.
                resident = server.metric("process_resident_memory_bytes")
                taken = sum(memory[n] for n in ("weight_bytes", "scratch_bytes", "state_bytes"))
                self.assertGreater(resident, taken)

    def test_what_it_recommends_fits(self):
        flags = ("--max_running=20", "--max_context=2048")
        _, told = plan(*flags, "--memory_limit=4GiB")
        self.assertEqual(told["capacity"][-1], {
            "tokens": 2048, "sequences": 20, "kept_states": 80, "kept_states_in_memory": 0,
            "kept_states_on_disk": 0, "idle_sessions": 2048,
            "sequence_bytes": told["memory"]["state_bytes"] // 80})
        code, again = plan(*flags, "--memory_limit=%d" % told["memory"]["request_bytes"])
        self.assertEqual(code, 0)
        for row, more in zip(again["capacity"], told["capacity"]):
            # The texts of sessions have a share of the memory.
            self.assertLess(row.pop("idle_sessions"), more.pop("idle_sessions"))
        self.assertEqual(again["capacity"], told["capacity"])

    def test_states_beside_the_pool(self):
        _, plain = plan("--memory_limit=1GiB")
        self.assertEqual(plain["memory"]["kept_state_bytes"], 0)
        self.assertEqual(plain["disk"], {"folder": "", "kept_state_bytes": 0})
        _, kept = plan("--memory_limit=1GiB", "--state_dir=/some/states", "--state_disk=1GiB")
        self.assertEqual(kept["memory"]["kept_state_bytes"], 64 * MIB)
        self.assertEqual(kept["flags"]["state_host_memory"], 64 * MIB)
        self.assertEqual(kept["disk"], {"folder": "/some/states", "kept_state_bytes": 1 << 30})
        self.assertGreater(kept["capacity"][0]["kept_states"], plain["capacity"][0]["kept_states"])
        # Four threads bring states to a store and back, each with four copies of a piece.
        _, stored = plan("--memory_limit=1GiB", "--session_store=/some/sessions")
        self.assertEqual(stored["memory"]["process_bytes"] - plain["memory"]["process_bytes"],
                         16 * plain["capacity"][-1]["sequence_bytes"])

    def test_too_little(self):
        code, told = plan("--memory_limit=48MiB")
        self.assertEqual((code, told["fits"]), (1, False))
        self.assertIn("at least", told["message"])
        done = run_server("--memory_limit=48MiB")
        self.assertEqual(done.returncode, 1)
        self.assertIn(told["message"], done.stderr)
        self.assertNotIn("listening", done.stderr)

    def test_state_that_does_not_fit(self):
        done = run_server("--memory_limit=512MiB", "--max_running=400", "--state_bytes=1GiB")
        self.assertEqual(done.returncode, 1)
        for word in ("weights 29 MiB", "state 1024 MiB (--state_bytes)", "512 MiB (--memory_limit)",
                     "would fit"):
            self.assertIn(word, done.stderr)

    def test_as_text(self):
        done = run_server("--plan=text", "--memory_limit=1GiB", "--threads=3")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"weights +29 MiB")
        self.assertIn("3 CPUs (--threads)", done.stdout)
        # How many states are kept depends on what the processor computes in.
        self.assertRegex(done.stdout, r"4096 +\d+\.\d\d MiB +64 +[1-9]\d* +0 +0 +512\n")

    def test_wrong_flags_give_2(self):
        for flag, word in (("--plan=yaml", "one of: text, json"),
                           ("--state_bytes=12x", "is not a number of bytes; e.g."),
                           ("--memory_limit=-1", "range [0, "),
                           ("--max_context=99999", "max_context is 99999; range [2, ")):
            done = run_server("--plan=text", flag)
            self.assertEqual(done.returncode, 2, flag)
            self.assertIn(word, done.stderr + done.stdout, flag)

    def test_unused_state_is_told(self):
        with RealServer(DEMO, "--device=cpu", "--max_running=2", "--state_bytes=1GiB",
                        "--cache_sequences=0") as server:
            self.assertEqual(server.stop()[0], 0)
            self.assertTrue([line for line in server.early if "--state_bytes" in line["message"]],
                            server.early)


class Cgroup:
    """A group below this process's own, of cgroup v1 or v2; None of it where none can be made."""

    def __init__(self, controller, settings):
        self.path = None
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
        own = {name: path for _, names, path in groups for name in names.split(",")}
        name = "packrat_test_%d" % os.getpid()
        v2 = not os.path.isdir("/sys/fs/cgroup/" + controller)
        base = ("/sys/fs/cgroup" if v2 else
                "/sys/fs/cgroup/%s%s" % (controller, own.get(controller, "/").rstrip("/")))
        try:
            os.mkdir(os.path.join(base, name))
            self.path = os.path.join(base, name)
            for file, value in settings[v2]:
                self.write(file, value)
        except OSError as error:
            self.__exit__()
            raise unittest.SkipTest("no cgroup can be made here: %s" % error) from error

    def write(self, file, value):
        with open(os.path.join(self.path, file), "w", encoding="utf-8") as out:
            out.write(str(value))

    def enter(self):
        self.write("cgroup.procs", os.getpid())

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.path is not None:
            os.rmdir(self.path)


def pids_group(limit):
    return Cgroup("pids", ([("pids.max", limit)],) * 2)


def memory_group(limit):
    return Cgroup("memory", ([("memory.limit_in_bytes", limit)],
                             [("memory.max", limit), ("memory.swap.max", 0)]))


class CgroupTest(unittest.TestCase):

    def test_serves_within_a_small_limit(self):
        with memory_group(144 * MIB) as group:
            with RealServer(DEMO, "--device=cpu", preexec_fn=group.enter) as server:
                planned = [line for line in server.early if line["message"] == "memory"][0]
                self.assertEqual(planned["limit_bytes"], 144 * MIB)
                bench = server.client("bench", "--concurrency=64", "--requests=192",
                                      "--max_tokens=40", "--deadline=100s")
                self.assertEqual(bench.returncode, 0, bench.stdout + bench.stderr)
                self.assertEqual(server.stop()[0], 0)

    def test_refuses_a_limit_that_is_too_small(self):
        with memory_group(64 * MIB) as group:
            done = run_server(preexec_fn=group.enter)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("too little memory", done.stderr)
            self.assertIn("cgroup", done.stderr)

    def test_threads_follow_the_quota(self):
        for quota, threads in ((50_000, 1), (100_000, 1)):
            settings = ([("cpu.cfs_quota_us", quota)], [("cpu.max", "%d 100000" % quota)])
            with Cgroup("cpu", settings) as group:
                done = run_server("--plan=json", preexec_fn=group.enter)
                told = json.loads(done.stdout)
                self.assertEqual(told["cpu"]["cpus"], quota / 100_000)
                self.assertEqual(told["cpu"]["threads"], threads)
                self.assertIn("cgroup", told["cpu"]["source"])

    def test_refuses_a_limit_of_processes_that_is_too_small(self):
        with pids_group(20) as group:
            done = run_server(preexec_fn=group.enter)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertRegex(done.stderr, r"only \d+ more threads can be started, and \d+ are")
            self.assertNotIn("listening", done.stderr)

    def test_its_end_needs_no_further_thread(self):
        with pids_group(1000) as group:
            with RealServer(DEMO, "--device=cpu", preexec_fn=group.enter) as server:
                group.write("pids.max", 1)
                self.assertEqual(server.stop()[0], 0)


if __name__ == "__main__":
    unittest.main()
