"""A conversation behind a real balancer that loses its replica in the middle of a turn, and then the store."""

import shutil
import tempfile
import unittest

from tests.cluster import fronts
from tests.cluster.replicas import Cluster, wait_until
from tests.server import processes

TOKENS = 24
FLAGS = ("--temperature=0", "--ignore_eos")
TURNS = ("Once upon a time there was a little dog", " The next day", " In the end", " But")


class Caller(processes.Process):
    """Somebody whose calls go through a balancer, all with one x-session."""

    def __init__(self, front, affinity):
        self.front = front
        self.address, self.affinity = front.target, "--affinity=" + affinity

    def client(self, *arguments, **more):
        # Else it may go to the next replica.
        wait_until(lambda: self.front.calls() == 0, "the balancer knows that the last call is over")
        return super().client(*arguments, self.affinity, **more)

    def start_client(self, *arguments):
        return super().start_client(*arguments, self.affinity)

    def create(self):
        created = self.client("sessions", "create")
        assert created.returncode == 0, created.stderr
        return created.stdout.strip()

    def say(self, text, *flags):
        """The ids of the answer, how many tokens are before it, and how many of these were not computed."""
        said = self.json("complete", *FLAGS, "--max_tokens=%d" % TOKENS, *flags, text)
        assert len(said["token_ids"]) == TOKENS
        usage = said["finished"]["usage"]
        return said["token_ids"], usage["prompt_tokens"], usage.get("cached_tokens", 0)

    def conversation(self, turns=TURNS):
        """The flag of its session, and what the turns say where nobody disturbs them."""
        session = "--session=" + self.create()
        return session, [self.say(turn, session)[0] for turn in turns]


class SessionsBehindABalancerTest(unittest.TestCase):

    def setUp(self):
        # The path of a socket must be short.
        self.folder = tempfile.mkdtemp(dir="/tmp")
        self.addCleanup(shutil.rmtree, self.folder)
        self.redis = processes.Redis(self.folder)
        self.addCleanup(self.redis.kill)

    def play(self, make):
        with Cluster(self.folder, flags=[self.redis.store]) as cluster:
            with make(self.folder, cluster) as front:
                _, expected = Caller(front, "undisturbed").conversation()
                caller = Caller(front, "somebody")
                self.loses_its_replica(cluster, caller, expected)
                # Until then a call may go to any that is alive.
                wait_until(lambda: front.healthy() == 2, "the balancer knows which replicas are left")
                self.loses_the_store(cluster, caller, expected)

    def loses_its_replica(self, cluster, caller, expected):
        session = "--session=" + caller.create()
        self.assertEqual(caller.say(TURNS[0], session)[0], expected[0])
        said, before, _ = caller.say(TURNS[1], session)
        self.assertEqual(said, expected[1])
        # While it writes the third turn, which is sent again at once.
        running = caller.start_client("complete", *FLAGS, session, "--max_tokens=3000", TURNS[2])
        self.assertTrue(running.stdout.read(1))
        home, = [replica for replica in cluster if replica.metric("packrat_requests_running")]
        home.kill()
        running.communicate(timeout=60)
        self.assertEqual(running.returncode, 1)
        said, _, cached = caller.say(TURNS[2], session)
        self.assertEqual(said, expected[2])
        # The state came with the text: it lacks the last token alone, which nobody had computed.
        self.assertEqual(cached, before + TOKENS - 1)
        others = [replica for replica in cluster if replica is not home]
        wait_until(lambda: sum(r.metric("packrat_sessions_fetched_total") for r in others) == 1,
                   "one of the others has fetched it")

    def loses_the_store(self, cluster, caller, expected):
        session, said = caller.conversation(TURNS[:2])
        self.assertEqual(said, expected[:2])
        self.redis.kill()
        # Where it is, it goes on.
        self.assertEqual(caller.say(TURNS[2], session)[0], expected[2])
        alive = [replica for replica in cluster if replica.process.poll() is None]

        def not_stored():
            return [replica for replica in alive if replica.metric("packrat_sessions_not_stored_total")]
        wait_until(not_stored, "the turn is not stored")
        # Where it is not, the caller is told why, and calls without a session go on.
        home, = not_stored()
        home.kill()

        def told():
            """Until the balancer knows of both that are dead it may find neither alive, and says so."""
            refused = caller.client("complete", *FLAGS, session, TURNS[3])
            self.assertIn("UNAVAILABLE", refused.stderr)
            return "the session store does not answer" in refused.stderr
        wait_until(told, "the replica that is left says what is wrong")
        self.assertEqual(caller.say(TURNS[0])[0], expected[0])
        # It comes back empty.
        self.redis.start()
        wait_until(lambda: "NOT_FOUND" in caller.client("complete", *FLAGS, session, TURNS[3]).stderr,
                   "the store is asked again")
        self.assertEqual(caller.conversation()[1], expected)

    def test_envoy(self):
        self.play(fronts.Envoy)

    def test_haproxy(self):
        self.play(fronts.HAProxy)


if __name__ == "__main__":
    unittest.main()
