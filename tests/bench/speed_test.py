import os
import subprocess
import sys
import unittest

from tests.bench import speed

COMMAND = [sys.executable, speed.__file__, "server/packrat_server", "server/client/packrat", "--model=models/demo",
           "--seconds=1", "--callers=2", "--requests=4", "--tokens=4",
           f"--port={10000 + os.getpid() % 10000 * 2}"]


class Fake:
    """A server that takes so many seconds each time."""

    def __init__(self, seconds):
        self.left = list(seconds)

    def bench(self, *flags):
        del flags
        return {"seconds": self.left.pop(0)}


class SpeedTest(unittest.TestCase):

    def test_each_is_held_against_the_first_of_its_round(self):
        args = type("", (), {"callers": 1, "requests": 1, "prompt": 1, "tokens": 1, "seconds": 0.0})
        rounds = iter((0, 0, 0, 1))
        clock, speed.time.monotonic = speed.time.monotonic, lambda: next(rounds)
        self.addCleanup(setattr, speed.time, "monotonic", clock)
        args.seconds = 1
        took = speed.measure([Fake([9, 1, 2]), Fake([9, 2, 8])], args)
        self.assertEqual(took, [[1, 2], [2, 8]])
        self.assertEqual(speed.quartiles([0.5, 0.25])[1], 0.375)
        self.assertEqual(speed.quartiles([0.5]), [0.5] * 3)

    def test_servers_of_other_flags(self):
        done = subprocess.run([*COMMAND, "--", "", "--prefix_cache=false"], capture_output=True, text=True, check=False,
                              env={**os.environ})
        self.assertEqual(done.returncode, 0, done.stderr)
        head, first, second = (line.split("\t") for line in done.stdout.splitlines())
        self.assertEqual(len(head), len(first))
        self.assertEqual([first[0], second[0]], ["speed: no flags", "speed: --prefix_cache=false"])
        self.assertTrue(first[5].startswith("1.000 of the first one's speed"), first)
        self.assertGreater(float(second[1]), 0)

    def test_a_flag_that_is_none(self):
        done = subprocess.run([*COMMAND, "--", "--no_such_flag"], capture_output=True, text=True, check=False)
        self.assertIn("does not become ready", done.stderr)
        self.assertNotEqual(done.returncode, 0)


if __name__ == "__main__":
    unittest.main()
