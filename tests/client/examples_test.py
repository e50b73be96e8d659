"""Every example of the Python client, run as its first lines say, against a real server."""

import ast
import glob
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import unittest

from packrat_client import Client
from tests.server import processes
from tests.server.processes import ROOT, RealServer, with_template

EXAMPLES = os.path.join(ROOT, "server/client/python/examples")
WHEEL = os.path.join(ROOT, "server/client/python/packrat_client.whl")
MODEL = "models/demo"
TEMPLATE = ("{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}[assistant]{% endif %}")


def likeliest_tokens(folder):
    """The bundled model with a chat template, as one that draws the likeliest token unless a call says otherwise."""
    with_template(folder, TEMPLATE)
    path = os.path.join(folder, "generation_config.json")
    with open(path, encoding="utf-8") as file:
        settings = json.load(file)
    os.unlink(path)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**settings, "do_sample": False}, file)
    return folder


class ExamplesTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(dir=os.environ["TEST_TMPDIR"])
        cls.addClassCleanup(folder.cleanup)
        cls.server = RealServer(likeliest_tokens(folder.name))
        cls.addClassCleanup(cls.server.stop)
        cls.client = Client(cls.server.address)
        cls.addClassCleanup(cls.client.close)

    def start(self, name, *more, server=None, stdin=""):
        """The command that its docstring gives, and `more`."""
        path = os.path.join(EXAMPLES, name + ".py")
        with open(path, encoding="utf-8") as file:
            command, = re.findall(r"^    python3 (.*)$", ast.get_docstring(ast.parse(file.read()), clean=False),
                                  re.MULTILINE)
        program, *arguments = shlex.split(command)
        self.assertEqual(program, name + ".py")
        return arguments, subprocess.run(
            [sys.executable, path, *arguments, *more, "--address=" + (server or self.server).address], input=stdin,
            env={**os.environ, "PYTHONPATH": WHEEL}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            encoding="utf-8", timeout=120, check=False)

    def said(self, *arguments, **more):
        """The words of the command, and the lines that it prints."""
        words, done = self.start(*arguments, **more)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return words, done.stdout.splitlines()

    def test_every_one_is_run_here(self):
        # Bazel puts an __init__.py there.
        names = {os.path.basename(path)[:-3] for path in glob.glob(EXAMPLES + "/[a-z]*.py")}
        self.assertEqual({name for name in names if not hasattr(self, "test_" + name)}, set())
        self.assertGreaterEqual(len(names), 7)
        with open(os.path.join(ROOT, "docs/python.md"), encoding="utf-8") as file:
            self.assertEqual(set(re.findall(r"examples/(\w+)\.py\)", file.read())), names)

    def test_complete(self):
        (prompt,), lines = self.said("complete", "--max_tokens=30")
        self.assertEqual("\n".join(lines), prompt + self.client.complete(prompt, max_tokens=30).text)

    def test_chat(self):
        (system,), lines = self.said("chat", "--max_tokens=6", stdin="One\nTwo\n")
        messages = [{"role": "system", "content": system.partition("=")[2]}]
        answers = []
        for text in ("One", "Two"):
            messages.append({"role": "user", "content": text})
            answers.append(self.client.complete(messages, max_tokens=6).text)
            messages.append({"role": "assistant", "content": answers[-1]})
        self.assertEqual("\n".join(lines), "> %s\n> %s\n> " % tuple(answers))
        with RealServer(MODEL) as plain:
            _, done = self.start("chat", server=plain, stdin="One\n")
            plain.stop()
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, r"\AThe model has no chat template.*\n\Z")

    def test_sessions(self):
        (beginning,), lines = self.said("sessions")
        first = beginning + self.client.complete(beginning, max_tokens=20).text
        stories = {"beginning": first}
        for name, animal in (("story", " The dog"), ("fork", " The cat"), ("taken back", " The bird")):
            with self.client.create_session() as session:
                session.complete(beginning, max_tokens=20)
                stories[name] = first + animal + session.complete(animal, max_tokens=20).text
        self.assertEqual([line for line in lines if not line.startswith(" ")],
                         ["%s: %r" % story for story in stories.items()])
        counts = [[int(number) for number in re.findall(r"\d+", line)] for line in lines if line.startswith(" ")]
        self.assertEqual(len(counts), 4)
        self.assertEqual(counts[0][0], 0)
        for there, new in counts[1:]:
            self.assertGreater(there, 20)
            self.assertLess(new, 5)
        self.assertEqual(self.client.list_sessions(), [])

    def test_score(self):
        (prompt, *candidates), lines = self.said("score")
        means = {}
        for candidate, choice in zip(candidates, self.client.score(prompt, candidates)):
            means[prompt + candidate] = choice.finished.score.logprob / choice.finished.score.tokens
        self.assertEqual(lines, ["%7.3f %s" % (means[text], text)
                                 for text in sorted(means, key=means.__getitem__, reverse=True)])
        self.assertGreater(len(candidates), 2)

    def test_choices(self):
        (prompt, _), lines = self.said("choices", "--choices=3")
        found = [re.fullmatch(r"([* ]) +(-[\d.]+) (.*)", line).groups() for line in lines]
        found = [(star, float(mean), ast.literal_eval(text)) for star, mean, text in found]
        self.assertEqual(len({text for _, _, text in found}), 3)
        for _, _, text in found:
            self.assertTrue(text.startswith(prompt) and len(text) > len(prompt) + 20, text)
        best, = (mean for star, mean, _ in found if star == "*")
        self.assertEqual(best, max(mean for _, mean, _ in found))

    def test_structured(self):
        _, lines = self.said("structured")
        self.assertEqual(len(lines), 1)
        self.assertRegex(lines[0], r"^.{1,12} is a (bird|cat|dog) of (1?[0-9]|20) years\.$")

    def test_asyncio_many(self):
        with RealServer(MODEL, "--max_running=2", "--max_queue=1") as server:
            (prompt, count), lines = self.said("asyncio_many", server=server)
            with Client(server.address) as client:
                expected = ["%r" % (prompt + client.complete(prompt, seed=seed, max_tokens=20).text)
                            for seed in range(int(count.partition("=")[2]))]
            self.assertEqual(sorted(lines), sorted(expected))
            self.assertGreater(server.metric("packrat_errors_total"), 0)  # A full queue, which was tried again.
            server.stop()
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as file:
            file.write(processes.run_client("key", "tester").stdout.splitlines()[1] + "\n")
            file.flush()
            with RealServer(MODEL, "--api_keys=" + file.name) as server:
                _, lines = self.said("asyncio_many", "--count=2", server=server)
                server.stop()
        self.assertEqual([line.partition(":")[0] for line in lines], 2 * ["UNAUTHENTICATED"])


if __name__ == "__main__":
    unittest.main()
