"""packrat plan: its numbers are those of the server, which holds what they say."""

import json
import os
import random
import re
import shlex
import subprocess
import tempfile
import unittest
import urllib.request

from tests.server import processes
from tests.server.processes import ROOT, RealServer

DEMO = "models/demo"
MODEL = os.path.join(ROOT, DEMO)


def run(*arguments):
    return subprocess.run([processes.CLIENT, "plan", *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, encoding="utf-8", timeout=60, check=False)


def plan(*flags):
    done = run("--model", MODEL, "--json", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def turn(server, session, tokens, answer):
    """How many tokens of the session's text were not computed for a turn of so many more."""
    ids = ",".join(str(random.randrange(10, 4000)) for _ in range(tokens))
    usage = server.json("complete", "--session=" + session, "--token_ids=" + ids, "--ignore_eos",
                        "--max_tokens=%d" % answer)["finished"]["usage"]
    return int(usage.get("cached_tokens", 0))


def get_plan(server):
    request = urllib.request.Request("http://127.0.0.1:%d/packrat/v1/GetPlan" % server.http_port,
                                     data=b"{}", headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


class PlanTest(unittest.TestCase):

    def test_is_the_servers_own(self):
        for memory, flags in (("16GiB", ()), ("256MiB", ("--max_context=1000", "--threads=2")),
                              ("2Gi", ("--max_running=3", "--cache_sequences=40", "--weights=int8"))):
            server = subprocess.run(
                [processes.SERVER, "--model", MODEL, "--device=cpu", "--plan=json",
                 "--memory_limit=" + memory, *flags], stdout=subprocess.PIPE, check=True)
            self.assertEqual(plan("--memory", memory, *flags), json.loads(server.stdout))

    def test_as_text(self):
        done = run("--model=" + MODEL, "--memory=1GiB", "--max_running=16")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"limit +1024 MiB  --memory_limit\n")
        self.assertRegex(done.stdout, r"tokens +a sequence takes +sequences at once +states kept "
                                      r"+in memory +on disk +idle sessions\n")
        self.assertRegex(done.stdout, r"\n +256 +\d+\.\d\d MiB +16 +64 +0 +0 +4096\n")

    def test_examples_of_the_help(self):
        lines = re.findall(r"^ *(packrat plan --model models/demo.*)$", run("--help").stdout, re.M)
        self.assertEqual(len(lines), 3)
        for line in lines:
            done = subprocess.run([processes.CLIENT, *shlex.split(line)[1:]], cwd=ROOT, check=False,
                                  capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 0, line)

    def test_more_memory_for_states_keeps_more(self):
        few, many = (plan("--memory=8GiB", "--max_running=4", "--cache_sequences=%d" % n)["capacity"]
                     for n in (0, 100))
        for one, other in zip(few, many):
            self.assertEqual((one["sequences"], other["sequences"]), (4, 4))
            self.assertEqual((one["kept_states"], other["kept_states"]), (4, 104))
        none = plan("--memory=8GiB", "--prefix_cache=false")["capacity"]
        self.assertEqual({row["kept_states"] for row in none}, {0})

    def test_mistakes_and_too_little(self):
        for flags, code, words in (
                ((), 2, "--model is missing"),
                (("--model", MODEL, "--memory=12x"), 2, "is not a number of bytes; e.g."),
                (("--model", MODEL, "--memory=-1"), 2, "--memory is -1; range [1, 70368744177664]"),
                (("--model", MODEL, "--max_running=0"), 2, "--max_running is 0; range [1, 4096]"),
                (("--model", MODEL, "--max_context=99999"), 2, "max_context is 99999; range [2, "),
                (("--model", MODEL, "--device=cuda"), 2, '--device is "cuda"'),
                (("--model", MODEL, "--memorie=1GiB"), 2, "memorie"),
                (("--model", MODEL, "more"), 2, 'unexpected argument "more"'),
                (("--model", MODEL, "--memory=40MiB"), 1, "too little memory"),
                (("--model", "/no/such/folder"), 1, "/no/such/folder")):
            done = run(*flags)
            self.assertEqual(done.returncode, code, done.stdout + done.stderr)
            self.assertIn(words, done.stdout + done.stderr)
            self.assertNotIn("packrat_server:", done.stderr)
        done = run("--help")
        self.assertEqual(done.returncode, 0)
        for word in ("packrat plan --model DIR", "--memory", "--json", "--max_context", "Exit codes"):
            self.assertIn(word, done.stdout)

    def test_a_server_holds_what_it_says(self):
        # Slots are scarce in one, and pages in the other.
        for flags in (("--max_running=3", "--cache_sequences=9"),
                      ("--max_running=64", "--state_bytes=20MiB")):
            told = plan("--memory=1GiB", "--max_context=1024", *flags)
            rows = {row["tokens"]: row for row in told["capacity"]}
            for tokens in (256, 1024):
                with RealServer(DEMO, "--device=cpu", "--memory_limit=1GiB", "--max_context=1024",
                                *flags) as server:
                    self.hold(server, told, rows[tokens])

    def test_a_server_tells_the_same(self):
        with tempfile.TemporaryDirectory() as folder:
            for flags in (("--max_running=4",),
                          ("--max_running=4", "--state_host_memory=64MiB"),
                          ("--max_running=4", "--state_host_memory=64MiB", "--state_dir=" + folder,
                           "--state_disk=1GiB")):
                told = plan("--memory=1GiB", *flags)
                with RealServer(DEMO, "--device=cpu", "--memory_limit=1GiB", *flags) as server:
                    said = get_plan(server)
                self.assertEqual(int(said["state_bytes"]), told["memory"]["state_bytes"])
                self.assertEqual(int(said.get("disk_bytes", 0)), told["disk"]["kept_state_bytes"])
                self.assertEqual(
                    [(row["tokens"], int(row["sequences"]), int(row.get("kept_states_in_memory", 0)),
                      int(row.get("kept_states_on_disk", 0))) for row in said["capacity"]],
                    [(row["tokens"], row["sequences"], row["kept_states_in_memory"],
                      row["kept_states_on_disk"]) for row in told["capacity"]])
        row = told["capacity"][0]
        self.assertGreater(row["kept_states_on_disk"], row["kept_states_in_memory"])
        self.assertGreater(row["kept_states_in_memory"], 0)

    def hold(self, server, told, row):
        for metric, value in (("packrat_weight_bytes{", told["memory"]["weight_bytes"]),
                              ("packrat_scratch_bytes{", told["memory"]["scratch_bytes"]),
                              ("packrat_state_capacity_bytes{", told["memory"]["state_bytes"]),
                              ("packrat_max_sessions{", told["flags"]["max_sessions"]),
                              ("packrat_max_session_tokens{", told["flags"]["max_session_tokens"])):
            self.assertEqual(server.metric(metric), value, metric)
        tokens, states = row["tokens"], row["kept_states"]
        self.assertGreater(states, 4)
        sessions = [server.client("sessions", "create").stdout.strip() for _ in range(states)]
        for session in sessions:
            self.assertEqual(turn(server, session, tokens - 8, 3), 0)
        # The engine tells its figures a moment after its answers.
        processes.wait_for(lambda: server.metric("packrat_prefix_cache_snapshots{") == states)
        # All of them are these. A turn runs beside them: the least recently used makes room for it.
        # The last token of each text was not read.
        cached = [turn(server, session, 2, 2) for session in reversed(sessions)]
        self.assertEqual(cached, [tokens - 6] * (states - 1) + [0])
        self.assertEqual(server.metric("packrat_sessions{"), states)


if __name__ == "__main__":
    unittest.main()
