"""Conversations that lose their replica, or the store, in the middle: processes and a real redis-server."""

import shutil
import signal
import tempfile
import unittest

from tests.server import processes
from tests.server.processes import RealServer

MODEL = "models/demo"
TOKENS = 24
FLAGS = ("--temperature=0", "--ignore_eos", "--max_tokens=%d" % TOKENS)
TURNS = ("Once upon a time there was a little dog", " The next day", " In the end")
# A handle that might be somebody's.
UNKNOWN = "B" * 21 + "A"


class ReplicaKilledTest(unittest.TestCase):

    program = "redis-server"  # Or another one that speaks as it does: tests/clients/with_valkey.py.

    def setUp(self):
        # The path of a socket must be short.
        self.folder = tempfile.mkdtemp(dir="/tmp")
        self.addCleanup(shutil.rmtree, self.folder)
        self.redis = processes.Redis(self.folder, self.program)
        self.addCleanup(self.redis.kill)

    def start(self, *flags):
        return RealServer(MODEL, self.redis.store, *flags)

    def create(self, server):
        created = server.client("sessions", "create")
        self.assertEqual(created.returncode, 0, created.stderr)
        return created.stdout.strip()

    def say(self, server, handle, text):
        """A turn: the ids that it said, and how many tokens before them were not computed."""
        said = server.json("complete", *FLAGS, "--session=" + handle, text)
        self.assertEqual(len(said["token_ids"]), TOKENS)
        return said["token_ids"], said["finished"]["usage"].get("cached_tokens", 0)

    def start_long(self, server, *flags):
        return server.start_client("complete", *flags, "--temperature=0", "--ignore_eos",
                                   "--max_tokens=3000", TURNS[1])

    def ids(self, server, handle):
        return server.json("sessions", "show", handle)["token_ids"]

    def kill(self, server):
        server.process.kill()
        server.process.communicate()

    def uninterrupted(self, server):
        """What the turns say in a conversation that nobody disturbs."""
        handle = self.create(server)
        return [self.say(server, handle, turn)[0] for turn in TURNS]

    def test_the_next_turn_elsewhere_says_the_same(self):
        with self.start() as home, self.start() as other:
            expected = self.uninterrupted(home)
            handle = self.create(home)
            self.assertEqual(self.say(home, handle, TURNS[0])[0], expected[0])
            # As soon as a client has heard the end.
            said = self.say(home, handle, TURNS[1])[0]
            self.kill(home)
            self.assertEqual(said, expected[1])
            said, cached = self.say(other, handle, TURNS[2])
            self.assertEqual(said, expected[2])
            # The other replica never saw these texts, and got the state with them: it lacks the last
            # token alone, which nobody had computed.
            told = other.json("sessions", "show", handle)
            text = told["token_ids"]
            self.assertEqual(cached, told["turn_ends"][1] - 1)
            processes.wait_for(lambda: other.metric("packrat_sessions_fetched_total") == 1)
            # So does the whole text at once, computed from its first token on.
            fresh = other.json("complete", *FLAGS, "--use_cache=false", "--token_ids="
                               + ",".join(map(str, text[:-TOKENS])))
            self.assertEqual(fresh["token_ids"], expected[2])

    def test_a_turn_that_dies_with_its_replica_can_be_sent_again(self):
        with self.start() as home, self.start() as other:
            expected = self.uninterrupted(home)
            handle = self.create(home)
            self.say(home, handle, TURNS[0])
            before = self.ids(home, handle)
            running = self.start_long(home, "--session=" + handle)
            self.assertTrue(running.stdout.read(1))
            self.kill(home)
            running.communicate(timeout=60)
            self.assertEqual(running.returncode, 1)
            self.assertEqual(self.ids(other, handle), before)
            self.assertEqual(self.say(other, handle, TURNS[1])[0], expected[1])

    def test_a_full_replica_leaves_its_sessions_to_others(self):
        with self.start("--max_running=1", "--max_queue=1") as home, self.start() as other:
            expected = self.uninterrupted(home)
            handle = self.create(home)
            self.assertEqual(self.say(home, handle, TURNS[0])[0], expected[0])
            busy = [self.start_long(home)]
            # There is one seat, and the first takes it too, until it runs.
            self.assertTrue(busy[0].stdout.read(1))
            busy.append(self.start_long(home))
            processes.wait_for(lambda: home.metric("packrat_requests_waiting{") == 1)
            refused = home.client("complete", *FLAGS, "--session=" + handle, TURNS[1])
            self.assertEqual(refused.returncode, 1)
            self.assertIn("RESOURCE_EXHAUSTED", refused.stderr)
            for turn in (1, 2):
                self.assertEqual(self.say(other, handle, TURNS[turn])[0], expected[turn])
            for client in busy:
                client.kill()
                client.communicate()
            # And back again.
            processes.wait_for(lambda: home.metric("packrat_requests_running{") == 0)
            self.assertEqual(self.ids(home, handle), self.ids(other, handle))

    def check_without_the_store(self, take_away, bring_back):
        with self.start() as home, self.start() as other:
            expected = self.uninterrupted(home)
            handle = self.create(home)
            self.assertEqual(self.say(home, handle, TURNS[0])[0], expected[0])
            take_away()
            # Where it is, the session goes on.
            self.assertEqual(self.say(home, handle, TURNS[1])[0], expected[1])
            processes.wait_for(lambda: home.metric("packrat_sessions_not_stored_total") == 1)
            # Where it is not, the client is told why; calls without a session go on.
            refused = other.client("complete", *FLAGS, "--session=" + handle, TURNS[1])
            self.assertEqual(refused.returncode, 1)
            self.assertIn("UNAVAILABLE", refused.stderr)
            self.assertIn("the session store does not answer", refused.stderr)
            plain = other.json("complete", *FLAGS, TURNS[0])
            self.assertEqual(plain["token_ids"], expected[0])
            self.assertTrue(other.ready())
            bring_back()
            # For a moment nobody asks it.
            for server in (home, other):
                processes.wait_for(lambda: "NOT_FOUND" in server.client(
                    "sessions", "show", UNKNOWN).stderr)
            # What happened meanwhile is stored with the next turn.
            self.assertEqual(self.say(home, handle, TURNS[2])[0], expected[2])
            text = self.ids(home, handle)
            code, log = home.stop()
            self.assertEqual(code, 0)
            self.assertEqual(self.ids(other, handle), text)
            self.assertEqual(sum("not_stored" in line for line in log), 1)
            self.assertNotIn(handle, "".join(log))
            self.assertEqual(other.stop()[0], 0)

    def test_the_store_is_gone(self):
        self.check_without_the_store(self.redis.kill, self.redis.start)

    def test_the_store_takes_calls_and_answers_none(self):
        self.check_without_the_store(lambda: self.redis.process.send_signal(signal.SIGSTOP),
                                     lambda: self.redis.process.send_signal(signal.SIGCONT))


if __name__ == "__main__":
    unittest.main()
