"""packrat_server and its process: descriptors, the log, signals."""

import contextlib
import ctypes
import fcntl
import json
import os
import random
import resource
import signal
import socket
import subprocess
import tempfile
import unittest

import grpc

from tests.server import processes
from tests.server.processes import ROOT, RealServer

DEMO = "models/demo"
GOLDEN = "tests/golden/packrat"


def free_port():
    """Below the ports that the kernel gives to those who connect."""
    while True:
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", random.randrange(10000, 32000)))
                return taken.getsockname()[1]
            except OSError:
                pass


class Started(processes.Process):
    """packrat_server whose log is not read: on ports that are told, or none."""

    def __init__(self, *flags, model=GOLDEN, **popen):
        self.address = "127.0.0.1:%d" % free_port()
        self.http_port = free_port()
        self.process = subprocess.Popen(
            [processes.SERVER, "--model=" + os.path.join(ROOT, model), "--listen=" + self.address,
             "--http_listen=127.0.0.1:%d" % self.http_port, *flags], **popen)

    def ready(self):
        try:
            return super().ready()
        except OSError:
            return False


class DescriptorsTest(unittest.TestCase):

    def test_it_runs_without_standard_input_output_and_error(self):
        def close():
            for fd in range(3):
                os.close(fd)
        with Started(preexec_fn=close) as server:
            processes.wait_for(server.ready)
            pid = server.process.pid
            self.assertEqual([os.readlink("/proc/%d/fd/%d" % (pid, fd)) for fd in range(3)],
                             ["/dev/null"] * 3)
            self.assertEqual(server.json("info")["name"], "packrat")
            # What was said meanwhile is lost, and counts as lost.
            self.assertGreater(server.metric("packrat_log_lines_dropped_total"), 0)
            server.process.terminate()
            self.assertEqual(server.process.wait(timeout=60), 0)

    def test_a_plan_that_cannot_be_written_gives_1(self):
        done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", processes.SERVER, "--plan=text",
                               "--model=" + GOLDEN], stderr=subprocess.PIPE, encoding="utf-8",
                              timeout=60, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("cannot write to standard output: Bad file descriptor", done.stderr)


class LogTest(unittest.TestCase):

    def unread(self):
        """A pipe of one page: a dozen lines fill it."""
        reader, writer = os.pipe()
        fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        return writer

    def fill(self, server):
        processes.wait_for(server.ready)
        with grpc.insecure_channel(server.address) as channel:
            call = channel.unary_unary("/packrat.v1.Inference/GetModelInfo")
            for _ in range(100):
                call(b"", timeout=60)

    def test_a_log_that_nobody_reads_stops_nothing(self):
        with Started("--log_format=json", stderr=self.unread()) as server:
            self.fill(server)
            self.assertEqual(server.metric("packrat_calls_total"), 100)
            self.assertEqual(server.metric("packrat_log_lines_dropped_total"), 0)  # They wait.
            server.process.terminate()
            self.assertEqual(server.process.wait(timeout=60), 0)

    def test_a_second_signal_ends_it_though_nobody_reads_the_log(self):
        with Started("--drain_grace=1h", model=DEMO, stderr=self.unread()) as server:
            self.fill(server)
            client = server.start_client("complete", "--max_tokens=4000", "--ignore_eos", "Once")
            processes.wait_for(lambda: server.metric("packrat_generated_tokens_total") > 10)
            server.process.terminate()
            processes.wait_for(lambda: not server.ready())
            def gone():
                server.process.terminate()
                return server.process.poll() is not None
            processes.wait_for(gone)
            self.assertEqual(server.process.returncode, 1)
            client.communicate(timeout=60)

    def test_a_file_at_its_limit_takes_no_more_lines_and_stops_nothing(self):
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with tempfile.TemporaryFile() as file:
            with Started(stderr=file, preexec_fn=limit) as server:
                self.fill(server)
                processes.wait_for(lambda: server.metric("packrat_log_lines_dropped_total") >= 100)
                server.process.terminate()
                self.assertEqual(server.process.wait(timeout=60), 0)

    def test_lines_of_libraries_are_lines_of_the_log(self):
        with RealServer(GOLDEN, env={"GRPC_VERBOSITY": "DEBUG", "GRPC_TRACE": "http"}) as server:
            with grpc.insecure_channel(server.address) as channel:
                call = channel.unary_stream("/packrat.v1.Inference/Generate")
                # A text that is not UTF-8: the answer is gRPC's, the line is Protocol Buffers'.
                with self.assertRaises(grpc.RpcError):
                    list(call(b"\x0a\x02\xff\xfe", timeout=60))
            code, log = server.stop()
        self.assertEqual(code, 0)
        lines = server.early + [json.loads(line) for line in log]
        of = lambda library: [line for line in lines if line.get("library") == library]
        self.assertTrue(of("grpc"))
        self.assertEqual([line["level"] for line in of("protobuf")], ["error"])
        self.assertIn("invalid UTF-8", of("protobuf")[0]["text"])
        for line in lines:
            self.assertIn(line["level"], ("info", "error"))
            for name in line:
                if name.endswith(("_ms", "_tokens", "_steps", "_port", "percent", "max_running")):
                    self.assertIsInstance(line[name], (int, float), line)


class SignalsTest(unittest.TestCase):

    # A server that loads for ever.
    LOADING = {**os.environ, "LD_PRELOAD": os.path.join(ROOT, "tests/server/stuck_disk.so")}

    def test_while_it_loads_a_signal_ends_it_with_0(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with Started(env=self.LOADING, stderr=subprocess.PIPE, encoding="utf-8") as server:
                for line in server.process.stderr:
                    if "listening" in line:
                        break
                self.assertFalse(server.ready())
                server.process.send_signal(number)
                _, log = server.process.communicate(timeout=60)
                self.assertEqual(server.process.returncode, 0)
                self.assertIn("stopped while loading", log)

    def test_while_it_reads_its_flags_a_signal_ends_it(self):
        with tempfile.TemporaryDirectory() as folder:
            pipe = os.path.join(folder, "flags")
            os.mkfifo(pipe)
            with subprocess.Popen([processes.SERVER, "--flagfile=" + pipe]) as process:
                # Opening it from here as well says that it is being read.
                with open(pipe, "wb"):
                    process.terminate()
                    self.assertEqual(process.wait(timeout=60), 0)

    def test_a_hangup_means_nothing_without_a_terminal(self):
        with RealServer(GOLDEN, stdin=subprocess.DEVNULL) as server:
            server.process.send_signal(signal.SIGHUP)
            self.assertTrue(server.ready())
            server.json("complete", "--token_ids=5", "--max_tokens=2")

    def test_as_the_first_process_of_a_container(self):
        unshare = ["unshare", "--pid", "--fork", "--kill-child"]
        if subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
            self.skipTest("no namespaces of processes here")
        for environment, word in ((self.LOADING, " listening "), (None, " ready ")):
            with subprocess.Popen(
                    [*unshare, processes.SERVER, "--model=" + os.path.join(ROOT, GOLDEN),
                     "--listen=127.0.0.1:0", "--http_listen=", "--drain_delay=0s"],
                    stderr=subprocess.PIPE, encoding="utf-8", env=environment) as outer:
                for line in outer.stderr:
                    if word in line:
                        break
                children = "/proc/%d/task/%d/children" % (outer.pid, outer.pid)
                with open(children, encoding="ascii") as file:
                    os.kill(int(file.read()), signal.SIGTERM)
                self.assertEqual(outer.wait(timeout=60), 0)


class DrainTest(unittest.TestCase):

    def test_calls_are_taken_until_the_delay_is_over(self):
        with RealServer(GOLDEN, "--drain_delay=1h") as server:
            server.process.terminate()
            processes.wait_for(lambda: not server.ready())
            self.assertEqual(server.json("info")["name"], "packrat")
            server.json("complete", "--token_ids=5", "--max_tokens=2")

    def test_ctrl_c_leaves_the_delay_out(self):
        with RealServer(GOLDEN, "--drain_delay=1h") as server:
            server.process.send_signal(signal.SIGINT)
            self.assertEqual(server.process.wait(timeout=60), 0)
            server.process.communicate()

    def test_the_defaults_fit_into_the_thirty_seconds_of_kubernetes(self):
        flags = subprocess.run([processes.SERVER, "--help"], stdout=subprocess.PIPE,
                               encoding="utf-8", check=True).stdout
        default = lambda name: float(flags.split("--%s (default: " % name)[1].split("s)")[0])
        self.assertLessEqual(default("drain_delay") + default("drain_grace") + 3, 28)

    def test_a_service_manager_is_told(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            name = "packrat-test-%d" % os.getpid()
            manager.bind("\0" + name)
            manager.settimeout(60)
            def told(word):
                while True:
                    lines = manager.recv(4096).decode().splitlines()
                    if word in lines:
                        return lines
            with RealServer(GOLDEN, env={"NOTIFY_SOCKET": "@" + name}) as server:
                self.assertIn("STATUS=serving", told("READY=1"))
                self.assertEqual(server.stop()[0], 0)
                told("STOPPING=1")


PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000  # __WALL


@contextlib.contextmanager
def stopped_thread(pid, name):
    """Stops one thread of a process, and no other, by its name."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/comm" % (pid, task), encoding="utf-8") as file:
            if file.read().strip() == name:
                tid = int(task)
    if libc.ptrace(PTRACE_SEIZE, tid, None, None) != 0:
        raise unittest.SkipTest("ptrace: " + os.strerror(ctypes.get_errno()))
    assert libc.ptrace(PTRACE_INTERRUPT, tid, None, None) == 0
    os.waitpid(tid, WALL)
    try:
        yield tid
    finally:
        # Fails where the process has ended meanwhile.
        libc.ptrace(PTRACE_DETACH, tid, None, None)


class StallTest(unittest.TestCase):
    """The engine's thread is stopped in the middle of a text."""

    def start(self, *flags):
        server = self.enterContext(RealServer(DEMO, "--stall_timeout=1s", *flags))
        client = server.start_client("complete", "--max_tokens=4000", "--ignore_eos", "Once")
        self.addCleanup(client.communicate)
        self.addCleanup(client.kill)
        processes.wait_for(lambda: server.metric("packrat_generated_tokens_total") > 10)
        return server

    def health(self, server, service):
        """grpc.health.v1: 1 is SERVING, 2 is NOT_SERVING."""
        with grpc.insecure_channel(server.address) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            request = bytes([0x0a, len(service)]) + service if service else b""
            return check(request, timeout=60)[1]

    def test_a_stuck_engine_is_neither_alive_nor_ready_until_it_goes_on(self):
        server = self.start()
        both = lambda: (self.health(server, b""), self.health(server, b"packrat.v1.Inference"))
        self.assertEqual(both(), (1, 1))
        with stopped_thread(server.process.pid, "packrat-engine"):
            processes.wait_for(lambda: both() == (2, 2))
            self.assertFalse(server.ready())
            # No call is kept waiting for it.
            refused = server.client("complete", "Once")
            self.assertIn("UNAVAILABLE: the engine has made no step for 1s", refused.stderr)
        processes.wait_for(lambda: both() == (1, 1))
        self.assertTrue(server.ready())

    def test_a_stuck_engine_does_not_hold_up_the_end(self):
        server = self.start("--drain_grace=100ms")
        with stopped_thread(server.process.pid, "packrat-engine") as tid:
            server.process.terminate()
            log = server.process.stderr.read()
            os.waitpid(tid, WALL)  # Who stops a thread has to bury it.
        self.assertEqual(server.stop()[0], 1)
        self.assertIn("calls do not end", log)


if __name__ == "__main__":
    unittest.main()
