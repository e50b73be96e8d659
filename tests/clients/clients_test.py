"""The clients that CI runs. Their packages are in deploy/requirements-test.txt."""

import os
import tempfile
import unittest

from tests.clients import with_curl, with_openai, with_schemathesis

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


if __name__ == "__main__":
    unittest.main()
