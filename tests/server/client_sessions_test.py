"""The client's commands about sessions, and the examples of all."""

import json
import os
import re
import subprocess
import tempfile
import unittest

from tests.server.processes import CLIENT, FakeServer, run_client

FLAGS = ("--temperature=0", "--ignore_eos", "--max_tokens=6")


class SessionsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = FakeServer()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_sessions(self):
        def sessions(*arguments):
            done = self.server.client("sessions", *arguments)
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stdout

        flags = ["--temperature=0", "--ignore_eos", "--max_tokens=6"]
        handle = sessions("create", "--ttl=10m").strip()
        self.assertRegex(handle, r"^[A-Za-z0-9_][A-Za-z0-9_-]{21}$")
        said = "Once" + self.server.json("complete", *flags, "--session=" + handle, "Once")["text"]
        whole = self.server.json("complete", *flags, "--session=" + handle, " upon")
        self.assertEqual(whole["finished"]["usage"]["prompt_tokens"], 2 + 6 + 1)
        text = said + " upon" + whole["text"]
        shown = sessions("show", handle)
        self.assertRegex(shown, r"^%s +15 tokens +2 turns +[0-9.]+ KB +idle \d+s of 10m\nturns end at 8 15\n\n"
                         % handle)
        self.assertTrue(shown.endswith("\n\n" + text + "\n"), shown)
        self.assertEqual(self.server.json("sessions", "show", handle)["turn_ends"], [8, 15])
        fork = sessions("fork", handle).strip()
        self.assertIn(" 1 turns", sessions("rewind", handle, "--keep_turns=1"))
        again = self.server.json("complete", *flags, "--session=" + handle, " upon")
        self.assertEqual(again["text"], whole["text"])
        self.assertIn(" 3 tokens", sessions("rewind", handle, "--keep_tokens=3"))
        listed = sessions("list")
        self.assertLess(listed.index(handle), listed.index(fork))
        self.assertIn("more (--limit)", sessions("list", "--limit=1"))
        self.assertEqual(sessions("delete", fork), "")
        gone = self.server.client("sessions", "show", fork)
        self.assertEqual(gone.returncode, 1)
        self.assertIn("NOT_FOUND: session is not known to this server", gone.stderr)

    def test_chat_in_a_session_says_what_it_says_without(self):
        flags = ["--temperature=0", "--ignore_eos", "--max_tokens=9", "--user_label=U: ",
                 "--reply_label=A:", "--stop=never said", "--parse_special"]
        alone = self.server.client("chat", *flags, stdin="Once\n")
        begun = self.server.client("chat", *flags, "--session=new", stdin="Once\n")
        self.assertEqual(begun.returncode, 0, begun.stderr)
        self.assertEqual(begun.stdout, alone.stdout)
        handle = re.fullmatch(r"\[session (\S{22})\]\n", begun.stderr).group(1)
        more = self.server.client("chat", *flags, "--session=" + handle, stdin="upon\n")
        self.assertEqual(more.returncode, 0, more.stderr)
        shown = self.server.client("sessions", "show", handle).stdout
        self.assertIn("U: Once\nA:%sU: upon\nA:%s" % (begun.stdout, more.stdout), shown)
        lost = self.server.client("chat", "--session=nobody", stdin="x\n")
        self.assertEqual((lost.returncode, lost.stdout), (1, ""))
        self.assertIn("NOT_FOUND", lost.stderr)
        new = self.server.client("complete", "--session=new", "--max_tokens=1", "Once")
        self.assertRegex(new.stderr, r"^\[session \S{22}\]\n$")

    def test_a_time_to_live_of_nothing_is_refused(self):
        done = self.server.client("sessions", "create", "--ttl=0s")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("INVALID_ARGUMENT: ttl_seconds is 0; range (0, 3600]", done.stderr)

    def test_what_may_follow_a_session_is_scored(self):
        handle = self.server.client("sessions", "create").stdout.strip()
        self.server.client("complete", *FLAGS, "--session=" + handle, "Once")
        done = self.server.client("score", "--session=" + handle, " upon a time", " x", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        scores = [json.loads(line)["finished"]["score"] for line in done.stdout.splitlines()]
        self.assertEqual(len(scores), 2)
        self.assertNotEqual(scores[0]["logprob"], scores[1]["logprob"])
        table = self.server.client("score", "--session=" + handle, " upon a time", " x").stdout
        self.assertIn("%.4f" % scores[0]["logprob"], table)
        # Without candidates its own text, from the token after BOS on.
        own = self.server.json("score", "--session=" + handle)
        shown = self.server.json("sessions", "show", handle)
        self.assertEqual([score["token_id"] for score in own["scores"]], shown["token_ids"][1:])

    def test_the_examples_of_help_work(self):
        """One after the other, as a person types them; but for one that starts a server, and one that needs none
        (plan_test.py)."""
        commands = re.findall(r"^  packrat (\w+)", run_client("help").stdout, re.MULTILINE)
        script = 'set -e; packrat() { "%s" "$@" --address=%s; }\n' % (
            CLIENT, self.server.address)
        found = 0
        for command in commands:
            examples = re.search(r"\nExamples:\n((?:  .*\n)+)", run_client(command, "--help").stdout)
            if examples is None or command in ("run", "plan"):
                continue
            found += 1
            self.assertIn("packrat " + command, examples.group(1))
            script += examples.group(1)
        self.assertEqual(found, 11)
        done = subprocess.run(["bash", "-c", script], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                              cwd=tempfile.mkdtemp(dir=os.environ["TEST_TMPDIR"]), timeout=60,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("It takes requests.", done.stdout)

    def test_save_and_load(self):
        handle = self.server.client("sessions", "create").stdout.strip()
        self.server.client("complete", *FLAGS, "--session=" + handle, 20 * "Once upon a time ")
        folder = tempfile.mkdtemp(dir=os.environ["TEST_TMPDIR"])
        path = os.path.join(folder, "session")
        with open(path, "w", encoding="utf-8") as file:
            file.write("what was there")
        saved = self.server.client("save", "--session=" + handle, "--output=" + path)
        self.assertEqual(saved.returncode, 0, saved.stderr)
        tokens, state, size = map(int, re.fullmatch(
            r"(\d+) tokens, with the state after (\d+), in (\d+) bytes\n", saved.stdout).groups())
        self.assertEqual(state, tokens - 1)
        self.assertEqual(size, os.path.getsize(path))
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertEqual(os.listdir(folder), ["session"])
        told = self.server.json("save", "--session=" + handle, "--output=" + path)
        self.assertEqual(told["state_tokens"], state)

        with FakeServer() as other:
            loaded = other.client("load", "--input=" + path, "--ttl=5m")
            self.assertEqual((loaded.returncode, loaded.stderr), (0, ""))
            there = loaded.stdout.strip()
            next_turn = other.json("complete", *FLAGS, "--session=" + there, "The dog")
            self.assertEqual(next_turn["finished"]["usage"]["cached_tokens"], state)
            self.assertEqual(next_turn["text"], self.server.json(
                "complete", *FLAGS, "--session=" + handle, "The dog")["text"])
            self.assertIn("of 5m", other.client("sessions", "list").stdout)
            self.assertEqual(other.json("load", "--input=" + path)["state_tokens"], state)
            other.stop()

        # What cannot be saved leaves what was there.
        gone = self.server.client("save", "--session=nobody", "--output=" + path)
        self.assertEqual(gone.returncode, 1)
        self.assertIn("NOT_FOUND", gone.stderr)
        self.assertEqual(os.path.getsize(path), size)
        self.assertEqual(os.listdir(folder), ["session"])
        nowhere = self.server.client("save", "--session=" + handle, "--output=/no/such/folder/x")
        self.assertEqual(nowhere.returncode, 1)
        self.assertIn("/no/such/folder/x", nowhere.stderr)
        with open(path, "r+b") as file:
            file.truncate(size - 1)
        cut = self.server.client("load", "--input=" + path)
        self.assertEqual((cut.returncode, cut.stdout), (1, ""))
        self.assertIn("DATA_LOSS: the saved state is damaged", cut.stderr)


if __name__ == "__main__":
    unittest.main()
