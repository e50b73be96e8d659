"""packrat run at a terminal: what a person sees and types, and what is left behind."""

import os
import re
import shutil
import signal
import tempfile
import termios
import unittest

from tests.server import processes
from tests.server.processes import ROOT, children, runs
from tests.server.terminal import CTRL_C, CTRL_D, Terminal

DEMO = os.path.join(ROOT, "models/demo")
FLAGS = ["--max_tokens=6", "--ignore_eos", "--temperature=0"]
# A server that has a large model: so far it has come, and says so.
LOADING = """#!/usr/bin/python3
import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
    notices.sendto(b"STATUS=loading, 40 %", os.environ["NOTIFY_SOCKET"])
open(os.environ["XDG_RUNTIME_DIR"] + "/told", "w").close()
signal.pause()
"""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class RunTerminalTest(unittest.TestCase):

    def setUp(self):
        # Short, as the name of a socket must be.
        folder = tempfile.TemporaryDirectory(dir="/tmp")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def start(self, *flags, client=processes.CLIENT, model=DEMO, **env):
        terminal = Terminal(client, "run", model, *FLAGS, *flags,
                            env={"XDG_RUNTIME_DIR": self.folder, **env})
        self.addCleanup(terminal.__exit__)
        return terminal

    def chat(self, *flags, **env):
        """One that waits for a line, and its server's process."""
        chat = self.start(*flags, **env)
        self.assertIn("Write, and the model goes on", chat.wait_for_prompt())
        server, = children(chat.process.pid)
        return chat, server

    def assert_nothing_is_left(self, terminal, server):
        self.assertFalse(runs(server))
        self.assertEqual(os.listdir(self.folder), [])
        # It echoes, and takes whole lines; nothing marks pastes any more.
        self.assertEqual(termios.tcgetattr(terminal.slave), terminal.modes)
        self.assertTrue(terminal.modes[3] & termios.ECHO and terminal.modes[3] & termios.ICANON)
        self.assertGreaterEqual(terminal.raw.rfind("\x1b[?2004l"), terminal.raw.rfind("\x1b[?2004h"))

    def test_a_line_is_answered(self):
        with processes.RealServer("models/demo") as server:
            answer = server.json("complete", *FLAGS, "--stop=\\n", "Once upon a time")["text"]
            server.stop()
        chat, server = self.chat()
        self.assertTrue(chat.say("Once upon a time").endswith("Once upon a time\n" + answer.strip()))
        self.assertTrue(chat.say("The dog"))
        chat.type(CTRL_D)
        self.assertEqual(chat.end(), 0)
        self.assert_nothing_is_left(chat, server)

    def test_ctrl_c_stops_the_answer_and_not_the_chat(self):
        chat, server = self.chat("--max_tokens=3000", "--stop=never said")
        for _ in range(2):
            chat.type("Once upon a time\r")
            chat.wait_for("time\n")
            chat.wait_for_some()
            chat.type(CTRL_C)
            self.assertIn("[stopped]", chat.wait_for_prompt())
            self.assertTrue(runs(server))
        self.assertIn("[1 turn left]", chat.say("/rewind"))
        chat.type(CTRL_C)
        self.assertIn("once more, or /quit, leaves", chat.wait_for_prompt())
        self.assertTrue(runs(server))
        chat.type(CTRL_C)
        self.assertEqual(chat.end(), 0)
        self.assert_nothing_is_left(chat, server)

    def test_ctrl_c_ends_what_still_loads(self):
        with tempfile.TemporaryDirectory(dir=os.environ["TEST_TMPDIR"]) as folder:
            client = shutil.copy(processes.CLIENT, folder)
            with open(os.path.join(folder, "packrat_server"), "w", encoding="utf-8") as file:
                file.write(LOADING)
            os.chmod(file.name, 0o755)
            for env, shown in (({}, "\r\x1b[Kloading, 40 %"), ({"TERM": "dumb"}, "")):
                run = self.start(client=client, **env)
                processes.wait_for(lambda: os.path.exists(self.folder + "/told"))
                os.unlink(self.folder + "/told")
                if shown:
                    run.wait_for("loading, 40 %")
                server, = children(run.process.pid)
                run.type(CTRL_C)
                self.assertEqual(run.end(), 130)
                # The line is empty again, for the shell's prompt.
                self.assertEqual(run.raw, shown + "^C" + ("\r\x1b[K" if shown else ""))
                self.assert_nothing_is_left(run, server)

    def test_a_server_that_dies_is_told(self):
        chat, server = self.chat()
        os.kill(server, signal.SIGKILL)
        chat.type("Once upon a time\r")
        self.assertEqual(chat.end(), 3)
        log, = re.findall("the server has failed; its log is (.*)\n", chat.shown)
        os.unlink(log)
        os.rmdir(os.path.dirname(log))
        self.assert_nothing_is_left(chat, server)

    def test_a_model_that_is_not_there_is_told(self):
        run = self.start(model="/no/such/model")
        self.assertEqual(run.end(), 1)
        self.assertRegex(run.shown, r"\A\r?packrat: the server did not start:\n(?s:.*)/no/such/model")
        self.assertEqual(termios.tcgetattr(run.slave), run.modes)
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_terminal_that_is_closed_ends_both(self):
        chat, server = self.chat()
        os.close(chat.master)
        chat.master = os.open("/dev/null", os.O_RDONLY)
        self.assertIn(chat.process.wait(60), (0, 130))  # Its end or the signal is seen first.
        processes.wait_for(lambda: not runs(server))
        self.assertEqual(os.listdir(self.folder), [])

    def test_colours_are_for_a_terminal_that_has_them(self):
        for env, colours in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
            chat, server = self.chat(**env)
            chat.say("Once upon a time")
            chat.type(CTRL_D)
            self.assertEqual(chat.end(), 0)
            self.assertEqual(bool(COLOUR.search(chat.raw)), colours, env)
            self.assert_nothing_is_left(chat, server)


if __name__ == "__main__":
    unittest.main()
