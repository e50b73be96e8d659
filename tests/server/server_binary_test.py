"""packrat_server as a process, on real models: start, serving, signals, exit codes, its log."""

import array
import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

from tests.server import processes
from tests.server.processes import ROOT, RealServer

DEMO = "models/demo"
GOLDEN = "tests/golden/packrat"


def start_and_fail(*flags):
    return subprocess.run([processes.SERVER, *flags], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, encoding="utf-8", timeout=60, check=False)


def read_tensor(path, name):
    """A tensor of a safetensors file, as (shape, flat array)."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    begin, end = header[name]["data_offsets"]
    values = array.array({"F32": "f", "I32": "i"}[header[name]["dtype"]])
    values.frombytes(data[begin:end])
    return header[name]["shape"], values


class StartTest(unittest.TestCase):

    def test_help_and_version(self):
        done = start_and_fail("--help")
        self.assertEqual(done.returncode, 0)
        for flag in ("--model", "--listen", "--max_running", "--drain_grace", "range", "default"):
            self.assertIn(flag, done.stdout)
        self.assertRegex(start_and_fail("--version").stdout, r"^packrat_server \d+\.\d+\.\d+\n$")

    def test_wrong_flags_give_2(self):
        model = "--model=" + os.path.join(ROOT, GOLDEN)
        for flags, word in (([], "--model is missing"), ([model, "--bogus"], "bogus"),
                            ([model, "--max_running=0"], "--max_running is 0; range [1, 4096]"),
                            ([model, "--max_running=abc"], "max_running"),
                            ([model, "--drain_grace=-1s"], "drain_grace"),
                            ([model, "stray"], "stray"),
                            ([model, "--session_store=some/folder"], "--session_store is"),
                            ([model, "--session_store=redis://"], "--session_store: 'redis://'"),
                            ([model, "--session_store_password_file=/dev/null"],
                             "--session_store_password_file needs --session_store"),
                            ([model, "--metrics_need_key"], "--metrics_need_key needs"),
                            ([model, "--flagfile=/no/such/file"], "/no/such/file")):
            done = start_and_fail(*flags)
            self.assertEqual(done.returncode, 2, flags)
            self.assertIn(word, done.stderr, flags)

    def test_what_cannot_start_gives_1(self):
        done = start_and_fail("--model=/no/such/folder", "--listen=127.0.0.1:0",
                              "--http_listen=127.0.0.1:0")
        self.assertEqual(done.returncode, 1)
        self.assertIn("/no/such/folder: no such folder", done.stderr)
        done = start_and_fail("--model=" + os.path.join(ROOT, GOLDEN), "--listen=127.0.0.1:0",
                              "--http_listen=127.0.0.1:0", "--session_store=/dev/null/folder")
        self.assertEqual(done.returncode, 1)
        self.assertIn("--session_store: /dev/null/folder", done.stderr)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            for flag in ("--listen=", "--http_listen="):
                flags = {"--listen=": "127.0.0.1:0", "--http_listen=": "127.0.0.1:0", flag: address}
                done = start_and_fail("--model=" + os.path.join(ROOT, GOLDEN),
                                      *(name + value for name, value in flags.items()))
                self.assertEqual(done.returncode, 1)
                self.assertIn("cannot listen at " + address, done.stderr)

    def test_flags_from_a_file(self):
        with tempfile.NamedTemporaryFile("w", suffix=".flags") as file:
            file.write("--max_running=3\n--model_name=from-file\n")
            file.flush()
            with RealServer(GOLDEN, "--flagfile=" + file.name) as server:
                info = server.json("info")
                self.assertEqual(info["name"], "from-file")
                self.assertEqual(info["limits"]["max_running"], 3)
                self.assertEqual(server.stop()[0], 0)


class GoldenTest(unittest.TestCase):
    """A model without a tokenizer: token ids only."""

    def test_the_likeliest_token_is_the_golden_one(self):
        path = os.path.join(ROOT, GOLDEN, "expected.safetensors")
        (rows, length), ids = read_tensor(path, "input_ids")
        (_, _, vocab), logits = read_tensor(path, "logits")
        with RealServer(GOLDEN) as server:
            for row in range(rows):
                for cut in (1, length // 2, length):
                    prompt = ids[row * length:row * length + cut]
                    last = logits[(row * length + cut - 1) * vocab:(row * length + cut) * vocab]
                    got = server.json("complete", "--token_ids=" + ",".join(map(str, prompt)),
                                      "--temperature=0", "--max_tokens=1", "--ignore_eos")
                    self.assertEqual(got["token_ids"], [max(range(vocab), key=last.__getitem__)])
                    self.assertEqual(got["text"], "")
            refused = server.client("complete", "text")
            self.assertEqual(refused.returncode, 1)
            self.assertIn("FAILED_PRECONDITION", refused.stderr)
            self.assertEqual(server.stop()[0], 0)


class DialsTest(unittest.TestCase):
    """Requests and sessions that choose what layers of RAT+ see."""

    RAT_PLUS = "tests/golden/rat_plus"
    DIALS = ("4,8,6", "16,5,6", "own")
    IDS = [5 + 7 * i % 80 for i in range(40)]

    @staticmethod
    def complete(server, ids, *flags):
        done = server.client("complete", "--token_ids=" + ",".join(map(str, ids)), "--temperature=0", "--json",
                             "--max_tokens=8", "--ignore_eos", "--logprobs=0", *flags)
        if done.returncode != 0:
            return done.stderr + done.stdout
        # They tell more than the tokens.
        return [round(one["logprob"], 5) for one in json.loads(done.stdout)["logprobs"]]

    @staticmethod
    def post(server, path, body):
        request = urllib.request.Request("http://127.0.0.1:%s%s" % (server.http_port, path),
                                         json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def test_a_request_chooses(self):
        with RealServer(self.RAT_PLUS, "--rat_plus_dial=" + "/".join(self.DIALS), "--rat_plus_unadapted") as server, \
             tempfile.TemporaryDirectory() as folder:
            info = server.json("info")
            self.assertEqual(info["rat_plus_dials"], list(self.DIALS))
            self.assertIn("\ndials          4,8,6 16,5,6 own\n", server.client("info").stdout)
            texts = {dial: self.complete(server, self.IDS, "--rat_plus_dial=" + dial) for dial in self.DIALS}
            self.assertEqual(self.complete(server, self.IDS), texts["4,8,6"])
            self.assertNotEqual(texts["4,8,6"], texts["own"])
            for body in ({"rat_plus_dial": "16,5,6"}, {}):
                status, answer = self.post(server, "/v1/completions", {
                    "prompt": self.IDS, "temperature": 0, "max_tokens": 8, "ignore_eos": True,
                    "logprobs": 0, **body})
                self.assertEqual(status, 200, answer)
                numbers = [round(one, 5) for one in answer["choices"][0]["logprobs"]["token_logprobs"]]
                self.assertEqual(numbers, texts[body.get("rat_plus_dial", "4,8,6")])
            self.assertIn("this server has 4,8,6 and 16,5,6 and own",
                          self.complete(server, self.IDS, "--rat_plus_dial=1"))
            self.assertIn("INVALID_ARGUMENT", self.complete(server, self.IDS, "--rat_plus_dial=x"))
            status, answer = self.post(server, "/v1/completions", {"prompt": self.IDS, "rat_plus_dial": "1"})
            self.assertEqual(status, 400, answer)
            self.assertIn("this server has", answer["error"]["message"])

            # A session has the dial of its first turn; it goes coarser, and never finer.
            fine = server.json("sessions", "create")["session"]
            self.complete(server, self.IDS, "--session=" + fine)
            self.assertEqual(server.json("sessions", "show", fine)["rat_plus_dial"], "4,8,6")
            fork = server.json("sessions", "fork", fine)["session"]
            first = self.complete(server, [1, 2, 3], "--session=" + fork, "--rat_plus_dial=16,5,6")
            self.assertEqual(server.json("sessions", "show", fork)["rat_plus_dial"], "16,5,6")
            again = server.json("sessions", "fork", fine)["session"]
            self.assertEqual(first, self.complete(server, [1, 2, 3], "--session=" + again, "--rat_plus_dial=16,5,6",
                                                  "--use_cache=false"))
            self.assertIn("rat_plus_dial is 4,8,6; the text has 16,5,6, with which it has not kept the ends of "
                          "stretches of 4 tokens",
                          self.complete(server, [4], "--session=" + fork, "--rat_plus_dial=4,8,6"))
            server.json("sessions", "rewind", fork, "--keep_turns=1")
            self.assertEqual(server.json("sessions", "show", fork)["rat_plus_dial"], "4,8,6")

            # Saved, it goes where its dials are.
            path, coarse = os.path.join(folder, "session"), server.json("sessions", "create")["session"]
            self.complete(server, self.IDS, "--session=" + coarse, "--rat_plus_dial=16,5,6")
            with RealServer(self.RAT_PLUS, "--rat_plus_dial=16,5,6", "--rat_plus_unadapted") as other:
                self.assertEqual(self.complete(other, self.IDS), texts["16,5,6"])
                server.json("save", "--session=" + coarse, "--output=" + path)
                loaded = other.json("load", "--input=" + path)
                self.assertGreater(loaded["state_tokens"], 40)
                self.assertEqual(self.complete(other, [9], "--session=" + loaded["session"]["session"]),
                                 self.complete(server, [9], "--session=" + coarse))
                for session in (fine, again):
                    server.json("save", "--session=" + session, "--output=" + path)
                    self.assertIn("FAILED_PRECONDITION", other.client("load", "--input=" + path).stderr)
                back = server.json("load", "--input=" + path)["session"]
                self.assertEqual(back["rat_plus_dial"], "16,5,6")
                self.assertEqual(self.complete(server, [9], "--session=" + back["session"]),
                                 self.complete(server, [9], "--session=" + again))
                self.assertEqual(other.stop()[0], 0)
            self.assertEqual(server.stop()[0], 0)


class DemoTest(unittest.TestCase):

    def test_texts_are_the_same_alone_and_in_company(self):
        prompts = ["Once upon a time", "The sun is", "A cat", "Water", "In the year 1900", "She"]
        flags = lambda i: ["--max_tokens=40", "--seed=%d" % i, "--json"]
        with RealServer(DEMO) as server:
            alone = [server.json("complete", *flags(i), p) for i, p in enumerate(prompts)]
            clients = [server.start_client("complete", *flags(i), p)
                       for i, p in enumerate(prompts)]
            for one, client in zip(alone, clients):
                together = json.loads(client.communicate(timeout=120)[0])
                self.assertTrue(one["text"])
                self.assertEqual(together["text"], one["text"])
                self.assertEqual(together["token_ids"], one["token_ids"])
                whole = server.json("detokenize", "--token_ids="
                                    + ",".join(map(str, one["token_ids"])))["text"]
                self.assertEqual(one["text"].strip(), whole.strip())
            processes.wait_for(lambda: not server.metric("packrat_requests_running"))
            code, log = server.stop()
        self.assertEqual(code, 0)
        # One line per call, each of them JSON, and never a word of anybody's text.
        lines = [json.loads(line) for line in log]
        access = [line for line in lines if line["message"] == "access"]
        self.assertEqual([line["call"] for line in access].count("Generate"), 12)
        self.assertEqual(lines[-1]["message"], "stopped")
        for line in access:
            self.assertEqual(line["status"], "OK")
            self.assertGreater(line["total_ms"], 0)
        for prompt in prompts[:2] + prompts[4:5]:
            self.assertNotIn(prompt, "\n".join(log))

    def start_long(self, server):
        client = server.start_client("complete", "--max_tokens=4000", "--ignore_eos", "Once")
        processes.wait_for(lambda: server.metric("packrat_generated_tokens_total") > 10)
        return client

    def test_what_runs_beyond_the_grace_time_gets_unavailable(self):
        with RealServer(DEMO, "--drain_grace=0s") as server:
            client = self.start_long(server)
            code, log = server.stop()
            text, errors = client.communicate(timeout=60)
            self.assertEqual(code, 0)
            self.assertEqual(client.returncode, 1)
            self.assertIn("UNAVAILABLE: the server is shutting down", errors)
            self.assertTrue(text)
            self.assertIn('"finish":"error"', "".join(log))

    def test_a_second_signal_ends_it_at_once(self):
        with RealServer(DEMO, "--drain_grace=1h") as server:
            client = self.start_long(server)
            server.process.send_signal(signal.SIGTERM)
            processes.wait_for(lambda: not server.ready())
            # Signals close to the first one are taken for its echo.
            def gone():
                server.process.send_signal(signal.SIGINT)
                return server.process.poll() is not None
            processes.wait_for(gone)
            self.assertEqual(server.process.returncode, 1)
            server.process.communicate()
            client.communicate(timeout=60)
            self.assertNotEqual(client.returncode, 0)


if __name__ == "__main__":
    unittest.main()
