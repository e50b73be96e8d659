"""packrat_server where the wall clock is set while it serves."""

import json
import os
import tempfile
import unittest

from tests.server import processes
from tests.server.processes import ROOT, RealServer

DEMO = "models/demo"


class WallClockTest(unittest.TestCase):

    def test_a_wall_clock_that_is_set_changes_nothing(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = os.path.join(folder, "clock")
        def set_clock(seconds):
            with open(path + ".new", "w", encoding="ascii") as file:
                file.write(str(seconds))
            os.rename(path + ".new", path)
        set_clock(0)
        environment = {"LD_PRELOAD": os.path.join(ROOT, "tests/server/wall_clock.so"),
                       "PACKRAT_WALL_CLOCK": path}
        with RealServer(DEMO, "--stream_idle_timeout=30m", env=environment) as server:
            flags = ["--max_tokens=600", "--ignore_eos", "--deadline=60s", "Once"]
            for hours in (1, -2):
                tokens = server.metric("packrat_generated_tokens_total")
                client = server.start_client("complete", *flags)
                processes.wait_for(
                    lambda: server.metric("packrat_generated_tokens_total") > tokens + 10)
                set_clock(hours * 3600)
                client.communicate(timeout=60)
                self.assertEqual(client.returncode, 0)
            for what in ("time_to_first_token", "queue_time", "request_duration"):
                total = server.metric("packrat_%s_seconds_sum" % what)
                self.assertTrue(0 <= total < 120, "%s: %f" % (what, total))
            self.assertGreaterEqual(server.metric("packrat_generated_tokens_per_second"), 0)
            code, log = server.stop()
        self.assertEqual(code, 0)
        lines = [json.loads(line) for line in log]
        access = [line for line in lines if line["message"] == "access"]
        self.assertEqual(len(access), 2)
        for line in access:
            self.assertTrue(0 < line["total_ms"] < 60000, line)
        # The clock of the dates is the wall's.
        hours = [line["time"][11:13] for line in lines]
        self.assertGreater(len(set(hours)), 1)


if __name__ == "__main__":
    unittest.main()
