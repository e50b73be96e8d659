"""packrat chat at a terminal: editing, history, commands, Ctrl-C."""

import os
import signal
import tempfile
import termios
import unittest

from tests.server import processes
from tests.server.processes import FakeServer, RealServer
from tests.server.terminal import BACKSPACE, CTRL_C, CTRL_D, LEFT, UP, Terminal

FLAGS = ["--max_tokens=6", "--ignore_eos", "--temperature=0"]
DEMO = "models/demo"


class Chat(Terminal):
    """A chat that waits for its first line."""

    def __init__(self, server, *flags, **more):
        super().__init__(processes.CLIENT, "chat", "--address=" + server.address, *FLAGS, *flags,
                         **more)
        self.folder = tempfile.TemporaryDirectory(dir=os.environ["TEST_TMPDIR"])
        self.wait_for_prompt()

    def text(self):
        """What was said, as /save writes it."""
        path = os.path.join(self.folder.name, "text")
        self.say("/save! " + path)
        with open(path, encoding="utf-8") as file:
            return file.read()[:-1]

    def leave(self):
        self.type(CTRL_D)
        return self.end()

    def __exit__(self, *unused):
        super().__exit__(*unused)
        self.folder.cleanup()


class ChatTerminalTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = FakeServer()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def answer(self, text, *flags):
        return self.server.json("complete", *FLAGS, "--stop=\\n", *flags, text)["text"]

    def test_a_line_is_edited_and_comes_back(self):
        with tempfile.TemporaryDirectory(dir=os.environ["TEST_TMPDIR"]) as state:
            env = {"XDG_STATE_HOME": os.path.join(state, "made/here")}
            with Chat(self.server, env=env) as chat:
                chat.say("Oce" + LEFT + LEFT + "n")
                said = "Once" + self.answer("Once")
                self.assertIn(said[4:].strip(), chat.shown)
                self.assertEqual(chat.text(), said)
                # Two lines back: the last one was /save.
                chat.say(UP + UP + " more")
                said += "\nOnce more"
                said += self.answer(said)
                self.assertEqual(chat.text(), said)
                self.assertEqual(chat.leave(), 0)
            # Another day.
            history = os.path.join(state, "made/here/packrat/history")
            self.assertEqual(os.stat(history).st_mode & 0o777, 0o600)
            with Chat(self.server, env=env) as chat:
                chat.say(UP + UP)
                self.assertEqual(chat.text(), "Once more" + self.answer("Once more"))
            with Chat(self.server, "--history=", env=env) as chat:
                chat.say(UP + "New")
                self.assertEqual(chat.text(), "New" + self.answer("New"))

    def test_characters_are_utf8_without_a_locale(self):
        with Chat(self.server) as chat:
            chat.say("Zo\u00eb \u4e16\u754cx" + 2 * BACKSPACE)
            self.assertEqual(chat.text(), "Zo\u00eb \u4e16" + self.answer("Zo\u00eb \u4e16"))

    def test_commands(self):
        with Chat(self.server) as chat:
            for command in ("/rewind", "/again", "/fork", "/switch", "/save", "/quit"):
                self.assertIn(command, chat.say("/help"))
            self.assertIn("there is no /bogus", chat.say("/bogus"))
            self.assertIn("the conversation has 0 turns", chat.say("/rewind"))
            self.assertIn("nothing was said", chat.say("/again"))
            self.assertIn("cannot be written", chat.say("/save /no/such/folder/x"))
            self.assertEqual(chat.text(), "")
            chat.say("One")
            chat.say("//two")
            one = "One" + self.answer("One")
            two = one + "\n/two" + self.answer(one + "\n/two")
            self.assertEqual(chat.text(), two)
            self.assertIn("has 2 turns", chat.say("/rewind 3"))
            self.assertIn("has 2 turns", chat.say("/rewind none"))
            self.assertIn("conversation 2; /switch 1", chat.say("/fork"))
            self.assertIn("[1 turn left]", chat.say("/rewind"))
            self.assertEqual(chat.text(), one)
            self.assertIn("whose last turn began: /two", chat.say("/switch 1"))
            self.assertEqual(chat.text(), two)
            self.assertIn("from 1 to 2", chat.say("/switch 3"))
            chat.say("/again")
            self.assertEqual(chat.text(), two)
            self.assertIn("[0 turns left]", chat.say("/rewind 2"))
            chat.type("/quit\r")
            self.assertEqual(chat.end(), 0)

    def test_save_keeps_what_is_there(self):
        with tempfile.TemporaryDirectory(dir=os.environ["TEST_TMPDIR"]) as home:
            path = os.path.join(home, "kept")
            with Chat(self.server, env={"HOME": home}) as chat:
                self.assertIn("0 turns in " + path, chat.say("/save ~/kept"))
                self.assertIn("there already; /save! ~/kept overwrites", chat.say("/save ~/kept"))
                chat.say("Once")
                chat.say("/save " + path)
                self.assertEqual(os.path.getsize(path), 1)
                self.assertIn("[1 turn in " + path, chat.say("/save! ~/kept"))
                with open(path, encoding="utf-8") as file:
                    self.assertEqual(file.read(), "Once" + self.answer("Once") + "\n")

    def test_a_paste_is_one_message(self):
        with Chat(self.server) as chat:
            self.assertIn("\x1b[?2004h", chat.raw)
            said = "/nce\nupon\n\n\ta \u00e9, it"
            chat.paste("/nce\nupon\n\n\ta \u00e9")
            chat.say(", it")
            text = chat.text()
            self.assertEqual(text, said + self.answer(said))
            # Off while an answer comes, and at the end.
            self.assertEqual(chat.raw.count("\x1b[?2004h"), chat.raw.count("\x1b[?2004l") + 1)
            self.assertIn("whose last turn began: /nce]", chat.say("/switch 1"))
            # It comes back as it was, and one line is a line.
            chat.say("/rewind")
            chat.paste("On")
            chat.say("ce")
            self.assertEqual(chat.text(), "Once" + self.answer("Once"))
            chat.say("/rewind")
            chat.say(7 * UP)
            self.assertEqual(chat.text(), text)
            chat.type("\x1b[200~never ended" + CTRL_C)
            chat.wait_for_prompt()
            self.assertEqual(chat.leave(), 0)
            self.assertLess(chat.raw.rindex("\x1b[?2004h"), chat.raw.rindex("\x1b[?2004l"))
        with Chat(self.server, env={"TERM": "dumb"}) as chat:
            self.assertNotIn("2004", chat.raw)

    def test_a_size_that_changed_during_an_answer(self):
        with FakeServer("held") as server, Chat(server) as chat:
            chat.resize(24, 80)
            chat.type("Once\r")
            processes.wait_for(lambda: server.metric("packrat_requests_waiting")
                               + server.metric("packrat_requests_running") == 1)
            chat.resize(24, 30)
            chat.type(CTRL_C)
            chat.wait_for_prompt()
            before = len(chat.raw)
            chat.type(50 * "a")
            while chat.raw[before:].count("a") < 50:
                chat.wait_for("a")
            self.assertNotIn(50 * "a", chat.raw)
            server.stop()

    def test_a_model_does_not_command_the_terminal(self):
        with RealServer(DEMO) as server:
            title, shown = "\x1b]0;mine\x07", "\\x1b]0;mine\\x07"
            flags = ["--regex=\x1b\\]0;mine\x07", "--max_tokens=40", "--noignore_eos"]
            with Chat(server, *flags) as chat:
                self.assertIn(shown, chat.say("Once"))
                self.assertNotIn(title, chat.raw)
                # Where it is no terminal, it is as it was.
                self.assertEqual(chat.text(), "Once" + title)
            self.assertEqual(server.client("complete", *flags, "Once").stdout, title + "\n")
            with Terminal(processes.CLIENT, "complete", "--address=" + server.address, *flags,
                          "Once") as complete:
                self.assertEqual(complete.end(), 0)
                self.assertIn("Once" + shown, complete.raw)

    def test_another_answer_is_another_one(self):
        with Chat(self.server, "--temperature=1") as chat:
            chat.say("Once")
            first = chat.text()
            chat.say("/again")
            self.assertTrue(chat.text().startswith("Once"))
            self.assertNotEqual(chat.text(), first)

    def test_commands_in_a_session(self):
        def shown(handle):
            return self.server.client("sessions", "show", handle).stdout.split("\n\n", 1)[1][:-1]

        handle = self.server.client("sessions", "create").stdout.strip()
        flags = ["--session=" + handle]
        with Chat(self.server, *flags) as chat:
            chat.say("One")
            one = "One" + self.answer("One")
            self.assertEqual(shown(handle), one)
            fork = chat.say("/fork").split("session ")[1].split(";")[0]
            chat.say("two")
            self.assertTrue(shown(fork).startswith(one + "\ntwo"))
            self.assertEqual(shown(handle), one)
            self.assertIn("[1 turn left]", chat.say("/rewind"))
            self.assertEqual(shown(fork), one)
            chat.say("/switch 1")
            self.assertIn("[0 turns left]", chat.say("/rewind 1"))
            self.assertEqual(shown(handle), "")
            chat.say("One")
            self.assertEqual(shown(handle), one)
        # What was said on another day can be taken back too.
        with Chat(self.server, *flags) as chat:
            self.assertIn("nothing was said here", chat.say("/again"))
            self.assertIn("[0 turns left]", chat.say("/rewind"))
            self.assertEqual(shown(handle), "")

    def test_ctrl_c_at_the_prompt(self):
        with Chat(self.server) as chat:
            chat.type("never said" + CTRL_C)
            self.assertIn("once more", chat.wait_for_prompt())
            chat.say("Once")
            self.assertEqual(chat.text(), "Once" + self.answer("Once"))
            chat.type(CTRL_C)
            chat.wait_for_prompt()
            chat.type(CTRL_C)
            self.assertEqual(chat.end(), 0)
            self.assertEqual(termios.tcgetattr(chat.slave), chat.modes)

    def test_ctrl_c_stops_the_answer_and_not_the_chat(self):
        with FakeServer("some_steps") as server, Chat(server, "--max_tokens=400") as chat:
            chat.type("Once\r")
            processes.wait_for(lambda: server.metric("packrat_generated_tokens_total") >= 2)
            chat.wait_for("Once\n")
            chat.wait_for_some()
            chat.type(CTRL_C)
            self.assertIn("[stopped]", chat.wait_for_prompt())
            # What was seen stands.
            said = chat.text()
            self.assertTrue(said.startswith("Once") and len(said) > 4, said)
            self.assertEqual(chat.leave(), 0)
            server.stop()
        with FakeServer("held") as server, Chat(server) as chat:
            chat.type("Once\r")
            processes.wait_for(lambda: server.metric("packrat_requests_waiting")
                               + server.metric("packrat_requests_running") == 1)
            chat.type(CTRL_C)
            self.assertIn("[stopped]", chat.wait_for_prompt())
            self.assertEqual(chat.text(), "")
            server.stop()

    def test_ctrl_c_in_a_session(self):
        with RealServer(DEMO) as server:
            handle = server.client("sessions", "create").stdout.strip()
            with Chat(server, "--session=" + handle, "--max_tokens=3000", "--stop=never said") as chat:
                for turns in (1, 2):
                    chat.type("Once upon a time\r")
                    processes.wait_for(lambda: server.metric("packrat_sessions_busy") == 1)
                    chat.wait_for("time\n")
                    chat.wait_for_some()
                    chat.type(CTRL_C)
                    self.assertIn("[stopped]", chat.wait_for_prompt())
                    session = server.json("sessions", "show", handle)
                    self.assertFalse(session["busy"])
                    self.assertEqual(session["num_turns"], turns)
                self.assertIn("[1 turn left]", chat.say("/rewind"))
                self.assertEqual(server.json("sessions", "show", handle)["num_turns"], 1)

    def test_ctrl_c_leaves_a_server_that_stands_still(self):
        with RealServer(DEMO) as server:
            handle = server.client("sessions", "create").stdout.strip()
            with Chat(server, "--session=" + handle) as chat:
                chat.say("Once")
                chat.say("more")
                server.process.send_signal(signal.SIGSTOP)
                for line in ("/fork", "/rewind", "/again", "Once"):
                    chat.type(line + "\r")
                    chat.wait_for(line + "\n")
                    chat.type(CTRL_C)
                    if line == "Once":  # The turn has been stopped; how it stands is asked for.
                        chat.wait_for("\n")
                        chat.type(CTRL_C)
                    self.assertIn("[stopped]", chat.wait_for_prompt(), line)
                server.process.send_signal(signal.SIGCONT)
                processes.wait_for(lambda: server.metric("packrat_sessions_busy") == 0)
                turns = server.json("sessions", "show", handle)["num_turns"]
                self.assertRegex(chat.say("/rewind"), "turns? left")
                self.assertLessEqual(server.json("sessions", "show", handle)["num_turns"], turns)
                self.assertEqual(chat.leave(), 0)

    def test_a_turn_that_fails_is_said_and_forgotten(self):
        with Chat(self.server) as chat:
            self.assertIn("INVALID_ARGUMENT", chat.say(2000 * "many words "))
            chat.say("Once")
            self.assertEqual(chat.text(), "Once" + self.answer("Once"))
        server = FakeServer()
        with Chat(server) as chat:
            server.stop()
            chat.type("Once\r")
            self.assertEqual(chat.end(), 3)
            self.assertIn("no server answers", chat.shown)

    def test_sigterm_leaves_the_terminal_as_it_was(self):
        with Chat(self.server) as chat:
            self.assertNotEqual(termios.tcgetattr(chat.slave), chat.modes)
            chat.process.send_signal(signal.SIGTERM)
            self.assertEqual(chat.end(), 130)
            self.assertEqual(termios.tcgetattr(chat.slave), chat.modes)

    def test_colours(self):
        for env, colours in (({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True),
                             ({"TERM": "dumb"}, False)):
            with Chat(self.server, env=env) as chat:
                self.assertEqual("\x1b[2m" in chat.raw, colours, env)
                self.assertEqual("\x1b[1m" in chat.raw, colours, env)

    def test_without_a_terminal_a_slash_is_text(self):
        done = self.server.client("chat", *FLAGS, stdin="/help\n")
        self.assertEqual(done.stdout, self.answer("/help") + "\n")
        self.assertEqual(done.stderr, "")


if __name__ == "__main__":
    unittest.main()
