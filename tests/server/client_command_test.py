"""The client's command line: what it prints, and its exit codes."""

import base64
import json
import signal
import subprocess
import tempfile
import unittest

from tests.server import processes
from tests.server.processes import FakeServer
from tests.server.processes import run_client as run

# Every command that writes to standard output, of a model with a tokenizer.
COMMANDS = (["complete", "--max_tokens=5", "Once"], ["complete", "--max_tokens=5", "--json", "Once"],
            ["complete", "--max_tokens=5", "--echo=yes", "Once"], ["chat", "--max_tokens=5"],
            ["score", "Once", " upon"], ["score", "--json", "Once", " upon"],
            ["complete", "--max_tokens=5", "--num_choices=2", "Once"],
            ["tokenize", "Once"], ["tokenize", "--json", "Once"],
            ["detokenize", "--token_ids=500,501"], ["info"], ["info", "--json"], ["health"],
            ["health", "--json"],
            ["sessions", "create"], ["sessions", "list"], ["sessions", "create", "--json"],
            ["bench", "--requests=1", "--max_tokens=2"],
            ["bench", "--requests=1", "--max_tokens=2", "--json"])


class WithServerTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = FakeServer()
        cls.ids_only = FakeServer("ids")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.ids_only.stop()

    def test_complete(self):
        flags = ["--max_tokens=20", "--ignore_eos", "--seed=5"]
        text = self.server.client("complete", *flags, "Once", "upon")
        self.assertEqual(text.returncode, 0, text.stderr)
        whole = self.server.json("complete", *flags, "Once upon")
        self.assertEqual(text.stdout, whole["text"] + "\n")
        self.assertEqual(len(whole["token_ids"]), 20)
        self.assertEqual(whole["finished"]["reason"], "FINISH_REASON_LENGTH")
        self.assertEqual(whole["finished"]["usage"]["completion_tokens"], 20)
        self.assertEqual(whole["finished"]["seed"], "5")
        # Standard input, and the prompt before the text.
        piped = self.server.client("complete", *flags, "--echo=yes", stdin="Once upon\n")
        self.assertEqual(piped.stdout, "Once upon" + text.stdout)
        told = self.server.client("complete", *flags, "--stats", "Once upon")
        self.assertIn("20 generated", told.stderr)

    def test_num_choices(self):
        flags = ["--max_tokens=8", "--ignore_eos"]
        alone = [self.server.json("complete", *flags, "--seed=%d" % seed, "Once")["text"]
                 for seed in (5, 6, 7)]
        several = self.server.client("complete", *flags, "--seed=5", "--num_choices=3", "--json", "Once")
        choices = [json.loads(line) for line in several.stdout.splitlines()]
        self.assertEqual([choice["text"] for choice in choices], alone)
        self.assertEqual([choice["finished"]["seed"] for choice in choices], ["5", "6", "7"])
        shown = self.server.client("complete", *flags, "--seed=5", "--num_choices=3", "Once")
        self.assertEqual(shown.stdout, "".join("[%d] %s\n" % pair for pair in enumerate(alone)))

    def test_score(self):
        done = self.server.client("score", "--json", "--logprobs=2", "Once", " upon a time", "x")
        candidates = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([c["choice"] for c in candidates], [0, 1])
        for candidate, text in zip(candidates, (" upon a time", "x")):
            self.assertEqual("".join(base64.b64decode(score["piece"]).decode()
                                     for score in candidate["scores"]), text)
            self.assertEqual([len(score["top"]) for score in candidate["scores"]],
                             [2] * len(candidate["scores"]))
            self.assertAlmostEqual(sum(score["logprob"] for score in candidate["scores"]),
                                   candidate["finished"]["score"]["logprob"], places=3)
        # A file of candidates, and the table.
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(" upon\\n\nx\n")
            file.flush()
            table = self.server.client("score", "Once", "--candidates=" + file.name)
        self.assertEqual(table.returncode, 0, table.stderr)
        lines = table.stdout.splitlines()
        self.assertEqual(lines[0].split(), ["logprob", "tokens", "perplexity", "greedy", "text"])
        self.assertEqual([line.split("  ")[-1].strip() for line in lines[1:]], [" upon\\n".strip(), "x"])
        # The text itself, token by token.
        own = self.server.client("score", "Once upon").stdout
        self.assertIn("entropy", own)
        ids = self.ids_only.client("score", "--token_ids=5,6,7", "--json")
        self.assertEqual(len(json.loads(ids.stdout)["scores"]), 2)
        for arguments in (["score"], ["score", "x", "--candidates=/no/such/file"],
                          ["score", "--token_ids=1,two"]):
            self.assertEqual(run(*arguments).returncode, 2, arguments)

    def test_stop_strings(self):
        flags = ["--max_tokens=30", "--ignore_eos", "--temperature=0"]
        whole = self.server.json("complete", *flags, "Once")["text"]
        stop = whole[10:14]
        cut = self.server.json("complete", *flags, "--stop=" + stop.replace("\n", "\\n"), "Once")
        self.assertEqual(cut["text"], whole[:whole.index(stop)])
        self.assertEqual(cut["finished"]["reason"], "FINISH_REASON_STOP_STRING")

    def test_token_ids(self):
        done = self.ids_only.client("complete", "--token_ids=5, 6", "--max_tokens=8",
                                    "--ignore_eos")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len([int(word) for word in done.stdout.split()]), 8)

    def test_output_that_cannot_be_written_gives_1(self):
        before = self.server.metric("packrat_requests_running")
        for command in COMMANDS:
            for redirect, fault in ((">/dev/full", "No space left on device"),
                                    (">&-", "Bad file descriptor")):
                line = '"$@" ' + redirect
                done = subprocess.run(["sh", "-c", line, "sh", processes.CLIENT, *command,
                                       "--address=" + self.server.address], input="Once\n",
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      encoding="utf-8", timeout=60, check=False)
                self.assertEqual(done.returncode, 1, (command, redirect))
                self.assertEqual(done.stderr,
                                 "packrat: cannot write to standard output: %s\n" % fault)
            # And what was to be written is written where it can be.
            done = self.server.client(*command, stdin="Once\n")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertTrue(done.stdout.strip(), command)
        # The calls of those who left have ended.
        processes.wait_for(lambda: self.server.metric("packrat_requests_running") == before)

    def test_a_server_that_dies_in_mid_stream_gives_1(self):
        with FakeServer("some_steps") as server:
            client = server.start_client("complete", "text", "--ignore_eos", "--temperature=0")
            self.assertTrue(client.stdout.read(1))
            server.process.kill()
            _, errors = client.communicate(timeout=60)
            self.assertEqual(client.returncode, 1, errors)
            self.assertIn("UNAVAILABLE", errors)
            self.assertNotIn("no server answers", errors)

    def test_a_refusal_says_when_to_come_again(self):
        with FakeServer("held", "narrow") as server:
            # How many fit is the server's affair; once one is refused, all are.
            clients = [server.start_client("complete", "text") for _ in range(5)]
            processes.wait_for(lambda: any(client.poll() is not None for client in clients))
            done = server.client("complete", "text")
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("RESOURCE_EXHAUSTED", done.stderr)
            self.assertIn("(try again in 500ms)", done.stderr)
            told = server.client("complete", "--json", "text")
            self.assertEqual(json.loads(told.stdout)["error"]["retry_after_seconds"], 0.5)
            for client in clients:
                client.kill()
                client.communicate()

    def test_refusals_give_1(self):
        done = self.ids_only.client("complete", "text")
        self.assertEqual(done.returncode, 1)
        self.assertIn("FAILED_PRECONDITION", done.stderr)
        done = self.server.client("complete", "--temperature=-1", "--json", "text")
        self.assertEqual(done.returncode, 1)
        error = json.loads(done.stdout)["error"]
        self.assertEqual(error["status"], "INVALID_ARGUMENT")
        self.assertIn("sampling.temperature is -1; range [0, 100]", error["message"])
        self.assertTrue(error["request_id"])

    def test_what_cannot_be_sent_gives_2(self):
        for flags, said in (
                (["--caller=Zo\u00eb"], "--caller: at most 64 of A-Z a-z 0-9 . _ : - / @"),
                (["--caller=a\nb"], "--caller: "), (["--request_id=a b"], "--request_id: at most 128"),
                (["--request_id=" + 129 * "x"], "--request_id: "),
                (["--affinity=a b"], "--affinity: at most 128"),
                ([b"--session=\xe9"], "--session is not UTF-8 at byte 0"),
                ([b"--stop=\xe9"], "--stop is not UTF-8 at byte 0")):
            done = self.server.client("complete", *flags, "text")
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
            self.assertIn(said, done.stderr)
        for command in ("complete", "tokenize"):
            done = self.server.client(command, b"caf\xe9 au lait")
            self.assertEqual(done.returncode, 2)
            self.assertIn("the text is not UTF-8 at byte 3", done.stderr)
        self.assertEqual(self.server.client("detokenize").returncode, 2)

    def test_chat_answers_with_more_than_its_stop_string(self):
        flags = ["--temperature=0", "--ignore_eos"]
        first = self.server.json("complete", *flags, "--max_tokens=1", "Once")["text"]
        self.assertNotEqual(first, "")
        done = self.server.client("chat", *flags, "--max_tokens=5", "--stop=" + first,
                                  stdin="Once\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.startswith(first), done.stdout)

    def test_deadline_gives_4(self):
        with FakeServer("held") as held:
            done = held.client("complete", "--deadline=200ms", "text")
            self.assertEqual(done.returncode, 4)
            self.assertIn("DEADLINE_EXCEEDED", done.stderr)
            held.stop()

    def test_interrupt_cancels_and_gives_130(self):
        with FakeServer("held") as held:
            client = held.start_client("complete", "text", "--request_id=interrupted-one")
            processes.wait_for(lambda: held.metric("packrat_requests_waiting")
                               + held.metric("packrat_requests_running") == 1)
            client.send_signal(signal.SIGINT)
            _, errors = client.communicate(timeout=30)
            self.assertEqual(client.returncode, 130)
            self.assertIn("interrupted", errors)
            _, log = held.stop()
            line = [line for line in log if "id=interrupted-one" in line]
            self.assertEqual(len(line), 1)
            self.assertIn("finish=cancelled", line[0])
        # Also while it waits for its text.
        client = self.server.start_client("complete")
        client.send_signal(signal.SIGINT)
        self.assertIn(client.wait(timeout=30), (130, -signal.SIGINT))
        client.communicate()

    def test_tokenize_and_detokenize(self):
        tokens = self.server.json("tokenize", "--add_bos=false", "Hello world")
        self.assertEqual(len(tokens["token_ids"]), 2)
        listed = self.server.client("tokenize", "--add_bos=false", "Hello world")
        self.assertEqual([int(line.split()[0]) for line in listed.stdout.splitlines()],
                         tokens["token_ids"])
        ids = ",".join(str(i) for i in tokens["token_ids"])
        self.assertEqual(self.server.client("detokenize", "--token_ids=" + ids).stdout,
                         "Hello world\n")

    def test_info(self):
        info = self.server.json("info")
        self.assertEqual(info["name"], "fake")
        self.assertEqual(info["vocab_size"], 32000)
        text = self.server.client("info").stdout
        self.assertIn("layers         rat local_attention attention mesa", text)

    def test_bench(self):
        result = self.server.json("bench", "--requests=10", "--concurrency=4", "--prompt_tokens=20",
                                  "--max_tokens=16")
        self.assertEqual((result["requests"], result["failed"]), (10, 0))
        self.assertGreater(result["output_tokens_per_second"], 0)
        for row in ("time_to_first_token_ms", "time_per_output_token_ms", "message_interval_ms",
                    "request_ms"):
            self.assertLessEqual(result[row]["p50"], result[row]["p99"])
        self.assertEqual(round(result["prompt_tokens_per_second"] * result["seconds"]), 10 * 20)
        self.assertIn("p90", self.server.client("bench", "--requests=2", "--max_tokens=2").stdout)
        # Calls that arrive at random, with prompts of different lengths: the same ones for a seed.
        sums = set()
        for seed in (1, 1, 2):
            mixed = self.server.json("bench", "--requests=20", "--rate=1000", "--prompt_tokens=10",
                                     "--max_prompt_tokens=100", "--max_tokens=1", f"--seed={seed}")
            self.assertEqual((mixed["requests"], mixed["failed"]), (20, 0))
            sums.add(round(mixed["prompt_tokens_per_second"] * mixed["seconds"]))
            self.assertTrue(20 * 10 < max(sums) < 20 * 100, sums)
        self.assertEqual(len(sums), 2)
        # They wait for their time: the last of 40 comes after 0.8 s, give or take 0.13.
        slow = self.server.json("bench", "--requests=40", "--rate=50", "--max_tokens=1", "--seed=1",
                                "--prompt_tokens=1")
        self.assertGreater(slow["seconds"], 0.3)
        # What fails is counted and told.
        failed = self.server.client("bench", "--requests=2", "--prompt_tokens=600")
        self.assertEqual(failed.returncode, 1)
        self.assertIn("2 failed", failed.stdout)
        self.assertIn("max_context", failed.stderr)

    def test_chat(self):
        flags = ["--max_tokens=6", "--ignore_eos", "--temperature=0"]
        done = self.server.client("chat", *flags, stdin="One\nTwo\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        # The second turn goes on from all that has been said.
        one = self.server.json("complete", *flags, "--stop=\\n", "One")["text"]
        two = self.server.json("complete", *flags, "--stop=\\n", "One" + one + "\nTwo")["text"]
        self.assertEqual(done.stdout, one + "\n" + two + "\n")


class HealthTest(unittest.TestCase):

    def test_loading_then_ready(self):
        with FakeServer("loading") as server:
            def health(*flags):
                done = server.client("health", *flags)
                return done.returncode, done.stdout
            self.assertEqual(health(), (1, "NOT_SERVING\n"))
            self.assertEqual(health("--json"), (1, '{"status":"NOT_SERVING"}\n'))
            self.assertEqual(health("--live"), (0, "SERVING\n"))
            server.process.send_signal(signal.SIGUSR1)
            processes.wait_for(lambda: health() == (0, "SERVING\n"))

    def test_a_server_that_does_not_answer(self):
        with FakeServer() as server:
            server.process.send_signal(signal.SIGSTOP)
            try:
                done = server.client("health", "--live", "--deadline=100ms")
            finally:
                server.process.send_signal(signal.SIGCONT)
            self.assertEqual(done.returncode, 4, done.stderr)


if __name__ == "__main__":
    unittest.main()
