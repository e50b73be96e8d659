"""The clients that CI runs. Their packages are in deploy/requirements-test.txt."""

import os
import tempfile
import unittest
from unittest import mock

from tests.clients import results, with_curl, with_openai, with_schemathesis

ENVIRONMENT = os.environ.get("PACKRAT_PYTHON_ENV", "")


class ClientsTest(unittest.TestCase):

    def play(self, script):
        with open("deploy/requirements-test.txt", encoding="utf-8") as file:
            wanted = file.read().splitlines()
        for package in script.PACKAGES:
            self.assertIn(package, wanted)
        if script.PACKAGES and not os.path.exists(ENVIRONMENT + "/complete"):
            self.skipTest("needs the packages of deploy/requirements-test.txt: ./dev deps test")
        with tempfile.TemporaryDirectory() as folder:
            print(script.run(folder, ENVIRONMENT))

    def test_openai(self):
        self.play(with_openai)

    def test_curl(self):
        self.play(with_curl)

    def test_schemathesis(self):
        self.play(with_schemathesis)


class ResultsTest(unittest.TestCase):

    def test_each_row_has_the_commit_that_it_was_taken_at(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "results.tsv")
            with open(path, "w", encoding="utf-8") as file:
                file.write("# some machine\n")
            for commit, names in (("older", "abc"), ("newer", "ca")):
                with mock.patch.dict(os.environ, PACKRAT_COMMIT=commit):
                    results.write(path, [results.row(name, [name + "==1"], "fine") for name in names], "cab")
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        self.assertEqual(lines[0], "# some machine")
        rows = [dict(zip(lines[1].split("\t"), line.split("\t"))) for line in lines[2:]]
        self.assertEqual([(row["client"], row["version"], row["commit"], row["result"]) for row in rows],
                         [("c", "c==1", "newer", "well"), ("a", "a==1", "newer", "well"),
                          ("b", "b==1", "older", "well")])

    def test_what_failed_has_no_note(self):
        self.assertIn("\tof Debian\t", results.row("curl", [], None))
        self.assertTrue(results.row("curl", [], None).endswith("\tFAILED\t"))


if __name__ == "__main__":
    unittest.main()
