"""packrat run: a server for as long as one chats. What a terminal shows of it is in run_terminal_test.py."""

import os
import signal
import subprocess
import tempfile
import unittest

from tests.server import processes
from tests.server.processes import ROOT, children, runs

DEMO = os.path.join(ROOT, "models/demo")
FLAGS = ["--max_tokens=5", "--ignore_eos", "--temperature=0"]


class RunCommandTest(unittest.TestCase):

    def setUp(self):
        # Short, as the name of a socket must be.
        folder = tempfile.TemporaryDirectory(dir="/tmp")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def start(self, *arguments):
        return subprocess.Popen([processes.CLIENT, "run", *arguments], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                                env={**os.environ, "XDG_RUNTIME_DIR": self.folder})

    def run_to_end(self, *arguments, stdin=""):
        client = self.start(*arguments)
        output, errors = client.communicate(stdin, timeout=120)
        return client.returncode, output, errors

    def start_and_talk(self):
        """A client that has answered, and its server's process."""
        client = self.start(DEMO, *FLAGS)
        client.stdin.write("Once upon a time\n")
        client.stdin.flush()
        self.assertTrue(client.stdout.readline().strip())
        server, = children(client.pid)
        return client, server

    def test_it_serves_chats_and_stops(self):
        code, output, errors = self.run_to_end(DEMO, *FLAGS, stdin="Once upon a time\nThe dog\n")
        self.assertEqual((code, errors), (0, ""))
        self.assertEqual(len(output.splitlines()), 2)
        self.assertNotIn("\x1b", output)
        self.assertEqual(os.listdir(self.folder), [])
        with processes.RealServer("models/demo") as server:
            whole = server.json("complete", *FLAGS, "--stop=\\n", "Once upon a time")["text"]
            server.stop()
        self.assertEqual(output.splitlines()[0], whole)

    def test_a_server_that_does_not_start_says_why(self):
        for arguments, said in ((["/no/such/model"], "/no/such/model"),
                                ([DEMO, "--", "--max_running=0"],
                                 "--max_running is 0; range [1, 4096]"),
                                ([DEMO, "--", "--no_such_flag"], "no_such_flag")):
            code, output, errors = self.run_to_end(*arguments)
            self.assertEqual((code, output), (1, ""), errors)
            self.assertIn("packrat: the server did not start:\n", errors)
            self.assertIn(said, errors)
            self.assertEqual(os.listdir(self.folder), [])

    def test_mistakes_give_2(self):
        for arguments in ([], [DEMO, "other"], [DEMO, "--no_such_flag"]):
            code, output, errors = self.run_to_end(*arguments)
            self.assertEqual((code, output), (2, ""), arguments)
            self.assertTrue(errors)
        for flags in (["--listen=127.0.0.1:1"], ["-listen=127.0.0.1:1"], ["--listen", "127.0.0.1:1"]):
            code, output, errors = self.run_to_end(DEMO, "--", "--max_running=4", *flags)
            self.assertEqual((code, output), (2, ""), flags)
            self.assertIn("--listen", errors)
        self.assertEqual(os.listdir(self.folder), [])

    def test_the_server_goes_with_its_client(self):
        client, server = self.start_and_talk()
        client.send_signal(signal.SIGINT)  # As without a terminal: it ends the command.
        self.assertEqual(client.wait(timeout=60), 130)
        processes.wait_for(lambda: not runs(server))
        client.communicate()
        client, server = self.start_and_talk()
        client.kill()
        client.communicate()
        processes.wait_for(lambda: not runs(server))

    def test_a_client_that_is_ended_leaves_nothing(self):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            client, server = self.start_and_talk()
            os.kill(server, signal.SIGSTOP)  # It needs long to stop.
            client.send_signal(number)
            self.assertEqual(client.wait(timeout=60), 130)
            self.assertEqual(os.listdir(self.folder), [])
            os.kill(server, signal.SIGCONT)
            processes.wait_for(lambda: not runs(server))
            client.communicate()
        # As when the terminal has gone.
        client, server = self.start_and_talk()
        client.stdout.close()
        client.stdin.write("The dog\n")
        client.stdin.close()
        client.stdin = None
        client.communicate(timeout=60)
        processes.wait_for(lambda: not runs(server))
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_server_that_dies_is_told_and_leaves_its_log(self):
        client, server = self.start_and_talk()
        os.kill(server, signal.SIGKILL)
        _, errors = client.communicate("The dog\n", timeout=60)
        self.assertIn(client.returncode, (1, 3))
        self.assertIn("the server has failed; its log is " + self.folder, errors)
        with open(errors.split("its log is ")[1].strip(), encoding="utf-8") as log:
            self.assertIn("ready", log.read())


if __name__ == "__main__":
    unittest.main()
