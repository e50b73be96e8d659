"""packrat chat in a session, with a model that has a chat template."""

import os
import re
import tempfile
import unittest

from tests.server import processes
from tests.server.processes import RealServer, with_template
from tests.server.terminal import CTRL_C, Terminal

FLAGS = ["--max_tokens=6", "--ignore_eos", "--temperature=0"]
ROLES = ("{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ '' if loop.last else '\n' }}"
         "{% endfor %}{{ '\n[assistant]' if add_generation_prompt }}")
# As those that drop an earlier answer's thinking.
FORGETS = ROLES.replace("{{ m.content }}", "{{ m.content if m.role == 'user' else '...' }}")


class ChatSessionTest(unittest.TestCase):

    def serve(self, template):
        folder = tempfile.TemporaryDirectory(dir=os.environ["TEST_TMPDIR"])
        self.addCleanup(folder.cleanup)
        server = RealServer(with_template(folder.name, template), "--threads=1")
        self.addCleanup(server.stop)
        return server

    def chat(self, server, session, lines):
        """The answers, and the handle."""
        done = server.client("chat", *FLAGS, "--session=" + session, stdin=lines)
        self.assertEqual(done.returncode, 0, done.stderr)
        made = re.search(r"\[session (\S{22})\]", done.stderr)
        return done.stdout, made.group(1) if made else session

    @staticmethod
    def text(server, handle):
        return server.client("sessions", "show", handle).stdout.split("\n\n", 1)[1][:-1]

    def test_turns_are_messages(self):
        server = self.serve(ROLES)
        answers, handle = self.chat(server, "new", "One\nTwo\n")
        text = self.text(server, handle)
        said = re.fullmatch(r"\[user\]One\n\[assistant\](.*)\n\[user\]Two\n\[assistant\](.*)", text, re.S)
        self.assertIsNotNone(said, text)
        self.assertEqual(answers, "%s\n%s\n" % said.groups())
        self.assertEqual(server.json("sessions", "show", handle)["num_turns"], 2)
        # A conversation that nobody here knows goes on as text.
        self.chat(server, handle, "Three\n")
        self.assertTrue(self.text(server, handle).startswith(text + "\nThree"))

        with Terminal(processes.CLIENT, "chat", "--address=" + server.address, *FLAGS, "--max_tokens=3000",
                      "--session=new") as chat:
            handle = re.search(r"\[session (\S{22})\]", chat.wait_for_prompt()).group(1)
            for lines in (1, 2):
                chat.type("Once upon a time\r")
                processes.wait_for(lambda: server.metric("packrat_sessions_busy") == 1)
                chat.wait_for("time\n")
                chat.wait_for_some()
                chat.type(CTRL_C)
                self.assertIn("[stopped]", chat.wait_for_prompt())
                # What was seen stands. Where the server had sent more, the next turn takes that back.
                self.assertFalse(server.json("sessions", "show", handle)["busy"])
                text = self.text(server, handle)
                self.assertEqual(text.count("[user]Once upon a time\n[assistant]"), lines, text)
                self.assertFalse(text.endswith("[assistant]"), text)
            self.assertIn("has 2 turns", chat.say("/rewind 3"))
            self.assertIn("[1 turn left]", chat.say("/rewind"))
            chat.type("Once upon a time\r")
            chat.wait_for("time\n")
            chat.wait_for_some()
            chat.type(CTRL_C)
            chat.wait_for_prompt()
            chat.type("/quit\r")
            self.assertEqual(chat.end(), 0)
        text = self.text(server, handle)
        self.assertEqual(text.count("[user]Once upon a time\n[assistant]"), 2, text)
        self.assertFalse(text.endswith("[assistant]"), text)

    def test_a_session_with_more_than_was_seen_keeps_what_came_before(self):
        server = self.serve(ROLES)
        with Terminal(processes.CLIENT, "chat", "--address=" + server.address, *FLAGS, "--session=new") as chat:
            handle = re.search(r"\[session (\S{22})\]", chat.wait_for_prompt()).group(1)
            chat.say("One")
            chat.say("Two")
            server.client("complete", *FLAGS, "--session=" + handle, " and so on")
            self.assertIn(" and so on", self.text(server, handle))
            chat.say("Three")
        text = self.text(server, handle)
        self.assertNotIn(" and so on", text)
        self.assertRegex(text, r"(?s)\A\[user\]One\n.*\n\[user\]Two\n.*\n\[user\]Three\n\[assistant\]")
        # The first stayed, and the others came anew, as one.
        self.assertEqual(server.json("sessions", "show", handle)["num_turns"], 2)

    def test_a_system_message_that_nobody_would_hear_is_refused(self):
        server = self.serve(ROLES)
        with RealServer("models/demo") as plain:
            handle = server.client("sessions", "create").stdout.strip()
            self.chat(server, handle, "One\n")
            for at, flags, why in ((plain, [], "the model demo has none"),
                                   (server, ["--user_label=Q: "], "--user_label"),
                                   (server, ["--reply_label=A: "], "--reply_label"),
                                   (server, ["--session=" + handle], "holds a text already")):
                # A session that begins with turns is a text to a chat that did not see them.
                done = at.client("chat", *FLAGS, "--system=Be brief.", *flags, stdin="One\n")
                self.assertEqual((done.returncode, done.stdout), (2, ""), flags)
                self.assertIn("--system", done.stderr)
                self.assertIn(why, done.stderr)
            plain.stop()
        done = server.client("chat", *FLAGS, "--system=Be brief.", "--session=new", stdin="One\n")
        handle = re.search(r"\[session (\S{22})\]", done.stderr).group(1)
        self.assertTrue(self.text(server, handle).startswith("[system]Be brief.\n[user]One"))

    def test_a_template_may_change_what_was_said(self):
        server = self.serve(FORGETS)
        _, handle = self.chat(server, "new", "One\nTwo\nThree\n")
        text = self.text(server, handle)
        self.assertTrue(text.startswith("[user]One\n[assistant]...\n[user]Two\n[assistant]...\n"
                                        "[user]Three\n[assistant]"), text)
        self.assertEqual(server.json("sessions", "show", handle)["num_turns"], 1)


if __name__ == "__main__":
    unittest.main()
