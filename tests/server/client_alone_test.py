"""The client's command line where there is no server: help, mistakes, addresses that nobody answers."""

import json
import os
import re
import shutil
import subprocess
import unittest

from tests.server import processes
from tests.server.processes import run_client as run


class WithoutServerTest(unittest.TestCase):

    def test_help_and_version(self):
        for arguments in (["help"], ["--help"], ["-h"], ["no-such-command", "--help"]):
            done = run(*arguments)
            self.assertEqual(done.returncode, 0)
            for word in ("complete", "bench", "Exit codes", "--address", "COMMAND --help"):
                self.assertIn(word, done.stdout)
            # The rest is in the help of commands.
            self.assertNotIn("--max_tokens", done.stdout)
            self.assertLess(done.stdout.count("\n"), 80)
        self.assertRegex(run("--version").stdout, r"^packrat \d+\.\d+\.\d+\n$")

    def test_each_command_has_a_help_of_its_own(self):
        commands = re.findall(r"^  packrat (\w+)", run("help").stdout, re.MULTILINE)
        self.assertGreaterEqual(len(commands), 19)
        commands.remove("help")
        pages = []
        for command in commands:
            done = run(command, "--help")
            self.assertEqual((done.returncode, done.stderr), (0, ""), command)
            self.assertRegex(done.stdout, r"\bpackrat %s\b" % command)
            self.assertEqual(run("help", command).stdout, done.stdout)
            pages.append(done.stdout)
        self.assertEqual(len(set(pages)), len(pages))
        page = run("sessions", "list", "-h").stdout
        for word in ("--keep_turns (default", "\n  packrat sessions show", "--address"):
            self.assertIn(word, page)
        self.assertNotIn("--max_tokens (", page)
        self.assertIn("usage: packrat info --model", run("info", "--model", "x", "--help").stdout)

    def test_mistakes_give_2(self):
        for arguments in ([], ["no-such-command"], ["complete", "--no_such_flag"],
                          ["complete", "--max_tokens=many", "x"], ["info", "x"],
                          ["complete", "--max_tokens=", "x"], ["complete", "--use_cache=", "x"],
                          ["sessions", "create", "--ttl="], ["complete", "--temperature=", "x"],
                          ["health", "x"], ["sessions"], ["sessions", "make"],
                          ["sessions", "create", "x"], ["sessions", "show"],
                          ["sessions", "rewind", "x"],
                          ["sessions", "rewind", "x", "--keep_turns=1", "--keep_tokens=1"],
                          ["save"], ["save", "--session=x"], ["save", "--output=x"],
                          ["save", "--session=x", "--output=/dev/null"], ["load"],
                          ["load", "--input=/no/such/file"], ["load", "--input=/dev/null"],
                          ["complete", "--session=new", "--num_choices=2", "x"],
                          ["complete", "--token_ids=1,two"], ["complete", "--token_ids=1", "text"],
                          ["bench", "--requests=0"], ["bench", "--rate=-1"],
                          ["bench", "--max_prompt_tokens=5"], ["complete", "--echo=perhaps", "x"]):
            done = run(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertTrue(done.stderr, arguments)
            self.assertEqual(done.stdout, "", arguments)

    def test_no_server_is_said_clearly(self):
        for command in (["complete", "x"], ["info"], ["tokenize", "x"], ["bench"], ["health"]):
            done = run(*command, "--address=127.0.0.1:1")
            self.assertEqual(done.returncode, 3, command)
            self.assertIn("no server answers at 127.0.0.1:1", done.stderr)
        done = run("info", "--json", "--address=127.0.0.1:1")
        self.assertEqual(done.returncode, 3)
        self.assertIn("no server answers", json.loads(done.stdout)["error"]["message"])

    def test_some_commands_need_no_server(self):
        for command, flag in (("logits", "--layers"), ("perplexity", "--file")):
            done = run(command, "--help")
            self.assertEqual(done.returncode, 0)
            self.assertIn(flag, done.stdout)
            done = run(command, "--piece=0")
            self.assertEqual(done.returncode, 2)
        for command, flag in (("quantize", "--weights"), ("convert", "--gguf"), ("convert", "nemotron_h"),
                              ("convert", "qwen3next")):
            done = run(command, "--help")
            self.assertEqual(done.returncode, 0)
            self.assertIn(flag, done.stdout)
            done = run(command, "--output=x")
            self.assertEqual(done.returncode, 2)
            self.assertIn(" is required", done.stderr)
        for paths in (("a", "b", "./b"), ("a", "./a", "b"), ("a", "b", "c/../a")):
            done = run("logits", "--model=x", *("--%s=%s" % pair for pair in zip(
                ("tokens", "output", "layers"), paths)))
            self.assertEqual(done.returncode, 2, paths)
            self.assertIn("must be different files", done.stderr)

    def test_the_program_with_the_model_in_it_may_be_missing(self):
        alone = shutil.copy(processes.CLIENT, os.environ["TEST_TMPDIR"])
        done = subprocess.run([alone, "logits", "--help"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, encoding="utf-8", check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(done.stderr, "packrat: logits is done by packrat_tools, beside this program "
                         "or in ../lib/packrat: No such file or directory\n")

    def test_an_address_that_means_nothing_gives_2(self):
        for address, fault in (
                ("", "it is empty"), ("localhost", "the port is missing"),
                ("127.0.0.1:99999", "the port is not in [1, 65535]"),
                ("localhost:0", "the port is not in [1, 65535]"),
                ("localhost:grpc", "the port is not in [1, 65535]"),
                ("::1", "an IPv6 address stands in brackets, e.g. [::1]:50051"),
                ("[]:1", "the host is missing"), ("dns:///localhost", "the port is missing"),
                ("http://localhost:50051", "it is a URL or a path"), ("a b:1", "it has a space"),
                ("unix:", "nothing follows the colon"), ("unix://", "nothing follows the colon")):
            for command in (["info"], ["complete", "x"], ["bench"]):
                done = run(*command, "--address=" + address)
                self.assertEqual((done.returncode, done.stdout), (2, ""), address)
                self.assertIn('--address is "%s": %s; HOST:PORT is meant' % (address, fault),
                              done.stderr)

    def test_addresses_that_nobody_answers_give_3(self):
        for address, named in (("[::1]:1", "[::1]:1"), (":1", "localhost:1"),
                               ("dns:///localhost:1", "dns:///localhost:1"),
                               ("ipv4:127.0.0.1:1", "ipv4:127.0.0.1:1"),
                               ("unix:/no/such/socket", "unix:/no/such/socket")):
            done = run("info", "--address=" + address)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertIn("no server answers at %s (" % named, done.stderr)
        # No name server is asked for either.
        for host in ("x.onion", "a..b"):
            done = run("info", "--address=%s:50051" % host)
            self.assertEqual(done.returncode, 3)
            self.assertRegex(done.stderr, r"the host of %s:50051 is not found \([A-Z][a-z ]*\); "
                             r"--address=HOST:PORT names it" % re.escape(host))

    def test_durations_need_a_unit_and_a_length(self):
        for flags in (["--deadline=5"], ["--deadline", "5"], ["-deadline=5"]):
            done = run("complete", *flags, "x")
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertIn('--deadline is "5"; a duration has a unit, e.g. 300ms, 5s, 1m or 1h30m',
                          done.stderr)
        for value in ("0", "-5s"):
            done = run("complete", "--deadline=" + value, "x")
            self.assertEqual(done.returncode, 2)
            self.assertIn("--deadline is %s; it must be above 0" % value, done.stderr)
        # A text is no flag.
        self.assertEqual(run("complete", "--address=127.0.0.1:1", "--", "--deadline=5").returncode, 3)

    def test_output_that_cannot_be_written_gives_1(self):
        text = os.path.join(os.environ["TEST_TMPDIR"], "text.txt")
        with open(text, "w", encoding="utf-8") as file:
            file.write("Once upon a time there was a little dog.\n")
        score = ["perplexity", "--file=" + text,
                 "--model=" + os.path.join(processes.ROOT, "models/demo")]
        done = run(*score)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("perplexity", done.stdout)
        with open("/dev/full", "w") as full:
            for command in (["help"], ["complete", "--help"], ["--version"], ["logits", "--help"],
                            ["perplexity", "--help"], score,
                            ["info", "--json", "--address=127.0.0.1:1"]):
                done = run(*command, stdout=full)
                self.assertEqual(done.returncode, 1, command)
                self.assertEqual(done.stderr, "packrat: cannot write to standard output: "
                                 "No space left on device\n")

    def test_input_that_cannot_be_read_gives_2(self):
        folder = os.open("/", os.O_RDONLY)
        try:
            for command in ("complete", "tokenize", "chat"):
                done = run(command, stdin=folder)
                self.assertEqual((done.returncode, done.stdout), (2, ""), command)
                self.assertIn("standard input cannot be read", done.stderr)
        finally:
            os.close(folder)


if __name__ == "__main__":
    unittest.main()
